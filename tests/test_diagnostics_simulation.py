"""Diagnostics from simulations: closed forms of Gaussian faults, false alarms, every kind of q."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor, nn

from guides import Guide
from zoo.context import seeded
from zoo.data import Batch, Dataset
from zoo.diagnostics._scored import log_q_of, recorded
from zoo.diagnostics._simulated import Truth
from zoo.diagnostics.coverage import coverage
from zoo.diagnostics.jeffreys import jeffreys
from zoo.diagnostics.pit import direction, distance, interval, p_value, randomised_pit
from zoo.diagnostics.sbc import sbc
from zoo.diagnostics.simulation import Simulations, simulate_posteriors
from zoo.diagnostics.tarp import tarp
from zoo.diagnostics.vsbc import vsbc
from zoo.functions import plain
from zoo.model import Model, rows
from zoo.models.bayesian_gmm import BayesianGMM
from zoo.models.bayesian_ppca import BayesianPPCA
from zoo.models.hierarchical_vae import HierarchicalVAE
from zoo.models.m1m2 import M1M2
from zoo.models.m2 import M2
from zoo.models.ppca import PPCA
from zoo.models.vae import VAE

pytestmark = pytest.mark.usefixtures("float64")

ONE_IN_A_MILLION = 1e-6
SIGMA = 0.5**0.5  # of p(z | x) below


class Conjugate(Model):
    """z ~ N(0, 1), x | z ~ N(z, 1): p(z | x) = N(x/2, 1/2)."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0))


def gaussian(scale: float = 1.0, shift: float = 0.0) -> Callable[[Batch], Any]:
    """q = N(x/2 + shift σ, (scale σ)²), σ that of the posterior."""

    def guide(batch: Batch) -> None:
        with rows(batch):
            loc = batch["x"] / 2 + shift * SIGMA
            pyro.sample("z", dist.Normal(loc, scale * SIGMA))

    return guide


def sweep(guide: Any, n: int = 6000, draws: int = 99, seed: int = 0) -> Simulations:
    data = torch.zeros(5)
    return simulate_posteriors(
        Conjugate(), guide, data, num_simulations=n, num_draws=draws, seed=seed
    )


def at_finite_draws(cdf: Callable[[np.ndarray], np.ndarray], draws: int) -> np.ndarray:
    """P(u ≤ k/(S + 1)) of the randomised rank, k = 0 … S + 1, where P_q(z < z*) has this cdf F.

    P(rank < k) = E[P(Binomial(S, V) < k)] = ∫ F(v) S Binomial(k − 1; S − 1, v) dv, by parts.
    """
    v = (np.arange(20_000) + 0.5) / 20_000
    k = np.arange(draws)[:, None]
    inner = (cdf(v) * draws * binom.pmf(k, draws - 1, v)).mean(-1)
    return np.concatenate([[0.0], inner, [1.0]])


def sup(curve: np.ndarray) -> float:
    return float(np.abs(curve - np.linspace(0, 1, len(curve))).max())


CASES = [(1.0, 0.0), (0.5, 0.0), (2.0, 0.0), (1.0, 0.5), (0.7, -0.4)]


