"""Rows that are read on demand: a torch data set where a `Dataset` is expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.utils.data as torch_data
from torch import Tensor

from zoo._arrays import as_item, clean, row_numbers
from zoo.data import Batch, Dataset


class StreamedDataset(Dataset):
    """A map-style torch data set (or the one inside a DataLoader) whose rows are collated on
    demand, for data that do not fit in memory.

    Args:
        source: has `__len__` and `__getitem__(int)`; items are a tensor, taken as "x", a tuple
            (tensor, label, …), of which only the tensor is used, or a dict name -> tensor.
            Labels are `source.targets` where there are any.
        name, feature_names, image_shape: as for `Dataset`.

    `batch(index)` reads just those rows; `data[name]` and `data.values` read all of them (for
    shapes use `event_shape`). Sampling order and collation of a DataLoader are not used.

    Raises: TypeError for an iterable-style data set or other items; ValueError for no rows, rows
    of different shape, NaN (missing entries need a `Dataset`) or Inf.
    """

    resident = False

    def __init__(
        self,
        source: Any,
        *,
        name: str = "data",
        feature_names: Sequence[str] | None = None,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        self.source: Any = source.dataset if isinstance(source, torch_data.DataLoader) else source
        iterable = isinstance(self.source, torch_data.IterableDataset)
        if iterable or not hasattr(self.source, "__len__"):
            raise TypeError(
                f"expected a map-style data set with a length, got {type(self.source).__name__}: "
                "rows are read by number; collect its items in a tensor instead"
            )
        if len(self.source) == 0:
            raise ValueError(f"{name}: expected at least one row of data, got none")
        # The first row stands for names, shapes, dtypes and device of all.
        first = self._collate([0])
        super().__init__(first, name=name, feature_names=feature_names, image_shape=image_shape)
        targets = getattr(self.source, "targets", None)
        if targets is not None and len(targets) == len(self):
            self.labels = torch.as_tensor(targets)

    def _collate(self, rows: list[int]) -> dict[str, Tensor]:
        items = [as_item(self.source[row]) for row in rows]
        try:
            return {key: torch.stack([item[key] for item in items]) for key in items[0]}
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"rows of different shapes or names: {error}") from error

    def __len__(self) -> int:
        return len(self.source)

    @property
    def values(self) -> dict[str, Tensor]:
        return {**self._taken().values, **self._known}

    def _rows_of(self, rows: Tensor) -> dict[str, Tensor]:
        return {k: v for k, v in self._collate(rows.tolist()).items() if k in self._values}

    def _taken(self, index: Tensor | None = None) -> Batch:
        index = torch.arange(len(self)) if index is None else index
        values = {
            key: clean(key, value, False)[0].to(self._values[key])
            for key, value in self._rows_of(index).items()
        }
        return Batch(values, index.to(self.device), len(self), {}, self.fingerprint)

    def subset(self, index: Tensor | np.ndarray | Sequence[int]) -> StreamedDataset:
        index = row_numbers(index, len(self))
        labels = None if self.labels is None else self.labels[index.to(self.labels.device)]
        known = self._known_of(index.to(self.device))
        source = torch_data.Subset(self.source, index.tolist())
        return self._with(source=source, labels=labels, _known=known)
