"""The most memory that a contender of `step_time` ever holds, each in a process of its own.

The peak counts everything, the libraries most of all; compilers have what they left in their caches
on disk. On Linux a process inherits the peak of the one that started it, so the processes are
started by one that has loaded nothing.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.step_cases import make
from benchmarks.step_contenders import build

SECONDS = 300  # of each process, at most
ROOT = Path(__file__).parents[1]
Pair = tuple[str, str]  # case, contender


def peaks(
    pairs: Sequence[Pair], steps: int | None = None, device: str = "cpu"
) -> Mapping[Pair, float]:
    """MiB of each pair, on CUDA those of the device; one that cannot run is left out."""
    with tempfile.TemporaryDirectory() as folder:
        for name in dict.fromkeys(name for name, _ in pairs):
            (Path(folder) / name).write_bytes(pickle.dumps(make(name, steps, device)))
        places = [(str(Path(folder) / name), contender) for name, contender in pairs]
        found = json.loads(_python("--all", json.dumps(places)))
    return {pair: mib for pair, mib in zip(pairs, found, strict=True) if mib is not None}


def _python(*arguments: str) -> str:
    """What this file prints in a process of its own."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.step_memory", *arguments],
        cwd=ROOT,
        env={**os.environ, **one},
        capture_output=True,
        text=True,
        check=True,
        timeout=None if arguments[0] == "--all" else SECONDS,
    )
    return result.stdout.splitlines()[-1]


def _peak(path: str, contender: str) -> float | None:
    try:
        return json.loads(_python(path, contender))
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None


def _measured(path: str, contender: str) -> float:
    """MiB of this process, or of its device, after a call."""
    case = pickle.loads(Path(path).read_bytes())
    build(case, contender)()
    if case.device == "cuda" and contender.startswith("numpyro"):
        import jax

        return jax.devices("gpu")[0].memory_stats()["peak_bytes_in_use"] / 2**20
    if case.device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main() -> None:
    """Of one pair, or of many, as many at a time as there are cores; prints JSON."""
    first, second = sys.argv[1:]
    if first != "--all":
        print(json.dumps(_measured(first, second)))
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        print(json.dumps(list(pool.map(lambda pair: _peak(*pair), json.loads(second)))))


if __name__ == "__main__":
    main()
