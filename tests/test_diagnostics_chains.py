"""Markov chains as a check: annealing, NUTS and short chains against what is known exactly."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from guides import Guide
from zoo.data import Dataset
from zoo.diagnostics.annealing import annealed
from zoo.diagnostics.chains import ShortChains, short_chains
from zoo.diagnostics.drift import Drifts
from zoo.diagnostics.mixing import bulk_ess, rhat
from zoo.diagnostics.nuts import nuts_posterior
from zoo.diagnostics.sandwich import sandwich
from zoo.diagnostics.steps import Steps, anneal, schedule, tuned
from zoo.diagnostics.targets import Path, joint_target, packed_draws
from zoo.functions import plain
from zoo.handlers import Temper
from zoo.model import Model, as_model
from zoo.models.mixture_of_factor_analyzers import MixtureOfFactorAnalyzers
from zoo.models.ppca import PPCA
from zoo.models.vae import VAE
from zoo.particles import log_joint, simulate
from zoo.sites import Latents

# Bands are 6 standard errors where a mean of independent terms is compared.


def ppca() -> tuple[PPCA, Dataset]:
    """Five rows of four numbers with two latents."""
    model = PPCA(4, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.2], [0.5, -1.0], [-0.8, 0.3], [0.1, 0.6]]))
    return model, Dataset(torch.randn(5, 4, generator=torch.Generator().manual_seed(1)))


def factors() -> tuple[MixtureOfFactorAnalyzers, Dataset]:
    """Two components of one factor each, and rows of their own making."""
    model = MixtureOfFactorAnalyzers(3, num_components=2, latent_dim=1)
    with torch.no_grad():
        model.loc.copy_(torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.5, 0.0]]))
        model.weight.copy_(torch.tensor([[[1.0], [0.5], [-0.5]], [[0.3], [-1.0], [0.8]]]))
        return model, Dataset(model(20))


def small_vae() -> VAE:
    """One latent, five bits; a decoder with large weights, so that posteriors are no Gaussians."""
    model = VAE(5, latent_dim=1, hidden=(8,), likelihood="bernoulli")
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.copy_(2 * torch.randn(parameter.shape))
    return model


@torch.no_grad()
def vae_evidence(model: VAE, x: Tensor) -> Tensor:
    """By quadrature over 4001 points from -8 to 8."""
    grid = torch.linspace(-8, 8, 4001)
    log_prior = dist.Normal(0.0, 1.0).log_prob(grid)
    log_p = model.decode(grid[:, None, None]).log_prob(x)  # (4001, N)
    return (log_p + log_prior[:, None]).logsumexp(0) + math.log(16 / 4000)


def rates(x: Tensor) -> None:
    """r ~ Exponential(1), u ~ U(0, 1), y ~ Bernoulli(0.3), x ~ Exponential((1 + y) r (0.5 + u))."""
    with pyro.plate("rows", len(x)):
        r = pyro.sample("r", dist.Exponential(1.0))
        u = pyro.sample("u", dist.Uniform(0.0, 1.0))
        y = pyro.sample("y", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Exponential((1 + y) * r * (0.5 + u)), obs=x)


def rates_evidence(x: Tensor) -> Tensor:
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


GIVEN = Dataset(torch.tensor([[1.5], [-0.5], [2.0], [0.5]]))


def of_global(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sd of p(g | x), x_n | g ~ N(g, 2)."""
    precision = torch.as_tensor(1 + len(x) / 2)
    return x.sum() / 2 / precision, precision.rsqrt()


def exact_globals(shift: float = 0.0, factor: float = 1.0) -> Any:
    """q(g) = p(g | x) moved and narrowed in its own sd, q(z | g) = p(z | g, x)."""

    def guide(batch: Any) -> None:
        x = batch["x"]
        mean, sd = of_global(x)
        q = dist.Normal((mean + shift * sd).reshape(1), factor * sd)
        g = pyro.sample("g", q.to_event(1))
        with pyro.plate("data", len(batch), dim=-1):
            pyro.sample("z", dist.Normal((g + x) / 2, 0.5**0.5).to_event(1))

    return guide


# Annealing


