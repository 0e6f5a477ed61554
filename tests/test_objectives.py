"""Bounds and their gradients, against closed forms and finite differences."""

import math
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
from zoo.kl_weight import kl_groups, tempered
from zoo.model import Model, observe, rows
from zoo.models.gmm import GMM
from zoo.models.ppca import PPCA
from zoo.objectives._reductions import Power
from zoo.objectives.bounds import elbo, iwae, renyi
from zoo.objectives.em import em
from zoo.objectives.grouped import miwae
from zoo.objectives.likelihood import mle
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
    if guide.latents.bits.dim:
        pytest.skip("bits have no path: see test_sbn")
    mixed = guide.latents.global_.dim or (guide.classifier is not None and guide.latents.discrete)
    if OBJECTIVES[objective].keywords.get("alpha") == -1 and mixed:
        with pytest.raises(ValueError, match="α < 0 is an upper bound"):
            OBJECTIVES[objective](model, guide, batch)
        return

    if name == "m1m2" and objective != "elbo":  # whose q(y | z1) is given a draw
        with pytest.raises(ValueError, match="use elbo, iwae_sum"):
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
    bound = Power(alpha)(h)
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


class TwoPoints(dist.Normal):
    """Draws μ ± σ in turn: two of them have the mean and the variance of N(μ, σ²) exactly."""

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        sign = torch.tensor([1.0, -1.0]).reshape(2, 1)
        return self.loc + self.scale * sign.expand(self._extended_shape(sample_shape))


