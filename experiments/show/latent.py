"""Pictures of a latent space: codes of rows, a grid of points, ways between rows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.show.pictures import pixels_of

MOST_CLASSES, MOST_POINTS = 20, 5000


def scatter(features: Tensor, labels: Tensor | None, title: str = "") -> Figure:
    """Codes on a plane, coloured by label: themselves, or their first two principal components.

    Args:
        features: (N, d); with d = 1 they are drawn over the places of their rows.
        labels: (N,) of classes, or None.
        title: what it shows.
    """
    plane, names = features.double().cpu(), ("dimension 0", "dimension 1")
    if plane.shape[1] > 2:
        centred = plane - plane.mean(0)
        _, size, directions = torch.linalg.svd(centred, full_matrices=False)
        share = float(size[:2].square().sum() / size.square().sum().clamp_min(1e-300))
        plane = centred @ directions[:2].T
        names = ("principal component 1", f"principal component 2 ({share:.0%} in both)")
    elif plane.shape[1] == 1:
        names = ("dimension 0", "row")
        plane = torch.cat([plane, torch.arange(len(plane)).unsqueeze(-1)], -1)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    rows = torch.linspace(0, len(plane) - 1, min(len(plane), MOST_POINTS)).long()
    style = {"s": 6, "alpha": 0.7, "lw": 0}
    classes = None if labels is None else labels.cpu()[rows].unique()
    if classes is None or labels is None or len(classes) > MOST_CLASSES:
        axes.scatter(*plane[rows].T.numpy(), color="tab:blue", **style)
    else:
        for place, label in enumerate(classes.tolist()):
            points = plane[rows][labels.cpu()[rows] == label].T.numpy()
            axes.scatter(*points, color=f"C{place % 10}", label=str(label), **style)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), markerscale=2)
    axes.set(xlabel=names[0], ylabel=names[1])
    if title:
        figure.suptitle(textwrap.fill(title, 80), fontsize=9)
    return figure


def mosaic(
    images: Tensor,
    columns: int,
    shape: Sequence[int],
    limits: tuple[float, float],
    title: str = "",
) -> Figure:
    """Images edge to edge, (M, D) in rows of ``columns``, white and black at the limits.

    Small ones, of fewer than 16 pixels a side, have a white line between them.
    """
    shown = tiles(images, columns, shape, limits)
    figure = Figure(figsize=(7, 7 * shown.shape[0] / shown.shape[1] + 0.3), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shown.numpy(), cmap="gray_r", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    if title:
        figure.suptitle(textwrap.fill(title, 80), fontsize=9)
    return figure


def tiles(
    images: Tensor, columns: int, shape: Sequence[int], limits: tuple[float, float]
) -> Tensor:
    """One large image, (H, W) or (H, W, 3) in [0, 1], of (M, D) in rows of ``columns``.

    Small ones, of fewer than 16 pixels a side, have a white line around them.
    """
    pixels = pixels_of(images.cpu().float(), shape)  # (M, H, W) or (M, H, W, 3)
    if pixels.dim() == 3 and min(pixels.shape[1:]) < 16:
        pixels = torch.nn.functional.pad(pixels, (1, 1, 1, 1), value=limits[0])
    rows = len(pixels) // columns
    wide = pixels.unflatten(0, (rows, columns)).transpose(1, 2).flatten(0, 1).flatten(1, 2)
    low, high = limits
    return (wide.clamp(low, high) - low) / max(high - low, 1e-12)


def lines(paths: Tensor, names: Sequence[str] | None, title: str = "") -> Figure:
    """Rows that are no images, on their way: a panel for each pair, a line for each step.

    Args:
        paths: (P, T, D), the columns along the horizontal axis.
        names: of the D columns.
        title: what it shows.
    """
    from matplotlib import colormaps

    pairs, steps, width = paths.shape
    figure = Figure(figsize=(7, 1.7 * pairs + 0.5), layout="constrained")
    grid = figure.subplots(pairs, 1, squeeze=False, sharex=True)[:, 0]
    for axes, path in zip(grid, paths.cpu().float(), strict=True):
        for step, values in enumerate(path):
            colour = colormaps["viridis"](step / max(1, steps - 1))
            axes.plot(range(width), values.numpy(), color=colour, lw=1)
        axes.set_ylabel("x")
    if names and width <= 15:
        grid[-1].set_xticks(range(width), names, rotation=30, ha="right", fontsize=7)
    else:
        grid[-1].set_xlabel("column")
    if title:
        figure.suptitle(textwrap.fill(title, 80), fontsize=9)
    return figure
