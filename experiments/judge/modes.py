"""The two modes of a comparison: one fixed model, or a model for every guide."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import nn

from experiments.judge.grid import words
from experiments.judge.paired import same_data
from zoo import store
from zoo.exact import knows
from zoo.model import Model
from zoo.sources import Split


def mode_of(
    on: str | None, family: str, model: Model, model_from: str | None, local: bool
) -> Literal["fixed", "joint"]:
    """Which of the two comparisons it is."""
    trains = free(model)
    exact = "exact" in words(family, "family")
    supplied = model_from is not None or (knows(model, "posterior") and local) or not trains
    if on not in (None, "fixed", "joint"):
        raise ValueError(f"on is fixed or joint, got {on!r}")
    if on == "fixed" and not local:
        raise ValueError("on a fixed model there is nothing to compare: no guide to refit")
    if on == "fixed" and not supplied:
        raise ValueError(
            f"{type(model).__name__} does not know its posterior, so nothing fits the fixed model; "
            "give a run of it by model_from (--model-from RUN), or compare on joint"
        )
    if on is None and local and (exact or model_from is not None or not trains):
        on = "fixed" if supplied else "joint"
    return "fixed" if on == "fixed" else "joint"


def source_of(model_from: str | None, model: Model, knowing: bool) -> str:
    """Where the fixed model comes from, in words."""
    if model_from is not None:
        return f"the run {model_from}"
    if not free(model):
        return "the model itself, which has no parameters to fit"
    return "a fit by its exact guide"


def free(part: nn.Module | None) -> bool:
    """Whether there is anything to train."""
    return part is not None and any(p.requires_grad for p in part.parameters())


def check_source(run_folder: str, split: Split) -> None:
    """Refuses a model that was trained on other data, as far as its run tells."""
    store.read_spec(Path(run_folder))
    summary = Path(run_folder, "summary.json")
    if summary.exists():
        record = store.read_json(summary)["data_record"]
        apart = ("num_train", "num_held_out")  # held-out rows are still the same data
        mine = {k: v for k, v in split.record.items() if k not in apart}
        record = {"binarization": "none", "binarization_seed": None, **record}  # of older runs
        its = {k: v for k, v in record.items() if k not in apart}
        same_data({"this comparison": mine, run_folder: its})
