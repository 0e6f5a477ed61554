"""A run of a comparison as it is kept in its folder: everything that its figures are made from."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from torch import nn

from experiments.judge.rows import Judged, judged_rows, rows_of
from experiments.runs import Outcome, Spec, build_guide, build_model
from zoo.evaluation import Estimate, Evaluation
from zoo.files import FORMAT, read_tensors, write_tensors
from zoo.fitting import FitResult, pick_device
from zoo.iterates import Iterates
from zoo.model import Model
from zoo.sources import Split

FILE = "outcome.safetensors"  # written last: where it is, the run is whole
PARTS = ("elbo", "iwae", "exact", "log_joint")


def keep(folder: Path, outcome: Outcome, split: Split) -> None:
    """Writes an outcome, weights and figures of every row included.

    Args:
        folder: of the run; it is there.
        outcome: what is kept.
        split: the data of the run, of which a table on a frozen model may have had a part only.
    """
    judged, result = outcome.judged, outcome.result
    modules: dict[str, nn.Module] = {"model": outcome.model, "guide": outcome.guide}
    if judged.test_guide is not None and judged.test_guide is not outcome.guide:
        modules["test_guide"] = judged.test_guide
    tensors = {
        f"{side}.{name}": value
        for side, module in modules.items()
        for name, value in module.state_dict().items()
    }
    shared: dict[str, dict[str, float]] = {}
    for side, figures in (("train", judged.train), ("test", judged.test)):
        if figures is None:
            continue
        shared[side] = {}
        for name in PARTS:
            if (part := getattr(figures, name)) is not None:
                shared[side][name] = part.shared
                tensors[f"{side}.{name}.rows"] = part.rows
                tensors[f"{side}.{name}.error"] = part.error
    if result.iterates is not None:
        tensors |= {"path.values": result.iterates.values, "path.steps": result.iterates.steps}
    plain = {f.name for f in fields(FitResult)} - {"model", "guide", "iterates"}
    meta = {
        "format": FORMAT,
        "spec": asdict(outcome.spec),
        "result": {name: getattr(result, name) for name in sorted(plain)},
        "path": result.iterates.names if result.iterates else None,
        "figures": shared,
        "num_particles": judged.train.num_particles,
        "apart": len(outcome.split.train) < len(split.train),
        "summary": outcome.summary,
    }
    write_tensors(folder / FILE, tensors, meta)


def kept(folder: Path, split: Split, model: Model | None = None) -> Outcome:
    """The reverse of ``keep``: nothing is fitted or judged again.

    Args:
        folder: of the run.
        split: its data.
        model: the fixed model, which all runs of a comparison share; by default the run's own.

    Raises:
        RunError: no such file, or a damaged one.
    """
    tensors, meta = read_tensors(folder / FILE)
    spec = Spec.from_dict(meta["spec"])
    if meta["apart"]:
        split = judged_rows(split, spec.eval_rows, apart=True)

    def weights(side: str) -> dict[str, Any]:
        start = f"{side}."
        return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}

    if model is None:
        model = build_model(spec, split)
        model.load_state_dict(weights("model"))
        model.to(pick_device(spec.device))
    guide = build_guide(spec, model, split)
    guide.load_state_dict(weights("guide"))
    rows = rows_of(spec, model, guide, split)
    test_guide = None if rows.test is None else guide
    if rows.test is not None and not guide.amortized:
        test_guide = guide.infer(rows.test, steps=0)
        test_guide.load_state_dict(weights("test_guide"))

    def figures(side: str) -> Evaluation | None:
        shared = meta["figures"].get(side)
        if shared is None:
            return None
        found = {
            name: Estimate(
                tensors[f"{side}.{name}.rows"], tensors[f"{side}.{name}.error"], shared[name]
            )
            if name in shared
            else None
            for name in PARTS
        }
        return Evaluation(**found, num_particles=meta["num_particles"])

    train, test = figures("train"), figures("test")
    assert train is not None
    path = meta["path"] and Iterates(
        tensors["path.values"], tensors["path.steps"], (*meta["path"],)
    )
    result = FitResult(model, guide, **meta["result"], iterates=path)
    judged = Judged(rows, train, test, guide, test_guide)
    return Outcome(spec, result, model, guide, split, judged, meta["summary"])
