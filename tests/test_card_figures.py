"""The pictures of a report card: of what there is, readable where numbers are extreme."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from experiments.output import png
from experiments.show.card_figures import FIGURES, card_figures
from experiments.show.card_files import write_report
from experiments.show.card_words import PICTURES
from guides.guide import Guide
from zoo.diagnostics.bounds import bounds
from zoo.diagnostics.collapse import INFERENCE, POSTERIOR, UNDECIDED, USED, collapse
from zoo.diagnostics.coverage import coverage
from zoo.diagnostics.draws import weighted_draws
from zoo.diagnostics.moments import corrected_moments
from zoo.diagnostics.predictive import predictive_checks
from zoo.diagnostics.psis import psis
from zoo.diagnostics.report import Report
from zoo.diagnostics.sbc import sbc
from zoo.diagnostics.simulation import simulate_posteriors
from zoo.diagnostics.tarp import tarp
from zoo.estimate import Estimate
from zoo.evaluation import exact_evidence
from zoo.latent_use import ActiveUnits, LatentKL, active_units, latent_kl, mutual_information
from zoo.models.ppca import PPCA

METRICS = [{"step": 10 * i, "loss": 3 + 1 / i} for i in range(1, 40)]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """Of an untrained encoder, which is wrong in every way."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, data = PPCA.example()
        guide = Guide(model, data, "mean_field")
    draws = weighted_draws(model, guide, data, 200)
    smoothed = psis(draws.log_weight)
    simulated = simulate_posteriors(model, guide, data, num_simulations=200, num_draws=20)
    return {
        "draws": draws,
        "psis": smoothed,
        "bounds": bounds(draws.log_weight),
        "exact": exact_evidence(model, data),
        "moments": corrected_moments(draws, smoothed),
        "sbc": sbc(simulated),
        "coverage": coverage(simulated),
        "tarp": tarp(simulated),
        "predictive": predictive_checks(model, guide, data, num_draws=20),
        "active_units": active_units(model, guide, data),
        "kl": latent_kl(model, guide, data),
        "mutual_information": mutual_information(model, guide, data),
        "collapse": collapse(model, guide, data, draws, smoothed),
        "metrics": METRICS,
    }


def of(results: dict[str, Any]) -> dict[str, Figure]:
    return card_figures(Report((), results, {}))


def drawn(figure: Figure) -> bytes:
    """Small, to be quick; a letter that the font lacks is a warning, which is an error."""
    figure.set_dpi(30)
    return png(figure)


def words(figure: Figure) -> str:
    """Titles, labels and legends."""
    parts = []
    for axes in figure.axes:
        parts += [axes.get_title(loc="left"), axes.get_xlabel(), axes.get_ylabel()]
        legend = axes.get_legend()
        parts += [text.get_text() for text in legend.get_texts()] if legend else []
    return " ".join(parts).replace("\n", " ")


def test_every_picture_says_what_it_shows(results: dict[str, Any]) -> None:
    figures = of(results)
    assert list(figures) == list(FIGURES) and set(FIGURES) == set(PICTURES)
    for name, figure in figures.items():
        assert drawn(figure)[:4] == b"\x89PNG"
        for axes in figure.axes:
            assert len(axes.get_title(loc="left")) > 10, name
            assert axes.get_ylabel() or axes.get_yticklabels(), name
            assert axes.has_data(), name
    assert "log p(x), exact" in words(figures["bounds"])
    assert "no certificate" in words(figures["bounds"])
    assert "log p(x|z)" in words(figures["calibration"])
    assert "TARP" in words(figures["calibration"])


