"""Independent pieces of work spread over processes, devices or a cluster: ``--jobs``."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiments.workers import CLUSTERS, Cluster, Processes


@dataclass(frozen=True)
class Task:
    """A piece of work that a process can do alone.

    Attributes:
        name: what it is called in lines and tables.
        folder: a folder of its own; what the task prints goes beside it, to a file .log.
        function: called as ``function(folder, **arguments)``; a function of a module.
        arguments: plain words and numbers.
    """

    name: str
    folder: Path
    function: Callable[..., Any]
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Ended:
    """How a task ended.

    Attributes:
        task: which.
        seconds: how long it took, the start of its process apart.
        reason: why it failed, in a line; empty where it did not.
    """

    task: Task
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class Jobs:
    """How tasks are spread, from one word.

    Attributes:
        cluster: a word of ``CLUSTERS``; empty for processes of this machine.
        count: how many at a time; None for as many as there are devices, or else cores.
    """

    cluster: str = ""
    count: int | None = 1

    @classmethod
    def read(cls, word: int | str) -> Jobs:
        """A number, ``auto``, or ``slurm:8``.

        Raises:
            ValueError: another word, or a cluster where submitit is not installed.

        Example:
            >>> Jobs.read(4), Jobs.read("auto")
            (Jobs(cluster='', count=4), Jobs(cluster='', count=None))
        """
        if word == "auto":
            return cls(count=None)
        cluster, colon, number = str(word).rpartition(":")
        if (colon and cluster not in CLUSTERS) or not re.fullmatch("[1-9][0-9]*", number):
            raise ValueError(
                "jobs is a number from 1, auto, or a cluster and how many runs at a time there, "
                f"such as slurm:8; got {word!r}"
            )
        if cluster and find_spec("submitit") is None:
            raise ValueError(f"jobs {word} needs submitit: pip install 'latent-zoo[cluster]'")
        return cls(cluster, int(number))

    @property
    def here(self) -> bool:
        """Whether tasks run in this process, one after the other."""
        return not self.cluster and self.count == 1


def spread(
    tasks: Sequence[Task],
    jobs: Jobs,
    device: str = "auto",
    say: Callable[[Ended], Any] = lambda ended: None,
) -> list[Ended]:
    """Runs every task once, so many at a time, and waits for all of them.

    A process has its share of the cores, and where the device is auto or cuda one CUDA device:
    process i has device i modulo their number. An exception or a process that dies costs that one
    task; an interruption ends all that are running. In this process (``Jobs(count=1)``) an
    exception is raised.

    Args:
        tasks: independent of each other.
        jobs: how they are spread.
        device: of the tasks: auto, cpu or cuda.
        say: called as each ends.

    Returns:
        How each ended, in the order of the tasks.
    """
    if jobs.here:
        return [_here(task, say) for task in tasks]
    if not tasks:
        return []
    engine = (
        Cluster(jobs.cluster, jobs.count or 1, tasks[0].folder.parent / ".submitit")
        if jobs.cluster
        else Processes(jobs.count, len(tasks), device)
    )
    waiting, running, ended = list(range(len(tasks))), dict[int, tuple[int, Any]](), {}
    try:
        while waiting or running:
            for slot in range(engine.count):
                if waiting and slot not in running:
                    place = waiting.pop(0)
                    task = tasks[place]
                    job = engine.start(slot, task.function, task.folder, dict(task.arguments))
                    running[slot] = place, job
            for slot, (place, job) in list(running.items()):
                if job.done():
                    del running[slot]
                    ended[place] = Ended(tasks[place], *engine.result(slot, job))
                    say(ended[place])
            time.sleep(engine.pause)
    finally:
        engine.close([job for _, job in running.values()])
    return [ended[place] for place in range(len(tasks))]


def _here(task: Task, say: Callable[[Ended], Any]) -> Ended:
    clock = time.perf_counter()
    task.function(task.folder, **task.arguments)
    ended = Ended(task, time.perf_counter() - clock)
    say(ended)
    return ended


@contextmanager
def home(place: Path | None, jobs: Jobs) -> Iterator[Path]:
    """Where tasks have their folders: ``place``, or a temporary folder that is removed.

    Raises:
        ValueError: no place and a cluster, whose nodes need a folder that all of them see.
    """
    if place is not None:
        yield place
    elif jobs.cluster:
        raise ValueError(f"runs on {jobs.cluster} need a folder that all nodes see; give --out")
    else:
        with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
            yield Path(folder)
