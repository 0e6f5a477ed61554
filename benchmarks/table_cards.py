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
        f"alone. Exact are {'; '.join(found['exact'])}: the verdict's false alarms are at most "
        f"{100 * max(exact):.1f} %, those of a single test {100 * worst:.1f} % (a true 5 % shows "
        f"up to {limit:.1f} % in so many). Missed of {'; '.join(found['missed'])}: "
        f"{100 * missed:.0f} %.",
        "",
        f"| posterior | verdict | {' | '.join(SHOWN)} |",
        "|---" * (len(SHOWN) + 2) + "|",
    ]
    for name, case in found["cases"].items():
        cells = [_percent(case["alone"].get(test)) for test in SHOWN]
        lines.append(f"| {name} | {_percent(case['verdict'])} | {' | '.join(cells)} |")
    return [*lines, "", "![Alarms of every test](docs/diagnostics.png)"]


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


def posteriors() -> list[str]:
    """The card's figures beside the truth, on posteriors of Stan."""
    found = read("posteriors")["summary"]
    usable, rest = found["usable"], found["not_usable"]
    large, small = found["true_error_above_0.3"], found["true_error_below_0.1"]
    odd = usable["largest_difference"]
    return [
        f"Ten posteriors of posteriordb with mean-field, full-rank and IAF guides, {found['fits']} "
        "fits (`posteriors`): what the card predicts of the worst mean and sd against 10 000 "
        f"reference draws, in sds and in log sds. Where k̂ < 0.7 ({usable['fits']} fits) "
        f"{usable['within_0.05']} of {usable['figures']} predictions are within 0.05, the median "
        f"difference is {usable['median_difference']:.3f}, the largest "
        f"{odd['value']:.2f} ({odd['of']}, not converged); elsewhere weights see a median "
        f"{100 * rest['median_share_seen_by_predicted']:.0f} % of the true log sd ratio, and short "
        f"chains {100 * rest['median_share_seen_by_chains']:.0f} %. Of {large['fits']} fits with a "
        f"true error above 0.3 weights see {large['seen_by_weights']} and chains "
        f"{large['seen_by_chains']}; of {small['fits']} below 0.1 both pass all.",
        "",
        "![The card against the truth](docs/posteriors.png)",
    ]


def known() -> list[str]:
    """k̂, gaps and the sandwich against closed forms and quadrature."""
    found = read("diagnostics_exact")
    lines = [
        "Diagnostics against what is known exactly (`diagnostics_exact`); of the sandwich the mean "
        "over 50 rows ± the standard error over rows, in nats:",
        "",
        "| what | measured | exact |",
        "|---|---|---|",
    ]
    for name, k in found["tail_index"].items():
        value = f"{k['mean']:.3f} ± {k['se']:.3f}"
        lines.append(f"| k̂ of mean-field, {name} | {value} | {k['limit']} as S → ∞ |")
    gaps = found["gaps"]
    for name, run in gaps.items():
        if not isinstance(run, dict):
            continue
        a, b = run["approximation"], run["amortization"]
        exact = f"{gaps['closed_form_approximation']:.4f}, {run['amortization_by_log_p']:.4f}"
        value = f"{a['mean']:.4f} ± {a['se']:.4f}, {b['mean']:.4f} ± {b['se']:.4f}"
        lines.append(f"| approximation, amortization gap, {name} | {value} | {exact} |")
    for name, run in found["sandwich"].items():
        parts = ("lower_minus_exact", "upper_minus_exact", "width")
        low, high, width = (f"{run[p]['mean']:+.3f} ± {run[p]['se']:.3f}" for p in parts)
        lines.append(f"| {name}: lower, upper bound − log p(x) | {low}, {high} | ≤ 0, ≥ 0 |")
        lines.append(f"| {name}: width | {width} | |")
    return lines
