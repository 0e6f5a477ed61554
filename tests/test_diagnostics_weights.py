"""Draws with weights, Pareto smoothing, bounds, corrected moments, global weights, collapse."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

from guides.guide import Guide
from zoo.data import Batch, Dataset, as_dataset
from zoo.diagnostics import draws as draws_file
from zoo.diagnostics import pareto
from zoo.diagnostics.bounds import bounds
from zoo.diagnostics.collapse import collapse
from zoo.diagnostics.draws import WeightedDraws, weighted_draws
from zoo.diagnostics.global_weights import global_weights
from zoo.diagnostics.moments import corrected_moments
from zoo.diagnostics.prior_moments import prior_moments
from zoo.diagnostics.psis import psis, tail_of
from zoo.diagnostics.row_kl import row_kl
from zoo.functions import plain
from zoo.model import Model, rows
from zoo.models.bayesian_ppca import BayesianPPCA
from zoo.models.gmm import GMM
from zoo.models.m2 import M2
from zoo.models.ppca import PPCA
from zoo.sites import Latents

pytestmark = pytest.mark.usefixtures("float64")

LOG_EVIDENCE, ELBO, IWAE_2 = -1.8280121234846454, -2.019299048862499, -1.8973181847
CUBO, ESS_FRACTION = -1.7337305153, 0.8281481493


class ModelA(Model):
    """z ~ N(0, 1), x | z ~ N(z, 1)."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0))


def guide_a(batch: Batch) -> None:
    """q(z) = N(1.1, 0.9²) for x = 1.5."""
    with rows(batch):
        pyro.sample("z", dist.Normal(1.1, 0.9))


def draws_a(num_rows: int, num_draws: int, **options: Any) -> WeightedDraws:
    return weighted_draws(ModelA(), guide_a, torch.full((num_rows,), 1.5), num_draws, **options)


def linear(n: int = 20) -> tuple[PPCA, Dataset]:
    """PPCA as it starts, and n flowers."""
    model, data = PPCA.example()
    return model.double(), data.to(dtype=torch.float64).subset(range(n))


def log_ratio_a(z: Tensor) -> Tensor:
    p = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(torch.tensor(1.5))
    return p - dist.Normal(1.1, 0.9).log_prob(z)


# Draws


def test_weights_are_those_of_the_values() -> None:
    """Also in pieces, of rows and of draws, whose random numbers are others."""
    for max_elements in (None, 200):
        found = draws_a(7, 150, max_elements=max_elements)
        assert found.values is not None and found.values.shape == (150, 7, 1)
        assert found.names == ("z[0]",) and not found.no_values and not found.given_globals
        torch.testing.assert_close(found.log_weight, log_ratio_a(found.values[..., 0]))
        assert found.elbo_terms is found.log_weight
        assert (found.num_draws, found.num_rows) == (150, 7)
        assert len(found.values.unique()) == 7 * 150
    json.dumps(found.as_dict())


def test_draws_are_reproducible_and_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    one, two, other = draws_a(3, 100), draws_a(3, 100), draws_a(3, 100, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.log_weight, two.log_weight)
    assert not torch.equal(one.log_weight, other.log_weight)


def test_draws_refuse_a_point_mass_and_too_few() -> None:
    model, data = linear()
    with pytest.raises(ValueError, match="point mass"):
        weighted_draws(model, Guide(model, data, "delta"), data)
    with pytest.raises(ValueError, match="from 100"):
        weighted_draws(model, Guide(model, data), data, 99)


@pytest.mark.parametrize("family", ["mean_field", "full_rank", "planar:2", "hamiltonian:2"])
def test_values_of_every_family(family: str) -> None:
    model, data = linear(10)
    guide = Guide(model, data, family)
    found = weighted_draws(model, guide, data, 100, max_elements=3000)
    assert found.values is not None and found.names == ("z[0]", "z[1]")
    if family != "hamiltonian:2":  # whose log weight is one of the longer vector
        joint = dist.Normal(0.0, 1.0).log_prob(found.values).sum(-1)
        mean = found.values @ model.weight.T + model.mean
        joint = joint + dist.Normal(mean, model.log_scale.exp()).log_prob(data["x"]).sum(-1)
        if guide.scores:
            log_q = guide.log_prob(data.batch(), {"z": found.values})
            torch.testing.assert_close(found.log_weight, (joint - log_q).detach())
    assert found.log_weight.isfinite().all() and found.values.isfinite().all()


