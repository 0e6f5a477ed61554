"""Bounds and their gradients, against closed forms and finite differences."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn

from guides import Guide
from zoo.context import seeded
from zoo.data import Batch, Dataset
from zoo.evaluation import evaluate
from zoo.model import Model, observe, rows
from zoo.models.gmm import GMM
from zoo.models.ppca import PPCA
from zoo.objectives.bounds import elbo, iwae, mle, renyi, renyi_mean
from zoo.objectives.em import em
from zoo.registry import names, resolve
from zoo.weights import log_weights

pytestmark = pytest.mark.usefixtures("float64")

OBJECTIVES = {
    "elbo": partial(elbo, num_particles=2),
    "iwae": partial(iwae, num_particles=3),
    "renyi": partial(renyi, num_particles=3, alpha=0.5),
    "renyi, upper": partial(renyi, num_particles=3, alpha=-1.0),
}
X = 1.5


class ModelA(Model):
    """z ~ N(0, 1), x | z ~ N(z, 1)."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0))


class RowGuide(nn.Module):
    """q(z_n) = N(μ_n, σ_n²), one pair a row: the rows' gradients are independent replicates."""

    def __init__(self, loc: float, scale: float, n: int):
        super().__init__()
        self.loc = nn.Parameter(torch.full((n,), loc))  # (N,)
        self.scale = nn.Parameter(torch.full((n,), scale))  # (N,)

    def forward(self, batch: Batch) -> None:
        with rows(batch):
            pyro.sample("z", dist.Normal(self.loc[batch.index], self.scale[batch.index]))


def check_moments(draws: Tensor, mean: float, variance: float) -> None:
    """Mean and variance within 5.5 standard errors (one failure in 10⁷ runs)."""
    n = len(draws)
    centred = draws - draws.mean()
    se = float(draws.std()) / n**0.5
    assert float(draws.mean()) == pytest.approx(mean, abs=5.5 * se)
    se = float(centred.square().std()) / n**0.5
    assert float(draws.var()) == pytest.approx(variance, abs=5.5 * se)


@pytest.mark.parametrize(("loc", "scale"), [(1.1, 0.9), (0.75, 0.5**0.5), (-0.4, 1.7)])
def test_moments_of_the_path_wise_gradient(loc: float, scale: float) -> None:
    """400 000 single-sample gradients of the ELBO: means x - 2μ and 1/σ - 2σ, variances 4σ² and
    (x - 2μ)² + 8σ²."""
    n = 400_000
    guide = RowGuide(loc, scale, n)
    with seeded(2):
        elbo(ModelA(), guide, Dataset(torch.full((n,), X)).batch()).backward()
    assert guide.loc.grad is not None and guide.scale.grad is not None
    check_moments(-n * guide.loc.grad, X - 2 * loc, 4 * scale**2)
    check_moments(-n * guide.scale.grad, 1 / scale - 2 * scale, (X - 2 * loc) ** 2 + 8 * scale**2)


def moved(module: nn.Module, direction: list[Tensor], step: float) -> None:
    with torch.no_grad():
        for parameter, slope in zip(module.parameters(), direction, strict=True):
            parameter.add_(step * slope)