@pytest.mark.parametrize(("scale", "shift"), CASES)
def test_gaussian_faults_have_their_closed_forms(scale: float, shift: float) -> None:
    """n = 6000 simulations; each band fails a right program less than once in a million runs."""
    found, S = sweep(gaussian(scale, shift)), 99
    n, c = found.count, math.sqrt(math.log(2 / ONE_IN_A_MILLION) / 12000)  # c = 0.035

    ranks = sbc(found)
    expected = at_finite_draws(lambda v: norm.cdf(scale * norm.ppf(v) + shift), S)
    assert abs(ranks.of("z[0]")[0] - sup(expected)) <= c
    if (scale, shift) == (1.0, 0.0):
        assert ranks.p > ONE_IN_A_MILLION and vsbc(found).p > ONE_IN_A_MILLION
        assert tarp(found).p > ONE_IN_A_MILLION
        assert ranks.interval[0] <= c
    else:
        assert ranks.p < ONE_IN_A_MILLION
    words = ranks.direction("z[0]")
    assert ("narrow" in words, "wide" in words) == (scale < 1, scale > 1)
    assert ("downward" in words, "upward" in words) == (shift < 0, shift > 0) or not shift
    if shift:
        assert vsbc(found).p < ONE_IN_A_MILLION
        assert vsbc(found).direction("z[0]") in words
        mean = norm.cdf(-shift / math.sqrt(1 + scale**2)) - 0.5  # E P_q(z < z*)
        assert abs(vsbc(found).shift[0].item() - mean) < 5 * vsbc(found).error[0].item()

    covered = coverage(found)
    assert covered.joint is not None and covered.worst is not None

    def inside(alpha: np.ndarray) -> np.ndarray:  # 2 Φ(s Φ⁻¹((1 + α)/2)) − 1 without a shift
        edge = scale * norm.ppf((1 + alpha) / 2)
        return norm.cdf(edge - shift) - norm.cdf(-edge - shift)

    curve = at_finite_draws(inside, S)
    for kind in (covered.joint, covered.central[0]):
        for level in kind:
            p = curve[round(level.level * (S + 1))]
            assert abs(level.coverage - p) <= 5 * math.sqrt(p * (1 - p) / n) + 1e-9
    assert covered.worst.coverage == covered.joint[[0.5, 0.9].index(covered.worst.level)].coverage

    both = jeffreys(found)
    assert both is not None
    exact = (scale**2 + 1 / scale**2 - 2 + shift**2 * (1 + 1 / scale**2)) / 2
    assert abs(both.mean - exact) <= 6 * both.se + 1e-9
    assert (both.p < ONE_IN_A_MILLION) == (exact > 0.1)


def test_jeffreys_of_the_exact_posterior_is_zero_in_every_simulation() -> None:
    found = sweep(gaussian(), 200)
    assert found.log_q_truth is not None
    evidence = found.log_joint_truth - found.log_q_truth
    torch.testing.assert_close(
        found.log_joint_draws - found.log_q_draws, evidence.expand(99, -1), rtol=0, atol=1e-10
    )
    x_variance = evidence.mean().item()  # E log N(x; 0, 2), sd 1/√2 each
    assert abs(x_variance - (-0.5 * math.log(4 * math.pi) - 0.5)) < 5 * SIGMA / 200**0.5
    both = jeffreys(found)
    assert both is not None and abs(both.mean) < 1e-10 and both.median == pytest.approx(0)


def test_the_prior_as_q_is_seen_by_fit_and_divergence_alone() -> None:
    def guide(batch: Batch) -> None:
        with rows(batch):
            pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(batch)]))

    found = sweep(guide)
    ranks = sbc(found)
    assert ranks.of("z[0]")[1] > ONE_IN_A_MILLION
    assert tarp(found).p > ONE_IN_A_MILLION and vsbc(found).p > ONE_IN_A_MILLION
    covered = coverage(found)
    assert covered.worst is not None and covered.worst.p > ONE_IN_A_MILLION
    assert covered.worst_central[1].p > ONE_IN_A_MILLION
    assert ranks.worst == "log p(x|z)" and ranks.p < ONE_IN_A_MILLION
    assert ranks.direction("log p(x|z)") != ""
    both = jeffreys(found)  # KL(p ‖ q) + KL(q ‖ p) = ½ (2 + ½ − 2) + E m² ½ (1 + 2), E m² = ½
    assert both is not None and abs(both.mean - 1.0) < 6 * both.se