def gamma_rows(x: Tensor) -> None:
    with pyro.plate("rows", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        shift = pyro.sample("shift", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Poisson(rate * shift.sum(-1).exp()), obs=x)


def one_value_only(x: Tensor) -> None:
    """A function that takes no particles."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.reshape(len(x)), 1.0), obs=x)


def test_plain_functions() -> None:
    data = as_dataset(torch.tensor([1.0, 4.0, 0.0]))

    def guide(batch: Batch) -> None:
        with rows(batch, "rows"):
            rate = pyro.sample("rate", dist.Gamma(3.0, 2.0))
            pyro.sample(
                "shift", dist.Normal(rate.unsqueeze(-1).expand(*rate.shape, 2), 1.0).to_event(1)
            )

    found = weighted_draws(plain(gamma_rows), guide, data, 200)
    assert found.names == ("rate[0]", "shift[0]", "shift[1]")
    assert found.values is not None and (found.values[..., 0] > 0).all()
    rate, shift = found.values[..., 0], found.values[..., 1:]
    log_p = dist.Gamma(2.0, 1.0).log_prob(rate) + dist.Normal(0.0, 1.0).log_prob(shift).sum(-1)
    log_p = log_p + dist.Poisson(rate * shift.sum(-1).exp()).log_prob(data["x"])
    log_q = dist.Gamma(3.0, 2.0).log_prob(rate)
    log_q = log_q + dist.Normal(rate.unsqueeze(-1), 1.0).log_prob(shift).sum(-1)
    torch.testing.assert_close(found.log_weight, log_p - log_q)
    ours = weighted_draws(plain(gamma_rows), Guide(plain(gamma_rows), data), data, 100)
    assert ours.names == found.names and (ours.values[..., 0] > 0).all()

    def simple(batch: Batch) -> None:
        with rows(batch, "rows"):
            pyro.sample("z", dist.Normal(1.1, 0.9))

    x = torch.full((2,), 1.5)
    alone = weighted_draws(plain(one_value_only), simple, x, 100)
    torch.testing.assert_close(alone.log_weight, log_ratio_a(alone.values[..., 0]))


def test_globals_are_one_draw_for_all_rows_and_pieces() -> None:
    model, data = BayesianPPCA(4).double(), linear(12)[1]
    guide = Guide(model, data)
    for max_elements in (None, 2000):
        found = weighted_draws(model, guide, data, 100, max_elements=max_elements)
        assert found.given_globals and found.values is not None
        g = found.globals
        mean = found.values @ g["weight"].T + g["mean"]
        log_p = dist.Normal(mean, g["scale"]).log_prob(data["x"]).sum(-1)
        log_p = log_p + dist.Normal(0.0, 1.0).log_prob(found.values).sum(-1)
        log_q = guide.log_prob(data.batch(), {"z": found.values})
        torch.testing.assert_close(found.log_weight, (log_p - log_q).detach())
    held = found.hold(guide)
    assert torch.equal(held(data.batch())["weight"], g["weight"])


def test_labels_without_values() -> None:
    """q(y | x): z depends on y; labelled rows come first and have one term for both."""
    x, y = torch.rand(12, 6), torch.arange(12) % 3
    data = as_dataset(x).labelled(list(range(4)), y[:4])
    model = M2(6, num_classes=3, latent_dim=2, hidden=(8,), likelihood="gaussian").double()
    guide = Guide(model, data)
    found = weighted_draws(model, guide, data, 100)
    assert found.values is None and "q(y | x)" in found.no_values and found.names == ()
    assert torch.equal(found.log_weight[:, :4], found.elbo_terms[:, :4])
    assert (found.elbo_terms[:, 4:] < found.log_weight[:, 4:]).all()
    with pytest.raises(ValueError, match="q\\(y"):
        found.needs_values()


def test_rows_without_continuous_latents_or_with_too_many(monkeypatch) -> None:
    model, data = GMM.example()
    model, data = model.double(), data.to(dtype=torch.float64)
    found = weighted_draws(model, Guide(model, data), data, 100)
    assert found.values is None and "no continuous" in found.no_values
    torch.testing.assert_close(found.log_weight[0], model.log_evidence(data["x"]).detach())
    monkeypatch.setattr(draws_file, "MOST_VALUES", 100 * 5 - 1)
    assert "500 numbers" in draws_a(5, 100).no_values


# Pareto smoothing


def by_arviz(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    import arviz as az

    with np.errstate(over="ignore"):
        weights, k = az.psislw(log_weights.movedim(0, -1).numpy().copy())
    return torch.as_tensor(np.asarray(weights)).movedim(-1, 0), torch.as_tensor(np.asarray(k))


@pytest.mark.parametrize("draws", [100, 999, 4000])
def test_same_as_arviz(draws: int) -> None:
    scale = torch.tensor([0.01, 0.3, 1.0, 3.0, 30.0])
    found = torch.randn(draws, 4, 5) * scale + 50 * torch.randn(4, 5)
    found[:, 0] = torch.randn(draws, 5).round(decimals=1) * scale  # ties, also at the cutoff
    found[: draws // 2, 1] = -torch.inf
    ours, (weights, k) = psis(found), by_arviz(found)
    torch.testing.assert_close(ours.k, k, rtol=0, atol=1e-6)
    # Equal weights get the quantiles in any order.
    for one, two in ((ours.log_weights[:, 1:], weights[:, 1:]), (ours.log_weights, weights)):
        one, two = (one, two) if one.shape[1] == 3 else (one.sort(0).values, two.sort(0).values)
        torch.testing.assert_close(one.exp(), two.exp(), rtol=0, atol=1e-6)
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.log_weights.logsumexp(0), torch.zeros(4, 5))
    torch.testing.assert_close(ours.ess, 1 / weights.exp().square().sum(0))


def test_one_row_at_a_time_is_the_same(monkeypatch) -> None:
    from zoo.diagnostics import psis as psis_file

    found = torch.randn(200, 9)
    whole = psis(found)
    monkeypatch.setattr(psis_file, "ROOM", 400)
    parts = psis(found)
    torch.testing.assert_close(whole.k, parts.k)
    torch.testing.assert_close(whole.log_weights, parts.log_weights)
    assert psis(found[:, 0]).k.shape == () and torch.equal(psis(found[:, 0]).k, parts.k[0])


def test_constant_weights_and_other_ends() -> None:
    found = 0.3 * torch.randn(1000, 4)
    found[:, 0] = 3.0 + 1e-10 * found[:, 0]
    found[:, 1] = -torch.inf
    found[1:, 2] = -torch.inf
    ours = psis(found)
    assert ours.constant.tolist() == [True, False, False, False]
    assert ours.k[0] == -math.inf and ours.se[0] == 0 and ours.ess_fraction_se[0] == 0
    torch.testing.assert_close(ours.ess[0], torch.tensor(1000.0))
    torch.testing.assert_close(ours.log_weights[:, 0].exp(), torch.full((1000,), 1e-3))
    assert ours.k[1] == ours.k[2] == math.inf and ours.ess[1] == 0
    torch.testing.assert_close(ours.ess[2], torch.tensor(1.0))
    assert ours.usable.tolist() == [True, False, False, True]
    atoms = torch.where(torch.rand(1000) < 0.5, 0.0, -3.0)  # of discrete latents
    assert psis(atoms).k == -math.inf and psis(atoms).se == 0 and not psis(atoms).constant
    torch.testing.assert_close(psis(atoms).log_weights, atoms - atoms.logsumexp(0))
    rounded = 100 + 1e-7 * torch.randn(1000)
    assert not psis(rounded).constant and psis(rounded, tolerance=1e-5).constant
    assert ours.num_tail == 95 and ours.threshold == pytest.approx(2 / 3)
    json.dumps(ours.as_dict(), allow_nan=False)


def test_psis_refuses() -> None:
    with pytest.raises(ValueError, match="25 draws"):
        psis(torch.randn(24, 3))
    with pytest.raises(ValueError, match="NaN"):
        psis(torch.full((30, 3), torch.nan))
    with pytest.raises(ValueError, match="one row"):
        tail_of(torch.randn(30, 3))
    with pytest.raises(ValueError, match="five"):
        tail_of(torch.zeros(30))


def test_tail_index_of_a_gaussian_in_two_dimensions() -> None:
    """q = N(0, s² I₂) for p = N(0, I₂): w is exactly Pareto, of index 1 − s².

    60 rows of 10 000 draws, M = 300: a row's k̂ has an error of (1 + k)/√300 (0.1 at most, 0.013
    their mean), and a bias below 1/M = 0.003 beside that of the prior. Bands of 6 errors.
    """
    for variance in (0.3, 0.7):
        k, count = 1 - variance, 300
        z = torch.randn(10_000, 60, 2) * math.sqrt(variance)
        log_w = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(0.0, variance**0.5).log_prob(z)
        found = psis(log_w.sum(-1))
        assert found.num_tail == count
        expected, error = (count * k + 5) / (count + 10), (1 + k) / math.sqrt(count)
        assert abs(found.k.mean() - expected) < 6 * error / math.sqrt(60) + 0.004
        assert abs(found.k.std() / error - 1) < 0.6  # known to 9 %
        torch.testing.assert_close(found.se, (1 + found.k) / math.sqrt(count))


def chi_square_index(k: float, share: float, count: int = 3000) -> float:
    """What the fit says of the upper ``share`` of w = exp(k χ²₁/2), without sampling noise."""
    middles = (np.arange(count) + 0.5) / count
    tail = stats.chi2.isf(share * (1 - middles), 1) - stats.chi2.isf(share, 1)
    excess = np.expm1(k / 2 * tail)
    found, _ = pareto.fit(torch.as_tensor(excess)[None])
    return ((count + 10) * found.item() - 5) / count


def test_tail_index_of_a_gaussian_in_one_dimension() -> None:
    """The index is 1 − s²; k̂ is below it by the logarithm in the tail, √(k/(π log t)) t^(−1/k).

    The fit to exact quantiles rises to the limit as the tail is cut further out, and k̂ of draws
    is that of their own cutoff: 60 rows of 10 000 draws, an error of 0.013, a band of 6 of them
    and 0.006 for what exact quantiles leave out.
    """
    k, count = 0.75, 300
    limit = [chi_square_index(k, share) for share in (1e-1, 1e-2, 1e-4, 1e-8, 1e-16, 1e-60)]
    assert all(one < two < k for one, two in zip(limit, limit[1:], strict=False))
    assert limit[1] < k - 0.04 and limit[-1] > k - 0.01
    z = torch.randn(10_000, 60) * 0.5
    log_w = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(0.0, 0.5).log_prob(z)
    expected = (count * chi_square_index(k, count / 10_000) + 5) / (count + 10)
    error = (1 + k) / math.sqrt(count) / math.sqrt(60)
    assert abs(psis(log_w).k.mean() - expected) < 6 * error + 0.006


class Correlated(Model):
    """z ~ N(0, Λ⁻¹), Λ = [[1, ρ], [ρ, 1]], and x that tells nothing of z."""

    def __init__(self, rho: float) -> None:
        super().__init__()
        self.rho = rho

    def forward(self, n: int) -> Tensor:
        precision = torch.tensor([[1.0, self.rho], [self.rho, 1.0]])
        with pyro.plate("data", n, dim=-1):
            q = dist.MultivariateNormal(torch.zeros(2), precision_matrix=precision)
            pyro.sample("z", q)
            return pyro.sample("x", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize("rho", [0.4, -0.8])
def test_tail_index_of_a_mean_field_guide(rho: float) -> None:
    """|ρ|, from below as in one dimension: 20 rows of 20 000 draws, M = 425.

    The error of their mean is (1 + |ρ|)/√(20 M), 0.02; between 3/4 |ρ| and |ρ| with 6 of them and
    the prior's 10 (½ − |ρ|)/M.
    """

    def guide(batch: Batch) -> None:
        with rows(batch):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    draws = weighted_draws(Correlated(rho), guide, torch.zeros(20), 20_000)
    found = psis(draws.log_weight)
    error = (1 + abs(rho)) / math.sqrt(20 * 425) * 6 + 0.01
    assert 0.75 * abs(rho) - error < found.k.mean() < abs(rho) + error


def test_ess_fraction_and_its_error() -> None:
    """400 rows of 4000 draws: the mean fraction to 6 errors, and the errors are the spread."""
    found = psis(draws_a(400, 4000).log_weight)
    error = found.ess_fraction.std() / 20
    assert error < 5e-4
    # Smoothing and 1/E against E 1/… are below 1/S of it.
    assert abs(found.ess_fraction.mean() - ESS_FRACTION) < 6 * error + 1e-3
    assert 0.7 < found.ess_fraction_se.mean() / found.ess_fraction.std() < 1.4
    assert (found.k < 0.5).all()


def test_tail_for_a_plot() -> None:
    log_w = torch.randn(4000) * 1.5
    tail, whole = tail_of(log_w + 7), psis(log_w)
    assert len(tail.excess) == whole.num_tail and (tail.excess.diff() > 0).all()
    assert tail.k == pytest.approx(whole.k.item(), abs=1e-9)
    torch.testing.assert_close(tail.exceedance[0], torch.tensor(1 - 0.5 / 190))
    assert (tail.fitted - tail.exceedance).abs().max() < 0.2
    x = pareto.quantile(1 - tail.exceedance, torch.tensor([tail.k]), torch.tensor([tail.sigma]))
    again = pareto.survival(x[0], torch.tensor(tail.k), torch.tensor(tail.sigma))
    torch.testing.assert_close(again, tail.exceedance)
    zero, one = torch.zeros(1), torch.ones(1)
    torch.testing.assert_close(pareto.quantile(1 - (-one).exp(), zero, one), one[None])
    torch.testing.assert_close(pareto.survival(one, zero, one), (-one).exp())


# Bounds


def test_bounds_of_known_values() -> None:
    """20 rows of 20 000 draws, bands of 6 errors; IWAE_S is 1e-5 below log p(x)."""
    found = bounds(draws_a(20, 20_000).log_weight, levels=[2])
    assert found.levels == (1, 2, 20_000) and found.num_draws == 20_000
    truths = (ELBO, IWAE_2, LOG_EVIDENCE)
    for bound, truth in zip(found.ladder, truths, strict=True):
        assert bound.se < 0.005 and abs(bound.mean - truth) < 6 * bound.se + 1e-4
    assert abs(found.gap.mean - (LOG_EVIDENCE - ELBO)) < 6 * found.gap.se + 1e-4
    assert abs(found.jackknife.mean - LOG_EVIDENCE) < 6 * found.jackknife.se + 1e-5
    assert abs(found.cubo.mean - CUBO) < 6 * found.cubo.se + 1e-4
    assert found.elbo is found.ladder[0] and found.iwae is found.ladder[-1]
    assert not found.cubo_certifies
    json.dumps(found.as_dict(), allow_nan=False)


def test_errors_of_bounds_are_the_spread_of_rows() -> None:
    """600 rows alike, of 1000 draws: a variance is known to 6 %, and the band is 6 times that."""
    found = bounds(draws_a(600, 1000).log_weight)
    for one in (*found.ladder, found.gap, found.jackknife, found.cubo):
        ratio = one.error.square().mean() / one.rows.var()
        assert 0.65 < ratio < 1.5
    for low, high in zip(found.ladder, found.ladder[1:], strict=False):
        assert low.mean < high.mean + 6 * low.se


def test_the_jackknife_leaves_out_each_draw() -> None:
    h = torch.randn(30, 4) * 2
    h[3, 1] = 60.0  # next to all of the weight
    found = bounds(h).jackknife
    left = []
    for s in range(30):
        keep = [i for i in range(30) if i != s]
        left.append(h[keep].logsumexp(0) - math.log(29))
    whole = h.logsumexp(0) - math.log(30)
    values = 30 * whole - 29 * torch.stack(left)
    torch.testing.assert_close(found.rows, values.mean(0))
    torch.testing.assert_close(found.error, values.std(0) / math.sqrt(30))


def test_the_jackknife_takes_the_bias_away() -> None:
    """100 000 rows of 20 draws: IWAE_20 is 0.0053 low, 16 standard errors; the jackknife 1e-4."""
    found = bounds(log_ratio_a(1.1 + 0.9 * torch.randn(20, 100_000)))
    error = float(found.jackknife.rows.std()) / math.sqrt(100_000)
    assert error < 4e-4
    assert found.iwae.mean < LOG_EVIDENCE - 0.003
    assert abs(found.jackknife.mean - LOG_EVIDENCE) < 6 * error + 3e-4


def test_bounds_with_elbo_terms_of_their_own() -> None:
    h = torch.randn(100, 3)
    found, same = bounds(h, h - 1), bounds(h)
    torch.testing.assert_close(found.elbo.rows, same.elbo.rows - 1)
    torch.testing.assert_close(found.gap.rows, same.gap.rows + 1)
    torch.testing.assert_close(found.gap.error, same.gap.error)
    torch.testing.assert_close(found.ladder[1].rows, same.ladder[1].rows)
    for bad in (h[:1], h[0]):
        with pytest.raises(ValueError, match="two draws"):
            bounds(bad)
    with pytest.raises(ValueError, match="same shape"):
        bounds(h, h[:50])
    with pytest.raises(ValueError, match="levels"):
        bounds(h, levels=[70])


# Corrected moments


def test_moments_of_known_values() -> None:
    """q = N(1.1, 0.9²), posterior N(0.75, ½): 300 rows of 4000 draws, bands of 6 errors.

    Smoothing and self-normalisation have a bias of the order of 1/S.
    """
    draws = draws_a(300, 4000)
    found = corrected_moments(draws, psis(draws.log_weight))
    sd, root = math.sqrt(0.5), math.sqrt(300)
    for values, errors, truth in (
        (found.mean, None, 1.1),
        (found.sd, None, 0.9),
        (found.corrected_mean, found.corrected_mean_error, 0.75),
        (found.corrected_sd, found.corrected_sd_error, sd),
        (found.shift, found.shift_error, (0.75 - 1.1) / sd),
        (found.log_sd_ratio, found.log_sd_ratio_error, math.log(0.9 / sd)),
    ):
        assert values.shape == (300, 1)
        assert abs(values.mean() - truth) < 6 * values.std() / root + 1e-3
        if errors is not None:  # a variance is known to 8 %
            assert 0.6 < errors.square().mean() / values.var() < 1.6
    assert found.usable.all()
    assert found.rms_shift.item() == pytest.approx(0.35 / sd, abs=0.01)
    assert found.rms_log_sd_ratio.item() == pytest.approx(math.log(0.9 / sd), abs=0.01)
    worst = found.worst()
    assert worst is not None and worst.name == "z[0]"
    assert worst.shift == found.shift[:, 0].min() == found.shift[worst.row, 0]
    json.dumps(found.as_dict(), allow_nan=False)


def test_root_mean_squares_have_their_noise_taken_away() -> None:
    """A guide that is off by nothing, with weights of another variable: the mean square is 0 ± δ.

    20 repetitions of 50 rows; half of the clamped roots are 0 and the others below √(8 δ).
    """
    values = torch.randn(200, 1000, 1)
    log_w = 0.7 * torch.randn(200, 1000)
    draws = WeightedDraws(log_w, log_w, ("z[0]",), values, "", False, {}, 0)
    found = corrected_moments(draws, psis(log_w))
    for value, error in (
        (found.shift, found.shift_error),
        (found.log_sd_ratio, found.log_sd_ratio_error),
    ):
        assert 0.6 < error.square().mean() / value.square().mean() < 1.6
    parts = [
        corrected_moments(replace(draws, log_weight=w, values=v, elbo_terms=w), psis(w))
        for w, v in zip(log_w.split(50, 1), values.split(50, 1), strict=True)
    ]
    roots = torch.stack([part.rms_shift for part in parts])
    errors = torch.stack([part.rms_shift_se for part in parts])
    assert (roots == 0).any()
    # δ = (r + se)² − r² is the error of the mean square.
    assert (roots.square() < 8 * ((roots + errors).square() - roots.square())).all()
    assert found.rms_shift.item() < 0.5 / math.sqrt(200)


def test_equal_weights_move_nothing() -> None:
    model, data = linear()
    draws = weighted_draws(model, Guide(model, data, "exact"), data, 500)
    found = corrected_moments(draws, psis(draws.log_weight))
    assert found.shift.abs().max() < 1e-12 and found.shift_error.max() < 1e-12
    assert found.log_sd_ratio.abs().max() < 1e-12 and found.rms_shift.max() < 1e-12
    torch.testing.assert_close(found.corrected_sd, found.sd)


def test_rows_that_are_not_usable() -> None:
    draws = draws_a(10, 500)
    smooth = psis(draws.log_weight)
    bad = replace(smooth, k=torch.cat([torch.full((4,), 0.9), smooth.k[4:]]))
    found = corrected_moments(draws, bad)
    assert found.usable.tolist() == [False] * 4 + [True] * 6
    again = corrected_moments(
        replace(draws, values=draws.needs_values()[:, 4:]), psis(draws.log_weight[:, 4:])
    )
    torch.testing.assert_close(found.rms_shift, again.rms_shift)
    none = corrected_moments(draws, replace(smooth, k=torch.full((10,), torch.inf)))
    assert none.worst() is None and none.rms_shift.isnan().all()
    json.dumps(none.as_dict(), allow_nan=False)
    with pytest.raises(ValueError, match="same draws"):
        corrected_moments(draws, psis(draws.log_weight[:, 1:]))
    with pytest.raises(ValueError, match="no values: too many"):
        corrected_moments(replace(draws, values=None, no_values="too many"), smooth)
    one = replace(draws, values=draws.needs_values() * 0 + 3.0)
    assert corrected_moments(one, smooth).shift.abs().max() == 0


# Weights of global latents


class Mean(Model):
    """μ ~ N(0, I₂), z_n ~ N(μ₁, 1), x_n ~ N(z_n + μ₂, 1)."""

    def forward(self, n: int) -> Tensor:
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(mu[..., 0], 1.0))
            return pyro.sample("x", dist.Normal(z + mu[..., 1], 1.0))


def mean_guide(width: float) -> Any:
    """q(z | x, μ) is exact but for its sd, ``width`` times the right one."""

    def guide(batch: Batch) -> None:
        mu = pyro.sample("mu", dist.Normal(torch.tensor([0.3, 0.2]), 0.8).to_event(1))
        with rows(batch):
            loc = (mu[..., 0] + batch["x"] - mu[..., 1]) / 2
            pyro.sample("z", dist.Normal(loc, width * math.sqrt(0.5)))

    return guide


def log_p_of_mean(x: Tensor, mu: Tensor) -> Tensor:
    """log p(x, μ)/q(μ), (S,)."""
    log_p = dist.Normal(0.0, 1.0).log_prob(mu).sum(-1)
    log_p = log_p + dist.Normal(mu.sum(-1)[:, None], math.sqrt(2)).log_prob(x).sum(-1)
    return log_p - dist.Normal(torch.tensor([0.3, 0.2]), 0.8).log_prob(mu).sum(-1)


@pytest.mark.parametrize("max_elements", [None, 100, 8])
def test_global_weights_are_sums_over_all_rows(max_elements: int | None) -> None:
    """With the exact q(z | x, μ) the inner weights are p(x | μ); also a row or a draw at a time."""
    x = torch.randn(7) + 1
    found = global_weights(Mean(), mean_guide(1.0), x, 130, num_inner=2, max_elements=max_elements)
    assert found is not None and found.values is not None and found.names == ("mu[0]", "mu[1]")
    assert len(found.values.unique()) == 260 and found.has_locals
    torch.testing.assert_close(found.log_weight, log_p_of_mean(x, found.values))
    assert (found.num_draws, found.asked, found.num_inner, found.num_rows) == (130, 130, 2, 7)
    json.dumps(found.as_dict())


def test_inner_draws_leave_the_weights_unbiased() -> None:
    """The mean weight is the evidence and the corrected mean the posterior's, whatever K is.

    x = (x_1 … x_4) ~ N(0, 2 I + 2 11ᵀ), E[μ_i | x] = Σ x/(2 + 2 n). 20 000 draws, ESS above 5 %:
    bands of 6 errors by the delta method.
    """
    x = torch.tensor([0.5, 1.5, 1.0, 0.2])
    cov = 2 * torch.eye(4) + 2
    truth = dist.MultivariateNormal(torch.zeros(4), cov).log_prob(x).item()
    mean = x.sum().item() / (2 + 2 * 4)
    spread = []
    for inner in (1, 8):
        found = global_weights(Mean(), mean_guide(1.6), x, 20_000, num_inner=inner)
        assert found is not None
        level = bounds(found.as_draws().log_weight).iwae
        assert level.se < 0.05 and abs(level.mean - truth) < 6 * level.se
        smooth = psis(found.log_weight)
        assert smooth.k < smooth.threshold and smooth.ess_fraction > 0.05
        moved = corrected_moments(found.as_draws(), smooth)
        error = moved.corrected_mean_error
        assert error.max() < 0.05 and ((moved.corrected_mean - mean).abs() < 6 * error).all()
        spread.append(smooth.ess_fraction.item())
    assert spread[1] > spread[0]


def test_global_weights_of_our_guides() -> None:
    """BayesianPPCA: log p(g)/q(g) + Σ_n log p(x_n | g), but for the noise of 300 inner draws.

    The middle half of 100 differences spans 0.08 nats: their median has an error of 0.01.
    """
    model, data = BayesianPPCA(4).double(), linear(6)[1]
    guide = Guide(model, data)
    found = global_weights(model, guide, data, 100, num_inner=300)
    assert found is not None and found.values is not None
    assert found.names[2:4] == ("weight[0]", "weight[1]") and found.values.shape == (100, 15)
    alpha, W, mu, scale = found.values.split([2, 8, 4, 1], -1)
    W = W.reshape(100, 4, 2)
    log_q = guide.log_prob_global(
        {"alpha": alpha, "weight": W, "mean": mu, "scale": scale.squeeze(-1)}
    )
    cov = W @ W.mT + scale.unsqueeze(-1) ** 2 * torch.eye(4)
    px = dist.MultivariateNormal(mu[:, None], cov[:, None]).log_prob(data["x"]).sum(-1)
    log_p = dist.Gamma(1.0, 0.05).log_prob(alpha).sum(-1)
    log_p = log_p + dist.Normal(0.0, alpha[:, None].rsqrt()).log_prob(W).sum((-1, -2))
    log_p = log_p + dist.Normal(0.0, 1.0).log_prob(mu).sum(-1)
    log_p = log_p + dist.HalfNormal(1.0).log_prob(scale).squeeze(-1)
    away = found.log_weight - (log_p + px - log_q).detach()
    assert away.median().abs() < 0.1 and away.abs().max() < 2


def test_global_weights_where_there_are_none_or_too_much_is_asked(monkeypatch) -> None:
    from zoo.diagnostics import global_weights as file

    x = torch.randn(5)
    assert global_weights(ModelA(), guide_a, x, 100) is None
    found = global_weights(Mean(), mean_guide(1.0), x, 1000, max_cost=2000)
    assert found is not None and found.asked == 1000 and found.num_draws in (125, 250)
    least = global_weights(Mean(), mean_guide(1.0), x, 300, max_cost=1)
    assert least is not None and least.num_draws == 150
    for draws, inner in ((99, 1), (100, 0)):
        with pytest.raises(ValueError, match="counts from"):
            global_weights(Mean(), mean_guide(1.0), x, draws, num_inner=inner)
    monkeypatch.setattr(file, "MOST_VALUES", 10)
    many = global_weights(Mean(), mean_guide(1.0), x, 100)
    assert many is not None and many.values is None and "100 draws" in many.no_values


# Collapse


def simulated(model: PPCA, count: int) -> Dataset:
    with torch.no_grad():
        return as_dataset(model(count))


def two_units(signal: float) -> PPCA:
    """σ = 1; the first column of W is 0, the second has |w|² = signal."""
    model = PPCA(3).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]))
        model.weight.mul_(math.sqrt(signal / 3))
    return model


def prior_guide(batch: Batch) -> None:
    with rows(batch):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def test_collapse_of_the_posterior_and_of_inference() -> None:
    """V = |w|²/(1 + |w|²) = ⅓ in the second unit, 0 in the first: q = p sees neither."""
    model = two_units(0.5)
    data = simulated(model, 80)
    exact = Guide(model, data, "exact")
    for guide, verdicts in (
        (exact, ("in the posterior too", "not collapsed")),
        (prior_guide, ("in the posterior too", "collapse of inference")),
    ):
        draws = weighted_draws(model, guide, data, 2000)
        found = collapse(model, guide, data, draws, psis(draws.log_weight))
        assert found.verdicts == verdicts and found.usable == found.num_rows == 80
        # 80 rows: the variance of a Gaussian is known to 16 %.
        assert found.mean_variance[1].item() == pytest.approx(1 / 3, abs=0.3)
        assert abs(found.mean_variance[0]) < 0.005 and found.sd_change[0] < 0.005
        assert found.sd_ratio.tolist() == pytest.approx([1.0, math.sqrt(2 / 3)], abs=0.03)
        assert found.sd_change[1].item() == pytest.approx((1 - math.sqrt(2 / 3)) ** 2, abs=0.01)
    assert found.share.tolist() == [1.0, 1.0] and not found.by_moments
    assert found.count("undecided") == 0
    json.dumps(found.as_dict(), allow_nan=False)


def test_collapse_is_undecided_without_weights_to_be_trusted() -> None:
    model = two_units(0.5)
    data = simulated(model, 10)
    draws = weighted_draws(model, prior_guide, data, 200)
    for count in (10, 9, 6):
        k = torch.zeros(10)
        k[:count] = 0.9
        smooth = replace(psis(draws.log_weight), k=k)
        found = collapse(model, prior_guide, data, draws, smooth)
        assert found.verdicts == ("undecided", "undecided") and found.usable == 10 - count
        json.dumps(found.as_dict(), allow_nan=False)
    smooth = psis(draws.log_weight)
    with pytest.raises(ValueError, match="10 rows"):
        collapse(model, prior_guide, data.subset(range(5)), draws, smooth)
    with pytest.raises(ValueError, match="ε"):
        collapse(model, prior_guide, data, draws, smooth, epsilon=0)


class Square(Model):
    """x | z ~ N(z², ½): E[z | x] = 0, and the row tells of z's size alone."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z.square(), 0.5))


