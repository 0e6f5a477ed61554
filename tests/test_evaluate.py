"""``zoo evaluate``: a small run on digits, judged from the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import cli
from experiments.runs import Spec
from experiments.runs import run as fit_run

SMALL = ["--steps", "20", "--eval-particles", "5", "--infer-steps", "5", "--device", "cpu"]


def zoo(*words: str) -> None:
    assert cli.main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PPCA with three latents on digits."""
    place = tmp_path_factory.mktemp("evaluate") / "run"
    zoo("fit", "ppca", "--data", "digits", "--model.latent_dim", "3", *SMALL, "--out", place)
    return place


def content(place: Path) -> dict[str, Any]:
    return json.loads((place / "evaluation.json").read_text())


def test_a_run_is_judged_and_left_as_it_was(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    capsys.readouterr()
    words = ["--num-particles", "200", "--num-rows", "40", "--seed", "1"]
    zoo("evaluate", run, *words)
    printed = capsys.readouterr().out
    after = {path.name: path.read_bytes() for path in run.iterdir()}
    assert set(after) - set(before) == {"evaluation.json", "evaluation.png"}
    assert {name: after[name] for name in before} == before
    assert after["evaluation.png"].startswith(b"\x89PNG")
    found = content(run)
    assert found["num_rows"] == 40 and found["rows"] == "test"
    assert found["ladder"]["levels"] == [1, 10, 100, 200]
    means = [bound["mean"] for bound in found["ladder"]["bounds"]]
    assert means[0] < means[-1] < found["exact"]["mean"] + 1
    assert found["nll"]["mean"] == -means[-1]
    assert found["kl_to_posterior"]["mean"] == pytest.approx(means[-1] - means[0])
    assert found["active_units"]["of"] == 3 and len(found["kl"]["units"]) == 3
    mutual = found["mutual_information"]
    assert mutual["information"]["mean"] <= mutual["log_num_rows"] == pytest.approx(np.log(40))
    assert found["bits_per_dimension"] is None and found["clustering"] is None
    for text in (
        "40 test rows, K = 200",
        "seed 1",
        "lower bound",
        "estimate",
        "at most log N = 3.69",
        "E_q[z|x] > 0.01",
        "40 of 360 test rows",
        "no bits per dimension",
    ):
        assert text in printed, text
    zoo("evaluate", run, *words, "--out", tmp_path / "elsewhere")
    again = content(tmp_path / "elsewhere")
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in found.items() if k != "seconds"
    }


def test_rows_of_a_table_are_fitted_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["--data", "iris", "--inference", "per_datapoint", "--family", "full_rank"]
    zoo("fit", "ppca", *words, *SMALL, "--out", tmp_path / "run")
    zoo("evaluate", tmp_path / "run", "--num-particles", "20")
    found = content(tmp_path / "run")
    assert found["infer_steps"] == 5 and found["kl"]["not_by_unit"] == ["z"]
    assert "fitted to it first, in 5 steps" in " ".join(capsys.readouterr().out.split())
    zoo("evaluate", tmp_path / "run", "--num-particles", "20", "--rows", "train")
    assert content(tmp_path / "run")["infer_steps"] is None


