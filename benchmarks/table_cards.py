"""What is measured of the report card, for the section "Measured" of the README."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.report import RESULTS

SHOWN = ("certified gap", "k̂ of rows", "ESS", "shift", "spread", "SBC", "VSBC", "coverage", "TARP")
SHOWN += ("Jeffreys", "short chains")


def read(name: str) -> dict[str, Any]:
    """One result file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def truth() -> list[str]:
    """How often each test and the verdict raise an alarm, on posteriors of known quality."""
    found = read("diagnostics")
    exact = [found["cases"][name]["verdict"] for name in found["exact"]]
    worst = max(found["largest_false_alarm_of_a_test"].values())
    missed = max(found["missed"].values())
    limit = 100 * found["one_sided_95_limit_of_5_percent"]
    lines = [
        f"Does the report card tell the truth? (`diagnostics`) Alarms in % of "
        f"{found['repetitions']} repetitions, each with a model, {found['rows']} rows, "
        f"{found['draws']} draws a row and {found['simulations']} simulations of its own. The "
        f"verdict is over {found_tests(found)} tests (Holm); the other columns are of each test "
        f"alone. Exact are {', '.join(found['exact'])}: the verdict's false alarms are at most "
        f"{100 * max(exact):.1f} %, those of a single test {100 * worst:.1f} % (a true 5 % shows "
        f"up to {limit:.1f} % in so many). Missed among {', '.join(found['missed'])}: "
        f"{100 * missed:.0f} %.",
        "",
        f"| posterior | verdict | {' | '.join(SHOWN)} |",
        "|---" * (len(SHOWN) + 2) + "|",
    ]
    for name, case in found["cases"].items():
        cells = [_percent(case["alone"].get(test)) for test in SHOWN]
        lines.append(f"| {name} | {_percent(case['verdict'])} | {' | '.join(cells)} |")
    return lines


def found_tests(found: dict[str, Any]) -> str:
    """How many tests the cards had."""
    counts = sorted({case["tests"] for case in found["cases"].values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}"


def time_of_card() -> list[str]:
    """Seconds of the default card."""
    found = read("diagnose_time")
    parts = [f"{name} {run['seconds']:.0f} s" for name, run in found.items() if "seconds" in run]
    return [f"The card takes (`diagnose_time`, {found['machine']}): {'; '.join(parts)}."]
