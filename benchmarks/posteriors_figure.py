"""The picture of ``benchmarks.posteriors``: what the card says of q against the truth.

python -m benchmarks.posteriors_figure   # writes docs/posteriors.png
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.posteriors import AMBER, GREEN, KINDS
from benchmarks.table import read
from experiments.output import write_picture

PICTURE = Path(__file__).parent.parent / "docs" / "posteriors.png"
MARKERS = {"mean_field": "o", "full_rank": "s", "iaf": "^"}
TITLES = {"shift": "mean: |error| / sd", "log_sd_ratio": "width: |log sd ratio|"}
LOW, HIGH = 0.005, 12.0


def colour(k: float) -> str:
    """Of a k̂; the colour-blind tell them apart."""
    return "#009E73" if k < 0.5 else "#E69F00" if k < 0.7 else "#D55E00"


def point(axes: Axes, name: str, run: Mapping[str, Any], kind: str) -> None:
    """One fit: what the weights say against the truth, and what short chains say."""
    true, told = run["true"][kind], run["predicted"][kind]
    x, y = (min(max(abs(part["value"]), LOW), HIGH) for part in (told, true))
    usable = run["k"] < run["threshold"]
    axes.errorbar(
        x,
        y,
        xerr=[[min(told["se"], x - LOW)], [told["se"]]],
        yerr=[[min(true["se"], y - LOW)], [true["se"]]],
        fmt=MARKERS[name.split(", ")[1]],
        color=colour(run["k"]),
        markerfacecolor=colour(run["k"]) if usable else "white",
        markersize=7,
        elinewidth=0.8,
    )
    chains = run["chains"]
    if not usable and chains["moved"]:
        axes.plot(max(abs(chains[kind]["value"]), LOW), y, "x", color="0.35", markersize=5)


def figure(runs: Mapping[str, Any]) -> Figure:
    """Predicted against true error, a point for each posterior and family.

    Args:
        runs: of ``results/posteriors.json``.
    """
    picture = Figure(figsize=(12, 6.2), dpi=140, layout="constrained")
    for axes, kind in zip(picture.subplots(1, 2), KINDS, strict=True):
        axes.plot([LOW, HIGH], [LOW, HIGH], color="0.6", linewidth=1, zorder=0)
        for edge in (GREEN, AMBER):
            axes.axvline(edge, color="0.88", linewidth=0.8, zorder=0)
            axes.axhline(edge, color="0.88", linewidth=0.8, zorder=0)
        for name, run in runs.items():
            point(axes, name, run, kind)
        axes.set(xscale="log", yscale="log", xlim=(LOW, HIGH), ylim=(LOW, HIGH))
        axes.set(xlabel="said by the card", ylabel="true, by reference draws", title=TITLES[kind])
        axes.set_aspect("equal")
    look = {"linestyle": "", "color": "0.35"}
    legend = [Line2D([], [], marker=m, label=name, **look) for name, m in MARKERS.items()]
    for k, label in ((0.0, "k̂ < 0.5"), (0.6, "k̂ < 0.7")):
        legend.append(Line2D([], [], marker="o", label=label, **{**look, "color": colour(k)}))
    hollow = {**look, "color": colour(1.0), "markerfacecolor": "white"}
    legend.append(Line2D([], [], marker="o", label="k̂ ≥ 0.7: the weights are no guide", **hollow))
    legend.append(Line2D([], [], marker="x", label="and what short chains say there", **look))
    picture.legend(handles=legend, loc="outside lower center", ncols=7, frameon=False)
    count = len({name.split(", ")[0] for name in runs})
    title = f"{count} posteriors of posteriordb and three families: the worst parameter of each q"
    picture.suptitle(title, fontsize=12)
    return picture


if __name__ == "__main__":
    write_picture(PICTURE, figure(read("posteriors")["runs"]))
