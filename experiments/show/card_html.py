"""The report card as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from experiments.show.card import MARKS, action, how_many_tests, settings, subject
from experiments.show.card_words import DEFINITIONS, PICTURES
from zoo.diagnostics.card import LEVEL, Band, Check, Status, worst

if TYPE_CHECKING:
    from zoo.diagnostics.report import Report

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --page: #ffffff; --line: #d5d9de; --pale: #f4f5f7;
  --quiet: #5b6470; --green: #00704c; --amber: #8f5400; --red: #b3261e; --undecided: #0062a3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --page: #15181c; --line: #3a4048;
  --pale: #1e2228; --quiet: #a0a8b2; --green: #4fc79a; --amber: #f0b35a; --red: #ff8a80;
  --undecided: #76b9ee; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 1.5em; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15em; margin: 36px 0 10px; }
h3 { font-size: 1em; margin: 22px 0 4px; }
p { margin: 4px 0; }
.quiet { color: var(--quiet); }
.verdict { border: 1px solid var(--line); border-left: 6px solid var(--quiet);
  background: var(--pale); padding: 12px 16px; margin: 16px 0; border-radius: 4px;
  font-size: 1.08em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 5px 10px 5px 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; }
td.status { white-space: nowrap; }
.green { color: var(--green); } .amber { color: var(--amber); }
.red { color: var(--red); font-weight: 600; } .undecided { color: var(--undecided); }
.verdict.green, .verdict.amber, .verdict.red, .verdict.undecided { color: inherit;
  font-weight: inherit; border-left-color: var(--edge); }
.verdict.green { --edge: var(--green); } .verdict.amber { --edge: var(--amber); }
.verdict.red { --edge: var(--red); } .verdict.undecided { --edge: var(--undecided); }
figure { margin: 0 0 28px; } figcaption { max-width: 78ch; }
img { max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line);
  border-radius: 4px; margin-top: 6px; }
dt { font-weight: 600; margin-top: 10px; } dd { margin: 0; max-width: 84ch; }
"""


def card_html(report: Report, figures: Mapping[str, bytes]) -> str:
    """One page: verdict, table, every check, what was not checked, pictures, settings, definitions.

    Args:
        report: of judged checks.
        figures: the bytes of PNG files by name, as of ``card_figures``; they are put into the page.
    """
    title = f"Report card of {subject(report.about)}"
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="quiet">{_text(settings(report.about))}</p>',
        _verdict(report),
        *(f"<p>Note: {_text(note.rstrip('.'))}.</p>" for note in report.notes),
        _section("In short", _lines(report)),
        _section("Every check", _checks(report)),
        _section("Not checked", _unchecked(report)),
        _section("Pictures", "".join(_picture(n, png) for n, png in figures.items())),
        _section("Settings", _table(("setting", "value"), _about(report.about))),
        _section("Definitions", _definitions()),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, parts))
        + "\n</main>\n</body>\n</html>\n"
    )


