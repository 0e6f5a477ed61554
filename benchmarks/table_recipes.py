"""The table of the section "Reproductions" of the README, from ``experiments/results``."""

from __future__ import annotations

from typing import Any

from experiments.recipe import figures
from experiments.reproduce import kept
from zoo.registry import names

START, END = "<!-- reproductions -->", "<!-- end of reproductions -->"


def section() -> str:
    """The whole table and its sources, between their markers; a recipe without a result is not."""
    results = {word: result for word in names("recipes") if (result := kept(word))}
    lines = [
        "| recipe | quantity | published | ours | within | scale |",
        "|---|---|---|---|---|---|",
    ]
    for word, result in results.items():
        lines += [_row(word, result, row) for row in result["quantities"]]
    for word, result in results.items():
        told = [_made(result), "; ".join(_sources(result))]
        lines += ["", f"`{word}`: {'. '.join(filter(None, told))}."]
    return "\n".join([START, *lines, END])


def _row(word: str, result: dict[str, Any], row: dict[str, Any]) -> str:
    cells = (f"`{word}`", row["quantity"], *figures(row), result["scale"])
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _made(result: dict[str, Any]) -> str:
    """When, where and how long."""
    seconds = result["seconds"]
    took = f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} minutes"
    return f"scale {result['scale']}, seed {result['seed']}, {took} on {result['device']}"


def _sources(result: dict[str, Any]) -> list[str]:
    """What the published values are from, each once."""
    published = [row["published"] for row in result["quantities"] if row["published"]]
    return list(dict.fromkeys(f"[{p['mark']}] {p['source']}" for p in published))
