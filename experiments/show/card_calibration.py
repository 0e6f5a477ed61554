"""The picture of calibration on simulated data: ranks of truths, coverage of regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import kstwo

from experiments.show.card_axes import PALE, array, headline, new_figure, p_words, quiet_grid
from experiments.show.figures import COLOURS, DASHES
from experiments.show.panels import LIGHT
from zoo.diagnostics.card import LEVEL

if TYPE_CHECKING:
    from zoo.diagnostics.report import Report

MOST_UNITS = 3  # the worst of them, besides log p(x | z)
GRID = np.linspace(0, 1, 401)


def calibration_figure(report: Report) -> Figure | None:
    """The ECDF of SBC ranks less the uniform one; coverage less its level; both with bands."""
    ranks = report.results.get("sbc")
    covered, balls = report.results.get("coverage"), report.results.get("tarp")
    panels = [ranks is not None, covered is not None or balls is not None]
    if not any(panels):
        return None
    figure, axes = new_figure(sum(panels))
    axes = list(np.atleast_1d(axes))
    if ranks is not None:
        _ranks(axes[0], ranks, len(axes))
    if panels[1]:
        _coverage(axes[-1], covered, balls, len(axes))
    return figure


def _ranks(axes: Any, ranks: Any, across: int) -> None:
    """The worst units and log p(x | z)."""
    order = np.argsort(-array(ranks.distances), kind="stable")
    last = len(ranks.names) - 1
    shown = [int(i) for i in order if i != last][:MOST_UNITS] + [last]
    band = float(kstwo.isf(LEVEL / len(ranks.names), ranks.count))
    pit = array(ranks.pit)
    _band(axes, band, f"95 % band, all {len(ranks.names)} quantities")
    for i, colour, dashes in zip(shown, COLOURS, DASHES, strict=False):
        colour, width = ("black", 1.2) if i == last else (colour, 1.6)
        axes.plot(GRID, _excess(pit[:, i]), color=colour, linestyle=dashes, linewidth=width)
        axes.lines[-1].set_label(ranks.names[i])
    axes.set_xlabel(f"u: rank of the truth among draws of q; {ranks.count} simulations", fontsize=8)
    axes.set_ylabel("share of ranks below u, less u")
    _finish(axes, band)
    what = _direction(ranks, ranks.names.index(ranks.worst))
    far = f"{ranks.distance:.3f} from uniform (p {p_words(ranks.p)})"
    headline(axes, f"Ranks of {ranks.worst}: {far}" + (f": {what}" if what else ""), across)


def _direction(ranks: Any, place: int) -> str:
    """What is wrong, in words: how well draws fit x, or q's place and width."""
    if place < len(ranks.names) - 1:
        return ranks.direction(ranks.names[place])
    mean = float(ranks.pit[:, place].mean()) - 0.5
    if abs(mean) * (12 * ranks.count) ** 0.5 < 3:  # standard errors
        return ""
    return f"draws of q fit x {'worse' if mean > 0 else 'better'} than the truth does"


def _coverage(axes: Any, covered: Any, balls: Any, across: int) -> None:
    """Regions of highest density, central intervals of the worst unit, balls of TARP."""
    count = (covered or balls).count
    band = float(kstwo.isf(LEVEL, count))
    _band(axes, band, "95 % band of a curve")
    said = []
    if covered is not None:
        grid = array(covered.grid)
        if covered.curve is not None:
            label = "regions of highest density"
            axes.plot(grid, array(covered.curve) - grid, ".-", color=COLOURS[0], label=label)
        unit, level = covered.worst_central
        curve = array(covered.curves)[:, covered.names.index(unit)]
        label = f"central intervals of {unit}"
        axes.plot(grid, curve - grid, linestyle=DASHES[1], color=COLOURS[1], label=label)
        level = covered.worst or level
        kind = "regions" if covered.worst else f"intervals of {unit}"
        low, high = 100 * level.low, 100 * level.high
        said.append(
            f"{100 * level.level:g} % {kind} hold {100 * level.coverage:.1f} % of truths "
            f"(95 %: {low:.1f}–{high:.1f})"
        )
    if balls is not None:
        axes.plot(GRID, _excess(array(balls.values)), color=COLOURS[2], linestyle=DASHES[2])
        axes.lines[-1].set_label("TARP, balls about random points")
        if not said:
            said.append(f"TARP is {balls.distance:.3f} from uniform (p {p_words(balls.p)})")
    axes.set_xlabel("level: the probability that q gives the region")
    axes.set_ylabel("share of truths inside, less the level")
    _finish(axes, band)
    headline(axes, f"Coverage: {'; '.join(said)}", across)


def _excess(ranks: np.ndarray) -> np.ndarray:
    """F_n(u) − u over the grid."""
    return np.searchsorted(np.sort(ranks), GRID, side="right") / len(ranks) - GRID


def _band(axes: Any, height: float, label: str) -> None:
    """A simultaneous band for a whole curve, by the distribution of Kolmogorov and Smirnov."""
    axes.axhspan(-height, height, color=PALE, linewidth=0, label=label)
    axes.axhline(0, color=LIGHT, linewidth=0.8)


def _finish(axes: Any, band: float) -> None:
    lines = [line.get_ydata() for line in axes.lines]
    most = max(1.3 * band, 1.1 * max(float(np.abs(y).max()) for y in lines))
    axes.set(xlim=(0, 1), ylim=(-most, 1.6 * most))  # room for the legend
    axes.legend(frameon=False, fontsize=8, loc="upper center", ncols=2)
    quiet_grid(axes)
