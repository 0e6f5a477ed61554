"""What runs a task: processes of this machine (loky), or the jobs of a cluster (submitit)."""

from __future__ import annotations

import os
import re
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

# word -> the executor of submitit, and what it is told; time None is the cluster's own default
CLUSTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "slurm": ("SlurmExecutor", {"job_name": "zoo", "time": None}),
    "local": ("LocalExecutor", {"timeout_min": 60 * 24 * 365}),
}


class Processes:
    """A process for every slot; one that dies is replaced, and the others go on.

    Args:
        count: how many; None for one a device, or one a core.
        tasks: how many there are, which is the most that count can be.
        device: of the tasks: auto, cpu or cuda.
    """

    pause = 0.02  # seconds between two looks at what runs

    def __init__(self, count: int | None, tasks: int, device: str):
        import torch
        from joblib import cpu_count

        self.devices = devices(device)
        self.count = min(count or len(self.devices) or cpu_count(), tasks)
        self.threads = max(1, min(torch.get_num_threads(), cpu_count() // self.count))
        self.pools: dict[int, Any] = {}

    def environment(self, slot: int) -> dict[str, str]:
        """What the process of a slot has set: threads, and the CUDA device that it sees."""
        limits = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
        found = {name: str(self.threads) for name in limits}
        if self.devices:
            found["CUDA_VISIBLE_DEVICES"] = self.devices[slot % len(self.devices)]
        return found

    def start(self, slot: int, function: Callable[..., Any], folder: Path, arguments: dict) -> Any:
        """The task in the process of the slot, as a future."""
        from joblib.externals.loky import ProcessPoolExecutor

        if slot not in self.pools:
            environment = self.environment(slot)
            self.pools[slot] = ProcessPoolExecutor(1, env=environment, initializer=_apart)
        return self.pools[slot].submit(work, function, folder, arguments)

    def result(self, slot: int, job: Any) -> tuple[float, str]:
        """Seconds, and why it failed."""
        error = job.exception()
        if error is None:
            return job.result()
        if isinstance(error, BrokenProcessPool):
            self.pools.pop(slot).shutdown()
            code = (re.findall(r"\{(.*?)\}", str(error)) or ["without an exit code"])[0]
            why = ", perhaps for want of memory" if "SIGKILL" in code else ""
            return 0.0, f"its process died: {code}{why}"
        return 0.0, in_a_line(error)

    def close(self, running: Sequence[Any]) -> None:
        """Ends the processes, those with a task that is still running by force."""
        for pool in self.pools.values():
            pool.shutdown(kill_workers=bool(running))


class Cluster:
    """Jobs of a cluster; partition, time and GPUs are what sbatch's own environment says.

    Args:
        cluster: slurm, or local: processes of this machine, to try it out.
        count: jobs at a time.
        folder: for submitit's own files.

    Raises:
        ValueError: no such cluster here, or one that refuses a job.
    """

    pause = 1.0

    def __init__(self, cluster: str, count: int, folder: Path):
        self.cluster, self.count = cluster, count
        name, told = CLUSTERS[cluster]
        with self._words():
            self.executor = getattr(import_module("submitit"), name)(folder.resolve())
            self.executor.update_parameters(**told)

    @contextmanager
    def _words(self) -> Iterator[None]:
        """What submitit or the cluster refuses is for the user to put right."""
        try:
            yield
        except RuntimeError as error:
            raise ValueError(f"{self.cluster} takes no runs here: {error}") from error

    def start(self, slot: int, function: Callable[..., Any], folder: Path, arguments: dict) -> Any:
        """The task as a job."""
        with self._words():
            return self.executor.submit(work, function, folder.resolve(), arguments)

    def result(self, slot: int, job: Any) -> tuple[float, str]:
        """Seconds, and why it failed."""
        error = job.exception()
        return job.result() if error is None else (0.0, in_a_line(error))

    def close(self, running: Sequence[Any]) -> None:
        """Cancels what is still running."""
        for job in running:
            job.cancel(check=False)


def work(function: Callable[..., Any], folder: Path, arguments: dict) -> tuple[float, str]:
    """A task in a process of its own: seconds, and why it failed; what it prints goes to a log."""
    clock, reason = time.perf_counter(), ""
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.parent / f"{folder.name}.log"
    with path.open("w") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            function(folder, **arguments)
        except Exception as error:
            traceback.print_exc()
            reason = in_a_line(error)
    if not path.stat().st_size:
        path.unlink()
    return time.perf_counter() - clock, reason


def in_a_line(error: BaseException) -> str:
    """What an error says, and its type unless it is one of use.

    Example:
        >>> in_a_line(ValueError("no")), in_a_line(KeyError("k")), in_a_line(MemoryError())
        ('no', "KeyError: 'k'", 'MemoryError')
    """
    text = " ".join(str(error).split())
    if text and isinstance(error, ValueError):
        return text
    return f"{type(error).__name__}: {text}".removesuffix(": ")


def devices(device: str) -> list[str]:
    """The CUDA devices to share out, as ``CUDA_VISIBLE_DEVICES`` names them.

    Example:
        >>> devices("cpu"), devices("cuda:1")  # nothing to choose
        ([], [])
    """
    import torch

    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return []
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(i) for i in range(count)]


def _apart() -> None:
    """Ctrl-C is for the process that waits, which then ends this one."""
    if hasattr(os, "setsid"):
        os.setsid()
