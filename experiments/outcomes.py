"""Many runs on the same data: here, one after the other, or spread, each in a folder of its own."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.jobs import Ended, Jobs, Task, home, spread
from experiments.judge.refit import refit
from experiments.kept import FILE, keep, kept
from experiments.output import flat, go_on, make, slug
from experiments.runs import Outcome, Spec, build_model, run, split_of
from zoo import store
from zoo.files import FORMAT, read_json, read_tensors, write_json, write_tensors
from zoo.fitting import pick_device
from zoo.model import Model
from zoo.sources import Split

SETTINGS, MODEL = ".settings.json", "model.safetensors"
Say = Callable[[str, float | str], Any]  # name, and seconds or what else there is to say


@dataclass(frozen=True)
class Fixed:
    """The one model that all guides of a comparison are refitted to.

    Attributes:
        base: the run that it is built by.
        model: as it stands.
        shared: whether rows share latents.
        made: how it was fitted, as plain words and numbers.
    """

    base: Spec
    model: Model
    shared: bool
    made: dict[str, Any] = field(default_factory=dict)

    def load(self, folder: Path | None) -> bool:
        """Takes the weights that an earlier command has left, where it fitted them likewise."""
        if folder is None or not (folder / MODEL).exists():
            return False
        weights, meta = read_tensors(folder / MODEL)
        if meta["made"] != _plain(self.made):
            return False
        self.model.load_state_dict(weights)
        return True

    def save(self, folder: Path) -> str:
        """Leaves the weights to the processes; returns what tells them apart."""
        meta = {"format": FORMAT, "made": self.made}
        write_tensors(folder / MODEL, self.model.state_dict(), meta)
        return hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()


def outcomes_of(
    runs: Mapping[str, Spec],
    split: Split,
    say: Say,
    jobs: Jobs,
    place: Path | None = None,
    overwrite: bool = False,
    fixed: Fixed | None = None,
) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Makes every run: name -> outcome, and name -> reason of those that failed.

    Where runs are spread over processes, or ``place`` has some of an earlier command, each has a
    folder in it. One that is there and whole is not made again, and one that was cut short goes on
    from its checkpoint. In this process an error is raised.

    Args:
        runs: what to run, by name.
        split: their data.
        say: called as each ends.
        jobs: how they are spread.
        place: the folder of the runs; by default a temporary one.
        overwrite: whether runs of other settings may be replaced.
        fixed: the model that all are refitted to; by default each has its own.

    Raises:
        ValueError: a run of other settings in the way; settings that are no plain words and
            numbers; all runs failed.
    """
    found: dict[str, Outcome] = {}
    if jobs.here and not (place and place.exists()):
        for name, spec in runs.items():
            clock = time.perf_counter()
            found[name] = _made(spec, split, fixed)
            say(name, time.perf_counter() - clock)
        return found, {}

    def tell(ended: Ended) -> None:
        say(ended.task.name, f"failed: {ended.reason}" if ended.reason else ended.seconds)

    with home(place, jobs) as folder:
        make(folder)
        tasks = _tasks(runs, split, fixed, folder)
        done = [task for task in tasks if _is_there(task, overwrite)]
        for task in done:
            say(task.name, "there already")
        device = next(iter(runs.values())).device
        ends = spread([task for task in tasks if task not in done], jobs, device, tell)
        failed = {end.task.name: end.reason for end in ends if end.reason}
        if len(failed) == len(tasks):
            raise ValueError(f"every run failed: {'; '.join(map(': '.join, failed.items()))}")
        model = fixed.model if fixed else None
        for task in tasks:
            if task.name not in failed:
                found[task.name] = kept(task.folder, split, model)
    return found, failed


def one(folder: Path, spec: dict[str, Any], fixed: dict[str, Any] | None, **others: Any) -> None:
    """One run in its folder: what a process does.

    Args:
        folder: of the run.
        spec: what to run, as plain words and numbers.
        fixed: ``base`` and ``shared`` of the fixed model, whose weights are beside the folder.
        others: what else the figures depend on.
    """
    what = Spec.from_dict(spec)
    split, still = split_of(what), None
    make(folder)
    write_json(folder / SETTINGS, {"spec": spec, "fixed": fixed, **others})
    if fixed is not None:
        base = Spec.from_dict(fixed["base"])
        model = build_model(base, split)
        model.load_state_dict(read_tensors(folder.parent / MODEL)[0])
        still = Fixed(base, model.to(pick_device(what.device)), fixed["shared"])
    outcome = _made(what, split, still, folder, go_on(folder), False)
    if outcome.result.interrupted:
        raise KeyboardInterrupt
    keep(folder, outcome, split)


def what_failed(failed: Mapping[str, str], place: Path | None) -> list[str]:
    """A line on runs that failed, whose reasons have been said; none where there are none."""
    if not failed:
        return []
    again = "with --out the same command would make them alone"
    if place is not None:
        again = f"their logs are in {place}, and the same command makes them alone"
    return [f"Failed: {len(failed)} of the runs; {again}."]


def _made(
    spec: Spec,
    split: Split,
    fixed: Fixed | None,
    out: Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Outcome:
    if fixed is None:
        return run(spec, out, None, split, resume, progress)
    spec = replace(spec, freeze="model")
    return refit(spec, fixed.model, split, fixed.shared, out, resume, progress)


def _tasks(runs: Mapping[str, Spec], split: Split, fixed: Fixed | None, folder: Path) -> list[Task]:
    """The runs with all that their figures depend on."""
    first = next(iter(runs.values()))
    file = Path(first.model.rpartition(".py")[0] + ".py")  # of a user's own model
    same = {
        "fixed": None,
        "rows": [None if part is None else part.fingerprint for part in (split.train, split.test)],
        "versions": store.versions(),
        "code": hashlib.sha256(file.read_bytes()).hexdigest() if ".py" in first.model else None,
    }
    if fixed is not None:
        mark = fixed.save(folder)
        same["fixed"] = {"base": asdict(fixed.base), "shared": fixed.shared, "weights": mark}
    return [
        Task(name, folder / slug(name), one, _plain({"spec": asdict(spec), **same}))
        for name, spec in runs.items()
    ]


def _plain(content: Any) -> Any:
    """What JSON makes of it."""
    try:
        return json.loads(json.dumps(content))
    except TypeError as error:
        raise ValueError(f"runs in other processes take plain words and numbers: {error}") from None


def _is_there(task: Task, overwrite: bool) -> bool:
    """Whether a run is there and whole; one of other settings is refused, or taken away."""
    if not (path := task.folder / SETTINGS).exists():
        return False
    before, now = flat(read_json(path)), flat(task.arguments)
    if other := sorted(k for k in {*before, *now} if before.get(k) != now.get(k)):
        if not overwrite:
            raise ValueError(
                f"{task.folder} has a run of other {', '.join(other)}; give another folder, the "
                "settings of that run, or overwrite (--overwrite)"
            )
        shutil.rmtree(task.folder)
    return (task.folder / FILE).exists()