@pytest.mark.parametrize(
    ("kept", "names"),
    [
        ([], []),
        (["psis"], ["khat"]),
        (["psis", "draws"], ["khat", "tail"]),
        (["bounds"], ["bounds"]),
        (["tarp"], ["calibration"]),
        (["sbc"], ["calibration"]),
        (["metrics"], ["optimisation"]),
        (["kl"], ["latents"]),
        (["active_units", "collapse"], ["latents"]),
    ],
)
def test_what_is_not_known_is_left_out(
    results: dict[str, Any], kept: list[str], names: list[str]
) -> None:
    figures = of({name: results[name] for name in kept})
    assert list(figures) == names
    assert all(axes.has_data() for figure in figures.values() for axes in figure.axes)


def test_infinite_and_constant_khat_have_marks_of_their_own(results: dict[str, Any]) -> None:
    inf, found = math.inf, results["psis"]
    k = torch.tensor([0.2, inf, -inf, 1.3, 0.9]).double()
    se = torch.tensor([0.1, inf, 0.0, 0.2, 0.2]).double()
    mixed = replace(found, k=k, se=se, constant=k == -inf)
    figure = of({"psis": mixed})["khat"]
    title = words(figure)
    assert "3 of 5 rows (60 %)" in title and "row 1 with k̂ = ∞" in title
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert "k̂ = ∞" in shown and "constant weights" in shown
    drawn(figure)
    constant = replace(found, k=k[2:3], se=se[2:3], constant=torch.tensor([True]))
    assert "All 1 rows have constant weights" in words(of({"psis": constant})["khat"])
    drawn(of({"psis": replace(found, k=k[1:2], se=se[1:2])})["khat"])


def test_latents_that_rows_share_are_drawn_alone_too(results: dict[str, Any]) -> None:
    draws = weighted_draws(*_pair(), 400)
    weights = SimpleNamespace(log_weight=draws.log_weight[:, 0])
    smoothed = psis(weights.log_weight)
    figures = of({"global_psis": smoothed, "global_weights": weights})
    assert list(figures) == ["khat", "tail"]
    assert f"Shared latents: k̂ = {float(smoothed.k):.2f}".replace("-", "−") in words(
        figures["khat"]
    )
    both = of({**results, "global_psis": smoothed, "global_weights": weights})
    assert len(both["tail"].axes) == 2
    both = of({**results, "global_moments": results["moments"]})
    assert len(both["moments"].axes) == 4


def _pair() -> tuple[Any, Any, Any]:
    model, data = PPCA.example()
    return model, Guide(model, data, "mean_field"), data


def test_a_bound_far_away_is_named_and_not_drawn_to_scale(results: dict[str, Any]) -> None:
    found = results["bounds"]
    rows = found.cubo.rows + 1e4
    far = replace(found, cubo=Estimate(rows, found.cubo.error))
    axes = of({"bounds": far})["bounds"].axes[0]
    low, high = axes.get_ylim()
    assert high - low < 100
    assert "off the scale" in words(axes.figure)


def test_a_bound_of_minus_infinity_is_left_out(results: dict[str, Any]) -> None:
    weights = results["draws"].log_weight.clone()
    weights[0] = -math.inf
    figure = of({"bounds": bounds(weights)})["bounds"]
    assert all(math.isfinite(y) for y in figure.axes[0].get_ylim())
    drawn(figure)
    assert of({"bounds": bounds(torch.full_like(weights, -math.inf))}) == {}


def test_annealing_on_some_rows_is_carried_over_by_its_difference(results: dict[str, Any]) -> None:
    top = results["bounds"].iwae
    forward = Estimate(top.rows[:10] + 0.5, torch.zeros(10).double())
    annealed = SimpleNamespace(forward=forward)
    axes = of({"bounds": results["bounds"], "annealed": annealed})["bounds"].axes[0]
    assert "difference on 10 rows" in words(axes.figure)
    heights = [line.get_ydata()[0] for line in axes.lines if len(line.get_ydata()) == 1]
    assert any(abs(y - top.mean - 0.5) < 1e-6 for y in heights)