def check_gradient(loss: Callable[[], Tensor], module: nn.Module) -> None:
    """The gradient along a random direction is the central difference, random numbers held."""
    module.zero_grad()
    loss().backward()
    direction = [torch.randn_like(p) for p in module.parameters()]
    slope = sum(
        float((p.grad.to_dense() * d).sum())
        for p, d in zip(module.parameters(), direction, strict=True)
        if p.grad is not None
    )
    step = 1e-5
    with torch.no_grad():
        moved(module, direction, step)
        above = float(loss())
        moved(module, direction, -2 * step)
        below = float(loss())
        moved(module, direction, step)
    assert slope == pytest.approx((above - below) / (2 * step), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", names("models"))
def test_gradients_are_finite_differences(name: str, objective: str) -> None:
    with seeded(4):
        model, data = resolve("models", name).example()
        model, data = model.double(), data.subset(range(6)).to(dtype=torch.float64)
        guide = Guide(model, data)
    pair, batch = nn.ModuleList([model, guide]), data.batch(torch.tensor([1, 4, 5]))
    if OBJECTIVES[objective].keywords.get("alpha") == -1 and guide.latents.global_.dim:
        with pytest.raises(ValueError, match="α < 0 is an upper bound"):
            OBJECTIVES[objective](model, guide, batch)
        return

    def loss() -> Tensor:
        with seeded(9):
            return OBJECTIVES[objective](model, guide, batch)

    check_gradient(loss, pair)


@pytest.mark.parametrize("objective", ["elbo", "iwae", "renyi", "renyi, upper"])
def test_every_bound_of_the_exact_posterior_is_the_evidence(objective: str) -> None:
    """Value and gradient, whatever the draws."""
    model, data = PPCA.example()
    model, batch = model.double(), data.to(dtype=torch.float64).batch()
    guide = Guide(model, data.to(dtype=torch.float64), family="exact")
    expected = mle(model, None, batch)
    torch.testing.assert_close(expected, -model.log_evidence(batch["x"]).mean())
    loss = OBJECTIVES[objective](model, guide, batch)
    torch.testing.assert_close(loss, expected)
    slopes = [torch.autograd.grad(each, list(model.parameters())) for each in (loss, expected)]
    torch.testing.assert_close(*slopes)


def test_bounds_are_ordered() -> None:
    """ELBO < IWAE₂ < IWAE₁₀ < log p(x), each by more than 5 se over 20 000 rows of the same x;
    Rényi's falls in α on the same draws."""
    n = 20_000
    batch = Dataset(torch.full((n,), X)).batch()
    guide = RowGuide(0.2, 1.6, n)
    evidence = dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(X))
    with torch.no_grad(), seeded(6):
        h = log_weights(ModelA(), guide, batch, 10).log_weight
    each = [h.mean(0), torch.stack([h[k : k + 2] for k in range(0, 10, 2)]), h]
    each = [each[0], (each[1].logsumexp(1) - torch.tensor(2.0).log()).mean(0)]
    each += [h.logsumexp(0) - torch.tensor(10.0).log(), evidence.expand(n)]
    for lower, upper in zip(each, each[1:], strict=False):
        gap = upper - lower
        assert gap.mean() > 5 * gap.std() / n**0.5
    with torch.no_grad():
        losses = []
        for alpha in (-1.0, 0.0, 0.5, 0.999, 1.0, 1.001, 3.0):
            with seeded(6):
                losses.append(float(renyi(ModelA(), guide, batch, alpha=alpha, num_particles=10)))
    assert losses == sorted(losses)
    assert losses[1] == pytest.approx(-float(each[2].mean()))
    assert losses[4] == pytest.approx(-float(each[0].mean()))
    assert losses[3] == pytest.approx(losses[4], abs=2e-2)


@pytest.mark.parametrize("alpha", [1 - 1e-4, 1 - 1e-6, 1 + 1e-6])
def test_renyi_near_one_is_nearly_the_elbo_in_float32(alpha: float) -> None:
    h = torch.randn(1, 50, 20, dtype=torch.float32) - 100
    bound = renyi_mean(alpha)(h)
    assert bound.dtype == torch.float32
    torch.testing.assert_close(bound, h.mean(-2), atol=5e-4, rtol=0.0)


def test_losses_are_per_datapoint() -> None:
    """Rows that are repeated, and another size of the data set, leave the loss as it is."""
    x = torch.randn(6)
    guide = RowGuide(0.3, 0.8, 12)
    z = torch.randn(12)

    class Fixed(nn.Module):
        """Draws that depend on the row alone."""

        def forward(self, batch: Batch) -> None:
            here = z[batch.index % 6]
            with rows(batch):
                pyro.sample("z", dist.Delta(here, guide.loc[0] * here))

    once, twice = Dataset(x).batch(), Dataset(torch.cat([x, x])).batch()
    parts = [elbo(ModelA(), Fixed(), part) for part in Dataset(x).batches(2)]
    for objective in (elbo, partial(iwae, num_particles=1)):
        loss = objective(ModelA(), Fixed(), once)
        torch.testing.assert_close(objective(ModelA(), Fixed(), twice), loss)
        torch.testing.assert_close(torch.stack(parts).mean(), loss)


def test_elbo_of_a_point_mass_is_the_log_joint() -> None:
    data = Dataset(torch.randn(7))
    guide = Guide(ModelA(), data, family="delta", inference="per_datapoint")
    assert not guide.has_density
    z = guide.posterior(data.batch(), 1).samples["z"][0]
    joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(data["x"])
    torch.testing.assert_close(elbo(ModelA(), guide, data.batch()), -joint.mean())
    for objective in (iwae, renyi):
        with pytest.raises(ValueError, match="point mass .delta. has no density.* use elbo"):
            objective(ModelA(), guide, data.batch())


class Observed(Model):
    """Nothing hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.3))  # ()

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            return pyro.sample("x", dist.Normal(self.loc, 1.0))


class Pair(Model):
    """A discrete latent and no closed form."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Bernoulli(0.3))
            return pyro.sample("x", dist.Normal(2 * y, 1.0))


