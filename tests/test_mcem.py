"""Monte-Carlo EM: the law of its chains, the mean of its gradient, what it converges to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from guides import Guide
from zoo import evaluate, fit, load
from zoo.context import seeded
from zoo.data import Dataset
from zoo.diagnostics.gradient_snr import gradient_snr
from zoo.leapfrog import transition
from zoo.model import Model
from zoo.models.gmm import GMM
from zoo.models.m2 import M2
from zoo.models.ppca import PPCA
from zoo.objectives.mcem import advanced, mcem
from zoo.shares import part_of
from zoo.testing import check_captured

pytestmark = pytest.mark.usefixtures("float64")

QUICK: dict[str, Any] = {"progress": False, "log_every": 5, "checkpoint_every": 1e9}


class ModelA(Model):
    """z ~ N(0, 1), x | z ~ N(z, 1): z | x ~ N(x/2, ½)."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0))


class GammaPoisson(Model):
    """z ~ Gamma(2, 1), x | z ~ Poisson(z): z | x ~ Gamma(2 + x, 2)."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0))
            return pyro.sample("x", dist.Poisson(z))


def chain(model: Any, data: Any, step_size: float = 0.5) -> Guide:
    options = {"step_size": step_size}
    return Guide(model, data, "chain", "per_datapoint", family_options=options)


def states(guide: Guide) -> Tensor:
    """(N, P): κ = (u, log ε, t)."""
    return guide.get_parameter("source.table.weight").detach()


def pair() -> tuple[PPCA, Guide, Dataset]:
    torch.manual_seed(1)
    data = Dataset(torch.randn(12, 4))
    model = PPCA(4, 2)
    return model, chain(model, data), data


def other(inference: str) -> Guide:
    model, _, data = pair()
    return Guide(model, data, "chain", inference)


def check_law(draws: Tensor, mean: float, variance: float) -> None:
    """Independent draws: mean and variance within 5.5 errors (one failure in 10⁷ runs)."""
    centred, root = draws - draws.mean(), len(draws) ** 0.5
    assert float(draws.mean()) == pytest.approx(mean, abs=5.5 * float(draws.std()) / root)
    se = float(centred.square().std()) / root
    assert float(draws.var()) == pytest.approx(variance, abs=5.5 * se)


@pytest.mark.parametrize(
    ("make", "x", "mean", "variance"),
    [(ModelA, 1.5, 0.75, 0.5), (GammaPoisson, 3.0, 2.5, 1.25)],
    ids=["real", "positive"],
)
def test_the_law_of_the_chains_is_the_posterior(
    make: type[Model], x: float, mean: float, variance: float
) -> None:
    """10 000 independent chains of one x, 60 transitions from u = 0; then as new rows."""
    model, data = make(), Dataset(torch.full((10_000,), x))
    guide = chain(model, data)
    with seeded(2):
        for _ in range(30):
            mcem(model, guide, data.batch(), num_transitions=2, num_leapfrog=5)
    z = guide.posterior(data.batch(), 1).samples["z"][0]
    check_law(z, mean, variance)
    assert (states(guide)[:, -1] == 60).all()
    new = Dataset(torch.full((5000,), x))
    check_law(guide.infer(new, steps=30).posterior(new.batch(), 1).samples["z"][0], mean, variance)


def test_adaptation_leaves_no_trace_in_the_law() -> None:
    """2000 chains of N(¾, ½), 100 looks 10 transitions apart from the 500th on: 200 000 nearly
    independent draws see 1 % of the variance; the error is that of the 2000 chains' own means."""
    kappa = torch.tensor([0.0, math.log(0.1), 0.0]).repeat(2000, 1)
    looks = []
    with seeded(3):
        for t in range(1500):
            kappa = advanced(quarter, kappa)
            if t >= 500 and t % 10 == 0:
                looks.append(kappa[:, 0] - 0.75)
    z = torch.stack(looks)
    for each, expected in ((z.mean(0), 0.0), (z.square().mean(0), 0.5)):
        se = float(each.std()) / 2000**0.5
        assert se < 0.003 and float(each.mean()) == pytest.approx(expected, abs=5.5 * se)
    with seeded(4):
        u, step = kappa[:, :1], kappa[:, 1].exp()
        assert 0.5 < float(step.mean()) < 1.2  # leapfrog is stable below √2
        drawn = step * (0.8 + 0.4 * torch.rand_like(step))
        chances = transition(quarter, u, drawn.unsqueeze(-1), 10)[3]
    assert float(chances.mean()) == pytest.approx(0.9, abs=0.03)


