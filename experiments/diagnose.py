"""The report card of a run: how far its posterior can be trusted, in a table, pictures, files."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.inference_data import of_card
from experiments.output import make
from experiments.show.card import card_table
from experiments.show.card_files import write_report
from experiments.show.tables import terminal
from experiments.trained import Trained, load_trained
from zoo import store
from zoo.data import Dataset
from zoo.diagnostics.read_draws import read_draws
from zoo.diagnostics.report import Report
from zoo.diagnostics.report import diagnose as card_of

SEEDS, POSTERIOR = "seeds.json", "posterior.nc"


def diagnose(
    run: str,
    *,
    simulate: bool = False,
    thorough: bool = False,
    rows: Literal["own", "test", "train"] = "own",
    num_rows: int = 500,
    all: bool = False,
    num_draws: int = 4000,
    num_global_draws: int = 25_000,
    num_simulations: int | None = None,
    infer_steps: int | None = None,
    search_steps: int | None = None,
    reference: str | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | None = None,
) -> Report:
    """Tells how good a posterior is: numbers with errors, colours, pictures, one action a fault.

    From importance weights the bounds and the gap that is certain, k̂, the effective sample size,
    means and standard deviations put right; from the run its iterates, losses and gradients; the
    gaps of family and encoder; the use of the latents; the model against the data. With --simulate
    calibration on data that the model draws, with --thorough Markov chains. The best verdict is
    "no failure found", and what was not run is said. Writes report.html (one file, no network),
    report.json, posterior.nc for ArviZ and the figures into RUN/report.

    Args:
        run: the folder of a run, or of a series of them (--seeds): then the first one's card, with
            the others as restarts.
        simulate: calibration, coverage and divergence on data that the model draws: seconds for an
            encoder, minutes for a table, whose rows are fitted, and for latents that all rows
            share, whose q is fitted again 50 times.
        thorough: annealed importance sampling between two bounds, short chains from q, NUTS for
            latents that all rows share and small data; minutes.
        rows: those that are judged: own, the rows that a table or shared latents were fitted to and
            test rows for an encoder; or test, or train.
        num_rows: rows that are given many draws each, chosen at random.
        all: all of them.
        num_draws: S, draws of each row, from 100.
        num_global_draws: draws of latents that all rows share, from 100; halved until the cost is
            bounded.
        num_simulations: by default 4000 for an encoder, 300 rows for a table, 50 data sets.
        infer_steps: steps that fit a table's row, or latents that all rows share, to new data; by
            default those of the run.
        search_steps: of the search for the best q of each row; 600, or 2000 where it is thorough.
        reference: a file of posterior draws to compare with: posteriordb's .json or .json.zip, .csv
            or ArviZ .nc.
        seed: of the rows and draws.
        device: auto (CUDA where there is one), cpu or cuda.
        out: a folder for the files; RUN/report by default.

    Raises:
        ValueError: no run there; data that have changed; counts out of range.
    """
    if min(num_rows, 1 if num_simulations is None else num_simulations) < 1 or num_draws < 100:
        raise ValueError(
            "num_rows and num_simulations count from 1 and num_draws from 100, got "
            f"{num_rows}, {num_simulations} and {num_draws}"
        )
    started = time.perf_counter()
    draws = None if reference is None else read_draws(reference)
    first, others = _series(Path(run))
    trained = load_trained(first, device)
    if draws is not None:
        _check_reference(str(reference), draws, trained.guide.latents.names)
    place = Path(out) if out is not None else Path(run) / "report"
    make(place)
    steps = trained.spec.infer_steps if infer_steps is None else infer_steps
    data, side, guide, notes = _rows(trained, rows, steps)
    restarts = [_run(load_trained(other, device)) for other in others]
    report = card_of(
        trained.model,
        guide,
        data,
        simulate=simulate,
        thorough=thorough,
        run=_run(trained),
        restarts=restarts,
        reference=reference,
        num_rows=None if all else num_rows,
        num_draws=num_draws,
        num_global_draws=num_global_draws,
        num_simulations=num_simulations,
        infer_steps=steps,
        search_steps=search_steps,
        seed=seed,
        progress=None,
    )
    about = {
        **report.about,
        "run": str(run),
        "model": trained.spec.model,
        "rows": side,
        "binarization": trained.split.record.get("binarization"),
        "seconds": round(time.perf_counter() - started, 1),
    }
    report = replace(report, about=about, notes=(*notes, *report.notes))
    console = terminal()
    for part in card_table(report, console.width):
        console.print(part, highlight=False)
    if (place / "report.json").exists():
        console.print("the earlier report in this folder is replaced:", highlight=False)
    found = {c.name: c.value for c in report.checks if c.value is not None}
    idata = of_card(trained, guide, data, restarts, found, seed)
    import_module("zoo.diagnostics.arviz").save(idata, place / POSTERIOR)
    files = write_report(report, place)  # report.json last: it vouches for the others
    for name in (*files, POSTERIOR):
        console.print(f"  {place / name}", highlight=False, soft_wrap=True)
    return report


def _check_reference(name: str, draws: Mapping[str, Any], latents: Sequence[str]) -> None:
    """Refuses draws of other latents, or that are no numbers."""
    if not set(draws) & set(latents):
        raise ValueError(
            f"{name} has draws of {sorted(draws)}, q draws {sorted(latents)}; rename the columns"
        )
    if bad := [key for key, value in draws.items() if not np.isfinite(value).all()]:
        raise ValueError(f"{name} has NaN or Inf in {bad}; leave those draws out")


def _run(trained: Trained) -> store.Run:
    """With its path of iterates and losses."""
    path = trained.path
    run = store.load(path, model=trained.model, guide=trained.guide)
    run.model.to(trained.device)
    return run


def _series(run: Path) -> tuple[Path, list[Path]]:
    """The run that the card is of, and its restarts."""
    if not (run / SEEDS).exists():
        return run, []
    seeds = json.loads((run / SEEDS).read_text("utf-8"))["seeds"]
    first, *others = (run / f"seed-{seed}" for seed in seeds)
    if lost := [str(path) for path in (first, *others) if not (path / "run.json").exists()]:
        raise ValueError(f"the series in {run} lacks {lost}; fit it again with the same --seeds")
    return first, others


def _rows(trained: Trained, rows: str, steps: int) -> tuple[Dataset, str, Any, list[str]]:
    """The rows that are judged, what they are, q for them, and what to say of them."""
    guide, notes = trained.guide, []
    shared = bool(guide.latents.global_.dim)
    if rows == "own":
        rows = "test" if guide.amortized and not shared else "train"
    if rows == "test" and shared:
        raise ValueError(
            f"{trained.path} has latents that all rows share: q is of the rows that it was fitted "
            "to; leave --rows out"
        )
    data = trained.split.train
    if rows == "test" and trained.split.test is None:
        notes.append("the run has no test rows: these are the rows that it was trained on")
        rows = "train"
    if rows == "test":
        assert trained.split.test is not None
        data = trained.split.test
        if not guide.amortized:
            guide = guide.infer(data, steps=steps)
            notes.append(f"q of each test row was fitted to it first, in {steps} steps")
    return data, rows, guide, notes