def test_collapse_by_q_and_by_the_posterior_have_different_marks() -> None:
    names = tuple(f"z[{i}]" for i in range(60))
    size = torch.logspace(0, -6, 60).double()
    verdicts = (*[USED] * 30, *[POSTERIOR] * 20, *[INFERENCE] * 8, *[UNDECIDED] * 2)
    total = Estimate(torch.ones(3).double(), torch.zeros(3).double())
    found = {
        "kl": LatentKL(total, names, size, size / 10, (), 32),
        "active_units": ActiveUnits(names, size, size / 10, 0.01, False),
        "collapse": SimpleNamespace(names=names, verdicts=verdicts, count=verdicts.count),
    }
    figure = of(found)["latents"]
    text = words(figure)
    for said in ("in the posterior too", "by q's own fault", "undecided", "not active"):
        assert said in text
    assert "collapsed: 20 in the posterior too, 8 by q's fault, 2 undecided" in text
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert len({str(handle.get_marker()) for handle in legend.get_lines()}) == 3
    drawn(figure)


def test_moments_without_a_usable_row_are_left_out(results: dict[str, Any]) -> None:
    found = results["moments"]
    none = torch.zeros_like(found.usable)
    assert of({"moments": replace(found, usable=none)}) == {}


def test_statistics_far_from_their_replicates_stay_in_the_picture(results: dict[str, Any]) -> None:
    found = results["predictive"]
    first, second, *rest = found.statistics
    odd = replace(first, observed=first.mean + 1e6, p_two_sided=0.01)
    still = replace(second, sd=0.0, observed=second.mean)
    jumped = replace(second, name="jump", sd=0.0, observed=second.mean - 1)
    figure = of({"predictive": replace(found, statistics=(odd, still, jumped, *rest))})["fit"]
    assert "mean: unlike replicates" in words(figure)
    assert max(abs(x) for x in figure.axes[1].get_xlim()) < 10
    drawn(figure)


def test_pictures_of_an_earlier_report_are_not_left_behind(
    results: dict[str, Any], tmp_path: Path
) -> None:
    first = Report((), {"psis": results["psis"], "metrics": METRICS}, {})
    assert write_report(first, tmp_path) == [
        "report.json",
        "report.html",
        "khat.png",
        "optimisation.png",
    ]
    (tmp_path / "mine.png").write_bytes(b"")
    write_report(Report((), {"psis": results["psis"]}, {}), tmp_path)
    there = sorted(path.name for path in tmp_path.iterdir())
    assert there == ["khat.png", "mine.png", "report.html", "report.json"]
    assert "data:image/png;base64," in (tmp_path / "report.html").read_text()


def test_traces_are_those_with_the_largest_rhat() -> None:
    steps = torch.arange(1, 201)
    values = torch.randn(200, 8).double()
    values[:, 5] += torch.linspace(0, 8, 200)
    tail = values[100:]
    names = tuple(f"guide.net.weight[{i},0]" for i in range(8))
    found = SimpleNamespace(
        names=names,
        rhat=torch.tensor([1.0, 1.01, 1.02, 1.0, 1.03, 2.5, 1.0, 1.0]),
        mean=tail.mean(0),
        sd=tail.std(0),
        interval=(1.8, 3.0),
        steps=(101, 200),
        worst=(names[5], 2.5),
        share=lambda limit: 1 / 8,
        trend=None,
        falling_rate=False,
    )
    iterates = SimpleNamespace(values=values, steps=steps, names=names)
    figure = of({"optimisation": found, "iterates": iterates, "metrics": METRICS})["optimisation"]
    text = words(figure)
    assert "R̂ is up to 2.5 (95 %: 1.8–3), above 1.1 in 12 % of 8 entries" in text
    assert "guide.net.weight[5,0]: R̂ 2.5" in text and "weight[0,0]" not in text
    drawn(figure)
    alone = of({"optimisation": found, "iterates": iterates})["optimisation"]
    assert len(alone.axes) == 1