def quarter(u: Tensor) -> Tensor:
    """The log density of N(¾, ½), up to a constant."""
    return -(u - 0.75).square().sum(-1)


def test_the_mean_of_the_gradient_is_that_of_the_evidence() -> None:
    """Fisher's identity on PPCA: 60 groups of 5 rows with 40 chains each, 40 transitions; within
    5.5 errors of 60 independent gradients, for every entry of θ."""
    torch.manual_seed(5)
    model, x = PPCA(3, 2), torch.randn(5, 3)
    data = Dataset(x.repeat(40 * 60, 1))
    guide = chain(model, data)
    with seeded(6):
        for _ in range(40):
            mcem(model, guide, data.batch(), num_leapfrog=5)
        found = []
        for rows in torch.arange(len(data)).split(200):
            loss = mcem(model, guide, data.batch(rows), num_leapfrog=5)
            slopes = torch.autograd.grad(loss, list(model.parameters()))
            found.append(torch.cat([g.flatten() for g in slopes]))
    exact = torch.autograd.grad(-model.log_evidence(x).mean(), list(model.parameters()))
    g, expected = torch.stack(found), torch.cat([s.flatten() for s in exact])
    se = g.std(0) / 60**0.5
    assert ((g.mean(0) - expected).abs() < 5.5 * se).all()
    assert float(se.norm()) < 0.1 * float(expected.norm())  # so that it says something


def test_a_fit_of_ppca_reaches_the_maximum_likelihood() -> None:
    """The maximum by eigenvalues (Tipping and Bishop): mcem starts 1 nat or more below it and ends
    within 0.005, where three seeds left 0.0004, 0.0007 and 0.0010; it cannot end above."""
    torch.manual_seed(7)
    scales = torch.tensor([2.0, 1.5, 0.5, 0.5])
    x = torch.randn(150, 4) * scales
    data, model = Dataset(x), PPCA(4, 2)
    values = torch.linalg.eigvalsh((x - x.mean(0)).T @ (x - x.mean(0)) / len(x)).flip(0)
    noise = values[2:].mean()
    best = -0.5 * (4 * math.log(2 * math.pi) + values[:2].log().sum() + 2 * noise.log() + 4)
    start = float(model.log_evidence(x).mean().detach())
    options = {"num_leapfrog": 4}
    fit(
        model, chain(model, data), data, "mcem", steps=600, lr=0.05, schedule="cosine",
        run="eager", objective_options=options, **QUICK,
    )  # fmt: skip
    end = float(model.log_evidence(x).mean().detach())
    assert start < float(best) - 1
    assert float(best) - 0.005 < end <= float(best) + 1e-9


def test_a_step_moves_the_rows_of_its_batch_and_is_told_as_no_bound() -> None:
    model, guide, data = pair()
    before, rows = states(guide).clone(), torch.tensor([7, 2, 3])
    loss = mcem(model, guide, data.batch(rows))
    moved = (states(guide) != before).any(1)
    assert moved.nonzero().flatten().tolist() == [2, 3, 7]
    z = states(guide)[rows, :2]
    joint = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    mean = z @ model.weight.T + model.mean
    joint = joint + dist.Normal(mean, model.log_scale.exp()).log_prob(data["x"][rows]).sum(-1)
    torch.testing.assert_close(loss, -joint.mean())
    assert guide.get_parameter("source.table.weight").grad is None
    before = states(guide).clone()
    assert gradient_snr(model, guide, data, "mcem", num_gradients=4).model is not None
    assert torch.equal(states(guide), before)  # a diagnostic leaves the chains where they are
    result = fit(model, guide, data, "mcem", steps=2, **QUICK)
    assert result.no_bound == "log p(x, z) at a draw of z"
    judged = evaluate(model, guide, data, num_particles=3)
    assert judged.elbo is None and judged.log_joint is not None and judged.exact is not None


