"""Draws of q as InferenceData: every group against closed forms, files, and ArviZ on them."""

import math
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from guides import Guide
from zoo.context import seeded
from zoo.data import Batch, Dataset
from zoo.diagnostics.arviz import az, read, read_posterior, save, summary, to_arviz
from zoo.diagnostics.loo import loo
from zoo.diagnostics.read_draws import read_draws
from zoo.evaluation import evaluate
from zoo.functions import plain
from zoo.model import Model, rows
from zoo.models.gmm import GMM
from zoo.models.m2 import M2
from zoo.models.mixture_of_factor_analyzers import MixtureOfFactorAnalyzers
from zoo.models.poisson_ppca import PoissonPPCA
from zoo.models.ppca import PPCA

matplotlib.use("Agg")
pytestmark = pytest.mark.usefixtures("float64")
FOLDERS = ("zoo", "guides", "experiments")


def double(make: Any) -> tuple[Any, Dataset]:
    model, data = make.example()
    return model.double(), data.to(torch.float64)


def tensor(array: Any) -> Tensor:
    return torch.as_tensor(np.array(array))


class SharedMean(Model):
    """g ~ N(0, 4), z_n ~ N(g, 1), x_n ~ N(z_n, s²): x_n ~ N(g, 1 + s²) given g."""

    scale = 0.5

    def forward(self, n: int) -> Tensor:
        g = pyro.sample("g", dist.Normal(0.0, 2.0))
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(g, 1.0))
            return pyro.sample("x", dist.Normal(z, self.scale))


class SharedMeanGuide:
    """q(g) = N(loc, 0.3²); q(z | x, g) exact."""

    def __init__(self, loc: float = 0.0):
        self.loc = loc

    def __call__(self, batch: Batch) -> None:
        g = pyro.sample("g", dist.Normal(self.loc, 0.3))
        weight = 1 / (1 + SharedMean.scale**2)
        with rows(batch):
            mean = g * (1 - weight) + weight * batch["x"]
            pyro.sample("z", dist.Normal(mean, SharedMean.scale * weight**0.5))


def test_groups_dimensions_and_coordinates() -> None:
    model, data = double(PPCA)
    names = ["sepal length", "sepal width", "petal length", "petal width"]
    data = Dataset(data["x"], feature_names=names)
    idata = to_arviz(model, Guide(model, data), data, num_draws=30, num_rows=12, num_inner=5)
    assert set(idata.groups()) == {
        "posterior",
        "posterior_predictive",
        "sample_stats",
        "log_likelihood",
        "prior",
        "prior_predictive",
        "observed_data",
        "vi_diagnostics",
    }
    assert idata.posterior["z"].dims == ("chain", "draw", "data", "z_dim_0")
    assert idata.posterior["z"].shape == (1, 30, 12, 2)
    assert idata.prior["z"].dims == idata.posterior["z"].dims
    for group in ("posterior_predictive", "prior_predictive"):
        assert idata[group]["x"].dims == ("chain", "draw", "data", "x_dim_0")
        assert list(idata[group]["x_dim_0"].values) == names
    assert idata.observed_data["x"].dims == ("data", "x_dim_0")
    assert idata.log_likelihood["x"].dims == ("chain", "draw", "data")
    assert idata.log_likelihood.attrs["num_inner"] == 5
    assert idata.sample_stats["lp"].dims == ("chain", "draw")
    place = np.array(idata.posterior["data"])
    torch.testing.assert_close(tensor(idata.observed_data["x"]), data["x"][place])
    assert idata.attrs["seed"] == 0 and idata.attrs["version_torch"]
    again = to_arviz(model, Guide(model, data), data, num_draws=30, num_rows=12, num_inner=5)
    assert again.observed_data.equals(idata.observed_data)


