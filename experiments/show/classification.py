"""What a person sees of a classification: errors side by side, and who was taken for whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from experiments.show.figures import COLOURS, STYLE
from experiments.show.tables import number

Content = Mapping[str, Any]
NAMES = {"features": "E[z | x]", "pixels": "x"}
WRITTEN = 20  # classes, above which cells of the confusion matrix bear no number


def classification_table(content: Content) -> Table:
    """A row for the features, one for x, and the difference.

    Args:
        content: what ``classify.json`` holds.
    """
    errors, seeds = content["error"], content["seeds"]
    caption = f"± standard error over the {content['num_test']} test rows"
    if seeds > 1:
        caption += f"; sd over {seeds} choices of labels"
    table = Table(
        title=escape(_title(content)), title_justify="left", caption=caption, caption_justify="left"
    )
    for column in ("classifier on", "dimensions", "test error, %"):
        table.add_column(column, justify="left" if column == "classifier on" else "right")
    if seeds > 1:
        for column in ("sd", "least … greatest"):
            table.add_column(column, justify="right")
    kept, of = content["features"]["kept"], content["features"]["of"]
    sizes = {"features": f"{kept} of {of}", "pixels": str(content["pixels"]["of"])}
    for name, found in errors.items():
        row = [escape(NAMES.get(name, "x less E[z | x]")), sizes.get(name, "")]
        row.append(number((100 * found["mean"], 100 * found["se"]), 2))
        if seeds > 1:
            values = [100 * value for value in found["values"]]
            row += [f"{100 * found['sd']:.2f}", f"{min(values):.2f} … {max(values):.2f}"]
        table.add_row(*row, style="bold" if name == "features" else None)
    return table


def classification_figure(content: Content) -> Figure:
    """The confusion matrix on the features, of the first choice of labels, and the errors.

    Args:
        content: what ``classify.json`` holds.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 4.6), dpi=140, layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.7, 1.0))
        draw_confusion(left, content["confusion"]["features"], content["classes"])
        left.set_title("Test rows, by the features", loc="left", fontsize=10)
        _errors(right, content)
        figure.suptitle(_title(content), fontsize=10, fontweight="bold")
        return figure


def draw_confusion(axes: Any, table: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """Shares of each true class (down) that are taken for each (across), with numbers of rows."""
    counts = np.array(table)
    share = counts / counts.sum(1, keepdims=True).clip(1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.spines[:].set_visible(False)
    if len(names) <= WRITTEN:
        for (i, j), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[i, j] > 0.6 else "black"
                axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=7)
        turn = 90 if max(map(len, names)) > 3 else 0
        axes.set_xticks(range(len(names)), names, rotation=turn)
        axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="taken for", ylabel="class")


def _errors(axes: Any, content: Content) -> None:
    """Means with 2 standard errors; a dot a choice of labels."""
    for place, name in enumerate(NAMES):
        found = content["error"][name]
        style = {"color": COLOURS[place], "capsize": 4, "marker": "o", "markersize": 7}
        axes.errorbar(place, 100 * found["mean"], yerr=200 * found["se"], **style)
        if content["seeds"] > 1:
            values = [100 * value for value in found["values"]]
            places = place + np.linspace(0.12, 0.24, len(values))
            axes.scatter(places, values, s=10, color=COLOURS[place], alpha=0.6, linewidths=0)
    axes.set_xticks(range(len(NAMES)), list(NAMES.values()))
    axes.set_xlim(-0.5, len(NAMES) - 0.4)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("%, ± 2 se over test rows")
    dots = "" if content["seeds"] == 1 else "; dots: choices of labels"
    axes.set_title(f"Test error{dots}", loc="left", fontsize=10)
    axes.grid(axis="y", color="#E6E6E6")
    axes.set_axisbelow(True)


def _title(content: Content) -> str:
    how = content["classifier"]
    if content["neighbours"] is not None:
        how = f"{content['neighbours']}-nn"
    labels = f"{content['num_labels']} labels"
    if content["labels"] == "all":
        labels = f"all {labels}"
    return f"{how} on {labels}: {content['model']} on {content['data']}"
