"""q against draws or moments of the posterior that are known, and the files that draws come in."""

import json
import math
import zipfile
from pathlib import Path
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
from zoo.data import Batch
from zoo.diagnostics.c2st import c2st
from zoo.diagnostics.distances import distances, mmd, sliced_wasserstein
from zoo.diagnostics.read_draws import pooled, read_draws
from zoo.diagnostics.reference import against_exact, against_reference
from zoo.model import rows
from zoo.models.factor_analysis import FactorAnalysis
from zoo.models.mixture_of_factor_analyzers import MixtureOfFactorAnalyzers
from zoo.models.ppca import PPCA

pytestmark = pytest.mark.usefixtures("float64")


def normal(count: int, *shape: int, seed: int = 0) -> Tensor:
    with seeded(seed):
        return torch.randn(count, *shape)


def halves(n: int) -> Tensor:
    """(1, 2n): +1 for the first n, −1 for the rest."""
    return torch.cat([torch.ones(n), -torch.ones(n)]).unsqueeze(0)


def test_one_dimension_is_the_wasserstein_distance_of_scipy() -> None:
    x = normal(60, 1)
    found = sliced_wasserstein(x)(halves(30))
    expected = stats.wasserstein_distance(x[:30, 0].numpy(), x[30:, 0].numpy())
    assert abs(float(found) - expected) < 1e-12


def test_mmd_is_the_unbiased_statistic() -> None:
    """Σ_{i≠j} k/(n(n−1)) twice, less 2 mean k, by loops."""
    x = normal(14, 3)
    square = (x.unsqueeze(0) - x.unsqueeze(1)).square().sum(-1)
    kernel = (-square / (2 * square[square > 0].median())).exp()
    inside = [k.sum() - k.trace() for k in (kernel[:7, :7], kernel[7:, 7:])]
    expected = (inside[0] + inside[1]) / 42 - 2 * kernel[:7, 7:].mean()
    assert abs(float(mmd(x)(halves(7))) - float(expected)) < 1e-12


def test_moments_and_their_errors() -> None:
    """q = N(0.3, 0.5²) for N(0, 2²): bias 0.15, log ratio −log 4, and quantiles from Φ."""
    q, r = 0.3 + 0.5 * normal(4000, 2), 2 * normal(8000, 2, seed=1)
    found = against_reference({"z": q}, {"z": r}, most=200, permutations=39)
    assert found.names == ("z[0]", "z[1]")
    error = math.sqrt(0.25 / 4000 + 4 / 8000) / 2
    torch.testing.assert_close(found.bias_error, torch.full((2,), error), rtol=0.1, atol=0)
    assert ((found.bias - 0.15).abs() < 5 * error).all()
    error = math.sqrt(0.5 / 4000 + 0.5 / 8000)
    torch.testing.assert_close(found.log_sd_ratio_error, torch.full((2,), error), rtol=0.2, atol=0)
    assert ((found.log_sd_ratio + math.log(4)).abs() < 5 * error).all()
    for i, level in enumerate(found.levels):
        expected = float(stats.norm.cdf(2 * stats.norm.ppf(level), 0.3, 0.5)) - level
        # The reference's quantile has an error too, which the density of q magnifies.
        slope = stats.norm.pdf(2 * stats.norm.ppf(level), 0.3, 0.5)
        own = stats.norm.pdf(stats.norm.ppf(level)) / 2
        se = math.sqrt(0.25 / 4000 + (slope / own) ** 2 * level * (1 - level) / 8000)
        assert ((found.quantile_errors[i] - expected).abs() < 5 * se).all()
    assert found.wasserstein.p == found.mmd.p == 1 / 40
    json.dumps(found.as_dict())


@pytest.mark.parametrize("units", [1, 5])
def test_right_draws_are_at_the_floor(units: int) -> None:
    """Two sets of one distribution: P(p ≤ 1/200) is 1/200, so p is only held to be no less; the
    ratio of the Wasserstein distance is within five of its errors of 1, MMD² within five of 0."""
    q, r = normal(300, units, seed=2), normal(400, units, seed=3)
    wasserstein, divergence = distances(q, r, permutations=199)
    assert wasserstein.p >= 1 / 200 and divergence.p >= 1 / 200
    assert abs(wasserstein.ratio - 1) < 5 * wasserstein.error
    assert abs(divergence.ratio) < 5 * divergence.error


def test_p_of_permutations_is_uniform() -> None:
    """100 repeats of p in {1/20, …, 1}: Kolmogorov–Smirnov above 10⁻⁶ by more than its steps."""
    found = [
        [d.p for d in distances(normal(20, 2, seed=2 * s), normal(20, 2, seed=2 * s + 1), 2, 19)]
        for s in range(100)
    ]
    with seeded(4):
        p = torch.tensor(found) - torch.rand(100, 2) / 20  # uniform on (0, 1)
    for column in p.T:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-6