def figure_text(value: float | None, digits: int = 4) -> str:
    """A number to so many digits; a dash where there is none.

    Example:
        >>> figure_text(-0.123456), figure_text(None), figure_text(float("inf"))
        ('−0.1235', '–', '∞')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}g}".replace("-", "−")


def interval(check: Check) -> str:
    """The 95 % interval of a check; a dash where there is none."""
    if check.low is None or check.high is None:
        return "–"
    return f"{figure_text(check.low, 3)} … {figure_text(check.high, 3)}"


def band(edges: Band | None) -> str:
    """Where a number is green and where red.

    Example:
        >>> band(Band(0.1, 0.3)), band(Band(0.5, 0.1, falling=True))
        ('green ≤ 0.1, red > 0.3', 'green ≥ 0.5, red < 0.1')
    """
    if edges is None:
        return "–"
    good, bad = "≥<" if edges.falling else "≤>"
    return f"green {good} {edges.green:g}, red {bad} {edges.amber:g}"


def p_value(p: float | None) -> str:
    """A p value to two digits.

    Example:
        >>> p_value(0.0312), p_value(3e-9), p_value(None)
        ('0.031', '< 0.0001', '–')
    """
    if p is None or math.isnan(p):
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _text(content: Any) -> str:
    """Escaped: names come from users."""
    return escape(str(content))


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>" if content else ""


def _verdict(report: Report) -> str:
    judged = [check for check in report.checks if check.status != "not checked"]
    status: Status = worst(judged).status if judged else "told"
    lines = (("Posterior", report.verdict.posterior), ("Model", report.verdict.model))
    said = "".join(f"<p><strong>{name}:</strong> {_text(line)}</p>" for name, line in lines)
    said += f'<p class="quiet">{how_many_tests(report)}</p>'
    return f'<div class="verdict {status}">{said}</div>'


def _status(status: Status) -> str:
    return f'<span class="{status.replace(" ", "-")}">{MARKS[status]} {status}</span>'


def _table(names: Iterable[str], rows: Iterable[Iterable[str]], first: str = "") -> str:
    """Cells are HTML already; ``first`` is the class of the first column."""
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = []
    for row in rows:
        cells = [f'<td class="{first}">' if first and not i else "<td>" for i, _ in enumerate(row)]
        body.append("".join(f"{c}{r}</td>" for c, r in zip(cells, row, strict=True)))
    lines = "\n".join(f"<tr>{line}</tr>" for line in body)
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n'
        "</table></div>"
    )


def _lines(report: Report) -> str:
    rows = [
        [
            _status(worst(checks).status),
            _text(name),
            "; ".join(_marked(check, checks) for check in checks),
            _text(action(checks)),
        ]
        for name, checks in report.rows.items()
    ]
    return _table(("", "checked", "what was measured", "what to do"), rows, "status")


def _marked(check: Check, others: Sequence[Check]) -> str:
    """What was measured, with the mark of its colour where that is not the same for all."""
    words = _text(check.text or check.name)
    if len({other.status for other in others}) == 1:
        return words
    status = check.status
    return f'<span class="{status}">{MARKS[status]}</span>&nbsp;{words}'


def _checks(report: Report) -> str:
    names = ("", "check", "measured", "value", "95&nbsp;% interval", "band", "p", "p, Holm")
    rows = [
        [
            _status(check.status),
            f'{_text(check.name)}<br><span class="quiet">{_text(check.row)}, {check.about}</span>',
            _text(check.text),
            *map(_whole, (figure_text(check.value), interval(check), band(check.band))),
            *map(_whole, (p_value(check.p), p_value(check.adjusted))),
            _text(action([check])),
        ]
        for checks in report.rows.values()
        for check in checks
    ]
    return _table((*names, "what to do"), rows, "status") + (
        '<p class="quiet">p: of the number lying in the green, or of the null hypothesis of a '
        f"test; an alarm where p, Holm is below {LEVEL:g}.</p>"
    )


def _whole(words: str) -> str:
    """Escaped, and broken at commas alone."""
    return "<br>".join(_text(part).replace(" ", "&nbsp;") for part in words.split(", "))


def _unchecked(report: Report) -> str:
    rows = [(_text(c.row), _text(c.name), _text(c.why)) for c in report.not_checked]
    return _table(("row", "check", "why"), rows) if rows else ""


def _picture(name: str, png: bytes) -> str:
    title, words = PICTURES.get(name, (name, ""))
    code = base64.b64encode(png).decode("ascii")
    return (
        f"<figure>\n<figcaption><h3>{_text(title)}</h3><p>{_text(words)}</p></figcaption>\n"
        f'<img alt="{_text(title)}" src="data:image/png;base64,{code}">\n</figure>\n'
    )


def _about(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for key, value in about.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {word}" for name, word in value.items())
        rows.append((_text(str(key).replace("_", " ")), _text("–" if value is None else value)))
    return rows


def _definitions() -> str:
    entries = (
        f'<dt>{_text(term)}</dt><dd>{_text(words)} <span class="quiet">{_text(source)}.</span></dd>'
        for term, words, source in DEFINITIONS
    )
    return "<dl>\n" + "\n".join(entries) + "\n</dl>"
