"""Loadings and components for people: tables on the terminal, files and pictures in the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAVY
from rich.table import Table

from experiments import output as _output
from experiments.identified import Components, Loadings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from experiments.runs import Outcome

MOST_FEATURES, MOST_COLUMNS = 32, 6  # of a table on the terminal
FORMS = {
    "none": "orthogonal columns by falling variance",
    "varimax": "rotated by varimax",
}


def record_identified(place: Path, outcome: Outcome) -> None:
    """Writes loadings.csv and .png, components.csv and .png, as far as there are any."""
    data = outcome.split.train
    for name, part in outcome.identified.items():
        what = f"{outcome.spec.model} on {data.name}"
        units = outcome.split.record["transform"]
        _output.write_table(place / f"{name}.csv", part.as_rows())
        figure = draw(part, data.image_shape, what, "" if units == "none" else f"x {units}")
        _output.write_picture(place / f"{name}.png", figure)


def identified_tables(found: Mapping[str, Loadings | Components]) -> list[Table | str]:
    """A table for what fits on a terminal, a line for what does not."""
    return [
        _of_loadings(p) if isinstance(p, Loadings) else _of_components(p) for p in found.values()
    ]


def _of_loadings(part: Loadings) -> Table | str:
    size, form = part.values.shape, FORMS[part.rotate]
    mean = "posterior mean, " if part.latent else ""
    if len(size) == 3:
        return f"Loadings of {size[0]} components ({size[1]} × {size[2]}): {mean}{form}."
    squares = [f"{v:.3g}" for v in part.variance.tolist()]
    if size[0] > MOST_FEATURES or size[1] > MOST_COLUMNS:
        shown = ", ".join(squares[:8]) + (", …" if len(squares) > 8 else "")
        return f"Loadings ({size[0]} × {size[1]}): {mean}{form}; sums of squares {shown}."
    table = Table(title=f"loadings: {mean}{form}", box=SIMPLE_HEAVY, show_footer=True)
    table.add_column("feature", footer="sum of squares")
    for j, square in enumerate(squares, 1):
        table.add_column(f"z{j}", footer=square, justify="right")
    for feature, line in zip(part.features, part.values.tolist(), strict=True):
        table.add_row(feature, *(f"{round(v, 2) + 0.0:.2f}" for v in line))
    return table


def _of_components(part: Components) -> Table | str:
    count, width = part.means.shape
    mean = "posterior means, " if part.latent else ""
    if width > MOST_FEATURES or count > MOST_COLUMNS:
        shown = ", ".join(f"{w:.3f}" for w in part.weights[:8].tolist())
        more = ", …" if count > 8 else ""
        return f"Components ({count} of {width} features), {mean}by falling weight: {shown}{more}."
    table = Table(
        title=f"components: {mean}by falling weight (mean ± sd of each feature)",
        box=SIMPLE_HEAVY,
        show_footer=True,
    )
    table.add_column("feature", footer="weight")
    for c, weight in enumerate(part.weights.tolist(), 1):
        table.add_column(f"y{c}", footer=f"{weight:.3f}", justify="right")
    for i, feature in enumerate(part.features):
        cells = zip(part.means[:, i].tolist(), part.sds[:, i].tolist(), strict=True)
        table.add_row(feature, *(f"{round(m, 2) + 0.0:.2f} ± {s:.2f}" for m, s in cells))
    return table


def draw(
    part: Loadings | Components, image_shape: tuple[int, ...] | None, what: str, units: str
) -> Figure:
    """Images where the features are the pixels of one, else a map of features by columns.

    Args:
        part: loadings or components.
        image_shape: (H, W) of an image.
        what: model and data, for the title.
        units: what was done to x.
    """
    if isinstance(part, Components):
        columns, titles = part.means, [f"weight {w:.3f}" for w in part.weights.tolist()]
        name, title = "mean", "components by falling weight"
    else:
        stack = part.values if part.values.dim() == 3 else part.values[None]
        columns = stack.mT.reshape(-1, stack.shape[1])  # (C d, D)
        squares = stack.square().sum(-2).flatten().tolist()
        many, each = len(stack) > 1, stack.shape[-1]
        titles = [
            (f"y{j // each + 1} " if many else "") + f"z{j % each + 1}: {s:.3g}"
            for j, s in enumerate(squares)
        ]
        name, title = "loading", f"loadings (sum of squares), {FORMS[part.rotate]}"
    if part.latent:
        title = f"posterior mean of {title}"
    values = columns.double().numpy()
    images = image_shape is not None and len(image_shape) == 2
    kind = _images if images else _map
    extra: Any = image_shape if images else list(part.features)
    figure = kind(values, titles, name, extra)
    figure.suptitle("\n".join(filter(None, (what, title, units))), fontsize=9)
    return figure


def _limit(values: Any) -> float:
    return float(abs(values).max()) or 1.0


def _images(values: Any, titles: list[str], label: str, shape: tuple[int, ...]) -> Figure:
    from matplotlib.figure import Figure

    across = min(len(values), 10)
    down = math.ceil(len(values) / across)
    figure = Figure(figsize=(max(1.1 * across + 1.2, 6), 1.4 * down + 0.9), dpi=140)
    figure.set_layout_engine("constrained")
    grid: Any = figure.subplots(down, across, squeeze=False)
    limit, shown = _limit(values), None
    for i, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if i < len(values):
            image = values[i].reshape(shape)
            shown = axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit)
            axes.set_title(titles[i], fontsize=7)
    figure.colorbar(shown, ax=grid, label=label, shrink=0.9)
    return figure


def _map(values: Any, titles: list[str], label: str, features: list[str]) -> Figure:
    from matplotlib.figure import Figure

    count, width = values.shape
    numbers = width <= 40 and count <= 20
    size = (max(1.0 * min(count, 20) + 3.2, 6), min(max(0.26 * width + 1.4, 2.8), 12))
    figure = Figure(figsize=size, dpi=140, layout="constrained")
    axes = figure.subplots()
    limit = _limit(values)
    shown = axes.imshow(values.T, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(count) if count <= 40 else [])
    if count <= 40:
        labels = [text.replace(": ", "\n").replace("weight ", "") for text in titles]
        axes.set_xticklabels(labels, fontsize=7)
    if width <= 40:
        axes.set_yticks(range(width), features, fontsize=7)
    else:
        axes.set_ylabel(f"feature, 1 … {width}")
    if numbers:
        for j in range(count):
            for i in range(width):
                dark = abs(values[j, i]) > 0.6 * limit
                text = f"{round(float(values[j, i]), 2) + 0.0:.2f}"
                colour = "white" if dark else "black"
                axes.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(shown, ax=axes, label=label)
    return figure
