"""Data against draws of the model, and leave-one-out predictions, against closed forms."""

import json
import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import Tensor

from guides import Guide
from zoo.context import seeded
from zoo.data import Batch, Dataset
from zoo.diagnostics.data_pit import Counts, ks_distance
from zoo.diagnostics.loo import log_likelihoods, loo
from zoo.diagnostics.predictive import predictive_checks
from zoo.functions import plain
from zoo.model import Model, rows
from zoo.models.poisson_ppca import PoissonPPCA
from zoo.models.ppca import PPCA
from zoo.predictive import prior_predictive

pytestmark = pytest.mark.usefixtures("float64")


class Location(Model):
    """z ~ N(0, 1), x | z ~ N(z, s²)."""

    def __init__(self, scale: float = 0.5):
        super().__init__()
        self.scale = scale

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z, self.scale))


class LocationGuide:
    """p(z | x) of ``Location``, its standard deviation multiplied."""

    def __init__(self, scale: float = 0.5, factor: float = 1.0):
        self.precision, self.factor = 1 + scale**-2, factor
        self.scale = scale

    def __call__(self, batch: Batch) -> None:
        mean = batch["x"] / (1 + self.scale**2)
        with rows(batch):
            pyro.sample("z", dist.Normal(mean, self.factor * self.precision**-0.5))


def simulated(model: Model, n: int, seed: int = 0, **inputs: Tensor) -> Dataset:
    with seeded(seed):
        return Dataset({"x": prior_predictive(model, n, **inputs)["x"], **inputs})


def close(value: float, expected: float, se: float) -> bool:
    """Within 5 standard errors: a right program fails once in two million runs."""
    return abs(value - expected) < 5 * se


def test_distance_is_that_of_scipy() -> None:
    with seeded(0):
        u = torch.rand(200, 5) ** 1.1
    u[:30, 2] = torch.nan
    found = ks_distance(u)
    for column, distance in zip(u.T, found, strict=True):
        expected = stats.kstest(column[~column.isnan()].numpy(), "uniform", method="exact")
        assert abs(float(distance) - expected.statistic) < 1e-12


def test_ranks_are_randomised_among_ties() -> None:
    """x = 1 among (0, 1, 1, 2): u is uniform on (1/5, 4/5)."""
    counts = Counts(torch.ones(50_000, 1))
    counts.add(torch.tensor([0.0, 1.0, 1.0, 2.0]).reshape(4, 1, 1).expand(4, 50_000, 1))
    u = counts.pit(None, ("x",), tested=True).values
    assert 0.2 <= float(u.min()) < 0.201 and 0.799 < float(u.max()) <= 0.8
    assert close(float(u.mean()), 0.5, 0.6 / math.sqrt(12 * 50_000))


@pytest.mark.parametrize("kind", ["normal", "counts", "missing"])
def test_right_models_pass_and_wrong_ones_do_not(kind: str) -> None:
    """1000 rows: u is uniform, so that P(p ≤ 10⁻⁶) ≤ 10⁻⁶; with a scale 1.5 times too large the
    distance is 0.1 for a band of 0.06."""
    with seeded(1):
        if kind == "counts":
            model, inputs = PoissonPPCA(3, 1), {"exposure": torch.rand(1000) + 0.5}
        else:
            model, inputs = PPCA(3, 2), {}
    data = simulated(model, 1000, **inputs)
    if kind == "missing":
        hidden = data["x"].clone()
        hidden[:400, 1] = torch.nan
        data = Dataset(hidden, missing=True)
    guide = Guide(model, data)
    right = predictive_checks(model, guide, data, num_draws=99, posterior=False)
    assert right.pit_prior.p_adjusted is not None and right.pit_prior.p_adjusted > 1e-6
    assert (right.pit_prior.distance < right.pit_prior.band * 2).all()
    assert min(check.p_two_sided for check in right.statistics) >= 0.02
    assert right.pit_posterior is None and not right.has_globals
    with torch.no_grad():
        model.weight.mul_(2.5)
        model.mean.add_(0.4)
    wrong = predictive_checks(model, guide, data, num_draws=99, posterior=False)
    assert wrong.pit_prior.p_adjusted is not None and wrong.pit_prior.p_adjusted < 1e-6
    assert min(check.p_two_sided for check in wrong.statistics) == 0.02
    if kind == "missing":
        assert int(right.pit_prior.values.isnan().sum()) == 400
        expected = math.sqrt(math.log(40) / 1200)
        assert abs(float(right.pit_prior.band[1]) - expected) < 1e-12
    value, low, high = right.pit_prior.largest
    simultaneous = math.sqrt(math.log(2 * 3 / 0.05) / 2000)
    assert value == float(right.pit_prior.distance.max())
    assert high - value >= simultaneous - 1e-12 and value - low < simultaneous + 1e-12
    json.dumps(right.as_dict())