def synthetic(seed: int, n: int = 150, draws: int = 19, shift: float = 0.0) -> Simulations:
    """Two units, N(0, I) both times; q shifted along the first."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(n, 2, generator=generator)
    z = torch.randn(draws, n, 2, generator=generator)
    z[..., 0] += shift
    move = torch.tensor([shift, 0.0])

    def log(z: Tensor, loc: Tensor | float) -> Tensor:
        return -0.5 * (z - loc).square().sum(-1)

    return Simulations(
        names=("z[0]", "z[1]"),
        truth=truth,
        draws=z,
        log_joint_truth=log(truth, 0.0),
        log_joint_draws=log(z, 0.0),
        log_q_truth=log(truth, move),
        log_q_draws=log(z, move),
        log_likelihood_truth=truth[:, 0].square() + truth[:, 1],
        log_likelihood_draws=z[..., 0].square() + z[..., 1],
        rows=1,
        refits=0,
        local=True,
        seed=seed,
    )


def test_false_alarms_are_as_rare_as_they_say() -> None:
    """400 repetitions at 5 %; a count is within 4.9 standard deviations (4.36) of its mean 20."""
    alarms: dict[str, int] = {}

    def count(name: str, alarm: bool) -> None:
        alarms[name] = alarms.get(name, 0) + alarm

    for seed in range(400):
        found = synthetic(seed)
        ranks, covered = sbc(found), coverage(found)
        assert covered.worst is not None
        nearness, signs = tarp(found), vsbc(found)
        count("sbc", ranks.p < 0.05)
        count("sbc of one", ranks.of("z[0]")[1] < 0.05)
        count("sbc of fit", ranks.of("log p(x|z)")[1] < 0.05)
        count("sbc interval", ranks.interval[0] > 0)
        count("tarp", nearness.p < 0.05)
        count("tarp interval", nearness.interval[0] > 0)
        count("vsbc", signs.p < 0.05)
        count("vsbc of one", signs.p_values[0].item() < 0.05)
        count("coverage", covered.worst.p < 0.05)
        count("coverage interval", covered.worst.interval[0] > 0)
        count("central", covered.worst_central[1].p < 0.05)
        both = jeffreys(synthetic(seed, shift=0.1**0.5))  # a divergence of 0.1: the threshold
        assert both is not None
        count("jeffreys", both.p < 0.05)
    assert all(alarms[name] <= 41 for name in alarms), alarms
    exact = ("sbc of one", "sbc of fit", "tarp", "vsbc of one", "jeffreys")
    assert all(alarms[name] >= 3 for name in exact), alarms  # P(Binomial(400, 0.05) < 3) = 6e-7


def test_pit_distance_and_band() -> None:
    """The distance of three numbers by hand; the DKW band and the p value."""
    u = torch.tensor([0.1, 0.2, 0.9])
    assert distance(u).item() == pytest.approx(2 / 3 - 0.2)
    both = torch.stack([u, u.flip(0)], -1)
    assert distance(both).tolist() == pytest.approx([2 / 3 - 0.2] * 2)
    assert p_value(torch.tensor([0.0, 1.0]), 3).tolist() == pytest.approx([1.0, 0.0])
    low, high = interval(0.3, 100)
    assert high - 0.3 == pytest.approx(math.sqrt(math.log(40) / 200)) and low == pytest.approx(
        0.6 - high
    )
    assert interval(0.01, 10) == (0.0, pytest.approx(0.01 + math.sqrt(math.log(40) / 20)))


def test_ranks_of_discrete_values_are_uniform() -> None:
    """n = 20 000, S = 5 draws of a coin: D below the DKW band of one in a million, 0.019."""
    with seeded(3):
        truth, draws = (torch.rand(20_000) < 0.3).long(), (torch.rand(5, 20_000) < 0.3).long()
    u = randomised_pit(truth, draws, 0)
    assert distance(u).item() < math.sqrt(math.log(2e6) / 40_000)
    assert torch.equal(u, randomised_pit(truth, draws, 0))


def test_words_of_a_direction() -> None:
    """By quantiles of the PIT law Φ(s Φ⁻¹(u) + δ) of 1000 numbers."""
    even = (torch.arange(1000) + 0.5) / 1000
    normal = torch.special.ndtri(even)

    def law(scale: float, shift: float) -> Tensor:  # u = Φ((ε − δ)/s)
        return torch.special.ndtr((normal - shift) / scale)

    assert direction(law(1.0, 0.0)) == ""
    assert direction(law(0.5, 0.0)) == "q too narrow"
    assert direction(law(2.0, 0.0)) == "q too wide"
    assert direction(law(1.0, 0.5)) == "q biased upward"
    assert direction(law(1.0, -0.5)) == "q biased downward"
    assert direction(law(0.5, -0.5)) == "q biased downward, q too narrow"


def test_tarp_sees_a_dependence_that_marginals_do_not() -> None:
    """p(z) with correlation 0.9, q with 0, n = 2000."""
    with seeded(1):
        a, b = torch.randn(2, 2000)
        draws = torch.randn(99, 2000, 2)
    truth = torch.stack([a, 0.9 * a + math.sqrt(1 - 0.81) * b], -1)
    found = replace(synthetic(0, 2000, 99), truth=truth, draws=draws)
    ranks = sbc(found)
    assert min(ranks.of(name)[1] for name in ("z[0]", "z[1]")) > ONE_IN_A_MILLION
    assert tarp(found).p < ONE_IN_A_MILLION
    assert tarp(found, seed=5).seed == 5
    assert not torch.equal(tarp(found, seed=5).values, tarp(found).values)


def test_everything_is_ready_for_json() -> None:
    import json

    found = synthetic(0)
    parts = (sbc(found), coverage(found), tarp(found), jeffreys(found), vsbc(found), found)
    for part in parts:
        assert part is not None
        assert json.loads(json.dumps(part.as_dict(), allow_nan=False))["simulations"] == 150


def test_a_truth_without_density_is_infinitely_far() -> None:
    found = synthetic(0)
    assert found.log_q_truth is not None
    log_q = found.log_q_truth.clone()
    log_q[0] = -math.inf
    both = jeffreys(replace(found, log_q_truth=log_q))
    assert both is not None and both.mean == math.inf and both.p == 0
    assert both.as_dict()["infinite"] and both.as_dict()["mean"] is None
    assert both.median == pytest.approx(0, abs=1e-12)
    log_q[0] = math.nan
    assert jeffreys(replace(found, log_q_truth=log_q)) is None


def test_without_log_q_only_central_intervals_are_left() -> None:
    found = replace(synthetic(0), log_q_truth=None)
    covered = coverage(found)
    assert covered.joint is None and covered.worst is None and covered.curve is None
    assert len(covered.central) == 2 and jeffreys(found) is None
    assert covered.as_dict()["joint"] is None
    with pytest.raises(ValueError, match="levels are probabilities between 0 and 1"):
        coverage(found, levels=(1.0,))
    with pytest.raises(ValueError, match="no quantity is called 'w'"):
        sbc(found).of("w")
    with pytest.raises(ValueError, match="no unit is called 'w'"):
        vsbc(found).direction("w")


# End to end.


def same_evidence(found: Simulations, atol: float = 1e-8) -> None:
    """log p(x, z) − log q(z | x) is log p(x) at the truth and at every draw."""
    assert found.log_q_truth is not None
    evidence = found.log_joint_truth - found.log_q_truth
    of_draws = found.log_joint_draws - found.log_q_draws
    torch.testing.assert_close(of_draws, evidence.expand_as(of_draws), rtol=0, atol=atol)


def test_ppca_exact() -> None:
    model, data = PPCA.example()
    model, data = model.double(), data.to(torch.float64)
    guide = Guide(model, data, "exact")
    found = simulate_posteriors(model, guide, data, num_simulations=700)
    assert (found.names, found.refits, found.local, found.rows) == (("z[0]", "z[1]"), 0, True, 1)
    assert found.draws.shape == (100, 700, 2) and found.truth.shape == (700, 2)
    same_evidence(found)
    assert sbc(found).p > ONE_IN_A_MILLION
    again = simulate_posteriors(model, guide, data, num_simulations=700)
    assert torch.equal(found.draws, again.draws) and torch.equal(found.truth, again.truth)
    other = simulate_posteriors(model, guide, data, num_simulations=700, seed=1)
    assert not torch.equal(found.truth, other.truth)


def test_missing_entries_stay_missing() -> None:
    model, data = PPCA.example()
    x = data["x"].double().clone()
    with seeded(0):
        x[torch.rand(x.shape) < 0.4] = torch.nan
    model, holes = model.double(), Dataset(x, missing=True)
    found = simulate_posteriors(model, Guide(model, holes, "exact"), holes, num_simulations=300)
    same_evidence(found)
    whole = simulate_posteriors(model, Guide(model, data, "exact"), data, num_simulations=300)
    assert found.draws.std(0).mean() > whole.draws.std(0).mean()


def test_the_sweep_leaves_the_random_state_alone() -> None:
    model, data = PPCA.example()
    guide = Guide(model, data, "mean_field", "per_datapoint")
    before = torch.get_rng_state()
    simulate_posteriors(model, guide, data, num_simulations=5, infer_steps=2)
    assert torch.equal(before, torch.get_rng_state())


def test_ppca_mean_field_from_a_table() -> None:
    """KL both ways of the best diagonal q: ½ Σ Λ_ii (Λ⁻¹)_ii − d/2, Λ the posterior precision."""
    model, data = PPCA.example()
    model, data = model.double(), data.to(torch.float64)
    guide = Guide(model, data, "mean_field", "per_datapoint")
    found = simulate_posteriors(
        model, guide, data, num_simulations=200, num_draws=50, infer_steps=300
    )
    assert found.refits == 200
    both = jeffreys(found)
    precision = torch.eye(2) + model.weight.T @ model.weight / (2 * model.log_scale).exp()
    exact = (precision.diagonal() * precision.inverse().diagonal()).sum().item() / 2 - 1
    assert both is not None and abs(both.mean - exact) < 6 * both.se + 0.02


def test_ppca_amortized_untrained_is_bad() -> None:
    model, data = PPCA.example()
    found = simulate_posteriors(model, Guide(model, data), data, num_simulations=300)
    ranks, both = sbc(found), jeffreys(found)
    assert ranks.p < ONE_IN_A_MILLION and both is not None and both.p < 1e-3


class Mixture(Model):
    """y ~ Categorical, z | y ~ N(±2, 1), x | z ~ N(z, 1)."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7])))
            z = pyro.sample("z", dist.Normal(4.0 * y - 2.0, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0))


