"""Class and style: analogies and grids of styles, against direct calls of the decoders."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments import cli
from experiments.runs import Spec, run
from guides import Guide
from zoo.data import Dataset
from zoo.latent_space import manifold
from zoo.models.gmm import GMM
from zoo.models.m1m2 import M1M2
from zoo.models.m2 import M2
from zoo.models.mixture_of_factor_analyzers import MixtureOfFactorAnalyzers
from zoo.models.ppca import PPCA
from zoo.models.vade import VaDE
from zoo.styles import analogies, parts_of, styles


def spread(module: torch.nn.Module) -> None:
    """Away from the start, where classes are nearly the same."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))


def pair(make: Any) -> tuple[Any, Guide, Dataset]:
    torch.manual_seed(0)
    model, data = make.example()
    guide = Guide(model, data)
    spread(model), spread(guide)
    return model, guide, data.subset(range(5))


def codes_of(guide: Guide, model: M2, data: Dataset, y: torch.Tensor) -> torch.Tensor:
    """E[z | x, y]: (B, d), the mean of a Gaussian."""
    batch = data.batch()
    return guide.distribution(replace(batch, values={**batch.values, "y": y})).mean


class TestParts:
    def test_the_style_does_not_depend_on_the_class(self) -> None:
        for make, style, rest in ((M2, ["z"], ()), (M1M2, ["z2"], ("z1",)), (VaDE, [], ("z",))):
            model, data = make.example()
            parts = parts_of(model, data.batch())
            assert (parts.label, parts.count) == ("y", 3)
            assert list(parts.style) == style and parts.rest == rest

    def test_other_models_are_refused_by_name(self) -> None:
        model, data = PPCA.example()
        with pytest.raises(ValueError, match="PPCA has none"):
            parts_of(model, data.batch())
        for make, words in ((VaDE, r"\['z'\] depend on it"), (GMM, "no continuous ones")):
            model, data = make.example()
            with pytest.raises(ValueError, match=words):
                styles(model)
            with pytest.raises(ValueError, match="no style apart from it"):
                analogies(model, Guide(model, data), data)

    def test_a_latent_is_named(self) -> None:
        model, data = M1M2.example()
        parts = parts_of(model, data.batch())
        assert parts.chosen(None) == parts.chosen("z2") == {"z2": torch.Size([2])}
        with pytest.raises(ValueError, match="z1 depends on the class"):
            parts.chosen("z1")
        with pytest.raises(ValueError, match=r"those are \['z2'\]$"):
            parts.chosen("z")


class TestAnalogies:
    def test_of_m2_are_the_decoder_at_the_mean_of_z(self, float64) -> None:
        model, guide, data = pair(M2)
        y = guide.classify(data.batch())["y"].argmax(-1)
        z = codes_of(guide, model, data, y)
        found = analogies(model, guide, data)
        assert found.shape == (5, 3, 6)
        for c in range(3):
            mean = model.decode(z, torch.full((5,), c)).mean
            torch.testing.assert_close(found[:, c], mean)

    def test_the_class_of_a_row_may_be_given(self, float64) -> None:
        model, guide, data = pair(M2)
        y = torch.tensor([2, 1, 0, 2, 1])
        found = analogies(model, guide, data.batch(), y=y)
        mean = model.decode(codes_of(guide, model, data, y), torch.tensor(1)).mean
        torch.testing.assert_close(found[:, 1], mean)

    def test_labels_of_the_rows_are_not_looked_at(self, float64) -> None:
        model, guide, data = pair(M2)
        plain = analogies(model, guide, data)
        for labelled in (data.labelled([0, 1], [0, 2]), data.labelled(range(5), [0, 1, 2, 0, 1])):
            torch.testing.assert_close(analogies(model, guide, labelled), plain)

    def test_of_m1m2_take_z2_and_let_z1_follow(self, float64) -> None:
        """E[z2 | x, y] is a mean over draws of z1: with q(z2 | ·) the same for all, it is exact."""
        model, guide, data = pair(M1M2)
        start = guide.family.second.start
        with torch.no_grad():
            for parameter in guide.family.second.parameters():
                if parameter is not start:
                    parameter.zero_()
        z2 = start[:2].expand(5, 2)
        found = analogies(model, guide, data, num_samples=3)
        for c in range(3):
            z1 = model.code(z2, torch.full((5,), c)).mean
            torch.testing.assert_close(found[:, c], model.decode(z1).mean)

    def test_draws_are_averaged(self, float64) -> None:
        """The mean of 400 draws is the integral over q, known from 20 000 draws of z."""
        model, guide, data = pair(M2)
        y = guide.classify(data.batch())["y"].argmax(-1)
        batch = data.batch()
        q = guide.distribution(replace(batch, values={**batch.values, "y": y}))
        each = model.decode(q.sample((20000,)), torch.tensor(2)).mean  # (S, B, D)
        found = analogies(model, guide, data, num_draws=400)[:, 2]
        se = each.std(0) * (1 / 400 + 1 / 20000) ** 0.5
        assert ((found - each.mean(0)).abs() < 5.5 * se + 1e-12).all()
        torch.testing.assert_close(analogies(model, guide, data, num_draws=400)[:, 2], found)

    def test_a_mixture_given_y_has_no_style(self) -> None:
        """z of a mixture of factor analysers is N(0, I) whatever y: a style, and a posterior."""
        torch.manual_seed(0)
        model, data = MixtureOfFactorAnalyzers.example()
        guide = Guide(model, data)
        found = analogies(model, guide, data.subset([0, 1]), seed=3)
        assert found.shape == (2, model.options["num_components"], *data.event_shape())
        torch.testing.assert_close(analogies(model, guide, data.subset([0, 1]), seed=3), found)

    def test_counts(self) -> None:
        model, guide, data = pair(M2)
        for options in ({"num_draws": 0}, {"num_samples": 0}):
            with pytest.raises(ValueError, match="count from 1"):
                analogies(model, guide, data, **options)


