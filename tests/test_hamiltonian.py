"""The Hamiltonian posterior: its weight is one, and the naive one is not."""

import math
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from guides import Guide
from zoo.data import Dataset
from zoo.evaluation import evaluate
from zoo.fitting import fit
from zoo.handlers import Record
from zoo.leapfrog import leapfrog, metropolis, target_of
from zoo.model import Model
from zoo.objectives.bounds import elbo
from zoo.objectives.mcmc import mcmc
from zoo.testing import check_guide
from zoo.weights import log_weights

LOG_EVIDENCE = -1.8280121234846454
BAD = (1.1, 0.9)  # mean and standard deviation of q0; the posterior is N(0.75, 1/2)
POINT = Dataset(torch.tensor([[1.5]]))


class Line(Model):
    """z ~ N(a, 1), x | z ~ N(z, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(1))  # (1,)

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(self.a, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1))


class Rate(Model):
    """r ~ Exponential(1), u ~ U(0, 1), y ~ Bernoulli(0.3), x ~ Exponential((1 + y) r (0.5 + u))."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            r = pyro.sample("r", dist.Exponential(1.0))
            u = pyro.sample("u", dist.Uniform(0.0, 1.0))
            y = pyro.sample("y", dist.Bernoulli(0.3))
            return pyro.sample("x", dist.Exponential((1 + y) * r * (0.5 + u)))

    def log_evidence(self, x: Tensor) -> Tensor:
        """By quadrature over u; r in closed form: ∫ c r e^{-r(1 + c x)} dr = c / (1 + c x)²."""
        u = (torch.arange(2000, dtype=x.dtype) + 0.5) / 2000
        one = (0.5 + u) / (1 + (0.5 + u) * x[:, None]).square()
        two = (1 + 2 * u) / (1 + (1 + 2 * u) * x[:, None]).square()
        return (0.7 * one + 0.3 * two).mean(-1).log()


class WithGlobal(Model):
    """A location that all rows share."""

    def forward(self, n: int) -> Tensor:
        g = pyro.sample("g", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(g, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1))


def at(
    mean: float, sd: float, inference: str = "per_datapoint", **options: Any
) -> tuple[Line, Guide]:
    """A table of one row, at q0 = N(mean, sd²)."""
    model = Line()
    guide = Guide(model, POINT, "hamiltonian", inference, family_options=options)
    with torch.no_grad():
        guide.source.table.weight.copy_(torch.tensor([[mean, math.log(math.expm1(sd))]]))
    return model, guide


def weigh(options: dict[str, Any], num: int = 200_000) -> Any:
    model, guide = at(*BAD, **options)
    with torch.no_grad():
        return log_weights(model, guide, POINT.batch(), num)


# Standard errors of 2e5 draws; a band of 6 of them fails a right program once in 5e8 runs.


@pytest.mark.parametrize("tempering", [1.0, 0.5])
@pytest.mark.parametrize("steps", [1, 3, 10])
def test_weights_are_unbiased_and_the_bound_is_one(
    float64: Any, steps: int, tempering: float
) -> None:
    options = {"num_leapfrog": steps, "step_size": 0.3, "tempering": tempering}
    h = weigh(options).log_weight[:, 0]
    ratio = (h - LOG_EVIDENCE).exp()
    assert abs(ratio.mean() - 1) < 6 * ratio.std() / len(h) ** 0.5
    assert h.mean() < LOG_EVIDENCE + 6 * h.std() / len(h) ** 0.5


def test_the_naive_weight_exceeds_the_evidence(float64: Any) -> None:
    """log p(x, z_T) - log q0(z0): above log p(x) by more than 6 standard errors; ours is below."""
    weights = weigh({"num_leapfrog": 5, "step_size": 0.3, "tempering": 1.0})
    v, h = weights.values["_v"][..., 0], weights.log_weight
    z0, z = weights.values["_z0"][..., 0], weights.values["z"][..., 0]
    joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(torch.tensor(1.5))
    naive = joint - dist.Normal(*map(torch.tensor, BAD)).log_prob(z0)
    assert naive.mean() - 6 * naive.std() / len(naive) ** 0.5 > LOG_EVIDENCE + 0.05
    assert h.mean() + 6 * h.std() / len(h) ** 0.5 < LOG_EVIDENCE
    z_t, v_t = z0, v  # by hand: the gradient is x - 2 z
    for _ in range(5):
        v_t = v_t + 0.15 * (1.5 - 2 * z_t)
        z_t = z_t + 0.3 * v_t
        v_t = v_t + 0.15 * (1.5 - 2 * z_t)
    torch.testing.assert_close(z_t, z)
    normal = dist.Normal(0.0, 1.0)
    torch.testing.assert_close(h, naive + normal.log_prob(v_t) - normal.log_prob(v))