def mixture_guide(batch: Batch) -> None:
    """p(z | x), y summed out."""
    loc = torch.tensor([-2.0, 2.0])
    x = batch["x"].unsqueeze(-1)
    logits = torch.tensor([0.3, 0.7]).log() + dist.Normal(loc, 2**0.5).log_prob(x)
    parts = dist.Normal((x + loc) / 2, SIGMA)
    with rows(batch):
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=logits), parts))


def mixture_joint_guide(batch: Batch) -> None:
    """p(y | x) p(z | x, y)."""
    loc = torch.tensor([-2.0, 2.0])
    x = batch["x"].unsqueeze(-1)
    logits = torch.tensor([0.3, 0.7]).log() + dist.Normal(loc, 2**0.5).log_prob(x)
    with rows(batch):
        y = pyro.sample("y", dist.Categorical(logits=logits))
        pyro.sample("z", dist.Normal((batch["x"] + loc[y]) / 2, SIGMA))


@pytest.mark.parametrize("guide", [mixture_guide, mixture_joint_guide])
def test_enumerated_and_drawn_labels(guide: Any) -> None:
    data = torch.zeros(4)
    found = simulate_posteriors(Mixture(), guide, data, num_simulations=1500, num_draws=50)
    same_evidence(found)
    drawn = guide is mixture_joint_guide
    assert found.names == (("z[0]", "y") if drawn else ("z[0]",))
    assert sbc(found).p > ONE_IN_A_MILLION
    covered = coverage(found)
    assert covered.worst is not None and covered.worst.p > ONE_IN_A_MILLION
    z = found.truth[:, 0]
    prior = found.log_joint_truth - found.log_likelihood_truth  # log p(z), or log p(y, z)
    states = torch.tensor([0.3, 0.7]).log() + dist.Normal(torch.tensor([-2.0, 2.0]), 1.0).log_prob(
        z.unsqueeze(-1)
    )
    y = found.truth[:, 1:].long()
    expected = states.gather(1, y).squeeze(1) if drawn else states.logsumexp(-1)
    torch.testing.assert_close(prior, expected, rtol=0, atol=1e-9)


