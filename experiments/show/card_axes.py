"""What the pictures of a report card share: sizes, colours, headlines, ticks."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from experiments.show.figures import COLOURS, STYLE
from zoo.diagnostics.card import Band

GREEN, AMBER, RED = COLOURS[2], COLOURS[4], COLOURS[1]
PALE = "#E6E6E6"
WIDTH, HEIGHT = 7.2, 4.2  # inches, of one panel
LETTERS = 84  # of a headline over one panel


def new_figure(across: int = 1, down: int = 1, height: float = HEIGHT) -> tuple[Figure, Any]:
    """A figure and its axes, (across,) or (down, across) of them where there are several."""
    with mpl.rc_context(STYLE):
        width = WIDTH if across == 1 else 5.4 * across
        figure = Figure(figsize=(width, height), dpi=140, layout="constrained")
        return figure, figure.subplots(down, across)


def headline(axes: Any, text: str, across: int = 1) -> None:
    """The finding, over the axes, in as many lines as it takes."""
    letters = LETTERS if across == 1 else 54
    axes.set_title(textwrap.fill(text, letters), loc="left", fontsize=10)


def array(values: Tensor) -> np.ndarray:
    """As numpy knows it, in doubles."""
    return values.detach().double().cpu().numpy()


def quiet_grid(axes: Any, axis: Any = "y") -> None:
    """Pale lines behind everything."""
    axes.grid(axis=axis, color=PALE)
    axes.set_axisbelow(True)


def counted(count: int, total: int) -> str:
    """So many of so many rows, with the share.

    Example:
        >>> counted(3, 200)
        '3 of 200 rows (1.5 %)'
    """
    return f"{count} of {total} rows ({100 * count / max(total, 1):.2g} %)"


def band_zones(axes: Any, band: Band, top: float) -> None:
    """Pale zones from 0: green, amber, red, with their edges; the axis ends above ``top``."""
    high = max(1.15 * top, 1.3 * band.green)
    edges = (0.0, band.green, band.amber, high)
    for low, end, colour in zip(edges, edges[1:], (GREEN, AMBER, RED), strict=False):
        if low < high:
            axes.axhspan(low, min(end, high), color=colour, alpha=0.09, linewidth=0, zorder=0)
            if low:
                axes.axhline(low, color=colour, linewidth=0.8, zorder=0)
    axes.set_ylim(0, high)


def unit_ticks(axes: Any, names: list[str], of: int) -> None:
    """The names of the units along x, where there is room; else how many there are."""
    if len(names) <= 24:
        turn = 90 if sum(len(name) + 2 for name in names) > 60 else 0
        axes.set_xticks(range(len(names)), names, rotation=turn, fontsize=8)
    else:
        axes.set_xticks([])
    if len(names) < of:
        axes.set_xlabel(f"the worst {len(names)} of {of} units", fontsize=8)
    elif len(names) > 24:
        axes.set_xlabel(f"{of} units", fontsize=8)


def p_words(p: float) -> str:
    """A p value after its name.

    Example:
        >>> p_words(0.0312), p_words(1e-9)
        ('= 0.031', '< 0.001')
    """
    return "< 0.001" if p < 1e-3 else f"= {p:.2g}"