def test_ranks_given_the_row_crowd_around_the_middle() -> None:
    """x̃ | x ~ N(x/(1 + s²), s²/(1 + s²) + s²): u = Φ(c ε), E(u − ½)² = asin(c²/(1 + c²))/2π."""
    s, n, draws = 0.5, 4000, 400
    model = Location(s)
    data = simulated(model, n)
    found = predictive_checks(model, LocationGuide(s), data, num_draws=draws, num_rows=n)
    variance = s**4 / (1 + s**2) / (s**2 / (1 + s**2) + s**2)  # c²
    square = math.asin(variance / (1 + variance)) / (2 * math.pi)
    # A rank among R draws has u (1 − u)/R more, and the shift to (L + v)/(R + 1).
    finite = square * draws * (draws - 1) / (draws + 1) ** 2
    finite += (draws / 4 + 1 / 12) / (draws + 1) ** 2
    assert found.pit_posterior is not None and found.pit_posterior.p is None
    away = 12 * (found.pit_posterior.values - 0.5).square()
    se = float(away.std()) / math.sqrt(n)
    assert close(found.pit_posterior.spread, 12 * finite, se)
    assert found.pit_posterior.spread < 0.5 < found.pit_prior.spread
    assert found.pit_prior.p_adjusted is not None and found.pit_prior.p_adjusted > 1e-6


def test_p_of_the_mean_is_known() -> None:
    """T = mean ~ N(0, (1 + s²)/N): P(T(x̃) ≥ T(x)) of 2000 replicates against Φ."""
    model, n = Location(0.5), 50
    data = Dataset(simulated(model, n)["x"] + 0.1)
    found = predictive_checks(
        model,
        LocationGuide(0.5),
        data,
        num_draws=2000,
        statistics={"mean": torch.mean, "largest": lambda x: float(x.max())},
        posterior=False,
    )
    mean, largest = found.statistics
    scale = math.sqrt(1.25)
    observed = float(data["x"].mean())
    p = stats.norm.sf(observed / scale * math.sqrt(n))
    assert mean.observed == pytest.approx(observed, abs=1e-12)
    assert close(mean.p, p, math.sqrt(p * (1 - p) / 2000))
    assert mean.se == pytest.approx(math.sqrt(mean.p * (1 - mean.p) / 2000))
    assert close(mean.sd, scale / math.sqrt(n), scale / math.sqrt(n) / math.sqrt(4000))
    p = 1 - stats.norm.cdf(float(data["x"].max()) / scale) ** n
    assert close(largest.p, p, math.sqrt(p * (1 - p) / 2000))