def test_what_each_distance_sees() -> None:
    """500 draws: a shift by 0.5, a correlation of 0.8 that marginals hide, two modes of one."""
    r = normal(500, 2, seed=5)
    shifted = normal(500, 2, seed=6) + 0.5
    tilted = normal(500, 2, seed=7) @ torch.linalg.cholesky(torch.tensor([[1, 0.8], [0.8, 1]])).T
    for q in (shifted, tilted):
        found = against_reference({"z": q}, {"z": r}, permutations=99)
        assert found.wasserstein.p == found.mmd.p == 0.01
        assert found.wasserstein.ratio > 1.3 and found.mmd.ratio > 3
        assert found.c2st[0].p < 1e-4
    two = torch.cat([r[:250] * 0.2 - 0.98, r[250:] * 0.2 + 0.98])  # the same mean, sd and square
    logistic, neighbours = c2st(two, normal(500, 2, seed=8))
    assert neighbours.mean > 0.7
    same = c2st(normal(500, 2, seed=9), r)
    assert all(abs(a.mean - 0.5) < 5 * 0.5 / math.sqrt(1000) for a in same)
    assert c2st(normal(60, 60), 3 * normal(60, 60, seed=1))[0].mean > 0.8  # squares alone


def test_sites_are_matched_by_name() -> None:
    q = {"a": normal(60, 2, 2), "b": normal(60, seed=1)}
    r = {"b": normal(80, seed=2), "a": normal(80, 2, 2, seed=3), "c": normal(80, seed=4)}
    found = against_reference(q, r, permutations=9, halves=2)
    assert found.names == ("b[0]", "a[0]", "a[1]", "a[2]", "a[3]") and found.left_out == ("c",)
    assert against_reference(q, r, names=["b"], permutations=9, halves=2).names == ("b[0]",)
    tensors = against_reference(normal(60, 2), normal(70, 2), names=("u", "v"), permutations=9)
    assert tensors.names == ("u", "v") and tensors.num_reference == 70
    again = against_reference(q, r, permutations=9, halves=2)
    assert again.as_dict() == found.as_dict()


def test_refusals_in_words() -> None:
    z = normal(60, 2)
    cases: list[tuple[Any, Any, dict[str, Any], str]] = [
        ({"a": z}, {"b": z}, {}, "no site in common"),
        ({"a": z}, {"a": z}, {"names": ["b"]}, r"\['b'\] not on both sides"),
        ({"a": z}, {"a": z[:, :1]}, {}, "has shape"),
        ({"a": z}, {"a": torch.zeros(60, 2)}, {}, "constant in the reference"),
        ({"a": z[:20]}, {"a": z}, {}, "50 draws or more"),
        ({"a": z}, {"a": z / 0}, {}, "NaN or infinite"),
        ({"a": z, "b": z[:55]}, {"a": z, "b": z}, {}, "other numbers of draws"),
    ]
    for q, r, options, words in cases:
        with pytest.raises(ValueError, match=words):
            against_reference(q, r, **options)
    floored = against_reference({"a": z}, {"a": torch.zeros(60, 2)}, sd_floor=1.0, permutations=9)
    torch.testing.assert_close(floored.bias, z.mean(0))


def test_exact_moments_of_mean_field() -> None:
    """A diagonal Gaussian q at the posterior's mean with the precisions of its diagonal: bias 0,
    log sd ratio −½ log(Λ_ii Λ⁻¹_ii)."""
    model, data = PPCA.example()
    model, data = model.double(), data.to(torch.float64)
    p = model.posterior(data["x"])

    class Diagonal:
        """The best product of Gaussians, moved by 0.2 standard deviations."""

        def distribution(self, batch: Batch) -> Any:
            q = model.posterior(batch["x"])
            scale = q.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
            return dist.Normal(q.mean + 0.2 * q.variance.sqrt(), scale).to_event(1)

        def __call__(self, batch: Batch) -> None:
            with rows(batch):
                pyro.sample("z", self.distribution(batch))

    found = against_exact(model, Diagonal(), data)
    expected = -0.5 * (p.precision_matrix.diagonal(dim1=-2, dim2=-1) * p.variance).log()
    torch.testing.assert_close(found.log_sd_ratio, expected.detach(), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.rms_bias, torch.full((2,), 0.2), rtol=0, atol=1e-9)
    assert found.num_draws == 0 and not found.rms_bias_error.any()
    diagonal = Diagonal()
    drawn = against_exact(model, lambda batch: diagonal(batch), data, num_draws=2000)
    assert drawn.num_draws == 2000 and found.names == drawn.names == ("z[0]", "z[1]")
    assert ((drawn.rms_bias - 0.2).abs() < 6 * drawn.rms_bias_error).all()
    away = (drawn.mean_log_sd_ratio - expected.mean(0)).abs()
    assert (away < 6 * drawn.mean_log_sd_ratio_error).all()
    json.dumps(drawn.as_dict())


