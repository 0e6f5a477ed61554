"""Pictures of class and style: rows in every class, and every class in many styles."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from experiments.show.figures import COLOURS
from experiments.show.latent import tiles

NAMED = 12  # classes, above which their names would not find room
ACROSS = 5  # panels side by side


def analogies_figure(
    x: Tensor,
    mean: Tensor,
    guess: Tensor,
    names: Sequence[str],
    shape: Sequence[int],
    limits: tuple[float, float],
    title: str = "",
) -> Figure:
    """Rows in the first column, and each in every class beside it; its own class is framed.

    Args:
        x: (N, D), the rows.
        mean: (N, C, D).
        guess: (N,), the class that each row was taken for.
        names: of the classes.
        shape: (H, W) or (C, H, W) of an image.
        limits: the values of white and of black.
        title: what it shows.
    """
    rows, classes = mean.shape[:2]
    width = 0.55 * (classes + 1) + 0.6
    figure = Figure(figsize=(width, 0.55 * rows + 0.7), dpi=140, layout="constrained")
    left, right = figure.subplots(1, 2, squeeze=False, width_ratios=(1, classes))[0]
    parts = tiles(x, 1, shape, limits), tiles(mean.flatten(0, 1), classes, shape, limits)
    for axes, image in zip((left, right), parts, strict=True):
        axes.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1, aspect="auto")
        axes.set(xticks=[], yticks=[])
    high, wide = (
        size / count for size, count in zip(parts[1].shape, (rows, classes), strict=False)
    )
    left.set_title("x", fontsize=9)
    for row, own in enumerate(guess.tolist()):
        corner = own * wide - 0.5, row * high - 0.5
        style = {"fill": False, "edgecolor": COLOURS[1], "linewidth": 1.5, "clip_on": False}
        right.add_patch(Rectangle(corner, wide, high, **style))
    if classes <= NAMED:
        right.xaxis.tick_top()
        turn = 90 if max(map(len, names)) > 5 else 0
        places = [(c + 0.5) * wide - 0.5 for c in range(classes)]
        right.set_xticks(places, names, fontsize=8, rotation=turn)
        right.tick_params(length=0)
    if title:
        figure.suptitle(textwrap.fill(title, 80), fontsize=9)
    return figure


def styles_figure(
    panels: Tensor,
    names: Sequence[str],
    shape: Sequence[int],
    limits: tuple[float, float],
    title: str = "",
) -> Figure:
    """A panel a class, the images of its grid edge to edge.

    Args:
        panels: (C, rows, columns, D).
        names: of the classes.
        shape: (H, W) or (C, H, W) of an image.
        limits: the values of white and of black.
        title: what it shows.
    """
    count, rows, columns = panels.shape[:3]
    across = min(count, 1 if rows == 1 else ACROSS)
    down = math.ceil(count / across)
    side = 2.4 if across > 1 else 6.0
    size = side * across, (side * rows / columns + 0.25) * down + 0.4
    figure = Figure(figsize=size, dpi=140, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).flat
    for place, axes in enumerate(grid):
        axes.set(xticks=[], yticks=[])
        if place >= count:
            axes.axis("off")
            continue
        image = tiles(panels[place].flatten(0, 1), columns, shape, limits)
        axes.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(names[place], fontsize=9)
    if title:
        figure.suptitle(textwrap.fill(title, 80), fontsize=9)
    return figure