class SharedMean(Model):
    """g ~ N(0, τ²), z_n ~ N(g, 1), x_n ~ N(z_n, s²); z summed out where asked."""

    def __init__(self, tau: float = 2.0, scale: float = 0.5, local: bool = True):
        super().__init__()
        self.tau, self.scale, self.local = tau, scale, local

    @property
    def variance(self) -> float:
        """Of x given g."""
        return 1 + self.scale**2

    def forward(self, n: int) -> Tensor:
        g = pyro.sample("g", dist.Normal(0.0, self.tau))
        with pyro.plate("data", n, dim=-1):
            if not self.local:
                return pyro.sample("x", dist.Normal(g, self.variance**0.5))
            z = pyro.sample("z", dist.Normal(g, 1.0))
            return pyro.sample("x", dist.Normal(z, self.scale))

    def exact(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of g | x, (..., N)."""
        precision = self.tau**-2 + x.shape[-1] / self.variance
        return x.sum(-1) / self.variance / precision, torch.tensor(precision**-0.5)

    def leave_one_out(self, x: Tensor) -> Tensor:
        """(N,), log p(x_n | x_−n)."""
        rest = torch.stack([torch.cat([x[:n], x[n + 1 :]]) for n in range(len(x))])
        mean, sd = self.exact(rest)
        return dist.Normal(mean, (sd**2 + self.variance).sqrt()).log_prob(x)


class SharedMeanGuide:
    """q(g) = N(m + shift s, (factor s)²) of the exact m, s; q(z | x, g) exact but for its width."""

    def __init__(self, model: SharedMean, x: Tensor, shift=0.0, factor=1.0, width=1.0):
        self.model, self.width = model, width
        mean, sd = model.exact(x)
        self.q = dist.Normal(mean + shift * sd, factor * sd)

    def __call__(self, batch: Batch) -> None:
        g = pyro.sample("g", self.q)
        if not self.model.local:
            return
        weight = 1 / self.model.variance
        with rows(batch):
            mean = g * (1 - weight) + weight * batch["x"]
            scale = self.width * self.model.scale * weight**0.5
            pyro.sample("z", dist.Normal(mean, scale))


def test_replicates_share_the_global_latent() -> None:
    """The mean of 40 rows has variance s_q² + (1 + s²)/40 over data sets."""
    model = SharedMean()
    with seeded(2):
        x = torch.randn(40) + 1
    guide = SharedMeanGuide(model, x, factor=3.0)
    for room in (2**21, 500):
        found = predictive_checks(model, guide, x, num_draws=1000, max_elements=room)
        assert found.has_globals
        (mean,) = (check for check in found.statistics if check.name == "mean")
        sd = math.sqrt(float(guide.q.scale) ** 2 + model.variance / 40)
        assert close(mean.sd, sd, sd / math.sqrt(2 * 1000))
        assert close(mean.mean, float(guide.q.loc), sd / math.sqrt(1000))


def test_a_function_that_does_not_vectorise() -> None:
    """Two components at ±8, written for one particle; half of the rows each."""

    def components(x: Tensor) -> None:
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 9.0).expand([2]).to_event(1))
        with pyro.plate("rows", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(2)))
            loc = locs[y]
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    def guide(batch: Batch) -> None:
        with pyro.plate("components", 2):
            locs = torch.tensor([[-8.0, -8.0], [8.0, 8.0]])
            pyro.sample("locs", dist.Normal(locs, 0.01).to_event(1))

    with seeded(3):
        x = torch.randn(60, 2) / 2 + 8 * (torch.arange(60) % 2 * 2 - 1).unsqueeze(-1)
    model = plain(components, plate="rows")
    found = predictive_checks(model, guide, x, num_draws=40)
    assert found.pit_prior.p_adjusted is not None and found.pit_prior.p_adjusted > 1e-6
    assert max(check.sd for check in found.statistics if check.name == "sd") < 0.5


def test_same_seed_same_figures_and_the_outside_untouched() -> None:
    model = Location()
    data = simulated(model, 30)
    before = torch.get_rng_state()
    first = predictive_checks(model, LocationGuide(), data, num_draws=20, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    again = predictive_checks(model, LocationGuide(), data, num_draws=20, seed=3)
    assert torch.equal(first.pit_prior.values, again.pit_prior.values)
    assert first.as_dict() == again.as_dict()
    few = predictive_checks(model, LocationGuide(), data, num_draws=20, num_rows=10)
    assert few.num_rows == 10 and few.pit_prior.values.shape == (10, 1)


def test_refusals_in_words() -> None:
    model, guide = Location(), LocationGuide()
    data = simulated(model, 10)
    with pytest.raises(ValueError, match="from 20, got 5"):
        predictive_checks(model, guide, data, num_draws=5)
    with pytest.raises(ValueError, match="two rows or more"):
        predictive_checks(model, guide, data["x"][:1])
    with pytest.raises(ValueError, match="no observed site"):
        predictive_checks(model, guide, data, site="w")
    with pytest.raises(ValueError, match=r"'rows' gives values of shape \(10,\)"):
        predictive_checks(model, guide, data, statistics={"rows": lambda x: x})
    with pytest.raises(ValueError, match="'log' is not finite"):
        predictive_checks(model, guide, data, statistics={"log": lambda x: x.log().mean()})


def test_leave_one_out_of_a_guide_that_is_off() -> None:
    """q(g) a posterior standard deviation off and 0.9 times as wide, 20 rows, 20 000 draws:
    exact −27.640, corrected within its error 0.05, uncorrected −27.98 with an error of 0.01."""
    model = SharedMean(local=False)
    with seeded(4):
        x = 1.1 * torch.randn(20)
    exact = model.leave_one_out(x)
    guide = SharedMeanGuide(model, x, shift=1.0, factor=0.9)
    likelihood, ratio = log_likelihoods(model, guide, x, num_draws=20_000, num_inner=1)
    assert likelihood.shape == (20_000, 20) and ratio.shape == (20_000,)
    right, wrong = loo(likelihood, ratio), loo(likelihood)
    assert abs(right.total - float(exact.sum())) < 5 * right.elpd.se * 20
    assert ((right.elpd.rows - exact).abs() < 6 * right.error + 1e-3).all()
    off = abs(wrong.total - float(exact.sum()))
    assert right.elpd.se * 20 < 0.1 < 0.25 < off and off > 20 * wrong.elpd.se * 20
    assert wrong.bad == right.bad == 0  # nothing but the ratio tells
    assert right.k_posterior is not None and right.k_posterior < 0.7 and wrong.k_posterior is None
    json.dumps(right.as_dict())


def test_leave_one_out_of_the_exact_posterior() -> None:
    """log p(x, g)/q(g) is constant, and both ways agree; p_loo from the closed form."""
    model = SharedMean(local=False)
    with seeded(5):
        x = 1.1 * torch.randn(20)
    mean, sd = model.exact(x)
    seen = dist.Normal(mean, (sd**2 + model.variance).sqrt()).log_prob(x)
    exact = model.leave_one_out(x)
    likelihood, ratio = log_likelihoods(
        model, SharedMeanGuide(model, x), x, num_draws=20_000, num_inner=1
    )
    assert float(ratio.std()) < 1e-9
    found = loo(likelihood, ratio)
    assert float((found.elpd.rows - loo(likelihood).elpd.rows).abs().max()) < 1e-9
    assert abs(found.total - float(exact.sum())) < 5 * found.elpd.se * 20
    assert abs(found.p_loo - float((seen - exact).sum())) < 10 * found.elpd.se * 20
    assert json.loads(json.dumps(found.as_dict()))["k_posterior"] is None


def test_the_error_is_the_spread_of_repeats() -> None:
    """60 repeats of 500 draws: sd within 5 standard errors of the mean error; mean right."""
    model = SharedMean(local=False)
    with seeded(6):
        x = 1.1 * torch.randn(15)
    guide = SharedMeanGuide(model, x, shift=0.5, factor=0.9)
    found = []
    for seed in range(60):
        found.append(loo(*log_likelihoods(model, guide, x, num_draws=500, num_inner=1, seed=seed)))
    totals = torch.tensor([f.total for f in found])
    errors = torch.tensor([f.elpd.se * 15 for f in found])
    ratio = float(totals.std() / errors.square().mean().sqrt())
    assert abs(math.log(ratio)) < 5 / math.sqrt(2 * 59)


@pytest.mark.parametrize("room", [2**21, 3000])
def test_local_latents_are_integrated_out(room: int) -> None:
    """log p(x | g) = log N(x; g, 1 + s²), q(z | x, g) exact or 1.5 times as wide, in pieces too."""
    model = SharedMean()
    with seeded(7):
        x = 1.1 * torch.randn(12)
    exact = SharedMeanGuide(model, x, shift=0.5, factor=0.9)
    likelihood, ratio = log_likelihoods(
        model, exact, x, num_draws=1000, num_inner=1, max_elements=room
    )
    assert likelihood.shape == (1000, 12)
    # One g for all rows of a draw: two rows tell it, up to sign, and the third must agree.
    square = -2 * model.variance * (likelihood + 0.5 * math.log(2 * math.pi * model.variance))
    a = (square[:, 0] - square[:, 1] - x[0] ** 2 + x[1] ** 2) / (-2 * (x[0] - x[1]))
    expected = dist.Normal(a.unsqueeze(-1), model.variance**0.5).log_prob(x)
    torch.testing.assert_close(likelihood, expected, rtol=0, atol=1e-6)
    log_ratio = dist.Normal(0.0, model.tau).log_prob(a) - exact.q.log_prob(a) + expected.sum(1)
    torch.testing.assert_close(ratio, log_ratio, rtol=0, atol=1e-5)
    wide = SharedMeanGuide(model, x, shift=0.5, factor=0.9, width=1.5)
    found = loo(*log_likelihoods(model, wide, x, num_draws=4000, num_inner=20, max_elements=room))
    total = float(model.leave_one_out(x).sum())
    assert abs(found.total - total) < 6 * found.elpd.se * 12


def test_leave_one_out_of_a_function_that_does_not_vectorise() -> None:
    """The one-particle road gives the figures of the other."""

    def shared(x: Tensor) -> None:
        g = pyro.sample("g", dist.Normal(0.0, 2.0))
        if g.dim():
            raise ValueError("written for one particle")
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(g, 1.25**0.5), obs=x)

    model = SharedMean(local=False)
    with seeded(8):
        x = torch.randn(6)
    guide = SharedMeanGuide(model, x)
    found = loo(*log_likelihoods(plain(shared), guide, x, num_draws=400, num_inner=1))
    assert abs(found.total - float(model.leave_one_out(x).sum())) < 6 * found.elpd.se * 6


def test_leave_one_out_refuses_in_words() -> None:
    data = simulated(Location(), 10)
    with pytest.raises(ValueError, match="no global latents"):
        log_likelihoods(Location(), LocationGuide(), data)
    with pytest.raises(ValueError, match="of 25 draws or more"):
        loo(torch.zeros(10, 3))
    with pytest.raises(ValueError, match=r"log_ratio of shape \(50,\)"):
        loo(torch.zeros(50, 3), torch.zeros(3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        loo(torch.full((50, 3), -torch.inf))


def test_uncorrected_agrees_with_arviz() -> None:
    """The weights 1/p(x_n | g) alone, as ArviZ has them: the same smoothing, the same figure."""
    az: Any = pytest.importorskip("arviz")
    model = SharedMean(local=False)
    with seeded(9):
        x = 1.1 * torch.randn(20)
    guide = SharedMeanGuide(model, x, shift=0.5, factor=0.7)
    likelihood, _ = log_likelihoods(model, guide, x, num_draws=2000, num_inner=1)
    idata = az.from_dict({"g": np.zeros((1, 2000))}, log_likelihood={"x": likelihood.numpy()[None]})
    assert az.loo(idata, reff=1.0).elpd_loo == pytest.approx(loo(likelihood).total, abs=0.01)


@pytest.mark.cuda
def test_on_cuda() -> None:
    model, data = PPCA.example()
    model = model.double().cuda()
    guide = Guide(model, data)
    found = predictive_checks(model, guide, data, num_draws=20)
    assert found.pit_prior.values.device.type == "cuda" and found.pit_prior.p is not None
    json.dumps(found.as_dict())
    shared = SharedMean().cuda()
    x = torch.randn(10, device="cuda")
    guide = SharedMeanGuide(shared, x)
    json.dumps(loo(*log_likelihoods(shared, guide, x, num_draws=100, num_inner=5)).as_dict())
