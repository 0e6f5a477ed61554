"""Rows of data: `Batch` (some rows), `Dataset` (all rows, resident on one device), `as_dataset`."""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
import torch.utils.data as torch_data
from torch import Tensor

__all__ = ["Batch", "Dataset", "StreamedDataset", "as_dataset"]

Device = torch.device | str | int | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Batch(Mapping[str, Tensor]):
    """B of the N rows of a data set; a mapping from names to tensors.

    Formula: sum over all rows ≈ scale · sum over the batch, with scale = N / B.

    Args:
        values: name -> (B, *event), observed sites and inputs; no NaN inside.
        index: (B,) long, the rows' places in the data set.
        size: N, the number of rows that the batch stands for.
        observed: name -> (B, *event) bool, False where the entry is missing (`values` holds a
            filler there); only for names with missing entries.
        fingerprint: tells the data sets that rows come from apart.
        scaled: False where the rows stand for themselves, though `size` is still N.

    `len(batch)` is B, while iteration runs over the names.

    >>> batch = Dataset(torch.zeros(10, 3)).batch(torch.tensor([4, 7]))
    >>> len(batch), batch.scale, list(batch), batch.unscaled().scale
    (2, 5.0, ['x'], 1.0)
    """

    values: dict[str, Tensor] = field()  # type: ignore[assignment]  # shadows Mapping.values
    index: Tensor  # (B,)
    size: int
    observed: dict[str, Tensor] = field(default_factory=dict)
    fingerprint: int = 0
    scaled: bool = True

    __eq__ = object.__eq__  # a Mapping would compare its tensors
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(v.shape)}" for name, v in self.values.items())
        return f"Batch({len(self)} of {self.size} rows; {shapes})"

    @property
    def scale(self) -> float:
        """N / B, or 1 for rows that stand for themselves."""
        return self.size / len(self) if self.scaled else 1.0

    def unscaled(self) -> Batch:
        """The same rows, each counted once."""
        return replace(self, scaled=False)

    def rows(self, count: int) -> Batch:
        """The first `count` rows, or all where there are fewer."""
        return replace(
            self,
            values={name: value[:count] for name, value in self.values.items()},
            index=self.index[:count],
            observed={name: mask[:count] for name, mask in self.observed.items()},
        )

    def without(self, *names: str) -> Batch:
        """The same rows with `names` dropped (those sites become latent).

        Raises: ValueError for a name that is not in the batch.
        """
        if unknown := [name for name in names if name not in self.values]:
            raise ValueError(f"cannot drop {unknown}: the batch has {list(self.values)}")
        kept = {name: v for name, v in self.values.items() if name not in names}
        observed = {name: m for name, m in self.observed.items() if name not in names}
        return replace(self, values=kept, observed=observed)

    def to(self, device: Device | torch.dtype = None, dtype: torch.dtype | None = None) -> Batch:
        """Moved to a device; `dtype` acts on floating values only. `to(torch.float64)` works."""
        return replace(
            self,
            values=_moved(self.values, device, dtype),
            index=self.index.to(_device(device)),
            observed=_moved(self.observed, device),
        )


