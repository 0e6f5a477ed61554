"""Report cards side by side on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from experiments.show.tables import number

if TYPE_CHECKING:
    from experiments.judge.cards import Cards
    from zoo.diagnostics.card import Check

STYLES = {"green": "green", "amber": "yellow", "red": "bold red", "undecided": "dim"}
MARKS = {"green": "✓", "amber": "!", "red": "✗", "undecided": "?"}


def cards_tables(cards: Cards) -> list[Table | str]:
    """A column a guide and a line a check; the verdicts; and the differences, paired by row.

    Args:
        cards: of at least one guide.
    """
    labels = list(cards.reports)
    table = Table(title="report cards on the same rows and draws", title_justify="left")
    table.add_column("check")
    for label in labels:
        table.add_column(label.replace(" / ", " /\n"), justify="right")
    checks = {label: {c.name: c for c in cards.reports[label].checks} for label in labels}
    names = dict.fromkeys(name for label in labels for name in checks[label])
    for name in names:
        row = [checks[label].get(name) for label in labels]
        if any(check is not None and check.p is not None for check in row):
            table.add_row(name, *(_cell(check) for check in row))
    parts: list[Table | str] = [table]
    width = max(map(len, labels))
    parts += [f"{label:<{width}}  {cards.reports[label].verdict.posterior}" for label in labels]
    if cards.differences:
        parts.append(_differences(cards))
    return parts


def _cell(check: Check | None) -> Text:
    """The number and a mark; a colour is never alone."""
    if check is None or check.p is None or check.value is None:
        return Text("–", style="dim")
    return Text(f"{check.value:.3g} {MARKS[check.status]}", style=STYLES[check.status])


def _differences(cards: Cards) -> Table:
    title = f"minus {cards.reference}, mean over the same rows ± standard error of the difference"
    table = Table(title=title, title_justify="left")
    names = list(dict.fromkeys(d.name for d in cards.differences))
    for column in ("guide", *names):
        table.add_column(column, justify="left" if column == "guide" else "right")
    for guide in dict.fromkeys(d.guide for d in cards.differences):
        mine = {d.name: d for d in cards.differences if d.guide == guide}
        cells = [number((mine[n].mean, mine[n].se)) if n in mine else "–" for n in names]
        table.add_row(guide, *cells)
    return table