@pytest.mark.parametrize("options", [{}, {"batch_size": 5}, {"batch_size": 4, "accumulate": 2}])
def test_the_captured_step_is_the_eager_one(options: dict[str, Any]) -> None:
    """Weights, chains and losses of 12 steps, on the same random numbers."""
    model, guide, data = pair()
    how: dict[str, Any] = {"steps": 12, "lr": 0.01, "ema": 0.9, **QUICK, **options}
    apart = check_captured(model, guide, data, "mcem", run="traced", **how)
    assert apart < 1e-9


def test_a_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    how: dict[str, Any] = {"batch_size": 5, "seed": 3, **QUICK}
    model, guide, data = pair()
    fit(model, guide, data, "mcem", steps=14, **how)
    parts = pair()
    fit(*parts, "mcem", steps=6, out=tmp_path, **how)
    fit(*parts, "mcem", steps=14, out=tmp_path, resume=True, **how)
    for one, two in ((model, parts[0]), (guide, parts[1])):
        for name, value in one.state_dict().items():
            assert torch.equal(value, two.state_dict()[name]), name
    run = load(tmp_path)
    assert torch.equal(states(run.guide), states(guide))
    assert not run.guide.get_parameter("source.table.weight").requires_grad


def test_discrete_latents_are_summed_out() -> None:
    class Both(Model):
        """y ~ Bernoulli(½), z | y ~ N(2y - 1, ½²), x | z ~ N(z, 1): a mixture in z | x."""

        def forward(self, n: int) -> Tensor:
            with pyro.plate("data", n, dim=-1):
                y = pyro.sample("y", dist.Categorical(torch.tensor([0.5, 0.5])))
                z = pyro.sample("z", dist.Normal(2.0 * y - 1.0, 0.5))
                return pyro.sample("x", dist.Normal(z, 1.0))

    data = Dataset(torch.full((5000,), 0.4))
    guide = chain(Both(), data)
    with seeded(8):
        for _ in range(60):
            mcem(Both(), guide, data.batch(), num_leapfrog=5)
    grid = torch.linspace(-6, 6, 20_001)
    parts = [dist.Normal(m, 0.5).log_prob(grid).exp() for m in (-1.0, 1.0)]
    density = sum(parts) * dist.Normal(grid, 1.0).log_prob(torch.tensor(0.4)).exp()
    density = density / density.sum()
    mean = float((density * grid).sum())
    check_law(states(guide)[:, 0], mean, float((density * (grid - mean).square()).sum()))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mcem(*pair()[:2], pair()[2].batch(), num_leapfrog=0), "count from 1 and"),
        (lambda: mcem(*pair()[:2], pair()[2].batch(), acceptance=1.0), "is a probability"),
        (lambda: other("amortized"), "use the inference per_datapoint"),
        (lambda: other("semi_amortized"), "use the inference per_datapoint"),
        (lambda: chain(*pair()[::2], step_size=0.0), "step_size is above 0"),
        (lambda: chain(*M2.example()), "or the estimator collapse"),
    ],
)
def test_what_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_other_guides_and_shared_latents_are_refused_by_name() -> None:
    model, guide, data = pair()
    for wrong in (Guide(model, data), Guide(model, data, "delta", "per_datapoint"), None):
        with pytest.raises(ValueError, match="use the family chain with the inference"):
            mcem(model, wrong, data.batch())
    mixture, flowers = GMM.example()
    with pytest.raises(ValueError, match="use the family chain"):  # nothing for a chain to move
        mcem(mixture, Guide(mixture, flowers, "chain", "per_datapoint"), flowers.batch())
    with pytest.raises(ValueError, match="live in one process"):
        mcem(model, guide, part_of(data.batch(), 0, 2)[0])

    def shared(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"global latents \['loc'\] would tie"):
        Guide(shared, torch.randn(9), "chain", "per_datapoint")