def test_a_posterior_that_moves_in_its_width_alone() -> None:
    def guide(batch: Batch) -> None:
        with rows(batch):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    x = torch.linspace(-0.5, 2.0, 80)
    draws = weighted_draws(Square(), guide, x, 4000)
    found = collapse(Square(), guide, x, draws, psis(draws.log_weight))
    assert found.mean_variance[0] < 0.01 and found.sd_change[0] > 0.03
    assert found.verdicts == ("collapse of inference",) and not found.by_moments


def test_kl_of_units_that_are_drawn_together() -> None:
    """full_rank: the marginals of q are Gaussian, and so is the KL; 20 rows of 2000 draws."""
    model, data = linear(20)
    for family, by_moments in (("full_rank", ("z[0]", "z[1]")), ("mean_field", ())):
        guide = Guide(model, data, family)
        draws = weighted_draws(model, guide, data, 2000)
        moments = corrected_moments(draws, psis(draws.log_weight))
        prior, kl, names = row_kl(model, guide, data, draws, moments)
        assert names == by_moments
        assert (prior.mean == 0).all() and (prior.variance == 1).all() and (prior.error == 0).all()
        q = guide.distribution(data.batch())
        mean, variance = q.mean.detach(), q.variance.detach()
        truth = (mean.square() + variance - 1 - variance.log()) / 2
        error = (mean.square() * variance + (variance - 1).square() / 2) / 2000
        assert ((kl - truth).abs() < 6 * error.sqrt() * bool(names) + 1e-9 + 10 / 2000).all()
        if not names:
            torch.testing.assert_close(kl, truth)