def test_the_path_is_the_tempered_joint(float64: Any) -> None:
    """With y summed out at every β: Σ_y p(y, z) p(x | y, z)^β, on particle dimensions instead."""
    model, data = factors()
    path = Path(model, data.batch(), 3)
    u = path.draws()
    given = {"z": {"value": u}}
    for beta in (0.0, 0.3, 1.0):
        with torch.no_grad(), poutine.block(), Temper(beta, model.plate):
            sites = simulate(model, data.batch(), 1, 3, given)
        expected = log_joint(sites, model.plate, 1, 3, 20)[0]
        torch.testing.assert_close(path.at(torch.tensor(beta))(u), expected)
    torch.testing.assert_close(expected.shape, (3, 20))


@pytest.mark.parametrize("make", [ppca, factors])
def test_weights_are_unbiased_both_ways(float64: Any, make: Any) -> None:
    """1000 chains of each row: E w = p(x), and from exact draws of the posterior, by Crooks,

    E w̃/(w̃ + 1/p) = E w/(w + p), whose terms are bounded while those of E w̃ = 1/p are not.
    """
    model, data = make()
    x = data["x"][:4]
    path = Path(model, Dataset(x).batch(), 1000)
    steps = tuned(path, 8, 3, 0.65)
    with torch.no_grad():
        log_p = model.log_evidence(x)
        log_w, rate = anneal(path, path.draws(), steps, 8, 3, lambda _: None)
        u = model.posterior(x).sample((1000,))
        back, back_rate = anneal(path, u, steps, 8, 3, lambda _: None, reverse=True)
    ratio = (log_w - log_p).exp()
    assert ((ratio.mean(0) - 1).abs() < 6 * ratio.std(0) / 1000**0.5).all()
    one, other = torch.sigmoid(log_w - log_p), torch.sigmoid(back + log_p)
    error = ((one.var(0) + other.var(0)) / 1000).sqrt()
    assert ((one.mean(0) - other.mean(0)).abs() < 6 * error).all()
    assert ((torch.stack([rate, back_rate]) - 0.6).abs() < 0.25).all()


def test_missing_entries_and_pieces_of_rows(float64: Any) -> None:
    model, data = ppca()
    x = data["x"].clone()
    x[0, 1] = x[3, 0] = x[3, 2] = torch.nan
    data = Dataset(x, missing=True)
    exact = model.log_evidence(data["x"], data.observed["x"])
    options: dict[str, Any] = {"num_temperatures": 30, "num_leapfrog": 3, "num_chains": 16}
    for elements in (None, 400):
        found = annealed(model, data, **options, max_elements=elements)
        assert ((found.forward.rows - exact).abs() < 10 * found.forward.error).all()
        assert found.log_weights.shape == (16, 5) and (found.ess > 0.2).all()
        assert abs(found.acceptance.mean() - 0.65) < 0.1


def test_enumerated_labels_and_bounded_latents(float64: Any) -> None:
    """A mixture with its evidence in closed form, a plain function by quadrature."""
    model, data = factors()
    x = torch.tensor([0.05, 0.7, 3.0, 12.0])
    options: dict[str, Any] = {"num_temperatures": 50, "num_leapfrog": 3, "num_chains": 32}
    for p, rows, exact in (
        (model, data, model.log_evidence(data["x"]).detach()),
        (plain(rates), Dataset(x), rates_evidence(x)),
    ):
        found = annealed(p, rows, **options).forward
        assert found.mean < exact.mean() + 6 * found.se
        assert found.mean > exact.mean() - 0.05 - 6 * found.se


@pytest.mark.parametrize("start", ["prior", "guide"])
def test_the_sandwich_of_a_vae_holds_what_quadrature_says(float64: Any, start: str) -> None:
    model = small_vae()
    rows = Dataset(torch.zeros(1, 5))
    guide = Guide(model, rows, inference="amortized") if start == "guide" else None
    options: dict[str, Any] = {"num_temperatures": 60, "num_leapfrog": 4, "num_simulations": 60}
    found = sandwich(model, rows, guide=guide, **options)
    exact = vae_evidence(model, found.data["x"])
    below, above = exact - found.lower.rows, found.upper.rows - exact
    for gap in (below, above):  # over simulations, z* among what is drawn
        assert gap.mean() > -6 * gap.std() / 60**0.5
        assert gap.mean() < 0.05 + 6 * gap.std() / 60**0.5
    assert found.width.mean < 0.1 + 6 * found.width.se_data
    assert found.as_dict()["start"] == start and found.as_dict()["num_simulations"] == 60
    torch.testing.assert_close(found.width.rows, below + above)


