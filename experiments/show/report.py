"""What a person sees of a run: a table on the terminal, and the curve of its loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAVY
from rich.console import Console
from rich.table import Table

ERROR_SHOWN = 5e-4  # nats


def show(
    summary: Mapping[str, Any],
    out: Path | None,
    console: Console | None = None,
    tables: Sequence[Table | str] = (),
) -> None:
    """Prints the figures of a run: bounds in nats per datapoint, with Monte-Carlo errors.

    Args:
        summary: what ``summary.json`` holds.
        out: the folder of the run.
        console: where to print.
        tables: what to print besides.
    """
    console = console or Console()
    words = [summary["family"], summary["inference"], summary["objective"]]
    if not summary["latents"]["local"]:  # nothing for a family to act on
        words = words[2:]
    elif summary["family"] == "exact":  # nothing for an inference to find
        words = words[::2]
    table = Table(
        title=f"{summary['model']} on {summary['data']}: {', '.join(words)}",
        box=SIMPLE_HEAVY,
        caption="nats per datapoint ± Monte-Carlo error",
    )
    columns = ["rows", "ELBO", f"IWAE {summary['eval_particles']}", "log p(x)", "KL gap"]
    if "log_joint" in summary["train"]:
        columns = ["rows", "log p(x, ẑ)", "log p(x)"]
    for column in columns:
        table.add_column(column, justify="left" if column == "rows" else "right")
    for side in ("train", "test"):
        figures = summary[side]
        if figures is None:
            continue
        count, everything = summary["judged_rows"][side], summary[f"num_{side}"]
        rows = f"{side} ({count if count == everything else f'{count} of {everything}'})"
        if "log_joint" in figures:
            table.add_row(rows, number(figures["log_joint"]), number(figures["exact"]))
            continue
        table.add_row(
            rows,
            number(figures["elbo"]),
            number(figures["iwae"]),
            number(figures["exact"]),
            gap(figures),
        )
    console.print(table)
    for part in tables:
        console.print(part, highlight=False)
    for line in remarks(summary):
        console.print(line, highlight=False)
    if out is None:
        console.print("Nothing was written; --out RUN keeps the run.", highlight=False)
    else:
        console.print(f"The run is in {out}", highlight=False, soft_wrap=True)


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """What there is to say besides the figures."""
    steps, seconds = summary["steps"], summary["seconds"]
    how = f"{steps} steps in {seconds:.1f} s on {summary['device']}"
    if summary["interrupted"]:
        how += ", interrupted"
    if summary["stopped_early"]:
        how += ", stopped early"
    if summary["best_step"] is not None:
        how += f"; the weights are those of step {summary['best_step']}, best on held-out rows"
    lines = [how + "."]
    parts = [_sampled(summary, side) for side in ("train", "test")]
    if any(parts):
        lines.append(
            f"As figures of all rows they have a further ± {', '.join(filter(None, parts))}."
        )
    if summary.get("num_labels"):
        lines += _labels(summary)
    index = summary["adjusted_rand_index"]
    if index["train"] is not None and not summary.get("num_labels"):
        parts = [f"{side} {value:.3f}" for side, value in index.items() if value is not None]
        lines.append(f"Adjusted Rand index against the classes: {', '.join(parts)}.")
    return lines + [f"Note: {note}." for note in summary["notes"]]


def _labels(summary: Mapping[str, Any]) -> list[str]:
    """The errors of a classifier, and what the bounds leave out."""
    shown = {side: (summary.get(side) or {}).get("error") for side in ("test", "validation")}
    parts = [f"{side} {percent(value)}" for side, value in shown.items() if value]
    lines = [f"Error with {summary['num_labels']} labels: {', '.join(parts)}."] if parts else []
    return [*lines, "The bounds above are of x alone: labels serve training, not these figures."]


def percent(estimate: Mapping[str, float]) -> str:
    """An error rate and its standard error.

    Example:
        >>> percent({"mean": 0.0333, "se": 0.0018})
        '3.33 ± 0.18 %'
    """
    return f"{100 * estimate['mean']:.2f} ± {100 * estimate['se']:.2f} %"


def show_seeds(content: Mapping[str, Any], out: str | None, console: Console | None = None) -> None:
    """Prints the figures of several seeds: mean ± standard deviation.

    Args:
        content: what ``seeds.json`` holds.
        out: the folder of the runs.
        console: where to print.
    """
    console = console or Console()
    count = len(content["seeds"])
    table = Table(
        title=f"{content['model']} on {content['data']}: {count} seeds",
        box=SIMPLE_HEAVY,
        caption="mean ± standard deviation over seeds; bounds in nats per datapoint",
    )
    for column in ("figure", "train", "test"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    names = {"error": "error, %", "elbo": "ELBO", "iwae": "IWAE", "exact": "log p(x)"}
    for name, title in names.items():
        cells = []
        for side in ("train", "test"):
            found, times = content[side].get(name), 100 if name == "error" else 1
            cells.append(
                f"{times * found['mean']:.2f} ± {times * found['sd']:.2f}" if found else "–"
            )
        if set(cells) != {"–"}:
            table.add_row(title, *cells)
    console.print(table)
    for name, reason in content.get("failed", {}).items():
        console.print(f"{name} failed: {reason}", highlight=False, markup=False)
    where = f"The runs are in {out}" if out else "Nothing was written; --out DIR keeps the runs."
    console.print(where, highlight=False, soft_wrap=True)


def _sampled(summary: Mapping[str, Any], side: str) -> str:
    """How far a figure of some rows is from that of all, where not all were judged."""
    figures = summary[side]
    if figures is None or summary["judged_rows"][side] == summary[f"num_{side}"]:
        return ""
    first = figures.get("elbo") or figures["log_joint"]
    return f"{first['se_data']:.2f} ({side})"


def number(estimate: Mapping[str, float] | None) -> str:
    """A mean and its Monte-Carlo error, where that is not negligible.

    Example:
        >>> (
        ...     number({"mean": -16.25312, "se": 0.0021}),
        ...     number({"mean": -1.5, "se": 0.0}),
        ... )
        ('-16.253 ± 0.002', '-1.5000')
    """
    if estimate is None:
        return "–"
    mean, se = estimate["mean"], estimate["se"]
    if not (math.isfinite(mean) and math.isfinite(se)):
        return f"{mean} ± {se}"
    if se < ERROR_SHOWN:
        mean = 0.0 if abs(mean) < 5e-5 else mean
        return f"{mean:.4f}"
    return f"{mean:.3f} ± {se:.3f}"


def gap(figures: Mapping[str, Any]) -> str:
    """KL(q || p(z|x)) = log p(x) - ELBO, where log p(x) is known."""
    if figures["exact"] is None or figures["elbo"] is None:
        return "–"
    return number(
        {"mean": figures["exact"]["mean"] - figures["elbo"]["mean"], "se": figures["elbo"]["se"]}
    )


def not_a_bound(metrics: Sequence[Mapping[str, Any]]) -> str:
    """What to say of the losses that were no bounds; empty where all were.

    Example:
        >>> early = {"step": 100, "loss": 2.0, "loss_is": "not a bound"}
        >>> not_a_bound([early, {"step": 200, "loss": 1.0}]), not_a_bound([early])
        (', not a bound up to step 100', ', not a bound')
    """
    rows = [row for row in metrics if "loss" in row]
    labelled = [row for row in rows if "loss_is" in row]
    if not labelled:
        return ""
    until = "" if len(labelled) == len(rows) else f" up to step {labelled[-1]['step']}"
    return f", {labelled[-1]['loss_is']}{until}"


def loss_curve(metrics: Sequence[Mapping[str, Any]], objective: str, path: Path) -> None:
    """Draws what was maximised against the steps, the held-out bound beside it.

    Where the loss was no bound on log p(x), its label says so.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    training = f"training ({objective}{not_a_bound(metrics)})"
    for name, sign, label in (("loss", -1, training), ("held_out", 1, "held out")):
        points = [(row["step"], sign * row[name]) for row in metrics if name in row]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, marker="." if len(points) < 30 else None, label=label)
    values = sorted(-row["loss"] for row in metrics if "loss" in row)
    if len(values) > 20:  # the first steps would flatten everything after them
        low, high = values[len(values) // 10], values[-1]
        axes.set_ylim(low - 0.1 * (high - low) - 1e-6, high + 0.1 * (high - low) + 1e-6)
    axes.set_xlabel("step")
    axes.set_ylabel("nats per datapoint")
    if axes.lines:
        axes.legend()
    FigureCanvasAgg(figure).print_png(path)
