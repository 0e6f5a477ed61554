"""Arrays as clean tensors: types, missing entries, row numbers, devices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Device = torch.device | str | int | None


def as_item(item: Any) -> dict[str, Tensor]:
    """One row of a torch data set as name -> (*event)."""
    if isinstance(item, tuple | list):
        item = item[0]
    given = item if isinstance(item, Mapping) else {"x": item}
    return {key: as_tensor(key, np.asarray(v) if np.isscalar(v) else v) for key, v in given.items()}


def as_tensor(name: str, value: Any) -> Tensor:
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


def check_rows(
    name: str,
    tensors: Mapping[str, Tensor],
    labels: Tensor | None,
    columns: Sequence[str] | None,
    shape: Sequence[int] | None,
) -> None:
    """ValueError unless there are rows, equally many of everything, as wide as is said."""
    lengths = {key: len(value) if value.dim() else 0 for key, value in tensors.items()}
    if labels is not None:
        lengths["labels"] = len(labels) if labels.dim() == 1 else -1
    if not tensors or 0 in lengths.values():
        raise ValueError(f"{name}: expected at least one row of data, got {lengths}")
    if -1 in lengths.values():
        raise ValueError(f"{name}: expected one label a row, in an array of shape (N,)")
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{name}: expected equally many rows, got {lengths}")
    event = tensors["x"].shape[1:] if "x" in tensors else torch.Size()
    if columns is not None and event[-1:] != (len(columns),):
        raise ValueError(f"{len(columns)} feature_names do not fit x with rows {tuple(event)}")
    if shape is not None and math.prod(shape) != event.numel():
        raise ValueError(f"image_shape {shape} does not fit x with rows {tuple(event)}")


def clean(
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


def row_numbers(index: Any, size: int) -> Tensor:
    """Places (M,) in 0 … size − 1 of an index or a boolean mask."""
    index = torch.as_tensor(index)
    if index.shape == (size,) and index.dtype == torch.bool:
        index = index.nonzero().flatten()
    if index.dim() != 1 or len(index) == 0 or index.dtype not in (torch.long, torch.int32):
        raise ValueError("expected at least one row number, or a mask with an entry for each row")
    if index.min() < 0 or index.max() >= size:
        raise ValueError(f"row numbers go from 0 to {size - 1}, got {index.min()} to {index.max()}")
    return index.long()


def whole_batch(batch_size: int | None, size: int) -> int:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"expected a batch_size of at least 1, got {batch_size}")
    return min(batch_size or size, size)


def visits(size: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """(N,): the rows in the order of an epoch, their own where one batch holds them all."""
    if batch_size >= size:
        return torch.arange(size)
    return torch.randperm(size, generator=_generator(seed, epoch))


def shuffles(size: int, count: int, seed: int, epoch: int) -> Tensor:
    """(count,): rows that go round in one fresh order after the other, apart from `visits`."""
    generator = _generator(seed, epoch, 1)
    rounds = [torch.randperm(size, generator=generator) for _ in range(-(-count // size))]
    return torch.cat(rounds)[:count]


def _generator(seed: int, *words: int) -> torch.Generator:
    state = np.random.SeedSequence([seed % 2**64, *words]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def only_device(device: Device | torch.dtype) -> Device:
    return None if isinstance(device, torch.dtype) else device


def moved(
    tensors: Mapping[str, Tensor], device: Device | torch.dtype, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """On a device, the floating ones also in a dtype (which may come in the device's place)."""
    dtype = device if isinstance(device, torch.dtype) else dtype
    return {
        key: tensor.to(only_device(device), dtype if tensor.is_floating_point() else None)
        for key, tensor in tensors.items()
    }


def some_rows(count: int, num_rows: int, seed: int) -> Tensor:
    """(M,): `num_rows` of N rows, in their order, by `RandomState(seed % 2**32).permutation`."""
    order = np.random.RandomState(seed % 2**32).permutation(count)[:num_rows]
    return torch.from_numpy(np.sort(order))
