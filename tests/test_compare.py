"""Comparisons: paired differences, the two modes, which guides, the folder, one whole run each."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from experiments.compare import compare
from experiments.judge.grid import Cell, grid
from experiments.judge.paired import PROBE, common_error, paired, same_data
from experiments.judge.posteriors import locals_of, shown
from experiments.judge.restarts import apart, rotation
from experiments.output import claim, flat
from experiments.runs import Spec, run
from experiments.show.figures import comparison_figure
from experiments.show.tables import comparison_table, number
from guides.guide import Guide
from zoo.evaluation import Estimate, evaluate
from zoo.models.gmm import GMM
from zoo.models.ppca import PPCA
from zoo.sources import load_data

QUIET = Console(quiet=True)
QUICK = {"steps": 30, "infer_steps": 30, "eval_particles": 20, "console": QUIET}
FOUR = "exact,mean_field/per_datapoint,full_rank/per_datapoint,full_rank/amortized"


def estimate(rows: list[float], error: list[float]) -> Estimate:
    return Estimate(torch.tensor(rows), torch.tensor(error))


# Differences


def test_paired_difference_by_hand() -> None:
    a = estimate([1.0, 2.0, 6.0], [0.3, 0.0, 0.0])
    b = estimate([0.5, 2.5, 3.0], [0.0, 0.4, 0.0])
    found = paired(a, b)  # differences 0.5, -0.5, 3.0: mean 1, squares .25 + 2.25 + 4 = 6.5
    assert found.mean == pytest.approx(1.0)
    assert found.se_rows == pytest.approx(math.sqrt(6.5 / 2 / 3))
    assert found.se_mc == pytest.approx(math.hypot(0.3, 0.4) / 3)
    assert found.num_rows == 3 and found.se == found.se_rows
    assert paired(a, b, se_mc=9.0).se == 9.0


def test_pairing_takes_away_what_rows_have_in_common() -> None:
    torch.manual_seed(0)
    rows = 100 * torch.randn(50)
    a, b = Estimate(rows + 1, torch.zeros(50)), Estimate(rows, torch.zeros(50))
    assert a.se_data > 5
    assert paired(a, b).mean == pytest.approx(1, abs=1e-4)
    assert paired(a, b).se_rows < 1e-4


def test_figures_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and of 3 rows"):
        paired(estimate([1.0] * 2, [0.0] * 2), estimate([1.0] * 3, [0.0] * 3))


def test_the_error_under_common_random_numbers_is_that_of_the_difference() -> None:
    """Two mean-field guides close together: the spread of ELBO_a − ELBO_b over 40 seeds.

    The sd of 40 normal values has a relative standard error of 1/√78 = 11 %; the band of a factor
    2 is more than 5 of those. Under independent draws the error is several times as large.
    """
    data = load_data("iris").test
    torch.manual_seed(0)
    model = PPCA(4)
    a, b = (Guide(model, data, "mean_field", "per_datapoint") for _ in range(2))
    with torch.no_grad():
        b.source.table.weight.add_(0.05)
    count = 50
    pairs = [
        [evaluate(model, g, data, num_particles=count, seed=s).elbo for g in (a, b)]
        for s in range(40)
    ]
    spread = torch.tensor([(x.mean - y.mean) for x, y in pairs]).std().item()
    expected = common_error(a, b, data, count)
    assert PROBE >= 100 and 0.5 < spread / expected < 2
    assert paired(*pairs[0]).se_mc > 3 * expected


def test_other_data_are_refused_by_name() -> None:
    same_data({"a": {"name": "iris"}, "b": {"name": "iris"}})
    with pytest.raises(ValueError, match="'a' and 'c' cannot be compared: binarize is 'static'"):
        same_data({"a": {"binarize": "static"}, "c": {"binarize": "dynamic"}})


# Which guides


def test_the_grid_is_family_by_inference_by_objective_with_exact_once() -> None:
    cells = grid(
        "exact,mean_field,full_rank",
        "per_datapoint,amortized",
        "elbo,iwae",
        local=True,
        fixed=True,
    )
    labels = [cell.label for cell in cells]
    assert labels[0] == "exact" and labels.count("exact") == 1
    assert len(labels) == 1 + 2 * 2 * 2
    assert "full_rank / amortized / iwae" in labels
    joint = grid("exact", "amortized", "elbo,iwae", local=True, fixed=False)
    assert [cell.label for cell in joint] == ["exact / elbo", "exact / iwae"]


def test_a_family_may_name_its_own_inference() -> None:
    cells = grid(FOUR, "semi_amortized", "elbo", local=True, fixed=True)
    assert [c.label for c in cells] == [
        "exact",
        "mean_field / per_datapoint",
        "full_rank / per_datapoint",
        "full_rank / amortized",
    ]


def test_without_continuous_latents_there_is_one_row_an_objective() -> None:
    cells = grid("mean_field,full_rank", "amortized", "em,elbo", local=False, fixed=False)
    assert [cell.label for cell in cells] == ["em", "elbo"]


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("mean_feild", "Did you mean 'mean_field'"),
        ("mean_field/amortised", "Did you mean 'amortized'"),
        ("exact/amortized", "write exact"),
        ("mean_field,,exact", "comma list"),
    ],
)
def test_words_that_are_not_there(family: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid(family, "amortized", "elbo", local=True, fixed=True)


# Alignment


def test_restarts_are_aligned_before_they_are_compared() -> None:
    torch.manual_seed(0)
    a, b = PPCA(6, latent_dim=3), PPCA(6, latent_dim=3)
    turn, _ = torch.linalg.qr(torch.randn(3, 3))
    b.load_state_dict({**a.state_dict(), "weight": a.weight.detach() @ turn})
    assert apart([a, b]) == pytest.approx(0, abs=1e-5)
    z = torch.randn(5, 3)  # z of a is z turn of b: both have one identified place
    torch.testing.assert_close(z @ rotation(a, a), (z @ turn) @ rotation(b, a), atol=1e-4, rtol=0)
    c, d = GMM(2), GMM(2)
    d.load_state_dict({k: v.flip(0) for k, v in c.state_dict().items()})
    assert apart([c, d]) == pytest.approx(0, abs=1e-6)
    assert apart([a]) is None


# The folder


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    assert claim(tmp_path / "new", "compare", False) == tmp_path / "new"
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="holds something else"):
            claim(tmp_path, "compare", overwrite)
    with pytest.raises(ValueError, match="is a file"):
        claim(tmp_path / "notes.txt", "compare", True)
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "compare.json").write_text("{}")
    with pytest.raises(ValueError, match="already holds a compare"):
        claim(earlier, "compare", False)
    assert claim(earlier, "compare", True) == earlier


def test_the_folder_is_looked_at_before_anything_is_fitted(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="something else"):
        compare("ppca", "iris", out=str(tmp_path), steps=10**9, console=QUIET)


# Modes


def test_on_a_fixed_model_gaps_are_inference_gaps(tmp_path: Path) -> None:
    """Mean field falls short by ½(Σ log Λ_ii − log|Λ|), full rank by nothing."""
    out = tmp_path / "out"
    result = compare(
        "ppca",
        "wine",
        model_options={"latent_dim": 2},
        steps=300,
        infer_steps=600,
        eval_particles=200,
        out=str(out),
        console=QUIET,
    )
    assert result.mode == "fixed" and result.reference.label == "exact"
    assert result.ranked[0] == result.reference
    models = {id(o.model) for runs in result.outcomes.values() for o in runs}
    assert len(models) == 1
    gaps = {cell.label: result.gap(cell, "test") for cell in result.outcomes}
    precision = result.outcomes[result.reference][0].model.posterior(result.split.test["x"][:1])
    precision = precision.precision_matrix[0].double()
    closed = 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()
    mean, error = gaps["mean_field / per_datapoint"]
    assert abs(mean - closed) < 5 * error + 2e-3  # and the rows' optimisation
    assert gaps["full_rank / per_datapoint"][0] == pytest.approx(0, abs=1e-3)
    assert gaps["exact"][0] == pytest.approx(0, abs=1e-4)
    assert gaps["full_rank / amortized"][0] > 0

    written = json.loads((out / "compare.json").read_text())
    assert written["on"] == "fixed" and written["reference"] == "exact"
    assert [r["guide"] for r in written["runs"]] == [c.label for c in result.ranked]
    needed = "model family inference objective num_particles data seed device steps seconds"
    needed += " versions num_train num_test train test config gap"
    for summary in written["runs"]:
        assert set(needed.split()) <= summary.keys()
        assert {"mean", "se"} <= summary["test"]["elbo"].keys()
    (difference,) = [
        d
        for d in written["differences"]
        if (d["guide"], d["rows"], d["figure"]) == ("mean_field / per_datapoint", "test", "elbo")
    ]
    assert difference["mean"] == pytest.approx(mean, abs=1e-6)
    assert difference["se_rows"] > 0 and difference["se_mc"] > 0
    with (out / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and float(rows[0]["test.elbo.mean"]) < 0
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.suffix for p in out.iterdir()) == [".csv", ".json", ".png"]


def test_trained_jointly_each_guide_has_a_model_of_its_own() -> None:
    result = compare("ppca", "iris", "mean_field,full_rank", "amortized", on="joint", **QUICK)
    assert result.mode == "joint" and result.known
    assert len({id(o.model) for runs in result.outcomes.values() for o in runs}) == 2
    text = Console(width=160)
    with text.capture() as captured:
        text.print(comparison_table(result))
    assert "mix model and inference" in captured.get() and "log p(x) test" in captured.get()
    assert any("mix" in line for line in result.remarks())
    assert result.reference == result.ranked[0]
    assert all(d["se_mc"] > 0 for d in result.differences)


@pytest.mark.parametrize("width", [80, 120, 160])
def test_a_narrow_terminal_cuts_no_figure_short(width: int) -> None:
    result = compare("ppca", "iris", "mean_field", "per_datapoint", on="joint", **QUICK)
    text = Console(width=width)
    with text.capture() as captured:
        text.print(comparison_table(result, width))
    assert "…" not in captured.get()
    assert number(result.figure(result.ranked[0], "test", "elbo")) in captured.get()
    assert ("For want of room" in captured.get()) == (width < 160)


def test_without_exact_the_default_is_joint_and_fixed_needs_a_model() -> None:
    options = {"data_options": {"standardize": False}, "fit_options": {"batch_size": 20}}
    with pytest.raises(ValueError, match="--model-from"):
        compare("poisson_ppca", "digits", on="fixed", **options, **QUICK)
    with pytest.raises(ValueError, match="leave exact out"):
        compare("poisson_ppca", "digits", "exact", **options, **QUICK)
    with pytest.raises(ValueError, match="no guide to refit"):
        compare("gmm", "iris", on="fixed", **QUICK)


def test_the_model_of_a_run_is_the_fixed_one_and_is_left_alone(tmp_path: Path) -> None:
    spec = Spec("ppca", "iris", fit_options={"steps": 5}, eval_particles=2)
    trained = run(spec, tmp_path / "run").model
    result = compare(
        "ppca", "iris", "mean_field", "amortized", model_from=str(tmp_path / "run"), **QUICK
    )
    assert result.mode == "fixed"
    (outcomes,) = result.outcomes.values()
    for name, value in outcomes[0].model.state_dict().items():
        assert torch.equal(value, trained.state_dict()[name])
    with pytest.raises(ValueError, match="cannot be compared"):
        compare("ppca", "wine", model_from=str(tmp_path / "run"), **QUICK)


def test_several_seeds_have_a_mean_and_a_spread() -> None:
    result = compare("ppca", "iris", "full_rank", "amortized", on="joint", seeds=2, **QUICK)
    (cell,) = result.outcomes
    assert [o.spec.seed for o in result.outcomes[cell]] == [0, 1]
    values = [o.test.elbo.mean for o in result.outcomes[cell]]
    mean, spread = result.figure(cell, "test", "elbo")
    assert mean == pytest.approx(sum(values) / 2)
    assert spread == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    assert 0 < result.restarts[cell.label] < 2
    with pytest.raises(ValueError, match="seeds counts from 1"):
        compare("ppca", "iris", seeds=0, **QUICK)


# What is shown


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("ppca", {"model_options": {"latent_dim": 1}}),
        ("gmm", {"objective": "em,elbo"}),
        ("bayesian_ppca", {"family": "mean_field", "inference": "amortized"}),
        ("mixture_of_factor_analyzers", {"family": "exact,delta", "inference": "amortized"}),
        ("factor_analysis", {"data_options": {"test_fraction": 0}, "objective": "elbo,iwae"}),
    ],
)
def test_every_kind_of_model_has_a_table_and_a_picture(
    tmp_path: Path, model: str, options: dict[str, object]
) -> None:
    out = tmp_path / "out"
    console = Console(width=160, record=True, file=(tmp_path / "log").open("w"))
    with console.file:
        result = compare(model, "iris", **{**QUICK, "console": console}, **options, out=str(out))
    assert (out / "compare.png").stat().st_size > 10_000
    text = console.export_text()
    assert all(cell.label.split(" / ")[0] in text for cell in result.outcomes)


def test_the_rows_shown_have_the_same_draws_under_equal_guides() -> None:
    result = compare("ppca", "iris", "exact,full_rank/amortized", **QUICK)
    view = shown(result)
    exact = view.draws[result.reference]
    assert exact.shape == (4000, 4, 2) and view.identified
    guide = result.outcomes[result.reference][0].judged.test_guide
    model = guide.model
    batch = view.data.batch(view.rows).unscaled()
    turn = rotation(model, model)
    again = locals_of(guide, batch, 4000, turn)
    torch.testing.assert_close(again, exact)
    # In identified coordinates the posterior of PPCA is axis-parallel.
    cov = torch.cov(exact[:, 0].T)
    exact_cov = turn.T @ model.posterior(batch["x"]).covariance_matrix[0] @ turn
    assert exact_cov[0, 1].abs() < 1e-5 * exact_cov[0, 0] + 1e-6
    # The sd of a sample variance is 2.2 % at 4000 draws; the band is 5.5 of those.
    torch.testing.assert_close(cov.diagonal(), exact_cov.diagonal().detach(), rtol=0.12, atol=0)
    assert len(comparison_figure(result).axes) > 2


def test_numbers_show_as_many_digits_as_their_error_leaves() -> None:
    assert number((1.23456, 0.0123)) == "1.235 ± 0.012"
    assert number((-1e-9, 0.0)) == "0.0000"
    assert number((float("nan"), 0.0)) == "nan ± 0.0"
    assert number((12.3, 34.0)) == "12 ± 34"


def test_nested_figures_become_columns() -> None:
    assert flat({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}
    assert Cell("exact", "amortized", "elbo").label == "exact"
