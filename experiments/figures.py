"""Pictures: how far each guide is from log p(x), and the posteriors that it believes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon

from experiments._posteriors import DRAWS, Shown, globals_of, shown
from experiments.tables import number

if TYPE_CHECKING:
    import torch

    from experiments._comparison import Comparison

# Okabe and Ito's colours, which the colour-blind tell apart; the reference is black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#666666")
DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), "-.", (0, (6, 2, 1, 2, 1, 2)))
LIGHT = "#9A9A9A"
STYLE: dict[str, Any] = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
LETTERS = "ABCDEF"


def comparison_figure(comparison: Comparison) -> Figure:
    """Left the gap of every guide, right the posteriors of a few rows under all of them.

    In two dimensions or more: a map of all rows (posterior means of the reference) and, zoomed in,
    1 and 2 sd ellipses of the draws of each guide, in the first two identified latent dimensions.
    In one dimension: densities. Without latents of the rows: intervals of the global ones.

    Args:
        comparison: with at least one guide.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        view = shown(comparison)
        only_gaps = view is None and not _has_globals(comparison)
        plane = view is not None and view.cloud is not None
        widths = [1.0] if only_gaps else [1.0, 1.0, 1.35] if plane else [1.0, 1.6]
        figure = Figure(figsize=(7 if only_gaps else 15 if plane else 12, 5.6), dpi=140)
        figure.set_layout_engine("constrained", w_pad=0.08, wspace=0.04)
        parts = figure.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0]
        looks = _looks(comparison)
        _gaps(parts[0].subplots(), comparison, looks)
        if view is not None and plane:
            _map(parts[1].subplots(), view, comparison)
            _zooms(parts[2], view, looks)
        elif view is not None:
            _densities(parts[1], view, looks)
        elif not only_gaps:
            _intervals(parts[1].subplots(), comparison, looks)
        if not only_gaps:
            handles = [
                Line2D([], [], color=c, linestyle=d, linewidth=w, label=cell.label)
                for cell, (c, d, w) in looks.items()
            ]
            figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        figure.suptitle(_title(comparison), fontsize=12, fontweight="bold")
        return figure


def _title(comparison: Comparison) -> str:
    data = comparison.split.train
    mode = (
        "one frozen model" if comparison.mode == "fixed" else "each guide with a model of its own"
    )
    options = next(iter(comparison.outcomes.values()))[0].model.options
    size = f" (latent_dim {options['latent_dim']})" if "latent_dim" in options else ""
    count = len(comparison.outcomes)
    posteriors = f"{count} posteriors" if count > 1 else "one posterior"
    return f"{comparison.model}{size} on {data.name}: {posteriors}, {comparison.mode} — {mode}"


def _looks(comparison: Comparison) -> dict[Any, tuple[str, Any, float]]:
    """Colour, dashes and width of every guide; the reference solid, wide and black, drawn first."""
    others = [cell for cell in comparison.outcomes if cell != comparison.reference]
    looks = {comparison.reference: ("#000000", "-", 3.0)}
    for i, cell in enumerate(others):
        looks[cell] = (COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)], 1.6)
    return looks


def _has_globals(comparison: Comparison) -> bool:
    return comparison.outcomes[comparison.reference][0].guide.latents.global_.dim > 0


def _gaps(axes: Any, comparison: Comparison, looks: dict[Any, Any]) -> None:
    """A line a guide: gap to log p(x), or the ELBO where log p(x) is not known."""
    sides = ["test", "train"] if comparison.split.test is not None else ["train"]
    known = comparison.known
    order = [cell for cell in comparison.ranked if comparison.figure(cell, sides[0], "elbo")]
    for y, cell in enumerate(order):
        colour = looks[cell][0]
        for side, shift in zip(sides, (-0.12, 0.12), strict=False):
            value = comparison.gap(cell, side) if known else comparison.figure(cell, side, "elbo")
            if value is None:
                continue
            filled = side == sides[0]
            axes.errorbar(
                value[0],
                y + shift,
                xerr=2 * value[1],
                fmt="o" if filled else "s",
                color=colour,
                markerfacecolor=colour if filled else "white",
                markersize=7 if filled else 6,
                capsize=3,
            )
            text = number(value, 3)
            axes.annotate(
                text,
                (value[0] + 2 * value[1], y + shift),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=colour if filled else LIGHT,
            )
    axes.set_yticks(range(len(order)), [cell.label.replace(" / ", "\n") for cell in order])
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.margins(x=0.12)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.35 * (high - low))  # room for the figures
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#E6E6E6")
    axes.set_axisbelow(True)
    if known:
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel("log p(x) − ELBO = KL(q ‖ p(z|x)), nats per datapoint")
        axes.set_title("Gap to the evidence", loc="left")
    else:
        axes.set_xlabel("ELBO, nats per datapoint (higher is better)")
        axes.set_title("Bound on the evidence", loc="left")
    error = "± 2 se" if comparison.seeds == 1 else f"± 2 sd over {comparison.seeds} seeds"
    marks = [
        Line2D([], [], linestyle="", marker="os"[i], color="black", label=f"{side} rows, {error}")
        for i, side in enumerate(sides)
    ]
    for mark in marks[1:]:
        mark.set_markerfacecolor("white")
    axes.legend(handles=marks, loc="upper right", fontsize=8, frameon=False)


def _axis_names(view: Shown) -> tuple[str, str]:
    word = "identified latent" if view.identified else "latent"
    return f"{word} 1", f"{word} 2"


def _map(axes: Any, view: Shown, comparison: Comparison) -> None:
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
    axes.set_title(f"{len(cloud)} {comparison.side} rows: posterior means ({name})", loc="left")
    first, second = _axis_names(view)
    axes.set_xlabel(f"{first} (prior sd 1)")
    axes.set_ylabel(f"{second} (prior sd 1)")


def _zooms(part: Any, view: Shown, looks: dict[Any, Any]) -> None:
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
    inset.imshow(view.data["x"][row].reshape(shape).cpu().numpy(), cmap="gray_r")
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


def _densities(part: Any, view: Shown, looks: dict[Any, Any]) -> None:
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


def _intervals(axes: Any, comparison: Comparison, looks: dict[Any, Any]) -> None:
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
    axes.set_title("Latents shared by all rows: medians, 50 % and 95 % intervals", loc="left")
    axes.set_xlabel("in the units of each latent")