def test_densities_of_the_exact_posterior() -> None:
    """log p(x, z) at the draws from Gaussians; every row's weight is log p(x)."""
    model, data = double(PPCA)
    guide, before = Guide(model, data, "exact"), torch.get_rng_state()
    idata = to_arviz(model, guide, data, num_draws=120, max_elements=4000)
    assert torch.equal(before, torch.get_rng_state())
    z = tensor(idata.posterior["z"])[0]
    loc = z @ model.weight.mT + model.mean
    each = dist.Normal(0, 1).log_prob(z).sum(-1)
    each = each + dist.Normal(loc, model.log_scale.exp()).log_prob(data["x"]).sum(-1)
    stats = idata.sample_stats
    torch.testing.assert_close(tensor(stats["lp"])[0], each.sum(-1).detach())
    evidence = model.log_evidence(data["x"]).detach()
    torch.testing.assert_close(tensor(stats["row_log_weight"])[0], evidence.expand(120, -1))
    weight = tensor(stats["lp"]) - tensor(stats["log_q"])
    torch.testing.assert_close(weight, evidence.sum().expand(1, 120))
    torch.testing.assert_close(tensor(stats["log_weight"]), weight)
    torch.testing.assert_close(tensor(idata.log_likelihood["x"])[0], evidence.expand(120, -1))
    found = idata.vi_diagnostics
    for name in ("elbo", "iwae"):
        torch.testing.assert_close(tensor(found[name])[0], evidence)
    assert (found["pareto_k"] == -np.inf).all()  # constant weights
    # x̃ given the z of the same draw: residuals N(0, σ²), 120 · 50 · 4 of them.
    residual = (tensor(idata.posterior_predictive["x"])[0] - loc) / model.log_scale.exp()
    residual = residual.detach()
    count = residual.numel()
    assert abs(float(residual.mean())) < 5 / math.sqrt(count)
    assert abs(float(residual.std()) - 1) < 5 / math.sqrt(2 * count)
    assert float((residual - residual.mean(0)).abs().min()) > 0  # drawn anew each time


@pytest.mark.parametrize("room", [2**21, 3000])
def test_densities_with_global_latents(room: int) -> None:
    """lp and log_q over all 15 rows though 6 are kept; log p(x_n | g) exact."""
    with seeded(1):
        x = torch.randn(15)
    model, guide = SharedMean(), SharedMeanGuide()
    idata = to_arviz(
        model, guide, x, num_draws=40, num_rows=6, num_inner=3, max_elements=room, seed=5
    )
    g, place = tensor(idata.posterior["g"])[0], np.array(idata.posterior["data"])
    assert idata.posterior["g"].dims == ("chain", "draw") and len(place) == 6
    given = dist.Normal(g.unsqueeze(-1), 1.25**0.5).log_prob(x)
    torch.testing.assert_close(tensor(idata.log_likelihood["x"])[0], given[:, place])
    torch.testing.assert_close(tensor(idata.sample_stats["row_log_weight"])[0], given[:, place])
    of_g = dist.Normal(0.0, 2.0).log_prob(g) - dist.Normal(0.0, 0.3).log_prob(g)
    torch.testing.assert_close(tensor(idata.sample_stats["log_weight"])[0], of_g + given.sum(1))
    elbo = float((of_g + given.sum(1)).mean()) / 15
    assert float(idata.vi_diagnostics["elbo"][0]) == pytest.approx(elbo)
    every = to_arviz(model, guide, x, num_draws=40, num_inner=3, max_elements=room)
    z, g = tensor(every.posterior["z"])[0], tensor(every.posterior["g"])[0]
    lp = dist.Normal(0.0, 2.0).log_prob(g) + dist.Normal(g.unsqueeze(-1), 1.0).log_prob(z).sum(1)
    lp = lp + dist.Normal(z, 0.5).log_prob(x).sum(1)
    torch.testing.assert_close(tensor(every.sample_stats["lp"])[0], lp)
    assert every.prior["g"].shape == (1, 40) and every.prior["z"].shape == (1, 40, 15)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (GMM, {}),
        (MixtureOfFactorAnalyzers, {}),
        (M2, {"estimator": "collapse"}),
        (M2, {"estimator": "enumerate"}),
        (M2, {"estimator": "score"}),
        (PoissonPPCA, {"family": "iaf"}),
    ],
)
def test_bounds_are_those_of_evaluate(make: Any, options: dict[str, Any]) -> None:
    """Means over 2000 draws of whole (y, z) against ``evaluate``, within 5.5 errors a row."""
    model, data = double(make)
    guide = Guide(model, data, **options)
    idata = to_arviz(model, guide, data, num_draws=2000, num_rows=8, num_inner=0)
    assert "log_likelihood" not in idata.groups()
    place = np.array(idata.posterior["data"])
    # Where y is summed out of p(x, y, z) the two are the same; a draw of y ~ q(y | x) has the
    # same mean.
    found = evaluate(model, guide, data, num_particles=2000, exact=False).elbo
    assert found is not None
    weights = tensor(idata.sample_stats["row_log_weight"])[0]
    error = (weights.var(0) / 2000 + found.error[place] ** 2).sqrt()
    assert ((weights.mean(0) - found.rows[place]).abs() < 5.5 * error + 1e-9).all()
    if "y" in idata.posterior:
        assert idata.posterior["y"].shape == (1, 2000, 8)
        assert set(np.unique(idata.posterior["y"])) <= set(range(10))


