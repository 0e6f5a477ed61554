"""Pictures of the model against the data, and of what its latents are used for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments.show.card_axes import (
    GREEN,
    RED,
    array,
    headline,
    new_figure,
    p_words,
    quiet_grid,
)
from experiments.show.figures import COLOURS
from experiments.show.panels import LIGHT

if TYPE_CHECKING:
    from zoo.diagnostics.report import Report

MOST_BINS = 20
FAR = 6.0  # sds, beyond which a statistic is drawn at the edge


def fit_figure(report: Report) -> Figure | None:
    """Ranks of the data among prior predictive draws; statistics among those of replicates."""
    found = report.results.get("predictive")
    if found is None:
        return None
    figure, axes = new_figure(2 if found.statistics else 1)
    panels = list(np.atleast_1d(axes))
    _ranks(panels[0], found, len(panels))
    if found.statistics:
        _statistics(panels[1], found)
    return figure


def _ranks(axes: Any, found: Any, across: int) -> None:
    """All entries as bars, the worst one as a line, with what chance makes of a single entry."""
    pit = found.pit_prior
    values = array(pit.values)
    worst = int(array(pit.distance).argmax())
    own = values[:, worst][np.isfinite(values[:, worst])]
    bins = int(np.clip(len(own) // 10, 5, MOST_BINS))
    edges = np.linspace(0, 1, bins + 1)
    low, high = (stats.binom.ppf(q, len(own), 1 / bins) * bins / len(own) for q in (0.025, 0.975))
    label = "95 % band of one entry"
    axes.axhspan(low, high, color=LIGHT, alpha=0.22, linewidth=0, zorder=2.5, label=label)
    axes.axhline(1, color=LIGHT, linewidth=0.8)
    style = {"bins": edges, "density": True}
    everything = values[np.isfinite(values)]
    count = values.shape[1]
    name = f"all {count} entries of {found.site}" if count > 1 else found.site
    axes.hist(everything, color=COLOURS[0], alpha=0.45, label=name, **style)
    if count > 1:
        style |= {"histtype": "step", "linewidth": 1.6, "color": COLOURS[1]}
        axes.hist(own, label=f"{pit.worst}, furthest off", **style)
    if found.pit_posterior is not None:
        given = array(found.pit_posterior.values)
        style |= {"histtype": "step", "linewidth": 1.0, "color": LIGHT, "linestyle": "--"}
        label = "given the row itself"
        axes.hist(given[np.isfinite(given)], label=label, **style)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.45 * max(axes.get_ylim()[1], 1.2))
    axes.set_xlabel("rank of the data among draws of the model (PIT)")
    axes.set_ylabel("density, 1 where the model fits")
    axes.legend(frameon=False, fontsize=7.5, loc="upper center", ncols=2)
    p = "" if pit.p_adjusted is None else f", p {p_words(pit.p_adjusted)}"
    p += f" over {count} entries" if p and count > 1 else ""
    far = float(pit.distance[worst])
    headline(axes, f"Ranks of the data: {pit.worst} is {far:.3f} from uniform{p}", across)


def _statistics(axes: Any, found: Any) -> None:
    """(T(x) − mean)/sd of T(x̃), a line a statistic."""
    names, least = [], 2.0
    axes.axvspan(-2, 2, color=GREEN, alpha=0.09, linewidth=0)
    axes.axvline(0, color=LIGHT, linewidth=0.8)
    for place, check in enumerate(found.statistics):
        z = (check.observed - check.mean) / check.sd if check.sd > 0 else math.nan
        if check.sd <= 0:
            z = (
                0.0
                if check.observed == check.mean
                else math.copysign(math.inf, check.observed - check.mean)
            )
        shown = float(np.clip(z, -FAR, FAR))
        least = max(least, abs(shown))
        odd = check.p_two_sided < 0.05
        marker = "o" if abs(z) <= FAR else ">" if z > 0 else "<"
        axes.plot(shown, place, marker, color=RED if odd else COLOURS[0], markersize=7)
        replicated = f"replicated {check.mean:.3g} ± {check.sd:.2g}"
        text = f"{check.observed:.3g}; {replicated}; p {p_words(check.p_two_sided)}"
        axes.annotate(
            text.replace("-", "−"),
            (shown, place),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center" if abs(shown) < 0.4 * FAR else "right" if shown > 0 else "left",
            fontsize=7.5,
        )
        names.append(check.name.replace("_", " "))
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.8)
    axes.set_xlim(-least - 1.2, least + 1.2)
    axes.set_xlabel(f"observed, in sds of {found.num_draws} replicated data sets")
    quiet_grid(axes, "x")
    odd = [c.name.replace("_", " ") for c in found.statistics if c.p_two_sided < 0.05]
    said = f"{', '.join(odd)}: unlike replicates (p < 0.05 each)" if odd else "all like replicates"
    headline(axes, f"Statistics of the data: {said}", 2)