class Layers(Model):
    """top ~ N(μ, 1), z | top ~ N(2 top + c, ½): E z = 2 μ + c, Var z = 4.25."""

    inputs = ("c",)

    def forward(self, n: int, c: Tensor | None = None) -> Tensor:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", n, dim=-1):
            top = pyro.sample("top", dist.Normal(mu.expand(n), 1.0))
            z = pyro.sample("z", dist.Normal(2 * top + (0.0 if c is None else c), 0.5))
            return pyro.sample("x", dist.Normal(z, 1.0))


def test_moments_of_priors() -> None:
    """In layers, given inputs or not; 8000 draws or 1000 a row, bands of 6 errors."""
    x, c = torch.zeros(12), torch.arange(12.0)
    for values in ({"x": x}, {"x": x, "c": c}):
        batch = as_dataset(values).batch()
        sites = Latents.find(Layers(), batch).local
        given = {"mu": torch.tensor(3.0)}
        found = prior_moments(Layers(), batch, sites, given=given)
        assert found.mean.shape == (12, 2)
        assert (found.mean[:, 0] == 3).all() and (found.error[:, 0] == 0).all()
        assert (found.variance[:, 0] == 1).all()
        mean = 6 + (c if "c" in values else 0 * c)
        error = 2 / math.sqrt(1000 if "c" in values else 8000)
        assert ((found.mean[:, 1] - mean).abs() < 6 * error).all()
        torch.testing.assert_close(found.error[:, 1], torch.full((12,), error), rtol=0.2, atol=0)
        spread = 4 * math.sqrt(2 / (1000 if "c" in values else 8000))
        assert ((found.variance[:, 1] - 4.25).abs() < 6 * spread).all()


