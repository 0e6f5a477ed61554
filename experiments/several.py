"""One run for each of several seeds, and the mean and standard deviation of their figures."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from experiments.config import read_config
from experiments.runs import Spec, run
from experiments.spec import check, complete
from experiments.stacking import like_m1, read_m1
from zoo import store

FIGURES = ("error", "elbo", "iwae", "exact")


def several(spec: Spec, seeds: int, out: str | Path | None = None) -> dict[str, Any]:
    """Runs seed, seed + 1, …, with labels drawn by label_seed, label_seed + 1, ….

    A seed whose folder has a summary already is not run again, so that an interrupted series goes
    on where it was.

    Args:
        spec: the first run.
        seeds: how many.
        out: a folder with one run a seed, ``seed-0``, …, and ``seeds.json``.

    Returns:
        What ``seeds.json`` holds: ``test`` and ``train`` figure -> {mean, sd, values}, sd the
        standard deviation over seeds; and the summaries.

    Raises:
        ValueError: fewer than two seeds; a folder that holds something else.
    """
    if seeds < 2:
        raise ValueError(f"seeds counts runs from 2, got {seeds}; one run needs no --seeds")
    check(spec)
    place = None if out is None else Path(out)
    if place is not None and (place / "run.json").exists():
        raise ValueError(f"{place} holds a run itself; give another folder for the series")
    if place is not None and place.exists() and not place.is_dir():
        raise ValueError(f"{place} is a file; give a folder for the runs")
    summaries = []
    for i in range(seeds):
        one = seeded_spec(spec, i)
        home = None if place is None else place / f"seed-{one.seed}"
        done = home is not None and (home / "summary.json").exists()
        if done:
            assert home is not None
            _same_run(home, one)
            summaries.append(json.loads((home / "summary.json").read_text("utf-8")))
        else:
            summaries.append(run(one, home).summary)
        test = (summaries[-1].get("test") or {}).get("error")
        print(f"seed {one.seed}" + (f": test error {100 * test['mean']:.2f} %" if test else ""))
    content = {
        "model": spec.model,
        "data": spec.data,
        "seeds": [s["seed"] for s in summaries],
        **{side: _figures(summaries, side) for side in ("test", "train")},
        "summaries": summaries,
    }
    if place is not None:
        store.write_json(place / "seeds.json", content)
    return content


def seeded_spec(spec: Spec, i: int) -> Spec:
    """The i-th run, with labels of its own where there are any."""
    options = dict(spec.data_options)
    if options.get("labels") is not None:
        options["label_seed"] = (options.get("label_seed") or 0) + i
    return replace(spec, seed=spec.seed + i, data_options=options)


def _figures(summaries: list[dict[str, Any]], side: str) -> dict[str, Any]:
    found = {}
    for name in FIGURES:
        parts = [(summary.get(side) or {}).get(name) for summary in summaries]
        if any(part is None for part in parts):
            continue
        values = [part["mean"] for part in parts if part is not None]
        found[name] = {
            "mean": statistics.fmean(values),
            "sd": statistics.stdev(values),
            "values": values,
        }
    return found


def _same_run(home: Path, spec: Spec) -> None:
    """ValueError for a folder with a run of other settings."""
    there = json.loads(json.dumps(asdict(Spec.from_dict(read_config(home)))))
    full = complete(spec if spec.m1_from is None else like_m1(spec, read_m1(spec)))
    mine = json.loads(json.dumps(asdict(full)))
    for part in (there, mine):
        part["fit_options"].pop("progress", None)
        part.pop("device")
        if spec.objective in ("mle", "em"):  # whose family is settled by the model
            part.pop("family"), part.pop("family_options")
    if other := [name for name, value in mine.items() if there[name] != value]:
        raise ValueError(
            f"{home} has a run of other {', '.join(other)}; give another folder, or the settings "
            "of that run"
        )