def test_a_guide_of_ours_leaves_labels_out() -> None:
    data = Dataset(torch.randn(30))
    model = Mixture()
    found = simulate_posteriors(model, Guide(model, data), data, num_simulations=50)
    assert found.names == ("z[0]",) and bool(found.log_joint_draws.isfinite().all())
    only_labels = GMMLike()
    with pytest.raises(ValueError, match="all of them are summed out"):
        simulate_posteriors(only_labels, Guide(only_labels, data), data, num_simulations=5)


class GMMLike(Model):
    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7])))
            return pyro.sample("x", dist.Normal(4.0 * y - 2.0, 1.0))


def test_m2_has_its_label_among_the_units() -> None:
    model, data = M2.example()
    model, data = model.double(), data.to(torch.float64)
    guide = Guide(model, data)
    found = simulate_posteriors(model, guide, data, num_simulations=40, num_draws=20)
    assert found.names == ("z[0]", "z[1]", "y")
    assert found.log_q_truth is not None and bool(found.log_q_truth.isfinite().all())
    assert set(found.truth[:, 2].tolist()) <= {0.0, 1.0, 2.0}
    labelled = data.labelled([0, 3])
    assert simulate_posteriors(model, guide, labelled, num_simulations=5).names[-1] == "y"


class Positive(Model):
    """A label, and two latents that a guide packs in one vector."""

    labels = ("y",)
    estimator = "enumerate"

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7])))
            z = pyro.sample("z", dist.LogNormal(1.0 * y, 1.0))
            w = pyro.sample("w", dist.Dirichlet(torch.ones(3)))
            mean = z.unsqueeze(-1) * w
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1))


