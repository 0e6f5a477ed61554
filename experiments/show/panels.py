"""Panels of posteriors: a map of all rows, ellipses and densities of a few, intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Polygon

from experiments.judge.posteriors import DRAWS, Shown, globals_of

if TYPE_CHECKING:
    import torch

    from experiments.judge.comparison import Comparison

LIGHT = "#9A9A9A"
LETTERS = "ABCDEF"


def _axis_names(view: Shown) -> tuple[str, str]:
    word = "identified latent" if view.identified else "latent"
    return f"{word} 1", f"{word} 2"


def cloud_map(axes: Any, view: Shown, comparison: Comparison) -> None:
    """All rows at their posterior means, by class; letters mark the rows of the zoomed panels."""
    assert view.cloud is not None
    cloud, labels = view.cloud.numpy(), view.data.labels
    if labels is None:
        axes.scatter(*cloud.T, s=8, color=LIGHT, alpha=0.6, linewidths=0)
    else:
        for (x, y), label in zip(cloud, labels.tolist(), strict=True):
            axes.text(x, y, str(label), color=LIGHT, fontsize=7, ha="center", va="center")
    axes.update_datalim(cloud)
    axes.autoscale_view()
    for letter, row in zip(LETTERS, view.rows.tolist(), strict=False):
        axes.text(
            *cloud[row],
            letter,
            fontsize=9,
            fontweight="bold",
            ha="center",
            va="center",
            color="white",
            bbox={"boxstyle": "circle,pad=0.2", "facecolor": "black", "linewidth": 0},
        )
    name = comparison.reference.label
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title(
        f"{len(cloud)} {comparison.side} rows: posterior means\n({name})", loc="left", fontsize=10
    )
    first, second = _axis_names(view)
    axes.set_xlabel(f"{first} (prior sd 1)")
    axes.set_ylabel(f"{second} (prior sd 1)")


def ellipses(part: Any, view: Shown, looks: dict[Any, Any]) -> None:
    """A panel a row: the ellipses of every guide, and the row itself where it is an image."""
    count = len(view.rows)
    across = min(2, count)
    grid = part.subplots(-(-count // across), across, squeeze=False).flat
    for i, axes in enumerate(grid):
        if i >= count:
            axes.set_axis_off()
            continue
        for cell, (colour, dashes, width) in looks.items():
            points = view.draws[cell][:, i].double().numpy()
            center, cov = points.mean(0), np.cov(points.T)
            for radius in (1, 2):
                outline = ellipse(center, cov, radius)
                style = {"edgecolor": colour, "linestyle": dashes, "linewidth": width}
                axes.add_patch(
                    Polygon(outline, fill=False, alpha=1 if radius == 1 else 0.6, **style)
                )
                axes.update_datalim(outline)
            axes.plot(*center, marker="+", color=colour, markersize=7)
        axes.autoscale_view()
        axes.margins(0.08)
        axes.set_aspect("equal", adjustable="datalim")
        axes.tick_params(labelsize=7)
        _heading(axes, view, i)
    first, second = _axis_names(view)
    part.supxlabel(f"{first} (prior sd 1)", fontsize=9)
    part.supylabel(f"{second}; ellipses at 1 and 2 sd", fontsize=9)


def _heading(axes: Any, view: Shown, i: int) -> None:
    """The letter and the class of a row, and its picture if it is an image."""
    row = int(view.rows[i])
    label = "" if view.data.labels is None else f", class {int(view.data.labels[row])}"
    axes.set_title(f"{LETTERS[i]}: row {row}{label}", loc="left", fontsize=9)
    shape = view.data.image_shape
    if shape is None or len(shape) != 2:
        return
    inset = axes.inset_axes((0.80, 0.80, 0.2, 0.2))
    x = view.data.fixed().batch(view.rows[i : i + 1])["x"][0]
    inset.imshow(x.reshape(shape).cpu().numpy(), cmap="gray_r")
    inset.set_xticks([])
    inset.set_yticks([])


def ellipse(center: np.ndarray, cov: np.ndarray, radius: float, points: int = 181) -> np.ndarray:
    """(points, 2): the outline {c + r L u : |u| = 1}, L Lᵀ = cov, at r standard deviations.

    Args:
        center: (2,), c.
        cov: (2, 2).
        radius: r.
        points: how many corners the outline has.

    Example:
        >>> ellipse(np.zeros(2), np.diag([4.0, 1.0]), 1.0, points=5).round(3) + 0.0
        array([[ 2.,  0.],
               [ 0.,  1.],
               [-2.,  0.],
               [ 0., -1.],
               [ 2.,  0.]])
    """
    angle = np.linspace(0, 2 * np.pi, points)
    values, vectors = np.linalg.eigh(cov)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    return center + radius * np.stack([np.cos(angle), np.sin(angle)], -1) @ root


def densities(part: Any, view: Shown, looks: dict[Any, Any]) -> None:
    """A panel a row, of a single latent dimension: the density of the draws of every guide."""
    grid = part.subplots(len(view.rows), 1, squeeze=False).flat
    for i, axes in enumerate(grid):
        for cell, (colour, dashes, width) in looks.items():
            x, y = density(view.draws[cell][:, i, 0])
            axes.plot(x, y, color=colour, linestyle=dashes, linewidth=width)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(0)
        _heading(axes, view, i)
    name = "identified latent" if view.identified else "latent"
    part.supxlabel(f"{name} (prior sd 1); density of {DRAWS} draws", fontsize=9)


def density(draws: torch.Tensor, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """A Gaussian kernel estimate of draws (S,): places and densities, (points,) each.

    The bandwidth is 0.9 sd S^(−1/5) (Silverman, Density estimation for statistics, 1986); draws
    that are all the same become a narrow peak.
    """
    values = draws.double().numpy()
    sd = max(values.std(), 1e-3)
    width = 0.9 * sd * len(values) ** -0.2
    x = np.linspace(values.min() - 3 * width, values.max() + 3 * width, points)
    kernel = np.exp(-0.5 * ((x[:, None] - values) / width) ** 2)
    return x, kernel.mean(1) / (width * np.sqrt(2 * np.pi))


def intervals(axes: Any, comparison: Comparison, looks: dict[Any, Any]) -> None:
    """The global latents: medians with 50 and 95 % intervals of every guide."""
    step = 0.7 / len(looks)
    names: list[str] = []
    for k, (cell, (colour, _, _)) in enumerate(looks.items()):
        guide = comparison.outcomes[cell][0].guide
        draws = globals_of(guide, comparison.split.train, DRAWS, limit=12)
        names = list(draws)
        for y, values in enumerate(draws.values()):
            low, quarter, middle, three, high = np.quantile(
                values.double().numpy(), (0.025, 0.25, 0.5, 0.75, 0.975)
            )
            place = y - 0.35 + step * (k + 0.5)
            axes.plot([low, high], [place, place], color=colour, linewidth=1.2)
            axes.plot([quarter, three], [place, place], color=colour, linewidth=4)
            axes.plot(middle, place, "o", color="white", markeredgecolor=colour, markersize=5)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color="#E6E6E6")
    axes.set_title(
        "Latents shared by all rows: medians, 50 % and 95 % intervals", loc="left", fontsize=10
    )
    axes.set_xlabel("in the units of each latent")
