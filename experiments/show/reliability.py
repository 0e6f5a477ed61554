"""Who was taken for whom, and whether q(y | x) is right as often as it says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from experiments.show.classification import draw_confusion
from experiments.show.figures import COLOURS, STYLE
from experiments.show.panels import LIGHT
from experiments.show.tables import number

Content = Mapping[str, Any]


def reliability_figure(content: Content) -> Figure:
    """The confusion matrix; by bins of confidence the share of right rows, and their number.

    Args:
        content: what ``evaluation.json`` holds, with ``calibration``.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.8), dpi=140, layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1.0), squeeze=False)[0]
        axes = left.subplots()
        draw_confusion(axes, content["confusion"], content["classes"])
        error = content["error"]
        text = number((100 * error["mean"], 100 * error["se"]))
        title = f"{error['num_rows']} {content['rows']} rows: error {text} %"
        axes.set_title(title, loc="left", fontsize=10)
        above, below = right.subplots(2, 1, sharex=True, height_ratios=(2.6, 1.0))
        _reliability(above, content["calibration"])
        _histogram(below, content["calibration"]["bins"])
        name = f"q(y | x) of {content['model']} on {content['data']}"
        figure.suptitle(name, fontsize=11, fontweight="bold")
        return figure


def _reliability(axes: Any, found: Content) -> None:
    """Accuracy against mean confidence, a dot a bin, with 95% intervals (Wilson's)."""
    bins = found["bins"]
    rows = zip(bins["confidence"], bins["accuracy"], bins["count"], strict=True)
    there = [(c, a, n) for c, a, n in rows if n]
    confidence, accuracy, _ = zip(*there, strict=True)
    ends = [wilson(a, n) for _, a, n in there]
    errors = [
        [max(0.0, a - low) for a, (low, _) in zip(accuracy, ends, strict=True)],
        [max(0.0, high - a) for a, (_, high) in zip(accuracy, ends, strict=True)],
    ]
    axes.plot([0, 1], [0, 1], color=LIGHT, linewidth=0.8)
    style = {"marker": "o", "markersize": 5, "linestyle": "", "capsize": 3}
    axes.errorbar(confidence, accuracy, yerr=errors, color=COLOURS[0], **style)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), ylabel="share that is right")
    ece, chance = found["ece"], found["ece_if_calibrated"]
    text = number((100 * ece["mean"], 100 * ece["se"]))
    by_chance = number((100 * chance["mean"], 100 * chance["sd"]))
    title = f"Calibration error {text} %, by chance alone\n{by_chance} %; bars: 95% intervals"
    axes.set_title(title, loc="left", fontsize=9)


def _histogram(axes: Any, bins: Content) -> None:
    """Rows by confidence."""
    width = 1 / len(bins["count"])
    places = [(place + 0.5) * width for place in range(len(bins["count"]))]
    axes.bar(places, bins["count"], width=0.9 * width, color=COLOURS[0])
    axes.set(xlabel="confidence max q(y | x)", ylabel="rows")


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The interval of a probability of which ``count`` tries had the share: Wilson's, 95%.

    Reference: Wilson, Probable inference, the law of succession, and statistical inference, 1927.

    Example:
        >>> low, high = wilson(1.0, 10)
        >>> round(low, 4), round(high, 4)
        (0.7225, 1.0)
    """
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return centre - half, centre + half
