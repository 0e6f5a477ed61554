"""The pictures of a report card, each of what there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from experiments.show.card_calibration import calibration_figure
from experiments.show.card_fit import fit_figure
from experiments.show.card_latents import latents_figure
from experiments.show.card_moments import moments_figure
from experiments.show.card_optimisation import optimisation_figure
from experiments.show.card_weights import bounds_figure, khat_figure, tail_figure

if TYPE_CHECKING:
    from zoo.diagnostics.report import Report

FIGURES: dict[str, Callable[[Report], Figure | None]] = {
    "khat": khat_figure,
    "tail": tail_figure,
    "bounds": bounds_figure,
    "moments": moments_figure,
    "calibration": calibration_figure,
    "optimisation": optimisation_figure,
    "fit": fit_figure,
    "latents": latents_figure,
}


def card_figures(report: Report) -> dict[str, Figure]:
    """The pictures by name, in the order of ``FIGURES``; those without data are left out.

    Args:
        report: with the typed results that the pictures are drawn from.
    """
    made = ((name, make(report)) for name, make in FIGURES.items())
    return {name: figure for name, figure in made if figure is not None}
