"""The picture of the optimisation: its loss, and the traces of its last iterates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from experiments.show.card_axes import headline, new_figure, quiet_grid
from experiments.show.figures import COLOURS
from experiments.show.report import not_a_bound

if TYPE_CHECKING:
    from zoo.diagnostics.report import Report


def optimisation_figure(report: Report) -> Figure | None:
    """What was maximised against the steps, the held-out bound beside it; traces with R̂."""
    metrics = [row for row in report.results.get("metrics") or () if "loss" in row]
    if not metrics:
        return None
    figure, axes = new_figure(1)
    _losses(axes, report.results["metrics"], 1)
    return figure


def _losses(axes: Any, metrics: Any, across: int) -> None:
    """As ``loss_curve`` of a run."""
    training = f"training{not_a_bound(metrics)}"
    ends = {}
    for name, sign, label, colour in (
        ("loss", -1, training, COLOURS[0]),
        ("held_out", 1, "held out", COLOURS[1]),
    ):
        points = np.array([(row["step"], sign * row[name]) for row in metrics if name in row])
        if len(points):
            marker = "." if len(points) < 30 else ""
            axes.plot(*points.T, marker=marker, color=colour, label=label)
            ends[name] = points
    loss = ends["loss"][:, 1]
    if len(loss) > 20:  # the first steps would flatten everything after them
        values = np.sort(loss)
        low, high = values[len(values) // 10], values[-1]
        axes.set_ylim(low - 0.1 * (high - low) - 1e-6, high + 0.1 * (high - low) + 1e-6)
    axes.set_xlabel("step")
    axes.set_ylabel("what was maximised, nats per datapoint")
    axes.legend(frameon=False, loc="lower right")
    quiet_grid(axes)
    headline(axes, _said_of_loss(loss), across)


def _said_of_loss(loss: np.ndarray) -> str:
    """How much the last fifth rose on the fifth before it, against their spread."""
    part = len(loss) // 5
    if part < 2:
        return f"The objective ended at {loss[-1]:.4g} nats"
    last, before = loss[-part:], loss[-2 * part : -part]
    rise = last.mean() - before.mean()
    error = np.hypot(last.std(ddof=1), before.std(ddof=1)) / np.sqrt(part)
    trend = f"by {rise:+.2g} ± {error:.1g} nats".replace("-", "−")
    return f"From the fourth fifth of the steps to the last the objective changed {trend}"
