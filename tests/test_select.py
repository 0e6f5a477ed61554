"""Selection by held-out likelihood, AIC and BIC; free parameters net of rotation."""

import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.func import functional_call

from experiments.select import default_sweep, parse_sweep, select
from zoo.model import Model
from zoo.models.factor_analysis import FactorAnalysis
from zoo.models.gmm import GMM
from zoo.models.mixture_of_factor_analyzers import MixtureOfFactorAnalyzers
from zoo.models.ppca import PPCA
from zoo.sources import load_data


def rank_of_density(model: Model, num_points: int = 400) -> int:
    """The rank of ∂ log p(x_n) / ∂θ over many rows: how many directions of θ change the density."""
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(num_points, model.data_dim_of_test, generator=generator)  # type: ignore

    class Evidence(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model.log_evidence(x)

    def evidence(flat: Tensor) -> Tensor:
        parts = flat.split(sizes)
        shaped = {
            f"model.{name}": part.reshape(p.shape)
            for name, part, p in zip(names, parts, model.parameters(), strict=True)
        }
        return functional_call(Evidence(), shaped, (x,))

    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    jacobian = torch.autograd.functional.jacobian(evidence, flat)  # (N, P)
    return int(torch.linalg.matrix_rank(jacobian, rtol=1e-9))


def make(kind: type[Model], data_dim: int, **options: object) -> Model:
    torch.manual_seed(1)
    model = kind(data_dim, **options)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    model.data_dim_of_test = data_dim
    return model


@pytest.mark.parametrize(
    ("kind", "data_dim", "options"),
    [
        *[(PPCA, 5, {"latent_dim": d}) for d in (1, 2, 3, 4, 5, 6)],
        *[(FactorAnalysis, 5, {"latent_dim": d}) for d in (1, 2, 3, 4, 5)],
        (FactorAnalysis, 6, {"latent_dim": 3}),
        *[(GMM, 3, {"covariance": c}) for c in ("full", "diagonal", "spherical")],
        (GMM, 2, {"num_components": 1}),
        (MixtureOfFactorAnalyzers, 4, {"num_components": 2, "latent_dim": 1}),
        (MixtureOfFactorAnalyzers, 4, {"num_components": 2, "latent_dim": 3}),
    ],
)
def test_free_parameters_are_the_rank_of_the_density(
    float64: torch.dtype, kind: type[Model], data_dim: int, options: dict[str, object]
) -> None:
    model = make(kind, data_dim, **options)
    assert model.degrees_of_freedom == rank_of_density(model)


def test_ppca_counts_as_in_the_textbook() -> None:
    for D, d in [(13, 2), (64, 10)]:
        assert PPCA(D, d).degrees_of_freedom == D + D * d + 1 - d * (d - 1) // 2


def test_sweeps() -> None:
    assert parse_sweep("model.covariance=full, diagonal") == (
        "model",
        "covariance",
        ["full", "diagonal"],
    )
    assert parse_sweep("fit.lr=0.1,0.01")[2] == [0.1, 0.01]
    iris = load_data("iris")
    assert default_sweep("ppca", iris) == "model.latent_dim=1,2,3"
    assert default_sweep("gmm", iris).startswith("model.num_components=1")


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("latent_dim=1,2", "section.setting=a,b,c"),
        ("model.latent_dim", "section.setting=a,b,c"),
        ("modle.latent_dim=1", "Did you mean 'model'"),
        ("model.latent_dim=1,,2", "different words"),
        ("model.latent_dim=1,1", "different words"),
        ("model.latent_dm=1,2", "Did you mean 'latent_dim'"),
    ],
)
def test_bad_sweeps_are_refused(sweep: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select("ppca", "iris", sweep, steps=1, console=Console(quiet=True))


def test_selection_of_ppca_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "chosen"
    arguments = {
        "steps": 0,
        "model_options": {"init": "ml"},
        "eval_particles": 10,
        "console": Console(quiet=True),
    }
    result = select("ppca", "wine", "model.latent_dim=1,2", out=str(out), **arguments)
    two = result.candidates[1]
    # The maximum-likelihood values of PPCA on wine, d = 2, by eigendecomposition.
    assert result.likelihood(two, "train").mean == pytest.approx(-16.2531, abs=1e-3)
    assert result.likelihood(two, "test").mean == pytest.approx(-16.0075, abs=1e-3)
    count = len(result.split.train)
    k = 13 + 13 * 2 + 1 - 1
    total = count * result.likelihood(two, "train").mean
    assert two.aic == pytest.approx(-2 * total + 2 * k, rel=1e-6)
    assert two.bic == pytest.approx(-2 * total + k * math.log(count), rel=1e-6)

    one = result.candidates[0]
    assert result.winner is two and result.lowest("bic") is two
    rows = two.best.test.exact.rows.double() - one.best.test.exact.rows.double()
    difference = result.difference(one)
    assert difference.mean == pytest.approx(rows.mean().item(), abs=1e-9)
    assert difference.se == pytest.approx((rows.std() / len(rows) ** 0.5).item(), abs=1e-9)
    assert not result.close(one) and result.close(two)

    written = json.loads((out / "select.json").read_text())
    assert written["best"] == 2 and written["figure"] == "exact"
    assert [c["value"] for c in written["candidates"]] == [1, 2]
    assert len((out / "select.csv").read_text().splitlines()) == 3
    assert (out / "select.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in out.iterdir()) == ["select.csv", "select.json", "select.png"]
    with pytest.raises(ValueError, match="already holds a select"):
        select("ppca", "wine", "model.latent_dim=1,2", out=str(out), **arguments)


def test_mixtures_are_fitted_by_em_and_the_best_restart_stands_for_its_size() -> None:
    result = select(
        "gmm",
        "iris",
        "model.num_components=1,3",
        seeds=2,
        steps=20,
        eval_particles=2,
        console=Console(quiet=True),
    )
    assert {o.spec.objective for c in result.candidates for o in c.outcomes} == {"em"}
    for c in result.candidates:
        heights = [o.train.exact.mean for o in c.outcomes]
        assert c.best.train.exact.mean == max(heights)
    one = result.as_dict()["candidates"][0]
    assert one["restarts_apart"] == pytest.approx(0, abs=1e-5)  # one Gaussian has one optimum
    assert one["degrees_of_freedom"] == 14


def test_models_without_evidence_are_judged_by_their_bound(tmp_path: Path) -> None:
    result = select(
        "poisson_ppca",
        "digits",
        "model.latent_dim=1,2",
        steps=3,
        eval_particles=4,
        data_options={"standardize": False},
        fit_options={"batch_size": 20},
        out=str(tmp_path / "p"),
        console=Console(quiet=True),
    )
    assert result.figure == "iwae" and result.lowest("aic") is None
    assert result.candidates[0].degrees_of_freedom is None
