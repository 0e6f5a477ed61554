"""Rows of data: `Dataset` (all rows, resident on one device) and `as_dataset`."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
import torch.utils.data as torch_data
from torch import Tensor

from zoo._arrays import (
    Device,
    as_tensor,
    check_rows,
    clean,
    moved,
    only_device,
    row_numbers,
)
from zoo.batch import Batch
from zoo.visits import Visits

__all__ = ["Batch", "Dataset", "as_dataset"]


class Dataset(Visits):
    """N rows, held as tensors on one device.

    Args:
        values: one array (N, *event), taken as the site "x", or name -> (N, *event). NumPy floats
            become torch's default dtype and floating tensors stay as they are; integers become
            long; booleans become 0. and 1. in the default dtype.
        labels: (N,) class ids, for judging only: never fed to a model.
        name: what the data are called in reports.
        feature_names: names of the D columns of "x".
        image_shape: (H, W) or (C, H, W) when the rows of "x" are images.
        missing: True reads NaN as a missing entry: `observed[name]` (N, *event) is False there
            and the entry is filled with the first observed value of its column, which is always
            in the support of the site.

    Raises: ValueError for no rows, names of different length, Inf, a column without any observed
    entry, or NaN without `missing=True`; TypeError for anything that is not numeric.

    >>> data = Dataset({"x": np.eye(4), "exposure": np.ones(4)}, name="toy")
    >>> print(data.describe())
    toy: 4 rows; x (4,) float32, exposure () float32; cpu
    """

    def __init__(
        self,
        values: Tensor | np.ndarray | Mapping[str, Any],
        *,
        labels: Any = None,
        name: str = "data",
        feature_names: Sequence[str] | None = None,
        image_shape: Sequence[int] | None = None,
        missing: bool = False,
    ) -> None:
        given = values if isinstance(values, Mapping) else {"x": values}
        tensors = {key: self._held(key, value) for key, value in given.items()}
        self.name = name
        self.feature_names = list(feature_names) if feature_names is not None else None
        self.image_shape = tuple(image_shape) if image_shape is not None else None
        self.labels = None if labels is None else torch.as_tensor(labels)  # (N,)
        check_rows(self.name, tensors, self.labels, self.feature_names, self.image_shape)
        self._values: dict[str, Tensor] = {}
        self._observed: dict[str, Tensor] = {}
        self._known: dict[str, Tensor] = {}
        for key, value in tensors.items():
            columns = self.feature_names if key == "x" else None
            self._values[key], mask = clean(key, value, missing, columns)
            if mask is not None:
                self._observed[key] = mask
        if self.labels is not None:
            self.labels = self.labels.to(self.device)

    resident = True  # all rows are tensors on the device
    _held = staticmethod(as_tensor)  # how an array is kept

    @property
    def values(self) -> dict[str, Tensor]:
        """name -> (N, *event), or (M, *event) for a name of `partial`."""
        return {**self._values, **self._known}

    @property
    def observed(self) -> dict[str, Tensor]:
        """name -> (N, *event) bool, for the names that have missing entries."""
        return self._observed

    @property
    def names(self) -> list[str]:
        return [*self._values, *self._known]

    @property
    def device(self) -> torch.device:
        return next(iter(self._values.values())).device

    def __len__(self) -> int:
        return len(next(iter(self._values.values())))

    def __getitem__(self, name: str) -> Tensor:
        """All rows of one name, as `values` has them; KeyError for a name that is not there."""
        if name not in self.names:
            raise KeyError(f"{self.name} has no {name!r}, only {self.names}")
        return self._known[name] if name in self._known else self.values[name]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.describe()})"

    def event_shape(self, name: str = "x") -> torch.Size:
        """The shape of one row of `name`."""
        return (self._known if name in self._known else self._values)[name].shape[1:]

    @property
    def dynamic(self) -> bool:
        """Whether rows change from visit to visit, as under dynamic binarization."""
        return False

    def fixed(self) -> Self:
        """The rows as evaluation sees them: here these same data."""
        return self

    def _type_of(self, name: str) -> torch.dtype:
        """The type that a name is served in."""
        return (self._known if name in self._known else self._values)[name].dtype

    def _mark(self) -> str:
        return ""  # what tells data apart whose rows are equal

    def describe(self) -> str:
        """One line: rows, shapes, dtypes, missing entries, classes, device."""
        kinds = {key: str(self._type_of(key)).removeprefix("torch.") for key in self.names}
        kinds |= {key: f"{kinds[key]} of {self.num_labelled} rows" for key in self.partial}
        parts = [", ".join(f"{k} {tuple(self.event_shape(k))} {kinds[k]}" for k in kinds)]
        for key, mask in self._observed.items():
            parts.append(f"{1 - mask.float().mean().item():.1%} of {key} missing")
        if self.image_shape is not None:
            parts.append("images " + "×".join(map(str, self.image_shape)))
        if self.labels is not None:
            parts.append(f"{len(self.labels.unique())} classes")
        return f"{self.name}: {len(self)} rows; {'; '.join(parts)}; {self.device}"

    @cached_property
    def fingerprint(self) -> int:
        """A number that tells data sets apart: of N, the names, and up to 1000 rows between."""
        rows = torch.linspace(0, len(self) - 1, min(len(self), 1000)).long()
        state = zlib.crc32(f"{len(self)} {self.names}{self._mark()}".encode())
        for value in [*self._rows_of(rows).values(), *self._known.values()]:
            state = zlib.crc32(value.to("cpu", torch.float32).numpy().tobytes(), state)
        return state

    def _rows_of(self, rows: Tensor) -> dict[str, Tensor]:
        return {key: value[rows.to(value.device)] for key, value in self._values.items()}

    def _same(self, **attributes: Any) -> Self:
        other = copy.copy(self)
        vars(other).update(attributes)
        return other

    def _with(self, **attributes: Any) -> Self:
        other = self._same(_places=None)  # of other rows, which have another fingerprint
        vars(other).pop("fingerprint", None)
        return other._same(**attributes)

    def to(self, device: Device | torch.dtype = None, dtype: torch.dtype | None = None) -> Self:
        """A new data set on `device`; `dtype` acts on floating values only."""
        return self._same(
            _values=moved(self._values, device, dtype),
            _observed=moved(self._observed, device),
            _known=moved(self._known, device, dtype),
            _places=None if self._places is None else self._places.to(only_device(device)),
            labels=None if self.labels is None else self.labels.to(only_device(device)),
        )

    def replaced(
        self, values: dict[str, Tensor], observed: dict[str, Tensor], mark: int, some: Any = ()
    ) -> Self:
        """Other tensors in these ones' place, unchecked, standing for the data of a fingerprint
        `mark`; those of the names `some` are of the first rows only."""
        known = {key: values[key] for key in some}
        rest = {key: value for key, value in values.items() if key not in known}
        return self._with(_values=rest, _observed=observed, _known=known, fingerprint=mark)

    def with_values(self, **values: Tensor | np.ndarray) -> Dataset:
        """The same rows with some values added or replaced, (N, *event); masks stay."""
        known = {key: value for key, value in self._known.items() if key not in values}
        rest = {key: value for key, value in self.values.items() if key not in self._known}
        other = Dataset({**rest, **values}, labels=self.labels, name=self.name)
        shown = {"feature_names": self.feature_names, "image_shape": self.image_shape}
        return other._with(_observed=self.observed, _known=known, **shown)

    def _taken(self, index: Tensor | None = None) -> Batch:
        if index is None:
            rows = torch.arange(len(self), device=self.device)
            masks = dict(self._observed)
            return Batch(dict(self._values), rows, len(self), masks, self.fingerprint)
        index = index.to(self.device)
        return Batch(
            {key: value.index_select(0, index) for key, value in self._values.items()},
            index,
            len(self),
            {key: mask.index_select(0, index) for key, mask in self._observed.items()},
            self.fingerprint,
        )

    def subset(self, index: Tensor | np.ndarray | Sequence[int]) -> Dataset:
        """A data set of the rows `index`: (M,) places in 0 … N − 1, or an (N,) boolean mask.

        Rows with values that the others lack come first, as everywhere.

        Raises: ValueError for no rows, places outside the data, or labelled rows after others.
        """
        index = row_numbers(index, len(self)).to(self.device)
        rows = Dataset._taken(self, index)
        labels = None if self.labels is None else self.labels[index]
        known = self._known_of(index)
        return self._with(_values=rows.values, _observed=rows.observed, labels=labels, _known=known)


def as_dataset(data: Any) -> Dataset:
    """A `Dataset` of whatever holds rows.

    Args:
        data: Dataset, Tensor or ndarray (N, *event) (the site "x"), a dict of such, Batch, a
            map-style torch Dataset, or a DataLoader.

    Raises: TypeError for anything else; ValueError as `Dataset`.

    >>> as_dataset(torch.zeros(3, 2)).names
    ['x']
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Batch):
        return Dataset(data.values, name="batch")._with(_observed=dict(data.observed))
    if isinstance(data, Tensor | np.ndarray | Mapping):
        return Dataset(data)
    if isinstance(data, torch_data.Dataset | torch_data.DataLoader):
        from zoo.streamed import StreamedDataset  # itself a Dataset

        return StreamedDataset(data)
    raise TypeError(
        "expected a tensor, an array, a dict of them, a Dataset, a Batch, a torch Dataset or a "
        f"DataLoader, got {type(data).__name__}; a data frame or a list goes through np.asarray"
    )