def test_clusters_are_held_against_the_labels(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    zoo("fit", "gmm", "--data", "iris", "--objective", "em", *SMALL, "--out", tmp_path / "run")
    capsys.readouterr()
    zoo("evaluate", tmp_path / "run", "--num-particles", "4")
    found = content(tmp_path / "run")
    assert 0.5 < found["clustering"]["accuracy"] <= 1
    assert 0.3 < found["clustering"]["adjusted_rand_index"] <= 1
    assert found["kl"] is None and found["active_units"] is None
    assert "clustering accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "sizes", "units"),
    [
        ("m2", {"latent_dim": 2, "hidden": [8]}, ["y", "z[0]", "z[1]"]),
        (
            "m1m2",
            {"latent_dim": 2, "style_dim": 1, "hidden": [8], "style_hidden": [8]},
            ["y", "z2[0]", "z1[0]", "z1[1]"],
        ),
    ],
)
def test_classes_are_judged_by_their_error(
    model: str,
    sizes: dict[str, Any],
    units: list[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    place = labelled(tmp_path / "run", model, sizes, {"labels": 50})
    summary = json.loads((place / "summary.json").read_text())
    zoo("evaluate", place, "--num-particles", "20", "--device", "cpu")
    printed = capsys.readouterr().out
    found = content(place)
    assert (place / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert found["classifier"] == ["y"] and found["clustering"] is None
    table = np.array(found["confusion"])
    assert table.shape == (10, 10) and table.sum() == 360 == found["error"]["num_rows"]
    wrong = 1 - np.trace(table) / 360
    assert found["error"]["mean"] == pytest.approx(wrong)
    assert summary["test"]["error"]["mean"] == pytest.approx(wrong)
    assert found["error"]["se"] == pytest.approx(np.sqrt(wrong * (1 - wrong) / 360))
    assert found["classes"] == [str(c) for c in range(10)]
    bins = found["calibration"]["bins"]
    assert sum(bins["count"]) == 360 and len(bins["count"]) == 15
    right = [a * n for a, n in zip(bins["accuracy"], bins["count"], strict=True) if n]
    assert sum(right) == pytest.approx(np.trace(table))
    assert found["kl"]["names"] == units and found["kl"]["not_by_unit"] == []
    assert found["kl"]["total"]["mean"] == pytest.approx(sum(found["kl"]["units"]))
    assert found["active_units"]["of"] == len(units) - 1
    means = [bound["mean"] for bound in found["ladder"]["bounds"]]
    assert means[0] < means[1] < means[2]
    assert any("mutual information was not computed" in note for note in found["notes"])
    words = ("test error, %", "calibration error, %", "log loss", "KL(q(y, z|x) ‖ p(y, z))")
    for text in (*words, "ELBO has q(y | x)", "reliability.png"):
        assert text in " ".join(printed.split()), text
    assert "clustering" not in printed


def test_bounds_of_rows_that_had_labels_are_of_x_alone(tmp_path: Path) -> None:
    """Labels of all rows, of some and of none give the same judge the same rows to judge."""
    sizes = {"latent_dim": 2, "hidden": [8]}
    place = labelled(tmp_path / "run", "m2", sizes, {"labels": "all"})
    line = ["--num-particles", "20", "--rows", "train", "--num-rows", "50", "--device", "cpu"]
    zoo("evaluate", place, *line)
    found = content(place)
    assert any("1437 of the training rows had their label" in note for note in found["notes"])
    assert found["error"]["num_rows"] == 50 and found["rows"] == "train"
    assert found["kl"]["names"][0] == "y"  # which nobody gave


def test_without_labels_values_of_y_are_clusters(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place = labelled(tmp_path / "run", "m2", {"latent_dim": 2, "hidden": [8]}, {})
    zoo("evaluate", place, "--num-particles", "4", "--num-rows", "40", "--device", "cpu")
    found = content(place)
    assert found["clustering"]["accuracy"] > 1 - found["error"]["mean"] - 1e-9  # the best map
    printed = " ".join(capsys.readouterr().out.split())
    assert "the run itself saw no labels" in printed and "clustering accuracy" in printed


def labelled(place: Path, model: str, sizes: dict[str, Any], data: dict[str, Any]) -> Path:
    """A short run on digits."""
    spec = Spec(
        model,
        "digits",
        model_options={**sizes, "likelihood": "gaussian"},
        data_options=data,
        fit_options={"steps": 10, "batch_size": 100},
        eval_particles=2,
        eval_rows=10,
        device="cpu",
    )
    fit_run(spec, place, progress=False)
    return place


def test_grey_levels_are_told_in_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight pixels of 256 levels: a decoder that has learned nothing needs about 8 bits each."""
    x = np.random.RandomState(0).randint(256, size=(60, 8)) / 255
    np.save(tmp_path / "grey.npy", x)
    model = ["--model.likelihood", "categorical", "--model.latent_dim", "2", "--model.hidden", "8"]
    data = ["--data", tmp_path / "grey.npy", "--standardize", "false"]
    quick = ["--steps", "2", "--eval-particles", "2", "--device", "cpu"]
    zoo("fit", "vae", *data, *model, *quick, "--out", tmp_path / "run")
    capsys.readouterr()
    zoo("evaluate", tmp_path / "run", "--num-particles", "20")
    bits = content(tmp_path / "run")["bits_per_dimension"]
    nll = content(tmp_path / "run")["nll"]["mean"]
    assert bits["levels"] == 256 and bits["mean"] == pytest.approx(nll / (8 * np.log(2)))
    assert 7 < bits["mean"] < 9.5
    assert "bits per dimension" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-particles", "1"], "num_particles counts from 2"),
        (["--num-rows", "0"], "num_rows from 1"),
        (["--rows", "validation"], "rows"),
        (["--infer-steps", "-1"], "infer_steps counts from 0"),
    ],
)
def test_mistakes_are_answered_in_words(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.main(["evaluate", str(run), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_point_mass_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    zoo("fit", "ppca", "--data", "iris", "--family", "delta", *SMALL, "--out", tmp_path / "run")
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 2
    assert "point mass" in capsys.readouterr().err
    assert not (tmp_path / "run" / "evaluation.json").exists()


def test_it_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    zoo("evaluate", "--help")
    text = capsys.readouterr().out
    assert text.startswith("usage: zoo evaluate RUN") and "--num-particles" in text
    assert "examples:" in text and "``" not in text
    zoo("--help")
    assert "zoo evaluate RUN" in capsys.readouterr().out
