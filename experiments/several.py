"""One run for each of several seeds, and the mean and standard deviation of their figures."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from experiments.config import CONFIG, read_config
from experiments.jobs import Ended, Jobs, Task, home, spread
from experiments.output import go_on
from experiments.runs import Spec, run
from experiments.spec import check, complete
from experiments.stacking import like_m1, read_m1
from zoo import store

SUMMARY = "summary.json"
FIGURES = ("error", "elbo", "iwae", "exact")


def several(
    spec: Spec, seeds: int, out: str | Path | None = None, jobs: int | str = 1
) -> dict[str, Any]:
    """Runs seed, seed + 1, …, with labels drawn by label_seed, label_seed + 1, ….

    A seed whose folder has a summary already is not run again, and one that was cut short goes on
    from its checkpoint, so that an interrupted series goes on where it was.

    Args:
        spec: the first run.
        seeds: how many.
        out: a folder with one run a seed, ``seed-0``, …, and ``seeds.json``.
        jobs: so many at a time, see ``Jobs``; in processes of their own one that fails costs its
            seed alone.

    Returns:
        What ``seeds.json`` holds: ``test`` and ``train`` figure -> {mean, sd, values}, sd the
        standard deviation over seeds; the summaries; and where some failed, seed -> reason.

    Raises:
        ValueError: fewer than two seeds, or fewer than two that did not fail; a folder that holds
            something else.
    """
    if seeds < 2:
        raise ValueError(
            f"seeds counts runs from 2, got {seeds}; one run needs no --seeds and no --jobs"
        )
    check(spec)
    how, place = Jobs.read(jobs), None if out is None else Path(out)
    if place is not None and (place / "run.json").exists():
        raise ValueError(f"{place} holds a run itself; give another folder for the series")
    if place is not None and place.exists() and not place.is_dir():
        raise ValueError(f"{place} is a file; give a folder for the runs")
    specs = [seeded_spec(spec, i) for i in range(seeds)]
    with home(place, how) as folder:
        tasks = [
            Task(
                f"seed {one.seed}",
                folder / f"seed-{one.seed}",
                _one,
                {"spec": asdict(one), "progress": None if how.here else False},
            )
            for one in specs
        ]
        done = [task for task, one in zip(tasks, specs, strict=True) if _is_there(task.folder, one)]
        for task in done:
            _say(Ended(task, 0.0))
        ends = spread([task for task in tasks if task not in done], how, spec.device, _say)
        failed = {end.task.name: end.reason for end in ends if end.reason}
        whole = [task for task in tasks if task.name not in failed]
        summaries = [json.loads((task.folder / SUMMARY).read_text("utf-8")) for task in whole]
    if len(summaries) < 2:
        reasons = "; ".join(map(": ".join, failed.items()))
        raise ValueError(f"a mean and its spread take two runs, but {reasons}")
    content = {
        **({"failed": failed} if failed else {}),
        "model": spec.model,
        "data": spec.data,
        "seeds": [s["seed"] for s in summaries],
        **{side: _figures(summaries, side) for side in ("test", "train")},
        "summaries": summaries,
    }
    if place is not None:
        store.write_json(place / "seeds.json", content)
    return content


def _one(folder: Path, spec: dict[str, Any], progress: bool | None) -> None:
    """The run of one seed."""
    outcome = run(Spec.from_dict(spec), folder, resume=go_on(folder), progress=progress)
    if outcome.result.interrupted:
        raise KeyboardInterrupt


def _is_there(folder: Path, spec: Spec) -> bool:
    """Whether the run of a seed is there and whole; one of other settings is refused."""
    if (folder / CONFIG).exists():
        _same_run(folder, spec)
    path = folder / SUMMARY
    return path.exists() and not store.read_json(path).get("interrupted")


def _say(ended: Ended) -> None:
    """A line on a seed."""
    if ended.reason:
        print(f"{ended.task.name} failed: {ended.reason}")
        return
    test = (store.read_json(ended.task.folder / SUMMARY).get("test") or {}).get("error")
    print(ended.task.name + (f": test error {100 * test['mean']:.2f} %" if test else ""))


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
