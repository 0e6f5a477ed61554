"""``zoo evaluate``: a small run on digits, judged from the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import cli

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