class Dataset:
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
    >>> [len(batch) for batch in data.batches(3)]
    [3, 1]
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
        tensors = {key: _as_tensor(key, value) for key, value in given.items()}
        self.name = name
        self.feature_names = list(feature_names) if feature_names is not None else None
        self.image_shape = tuple(image_shape) if image_shape is not None else None
        self.labels = None if labels is None else torch.as_tensor(labels)  # (N,)
        self._check(tensors)
        self._values: dict[str, Tensor] = {}
        self._observed: dict[str, Tensor] = {}
        for key, value in tensors.items():
            columns = self.feature_names if key == "x" else None
            self._values[key], mask = _clean(key, value, missing, columns)
            if mask is not None:
                self._observed[key] = mask
        if self.labels is not None:
            self.labels = self.labels.to(self.device)

    def _check(self, tensors: dict[str, Tensor]) -> None:
        lengths = {key: len(value) if value.dim() else 0 for key, value in tensors.items()}
        if self.labels is not None:
            lengths["labels"] = len(self.labels) if self.labels.dim() == 1 else -1
        if not tensors or 0 in lengths.values():
            raise ValueError(f"{self.name}: expected at least one row of data, got {lengths}")
        if -1 in lengths.values():
            raise ValueError(f"{self.name}: expected one label a row, in an array of shape (N,)")
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{self.name}: expected equally many rows, got {lengths}")
        event = tensors["x"].shape[1:] if "x" in tensors else torch.Size()
        columns, shape = self.feature_names, self.image_shape
        if columns is not None and event[-1:] != (len(columns),):
            raise ValueError(f"{len(columns)} feature_names do not fit x with rows {tuple(event)}")
        if shape is not None and math.prod(shape) != event.numel():
            raise ValueError(f"image_shape {shape} does not fit x with rows {tuple(event)}")

    @property
    def values(self) -> dict[str, Tensor]:
        """name -> (N, *event)."""
        return self._values

    @property
    def observed(self) -> dict[str, Tensor]:
        """name -> (N, *event) bool, for the names that have missing entries."""
        return self._observed

    @property
    def names(self) -> list[str]:
        return list(self._values)

    @property
    def device(self) -> torch.device:
        return next(iter(self._values.values())).device

    def __len__(self) -> int:
        return len(next(iter(self._values.values())))

    def __getitem__(self, name: str) -> Tensor:
        """All rows of one name, (N, *event); KeyError for a name that is not there."""
        if name not in self._values:
            raise KeyError(f"{self.name} has no {name!r}, only {self.names}")
        return self.values[name]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.describe()})"

    def event_shape(self, name: str = "x") -> torch.Size:
        """The shape of one row of `name`."""
        return self._values[name].shape[1:]

    def describe(self) -> str:
        """One line: rows, shapes, dtypes, missing entries, classes, device."""
        parts = [
            ", ".join(
                f"{key} {tuple(value.shape[1:])} {str(value.dtype).removeprefix('torch.')}"
                for key, value in self._values.items()
            )
        ]
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
        state = zlib.crc32(f"{len(self)} {self.names}".encode())
        for value in self._rows_of(rows).values():
            state = zlib.crc32(value.to("cpu", torch.float32).numpy().tobytes(), state)
        return state

    def _rows_of(self, rows: Tensor) -> dict[str, Tensor]:
        return {key: value[rows.to(value.device)] for key, value in self._values.items()}

    def _with(self, **attributes: Any) -> Self:
        other = copy.copy(self)
        other.__dict__.pop("fingerprint", None)
        other.__dict__.update(attributes)
        return other

    def to(self, device: Device | torch.dtype = None, dtype: torch.dtype | None = None) -> Self:
        """A new data set on `device`; `dtype` acts on floating values only."""
        return self._with(
            _values=_moved(self._values, device, dtype),
            _observed=_moved(self._observed, device),
            labels=None if self.labels is None else self.labels.to(_device(device)),
        )

    def replaced(
        self, values: dict[str, Tensor], observed: dict[str, Tensor], fingerprint: int
    ) -> Self:
        """Other tensors in these ones' place, unchecked, standing for the data of a fingerprint."""
        return self._with(_values=values, _observed=observed, fingerprint=fingerprint)

    def with_values(self, **values: Tensor | np.ndarray) -> Dataset:
        """The same rows with some values added or replaced, (N, *event); masks stay."""
        other = Dataset({**self.values, **values}, labels=self.labels, name=self.name)
        return other._with(
            _observed=self.observed, feature_names=self.feature_names, image_shape=self.image_shape
        )

    def batch(self, index: Tensor | None = None) -> Batch:
        """The rows `index`, (B,) long and not empty; None: all rows, without a copy."""
        if index is None:
            rows = torch.arange(len(self), device=self.device)
            observed = dict(self._observed)
            return Batch(dict(self._values), rows, len(self), observed, self.fingerprint)
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

        Raises: ValueError for no rows or places outside the data.
        """
        index = _rows(index, len(self)).to(self.device)
        rows = self.batch(index)
        labels = None if self.labels is None else self.labels[index]
        return self._with(_values=rows.values, _observed=rows.observed, labels=labels)

    def batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        """All rows in order, for evaluation; the last batch may be smaller."""
        rows = torch.arange(len(self), device=self.device)
        return map(self.batch, rows.split(_batch_size(batch_size, len(self))))

    def epoch(self, batch_size: int | None, seed: int, epoch: int) -> Iterator[Tensor]:
        """Index tensors (B,) that visit every row once, in an order that depends on (seed, epoch)
        alone and is the same on every device; the last may be smaller. With `batch_size` None or
        ≥ N there is one, of all rows in order."""
        size = _batch_size(batch_size, len(self))
        if size >= len(self):
            return iter([torch.arange(len(self), device=self.device)])
        state = np.random.SeedSequence([seed % 2**64, epoch]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0]))
        return iter(torch.randperm(len(self), generator=generator).to(self.device).split(size))


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
        items = [_as_item(self.source[row]) for row in rows]
        try:
            return {key: torch.stack([item[key] for item in items]) for key in items[0]}
        except (RuntimeError, KeyError) as error:
            raise ValueError(f"rows of different shapes or names: {error}") from error

    def __len__(self) -> int:
        return len(self.source)

    @property
    def values(self) -> dict[str, Tensor]:
        return self.batch().values

    def _rows_of(self, rows: Tensor) -> dict[str, Tensor]:
        return self._collate(rows.tolist())

    def batch(self, index: Tensor | None = None) -> Batch:
        index = torch.arange(len(self)) if index is None else index
        values = {
            key: _clean(key, value, False)[0].to(self._values[key])
            for key, value in self._collate(index.tolist()).items()
        }
        return Batch(values, index.to(self.device), len(self), {}, self.fingerprint)

    def subset(self, index: Tensor | np.ndarray | Sequence[int]) -> StreamedDataset:
        index = _rows(index, len(self))
        labels = None if self.labels is None else self.labels[index.to(self.labels.device)]
        return self._with(source=torch_data.Subset(self.source, index.tolist()), labels=labels)


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
        return StreamedDataset(data)
    raise TypeError(
        "expected a tensor, an array, a dict of them, a Dataset, a Batch, a torch Dataset or a "
        f"DataLoader, got {type(data).__name__}; a data frame or a list goes through np.asarray"
    )


def _as_item(item: Any) -> dict[str, Tensor]:
    """One row of a torch data set as name -> (*event)."""
    if isinstance(item, tuple | list):
        item = item[0]
    given = item if isinstance(item, Mapping) else {"x": item}
    return {
        key: _as_tensor(key, np.asarray(v) if np.isscalar(v) else v) for key, v in given.items()
    }


def _as_tensor(name: str, value: Any) -> Tensor:
    """A float or long tensor of its own, or TypeError."""
    default = torch.get_default_dtype()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        double = value.dtype.itemsize >= 8 and value.dtype.kind == "f"
        kind = {"b": bool, "f": np.float64 if double else np.float32}.get(
            value.dtype.kind, np.int64
        )
        tensor = torch.from_numpy(np.array(value, dtype=kind, order="C"))
        value = tensor.to(default) if tensor.is_floating_point() else tensor
    if not isinstance(value, Tensor) or value.is_complex() or value.layout != torch.strided:
        what = getattr(value, "dtype", None) or type(value).__name__
        raise TypeError(f"{name!r} holds {what}: expected a tensor or array of real numbers")
    if value.is_floating_point():
        return value.detach()
    return value.to(default if value.dtype == torch.bool else torch.long)


def _clean(
    name: str, value: Tensor, missing: bool, columns: Sequence[str] | None = None
) -> tuple[Tensor, Tensor | None]:
    """`value` (N, *event) with NaN filled and the mask of its observed entries, None if all are."""
    if not value.is_floating_point() or (finite := value.isfinite()).all():
        return value, None
    mask = ~value.isnan()
    if (infinite := mask & ~finite).any():
        raise ValueError(f"{name!r} is infinite in {_places(infinite, columns)}")
    if not missing:
        raise ValueError(
            f"{name!r} has {int((~mask).sum())} missing entries (NaN) in {_places(~mask, columns)}:"
            " pass missing=True to treat them as missing, or drop those rows or columns"
        )
    if not (seen := mask.any(0)).all():
        raise ValueError(f"{name!r} has no observed entry at all{_columns(~seen, columns)}")
    first = mask.to(torch.uint8).argmax(0)  # (*event), the row of the first observed entry
    return torch.where(mask, value, value.gather(0, first[None])), mask


def _places(bad: Tensor, columns: Sequence[str] | None) -> str:
    """Rows and columns of the True entries of `bad` (N, *event), in words."""
    rows = bad.flatten(1).any(1) if bad.dim() > 1 else bad
    return f"rows {_some(rows.nonzero().flatten().tolist())}{_columns(bad.any(0), columns)}"


def _columns(bad: Tensor, columns: Sequence[str] | None) -> str:
    where = bad.flatten().nonzero().flatten().tolist() if bad.dim() else []
    names = [columns[i] for i in where] if columns and len(columns) == bad.numel() else where
    return f", columns {_some(names)}" if names else ""


def _some(items: Sequence[Any]) -> str:
    return ", ".join(map(repr, items[:5])) + (", …" if len(items) > 5 else "")


def _rows(index: Any, size: int) -> Tensor:
    """Places (M,) in 0 … size − 1 of an index or a boolean mask."""
    index = torch.as_tensor(index)
    if index.shape == (size,) and index.dtype == torch.bool:
        index = index.nonzero().flatten()
    if index.dim() != 1 or len(index) == 0 or index.dtype not in (torch.long, torch.int32):
        raise ValueError("expected at least one row number, or a mask with an entry for each row")
    if index.min() < 0 or index.max() >= size:
        raise ValueError(f"row numbers go from 0 to {size - 1}, got {index.min()} to {index.max()}")
    return index.long()


def _batch_size(batch_size: int | None, size: int) -> int:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"expected a batch_size of at least 1, got {batch_size}")
    return min(batch_size or size, size)


def _device(device: Device | torch.dtype) -> Device:
    return None if isinstance(device, torch.dtype) else device


def _moved(
    tensors: Mapping[str, Tensor], device: Device | torch.dtype, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """On a device, the floating ones also in a dtype (which may come in the device's place)."""
    dtype = device if isinstance(device, torch.dtype) else dtype
    return {
        key: tensor.to(_device(device), dtype if tensor.is_floating_point() else None)
        for key, tensor in tensors.items()
    }
