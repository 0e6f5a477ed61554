"""What a data source holds before scaling and splitting: scikit-learn's sets, and files."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.images import as_image_rows

MISSING = {"", "na", "nan"}
LABELS = ("labels", "y")


@dataclass
class Raw:
    """What a source holds, before scaling and splitting."""

    values: dict[str, Any]
    labels: np.ndarray | None = None
    feature_names: list[str] | None = None
    image_shape: tuple[int, ...] | None = None
    class_names: list[str] | None = None
    continuous: bool = True  # measured quantities: standardised unless told otherwise
    divisor: float | None = None  # a scaling of its own instead of standardising
    binarization: str = "none"  # what is usual for the source; static where it is binary already
    parts: dict[str, np.ndarray] | None = None  # the official split: train, test, valid -> rows
    record: dict[str, Any] = field(default_factory=dict)


def read_sklearn(name: str) -> Raw:
    from sklearn import datasets

    bunch: Any = getattr(datasets, f"load_{name}")()
    digits = name == "digits"
    return Raw(
        {"x": bunch.data},
        labels=bunch.target,
        feature_names=[str(column) for column in bunch.feature_names],
        image_shape=(8, 8) if digits else None,
        class_names=[str(label) for label in bunch.target_names],
        divisor=16.0 if digits else None,
    )


def read_csv(path: Path, label_column: str | None, missing: bool) -> Raw:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, [c.strip() for c in row]) for row in reader if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a comma-separated table in UTF-8: {error}") from error
    header = lines[0][1] if lines else []
    if not header or all(_number(cell) is not None for cell in header):
        raise ValueError(f"{path}: the first line must name the columns, got {header}")
    if "" in header[1:] or len(set(header)) < len(header):
        raise ValueError(f"{path}: expected a different name for every column, got {header}")
    for line, row in lines[1:]:
        if len(row) != len(header):
            raise ValueError(
                f"{path}: line {line} has {len(row)} cells, the header has {len(header)}"
            )
    if len(lines) == 1:
        raise ValueError(f"{path} has a header but no rows")
    cells = {column: [row[i] for _, row in lines[1:]] for i, column in enumerate(header)}
    labels = _pick(cells, label_column, path) if label_column is not None else None
    row_names = header[0] if header[0] in ("", "rownames") and header[0] in cells else None
    if row_names is not None:
        del cells[row_names]
    table = {
        column: [_number(cell) for cell in column_cells] for column, column_cells in cells.items()
    }
    if bad := [column for column, numbers in table.items() if None in numbers]:
        line, row = lines[1 + table[bad[0]].index(None)]
        raise ValueError(
            f"{path}: not numeric: {', '.join(map(repr, bad))} (line {line} has "
            f"{row[header.index(bad[0])]!r}); name a column of classes as label_column, or take "
            "the others out"
        )
    if not table:
        raise ValueError(f"{path} has no columns besides {header}")
    x = np.array(list(table.values()), dtype=np.float64).T  # (N, D)
    known = x[~np.isnan(x)]
    raw = Raw({"x": x}, feature_names=list(table), record={"row_names": row_names})
    raw.continuous = not (
        np.isfinite(known).all() and (known >= 0).all() and (known % 1 == 0).all()
    )
    if labels is not None:
        raw.labels, raw.class_names = _encode(labels, missing, f"{path}: column {label_column!r}")
    return raw


def _number(cell: str) -> float | None:
    try:
        return float("nan" if cell.lower() in MISSING else cell)
    except ValueError:
        return None


def read_numpy(path: Path, label_column: str | None, missing: bool) -> Raw:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            arrays: Any = loaded
        else:
            with loaded:
                arrays = dict(loaded)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(
            f"{path} is not a readable {path.suffix} file of numeric arrays (object arrays, which "
            f"can execute code, are not loaded): {error}"
        ) from error
    return _arrays(path, arrays, label_column, missing)


def read_torch(path: Path, label_column: str | None, missing: bool) -> Raw:
    try:
        arrays = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(
            f"{path} is not a readable .pt file of tensors (anything else, which can execute code, "
            f"is not loaded): {str(error).splitlines()[:1]}"
        ) from error
    return _arrays(path, arrays, label_column, missing)


def _arrays(path: Path, arrays: Any, label_column: str | None, missing: bool) -> Raw:
    """Sort the arrays of one file into x, labels and further values."""
    values = dict(arrays) if isinstance(arrays, Mapping) else {"x": arrays}
    if wrong := [key for key, v in values.items() if not isinstance(v, Tensor | np.ndarray)]:
        raise ValueError(f"{path}: expected a tensor or a dict of tensors; {wrong} are not tensors")
    labels = None
    key = label_column or next((key for key in LABELS if key in values), None)
    if key is not None:
        labels = np.asarray(_pick(values, key, path))
    if len(values) == 1:
        values = {"x": next(iter(values.values()))}
    if "x" not in values:
        raise ValueError(f"{path}: expected an array 'x' or only one array, got {list(values)}")
    x = values["x"]
    if x.ndim == 0:
        raise ValueError(f"{path}: expected an array with rows, got a single number")
    values["x"], shape = as_image_rows(x if x.ndim > 1 or not len(x) else x.reshape(-1, 1))
    raw = Raw(values, image_shape=shape)
    raw.continuous = shape is None and "float" in str(x.dtype)
    if labels is not None:
        raw.labels, raw.class_names = _encode(labels, missing, f"{path}: {key!r}")
    return raw


def _pick(columns: dict[str, Any], name: str, path: Path) -> Any:
    """Take the label column out of the columns."""
    if name not in columns:
        near = difflib.get_close_matches(name, columns, 1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{path} has no label column {name!r}{hint} It has {list(columns)}")
    return columns.pop(name)


def _encode(labels: Any, missing: bool, where: str) -> tuple[np.ndarray, list[str] | None]:
    """Integer classes (N,) as they are; anything else numbered in sorted order, with the names."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"{where} has shape {labels.shape}; expected one label a row")
    if labels.dtype.kind in "biu":
        return labels.astype(np.int64), None
    labels = labels.astype(str)
    absent = np.isin(np.char.lower(labels), list(MISSING))
    if absent.any() and not missing:
        raise ValueError(
            f"{where}: {absent.sum()} labels are missing; pass missing=True to mark them −1"
        )
    ids = np.full(len(labels), -1)
    try:
        ids[~absent], names = labels[~absent].astype(np.int64), None
    except ValueError:
        unique, ids[~absent] = np.unique(labels[~absent], return_inverse=True)
        names = unique.tolist()
    return ids, names


READERS: dict[str, Callable[[Path, str | None, bool], Raw]] = {
    ".csv": read_csv,
    ".npy": read_numpy,
    ".npz": read_numpy,
    ".pt": read_torch,
}
