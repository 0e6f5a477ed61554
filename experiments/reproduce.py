"""Figures of the lectures and of papers, made again by one command each."""

from __future__ import annotations

import datetime
import os
import sys
import time
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from experiments import output as _output
from experiments.recipe import Recipe, Scale, figures
from experiments.show.tables import number, terminal
from zoo import registry, store

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Reproduced:
    """What ``reproduce`` did: the recipes that ran, and of those that failed why."""

    recipes: dict[str, Recipe] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def reproduce(
    *names: str,
    all_: bool = False,
    list_: bool = False,
    scale: Scale = "cpu",
    seed: int = 0,
    out: str | None = None,
    overwrite: bool = False,
    keep: bool = False,
) -> Reproduced:
    """Makes figures of the lectures or of papers again, beside the published values.

    Args:
        names: words of ``zoo list recipes``.
        all_: every recipe there is; one that fails does not stop the others.
        list_: what there is, and of which there are results; runs nothing.
        scale: smoke (seconds, to see that it runs), cpu (minutes) or gpu (the published scale).
        seed: of everything random.
        out: a folder for NAME.json, NAME.csv and NAME.png; for several, with a folder each.
        overwrite: whether an earlier result in that folder may be replaced.
        keep: writes experiments/results/NAME.json, which the README's table is made from.

    Raises:
        ValueError: a recipe that is not there; a folder in use; data that are not there; a result
            to be kept that is of the scale smoke, or outside the source tree.
    """
    known = registry.names("recipes")
    words = list(dict.fromkeys(name.replace("-", "_") for name in names))
    if unknown := [word for word in words if word not in known]:
        raise registry.unknown("recipe", unknown[0], known)
    if len([way for way in (words, all_, list_) if way]) != 1:
        raise ValueError("say which recipes: NAME, several names, --all, or --list to see them")
    if list_:
        terminal().print(_listing(known))
        return Reproduced()
    _may_keep(keep, scale)
    words = words or list(known)
    several = len(words) > 1
    places: dict[str, Path | None] = dict.fromkeys(words)
    if out is not None:
        for word in words:
            places[word] = _output.claim(Path(out, word if several else ""), word, overwrite)
    done = Reproduced()
    for word, place in places.items():
        try:
            done.recipes[word] = _one(word, scale, seed, place, keep)
        except Exception as error:
            if not several or os.environ.get("ZOO_DEBUG"):
                raise
            done.failed[word] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            print(f"{word} failed: {done.failed[word]}", file=sys.stderr, flush=True)
    if several:
        lost = f"; failed: {', '.join(done.failed)}" if done.failed else ""
        print(f"{len(done.recipes)} of {len(words)} recipes were made at scale {scale}{lost}")
    return done


def _one(word: str, scale: Scale, seed: int, place: Path | None, keep: bool) -> Recipe:
    """Runs one recipe, shows it, and writes what there is to be written."""
    clock = time.perf_counter()
    result: Recipe = registry.resolve("recipes", word)(scale=scale, seed=seed)
    seconds = time.perf_counter() - clock
    content = {
        "recipe": word,
        **result.as_dict(scale),
        "seed": seed,
        "seconds": round(seconds, 1),
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": store.versions(),
    }
    _show(result, content)
    if keep:
        RESULTS.mkdir(exist_ok=True)
        store.write_json(RESULTS / f"{word}.json", content)
        print(f"The figures are kept in {RESULTS / f'{word}.json'}")
    if place is not None:
        _output.write(place, word, content, [_flat(row) for row in result.rows], result.figure)
        print(f"The picture is {place / f'{word}.png'}")
    elif not keep:
        print("Nothing was written; --out DIR keeps table and picture.")
    return result


def _may_keep(keep: bool, scale: Scale) -> None:
    if keep and scale == "smoke":
        raise ValueError("smoke only shows that a recipe runs; keep a result of --scale cpu or gpu")
    if keep and not (RESULTS.parents[1] / "pyproject.toml").exists():
        raise ValueError(
            "results are kept in the source tree, which an installed package lacks; --out DIR "
            "writes them anywhere"
        )


def kept(word: str) -> dict[str, Any] | None:
    """The result of a recipe that comes with the package, or None."""
    path = RESULTS / f"{word}.json"
    return store.read_json(path) if path.exists() else None


def _listing(known: Mapping[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("recipe", "scales", "kept result", "what it is"):
        table.add_column(name, no_wrap=name != "what it is")
    for word, line in known.items():
        hint = typing.get_type_hints(registry.resolve("recipes", word))["scale"]
        there = kept(word)
        mark = "–" if there is None else f"{there['scale']}, {there['date']}"
        table.add_row(word, ", ".join(typing.get_args(hint)), mark, escape(line))
    return table


def _show(result: Recipe, content: Mapping[str, Any]) -> None:
    """The table of the result, ours beside the published, and what is to be said of both."""
    console, scale = terminal(), content["scale"]
    console.print(_table(result.title, list(result.rows)))
    for line in result.remarks:
        console.print(line, highlight=False, markup=False)
    rows = content["quantities"]
    if not rows:
        return
    named = ("published", "ours", "within")
    lines = [{"quantity": r["quantity"], **dict(zip(named, figures(r), strict=True))} for r in rows]
    console.print(_table(f"Published and ours, scale {scale}", lines))
    others = [r for r in rows if r["published"] and not r["comparable"]]
    if others:
        console.print(
            f"{len(others)} of the published values are of other settings than those of the scale "
            f"{scale}, and no verdict is given on them.",
            highlight=False,
        )
    sources = dict.fromkeys(
        f"[{r['published']['mark']}] {r['published']['source']}" for r in rows if r["published"]
    )
    for line in sources:
        console.print(line, highlight=False, markup=False)


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for i, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if i else "left")
    for row in rows:
        table.add_row(*(escape(_cell(row.get(name))) for name in columns))
    return table


def _cell(value: Any) -> str:
    """A figure, with its error where there is one."""
    if value is None:
        return "–"
    if isinstance(value, tuple | list):
        return number((value[0], value[1]), 3)
    return f"{round(value, 3) + 0.0:.3f}" if isinstance(value, float) else str(value)


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for a CSV file: an error is a column of its own."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, tuple | list):
            flat |= {name: value[0], f"{name} se": value[1]}
        else:
            flat[name] = value
    return flat