def small(model: str) -> tuple[Model, Dataset]:
    data = Dataset(torch.randn(12, 4))
    binary = Dataset((torch.rand(12, 6) < 0.5).double())
    made: dict[str, Callable[[], tuple[Model, Dataset]]] = {
        "ppca": lambda: (PPCA(4), data),
        "vae": lambda: (VAE(4, 2, (8,), likelihood="gaussian"), data),
        "m2": lambda: (M2(6, 3, latent_dim=2, hidden=(8,), likelihood="bernoulli"), binary),
        "m1m2": lambda: (M1M2(6, 3, 2, 2, (8,), (8,), likelihood="bernoulli"), binary),
        "hierarchical": lambda: (HierarchicalVAE(6, likelihood="bernoulli"), binary),
        "positive": lambda: (Positive(), Dataset(torch.randn(12, 3))),
        "bayesian_ppca": lambda: (BayesianPPCA(4), data),
    }
    return made[model]()


KINDS: list[tuple[str, dict[str, Any]]] = [
    ("ppca", {"family": "mean_field", "inference": "per_datapoint"}),
    ("ppca", {"family": "exact"}),
    ("ppca", {"family": "iaf"}),
    ("ppca", {"family": "planar"}),
    ("ppca", {"inference": "semi_amortized"}),
    ("m2", {}),
    ("m2", {"inference": "per_datapoint", "family": "full_rank"}),
    ("m2", {"estimator": "score"}),
    ("m1m2", {}),
    ("hierarchical", {"inference": "bottom_up"}),
    ("positive", {}),
    ("positive", {"estimator": "collapse"}),
    ("bayesian_ppca", {}),
]


@pytest.mark.parametrize(("model", "options"), KINDS)
def test_log_q_of_own_draws_is_what_they_were_drawn_with(
    model: str, options: dict[str, Any]
) -> None:
    p, data = small(model)
    guide, batch = Guide(p, data, **options), data.batch()
    with torch.no_grad(), seeded(0):
        sites = recorded(p, guide, batch, 1, 1)
    latents = guide.latents
    names = {n: sites[n]["value"] for n in latents.names if n in sites}
    local = tuple(n for n in names if n not in latents.global_.names)
    truth = Truth(names, local, latents.discrete)
    with torch.no_grad(), seeded(0):
        got = log_q_of(p, guide, batch, names, truth, tuple(sites))
    terms = [s["fn"].log_prob(s["value"]) for s in sites.values()]
    if truth.whole:
        expected = torch.stack([term.sum() for term in terms]).sum().reshape(1, 1)
    else:
        expected = torch.cat([term.reshape(1, len(batch)) for term in terms]).sum(0, keepdim=True)
    assert got is not None
    torch.testing.assert_close(got, expected.double(), rtol=1e-8, atol=1e-6)


def test_several_sites_and_supports() -> None:
    model, data = small("positive")
    found = simulate_posteriors(model, Guide(model, data), data, num_simulations=30, num_draws=9)
    assert found.names == ("z[0]", "w[0]", "w[1]", "w[2]", "y")
    assert found.scored and coverage(found).joint is not None


def test_pieces_do_not_change_what_is_computed() -> None:
    model, data = small("vae")
    guide = Guide(model, data)
    found = simulate_posteriors(
        model, guide, data, num_simulations=40, num_draws=10, max_elements=200
    )
    both = jeffreys(found)
    assert both is not None and found.draws.shape == (10, 40, 2)
    other = simulate_posteriors(model, guide, data, num_simulations=40, num_draws=10)
    assert torch.equal(found.truth, other.truth)
    torch.testing.assert_close(found.log_q_truth, other.log_q_truth)


def test_draws_of_a_chain_have_no_density() -> None:
    model, data = PPCA.example()
    model, data = model.double(), data.to(torch.float64)
    options = {"num_leapfrog": 2, "metropolis": True, "num_transitions": 3}
    guide = Guide(model, data, "hamiltonian", family_options=options)
    found = simulate_posteriors(model, guide, data, num_simulations=60, num_draws=10)
    assert found.log_q_truth is None and bool(found.log_q_draws.isnan().all())
    assert jeffreys(found) is None and coverage(found).joint is None
    assert sbc(found).names[-1] == "log p(x|z)"
    bound = Guide(model, data, "hamiltonian")  # scores its own draws alone
    assert simulate_posteriors(model, bound, data, num_simulations=5).log_q_truth is None