def test_maximum_likelihood_without_latents_and_with_discrete_ones() -> None:
    data = Dataset(torch.randn(8))
    batch, x = data.batch(torch.tensor([0, 3, 5])), data["x"][[0, 3, 5]]
    expected = dist.Normal(torch.tensor(0.3), 1.0).log_prob(x).mean()
    torch.testing.assert_close(-mle(Observed(), None, batch), expected)
    torch.testing.assert_close(-elbo(Observed(), Guide(Observed(), data), batch), expected)
    terms = [dist.Normal(2 * y, 1.0).log_prob(x) for y in torch.arange(2.0)]
    expected = (terms[0].exp() * 0.7 + terms[1].exp() * 0.3).log().mean()
    torch.testing.assert_close(-mle(Pair(), None, batch), expected)
    gmm, flowers = GMM.example()
    gmm, flowers = gmm.double(), flowers.to(dtype=torch.float64)
    expected = gmm.log_evidence(flowers["x"]).mean()
    for loss in (mle(gmm, None, flowers.batch()), elbo(gmm, Guide(gmm, flowers), flowers.batch())):
        torch.testing.assert_close(-loss, expected)


@pytest.mark.parametrize("name", ["ppca", "bayesian_ppca", "poisson_ppca"])
def test_the_pair_that_stock_pyro_is_given_is_the_same_bound(name: str) -> None:
    """Trace_ELBO on (observe(model), guide), on a minibatch, with the same draws."""
    with seeded(8):
        model, data = resolve("models", name).example()
        model, data = model.double(), data.to(dtype=torch.float64)
        guide = Guide(model, data, "full_rank", "per_datapoint")
    batch = data.batch(torch.tensor([3, 1, 4, 15]))
    losses, slopes = [], []
    for stock in (True, False):
        with seeded(9):
            if stock:
                loss = Trace_ELBO().differentiable_loss(observe(model), guide, batch) / len(data)
            else:
                loss = elbo(model, guide, batch)
        pair = [*model.parameters(), *guide.parameters()]
        slopes.append([g.to_dense() for g in torch.autograd.grad(loss, pair)])
        losses.append(loss)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*slopes)


class ScoreGuide(nn.Module):
    """A discrete draw with parameters, which no path-wise gradient reaches."""

    def __init__(self, infer: dict[str, str] | None):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(()))  # ()
        self.infer = infer

    def forward(self, batch: Batch) -> None:
        with rows(batch):
            q = dist.Bernoulli(logits=self.logits.expand(len(batch)))
            pyro.sample("y", q, infer=self.infer)


@pytest.mark.parametrize("objective", [elbo, iwae, renyi])
def test_draws_without_a_path_are_refused(objective: Any) -> None:
    batch = Dataset(torch.randn(4)).batch()
    with pytest.raises(ValueError, match=r"draws \['y'\] without a path-wise gradient"):
        objective(Pair(), ScoreGuide(None), batch)
    with torch.no_grad():  # to evaluate, any draw will do
        assert objective(Pair(), ScoreGuide(None), batch).isfinite()
    marked = ScoreGuide({"enumerate": "parallel"})
    objective(Pair(), marked, batch).backward()
    assert marked.logits.grad is not None and marked.logits.grad != 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, g, b: mle(ModelA(), g, b), r"can all be summed out.*\['z'\].*use elbo"),
        (lambda m, g, b: renyi(m, g, b, alpha=float("inf")), "α must be finite"),
        (lambda m, g, b: elbo(m, g, b, num_particles=0), "count draws from 1"),
        (lambda m, g, b: elbo(m, g, b, num_outer=2), "num_outer counts draws of global"),
    ],
)
def test_what_an_objective_cannot_do_is_said_in_words(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(ModelA(), RowGuide(0.0, 1.0, 3), Dataset(torch.randn(3)).batch())


def test_data_of_another_type_are_read_in_the_model_s() -> None:
    """Rows in float64, models in float32."""
    x = torch.randn(30, 3)
    for model in (PPCA(3, 1).float(), GMM(3, 2).float()):
        known = model.log_evidence(x.float()).mean()
        family = "exact" if isinstance(model, PPCA) else "mean_field"
        guide = Guide(model, x, family)
        found = evaluate(model, guide, x, num_particles=5)
        assert found.exact.rows.dtype == torch.float32
        assert found.elbo.mean == pytest.approx(known.item(), rel=1e-5)
        assert -mle(model, None, Dataset(x).batch()) == known
    assert -em(model, None, Dataset(x).batch()) == known
    assert model.log_evidence(x.float()).mean() > known