def test_the_sandwich_of_ppca(float64: Any) -> None:
    model, data = ppca()
    options: dict[str, Any] = {"num_temperatures": 60, "num_leapfrog": 4, "num_simulations": 40}
    found = sandwich(model, data, **options)
    exact = model.log_evidence(found.data["x"]).mean().item()
    assert found.lower.mean < exact + 6 * found.lower.se
    assert found.upper.mean > exact - 6 * found.upper.se
    assert found.width.mean < 0.1 + 6 * found.width.se


def test_annealing_repeats_itself_and_leaves_the_random_state() -> None:
    model, data = ppca()
    options: dict[str, Any] = {"num_temperatures": 5, "num_leapfrog": 2, "num_chains": 3}
    before = torch.get_rng_state()
    first = annealed(model, data, **options)
    torch.rand(3)
    again, other = annealed(model, data, **options), annealed(model, data, **options, seed=1)
    torch.set_rng_state(before)
    assert torch.equal(first.log_weights, again.log_weights)
    assert not torch.equal(first.log_weights, other.log_weights)
    assert first.forward.rows.dtype == torch.float64
    assert all(p.requires_grad for p in model.parameters())


def test_what_cannot_be_annealed_is_refused() -> None:
    model, data = ppca()
    with pytest.raises(ValueError, match=r"global latents \['g'\] belong to all rows"):
        annealed(WithGlobal(), Dataset(torch.zeros(3, 1)))
    from zoo.models.gmm import GMM

    with pytest.raises(ValueError, match="a finite sum"):
        annealed(*GMM.example())
    bad: list[dict[str, Any]] = [
        {"num_temperatures": 1},
        {"num_chains": 1},
        {"target_acceptance": 1.0},
    ]
    for options in bad:
        with pytest.raises(ValueError, match="2 temperatures and 2 chains or more"):
            annealed(model, data, **options)
    with pytest.raises(ValueError, match="density at any z"):
        annealed(model, data, guide=Guide(model, data, "hamiltonian"))
    with pytest.raises(ValueError, match="num_simulations counts"):
        sandwich(model, data, num_simulations=0)


def test_steps_between_places_are_log_linear() -> None:
    steps = Steps(torch.tensor([[0.0], [1.0], [2.0]]), torch.ones(3, 1))
    for place, log_step in ((0.0, 0.0), (0.25, 0.0), (0.375, 0.5), (0.75, 2.0), (1.0, 2.0)):
        torch.testing.assert_close(steps.at(place).log(), torch.tensor([[log_step]]))
    betas = schedule(500)
    assert betas[0] == 0 and betas[-1] == 1 and (betas.diff() > 0).all()


# Short chains


def off(model: PPCA, shift: float, factor: float) -> Any:
    """q(z | x): independent, its mean moved by ``shift`` and its sd multiplied by ``factor``."""

    def guide(batch: Any) -> None:
        p = model.posterior(batch["x"])
        sd = p.variance.sqrt()
        with pyro.plate("data", len(batch), dim=-1):
            pyro.sample("z", dist.Normal(p.mean + shift * sd, factor * sd).to_event(1))

    return guide