def test_the_bound_rises_with_the_steps_on_a_bad_start(float64: Any) -> None:
    """q0 = N(-1, 0.3²), whose ELBO is -5.335, and steps that are sound, not learned.

    Without tempering small steps conserve the energy, and with it every weight.
    """

    def bound(**options: Any) -> tuple[Tensor, Tensor]:
        model, guide = at(-1.0, 0.3, **options)
        with torch.no_grad():
            h = log_weights(model, guide, POINT.batch(), 20_000).log_weight
        return h.mean(), h.std() / 20_000**0.5

    found = [bound(num_leapfrog=steps, step_size=0.15) for steps in (2, 6, 10)]
    for (low, a), (high, b) in zip(found, found[1:], strict=False):
        assert high - low > 6 * (a + b)
    flat, se = bound(num_leapfrog=10, step_size=0.01, tempering=1.0)
    start = -math.log(2 * math.pi) - (1 + 0.09 + 2.5**2 + 0.09) / 2  # E[log p(x, z)]
    assert abs(flat - start - 0.5 * math.log(2 * math.pi * math.e * 0.09)) < 6 * se + 1e-3


def test_leapfrog_keeps_volume_and_can_be_undone(float64: Any) -> None:
    def target(u: Tensor) -> Tensor:  # a banana, no Gaussian
        return -(u[..., 0] ** 2) / 2 - (u[..., 1] - u[..., 0] ** 2) ** 2 - u[..., 2].cosh().log()

    step = torch.tensor([0.1, 0.2, 0.3])

    def flow(both: Tensor) -> Tensor:
        u, v, *_ = leapfrog(target, both[None, :3], both[None, 3:], step, 7, keep=True)
        return torch.cat([u, v], -1)[0]

    for start in torch.randn(3, 6):
        jacobian = torch.autograd.functional.jacobian(flow, start.requires_grad_())
        assert abs(torch.linalg.slogdet(jacobian).logabsdet) < 1e-6
    u, v = torch.randn(2, 4, 5, 3)
    there_u, there_v, first, last = leapfrog(target, u, v, step, 7)
    back_u, back_v, *_ = leapfrog(target, there_u, -there_v, step, 7)
    torch.testing.assert_close(back_u, u, rtol=0, atol=1e-6)
    torch.testing.assert_close(-back_v, v, rtol=0, atol=1e-6)
    torch.testing.assert_close(first, target(u))
    torch.testing.assert_close(last, target(there_u))


def test_the_target_is_the_joint_of_the_unconstrained_latents(float64: Any) -> None:
    """Against the formula, y summed out, at (S, K) particles; the slope against differences."""
    model, data = Rate(), Dataset({"x": torch.tensor([0.4, 2.0, 0.1])})
    guide = Guide(model, data)
    raw = torch.randn(2, 4, 3, 2)
    target = target_of(model, data.batch(), guide.latents.local)
    r, u = raw[..., 0].exp(), raw[..., 1].sigmoid()
    likelihood = [dist.Exponential(c * r * (0.5 + u)).log_prob(data["x"]).exp() for c in (1, 2)]
    expected = -r + (0.7 * likelihood[0] + 0.3 * likelihood[1]).log()
    expected = expected + raw[..., 0] + u.log() + (1 - u).log()
    torch.testing.assert_close(target(raw), expected)


def test_bounded_and_enumerated_latents(float64: Any) -> None:
    """Below the evidence by quadrature, unbiased; every step in the unconstrained space."""
    model, data = Rate(), Dataset({"x": torch.tensor([0.4, 2.0])})
    options = {"num_leapfrog": 3, "step_size": 0.3}
    guide = Guide(model, data, "hamiltonian", "per_datapoint", family_options=options)
    with torch.no_grad():
        h = log_weights(model, guide, data.batch(), 40_000).summed[0]
    ratio = (h - model.log_evidence(data["x"])).exp()
    assert ((ratio.mean(0) - 1).abs() < 6 * ratio.std(0) / 40_000**0.5).all()
    q = guide.posterior(data.batch(), 11)
    assert set(q.samples) == {"r", "u", "y"} and q.log_q.isfinite().all()


