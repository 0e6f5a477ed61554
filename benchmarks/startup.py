"""How long a word on the command line takes to answer, as whole processes.

python -m benchmarks.startup
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.report import save

COMMANDS = ("list", "list models --json", "--help", "fit --help", "fit ppca --help")
RUNS = 9


def seconds(words: str) -> dict[str, float]:
    """Median and range of one command's wall-clock time, after one run to warm the disk."""
    times = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        command = [sys.executable, "-m", "experiments", *words.split()]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    kept = times[1:]
    return {"median": statistics.median(kept), "min": min(kept), "max": max(kept)}


def main() -> None:
    """Prints and saves the seconds of each command."""
    save("startup", {f"zoo {words}": seconds(words) for words in COMMANDS})


if __name__ == "__main__":
    main()
