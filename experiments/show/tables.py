"""Tables for the terminal: guides compared, sizes selected."""

from __future__ import annotations

import math
import sys
import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from experiments.judge.paired import spread as spread_of
from experiments.judge.selection import estimate

if TYPE_CHECKING:
    from experiments.judge.comparison import Comparison
    from experiments.judge.paired import spread as spread_of
from experiments.judge.selection import Selection

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


def comparison_table(comparison: Comparison, width: int = 160) -> Table:
    """A row a guide, the best first; nats per datapoint.

    Args:
        comparison: with at least one guide.
        width: of the terminal; what finds no room is left out, and the table says so.
    """
    split, both = comparison.split, comparison.split.test is not None
    particles = next(iter(comparison.outcomes.values()))[0].train.num_particles
    sides = ("train", "test") if both else ("train",)
    judged, joint = sides[-1], comparison.mode == "joint"
    spare = ["parameters", "seconds", f"IWAE-{particles} {judged}", "gap train", "gap train ≥"]
    spare.append("ELBO train")
    rows = []
    for guide in comparison.ranked:
        row = {"guide": guide.label}
        row |= {f"ELBO {s}": number(comparison.figure(guide, s, "elbo")) for s in sides}
        row[f"IWAE-{particles} {judged}"] = number(comparison.figure(guide, judged, "iwae"))
        if comparison.known and joint:
            row[f"log p(x) {judged}"] = number(comparison.figure(guide, judged, "exact"))
        if comparison.gaps:
            sign = "" if comparison.known else " ≥"
            row |= {f"gap {s}{sign}": number(comparison.gap(guide, s)) for s in sides}
        runs = comparison.outcomes[guide]
        counts = runs[0].summary["num_parameters"]
        count = counts["guide"] + (counts["model"] if joint else 0)
        if errors := [e["mean"] for o in runs if (e := (o.summary["test"] or {}).get("error"))]:
            own = runs[0].summary["test"]["error"]["se"]
            mean, spread = spread_of(errors, [own] * len(errors))
            row["test error, %"] = f"{100 * mean:.2f} ± {100 * spread:.2f}"
        row["seconds"] = f"{sum(o.result.seconds for o in runs) / len(runs):.1f}"
        row["parameters"] = f"{count:,}"
        rows.append(row)
    rows += failures(comparison.failed, rows[0])
    title = (
        f"{comparison.model} on {split.train.name}, {comparison.mode} ({MODES[comparison.mode]})"
    )
    return _fitted(rows, [0], title, "", [s for s in spare if s != f"ELBO {judged}"], width)


def selection_table(selection: Selection, width: int = 160) -> Table:
    """A row a value; the best in bold, those within one standard error of it marked.

    Args:
        selection: with at least one value.
        width: of the terminal; what finds no room is left out, and the table says so.
    """
    figure = {"exact": "log p(x)", "iwae": "IWAE"}[selection.figure]
    side, judged = selection.side, selection.candidates
    most = max(len(c.outcomes) for c in judged)
    restarts = f"train, {most} restarts"
    known = [name for name in ("aic", "bic") if selection.lowest(name)]
    rows = []
    for c in judged:
        best = c is selection.winner
        mark = "◆" if best else "◇" if selection.close(c) else ""
        row = {selection.setting.partition(".")[2]: str(c.value), "": mark}
        for part in dict.fromkeys(("train", side)):
            found = selection.likelihood(c, part)
            row[f"{figure} {part}"] = number((found.mean, found.se))
        difference = selection.difference(c)
        row["best − this"] = "" if best else number((difference.mean, difference.se))
        if known:
            row["free parameters"] = str(c.degrees_of_freedom)
        for name in known:
            mark = " ◆" if c is selection.lowest(name) else ""
            row[name.upper()] = f"{getattr(c, name):.1f}{mark}"
        if most > 1:
            heights = [estimate(o.train).mean for o in c.outcomes]
            row[restarts] = f"{min(heights):.4f} … {max(heights):.4f}"
        rows.append(row)
    rows += failures(selection.failed, rows[0])
    caption = (
        f"nats per datapoint; best − this: paired on {side} rows ± the larger of its standard "
        "errors (rows, Monte Carlo); ◆ best, ◇ within one standard error of it"
    )
    title = f"{selection.model} on {selection.split.train.name}: {selection.setting}"
    bold = [i for i, c in enumerate(judged) if c is selection.winner]
    spare = [restarts, "free parameters"] + ([f"{figure} train"] if side == "test" else [])
    return _fitted(rows, bold, title, caption, spare, width)


def failures(failed: Mapping[str, str], columns: Iterable[str]) -> list[dict[str, str]]:
    """A row for each run that failed, with the beginning of its reason below its name.

    Example:
        >>> failures({"full_rank": "no room"}, ["guide", "ELBO"])
        [{'guide': 'full_rank\\nfailed: no room', 'ELBO': '–'}]
    """
    first, *rest = columns
    return [
        {
            first: f"{name}\nfailed: {textwrap.shorten(reason, 48, placeholder='…')}",
            **dict.fromkeys(rest, "–"),
        }
        for name, reason in failed.items()
    ]


def _fitted(
    rows: list[dict[str, str]],
    bold: list[int],
    title: str,
    caption: str,
    spare: list[str],
    width: int,
) -> Table:
    """A table no wider than the terminal, so that no figure in it is cut short.

    Where there is too little room, names of guides are broken at their slashes, then columns that
    can be spared are left out, the first of ``spare`` first.
    """
    names, left_out = list(rows[0]), []
    broken = False

    def needed() -> int:
        """Columns of the terminal that the table takes."""
        widths = [
            max(
                len(line)
                for text in (head(name), *(row[name] for row in rows))
                for line in text.split("\n")
            )
            for name in names
        ]
        return sum(widths) + 3 * len(names) + 1

    def head(name: str) -> str:
        return "\n".join(filter(None, name.rpartition(" ")[::2])) if broken else name

    if needed() > width:
        first, broken = names[0], True
        rows = [{**row, first: row[first].replace(" / ", " /\n")} for row in rows]
    for name in spare:
        if needed() > width and name in names:
            names.remove(name)
            left_out.append(name)
    if left_out:
        caption = (caption + ". " if caption else "") + (
            f"For want of room without {', '.join(left_out)}: --out keeps them, and a wider "
            "terminal shows them"
        )
    table = Table(
        title=title, title_justify="left", caption=caption or None, caption_justify="left"
    )
    for i, name in enumerate(names):
        table.add_column(head(name), justify="right" if i and name else "left")
    for i, row in enumerate(rows):
        table.add_row(*(row[name] for name in names), style="bold" if i in bold else None)
    return table
