"""What a person sees of a report card: the table, the page, the files."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from experiments.show.card import MARKS, MOST_LINES, card_table
from experiments.show.card_files import strict, write_report
from experiments.show.card_html import card_html
from zoo.diagnostics.card import BANDS, Check, judged, measured, told, unchecked
from zoo.diagnostics.card import tested as of_test
from zoo.diagnostics.report import Report

EVIL = '<script src="http://evil.example/x.js">alert("z[0]")</script> & [bold]'
VOID = {"meta", "img", "br", "link", "input", "hr"}


def a_report(model: str = "ppca", **more: Any) -> Report:
    checks = judged(
        [
            measured("optimisation", "iterates", 1.004, 0.001, "R̂ 1.004 ± 0.001", "train longer"),
            unchecked("optimisation", "restarts", "one run was given", "optimisation"),
            measured("evidence", "certified gap", 0.31, 0.02, "IWAE − ELBO 0.310 ± 0.020", "wider"),
            of_test("weights", "k̂ of rows", 0.04, (0.015, 0.09), 1e-4, "k̂ > 0.70 in 4 %", "a flow"),
            measured("weights", "ESS", 0.31, 0.01, "ESS 31 ± 1 % of the draws", "a richer family"),
            measured(
                "mean", "shift", 0.5, 0.04, "largest shift 0.50 ± 0.04 sd (z[1])", "more steps"
            ),
            measured("spread", "spread", 0.11, 0.03, "log sd ratio 0.11 ± 0.03 (z[0])", "a flow"),
            unchecked("simulation", "SBC", "--simulate 300"),
            unchecked("simulation", "coverage", "needs simulations: --simulate 300"),
            told("latents", "active units", "2 of 2 units are active", "latents"),
            of_test(
                "model",
                "predictive ranks",
                0.04,
                (0.01, 0.07),
                0.2,
                "PIT 0.04 off",
                "another",
                "model",
                BANDS["model"],
            ),
        ]
    )
    about = {
        "model": model,
        "data": "iris",
        "family": "mean_field",
        "inference": "amortized",
        "rows": "test",
        "num_rows": 30,
        "of_rows": 150,
        "num_draws": 4000,
        "num_global_draws": None,
        "seed": 0,
        "seconds": 12.34,
        "versions": {"torch": "2.11"},
    }
    return Report(checks, more.pop("results", {}), about, ("no test rows",), **more)


def printed(report: Report, width: int, colour: bool = False) -> str:
    console = Console(
        width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    with console.capture() as capture:
        for part in card_table(report, width):
            console.print(part, highlight=False)
    return capture.get()


@pytest.mark.parametrize("width", [60, 80, 120, 160])
def test_nothing_on_the_terminal_is_cut_short(width: int) -> None:
    report = a_report(model="a_model_with_a_rather_long_name_of_sixty_columns_or_even_more_ok")
    text = printed(report, width)
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    joined = " ".join(text.split())
    for figure in ("1.004 ± 0.001", "0.310 ± 0.020", "31 ± 1 %", "0.50 ± 0.04 sd", "(z[1])"):
        assert any(figure in line.replace("\u00a0", " ") for line in text.splitlines()), figure
    for word in ("S = 4000 draws", "30 of 150 test rows", "no test rows", "7 tests, Holm at 5 %"):
        assert word in joined


def test_a_line_has_one_status_and_one_thing_to_do() -> None:
    lines = printed(a_report(), 160).splitlines()

    def line(name: str) -> str:
        (found,) = [text for text in lines if f" {name} " in text and text[:1] in MARKS.values()]
        return found

    assert line("optimisation").startswith("● green") and "train longer" not in line("optimisation")
    assert line("evidence").startswith("▲ amber") and line("evidence").rstrip().endswith("wider")
    assert line("weights").count("a flow") + line("weights").count("a richer family") == 1
    assert line("mean").startswith("■ red") and line("mean").rstrip().endswith("more steps")
    assert line("spread").startswith("? undecided") and "raise S, the draws" in line("spread")
    assert line("model").startswith("? undecided") and "needs more rows" in line("model")
    assert line("latents").startswith("· told")
    last = lines[-1]
    assert last == "Not checked: restarts (one run was given); simulation (--simulate 300)"
    assert sum(text.startswith("Not checked") for text in lines) == 1
    assert lines[1].startswith("Posterior: failure found: shift")
    assert lines[2].startswith("Model: no failure found; undecided: predictive ranks")


def test_colour_is_never_the_only_carrier() -> None:
    plain, coloured = printed(a_report(), 160), printed(a_report(), 160, colour=True)
    assert "\x1b[" not in plain and "\x1b[" in coloured
    for status in ("green", "amber", "red", "undecided", "told"):
        assert f"{MARKS[status]} {status}" in plain
    assert len(set(MARKS.values())) == len(MARKS)


def test_the_table_has_at_most_fifteen_lines() -> None:
    checks = [told(f"row {i}", f"check {i}", f"text {i}") for i in range(20)]
    checks.append(Check("the last", "x", "posterior", "bad", 1.0, status="red", action="act"))
    text = printed(Report(tuple(checks), {}, {}), 160)
    lines = [line for line in text.splitlines() if line[:2].strip() in MARKS.values()]
    assert len(lines) == MOST_LINES
    assert sum(line.startswith("■ red") for line in lines) == 1
    (more,) = [line for line in lines if "7 more" in line]
    assert "row 19 (told)" in text and more.startswith("· told")


def test_an_empty_report_says_that_nothing_was_checked() -> None:
    report = Report((), {}, {})
    text = printed(report, 80)
    assert "Posterior: not checked" in text and "0 tests" in text
    Page(card_html(report, {}))


class Page(HTMLParser):
    """Tags that close, and what they load."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.seen: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.loads.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_and_escapes_everything() -> None:
    report = a_report(model=EVIL)
    evil = Check(EVIL, EVIL, "posterior", EVIL, 0.5, 0.4, 0.6, status="red", action=EVIL)
    report = Report(
        (*report.checks, evil, unchecked(EVIL, EVIL + "2", EVIL)), {}, report.about, (EVIL,)
    )
    html = card_html(report, {"khat": b"\x89PNG", EVIL: b"\x89PNG"})
    page = Page(html)
    assert "script" not in page.seen and "link" not in page.seen and "<script" not in html
    assert len(page.loads) == 2 and all(u.startswith("data:image/png;base64,") for u in page.loads)
    assert "url(" not in html and "@import" not in html
    assert EVIL in page.text
    assert page.text.index("failure found") < page.text.index("Every check")


