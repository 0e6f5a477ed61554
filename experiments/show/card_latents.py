"""The picture of what latents are used for: KL by unit, active units, and who is to blame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from experiments.show.card_axes import RED, array, headline, new_figure, quiet_grid, unit_ticks
from experiments.show.figures import COLOURS
from experiments.show.tables import number
from zoo.diagnostics.collapse import INFERENCE, POSTERIOR, UNDECIDED

if TYPE_CHECKING:
    from zoo.diagnostics.report import Report

MOST_UNITS = 100  # the largest of them
IDLE = "#A9C7DE"
MARKS = {  # of a unit that q does not use: marker, colour, filled, words
    POSTERIOR: ("o", "black", False, "collapsed, in the posterior too"),
    INFERENCE: ("X", RED, True, "collapsed, by q's own fault"),
    UNDECIDED: ("$?$", "#555555", True, "collapsed, whose fault is undecided"),
}


def latents_figure(report: Report) -> Figure | None:
    """KL(q(z|x) ‖ p(z)) by unit; variance of posterior means; collapsed units by their verdict."""
    kl: Any = report.results.get("kl")
    units: Any = report.results.get("active_units")
    if kl is not None and not kl.names:  # only the total is known
        kl = None
    if kl is None and units is None:
        return None
    found = report.results.get("collapse")
    verdicts = {} if found is None else dict(zip(found.names, found.verdicts, strict=True))
    active = {} if units is None else dict(zip(units.names, units.active.tolist(), strict=True))
    figure, axes = new_figure(int(kl is not None) + int(units is not None))
    axes = list(np.atleast_1d(axes))
    if kl is not None:
        part = axes[0]
        _bars(part, kl.names, array(kl.units), array(kl.error), active, verdicts)
        part.set_ylabel("KL(q(z|x) ‖ p(z)), nats, ± 2 se")
        part.set_ylim(bottom=0)
        if kl.whole:
            words = f"{', '.join(kl.whole)}: as a whole, q or p couples its dimensions"
            part.set_xlabel(words, fontsize=8)
        headline(part, _said_of_kl(report, kl), len(axes))
    if units is not None:
        part = axes[-1]
        variance = array(units.variance)
        low = min([*variance[variance > 0], units.threshold]) / 3
        part.set_yscale("log")
        same = array(kl.units) if kl is not None and kl.names == units.names else None
        _bars(part, units.names, variance, array(units.error), active, verdicts, same)
        part.set_ylim(bottom=max(low, 1e-8))
        part.axhline(units.threshold, color="black", linewidth=0.8, linestyle="--")
        part.set_ylabel("Var over rows of E_q[z|x], squared units of z, ± 2 se")
        said = f"{units.count} of {len(units.names)} units are active (above {units.threshold:g})"
        headline(part, "; ".join(filter(None, [said, _blame(found)])), len(axes))
    return figure


def _said_of_kl(report: Report, kl: Any) -> str:
    said = f"KL from q to the prior is {number((kl.total.mean, kl.total.se), 3)} nats a row"
    mutual = report.results.get("mutual_information")
    if mutual is None:
        return said
    told = number((mutual.information.mean, mutual.information.se), 2)
    return f"{said}; z tells {told} of its row, at most log N = {mutual.log_n:.2f}"


def _blame(found: Any) -> str:
    if found is None or not any(found.count(verdict) for verdict in MARKS):
        return ""
    words = {POSTERIOR: "in the posterior too", INFERENCE: "by q's fault", UNDECIDED: "undecided"}
    counts = [f"{found.count(v)} {words[v]}" for v in MARKS if found.count(v)]
    return f"collapsed: {', '.join(counts)}"


def _bars(
    axes: Any,
    names: Sequence[str],
    heights: np.ndarray,
    errors: np.ndarray,
    active: Mapping[str, bool],
    verdicts: Mapping[str, str],
    by: np.ndarray | None = None,
) -> None:
    """A bar a unit, the largest first, pale where not active; a mark where it has collapsed."""
    order = np.argsort(-np.nan_to_num(heights if by is None else by), kind="stable")[:MOST_UNITS]
    shown, tops = [names[int(i)] for i in order], heights[order]
    colours = [COLOURS[0] if active.get(name, True) else IDLE for name in shown]
    bars = np.minimum(2 * errors[order], np.where(tops > 0, 0.9 * tops, np.inf))
    ends = np.stack([bars, 2 * errors[order]])
    style = {"ecolor": "#444444", "error_kw": {"linewidth": 0.8}}
    axes.bar(range(len(order)), tops, yerr=ends, color=colours, **style)
    size = 6 if len(order) <= 30 else 3.5
    floor, handles = axes.get_ylim()[0], []
    for verdict, (marker, colour, filled, words) in MARKS.items():
        places = [i for i, name in enumerate(shown) if verdicts.get(name) == verdict]
        if not places:
            continue
        values = np.maximum(tops[places] + 2 * errors[order][places], floor)
        face = colour if filled else "white"
        look = {"color": colour, "markerfacecolor": face, "markersize": size, "linestyle": ""}
        axes.plot(places, values, marker=marker, zorder=3, clip_on=False, **look)
        handles.append(Line2D([], [], marker=marker, label=words, **look))
    if not all(active.get(name, True) for name in shown):
        handles.append(Patch(color=IDLE, label="not active"))
    if handles:
        axes.legend(handles=handles, frameon=False, fontsize=8, loc="upper right")
    spare = max(0.0, (8 - len(order)) / 2)  # so that a few bars are not too wide
    axes.set_xlim(-0.6 - spare, len(order) - 0.4 + spare)
    unit_ticks(axes, shown, len(names))
    quiet_grid(axes)
