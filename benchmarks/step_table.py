"""The table of `step_time`, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.step_cases import CASES

Row = dict[str, Any]


def table(rows: Sequence[Row]) -> Table:
    """All rows, case by case."""
    first, steps = rows[0], sorted({row["steps"] for row in rows})
    title = (
        f"Milliseconds a training step: {first['device']}, {first['threads']} thread, medians of "
        f"{first['rounds']} rounds of {' or '.join(map(str, steps))} steps, 10–90 % of the rounds"
    )
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    shown.add_column("case")
    shown.add_column("contender", no_wrap=True)
    for name in ("ms", "10–90 %", "min", "÷ NumPyro's scan", "10–90 %", "cores", "peak MiB"):
        shown.add_column(name, justify="right", no_wrap=True)
    for i, row in enumerate(rows):
        case = CASES[row["case"]]
        new = i == 0 or rows[i - 1]["case"] != row["case"]
        title = f"{case.what}, batch {case.batch}" if new else ""
        shown.add_row(title, row["contender"], *cells(row))
    return shown


def cells(row: Row) -> list[str]:
    """The figures of a row; a dash where there is none."""
    if row["failed"]:
        return ["–"] * 7
    times = [digits(row["ms_median"]), ends(row["ms_spread"]), digits(row["ms_min"])]
    ratio = [digits(row["ratio_to_numpyro_scan"]), ends(row["ratio_spread"])]
    peak = "–" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
    return [*times, *ratio, f"{row['cores']:.1f}", peak]


def show(rows: Sequence[Row], console: Console) -> None:
    """Prints the table, and why some have no figures."""
    console.print(table(rows))
    for row in rows:
        if row["failed"]:
            said = f"{row['case']}, {row['contender']}: {row['failed']}"
            console.print(said, highlight=False, markup=False)


def digits(value: float | None) -> str:
    """Three of them.

    >>> digits(0.04567), digits(12.345), digits(551.2)
    ('0.0457', '12.3', '551')
    """
    return "–" if value is None else f"{value:#.3g}".rstrip(".")


def ends(values: Sequence[float] | None) -> str:
    """The ends of a spread."""
    return "–" if values is None else "–".join(map(digits, values))
