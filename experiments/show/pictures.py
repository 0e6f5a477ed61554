"""Pictures of data and of draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.output import write_picture

COLOURS = ("black", "tab:blue", "tab:orange", "tab:green")
MOST_COLUMNS, MOST_POINTS = 4, 500


def image_grid(
    panels: Mapping[str, Tensor], shape: Sequence[int], path: Path, title: str = ""
) -> None:
    """A row of images for each panel, all on the scale of the first, which is the data.

    Args:
        panels: title -> (n, D).
        shape: (H, W) or (C, H, W) of an image.
        path: of the picture.
        title: what it shows.
    """
    write_picture(path, image_figure(panels, shape, title))


def image_figure(
    panels: Mapping[str, Tensor],
    shape: Sequence[int],
    title: str = "",
    limits: tuple[float, float] | None = None,
) -> Figure:
    """As ``image_grid``, the figure itself; ``limits`` are the values of white and of black.

    NaN marks a pixel that is not there.
    """
    images = {name: pixels_of(values, shape) for name, values in panels.items()}
    first = next(iter(images.values()))
    low, high = limits or (float(first.min()), float(first.max()))
    columns = len(first)
    figure = Figure(figsize=(0.7 * columns + 1.2, 0.7 * len(images)), layout="constrained")
    grid: Any = figure.subplots(len(images), columns, squeeze=False)
    for axes, (name, values) in zip(grid, images.items(), strict=True):
        for cell, image in zip(axes, values, strict=True):
            shown = (image.clamp(low, high) - low) / max(high - low, 1e-12)
            shown = shown.nan_to_num(0.5) if shown.dim() == 3 else shown
            cell.imshow(shown.numpy(), cmap="gray_r", vmin=0, vmax=1)
            cell.set(xticks=[], yticks=[], facecolor="lightsteelblue")
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center")
    if title:
        figure.suptitle(title, fontsize=9)
    return figure


def pixels_of(values: Tensor, shape: Sequence[int]) -> Tensor:
    """(n, D) -> (n, H, W), or (n, H, W, 3) for colours."""
    images = values.reshape(len(values), *shape)
    if images.dim() == 4:
        images = images.movedim(1, -1)
        images = images[..., 0] if images.shape[-1] == 1 else images
    return images


def pair_plot(
    panels: Mapping[str, Tensor], names: Sequence[str] | None, path: Path, title: str = ""
) -> None:
    """Scatter plots of every pair of columns, histograms on the diagonal; at most 4 columns.

    Whole numbers are spread by up to 0.3 to either side, so that equal points do not hide.

    Args:
        panels: legend -> (n, D), the data first; of many columns those that the data vary most in.
        names: of the D columns.
        path: of the picture.
        title: what it shows.
    """
    write_picture(path, pair_figure(panels, names, title))


def pair_figure(
    panels: Mapping[str, Tensor], names: Sequence[str] | None, title: str = ""
) -> Figure:
    """As ``pair_plot``, the figure itself."""
    data = next(iter(panels.values()))
    order = data.var(0).argsort(descending=True, stable=True)[:MOST_COLUMNS].sort().values.tolist()
    size = len(order)
    figure = Figure(figsize=(2.2 * size + 1.5, 2.2 * size), layout="constrained")
    grid: Any = figure.subplots(size, size, squeeze=False)
    counts = all(bool((values == values.round()).all()) for values in panels.values())
    spread = torch.Generator().manual_seed(0)
    for i, row in enumerate(order):
        for j, column in enumerate(order):
            axes = grid[i, j]
            for (name, values), colour in zip(panels.items(), COLOURS, strict=False):
                points = values[:MOST_POINTS].float()
                if i == j:
                    bins = _edges([part[:, row] for part in panels.values()], counts)
                    style = {"density": True, "histtype": "step", "bins": bins}
                    axes.hist(points[:, row].numpy(), color=colour, label=name, **style)
                else:
                    if counts:
                        points = points + 0.6 * torch.rand(points.shape, generator=spread) - 0.3
                    style = {"s": 6, "alpha": 0.6, "lw": 0, "zorder": 3 if values is data else 2}
                    axes.scatter(*points[:, [column, row]].T.numpy(), color=colour, **style)
            if i == size - 1:
                axes.set_xlabel(names[column] if names else f"column {column}")
            if j == 0:
                axes.set_ylabel(names[row] if names else f"column {row}")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    if title:
        figure.suptitle(title, fontsize=9)
    return figure


def _edges(parts: Sequence[Tensor], counts: bool) -> list[float]:
    """Edges of the bins that all panels of a histogram share."""
    low = min(float(part.min()) for part in parts)
    high = max(float(part.max()) for part in parts)
    if counts and high - low <= 60:
        return [value - 0.5 for value in range(int(low), int(high) + 2)]
    return torch.linspace(low, max(high, low + 1e-6), 31).tolist()