class Rates(Model):
    """Counts with an exposure, an input."""

    inputs = ("exposure",)

    def forward(self, n: int, exposure: Tensor) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0))
            return pyro.sample("x", dist.Poisson(z * exposure))


def test_inputs_come_from_the_rows() -> None:
    """Gamma-Poisson with the exact posterior Gamma(2 + x, 1 + e), n = 1500."""

    def guide(batch: Batch) -> None:
        with rows(batch):
            pyro.sample("z", dist.Gamma(2.0 + batch["x"], 1.0 + batch["exposure"]))

    data = Dataset({"x": torch.ones(3), "exposure": torch.tensor([0.1, 1.0, 50.0])})
    found = simulate_posteriors(Rates(), guide, data, num_simulations=1500, num_draws=50)
    same_evidence(found)
    assert sbc(found).p > ONE_IN_A_MILLION
    sd = found.draws.std(0)[:, 0]
    assert (sd < 0.5).double().mean().sub(1 / 3).abs() < 0.12  # a third of the rows, nearly all


def rates(x: Tensor) -> None:
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def loop(x: Tensor) -> None:
    """The same, in a way that takes no particles."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(torch.stack([z[i] for i in range(len(x))]), 1.0), obs=x)


def renamed(y: Tensor) -> None:
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=y)


@pytest.mark.parametrize(("fn", "name"), [(rates, "x"), (loop, "x"), (renamed, "y")])
def test_a_plain_pair(fn: Any, name: str) -> None:
    def guide(batch: Batch) -> None:
        with pyro.plate("rows", len(batch)):
            pyro.sample("z", dist.Normal(batch[name] / 2, SIGMA))

    data = Dataset({name: torch.randn(6)})
    few = fn is loop
    found = simulate_posteriors(
        plain(fn), guide, data, num_simulations=10 if few else 800, num_draws=5 if few else 50
    )
    same_evidence(found)
    assert sbc(found).p > ONE_IN_A_MILLION


def elsewhere(x: Tensor) -> None:
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=x + 1)


def with_factor(x: Tensor) -> None:
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", -z.square())
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class Table(nn.Module):
    """One location a row of its data set."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.loc = nn.Parameter(start)

    def forward(self, batch: Batch) -> None:
        with rows(batch):
            pyro.sample("z", dist.Normal(self.loc[batch.index], 1.0))


def test_refusals_are_in_words() -> None:
    model, data = Conjugate(), Dataset(torch.randn(5))

    exact = gaussian()

    def refused(words: str, model: Any = model, guide: Any = exact, **options: Any) -> None:
        with pytest.raises(ValueError, match=words):
            simulate_posteriors(model, guide, data, **{"num_simulations": 20, **options})

    refused("point mass", guide=Guide(model, data, "delta"))
    refused("two simulations and two draws", num_draws=1)
    refused("two simulations and two draws", num_simulations=1)
    refused(r"place of a row in its data set \(batch.index\)", guide=Table(torch.randn(5)))
    refused("cannot be applied to simulated rows", guide=Table(torch.zeros(2)))
    refused("'y' is not a column of the data", model=plain(elsewhere))
    refused("has the factor 'f'", model=plain(with_factor))

    def point(batch: Batch) -> None:
        with rows(batch):
            pyro.sample("z", dist.Delta(batch["x"]))

    refused(r"all draws of z\[0\] are one", guide=point)

    class Wild(Model):
        def forward(self, n: int) -> Tensor:
            with pyro.plate("data", n, dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1e200))
                return pyro.sample("x", dist.Normal(z * z, 1.0))

    refused("simulated 'x' are not finite", model=Wild())


# Global latents.


class Location(Model):
    """g ~ N(0, 1), x_n | g ~ N(g, 1): p(g | x) = N(Σ x/(N + 1), 1/(N + 1))."""

    def forward(self, n: int) -> Tensor:
        g = pyro.sample("g", dist.Normal(0.0, 1.0))
        with pyro.plate("data", n, dim=-1):
            return pyro.sample("x", dist.Normal(g, 1.0))


