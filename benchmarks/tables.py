"""A step of a per-datapoint table costs O(batch), not O(N): time and memory at N = 10⁴ and 10⁶.

    python -m benchmarks.tables

One process; the two sizes take turns, round by round, and the ratio is taken round by round.
"""

from __future__ import annotations

import statistics
import time

import torch

from benchmarks.report import memory, save
from guides import Guide
from zoo.context import validation
from zoo.data import Dataset
from zoo.loop import FitResult, Loop, Settings
from zoo.models.ppca import PPCA
from zoo.objectives.bounds import elbo

SIZES = (10_000, 1_000_000)
BATCH, DIM, LATENT, STEPS, ROUNDS = 100, 10, 2, 200, 7


def make(rows: int) -> Loop:
    """A loop that fits PPCA with a full-rank table of so many rows."""
    torch.manual_seed(0)
    data = Dataset(torch.randn(rows, DIM))
    model = PPCA(DIM, LATENT)
    guide = Guide(model, data, "full_rank", "per_datapoint")
    settings = Settings(
        steps=10**9,
        batch_size=BATCH,
        per_epoch=rows // BATCH,
        rate=lambda step: 0.01,
        clip=None,
        seed=0,
        eval_every=10**9,
        log_every=10**6,
        checkpoint_every=1e9,
        patience=1,
        progress=False,
        callbacks=(),
        out=None,
    )
    return Loop(FitResult(model, guide, "elbo"), data, elbo, settings, "adam", 0.01, None)


def main() -> None:
    """Prints and saves milliseconds a step and the process's memory."""
    loops, used, times = {}, {}, {n: [] for n in SIZES}
    make(1000).step(torch.arange(BATCH))  # what is loaded once is not the tables'
    for n in SIZES:
        before = memory()
        loop = make(n)
        loops[n] = (loop, loop.indices())
        with validation(False):
            for _ in range(50):  # the optimizer's moments are made at the first step
                loop.step(next(loops[n][1]))
        used[n] = memory() - before
    held = memory()
    for _ in range(ROUNDS):
        for n, (loop, indices) in loops.items():
            rows = [next(indices) for _ in range(STEPS)]
            start = time.perf_counter()
            with validation(False):
                for index in rows:
                    loop.step(index)
            times[n].append(1000 * (time.perf_counter() - start) / STEPS)
    small, large = (times[n] for n in SIZES)
    result = {
        "batch": BATCH,
        "milliseconds_a_step": {str(n): statistics.median(times[n]) for n in SIZES},
        "ratio": statistics.median(b / a for a, b in zip(small, large, strict=True)),
        "memory_mb_of_data_table_and_moments": {str(n): used[n] for n in SIZES},
        "memory_mb_added_by_the_steps": memory() - held,
    }
    save("tables", result)


if __name__ == "__main__":
    main()
