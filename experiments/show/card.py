"""The report card on a terminal: the verdict, a line for each thing checked, what was left out."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from zoo.diagnostics.card import LEVEL, Check, Status, worst

if TYPE_CHECKING:
    from zoo.diagnostics.report import Report

MOST_LINES = 15  # of the table
WIDE = 120  # columns, from which the action has a column of its own
MARKS: dict[Status, str] = {
    "green": "●",
    "amber": "▲",
    "red": "■",
    "undecided": "?",
    "told": "·",
    "not checked": "–",
}
STYLES: dict[Status, str] = {
    "green": "green",
    "amber": "yellow",
    "red": "bold red",
    "undecided": "cyan",
    "told": "",
    "not checked": "dim",
}
RAISE = {  # what decides a check that is undecided, by its name
    "SBC": "raise the simulations",
    "VSBC": "raise the simulations",
    "coverage": "raise the simulations",
    "TARP": "raise the simulations",
    "Jeffreys": "raise the simulations",
    "iterates": "train on, for more iterates",
    "restarts": "raise the restarts",
    "predictive ranks": "needs more rows",
    "k̂ of rows": "needs more rows",
    "approximation gap": "needs more rows",
    "amortization gap": "needs more rows",
}
DRAWS = "raise S, the draws"


def card_table(report: Report, width: int = 160) -> list[Table | Text]:
    """The verdict, the table, its caption, and one line of what was not checked.

    A line of the table has the colour of its worst check, as a word and a mark too; where that is
    amber or red the one thing to do, where it is undecided what to raise.

    Args:
        report: of judged checks.
        width: columns of the terminal; texts are broken between words, never cut short.
    """
    caption = [settings(report.about), *(f"Note: {note.rstrip('.')}." for note in report.notes)]
    parts: list[Table | Text] = [_verdict(report, width), _table(report, width)]
    parts += [_wrapped(Text(line, style="dim"), width) for line in caption if line]
    if report.not_checked:
        text = Text().append("Not checked: ", style="bold")
        parts.append(_wrapped(text.append("; ".join(_unchecked(report))), width))
    return parts


def marked(status: Status) -> str:
    """The mark and the word of a status.

    Example:
        >>> marked("amber"), marked("undecided")
        ('▲ amber', '? undecided')
    """
    return f"{MARKS[status]} {status}"


def action(checks: Sequence[Check]) -> str:
    """The one thing to do about a line of the table; empty where there is nothing to do.

    Example:
        >>> action([Check("weights", "ESS", "posterior", status="undecided")])
        'raise S, the draws'
    """
    first = worst(checks)
    if first.status == "undecided":
        of_globals = first.name.endswith("of globals")
        return RAISE.get(first.name, f"{DRAWS} of the globals" if of_globals else DRAWS)
    if first.status not in ("amber", "red"):
        return ""
    alarms = [first, *(check for check in checks if check.status in ("amber", "red"))]
    return next((check.action for check in alarms if check.action), "see report.html")


def subject(about: Mapping[str, Any]) -> str:
    """What was judged: the model, the data, the family and the inference, as far as known.

    Example:
        >>> subject({"model": "ppca", "data": "iris", "family": "mean_field"})
        'ppca on iris: mean_field'
    """
    name = str(about.get("model") or "the model")
    if about.get("data"):
        name += f" on {about['data']}"
    words = [str(about[key]) for key in ("family", "inference") if about.get(key)]
    return f"{name}: {', '.join(words)}" if words else name


def settings(about: Mapping[str, Any]) -> str:
    """How many rows and draws were judged, with which seed, in what time, as far as known.

    Example:
        >>> settings({"num_rows": 30, "of_rows": 150, "rows": "test", "num_draws": 4000})
        '30 of 150 test rows, S = 4000 draws of each'
    """
    parts = []
    if (count := about.get("num_rows")) is not None:
        of = about.get("of_rows", count)
        rows = f"{count}" if of in (None, count) else f"{count} of {of}"
        parts.append(f"{rows} {about.get('rows') or ''} rows".replace("  ", " "))
    if draws := about.get("num_draws"):
        parts.append(f"S = {draws} draws of each")
    if draws := about.get("num_global_draws"):
        parts.append(f"{draws} draws of the latents that rows share")
    if about.get("seed") is not None:
        parts.append(f"seed {about['seed']}")
    if about.get("seconds") is not None:
        parts.append(f"{float(about['seconds']):.1f} s")
    return ", ".join(parts)


def how_many_tests(report: Report) -> str:
    """Over how many tests Holm's correction was."""
    count = report.verdict.tests
    return f"{count} test{'' if count == 1 else 's'}, Holm at {100 * LEVEL:g} %"