def test_moments_of_priors_of_plain_functions() -> None:
    """Also where the function takes one value at a time, or the distribution knows no moments."""
    batch = as_dataset(torch.tensor([1.0, 4.0, 0.0])).batch()
    for function, mean, variance in (
        (gamma_rows, [2.0, 0.0, 0.0], [2.0, 1.0, 1.0]),
        (one_value_only, [0.0], [1.0]),
    ):
        model = plain(function)
        model.resolve(batch)
        found = prior_moments(model, batch, Latents.find(model, batch).local, 20)
        torch.testing.assert_close(found.mean, torch.tensor(mean).expand(3, -1))
        torch.testing.assert_close(found.variance, torch.tensor(variance).expand(3, -1))

    def folded(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            base = dist.Normal(torch.zeros(len(x)), 1.0)
            z = pyro.sample(
                "z", dist.TransformedDistribution(base, dist.transforms.AffineTransform(2.0, 3.0))
            )
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    model = plain(folded)
    model.resolve(batch)
    found = prior_moments(model, batch, Latents.find(model, batch).local, 4000)
    assert ((found.mean - 2).abs() < 6 * 3 / math.sqrt(4000)).all()
    assert ((found.variance - 9).abs() < 6 * 9 * math.sqrt(2 / 4000)).all()


@pytest.mark.cuda
def test_on_the_device() -> None:
    model, data = linear()
    model = model.cuda()
    draws = weighted_draws(model, Guide(model, data), data, 1000)
    assert draws.log_weight.is_cuda and draws.values is not None and draws.values.is_cuda
    smooth, found = psis(draws.log_weight), bounds(draws.log_weight)
    assert smooth.k.is_cuda and smooth.k.isfinite().all()
    assert corrected_moments(draws, smooth).shift.is_cuda
    assert len(collapse(model, Guide(model, data), data, draws, smooth).verdicts) == 2
    several = BayesianPPCA(4).double().cuda()
    shared = global_weights(several, Guide(several, data), data, 100)
    assert shared is not None and shared.log_weight.is_cuda
    truth = model.log_evidence(data["x"].cuda()).mean().item()
    assert found.elbo.mean < truth + 6 * found.elbo.se