def test_discrete_draws_are_the_responsibilities() -> None:
    model, data = double(GMM)
    idata = to_arviz(model, Guide(model, data), data, num_draws=4000, num_rows=10)
    place = np.array(idata.posterior["data"])
    y = tensor(idata.posterior["y"])[0]
    expected = model.responsibilities(data["x"][place]).detach()
    share = torch.nn.functional.one_hot(y, expected.shape[1]).double().mean(0)
    se = (expected * (1 - expected) / 4000).sqrt()
    assert ((share - expected).abs() < 5.5 * se + 1 / 4000).all()
    torch.testing.assert_close(
        tensor(idata.log_likelihood["x"])[0, 0], model.log_evidence(data["x"][place]).detach()
    )


def test_missing_entries_and_inputs() -> None:
    x = torch.randn(10, 4)
    x[2, 1] = torch.nan
    model, data = PPCA(4), Dataset(x, missing=True)
    idata = to_arviz(model, Guide(model, data), data, num_draws=5, num_inner=2)
    seen = idata.observed_data["x"].values
    assert np.isnan(seen[2, 1]) and np.isnan(seen).sum() == 1
    assert not np.isnan(idata.posterior_predictive["x"]).any()
    model, data = double(PoissonPPCA)
    idata = to_arviz(model, Guide(model, data), data, num_draws=5, num_inner=2)
    assert idata.constant_data["exposure"].dims == ("data",)
    assert list(idata.observed_data) == ["x"]


def test_restarts_are_chains(tmp_path: Path) -> None:
    model, data = double(PPCA)
    other, _ = double(PPCA)
    first, second = Guide(model, data), Guide(other, data)
    idata = to_arviz(model, first, data, num_draws=20, num_rows=5, restarts=[second, second])
    assert idata.posterior.sizes["chain"] == 3
    pairs = to_arviz(model, first, data, num_draws=20, num_rows=5, restarts=[(other, second)] * 2)
    assert pairs.posterior.equals(idata.posterior)
    z = idata.posterior["z"].values
    assert not np.allclose(z[1], z[2])  # each chain has draws of its own
    table = summary(idata, var_names=["z"])
    assert "r_hat" in table and "ess_bulk" in table
    gmm, rows_ = double(GMM)
    with pytest.raises(ValueError, match="other latents"):
        to_arviz(model, first, data, num_draws=20, restarts=[(gmm, Guide(gmm, rows_))])
    with pytest.raises(ValueError, match="from 2, got 1"):
        to_arviz(model, first, data, num_draws=1)


def test_one_chain_has_no_r_hat() -> None:
    model, data = double(PPCA)
    idata = to_arviz(model, Guide(model, data), data, num_draws=50, num_rows=3)
    table = summary(idata, var_names=["z"])
    assert not {"r_hat", "ess_bulk", "ess_tail"} & set(table.columns) and len(table) == 6
    z = idata.posterior["z"].values[0]
    exact = summary(idata, round_to="none")
    np.testing.assert_allclose(exact["mean"], z.mean(0).ravel())
    np.testing.assert_allclose(exact["mcse_mean"], z.std(0, ddof=1).ravel() / 50**0.5)


def test_files(tmp_path: Path) -> None:
    with seeded(2):
        x = torch.randn(8)
    more = {"score": np.arange(8.0), "total": 3, "table": np.ones((2, 3))}
    idata = to_arviz(
        SharedMean(),
        SharedMeanGuide(),
        x,
        num_draws=20,
        num_rows=5,
        num_inner=2,
        vi_diagnostics=more,
    )
    file = tmp_path / "draws.nc"
    file.write_text("something else")
    assert save(idata, file) == file and [*tmp_path.iterdir()] == [file]
    back = read(file)
    assert set(back.groups()) == set(idata.groups())
    for group in idata.groups():
        assert back[group].equals(idata[group])
        assert back[group].attrs == idata[group].attrs
    assert back.attrs["seed"] == 0
    place = np.array(idata.posterior["data"])
    assert back.vi_diagnostics["score"].values.tolist() == place.tolist()
    assert int(back.vi_diagnostics["total"]) == 3
    assert back.vi_diagnostics["table"].dims == ("table_dim_0", "table_dim_1")
    draws = read_draws(file)
    assert {name: v.shape for name, v in draws.items()} == {"z": (1, 20, 5), "g": (1, 20)}
    np.testing.assert_array_equal(draws["g"], idata.posterior["g"])
    with pytest.raises(ValueError, match="is no folder"):
        save(idata, tmp_path / "none" / "draws.nc")
    (tmp_path / "bad.nc").write_text("no netCDF")
    for name in ("bad.nc", "none.nc"):
        with pytest.raises(ValueError, match="cannot be read as an ArviZ"):
            read_posterior(tmp_path / name)
    save(az.InferenceData(observed_data=idata.observed_data), file)
    with pytest.raises(ValueError, match="no group posterior"):
        read_posterior(file)
    with pytest.raises(ValueError, match="holds numbers, but 'word'"):
        to_arviz(SharedMean(), SharedMeanGuide(), x, num_draws=5, vi_diagnostics={"word": "a"})


