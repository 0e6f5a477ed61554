"""The picture of ``benchmarks.scaling``: milliseconds a step against size, both ways.

python -m benchmarks.scaling_figure   # writes docs/scaling.png
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.table_cards import read
from experiments.output import write_picture

PICTURE = Path(__file__).parent.parent / "docs" / "scaling.png"
LOOK = {"eager": ("o", "#D55E00"), "compiled": ("s", "#0072B2")}


def figure(sweeps: Mapping[str, Any]) -> Figure:
    """A panel for each size that grows, with the slopes in the legends.

    Args:
        sweeps: of ``results/scaling.json``.
    """
    columns = min(3, len(sweeps))
    rows = -(-len(sweeps) // columns)
    picture = Figure(figsize=(4 * columns, 3.2 * rows), dpi=140, layout="constrained")
    places = picture.subplots(rows, columns, squeeze=False).flat
    for sweep, axes in zip(sweeps.values(), places, strict=False):
        for way, (marker, colour) in LOOK.items():
            found = sweep[way]
            label = f"{way}: slope {found['slope'] + 0.0:.2f}"
            points = found["points"], found["milliseconds"]
            axes.plot(*points, marker=marker, color=colour, markersize=5, label=label)
        axes.set(xscale="log", yscale="log", xlabel=sweep["title"])
        sizes = sweep["eager"]["points"]
        if max(sizes) < 10_000:
            axes.set_xticks(sizes, map(str, sizes))
            axes.set_xticks([], minor=True)
        axes.margins(y=0.15)
        axes.grid(True, color="0.9", linewidth=0.6)
        axes.legend(frameon=False, fontsize=9)
    for axes in places:  # the panels that are left
        axes.set_axis_off()
    for axes in picture.axes[::columns]:
        axes.set_ylabel("ms a step")
    return picture


if __name__ == "__main__":
    write_picture(PICTURE, figure(read("scaling")["sweeps"]))
