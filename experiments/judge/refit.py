"""A guide for a model that is held fixed."""

from __future__ import annotations

import time
from pathlib import Path

from experiments.judge.modes import free
from experiments.judge.rows import judge, judged_rows, row_fit
from experiments.runs import Outcome, Spec, build_guide, complete, run, summarize
from guides.infer import REDUCE
from zoo.fitting import FitResult
from zoo.model import Model
from zoo.registry import resolve
from zoo.sources import Split


def refit(
    spec: Spec,
    model: Model,
    split: Split,
    shared: bool,
    out: Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Outcome:
    """A guide for a frozen model: rows of a table on their own, all else by ``run``.

    Where rows share latents, they are fitted together.

    Args:
        spec: what to run.
        model: stays as it is.
        split: the data.
        shared: whether rows share latents.
        out, resume, progress: as for ``run``, where it is that.
    """
    amortized = spec.family == "exact" or resolve("inference", spec.inference or "").amortized
    if not (amortized or shared):  # only the rows that are judged need theirs
        split = judged_rows(split, spec.eval_rows, apart=True)
    guide = build_guide(spec, model, split)
    # Weights that all rows share, of a flow or q(y | x), are trained with the table, by fit.
    trained = free(guide.family) or guide.classifier is not None
    table = not (amortized or shared or trained) and spec.objective in REDUCE
    if free(guide) and not table:
        return run(spec, out, model, split, resume, progress)
    spec = complete(spec)
    result = FitResult(model, guide, spec.objective)  # where there is nothing to fit
    notes = []
    if table:
        clock = time.perf_counter()
        fitting = row_fit(spec)
        guide = guide.infer(split.train, seed=spec.seed, **fitting)
        seconds = time.perf_counter() - clock
        result = FitResult(model, guide, spec.objective, spec.infer_steps, seconds)
        notes = ["the rows of the table were fitted by guide.infer"]
    judged = judge(spec, model, guide, split)
    summary = summarize(spec, result, split, judged, notes)
    return Outcome(spec, result, model, guide, split, judged, summary)