def test_training_learns_the_step_and_closes_the_gap() -> None:
    """The mean-field optimum is exact on a line; with s held at 0.3 only the steps can help."""
    model, guide = at(-1.0, 0.3, num_leapfrog=3, step_size=0.1)
    guide.source.table.weight.requires_grad_(False)
    before = guide.family.raw_step.detach().clone()
    first = evaluate(model, guide, POINT, num_particles=2000).elbo
    options = {"num_particles": 16}
    fit(model, guide, POINT, steps=100, lr=0.1, freeze="model", objective_options=options)
    last = evaluate(model, guide, POINT, num_particles=2000).elbo
    assert (guide.family.raw_step > before + 0.1).all()
    assert last.mean > first.mean + 0.3 + 6 * (first.se + last.se)
    assert last.mean < LOG_EVIDENCE + 6 * last.se


def test_gradients_through_the_steps_are_those_of_the_bound(float64: Any) -> None:
    """Autograd against central differences with common random numbers: κ, ε and θ."""
    model, guide = at(*BAD, num_leapfrog=3, step_size=0.3)

    def loss() -> Tensor:
        torch.manual_seed(3)
        return elbo(model, guide, POINT.batch(), num_particles=7)

    loss().backward()
    for parameter in (*guide.parameters(), model.a):
        slope = parameter.grad.to_dense().flatten()
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            at_i, ends = float(flat[i]), []
            for delta in (1e-5, -1e-5):
                flat[i] = at_i + delta
                ends.append(loss())
            flat[i] = at_i
            torch.testing.assert_close(slope[i], (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-6)


def test_infer_iwae_and_evaluate() -> None:
    model = Line()
    data = Dataset(torch.randn(12, 1) * 2**0.5)
    guide = Guide(model, data.subset(range(6)), "hamiltonian:2", "per_datapoint")
    unseen = guide.infer(data.subset(range(6, 12)), steps=100)
    result = evaluate(model, unseen, data.subset(range(6, 12)), num_particles=4000)
    truth = dist.Normal(0.0, 2**0.5).log_prob(data["x"][6:, 0]).mean()
    assert result.elbo.mean < truth + 6 * result.elbo.se
    assert result.elbo.mean > truth - 0.1
    assert abs(result.iwae.mean - truth) < 6 * result.iwae.se + 1e-3
    fit(model, guide, data.subset(range(6)), "iwae", steps=2)


def test_what_cannot_be_is_refused_by_name() -> None:
    model, guide = at(*BAD)
    batch = POINT.batch()
    for ask in (
        lambda: guide.log_prob(batch, {"z": torch.zeros(1, 1)}),
        partial(guide.distribution, batch),
    ):
        with pytest.raises(ValueError, match="Hamiltonian cannot score a given z"):
            ask()
    with pytest.raises(ValueError, match=r"global latents \['g'\]"):
        Guide(WithGlobal(), POINT, "hamiltonian")
    with pytest.raises(ValueError, match="for local latents alone"):
        Guide(WithGlobal(), POINT, global_family="hamiltonian")
    with pytest.raises(ValueError, match="1 for none"):
        Guide(model, POINT, "hamiltonian", family_options={"tempering": 0.0})
    for options in ({"num_leapfrog": 0}, {"step_size": 0.0}, {"acceptance": 1.0}):
        with pytest.raises(ValueError, match="count from 1"):
            Guide(model, POINT, "hamiltonian", family_options=options)
    with pytest.raises(ValueError, match="mcmc needs a guide"):
        mcmc(model, guide, batch)
    with pytest.raises(ValueError, match="mcmc needs a guide"):
        mcmc(model, lambda _: None, batch)


@pytest.mark.parametrize("metropolis", [False, True])
def test_the_contract(metropolis: bool) -> None:
    options = {"metropolis": metropolis, "num_leapfrog": 2}
    make = partial(Guide, family="hamiltonian", family_options=options)
    check_guide(make, Line(), Dataset(torch.randn(5, 1)))


# Metropolis steps


def test_stock_pyro_takes_the_pair() -> None:
    from pyro.infer import Trace_ELBO

    from zoo.model import observe

    model, guide = at(*BAD, num_leapfrog=2)
    loss = Trace_ELBO(num_particles=3).differentiable_loss(observe(model), guide, POINT.batch())
    loss.backward()
    assert guide.family.raw_step.grad.isfinite().all()


def test_metropolis_leaves_the_posterior_as_it_is(float64: Any) -> None:
    """From exact draws of N(0.75, 1/2), with steps so long that many ends are refused."""

    def target(u: Tensor) -> Tensor:
        return -(u[..., 0].square() + (1.5 - u[..., 0]).square()) / 2

    u = 0.75 + 0.5**0.5 * torch.randn(100_000, 1, 1)
    end, rate = metropolis(target, u, torch.tensor(1.1), 3, 2)
    assert 0.3 < rate < 0.95
    check_moments(end.flatten())


def check_moments(z: Tensor) -> None:
    """Mean 0.75, variance 1/2, P(z < 0.75) = 1/2 to 6 standard errors of independent draws."""
    root = len(z) ** 0.5
    assert abs(z.mean() - 0.75) < 6 * 0.5**0.5 / root
    assert abs((z - 0.75).square().mean() - 0.5) < 6 * 0.5 * 2**0.5 / root
    assert abs((z < 0.75).double().mean() - 0.5) < 6 * 0.5 / root


def test_metropolis_draws_follow_the_posterior_and_the_bound_stays_that_of_q0() -> None:
    options = {"metropolis": True, "num_transitions": 25, "num_leapfrog": 4, "step_size": 0.35}
    model, guide = at(*BAD, **options)
    q = guide.posterior(POINT.batch(), 20_000)
    check_moments(q.samples["z"].flatten().double())
    assert q.log_q.isnan().all()
    bound = evaluate(model, guide, POINT, num_particles=20_000).elbo
    assert abs(bound.mean - -2.019299048862499) < 6 * bound.se


def test_the_gradients_of_mcmc(float64: Any) -> None:
    """θ: ∇ log p(x) = (x - a)/2 = 0.75 by Fisher; φ: the ELBO's, ∂m = x - 2m; value: the ELBO."""
    options = {"metropolis": True, "num_transitions": 25, "step_size": 0.35}
    model, guide = at(*BAD, **options)
    num = 20_000
    loss = mcmc(model, guide, POINT.batch(), num_particles=num)
    loss.backward()
    h = log_weights(model, guide, POINT.batch(), num).log_weight
    assert abs(loss + -2.019299048862499) < 6 * h.std() / num**0.5
    # ∂ log p(x, z)/∂a = z - a has variance 1/2; one path-wise ∂m has variance (2 s)²
    assert abs(model.a.grad + 0.75) < 6 * 0.5**0.5 / num**0.5
    slope = guide.source.table.weight.grad.to_dense()[0, 0]
    assert abs(slope + (1.5 - 2 * BAD[0])) < 6 * 2 * BAD[1] / num**0.5
    assert all(p.requires_grad for p in model.parameters())


def test_mcmc_trains_both_sides_and_finds_its_step() -> None:
    """a → x = 1.5, the maximum of log p(x); q0 → N(1.5, 1/2); the acceptance nears its aim."""
    options = {"metropolis": True, "num_leapfrog": 2, "num_transitions": 2, "step_size": 3.0}
    model, guide = at(*BAD, **options)
    before = guide.family.log_step.clone()
    fit(model, guide, POINT, "mcmc", steps=120, lr=0.1, objective_options={"num_particles": 64})
    loc, raw = guide.source.table.weight[0]
    assert guide.family.log_step < before
    with torch.no_grad(), Record():
        target = target_of(model, POINT.batch(), guide.latents.local)
        step = guide.family.log_step.exp() * nn.functional.softplus(raw)
        _, rate = metropolis(target, loc.expand(2000, 1, 1), step, 2, 5)
    assert abs(rate - 0.65) < 0.15
    assert abs(model.a - 1.5) < 0.25 and abs(loc - 1.5) < 0.25
