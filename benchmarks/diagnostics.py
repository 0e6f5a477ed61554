"""Does the report card tell the truth? What it says of posteriors of known quality, 200 times each.

    python -m benchmarks.diagnostics [REPETITIONS]

Every repetition has a model, rows and draws of its own. A card looks at 100 rows, 1000 draws each,
and 1000 simulations. Of each test is counted how often it raises an alarm by itself (p < 5 %, and
outside of the green), and of the card how often its verdict does (Holm over its tests): for exact
posteriors these are false alarms, for the others the power. "Missed" is a verdict without alarm.
Short chains, which the card runs with --thorough, start from 10 rows, of exact posteriors and of
gross faults.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.known import CASES, EXACT, MUST
from benchmarks.report import save

REPETITIONS = 200
ROWS, DRAWS, SIMULATIONS = 100, 1000, 1000
CHAINS = {"num_chains": 100, "num_transitions": 4, "num_leapfrog": 3}
FIGURE = Path(__file__).parent.parent / "docs" / "diagnostics.png"


def once(name: str, seed: int) -> tuple[dict[str, bool], dict[str, str], bool, int]:
    """Alarms of each test by itself, colours, whether the verdict is an alarm, tests counted."""
    from zoo.diagnostics.chains import short_chains
    from zoo.diagnostics.report import diagnose

    torch.set_num_threads(1)
    model, guide, data = CASES[name](seed, ROWS)
    card = diagnose(
        model,
        guide,
        data,
        simulate=True,
        num_rows=None,
        num_draws=DRAWS,
        num_simulations=SIMULATIONS,
        search_steps=100,
        seed=seed,
    )
    tests = [check for check in card.checks if check.p is not None]
    alone = {check.name: _alarm(check) for check in tests}
    if name in (*EXACT, *MUST):
        few = data.subset(range(10))  # q of the other rows does not matter
        alone["short chains"] = short_chains(model, guide, few, seed=seed, **CHAINS).p_value < 0.05
    colours = {check.name: check.status for check in tests}
    about_q = [check for check in tests if check.about != "model"]
    wrong = any(check.status in ("amber", "red") for check in about_q)
    return alone, colours, wrong, len(tests)


def _alarm(check: Any) -> bool:
    """What the check would say if it were the only one of a card."""
    from zoo.diagnostics.card import judged

    return judged([check])[0].status in ("amber", "red")


def main() -> None:
    """All cases, the table and the figure."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else REPETITIONS
    started, cases = time.perf_counter(), {}
    with ProcessPoolExecutor(2) as pool:
        for name in CASES:
            found = list(pool.map(once, [name] * repetitions, range(repetitions), chunksize=5))
            cases[name] = summary(found)
            seconds = time.perf_counter() - started
            print(f"{name:28} {cases[name]['verdict']:.3f}  {seconds:.0f} s", flush=True)
    worst = {name: max(cases[name]["alone"].values()) for name in EXACT}
    limit = 0.05 + 1.645 * np.sqrt(0.05 * 0.95 / repetitions)
    result = {
        "repetitions": repetitions,
        "rows": ROWS,
        "draws": DRAWS,
        "simulations": SIMULATIONS,
        "chains": CHAINS,
        "cases": cases,
        "exact": list(EXACT),
        "largest_false_alarm_of_a_test": worst,
        "one_sided_95_limit_of_5_percent": round(float(limit), 4),
        "missed": {name: round(1 - cases[name]["verdict"], 4) for name in MUST},
        "seconds": round(time.perf_counter() - started),
    }
    save("diagnostics", result)
    draw(cases)


def summary(found: list[Any]) -> dict[str, Any]:
    """Shares over repetitions."""
    count = len(found)
    alone = Counter(name for one, _, _, _ in found for name, alarm in one.items() if alarm)
    names = dict.fromkeys(name for one, _, _, _ in found for name in one)
    colours = Counter((name, c) for _, many, _, _ in found for name, c in many.items())
    return {
        "verdict": sum(wrong for _, _, wrong, _ in found) / count,
        "tests": max(tests for _, _, _, tests in found),
        "alone": {name: alone[name] / count for name in names},
        "colours": {
            name: {c: colours[name, c] / count for c in ("green", "amber", "red", "undecided")}
            for name in names
            if any(colours[name, c] for c in ("green", "amber", "red", "undecided"))
        },
    }


def draw(cases: dict[str, Any]) -> None:
    """A cell for each case and test: how often there is an alarm."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(n for c in cases.values() for n in c["alone"]))
    names = [n for n in names if n not in ("predictive ranks",)]
    columns = ["verdict", *names]
    table = np.full((len(cases), len(columns)), np.nan)
    for i, case in enumerate(cases.values()):
        table[i, 0] = case["verdict"]
        for j, name in enumerate(names):
            table[i, j + 1] = case["alone"].get(name, np.nan)
    figure = Figure(figsize=(10.5, 7), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(table, cmap="YlOrRd", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        if not np.isnan(value):
            dark = "white" if value > 0.6 else "black"
            axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", color=dark, fontsize=8)
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right")
    axes.set_yticks(range(len(cases)), list(cases))
    axes.axvline(0.5, color="black", linewidth=2)
    axes.set_title("How often an alarm is raised, % of repetitions; the verdict is Holm's")
    figure.colorbar(picture, label="share of repetitions")
    FigureCanvasAgg(figure).print_png(FIGURE)


if __name__ == "__main__":
    main()
