"""Checks, colours and the verdict; intervals of the worst of many units and of chosen rows."""

import math
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import zoo
from guides import Guide
from zoo.data import Dataset
from zoo.diagnostics.card import Band, Check, holm, judged, measured, unchecked, verdict
from zoo.diagnostics.card import tested as of_test
from zoo.diagnostics.data_pit import PIT
from zoo.diagnostics.parts.case import Case, Settings, worst_unit
from zoo.diagnostics.parts.search import _annealed
from zoo.diagnostics.parts.weights import _share
from zoo.diagnostics.psis import psis
from zoo.diagnostics.read_draws import thinned
from zoo.diagnostics.report import diagnose
from zoo.estimate import Estimate
from zoo.model import rows
from zoo.models.ppca import PPCA

BAND = Band(0.1, 1.0)


def one(value: float, se: float, band: Band = BAND) -> str:
    return judged([measured("r", "n", value, se, "t", "a", band=band)])[0].status


@pytest.mark.parametrize(
    ("value", "se", "status"),
    [
        (0.05, 0.01, "green"),
        (0.09, 0.01, "undecided"),
        (0.5, 0.1, "amber"),
        (0.12, 0.1, "undecided"),
        (1.0, 0.1, "amber"),
        (1.5, 0.1, "red"),
        (0.1, 0.0, "green"),
        (2.0, 0.0, "red"),
        (math.inf, 0.0, "red"),
        (math.nan, 0.1, "undecided"),
    ],
)
def test_colours(value: float, se: float, status: str) -> None:
    assert one(value, se) == status


def test_colours_where_small_is_bad() -> None:
    band = Band(0.5, 0.1, falling=True)
    assert [one(v, 0.01, band) for v in (0.9, 0.5, 0.3, 0.05)] == [
        "green",
        "undecided",
        "amber",
        "red",
    ]


def test_holm_is_the_step_down_procedure() -> None:
    """Against the definition: reject the smallest while p_(i) <= alpha / (m - i + 1)."""
    p = np.random.RandomState(0).uniform(0, 0.1, (200, 7))
    for row in p:
        adjusted, alive = holm(row.tolist()), True
        for i, place in enumerate(np.argsort(row)):
            alive = alive and row[place] <= 0.05 / (len(row) - i)
            assert (adjusted[place] <= 0.05) == alive


def test_one_false_alarm_in_twenty_cards() -> None:
    """12 true hypotheses: a card raises an alarm with a probability of 5 % at most.

    4000 cards; more than 6.6 % are 5 standard errors above.
    """
    z = np.random.RandomState(1).randn(4000, 12)
    found = [
        any(
            c.status in ("amber", "red")
            for c in judged(
                [measured("r", "n", 0.1 + 0.05 * v, 0.05, "", "", band=BAND) for v in k]
            )
        )
        for k in z
    ]
    assert np.mean(found) < 0.066


def test_an_effect_within_the_green_is_no_alarm() -> None:
    small = of_test("r", "SBC", 0.02, (0.01, 0.03), 1e-9, "t", "a")
    assert judged([small])[0].status == "green"


def test_verdicts() -> None:
    red, amber = (measured("r", n, v, 0.01, "", "", band=BAND) for n, v in (("a", 2), ("b", 0.5)))
    model = measured("r", "m", 5.0, 0.1, "", "", about="model", band=BAND)
    found = verdict(judged([red, amber, model, unchecked("r", "c", "why")]))
    assert found.posterior == "failure found: a, b"
    assert found.model == "the model does not fit: m" and found.tests == 3
    assert verdict(judged([amber])).posterior == "weakness found: b"
    assert verdict(judged([unchecked("r", "c", "why")])).posterior == "not checked"


def test_the_worst_unit_is_the_one_that_raises_the_alarm() -> None:
    worst = worst_unit(torch.tensor([0.12, 0.11]), torch.tensor([0.2, 0.001]), 0.1)
    assert worst.place == 1 and worst.p is not None and worst.p < 1e-9
    wide = worst_unit(torch.tensor([0.05, 0.04]), torch.tensor([0.001, 0.2]), 0.1)
    assert wide.interval[1] > 0.4  # which the second may well be
    nothing = worst_unit(torch.tensor([math.nan]), torch.tensor([1.0]), 0.1)
    assert nothing.p is None


def test_bonferroni_of_the_worst_unit() -> None:
    """20 units at the edge: the p of the worst is below 5 % in 5 % of cases at most (2000)."""
    torch.manual_seed(0)
    values = 0.1 + 0.01 * torch.randn(2000, 20, dtype=torch.float64)
    found = [worst_unit(v, torch.full((20,), 0.01), 0.1).p for v in values]
    assert np.mean([p is not None and p < 0.05 for p in found]) < 0.05 + 5 * 0.0049


def case_of(total: int, count: int) -> Case:
    torch.manual_seed(0)
    model = PPCA(3, 1)
    data = Dataset(torch.randn(total, 3))
    return Case.of(model, Guide(model, data), data, Settings(num_rows=count))


