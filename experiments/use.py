"""What the commands that use a trained run have in common: its rows, its guide, its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.output import make, write_arrays, write_picture
from experiments.trained import Trained
from guides.guide import Guide
from zoo._arrays import some_rows
from zoo.data import Dataset

Side = Literal["test", "train"]
SITE = "x"  # what the pictures show


@dataclass(frozen=True)
class Rows:
    """Rows of a run that are looked at.

    Attributes:
        data: as evaluation sees them.
        guide: q for these rows.
        index: (M,), their places in the test or training set.
        side: test or train.
    """

    data: Dataset
    guide: Guide
    index: Tensor
    side: str

    @property
    def words(self) -> str:
        """How many rows of what."""
        return f"{len(self.data)} {self.side} row{'s' if len(self.data) > 1 else ''}"


def chosen(
    trained: Trained,
    rows: Side,
    num_rows: int | None,
    seed: int,
    infer_steps: int | None,
    infer: bool = True,
) -> Rows:
    """Rows of a run, chosen at random where not all are wanted, and q for them.

    Args:
        trained: the run.
        rows: test (the training rows where there are no others), or train.
        num_rows: how many; None for all.
        seed: of the choice.
        infer_steps: steps that fit a table's row to each test row; None for those of the run.
        infer: whether q is fitted to test rows that a table does not know.

    Raises:
        ValueError: counts out of range.
    """
    if (num_rows is not None and num_rows < 1) or (infer_steps is not None and infer_steps < 0):
        raise ValueError(
            f"num_rows counts from 1 and infer_steps from 0, got {num_rows} and {infer_steps}"
        )
    data = trained.split.test if rows == "test" else trained.split.train
    if data is None:
        print("the run has no test rows: these are rows that it was trained on")
        data, rows = trained.split.train, "train"
    data, index = data.fixed(), torch.arange(len(data))
    guide = trained.guide
    if num_rows is not None and num_rows < len(data):
        index = some_rows(len(data), num_rows, seed)
        data = data.only(index) if rows == "train" else data.subset(index)
    if infer and rows == "test":
        guide = fitted(trained, guide, data, infer_steps)
    return Rows(data, guide, index, rows)


def fitted(trained: Trained, guide: Guide, data: Dataset, steps: int | None) -> Guide:
    """q for rows that it was not fitted to: a table gets a row for each first."""
    return guide.infer(data, steps=trained.spec.infer_steps if steps is None else steps)


def place_of(trained: Trained, out: str | None) -> Path:
    """The folder for the files: the run's own by default."""
    place = Path(out) if out is not None else trained.path
    make(place)
    return place


def write(
    place: Path, name: str, values: Mapping[str, Tensor], figure: Figure | None
) -> dict[str, np.ndarray]:
    """Writes ``name``.npz and ``name``.png, says where, and returns the arrays."""
    arrays = {key: value.cpu().numpy() for key, value in values.items()}
    write_arrays(place / f"{name}.npz", arrays)
    print(f"  {place / name}.npz")
    if figure is not None:
        write_picture(place / f"{name}.png", figure)
        print(f"  {place / name}.png")
    return arrays


def title_of(trained: Trained, what: str) -> str:
    """What a picture shows, of which model and data, in which units."""
    units = trained.split.record["transform"]
    suffix = "" if units == "none" else f", x {units}"
    return f"{what}: {trained.spec.model} on {trained.split.train.name}{suffix}"


def limits_of(data: Dataset) -> tuple[float, float]:
    """The values of white and of black in pictures: the least and the greatest of some rows."""
    head = next(data.batches(1000))[SITE]
    return float(head.min()), float(head.max())
