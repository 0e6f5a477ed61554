"""Pictures of data and of draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

COLOURS = ("black", "tab:blue", "tab:orange", "tab:green")
MOST_COLUMNS, MOST_POINTS = 4, 500


def image_grid(panels: Mapping[str, Tensor], shape: Sequence[int], path: Path) -> None:
    """A row of images for each panel, all on the scale of the first, which is the data.

    Args:
        panels: title -> (n, D).
        shape: (H, W) or (C, H, W) of an image.
        path: of the picture.
    """
    images = {name: _pixels(values, shape) for name, values in panels.items()}
    first = next(iter(images.values()))
    low, high = float(first.min()), float(first.max())
    columns = len(first)
    figure = Figure(figsize=(0.7 * columns + 1.2, 0.7 * len(images)), layout="constrained")
    grid: Any = figure.subplots(len(images), columns, squeeze=False)
    for axes, (name, values) in zip(grid, images.items(), strict=True):
        for cell, image in zip(axes, values, strict=True):
            cell.imshow(image.clamp(low, high).numpy(), cmap="gray_r", vmin=low, vmax=high)
            cell.set(xticks=[], yticks=[])
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
    FigureCanvasAgg(figure).print_png(path)


def _pixels(values: Tensor, shape: Sequence[int]) -> Tensor:
    """(n, D) -> (n, H, W), or (n, H, W, 3) for colours."""
    images = values.reshape(len(values), *shape)
    if images.dim() == 4:
        images = images.movedim(1, -1)
        images = images[..., 0] if images.shape[-1] == 1 else images
    return images


def pair_plot(panels: Mapping[str, Tensor], names: Sequence[str] | None, path: Path) -> None:
    """Scatter plots of every pair of columns, histograms on the diagonal; at most 4 columns.

    Args:
        panels: legend -> (n, D), the data first; of many columns those that the data vary most in.
        names: of the D columns.
        path: of the picture.
    """
    data = next(iter(panels.values()))
    order = data.var(0).argsort(descending=True, stable=True)[:MOST_COLUMNS].sort().values.tolist()
    size = len(order)
    figure = Figure(figsize=(2.2 * size + 1.5, 2.2 * size), layout="constrained")
    grid: Any = figure.subplots(size, size, squeeze=False)
    for i, row in enumerate(order):
        for j, column in enumerate(order):
            axes = grid[i, j]
            for (name, values), colour in zip(panels.items(), COLOURS, strict=False):
                points = values[:MOST_POINTS]
                if i == j:
                    style = {"density": True, "histtype": "step", "bins": 25}
                    axes.hist(points[:, row].numpy(), color=colour, label=name, **style)
                else:
                    style = {"s": 6, "alpha": 0.6, "lw": 0, "zorder": 3 if values is data else 2}
                    axes.scatter(*points[:, [column, row]].T.numpy(), color=colour, **style)
            if i == size - 1:
                axes.set_xlabel(names[column] if names else f"column {column}")
            if j == 0:
                axes.set_ylabel(names[row] if names else f"column {row}")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    FigureCanvasAgg(figure).print_png(path)