def _verdict(report: Report, width: int) -> Text:
    lines = [Text(subject(report.about), style="bold")]
    said = {"Posterior": report.verdict.posterior, "Model": report.verdict.model}
    lines += [Text().append(f"{name}: ", style="bold").append(text) for name, text in said.items()]
    lines.append(Text(how_many_tests(report), style="dim"))
    return Text("\n").join(_wrapped(line, width) for line in lines)


def brief(why: str) -> str:
    """The option that would have it checked, where one is named, else the first clause.

    Example:
        >>> brief("needs simulations: --simulate"), brief("k̂ is 1.28: it cannot be trusted")
        ('--simulate', 'k̂ is 1.28')
    """
    option = re.search(r"--[a-z][a-z-]*( [A-Z]+| [0-9]+)?", why)
    return option.group() if option else re.split(r"[;:,] (?![^(\[]*[)\]])", why)[0].strip()


def _unchecked(report: Report) -> Iterator[str]:
    """Each row of the table that nothing of was run, else the check; with its shortest reason."""
    whole: dict[str, list[str]] = {}
    for check in report.not_checked:
        name = check.name if check.row in report.rows else check.row
        whole.setdefault(name, []).append(check.why)
    for name, reasons in whole.items():
        why = min(map(brief, filter(None, reasons)), key=len, default="")
        yield f"{name} ({why})" if why else name


def _table(report: Report, width: int) -> Table:
    lines: list[Line] = [(name, worst(each).status, each) for name, each in report.rows.items()]
    shown, folded = _fitted(lines)
    wide = width >= WIDE
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    names = ["", "checked", "what was measured", *(["what to do"] if wide else [])]
    for name in names:
        table.add_column(name, no_wrap=True)
    first = max((cell_len(marked(status)) for _, status, _ in shown), default=0)
    longest = max((cell_len(name) for name, _, _ in shown), default=0)
    second = max(len("checked"), min(longest, width // 4))
    room = width - first - second - 3 * (len(names) - 1)
    third = int(0.58 * room) if wide else room
    for name, status, checks in shown:
        mark = Text(marked(status), style=STYLES[status])
        row = Text("\n".join(textwrap.wrap(name, second)))
        measured, todo = _measured(checks), action(checks)
        if wide:
            cells = [_wrapped(measured, third), _wrapped(Text(todo), room - third)]
        else:
            more = [_wrapped(Text(f"→ {todo}", style="italic"), room)] if todo else []
            cells = [Group(_wrapped(measured, third), *more)]
        table.add_row(mark, row, *cells)
    if folded:
        text = ", ".join(f"{name} ({status})" for name, status, _ in folded)
        mark, cell = Text(marked("told")), _wrapped(Text(text), third)
        table.add_row(mark, f"{len(folded)} more", cell, *([""] if wide else []))
    return table


Line = tuple[str, Status, list[Check]]


def _fitted(lines: list[Line]) -> tuple[list[Line], list[Line]]:
    """Those that have a line of their own, and those that share the last one: told, green first."""
    if len(lines) <= MOST_LINES:
        return lines, []
    mildest: tuple[Status, ...] = ("told", "green", "undecided", "amber", "red")
    order = sorted(range(len(lines)), key=lambda i: (mildest.index(lines[i][1]), -i))
    out = set(order[: len(lines) - MOST_LINES + 1])
    return (
        [line for i, line in enumerate(lines) if i not in out],
        [lines[i] for i in sorted(out)],
    )


def _measured(checks: Sequence[Check]) -> Text:
    """The texts of the checks of a line, each with its mark where they are of several colours."""
    mixed = len({check.status for check in checks}) > 1
    text = Text()
    for i, check in enumerate(checks):
        if i:
            text.append("; ")
        if mixed:
            text.append(f"{MARKS[check.status]}\u00a0", style=STYLES[check.status])
        text.append(check.text or _figure(check))
    return text


def _figure(check: Check) -> str:
    """Of a check that has no words."""
    return check.name if check.value is None else f"{check.name} {check.value:.4g}"


def _wrapped(text: Text, width: int) -> Text:
    """Broken between words into lines of so many columns, a number kept with its error and unit."""
    whole = text.plain.translate({9: " ", 10: " "})
    for pair in (" ± ", " %", " = ", " < ", " > ", " ≤ ", " ≥ ", " sd", " nat"):
        whole = whole.replace(pair, pair.replace(" ", "\u00a0"))
    lines = textwrap.wrap(whole, max(width, 10), break_on_hyphens=False) or [""]
    result, start = Text(style=text.style), 0
    for i, line in enumerate(lines):
        start = whole.index(line, start)
        part = text[start : start + len(line)]
        result.append("\n" if i else "").append_text(part)
        start += len(line)
    return result
