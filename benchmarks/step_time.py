"""A training step of the zoo beside stock Pyro, hand-written PyTorch and NumPyro, in one process.

    OMP_NUM_THREADS=1 python -m benchmarks.step_time        # and saves it
    python -m benchmarks.step_time --cases ppca,planar --rounds 3 --no-memory --dry
    zoo bench --json steps.json                             # the same, without saving it here

All contenders of a case start from the same weights, gather the same minibatches from resident data
by indices drawn beforehand, and take Adam's step (lr 0.001) on the same loss; that they compute it
is tested. A planar layer has the paper's û everywhere but in the zoo, whose own is another
parametrisation of the same map. NumPyro's table has a dense gradient and a dense Adam, the others a
sparse one. The zoo standardises what its encoder reads, here by 0 and 1.

Contenders take turns, round by round, each one call of a case's steps, the first by another one
each time; two calls beforehand, with compilation, do not count. A ratio is taken within a round.
Everything is told to use one thread; `cores` is CPU time over wall-clock time, so that it is seen.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata

import numpy as np
import torch
from rich.console import Console

from benchmarks.step_cases import CASES, Case, make
from benchmarks.step_contenders import CONTENDERS, REFERENCE, build
from benchmarks.step_table import Row, show

ROUNDS = 11
Times = Mapping[str, Sequence[tuple[float, float]]]  # (wall-clock, CPU) seconds of each call


def measure(
    cases: Sequence[str] = (),
    contenders: Sequence[str] = (),
    *,
    rounds: int = ROUNDS,
    steps: int | None = None,
    memory: bool = True,
    device: str = "cpu",
    say: Callable[[str], object] = lambda line: None,
) -> list[Row]:
    """Times every contender of every case; a row for each pair.

    Args:
        cases, contenders: words; by default all (``ours_graph`` on CUDA alone).
        rounds: turns of each contender.
        steps: of each turn; by default 100, and 25 where a step is long.
        memory: whether to measure the peak memory of each.
        device: cpu or cuda.
        say: is told what goes on.

    Returns:
        rows of ``case, contender, ms_median, ms_min, ms_spread, ratio_to_numpyro_scan,
        ratio_spread, peak_mib, threads, cores, rounds, steps, device, failed``: milliseconds a
        step; spreads are from the 10 % to the 90 % quantile over rounds; ``failed`` says why there
        are no figures.

    Raises:
        ValueError: unknown words, counts below 1.
    """
    cases = list(cases or CASES)
    everybody = [c for c in CONTENDERS if c != "ours_graph" or device == "cuda"]
    contenders = list(contenders or everybody)
    for kind, given, known in (("case", cases, CASES), ("contender", contenders, CONTENDERS)):
        if unknown := [word for word in given if word not in known]:
            raise ValueError(f"there is no {kind} {unknown[0]!r}; there are {', '.join(known)}")
    if rounds < 1 or (steps is not None and steps < 1):
        raise ValueError(f"rounds and steps count from 1, got {rounds} and {steps}")
    rows = []
    with one_thread():
        for name in cases:
            say(f"{name}: {CASES[name].what}")
            case = make(name, steps, device)
            calls, failed = prepare(case, contenders)
            times = take_turns(calls, rounds)
            for who in contenders:
                found = figures(times, who, case.steps) if who in times else NOTHING
                about = {"threads": 1, "rounds": rounds, "steps": case.steps, "device": device}
                row = {"case": name, "contender": who, **found, "peak_mib": None, **about}
                rows.append({**row, "failed": failed.get(who)})
            del calls
            torch._dynamo.reset()  # or its limit on versions of one function is soon reached
            gc.collect()
    if memory:
        from benchmarks.step_memory import peaks

        say("peak memory, a process for each contender")
        held = peaks(
            [(row["case"], row["contender"]) for row in rows if not row["failed"]], steps, device
        )
        for row in rows:
            row["peak_mib"] = held.get((row["case"], row["contender"]))
    return rows


NOTHING: Row = dict.fromkeys(
    ("ms_median", "ms_min", "ms_spread", "ratio_to_numpyro_scan", "ratio_spread", "cores")
)


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prepare(
    case: Case, contenders: Sequence[str]
) -> tuple[dict[str, Callable[[], None]], dict[str, str]]:
    """The calls, made twice for the compilers, and the reasons of those that cannot be made."""
    calls, failed = {}, {}
    for who in contenders:
        try:
            call = build(case, who)
            call()
            call()
        except Exception as error:  # whatever stops a rival is a result, too
            lines = str(error).strip().splitlines() or [""]
            failed[who] = f"{type(error).__name__}: {lines[0]}"[:200]
        else:
            calls[who] = call
    return calls, failed


def take_turns(calls: Mapping[str, Callable[[], None]], rounds: int) -> Times:
    """Seconds of every call, round by round."""
    times: dict[str, list[tuple[float, float]]] = {who: [] for who in calls}
    names = list(calls)
    for i in range(rounds):
        first = i % max(1, len(names))
        for who in names[first:] + names[:first]:
            wall, cpu = time.perf_counter(), time.process_time()
            calls[who]()
            times[who].append((time.perf_counter() - wall, time.process_time() - cpu))
    return times


def figures(times: Times, who: str, steps: int) -> Row:
    """What a row says of one contender."""
    wall, cpu = np.array(times[who]).T
    ms, found = 1000 * wall / steps, dict(NOTHING)
    found |= {"ms_median": float(np.median(ms)), "ms_min": float(ms.min())}
    found |= {"ms_spread": _spread(ms), "cores": float(np.median(cpu / wall))}
    if REFERENCE in times:
        ratios = wall / np.array(times[REFERENCE])[:, 0]
        found["ratio_to_numpyro_scan"] = float(np.median(ratios))
        found["ratio_spread"] = _spread(ratios)
    return found


def _spread(values: np.ndarray) -> list[float]:
    return [float(v) for v in np.quantile(values, (0.1, 0.9))]


def libraries() -> dict[str, str]:
    """The versions of what the rivals are made of."""
    found = {}
    for name in ("numpyro", "jax", "jaxlib"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", default="", help="a,b; by default all")
    parser.add_argument("--contenders", default="", help="a,b; by default all")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--dry", action="store_true", help="save nothing")
    given = parser.parse_args()
    words = [text.split(",") if text else () for text in (given.cases, given.contenders)]
    rows = measure(
        *words,
        rounds=given.rounds,
        steps=given.steps,
        memory=not given.no_memory,
        device=given.device,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if not given.dry:
        from benchmarks.report import save
        from zoo.store import versions

        with one_thread():
            save("step_time", {"versions": {**versions(), **libraries()}, "rows": rows})
    show(rows, Console(width=160))


if __name__ == "__main__":
    main()