def test_intervals_of_chosen_rows_cover_all_rows() -> None:
    """The mean and the root mean square of 60 of 300 skewed numbers: 95 %, 400 choices.

    The binomial standard error is 1.1 %; skewness and the delta method take a few more.
    """
    case = case_of(300, 60)
    numbers = torch.distributions.Exponential(1.0).sample((300,)).double()
    hits = np.zeros(2)
    for seed in range(400):
        torch.manual_seed(seed)
        some = numbers[torch.randperm(300)[:60]]
        estimate = Estimate(some, torch.zeros(60))
        hits[0] += abs(estimate.mean - numbers.mean()) < 1.96 * case.se(estimate)
        rms = some.square().mean().sqrt()
        se = case.rms_se(some[:, None], rms[None], torch.zeros(1))
        hits[1] += abs(rms - numbers.square().mean().sqrt()) < 1.96 * se[0]
    assert (hits / 400 > 0.87).all()


def test_a_handful_of_rows_does_not_stand_for_many() -> None:
    with pytest.raises(ValueError, match="from 10"):
        case_of(300, 3)
    assert len(case_of(5, 500).few) == 5


def test_more_draws_than_there_is_room_for() -> None:
    model, data = PPCA.example()
    with pytest.raises(ValueError, match="no room"):
        diagnose(model, Guide(model, data), data, num_draws=10_000_000)


def test_the_share_of_high_k() -> None:
    """Rows at 0.69 with noise of 0.12 are no alarm; rows at 0.9 are one."""
    torch.manual_seed(0)
    found = psis(torch.randn(4000, 300, dtype=torch.float64))

    def seen(k: float) -> Check:
        noisy = k + 0.12 * torch.randn(300, dtype=torch.float64)
        fields = {**vars(found), "k": noisy, "se": torch.full((300,), 0.12)}
        return judged([_share(SimpleNamespace(**fields))])[0]  # type: ignore[arg-type]

    assert seen(0.6).status != "red" and seen(0.69).status in ("undecided", "green")
    assert seen(0.9).status == "red" and seen(0.9).low > 0.5


def test_annealing_below_the_elbo_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of(60, 60)
    low = Estimate(torch.full((50,), -5.0, dtype=torch.float64), torch.full((50,), 0.1))
    stub = SimpleNamespace(forward=low)
    monkeypatch.setattr("zoo.diagnostics.parts.search.annealed", lambda *args, **kwargs: stub)
    elbo = Estimate(torch.zeros(60, dtype=torch.float64), torch.full((60,), 0.01))
    case.results["bounds"] = SimpleNamespace(elbo=elbo)
    case.results["sandwich"] = SimpleNamespace(width=SimpleNamespace(mean=30.0))
    (check,) = _annealed(case)
    assert check.status == "not checked" and "no evidence" in check.why


def test_entries_that_no_row_has_do_not_silence_the_others() -> None:
    distance = torch.tensor([0.8, math.nan], dtype=torch.float64)
    band = torch.tensor([0.1, math.inf], dtype=torch.float64)
    p = torch.tensor([1e-30, math.nan], dtype=torch.float64)
    found = PIT(torch.rand(5, 2), ("a", "b"), distance, band, p, 200)
    assert found.p_adjusted == pytest.approx(1e-30) and found.worst == "a"
    assert found.largest[0] == 0.8 and found.largest[1] > 0.6


def test_chains_are_thinned_to_independent_draws() -> None:
    """AR(1) with ρ = 0.8 has an effective size of about a ninth."""
    rng = np.random.RandomState(0)
    z = np.zeros((2, 4000))
    for t in range(1, 4000):
        z[:, t] = 0.8 * z[:, t - 1] + 0.6 * rng.randn(2)
    kept = thinned({"z": z, "y": rng.randn(2, 4000, 3)})
    assert kept["z"].shape[1:] == () and kept["y"].shape[1:] == (3,)
    assert 500 < len(kept["z"]) < 1200 and len(kept["z"]) == len(kept["y"])


class Noisy(torch.nn.Module):
    """An encoder with running statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(
            torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5)
        )
        self.head = torch.nn.Linear(8, 1)

    def forward(self, batch: zoo.Batch) -> None:
        loc = self.head(self.body(batch["x"]))
        with rows(batch):
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


def test_buffers_and_modes_of_the_guide_stay() -> None:
    torch.manual_seed(0)
    model, guide = PPCA(3, 1), Noisy().train()
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    diagnose(model, guide, torch.randn(30, 3), num_draws=100)
    assert all(torch.equal(value, guide.state_dict()[name]) for name, value in before.items())
    assert all(module.training for module in guide.modules())


def test_p_of_a_normal_estimate() -> None:
    check = measured("r", "n", 0.3, 0.1, "t", "a", band=BAND)
    assert check.p == pytest.approx(stats.norm.sf(2.0)) and check.low == pytest.approx(
        0.104, abs=1e-3
    )