def test_global_latents_are_fitted_anew() -> None:
    """4 data sets of 10 rows; 150 steps bring q to within a few thousandths of a nat."""
    model, data = Location(), Dataset(torch.randn(10))
    guide = Guide(model, data)
    before = {name: p.clone() for name, p in guide.named_parameters()}
    found = simulate_posteriors(
        model, guide, data, num_simulations=4, num_draws=50, refit_steps=150, refit_lr=0.1
    )
    assert (found.names, found.refits, found.local, found.rows) == (("g[0]",), 4, False, 10)
    both = jeffreys(found)
    assert both is not None and abs(both.mean) * 10 < 0.3
    assert all(torch.equal(before[name], p) for name, p in guide.named_parameters())
    assert found.draws.std(0).mean().item() == pytest.approx(11**-0.5, rel=0.2)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self, batch: Batch) -> None:
        pyro.sample("g", dist.Normal(self.loc, 11**-0.5))


def test_a_plain_module_is_copied_and_fitted() -> None:
    data, guide = Dataset(torch.randn(10)), Shared()
    options = {"num_simulations": 2, "num_draws": 20, "refit_steps": 100, "refit_lr": 0.1}
    found = simulate_posteriors(Location(), guide, data, **options)  # type: ignore[arg-type]
    assert guide.loc.item() == 0 and found.scored
    away = found.draws.mean(0)[:, 0] - found.truth[:, 0]
    assert away.abs().max() < 6 * 11**-0.5

    def fixed(batch: Batch) -> None:
        pyro.sample("g", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match="no parameters to fit"):
        simulate_posteriors(Location(), fixed, data, num_simulations=2)


@pytest.mark.parametrize("auto", [False, True])
def test_bayesian_ppca(auto: bool) -> None:
    model, data = BayesianPPCA(3), Dataset(torch.randn(6, 3))
    options = {"global_family": "AutoNormal"} if auto else {"inference": "per_datapoint"}
    guide = Guide(model, data, **options)  # type: ignore[arg-type]
    found = simulate_posteriors(
        model, guide, data, num_simulations=2, num_draws=7, refit_steps=4, max_elements=500
    )
    assert len(found.names) == 2 + 6 + 3 + 1 and found.names[-1] == "scale[0]"
    assert found.draws.shape == (7, 2, 12) and bool(found.log_joint_draws.isfinite().all())
    assert (found.log_q_truth is None) == auto
    assert bool(found.log_q_draws.isfinite().all())


def test_bayesian_gmm() -> None:
    model, data = BayesianGMM(2, 2), Dataset(torch.randn(8, 2))
    found = simulate_posteriors(
        model, Guide(model, data), data, num_simulations=3, num_draws=5, refit_steps=3
    )
    assert "correlation[0]" not in found.names  # 1 in every draw
    assert {"weights[0]", "locs[3]", "scales[0]", "correlation[2]"} <= set(found.names)
    assert found.scored and bool(found.log_likelihood_draws.isfinite().all())
    assert sbc(found).count == 3


def test_a_guide_anew_is_untrained_and_shares_only_the_model() -> None:
    data = Dataset(torch.randn(20, 4))
    model = PPCA(4)
    net = nn.Sequential(nn.Linear(4, 4))
    guide = Guide(model, data, inference_options={"encoder": net})
    other = guide.anew(torch.randn(7, 4))
    assert other.model is model and other.spec.keys() == guide.spec.keys()
    assert not {id(p) for p in guide.parameters()} & {id(p) for p in other.parameters()}
    assert not torch.equal(other.source.encoder[0].weight, net[0].weight)  # type: ignore[index, union-attr]
    table = Guide(model, data, "full_rank", "per_datapoint").anew(torch.randn(7, 4))
    assert table.source.table.num_embeddings == 7  # type: ignore[union-attr]


@pytest.mark.cuda
def test_on_a_cuda_device() -> None:
    model, data = PPCA.example()
    model = model.double().cuda()
    found = simulate_posteriors(model, Guide(model, data, "exact"), data, num_simulations=500)
    assert found.draws.is_cuda
    same_evidence(found)
    covered, both = coverage(found), jeffreys(found)
    assert covered.worst is not None and both is not None and abs(both.mean) < 1e-8
    for p in (sbc(found).p, tarp(found).p, vsbc(found).p, covered.worst.p):
        assert p > ONE_IN_A_MILLION
    shared = Location().cuda()
    refitted = simulate_posteriors(
        shared, Guide(shared, torch.randn(9)), torch.randn(9), num_simulations=2, refit_steps=5
    )
    assert refitted.draws.is_cuda