def test_arviz_runs_on_it() -> None:
    import matplotlib.pyplot as plt

    with seeded(3):
        x = torch.randn(20)
    first, second = (
        to_arviz(SharedMean(), SharedMeanGuide(loc), x, num_draws=200, num_inner=2)
        for loc in (0.0, 0.3)
    )
    found = az.loo(first, pointwise=True, reff=1.0)
    likelihood = tensor(first.log_likelihood["x"])[0]
    assert found.elpd_loo == pytest.approx(loo(likelihood).total, abs=0.02)
    with warnings.catch_warnings():  # arviz 0.23 uses what pandas 3.1 and matplotlib 3.11 deprecate
        warnings.simplefilter("ignore", DeprecationWarning)
        table = az.compare({"first": first, "second": second})
        for plot in (az.plot_posterior, az.plot_trace, az.plot_forest):
            plot(first, var_names=["g"])
        az.plot_ppc(first, num_pp_samples=10)
    plt.close("all")
    assert set(table.index) == {"first", "second"}
    model, data = double(PPCA)
    local = to_arviz(model, Guide(model, data, "exact"), data, num_draws=20, num_inner=2)
    evidence = float(model.log_evidence(data["x"]).detach().sum())
    assert az.waic(local).elpd_waic == pytest.approx(evidence)


def test_a_point_mass_and_a_chain_have_no_weights() -> None:
    model, data = double(PPCA)
    idata = to_arviz(model, Guide(model, data, "delta"), data, num_draws=5, num_rows=4)
    assert np.isnan(idata.sample_stats["log_q"]).all() and "log_likelihood" not in idata.groups()
    assert np.isfinite(idata.sample_stats["lp"]).all()
    assert "vi_diagnostics" not in idata.groups()
    guide = Guide(model, data, "hamiltonian")
    idata = to_arviz(model, guide, data, num_draws=5, num_rows=4, num_inner=3)
    assert np.isfinite(idata.posterior["z"]).all()


def test_a_function_that_does_not_vectorise() -> None:
    def shared(x: Tensor) -> None:
        g = pyro.sample("g", dist.Normal(0.0, 2.0))
        if g.dim():
            raise ValueError("written for one particle")
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(g, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(batch: Batch) -> None:
        g = pyro.sample("g", dist.Normal(0.0, 0.3))
        with rows(batch, "rows"):
            pyro.sample("z", dist.Normal(0.2 * g + 0.8 * batch["x"], 0.2**0.5))

    with seeded(4):
        x = torch.randn(6)
    idata = to_arviz(plain(shared), guide, x, num_draws=10, num_inner=2)
    assert idata.posterior["z"].dims == ("chain", "draw", "rows")
    g = tensor(idata.posterior["g"])[0]
    given = dist.Normal(g.unsqueeze(-1), 1.25**0.5).log_prob(x)
    torch.testing.assert_close(tensor(idata.log_likelihood["x"])[0], given)


def test_one_file_imports_arviz() -> None:
    home = Path(__file__).parent.parent
    found = [
        str(file.relative_to(home))
        for folder in FOLDERS
        for file in (home / folder).rglob("*.py")
        if "import arviz" in file.read_text()
    ]
    assert found == ["zoo/diagnostics/arviz.py"]


@pytest.mark.cuda
def test_on_cuda(tmp_path: Path) -> None:
    model, data = double(M2)
    model = model.cuda()
    guide = Guide(model, data, estimator="enumerate")
    idata = to_arviz(model, guide, data, num_draws=100, num_inner=5)
    save(idata, tmp_path / "draws.nc")
    assert read(tmp_path / "draws.nc").posterior.equals(idata.posterior)