class TestStyles:
    def test_are_the_decoder_on_the_grid(self, float64) -> None:
        model, _, _ = pair(M2)
        found = styles(model, 3, quantiles=(0.1, 0.9))
        assert found.shape == (3, 3, 3, 6)
        q = 1.2815515655446004  # Φ⁻¹(0.9)
        z = torch.tensor([[a, b] for b in (q, 0, -q) for a in (-q, 0, q)])
        for c in range(3):
            mean = model.decode(z, torch.full((9,), c)).mean
            torch.testing.assert_close(found[c].flatten(0, 1), mean)
        torch.testing.assert_close(
            styles(model, 3, classes=[2, 0], quantiles=(0.1, 0.9)), found[[2, 0]]
        )

    def test_of_m1m2_move_z2(self, float64) -> None:
        model, _, _ = pair(M1M2)
        found = styles(model, 3, dims=(1,))
        assert found.shape == (3, 1, 3, 6)
        q = 1.6448536269514722  # Φ⁻¹(0.95)
        z2 = torch.tensor([[0, -q], [0, 0], [0, q]])
        mean = model.decode(model.code(z2, torch.tensor(1)).mean).mean
        torch.testing.assert_close(found[1, 0], mean)

    def test_mistakes_are_answered_in_words(self) -> None:
        wide = M2(6, 3, latent_dim=4, hidden=(5,), likelihood="bernoulli")
        with pytest.raises(ValueError, match="z has 4 dimensions"):
            styles(wide, 3)
        assert styles(wide, 3, dims=(0, 3)).shape == (3, 3, 3, 6)
        for classes in ([3], [-1], []):
            with pytest.raises(ValueError, match="from 0 to 2"):
                styles(wide, 3, dims=(0, 3), classes=classes)
        with pytest.raises(ValueError, match="no continuous latent of rows is called 'w'"):
            manifold(wide, 3, latent="w")


CPU = ["--device", "cpu"]
QUICK: dict[str, Any] = {"eval_particles": 2, "eval_rows": 10, "device": "cpu"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """M2 on digits with 50 labels."""
    place = tmp_path_factory.mktemp("styles") / "run"
    options = {"latent_dim": 2, "hidden": [8], "likelihood": "gaussian"}
    fitted = {"steps": 5, "batch_size": 100}
    data = {"labels": 50}
    spec = Spec(
        "m2", "digits", model_options=options, fit_options=fitted, data_options=data, **QUICK
    )
    run(spec, place, progress=False)
    return place


def test_analogies_of_a_run(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["analogies", str(made), "--num-rows", "4", "--out", str(tmp_path), *CPU]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"analogies.npz", "analogies.png"}
    said = capsys.readouterr().out
    assert "4 test rows in 10 classes y, in their own z" in said and "another class" in said
    with np.load(tmp_path / "analogies.npz") as file:
        assert file["x"].shape == (4, 64) and file["mean"].shape == (4, 10, 64)
        assert file["guess"].shape == file["rows"].shape == (4,)
    words = ["--rows", "train", "--num-rows", "3", "--num-draws", "2", "--latent", "z"]
    assert cli.main(["analogies", str(made), *words, "--out", str(tmp_path), *CPU]) == 0
    with np.load(tmp_path / "analogies.npz") as file:
        assert file["mean"].shape == (3, 10, 64)


def test_styles_of_a_run(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--size", "3", "--classes", "7,2", "--out", str(tmp_path), *CPU]
    assert cli.main(["styles", str(made), *words]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"styles.npz", "styles.png"}
    assert "E[x | y, z] of 2 classes at 9 points" in capsys.readouterr().out
    with np.load(tmp_path / "styles.npz") as file:
        assert file["mean"].shape == (2, 3, 3, 64) and file["classes"].tolist() == [7, 2]
    words = ["--size", "4", "--dims", "1", "--out", str(tmp_path), *CPU]
    assert cli.main(["styles", str(made), *words]) == 0
    with np.load(tmp_path / "styles.npz") as file:
        assert file["mean"].shape == (10, 1, 4, 64)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["analogies", "--num-rows", "0"], "num_rows counts from 1"),
        (["analogies", "--latent", "w"], "which 'w' is not"),
        (["styles", "--classes", "10"], "from 0 to 9"),
        (["styles", "--quantiles", "0.5"], "two numbers"),
        (["styles", "--row", "-1"], "row counts"),
        (["styles", "--size", "1"], "size counts from 2"),
    ],
)
def test_mistakes(
    made: Path, capsys: pytest.CaptureFixture[str], line: list[str], message: str
) -> None:
    assert cli.main([line[0], str(made), *line[1:], *CPU]) == 2
    assert message in capsys.readouterr().err


def test_what_is_no_image_or_has_no_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"latent_dim": 2, "hidden": [4], "likelihood": "gaussian"}
    for name, data, options, message in (
        ("m2", "iris", small, "are none"),
        ("ppca", "digits", {}, "PPCA has none"),
    ):
        place = tmp_path / name
        spec = Spec(name, data, model_options=options, fit_options={"steps": 2}, **QUICK)
        run(spec, place, progress=False)
        for command in ("analogies", "styles"):
            assert cli.main([command, str(place), *CPU]) == 2
            assert message in capsys.readouterr().err


def test_they_say_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("analogies", "styles"):
        assert cli.main([command, "--help"]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: zoo {command} RUN") and "examples:" in text
        assert "--latent" in text and "``" not in text
    assert cli.main(["--help"]) == 0
    assert "zoo analogies RUN" in capsys.readouterr().out