class TwoPointGuide(nn.Module):
    """q(z) = N(1.1, 0.9²)."""

    def forward(self, batch: Batch) -> None:
        with rows(batch):
            pyro.sample("z", TwoPoints(torch.tensor(1.1), torch.tensor(0.9)))


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0, 4.0])
def test_the_weighted_elbo_is_its_closed_form(beta: float) -> None:
    """E_q log p(x|z) - β KL(q || p): both are quadratic in z, so that two draws are exact."""
    kl = 0.5 * (0.9**2 + 1.1**2 - 1) - math.log(0.9)
    fit = -0.5 * math.log(2 * math.pi) - 0.5 * ((X - 1.1) ** 2 + 0.9**2)
    batch = Dataset(torch.full((3,), X)).batch()
    for weight in (beta, torch.tensor(beta)):
        loss = elbo(ModelA(), TwoPointGuide(), batch, num_particles=2, beta=weight)
        assert float(loss) == pytest.approx(-(fit - beta * kl), abs=1e-12)
    assert fit - kl == pytest.approx(-2.019299048862499, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_weighted_importance_bounds_are_those_of_weighted_terms(alpha: float) -> None:
    """Of h_β = log p(x|z) + β (log p(z) - log q(z)), by hand from the same draws."""
    batch, beta = Dataset(torch.randn(7)).batch(), 0.3
    guide = RowGuide(0.2, 1.3, 7)
    with seeded(3):
        loss = renyi(ModelA(), guide, batch, alpha=alpha, num_particles=5, beta=beta)
    with seeded(3):
        z = log_weights(ModelA(), guide, batch, 5).values["z"]
    prior = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(0.2, 1.3).log_prob(z)
    h = (1 - alpha) * (dist.Normal(z, 1.0).log_prob(batch["x"]) + beta * prior)
    bound = (h.logsumexp(0) - math.log(5)) / (1 - alpha)
    torch.testing.assert_close(loss, -bound.mean())
    if alpha == 0:
        with seeded(3):
            torch.testing.assert_close(
                iwae(ModelA(), guide, batch, num_particles=5, beta=beta), loss
            )


class Shared(Model):
    """One location for all rows."""

    def forward(self, n: int) -> Tensor:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", n, dim=-1):
            return pyro.sample("x", dist.Normal(loc, 1.0))


def test_the_weight_is_on_the_kl_of_global_latents_too() -> None:
    batch = Dataset(torch.randn(20)).batch(torch.arange(4))

    def guide(_: Batch) -> None:
        pyro.sample("loc", dist.Normal(0.4, 0.3))

    with seeded(1):
        loss = elbo(Shared(), guide, batch, beta=0.2)
    with seeded(1):
        g = log_weights(Shared(), guide, batch).values["loc"]
    kl = dist.Normal(0.4, 0.3).log_prob(g) - dist.Normal(0.0, 1.0).log_prob(g)
    fit = dist.Normal(g, 1.0).log_prob(batch["x"]).mean()
    torch.testing.assert_close(loss, 0.2 * kl.squeeze() / 20 - fit)


@pytest.mark.parametrize("beta", [0.0, 0.4, 3.0])
def test_latents_that_are_summed_out_have_the_best_q_under_the_weight(beta: float) -> None:
    """max_q Σ_y q(y) [log p(x|y) - β log q(y)/p(y)] = β log Σ_y p(y) p(x|y)^(1/β), and the value
    of any q that a guide gives."""
    batch = Dataset(torch.randn(6)).batch()
    terms = torch.stack([dist.Normal(2 * y, 1.0).log_prob(batch["x"]) for y in torch.arange(2.0)])
    prior = torch.tensor([[0.7], [0.3]]).log()
    best = beta * (prior + terms / beta).logsumexp(0) if beta else terms.max(0).values
    loss = elbo(Pair(), lambda _: None, batch, beta=beta)
    torch.testing.assert_close(loss, -best.mean(), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(elbo(Pair(), lambda _: None, batch, beta=torch.tensor(beta)), loss)
    q = torch.tensor(0.5).log()
    given = 0.5 * (terms + beta * (prior - q)).sum(0)
    marked = ScoreGuide({"enumerate": "parallel"})
    torch.testing.assert_close(elbo(Pair(), marked, batch, beta=beta), -given.mean())


def test_the_record_is_left_as_it_is_without_a_weight() -> None:
    weights = log_weights(ModelA(), RowGuide(0.2, 1.3, 4), Dataset(torch.randn(4)).batch(), 3)
    assert tempered(weights, 1.0) is weights
    torch.testing.assert_close(tempered(weights, torch.tensor(1.0)).local, weights.local)
    expected = dist.Normal(weights.values["z"], 1.0).log_prob(torch.zeros(4))
    assert weights.log_likelihood.shape == weights.local.shape == (1, 3, 4)
    assert expected.shape == (3, 4)


class Three(Model):
    """z ~ N(0, I) in three dimensions, x | z ~ N(Σ z, 1)."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z.sum(-1), 1.0))


class ThreeGuide(nn.Module):
    """Independent, or the same Gaussian as one that does not say so."""

    def __init__(self, n: int, whole: bool = False):
        super().__init__()
        self.loc = nn.Parameter(torch.randn(n, 3) * torch.tensor([0.05, 0.7, 2.0]))  # (N, 3)
        self.scale = nn.Parameter(torch.tensor([0.95, 0.6, 0.3]))  # (3,)
        self.whole = whole

    def forward(self, batch: Batch) -> None:
        loc, scale = self.loc[batch.index], self.scale
        q: Any = dist.Normal(loc, scale).to_event(1)
        if self.whole:
            q = dist.MultivariateNormal(loc, scale_tril=scale.diag())
        with rows(batch):
            pyro.sample("z", q)


def test_free_bits_are_those_of_each_dimension() -> None:
    """KL_j against its closed form, 20 rows of 20 000 draws; a group below λ pays λ and has no
    gradient."""
    batch, k, least = Dataset(torch.randn(20)).batch(), 20_000, 0.1
    guide = ThreeGuide(20)
    exact = (0.5 * (guide.scale**2 + guide.loc**2 - 1) - guide.scale.log()).mean(0)
    assert exact[0] < least < exact[1] < exact[2]
    with seeded(5):
        weights = log_weights(Three(), guide, batch, k)
    z = weights.values["z"]
    ratio = dist.Normal(guide.loc, guide.scale).log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z)
    se = ratio.var(0).mean(0).div(20 * k).sqrt()
    found = kl_groups(weights)
    assert found.shape == (3,)
    assert ((found - exact).abs() < 6 * se).all()
    with seeded(5):
        loss = elbo(Three(), guide, batch, num_particles=k, free_bits=least)
    expected = -weights.log_likelihood.mean() + least + found[1] + found[2]
    torch.testing.assert_close(loss, expected)
    closed = 0.5 * math.log(2 * math.pi) + 0.5 * (
        (batch["x"] - guide.loc.sum(-1)) ** 2 + guide.scale.square().sum()
    )
    known = closed.mean() + least + exact[1] + exact[2]
    # the fit has a variance of its own: the square of a Gaussian at each draw
    spread = weights.log_likelihood.squeeze(0).var(0).mean().div(20 * k).sqrt()
    assert (loss - known).abs() < 6 * (spread + se[1:].sum())


def test_free_bits_of_a_latent_that_does_not_factorise_are_of_the_whole() -> None:
    batch = Dataset(torch.randn(20)).batch()
    guide = ThreeGuide(20, whole=True)
    weights = log_weights(Three(), guide, batch, 50)
    groups = kl_groups(weights)
    assert groups.shape == (1,)
    torch.testing.assert_close(groups[0], (weights.log_likelihood - weights.local).mean())


@pytest.mark.parametrize("whole", [False, True])
def test_no_free_bits_are_the_elbo_and_many_leave_the_fit_alone(whole: bool) -> None:
    batch, guide = Dataset(torch.randn(9)).batch(), ThreeGuide(9, whole)
    losses = []
    for bits in ({}, {"free_bits": 0.0}, {"free_bits": 50.0}, {"free_bits": 50.0, "beta": 0.5}):
        with seeded(2):
            losses.append(elbo(Three(), guide, batch, num_particles=4, **bits))
    with seeded(2):
        fit = -log_weights(Three(), guide, batch, 4).log_likelihood.mean()
    groups = 1 if whole else 3
    assert torch.equal(losses[0], losses[1])
    torch.testing.assert_close(losses[2], fit + groups * 50.0)
    torch.testing.assert_close(losses[3], fit + 0.5 * groups * 50.0)
    slopes = torch.autograd.grad(losses[2], guide.parameters(), retain_graph=True)
    torch.testing.assert_close(slopes, torch.autograd.grad(fit, guide.parameters()))


def test_what_free_bits_cannot_do_is_said_in_words() -> None:
    batch = Dataset(torch.randn(5)).batch()
    with pytest.raises(ValueError, match=r"\['y'\] are summed out"):
        elbo(Pair(), lambda _: None, batch, free_bits=0.1)
    data = Dataset(torch.randn(5))
    point = Guide(ModelA(), data, family="delta", inference="per_datapoint")
    with pytest.raises(ValueError, match="a point mass .delta. has no KL"):
        elbo(ModelA(), point, data.batch(), free_bits=0.1)


def test_the_bound_for_incomplete_data_is_that_of_the_observed_entries() -> None:
    x = torch.randn(8, 4)
    x[torch.rand(8, 4) < 0.4] = torch.nan
    x[0] = 0.3  # a row without holes, so that every column has a value
    data = Dataset(x, missing=True)
    model = PPCA(4, 2)
    guide = Guide(model, data, "mean_field", "amortized")
    with seeded(7):
        loss = miwae(model, guide, data.batch(), num_particles=6)
    with seeded(7):
        z = log_weights(model, guide, data.batch(), 6).values["z"]
    score = dist.Normal(z @ model.weight.T + model.mean, model.log_scale.exp()).log_prob(data["x"])
    likelihood = torch.where(data.observed["x"], score, 0.0).sum(-1)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    h = likelihood + prior - guide.distribution(data.batch()).log_prob(z)
    torch.testing.assert_close(loss, -(h.logsumexp(0) - math.log(6)).mean())
    whole = Dataset(torch.randn(5, 4))
    guide = Guide(model, whole, "mean_field", "amortized")
    losses = []
    for objective in (miwae, iwae):
        with seeded(7):
            losses.append(objective(model, guide, whole.batch(), num_particles=6))
    assert torch.equal(*losses)