def test_the_noise_of_draws_is_taken_off() -> None:
    """Draws of the exact posterior: the mean square is 0 within its error, not 1/S."""
    model, data = PPCA.example()
    model, data = model.double(), data.to(torch.float64)
    exact = Guide(model, data, "exact")
    found = against_exact(model, lambda batch: exact(batch), data, num_draws=100)
    assert (found.rms_bias < 6 * found.rms_bias_error).all()
    assert float(found.bias.square().mean()) > 0.005  # 1/S is there all the same


@pytest.mark.parametrize("make", [FactorAnalysis, MixtureOfFactorAnalyzers])
def test_models_that_know_their_posterior(make: Any) -> None:
    model, data = make.example()
    model, data = model.double(), data.to(torch.float64)
    found = against_exact(model, Guide(model, data), data, num_draws=50, num_rows=20)
    assert found.num_rows == 20 and bool(found.log_sd_ratio.isfinite().all())
    exact = Guide(model, data, "exact")
    assert float(against_exact(model, exact, data).rms_bias.max()) < 1e-9


def test_a_model_without_a_posterior_is_refused() -> None:
    from zoo.models.poisson_ppca import PoissonPPCA

    model, data = PoissonPPCA.example()
    with pytest.raises(ValueError, match="does not know its posterior"):
        against_exact(model, Guide(model, data), data)


def test_posteriordb_files(zoo_data: Path) -> None:
    """Every one of them, with the means and standard deviations of its summary."""
    files = sorted(zoo_data.glob("posteriordb/*/draws.json.zip"))
    assert files
    for file in files[:4]:
        draws = read_draws(file)
        summary = np.genfromtxt(
            file.parent / "summary.csv", delimiter=",", names=True, dtype=None, encoding="utf-8"
        )
        flat = pooled(draws)
        assert {value.shape[:2] for value in draws.values()} == {(10, 1000)}
        for row in summary:
            name, _, place = str(row["parameter"]).partition("[")
            column = flat[name][:, int(place[:-1]) - 1] if place else flat[name]
            assert column.mean() == pytest.approx(row["mean"], rel=1e-5, abs=1e-6)
            assert column.std(ddof=1) == pytest.approx(row["sd"], rel=1e-4)


def test_json_and_csv(tmp_path: Path) -> None:
    chains = [{"mu": [1, 2], **{f"w[{i},{j}]": [i, j] for i in (1, 2) for j in (1, 2, 3)}}] * 3
    (tmp_path / "a.json").write_text(json.dumps(chains))
    draws = read_draws(tmp_path / "a.json")
    assert draws["mu"].shape == (3, 2) and draws["w"].shape == (3, 2, 2, 3)
    assert draws["w"][0, 0].tolist() == [[1, 1, 1], [2, 2, 2]]
    assert pooled(draws)["w"].shape == (6, 2, 3)
    with zipfile.ZipFile(tmp_path / "a.json.zip", "w") as archive:
        archive.writestr("a.json", json.dumps(chains[0]))
    assert read_draws(tmp_path / "a.json.zip")["w"].shape == (1, 2, 2, 3)
    (tmp_path / "b.csv").write_text(
        "# by a sampler\nlp__,theta.1,theta.2,chain\n-1,1,2,1\n-1,3,4,1\n-2,5,6,2\n-2,7,8,2\n"
    )
    draws = read_draws(str(tmp_path / "b.csv"))
    assert list(draws) == ["theta"] and draws["theta"].tolist() == [
        [[1, 2], [3, 4]],
        [[5, 6], [7, 8]],
    ]
    (tmp_path / "c.csv").write_text("mu,tau\n1,2\n3,4\n")
    assert read_draws(tmp_path / "c.csv")["tau"].tolist() == [[2, 4]]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.pkl", "x", "not from '.pkl'"),
        ("a.json", "{", "cannot be read"),
        ("a.json", "[1, 2]", "no list of chains"),
        ("a.json", "[]", "has no draws"),
        ("a.json", '[{"mu": ["one"]}]', "'mu' is no row of numbers"),
        ("a.json", '[{"mu": [1]}, {"mu": [1, 2]}]', "other numbers of draws"),
        ("a.json", '[{"w[1]": [1], "w[3]": [1]}]', "fill no array"),
        ("a.json", '[{"w[1]": [1], "w[1,1]": [1]}]', "different numbers of indices"),
        ("a.zip", "no archive", "cannot be read"),
        ("a.csv", "mu\n", "has no draws"),
        ("a.csv", "mu,tau\n1\n", "has not 2 columns"),
        ("a.csv", "mu\none\n", "no row of numbers"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        read_draws(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file of draws"):
        read_draws(tmp_path / "none.json")


@pytest.mark.cuda
def test_on_cuda() -> None:
    z = torch.randn(200, 2, device="cuda")
    json.dumps(against_reference({"z": z}, {"z": z.flip(0) * 2}, permutations=9).as_dict())
    model, data = PPCA.example()
    model = model.cuda()
    found = against_exact(model, Guide(model, data), data)
    assert found.rms_bias.device.type == "cuda"
