"""Tables for the terminal: guides compared, sizes selected."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from experiments._selection import estimate

if TYPE_CHECKING:
    from experiments._comparison import Comparison
    from experiments._selection import Selection

MODES = {
    "fixed": "one frozen model: differences are inference gaps",
    "joint": "each guide its own model: differences mix model and inference",
}


def terminal() -> Console:
    """A console as wide as the terminal, or wide enough for a table where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def number(value: tuple[float, float] | None, digits: int = 4) -> str:
    """A mean and its error, to the digits that the error leaves and no more than ``digits``.

    Example:
        >>> number((17.02345, 1e-6)), number((0.39, 0.121)), number((-1e-6, 0.0)), number(None)
        ('17.0235', '0.39 ± 0.12', '0.0000', '–')
    """
    if value is None:
        return "–"
    mean, error = value
    if not (math.isfinite(mean) and math.isfinite(error)):
        return f"{mean} ± {error}"
    if error >= 0.5 * 10**-digits:
        digits = min(digits, max(0, 1 - math.floor(math.log10(error))))
        return f"{mean:.{digits}f} ± {error:.{digits}f}"
    return f"{round(mean, digits) + 0.0:.{digits}f}"


def comparison_table(comparison: Comparison) -> Table:
    """A row a guide, the best first; nats per datapoint."""
    split, both = comparison.split, comparison.split.test is not None
    particles = next(iter(comparison.outcomes.values()))[0].train.num_particles
    table = Table(
        title=f"{comparison.model} on {split.train.name}, {comparison.mode} "
        f"({MODES[comparison.mode]})",
        title_justify="left",
    )
    sides = ("train", "test") if both else ("train",)
    table.add_column("guide")
    for side in sides:
        table.add_column(f"ELBO {side}", justify="right")
    table.add_column(f"IWAE-{particles} {sides[-1]}", justify="right")
    if comparison.known:
        if comparison.mode == "joint":
            table.add_column(f"log p(x) {sides[-1]}", justify="right")
        for side in sides:
            table.add_column(f"gap {side}", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("parameters", justify="right")
    for guide in comparison.ranked:
        row = [guide.label, *(number(comparison.figure(guide, side, "elbo")) for side in sides)]
        row.append(number(comparison.figure(guide, sides[-1], "iwae")))
        if comparison.known:
            if comparison.mode == "joint":
                row.append(number(comparison.figure(guide, sides[-1], "exact")))
            row += [number(comparison.gap(guide, side)) for side in sides]
        runs = comparison.outcomes[guide]
        counts = runs[0].summary["num_parameters"]
        count = counts["guide"] + (counts["model"] if comparison.mode == "joint" else 0)
        row += [f"{sum(o.result.seconds for o in runs) / len(runs):.1f}", f"{count:,}"]
        table.add_row(*row, style="bold" if guide == comparison.ranked[0] else None)
    return table


def selection_table(selection: Selection) -> Table:
    """A row a value; the best in bold, those within one standard error of it marked."""
    figure = {"exact": "log p(x)", "iwae": "IWAE"}[selection.figure]
    side, judged = selection.side, selection.candidates
    restarts = len(judged[0].outcomes)
    table = Table(
        title=f"{selection.model} on {selection.split.train.name}: {selection.setting}",
        title_justify="left",
        caption=f"nats per datapoint; best − this: paired on {side} rows ± the larger of its "
        "standard errors (rows, Monte Carlo); ◆ best, ◇ within one standard error of it",
        caption_justify="left",
    )
    table.add_column(selection.setting.partition(".")[2])
    table.add_column("")
    for rows in dict.fromkeys(("train", side)):
        table.add_column(f"{figure} {rows}", justify="right")
    table.add_column("best − this", justify="right")
    known = [name for name in ("aic", "bic") if selection.lowest(name)]
    if known:
        table.add_column("free parameters", justify="right")
    for name in known:
        table.add_column(name.upper(), justify="right")
    if restarts > 1:
        table.add_column(f"train, {restarts} restarts", justify="right")
    for c in judged:
        best = c is selection.winner
        row = [str(c.value), "◆" if best else "◇" if selection.close(c) else ""]
        for rows in dict.fromkeys(("train", side)):
            found = selection.likelihood(c, rows)
            row.append(number((found.mean, found.se)))
        difference = selection.difference(c)
        row.append("" if best else number((difference.mean, difference.se)))
        if known:
            row.append(str(c.degrees_of_freedom))
        for name in known:
            mark = " ◆" if c is selection.lowest(name) else ""
            row.append(f"{getattr(c, name):.1f}{mark}")
        if restarts > 1:
            heights = [estimate(o.train).mean for o in c.outcomes]
            row.append(f"{min(heights):.4f} … {max(heights):.4f}")
        table.add_row(*row, style="bold" if best else None)
    return table
