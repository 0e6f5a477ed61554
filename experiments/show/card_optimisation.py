"""The picture of the optimisation: its loss, and the traces of its last iterates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from experiments.show.card_axes import PALE, array, headline, new_figure, quiet_grid
from experiments.show.figures import COLOURS, DASHES
from experiments.show.report import not_a_bound
from zoo.diagnostics.card import BANDS

if TYPE_CHECKING:
    from zoo.diagnostics.report import Report

MOST_TRACES = 4  # those with the largest R̂
REACH = 6.0  # sds of the tail that the traces' axis has at most


def optimisation_figure(report: Report) -> Figure | None:
    """What was maximised against the steps, the held-out bound beside it; traces with R̂."""
    metrics = [row for row in report.results.get("metrics") or () if {"loss", "held_out"} & {*row}]
    found, iterates = report.results.get("optimisation"), report.results.get("iterates")
    traced = found is not None and iterates is not None and bool(found.names)
    if not (metrics or traced):
        return None
    figure, axes = new_figure(bool(metrics) + traced)
    axes = list(np.atleast_1d(axes))
    if metrics:
        _losses(axes[0], metrics, found, len(axes))
    if traced:
        _traces(axes[-1], iterates, found, len(axes))
    return figure


def _losses(axes: Any, metrics: Sequence[Mapping[str, Any]], found: Any, across: int) -> None:
    """As ``loss_curve`` of a run, with the tail that is judged."""
    training, heights = f"training{not_a_bound(metrics)}", np.empty(0)
    for name, sign, label, colour in (
        ("held_out", 1, "held out", COLOURS[1]),
        ("loss", -1, training, COLOURS[0]),
    ):
        points = np.array([(row["step"], sign * row[name]) for row in metrics if name in row])
        if len(points):
            marker = "." if len(points) < 30 else ""
            axes.plot(*points.T, marker=marker, color=colour, label=label)
            heights = points[:, 1]
    if len(heights) > 20:  # the first steps would flatten everything after them
        values = np.sort(heights)
        low, high = values[len(values) // 10], values[-1]
        axes.set_ylim(low - 0.1 * (high - low) - 1e-6, high + 0.1 * (high - low) + 1e-6)
    trend = None if found is None else found.trend
    if trend is not None:
        axes.axvspan(*trend.steps, color=PALE, alpha=0.7, linewidth=0, label="steps of the trend")
    axes.set_xlabel("step")
    axes.set_ylabel("what was maximised, nats per datapoint")
    axes.legend(frameon=False, loc="lower right")
    quiet_grid(axes)
    said = f"The loss is {trend}" if trend is not None else _said_of(heights)
    headline(axes, said, across)


def _said_of(heights: np.ndarray) -> str:
    """How much the last fifth rose on the fifth before it, against their spread."""
    part = len(heights) // 5
    if part < 2:
        return f"The objective ended at {heights[-1]:.4g} nats".replace("-", "−")
    last, before = heights[-part:], heights[-2 * part : -part]
    rise = last.mean() - before.mean()
    error = np.hypot(last.std(ddof=1), before.std(ddof=1)) / np.sqrt(part)
    trend = f"by {rise:+.2g} ± {error:.1g} nats".replace("-", "−")
    return f"From the fourth fifth of the steps to the last the objective changed {trend}"


def _traces(axes: Any, iterates: Any, found: Any, across: int) -> None:
    """The entries with the largest R̂, about the mean of their tail and in its sds."""
    order = np.argsort(-array(found.rhat), kind="stable")[:MOST_TRACES]
    steps, values = array(iterates.steps), array(iterates.values)
    mean, sd, rhat = array(found.mean), array(found.sd), array(found.rhat)
    first, last = found.steps
    axes.axvspan(first, last, color=PALE, alpha=0.7, linewidth=0, label="tail of the fit")
    most = 0.0
    for i, colour, dashes in zip(order, COLOURS, DASHES, strict=False):
        trace = values[:, iterates.names.index(found.names[i])]
        away = (trace - mean[i]) / max(sd[i], 1e-300)
        label = f"{found.names[i]}: R̂ {rhat[i]:.3g}"
        axes.plot(steps, away, color=colour, linestyle=dashes, linewidth=1, label=label)
        most = max(most, float(np.abs(away).max()))
    reach = min(REACH, 1.1 * most + 0.1)
    axes.set_ylim(-reach, 1.9 * reach)  # room for the names
    axes.set_xlabel("step")
    axes.set_ylabel("parameter, from its tail's mean in sds")
    axes.legend(frameon=False, fontsize=7.5, loc="upper right")
    quiet_grid(axes)
    low, high = found.interval
    limit, count = BANDS["iterates"].amber, len(found.names)
    share = f"above {limit:g} in {100 * found.share(limit):.2g} % of {count} entries"
    said = f"Iterates: R̂ is up to {found.worst[1]:.3g} (95 %: {low:.3g}–{high:.3g}), {share}"
    said += "; the rate fell, which moves them by itself" if found.falling_rate else ""
    headline(axes, said, across)
