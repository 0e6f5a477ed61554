"""The report card as a whole: every pair of the zoo gets one, and it says what is so."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from experiments.show.card_files import strict
from guides import Guide
from zoo import registry
from zoo.data import Dataset
from zoo.diagnostics.report import Report, diagnose
from zoo.model import rows
from zoo.models.ppca import PPCA

SMALL = {"num_draws": 200, "num_global_draws": 200, "num_simulations": 20, "search_steps": 5}
SMALL |= {"infer_steps": 5, "num_rows": 10}
MODELS = sorted(registry.names("models"))
FAMILIES = sorted(registry.names("families"))
STATES = [word for word in FAMILIES if registry.resolve("families", word).is_state]  # of chains


def card(model: Any, guide: Any, data: Any, **options: Any) -> Report:
    found = diagnose(model, guide, data, **{**SMALL, **options})
    json.dumps(strict(found.as_dict()), allow_nan=False)
    assert found.verdict.posterior
    assert all(check.why for check in found.not_checked)
    return found


@pytest.mark.parametrize("word", MODELS)
def test_every_model_gets_a_card(word: str) -> None:
    torch.manual_seed(0)
    model, data = registry.resolve("models", word).example()
    found = card(model, Guide(model, data), data)
    assert "weights" in found.rows or "weights of globals" in found.rows
    ran = {check.name for check in found.checks if check.status != "not checked"}
    assert len(ran) > 3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("inference", ["per_datapoint", "amortized", "semi_amortized"])
def test_every_family_and_inference_gets_a_card(family: str, inference: str) -> None:
    model, data = PPCA.example()
    torch.manual_seed(0)
    if family in STATES and inference != "per_datapoint":
        with pytest.raises(ValueError, match="use the inference per_datapoint"):
            Guide(model, data, family, inference)
        return
    found = card(model, Guide(model, data, family, inference), data, simulate=True)
    if family == "delta" or family in STATES:
        assert "point mass" in found.verdict.posterior
        return
    assert found["bounds"].status == "told"
    assert found["SBC"].status != "not checked", found["SBC"].why


def test_a_plain_pair_gets_a_card() -> None:
    """z ~ N(0, 1), x | z ~ N(z, 1): the guide is the exact posterior, and then one too narrow."""

    def model(x: torch.Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide_of(scale: float) -> Any:
        def guide(batch: Any) -> None:
            with rows(batch, "rows"):
                pyro.sample("z", dist.Normal(batch["x"] / 2, scale * math.sqrt(0.5)))

        return guide

    torch.manual_seed(0)
    data = {"x": math.sqrt(2) * torch.randn(100)}
    options = {"simulate": True, "num_rows": None, "num_draws": 1000, "num_simulations": 1000}
    exact = card(model, guide_of(1.0), data, **options)
    assert exact.verdict.posterior.startswith("no failure found")
    narrow = card(model, guide_of(0.4), data, **options)
    assert narrow.verdict.posterior.startswith("failure found")
    assert narrow["coverage"].status == "red" and narrow["Jeffreys"].status == "red"
    assert narrow["gaps"].status == "not checked" and "plain function" in narrow["gaps"].why


def test_a_point_mass_is_told_so() -> None:
    model, data = PPCA.example()
    found = card(model, Guide(model, data, "delta", "per_datapoint"), data)
    assert found.verdict.posterior.startswith("failure found: point mass")


def test_global_latents_and_their_chains() -> None:
    model, data = registry.resolve("models", "bayesian_gmm").example()
    torch.manual_seed(0)
    guide = Guide(model, data)
    result = zoo.fit(model, guide, data, steps=30, lr=0.05, progress=False)
    found = card(model, guide, data, run=result)
    assert found["k̂ of globals"].status != "not checked"
    assert found["leave one out"].status == "told" and "PSIS-LOO" in found["leave one out"].text
    assert "optimisation" in found.rows


def test_the_caller_finds_everything_as_it_was() -> None:
    model, data = PPCA.example()
    guide = Guide(model, data, "full_rank", "per_datapoint")
    before = {k: v.clone() for k, v in [*model.state_dict().items(), *guide.state_dict().items()]}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = card(model, guide, data, simulate=True)
    assert torch.equal(state, torch.get_rng_state())
    after = dict([*model.state_dict().items(), *guide.state_dict().items()])
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(p.requires_grad for p in [*model.parameters(), *guide.parameters()])
    assert not list(pyro.get_param_store().keys())
    again = card(model, guide, data, simulate=True)
    assert [c.value for c in first.checks] == [c.value for c in again.checks]


def test_few_rows_of_a_table_are_rows_of_its_data() -> None:
    """The gap of some rows is that of the same rows when all are looked at, within noise."""
    model, data = PPCA.example()
    torch.manual_seed(1)
    guide = Guide(model, data, "mean_field", "per_datapoint")
    zoo.fit(model, guide, data, steps=50, lr=0.05, freeze="model", progress=False)
    guide.source.table.weight.data += torch.randn_like(guide.source.table.weight)  # rows differ
    few = card(model, guide, data, num_draws=4000, num_rows=10)
    whole = card(model, guide, data, num_draws=4000, num_rows=None)
    case_rows = few.about["num_rows"], whole.about["num_rows"]
    assert case_rows == (10, len(data))
    index = torch.from_numpy(np.random.RandomState(0).permutation(len(data))[:10])
    mine, its = few.results["gap"], whole.results["gap"]
    at = index.sort().values
    error = torch.hypot(mine.error, its.error[at])
    assert ((mine.rows - its.rows[at]).abs() < 6 * error).all()


def test_reference_draws_from_a_file(tmp_path: Path) -> None:
    """mu ~ N(0, 1), x_n ~ N(mu, 1): draws of the exact posterior, and a q half as wide."""

    def model(x: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    x = torch.tensor([0.3, 1.1, 0.4, -0.2, 0.9])
    mean, sd = x.sum() / 6, math.sqrt(1 / 6)
    draws = mean + sd * torch.randn(4000, generator=torch.Generator().manual_seed(0))
    (tmp_path / "draws.json").write_text(json.dumps([{"mu": draws.tolist()}]))

    def guide(batch: Any) -> None:
        pyro.sample("mu", dist.Normal(mean, sd / 2))

    found = card(model, guide, {"x": x}, reference=str(tmp_path / "draws.json"))
    assert found["sd ratio"].status == "red"
    assert found["sd ratio"].value == pytest.approx(math.log(2), abs=0.1)
    assert found["bias"].value < 0.15
    assert found["classifier"].status in ("amber", "red")


def test_interruption_keeps_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = PPCA.example()

    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.diagnostics.report.of_latents", stop)
    found = card(model, Guide(model, data), data)
    assert found["latents"].why == "interrupted" and found["model"].why == "interrupted"
    assert found["bounds"].text


def test_no_latents_is_an_error() -> None:
    class Still(zoo.Model):
        def forward(self, n: int) -> Any:
            with pyro.plate("data", n, dim=-1):
                return pyro.sample("x", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="no latents"):
        diagnose(Still(), lambda batch: None, Dataset(torch.randn(5)))
