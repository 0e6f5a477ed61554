"""A training step beside its rivals, for the section "Measured" of the README."""

from __future__ import annotations

from benchmarks.step_cases import CASES
from benchmarks.step_contenders import REFERENCE
from benchmarks.step_table import digits, ends
from benchmarks.table_cards import read

HEADS = {
    "ours_eager": "eager",
    "ours_compiled": "compiled",
    "ours_graph": "graph",
    "pyro": "Pyro",
    "pyro_unchecked": "Pyro, no checks",
    "torch": "PyTorch",
    "torch_compile": "torch.compile",
    "numpyro_update": "NumPyro, update",
    REFERENCE: "NumPyro, scan",
}


def step_time() -> list[str]:
    """Milliseconds of everybody, ratios to NumPyro, memory, and who failed."""
    found = read("step_time")
    rows = {(row["case"], row["contender"]): row for row in found.get("rows", ())}
    if not rows:
        return []
    first = next(iter(rows.values()))
    who = [name for name in HEADS if any(name == contender for _, contender in rows)]
    best = "ours_graph" if "ours_graph" in who else "ours_compiled"
    lines = [
        f"A training step in ms (`step_time`; `zoo bench` does it again): medians of "
        f"{first['rounds']} rounds in which all take turns, {first['threads']} thread, on "
        f"{found['device']}, {found['machine']}; the same weights, minibatches and loss for all, "
        f"Adam. The last column is the ratio of {HEADS[best]} to NumPyro's scan, taken round by "
        "round, with its 10–90 % quantiles; of the table NumPyro's gradient and Adam are dense, so "
        "that row is not of equal work.",
        "",
        f"| | {' | '.join(HEADS[name] for name in who)} | {HEADS[best]} / scan |",
        "|---" * (len(who) + 2) + "|",
    ]
    for case in dict.fromkeys(case for case, _ in rows):
        cells = [digits(rows[case, name]["ms_median"]) for name in who]
        row = rows[case, best]
        ratio = f"{digits(row['ratio_to_numpyro_scan'])} ({ends(row['ratio_spread'])})"
        title = f"{CASES[case].what}, batch {CASES[case].batch}"
        lines.append(f"| {title} | {' | '.join(cells)} | {ratio} |")
    held = {name: [r["peak_mib"] for (_, w), r in rows.items() if w == name] for name in who}
    held = {name: [mib for mib in every if mib is not None] for name, every in held.items()}
    spans = [f"{HEADS[n]} {min(v):.0f}–{max(v):.0f}" for n, v in held.items() if v]
    if spans:
        lines += ["", f"Peak memory over the cases, libraries included, MiB: {', '.join(spans)}."]
    lines += [
        f"\n{row['case']}, {row['contender']} did not run: {row['failed']}"
        for row in rows.values()
        if row["failed"]
    ]
    return lines