@pytest.mark.parametrize("transitions", [2, 20])
def test_short_chains_find_what_is_wrong_and_never_say_more(float64: Any, transitions: int) -> None:
    """q is 1 sd off and half as wide; of few transitions the bound is lower, and still positive."""
    model, data = ppca()
    options: dict[str, Any] = {"num_transitions": transitions, "num_leapfrog": 2}
    found = short_chains(model, off(model, 1.0, 0.5), data, num_chains=300, **options)
    local = found.local
    assert local is not None and found.global_ is None and found.moved
    assert local.names == ("z[0]", "z[1]") and local.num_rows == 5
    assert found.p_value < 1e-6 and 0.4 < found.acceptance < 0.9
    assert ((local.rms_shift_lower > 0.3) & (local.rms_shift_lower < 1.15)).all()
    assert (local.shift < -0.3).all() and (local.shift > -1 - 6 * local.shift_error).all()
    if transitions == 20:
        assert ((local.shift + 1).abs() < 6 * local.shift_error).all()
        assert ((local.log_sd_ratio + math.log(2)).abs() < 6 * local.log_sd_ratio_error).all()
        assert (local.rms_log_sd_ratio_lower > 0.45).all()
        assert (local.rms_log_sd_ratio_lower < math.log(2) + 0.15).all()


def test_short_chains_leave_an_exact_posterior_where_it_is(float64: Any) -> None:
    model, data = ppca()
    options: dict[str, Any] = {"num_transitions": 4, "num_leapfrog": 3, "num_chains": 300}
    for elements in (None, 5000):
        guide = Guide(model, data, "exact")
        found = short_chains(model, guide, data, **options, max_elements=elements)
        assert found.p_value > 1e-6 and found.moved and found.local is not None
        assert (found.local.shift.abs() < 6 * found.local.shift_error).all()
        assert (found.local.log_sd_ratio.abs() < 6 * found.local.log_sd_ratio_error).all()
    assert found.as_dict()["local"]["names"] == ["z[0]", "z[1]"]


@pytest.mark.parametrize(("shift", "factor"), [(0.0, 1.0), (1.0, 0.5)])
def test_short_chains_of_global_latents(float64: Any, shift: float, factor: float) -> None:
    options: dict[str, Any] = {"num_transitions": 20, "num_leapfrog": 4, "num_chains": 200}
    found = short_chains(WithGlobal(), exact_globals(shift, factor), GIVEN, **options)
    of_g, of_z = found.global_, found.local
    assert of_g is not None and of_z is not None and found.moved
    assert (of_g.names, of_z.names, of_z.num_rows) == (("g[0]",), ("z[0]",), 4)
    assert abs(of_g.shift + shift) < 6 * of_g.shift_error
    assert abs(of_g.log_sd_ratio - math.log(factor)) < 6 * of_g.log_sd_ratio_error
    assert found.p_value < 1e-6 if shift else found.p_value > 1e-6
    assert of_g.rms_shift_lower > 0.35 if shift else of_g.rms_shift_lower < 0.4
    assert of_g.rms_shift_lower < shift + 6 * of_g.shift_error


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_p_values_are_those_of_the_null(correlation: float) -> None:
    """1000 times 100 pairs of 20 rows, start and end of one law: P(p < 0.1) within 6 errors."""
    a, b = torch.randn(2, 100, 20, 1000, dtype=torch.float64)
    sums = Drifts(100, independent=True)
    sums.add(a, correlation * a + (1 - correlation**2) ** 0.5 * b)
    for kind in sums.kinds:
        for independent in (True, False):
            p = kind.p_values(independent)
            assert abs((p < 0.1).double().mean() - 0.1) < 6 * (0.09 / 1000) ** 0.5
            assert (p < 1e-4).sum() < 6  # of 0.1 on average
    drift = sums.result(("u",) * 1000)
    for value, error in (
        (drift.shift, drift.shift_error),
        (drift.log_sd_ratio, drift.log_sd_ratio_error),
    ):
        assert 0.9 < ((value.abs() < 1.96 * error).double().mean()) < 0.99
    assert (drift.rms_shift_lower > 0).double().mean() < 0.025
    assert ((drift.jump - (1 - correlation)).abs() < 0.2).all()


def test_chains_that_did_not_move_are_no_evidence() -> None:
    start = torch.randn(50, 3, 2, dtype=torch.float64)
    sums = Drifts(50, independent=True)
    sums.add(start, start + 0.01 * torch.randn_like(start))
    still = ShortChains(sums.result(("a", "b")), None, 0.99, 50, 2, 1, 0)
    assert not still.moved and still.as_dict()["moved"] is False


