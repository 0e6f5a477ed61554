"""Report cards side by side, and zoo diagnose and zoo compare from the shell."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from experiments.cli import main
from experiments.compare import compare
from experiments.inference_data import to_arviz
from experiments.judge.cards import cards_of


def test_cards_of_one_frozen_model() -> None:
    """mean_field's KL less that of exact, row by row; the simulations are the same."""
    found = compare(
        "ppca", "iris", family="exact,mean_field/amortized", steps=100, eval_particles=20
    )
    cards = cards_of(found, simulate=True)
    assert cards.reference == "exact" and set(cards.reports) == {"exact", "mean_field / amortized"}
    truths = [report.results["simulations"].truth for report in cards.reports.values()]
    assert torch.equal(*truths)
    by_name = {d.name: d for d in cards.differences}
    gap = by_name["KL(q ‖ p), nats"]
    rows = -cards.reports["mean_field / amortized"].results["bounds"].elbo.rows
    exact = -cards.reports["exact"].results["bounds"].elbo.rows
    assert gap.mean == pytest.approx(float((rows - exact).mean()), abs=1e-9)
    assert gap.se == pytest.approx(float((rows - exact).std()) / len(rows) ** 0.5, rel=1e-6)
    assert gap.mean > 0 and by_name["Jeffreys, nats"].count == len(truths[0])
    json.dumps(cards.as_dict()["card_differences"])


def fitted(path: Path, *words: str) -> None:
    assert main(["fit", "ppca", "--data", "iris", *words, "--out", str(path)]) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    fitted(path, "--steps", "200", "--family", "full_rank")
    return path


def test_diagnose_from_the_shell(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--num-draws", "200", "--num-rows", "20", "--num-simulations", "50"]
    small += ["--search-steps", "20"]
    assert main(["diagnose", str(run), "--simulate", *small]) == 0
    shown = capsys.readouterr().out
    place = run / "report"
    assert "Not checked" in shown and "Holm" in shown
    content = json.loads((place / "report.json").read_text())
    assert content["about"]["num_rows"] == 20 and content["verdict"]["tests"] > 8
    names = {check["name"] for check in content["checks"]}
    assert {"certified gap", "k̂ of rows", "SBC", "iterates", "predictive ranks"} <= names
    HTMLParser().feed((place / "report.html").read_text())
    assert {p.name for p in place.iterdir()} >= {"posterior.nc", "khat.png", "calibration.png"}
    idata = to_arviz(str(run), num_draws=50)
    assert idata.posterior["z"].shape[:2] == (1, 50)


def test_a_series_is_its_own_restarts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(tmp_path / "runs", "--steps", "60", "--seeds", "3", "--infer-steps", "20")
    capsys.readouterr()
    small = ["--num-draws", "200", "--num-rows", "20", "--search-steps", "20"]
    assert main(["diagnose", str(tmp_path / "runs"), *small]) == 0
    content = json.loads((tmp_path / "runs" / "report" / "report.json").read_text())
    checks = {check["name"]: check for check in content["checks"]}
    assert "3 restarts" in checks["restarts"]["text"]
    assert "WWᵀ" in checks["functionals"]["text"]
    assert content["about"]["rows"] == "test"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "does not exist"),
        (["RUN", "--num-draws", "5"], "num_draws from 100"),
        (["RUN", "--num-rows", "0"], "num_rows"),
        (["RUN", "--reference", "nothing.json"], "nothing.json"),
        (["RUN", "--rows", "some"], "rows"),
    ],
)
def test_bad_words_are_told(
    words: list[str],
    says: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [str(run) if word == "RUN" else word for word in words]
    try:
        code = main(["diagnose", *filled, "--out", str(tmp_path / "card")])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "card" / "report.json").exists()
