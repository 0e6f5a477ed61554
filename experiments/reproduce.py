"""Figures of the lectures and of papers, made again by one command each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal

from rich.table import Table

from experiments import output as _output
from experiments.recipe import Recipe
from experiments.show.tables import number, terminal
from zoo import registry, store


def reproduce(
    name: str,
    *,
    scale: Literal["smoke", "cpu", "gpu"] = "cpu",
    seed: int = 0,
    out: str | None = None,
    overwrite: bool = False,
) -> Recipe:
    """Makes a figure of the lectures or of a paper again, with its table.

    Args:
        name: a word of ``zoo list recipes``.
        scale: smoke (seconds, to see that it runs), cpu (minutes) or gpu.
        seed: of everything random.
        out: a folder for NAME.json, NAME.csv and NAME.png.
        overwrite: whether an earlier result in that folder may be replaced.

    Raises:
        ValueError: a recipe that is not there; a folder in use; data that are not there.
    """
    word = name.replace("-", "_")
    recipe = registry.resolve("recipes", word)
    place = None if out is None else _output.claim(out, word, overwrite)
    clock = time.perf_counter()
    result: Recipe = recipe(scale=scale, seed=seed)
    seconds = time.perf_counter() - clock
    console = terminal()
    console.print(_table(result))
    for line in result.remarks:
        console.print(line, highlight=False)
    if place is None:
        console.print("Nothing was written; --out DIR keeps table and picture.", highlight=False)
        return result
    content = result.as_dict() | {
        "recipe": word,
        "scale": scale,
        "seed": seed,
        "seconds": round(seconds, 1),
        "versions": store.versions(),
    }
    _output.write(place, word, content, [_flat(row) for row in result.rows], result.figure)
    console.print(f"The picture is {place / f'{word}.png'}", highlight=False, soft_wrap=True)
    return result


def _table(result: Recipe) -> Table:
    table = Table(title=result.title, title_justify="left", box=None, pad_edge=False)
    columns = list(dict.fromkeys(name for row in result.rows for name in row))
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    for row in result.rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    return table


def _cell(value: Any) -> str:
    """A figure, with its error where there is one."""
    if value is None:
        return "–"
    if isinstance(value, tuple | list):
        return number((value[0], value[1]), 3)
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for a CSV file: an error is a column of its own."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, tuple | list):
            flat |= {name: value[0], f"{name} se": value[1]}
        else:
            flat[name] = value
    return flat