def test_what_short_chains_refuse() -> None:
    model, data = ppca()
    guide = Guide(model, data)
    bad: list[dict[str, Any]] = [{"num_transitions": 3}, {"num_chains": 19}, {"num_leapfrog": 0}]
    for options in bad:
        with pytest.raises(ValueError, match="even number of transitions"):
            short_chains(model, guide, data, **options)
    with pytest.raises(ValueError, match="point mass"):
        short_chains(model, Guide(model, data, "delta"), data)
    with pytest.raises(ValueError, match="max_rows=3"):
        short_chains(WithGlobal(), exact_globals(), GIVEN, max_rows=3)
    with pytest.raises(ValueError, match="does not draw the latent 'z'"):
        short_chains(model, lambda _: None, data)


# NUTS


def plated(x: Tensor) -> None:
    """A scale, two locations in a plate of their own, and a bounded latent of each row."""
    sd = pyro.sample("sd", dist.HalfNormal(1.0))
    with pyro.plate("two", 2):
        at = pyro.sample("at", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        w = pyro.sample("w", dist.Beta(2.0, 2.0))
        pyro.sample("x", dist.Normal(at[..., 0:1] * w + at[..., 1:2] * (1 - w), sd), obs=x)


def test_the_joint_target_is_the_density_of_everything(float64: Any) -> None:
    """By hand for a Gaussian; side by side and one by one for a plain function."""
    batch = GIVEN.to(torch.float64).batch()
    u, x = torch.randn(3, 5), batch["x"][:, 0]
    model = WithGlobal()
    found = joint_target(model, batch, Latents.find(model, batch))(u)
    g, z = u[:, :1], u[:, 1:]
    expected = dist.Normal(0.0, 1.0).log_prob(g).sum(1) + dist.Normal(g, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(found, expected + dist.Normal(z, 1.0).log_prob(x).sum(1))

    model, batch = as_model(plated), Dataset(torch.randn(4)).batch()
    model.resolve(batch)
    latents = Latents.find(model, batch)
    target, u = joint_target(model, batch, latents), torch.randn(3, 7)
    together = target(u)
    torch.testing.assert_close(together, torch.cat([target(part) for part in u.split(1)]))
    w = torch.sigmoid(u[:, 3:])
    at, sd = u[:, 1:3], u[:, :1].exp()
    mean = at[:, :1] * w + at[:, 1:] * (1 - w)
    expected = (
        (dist.HalfNormal(1.0).log_prob(sd) + u[:, :1]).sum(1)
        + dist.Normal(0.0, 1.0).log_prob(at).sum(1)
        + (dist.Beta(2.0, 2.0).log_prob(w) + (w * (1 - w)).log()).sum(1)
        + dist.Normal(mean, sd).log_prob(batch["x"]).sum(1)
    )
    torch.testing.assert_close(together, expected)
    with torch.no_grad():
        g, z = packed_draws(model, Guide(model, batch), batch, latents, 6)
    assert g.shape == (6, 3) and z.shape == (6, 4, 1)


def test_rhat_and_ess_are_those_of_arviz() -> None:
    import arviz as az

    noise = torch.randn(3, 301, 4, dtype=torch.float64)
    walk = torch.zeros_like(noise)
    for t in range(1, 301):
        walk[:, t] = torch.tensor([0.0, 0.5, 0.9, -0.5]) * walk[:, t - 1] + noise[:, t]
    walk[0, :, 1] += 0.5
    walk[:, 5:9, 3] = walk[:, 5:6, 3]  # ties
    for unit in range(4):
        x = walk[..., unit].numpy()
        assert abs(rhat(walk)[unit] - az.rhat(x)) < 1e-8
        assert abs(bulk_ess(walk)[unit] / az.ess(x) - 1) < 0.05  # whose last pair differs
    assert rhat(torch.zeros(2, 10, 1)).isnan().all()
    with pytest.raises(ValueError, match="four draws"):
        rhat(torch.zeros(2, 3, 1))


def test_nuts_finds_a_gaussian_posterior() -> None:
    """To 6 standard errors, with half of the effective draws that are estimated."""
    before = torch.get_rng_state()
    options: dict[str, Any] = {"num_samples": 100, "num_warmup": 50}
    found = nuts_posterior(WithGlobal(), GIVEN, **options)
    assert torch.equal(before, torch.get_rng_state())
    assert found.names == ("g[0]", "z[0, 0]", "z[1, 0]", "z[2, 0]", "z[3, 0]")
    assert found.samples["g"].shape == (2, 100, 1) and found.samples["z"].shape == (2, 100, 4, 1)
    mean, sd = of_global(GIVEN["x"])
    means = torch.cat([mean.reshape(1), (mean + GIVEN["x"][:, 0]) / 2])
    sds = torch.cat([sd.reshape(1), (sd.square() / 4 + 0.5).sqrt().expand(4)])
    draws = torch.cat([found.pooled["g"], found.pooled["z"].flatten(1)], 1)
    root = (found.ess / 2).sqrt()
    assert (found.ess > 25).all() and (found.rhat < 1.2).all()
    assert ((draws.mean(0) - means).abs() < 6 * sds / root).all()
    assert ((draws.std(0) / sds).log().abs() < 6 / (2**0.5 * root)).all()
    assert not found.ok and "effective draws" in found.why_not
    assert found.as_dict()["num_samples"] == 100


def schools(x: Tensor, sd: Tensor) -> None:
    """Eight schools without the eight: μ, τ and an effect of each school, not centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(5.0))
    with pyro.plate("schools", len(x)):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(mu + tau * effect, sd), obs=x)


@pytest.mark.slow
def test_nuts_on_schools_against_quadrature() -> None:
    x, sd = torch.tensor([28.0, 8.0, -3.0, 7.0]), torch.tensor([15.0, 10.0, 16.0, 11.0])
    data = Dataset({"x": x, "sd": sd})
    found = nuts_posterior(schools, data, num_samples=60, num_warmup=50)
    mu, tau = torch.meshgrid(
        torch.linspace(-25, 30, 400), torch.linspace(0.01, 30, 400), indexing="ij"
    )
    total = (tau[..., None].square() + sd.square()).sqrt()
    log_p = dist.Normal(mu[..., None], total).log_prob(x).sum(-1)
    log_p = log_p + dist.Normal(0.0, 5.0).log_prob(mu) + dist.HalfNormal(5.0).log_prob(tau)
    p = log_p.flatten().softmax(0)
    for i, (name, grid) in enumerate((("mu", mu), ("tau", tau))):
        mean = (p * grid.flatten()).sum()
        spread = (p * (grid.flatten() - mean).square()).sum().sqrt()
        error = spread / (found.ess[i] / 2).sqrt()
        assert found.ess[i] > 10 and abs(found.pooled[name].mean() - mean) < 6 * error
    assert found.names[:3] == ("mu[0]", "tau[0]", "effect[0, 0]")


def test_what_nuts_refuses() -> None:
    from zoo.models.gmm import GMM

    with pytest.raises(ValueError, match="max_rows=3"):
        nuts_posterior(WithGlobal(), GIVEN, max_rows=3)
    with pytest.raises(ValueError, match="two chains"):
        nuts_posterior(WithGlobal(), GIVEN, num_chains=1)
    with pytest.raises(ValueError, match="no continuous latents"):
        nuts_posterior(*GMM.example())


@pytest.mark.cuda
def test_chains_on_the_device() -> None:
    model, data = ppca()
    here = annealed(model, data, num_temperatures=60, num_leapfrog=4)
    model, data = model.cuda(), data.to("cuda")
    options: dict[str, Any] = {"num_temperatures": 60, "num_leapfrog": 4}
    there = annealed(model, data, **options)
    error = (here.forward.error.square() + there.forward.error.square().cpu()).sqrt()
    assert ((here.forward.rows - there.forward.rows.cpu()).abs() < 10 * error).all()
    assert sandwich(model, data, num_simulations=10, **options).width.rows.isfinite().all()
    found = short_chains(model, Guide(model, data, "exact"), data, num_transitions=4)
    assert found.p_value > 1e-6
    nuts = nuts_posterior(WithGlobal().cuda(), GIVEN.to("cuda"), num_samples=20, num_warmup=20)
    assert nuts.samples["g"].device.type == "cuda" and nuts.rhat.isfinite().all()