def test_the_page_has_every_number_of_every_check() -> None:
    page = Page(card_html(a_report(), {})).text.replace("\u00a0", " ")
    for text in ("0.31", "0.271 … 0.349", "green ≤ 0.1", "red > 1", "green ≥ 0.5", "red < 0.1"):
        assert text in page
    for text in ("< 0.0001", "one run was given", "needs simulations", "torch 2.11", "Holm"):
        assert text in page
    assert "prefers-color-scheme: dark" in card_html(a_report(), {})


@pytest.mark.parametrize("status", ["green", "amber", "red", "undecided", "told"])
def test_every_status_has_its_colour_on_the_page(status: Any) -> None:
    check = Check("row", "name", "posterior", "text", 1.0, status=status)
    html = card_html(Report((check,), {}, {}), {})
    assert f'<span class="{status}">{MARKS[status]} {status}</span>' in html
    assert f'<div class="verdict {status}">' in html


class Result:
    """A typed result with numbers that JSON does not know."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "k": torch.tensor([float("inf"), 1.0]),
            "nan": float("nan"),
            "path": Path("a"),
            "pair": (1, -float("inf")),
        }


def test_files_are_strict_json_and_a_page(tmp_path: Path) -> None:
    place = tmp_path / "report"
    names = write_report(a_report(results={"r": Result(), "n": None}), place)
    assert names[:2] == ["report.json", "report.html"]
    assert sorted(names) == sorted(path.name for path in place.iterdir())

    def refuse(word: str) -> None:
        raise AssertionError(word)

    text = (place / "report.json").read_text()
    content = json.loads(text, parse_constant=refuse)
    assert content["results"]["r"]["k"] == ["inf", 1.0]
    assert content["results"]["r"]["nan"] is None
    assert content["verdict"]["tests"] == 7
    Page((place / "report.html").read_text())


def test_strict_takes_what_json_does_not_know() -> None:
    found = strict({"a": torch.tensor(1.5), "b": {1}, "c": torch.zeros(2).numpy(), "d": None})
    assert found == {"a": 1.5, "b": [1], "c": [0.0, 0.0], "d": None}
