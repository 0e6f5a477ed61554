"""A run read back for use: the model and the guide on a device, beside the data of the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from experiments.config import CONFIG, read_config
from experiments.runs import Spec, hold_out, split_of
from guides.guide import Guide
from zoo import store
from zoo.data import Dataset
from zoo.fitting import pick_device
from zoo.model import Model
from zoo.registry import resolve
from zoo.sites import given_labels
from zoo.sources import Split


@dataclass(frozen=True)
class Trained:
    """A run as it was trained.

    Attributes:
        path: its folder.
        spec: what was run.
        split: the rows that it was trained on (held-out rows left out), and the test rows.
        model, guide: on ``device``; the guide is that of the training rows.
        device: where they live.
        summary: what ``summary.json`` holds, {} where there is none.
    """

    path: Path
    spec: Spec
    split: Split
    model: Model
    guide: Guide
    device: torch.device
    summary: dict[str, Any]


def is_run(word: str | Path) -> bool:
    """Whether a word is the folder of a run."""
    return (Path(word) / "run.json").exists()


def load_trained(run: str | Path, device: str = "auto") -> Trained:
    """Reads a run that ``zoo fit --out`` has made, and loads its data again.

    Args:
        run: the folder of the run.
        device: auto (CUDA where there is one), cpu or cuda.

    Raises:
        ValueError: no run there, a damaged one, or data of other columns than those of the fit.
    """
    path = Path(run)
    store.read_spec(path)
    spec = Spec.from_dict(read_config(path / CONFIG))
    split, _ = hold_out(split_of(spec), spec.held_out_fraction)
    _same_shapes(path, split.train)
    loaded = _loaded(path, spec, split.train)
    given = given_labels(loaded.model, split.train)
    split = replace(split, train=split.train.without(*given))  # used as rows of x alone
    where = pick_device(device)
    for part in (loaded.model, loaded.guide):
        part.to(where)
    return Trained(path, spec, split, loaded.model, loaded.guide, where, loaded.summary)


def _same_shapes(path: Path, data: Dataset) -> None:
    """Refuses data of other columns than those that the run was fitted to."""
    values = store.read_spec(path)["data"]["values"]
    then = {name: tuple(value["shape"]) for name, value in values.items()}
    now = {name: tuple(data.event_shape(name)) for name in data.names}
    if then != now:
        raise ValueError(
            f"{path} was fitted to rows of shapes {then}, but {data.name}, which its {CONFIG} "
            f"names, has {now}; the file of data or the configuration has changed since"
        )


def _loaded(path: Path, spec: Spec, data: Dataset) -> store.Run:
    """The run; one of a user's own model is built from the file that its word names."""
    if ".py" in spec.model:
        model = resolve("models", spec.model).for_data(data, **spec.model_options)
        return store.load(path, model=model)
    return store.load(path)
