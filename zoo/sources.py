"""Named data sets and files: `load_data(name)` gives a training and a test set, and a record."""

from __future__ import annotations

import csv
import difflib
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.data import Dataset

__all__ = ["SOURCES", "Split", "data_folder", "load_data"]

SOURCES = {
    "digits": "1797 handwritten digits, 8×8 pixels with values 0 … 16, divided by 16; 10 classes",
    "iris": "150 flowers, 4 measures; 3 species",
    "wine": "178 wines, 13 chemical measures; 3 cultivars",
    "breast_cancer": "569 tumours, 30 measures of cell nuclei; benign or malignant",
}
MISSING = {"", "na", "nan"}
LABELS = ("labels", "y")


@dataclass(frozen=True)
class Split:
    """A training set, a test set (None where `test_fraction` is 0), and how they came about.

    `record` is plain JSON: the arguments of `load_data` that repeat it, `transform` in words,
    `mean` and `scale` of x ↦ (x − mean) / scale, `num_train`, `num_test`, `class_names`, and for
    a file its path and SHA-256.
    """

    train: Dataset
    test: Dataset | None
    record: dict[str, Any]


@dataclass
class _Raw:
    """What a source holds, before scaling and splitting."""

    values: dict[str, Any]
    labels: np.ndarray | None = None
    feature_names: list[str] | None = None
    image_shape: tuple[int, ...] | None = None
    class_names: list[str] | None = None
    continuous: bool = True  # measured quantities: standardised unless told otherwise
    divisor: float | None = None  # a scaling of its own instead of standardising
    record: dict[str, Any] = field(default_factory=dict)


def load_data(
    name: str | Path,
    *,
    data_root: str | Path | None = None,
    standardize: bool | Literal["train"] | None = None,
    test_fraction: float = 0.2,
    label_column: str | None = None,
    missing: bool = False,
) -> Split:
    """Load a data set, scale the site "x" and split the rows.

    Formula: x ↦ (x − mean) / sd column by column, with the population sd (1/n) over the observed
    entries; a constant column becomes 0. The first ⌊(1 − F) N⌋ rows of
    `numpy.random.RandomState(0).permutation(N)` are the training set, the others the test set;
    with F = 0 all rows are the training set, in their own order.

    Args:
        name: a name in `SOURCES`, or a file. `.csv`: a header, then numeric cells (an empty cell,
            NA or nan is missing; a first column without a name or called "rownames" is dropped).
            `.npy`: an array (N, …). `.npz`: an array "x" or only one array; "labels" or else "y"
            holds classes; other arrays of N rows become further values. `.pt`: a tensor, or a
            dict of tensors read like an `.npz`. "x" becomes floating, (N,) becomes (N, 1), and
            images (N, …) become (N, D) with their `image_shape`.
        data_root: where a relative file name is looked for that is not in the working directory;
            default the environment's ZOO_DATA, else `latent-zoo` in the user's cache.
        standardize: by the mean and sd of all rows (True), of the training rows ("train"), or not
            (False). None: "digits" are divided by 16; measured quantities are standardised;
            images, integer and boolean arrays, and tables of counts stay as they are.
        test_fraction: F in [0, 1).
        label_column: column of a `.csv`, or array of an `.npz` or `.pt`, that holds classes.
        missing: read NaN as missing entries (a missing class becomes −1).

    Raises: ValueError for a file that is missing, empty, ragged, not numeric or not readable
    without executing code, an unknown name or label column, NaN without `missing`, Inf, arrays of
    different length, or options out of range.

    Reference: Probabilistic Principal Component Analysis (Tipping and Bishop, 1999).

    >>> split = load_data("iris")
    >>> len(split.train), len(split.test), split.record["class_names"][0]
    (120, 30, 'setosa')
    """
    if standardize not in (None, True, False, "train"):
        raise ValueError(f"standardize is true, false or train, got {standardize!r}")
    if not isinstance(test_fraction, int | float) or not 0 <= test_fraction < 1:
        raise ValueError(f"test_fraction lies in [0, 1), got {test_fraction!r}")
    name = str(name)
    raw = _read(name, data_root, label_column, missing)
    full = Dataset(
        {key: _double(value) if key == "x" else value for key, value in raw.values.items()},
        labels=raw.labels,
        name=name if name in SOURCES else Path(name).stem,
        feature_names=raw.feature_names,
        image_shape=raw.image_shape,
        missing=missing,
    )
    order = (
        np.random.RandomState(0).permutation(len(full)) if test_fraction else np.arange(len(full))
    )
    num_train = int(round((1 - test_fraction) * len(full), 6))
    if num_train == 0:
        raise ValueError(f"{len(full)} rows leave none to train on; use a smaller test_fraction")

    if standardize is None and raw.divisor is None:
        standardize = raw.continuous
    mean, scale, transform = torch.zeros(()), torch.ones(()), "none"
    if standardize:
        rows = full.subset(order[:num_train]) if standardize == "train" else full
        mean, scale = _moments(rows["x"], rows.observed.get("x"))
        which = "training" if standardize == "train" else "all"
        transform = f"standardised by mean and population sd of {which} rows"
    elif standardize is None and raw.divisor is not None:
        scale, transform = torch.tensor(raw.divisor), f"divided by {raw.divisor:g}"
    full = full.with_values(x=(full["x"] - mean) / scale).to(dtype=torch.get_default_dtype())
    test = full.subset(order[num_train:]) if num_train < len(full) else None
    record = {
        "name": name,
        "standardize": standardize,
        "test_fraction": test_fraction,
        "label_column": label_column,
        "missing": missing,
        "transform": transform,
        "mean": mean.tolist(),
        "scale": scale.tolist(),
        "split": "RandomState(0).permutation, first rows train" if test_fraction else "none",
        "num_train": num_train,
        "num_test": len(full) - num_train,
        "class_names": raw.class_names,
        **raw.record,
    }
    return Split(full.subset(order[:num_train]), test, record)


def data_folder(data_root: str | Path | None = None) -> Path:
    """The folder for data: `data_root`, else ZOO_DATA, else `latent-zoo` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(data_root or os.environ.get("ZOO_DATA") or Path(cache, "latent-zoo")).expanduser()


def _double(x: Any) -> Any:
    """The site "x" in double precision, so that scaling rounds once; other types are left."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "biuf":
        x = torch.from_numpy(x.astype(np.float64))
    return x.double() if isinstance(x, Tensor) and not x.is_complex() else x


def _moments(x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and population sd (*event) over the observed rows of x (n, *event); a constant column
    has its value and 1."""
    mask = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
    count = mask.sum(0).clamp(min=1)
    low = x.masked_fill(~mask, torch.inf).amin(0)
    constant = low >= x.masked_fill(~mask, -torch.inf).amax(0)
    mean = (x * mask).sum(0) / count
    sd = (((x - mean) ** 2 * mask).sum(0) / count).sqrt()
    mean = torch.where(constant & mask.any(0), low, mean)
    return mean, torch.where(constant, 1.0, sd)


def _read(name: str, data_root: str | Path | None, label_column: str | None, missing: bool) -> _Raw:
    if name in SOURCES:
        if label_column is not None:
            raise ValueError(f"{name} has its own labels; leave out label_column={label_column!r}")
        return _read_sklearn(name)
    reader = READERS.get(Path(name).suffix.lower())
    if reader is None:
        near = difflib.get_close_matches(name, SOURCES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"no data set {name!r}{hint} Expected one of {', '.join(SOURCES)}, or a file ending in "
            f"{', '.join(READERS)}"
        )
    path = Path(name).expanduser()
    path = next((p for p in (path, data_folder(data_root) / path) if p.exists()), path)
    if not path.is_file():
        raise ValueError(
            f"no file {name!r} in the working directory or in {data_folder(data_root)}; "
            "set data_root or ZOO_DATA to the folder that has it"
        )
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    raw = reader(path, label_column, missing)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    raw.record |= {"path": str(path.resolve()), "sha256": digest}
    return raw


def _read_sklearn(name: str) -> _Raw:
    from sklearn import datasets

    bunch: Any = getattr(datasets, f"load_{name}")()
    digits = name == "digits"
    return _Raw(
        {"x": bunch.data},
        labels=bunch.target,
        feature_names=[str(column) for column in bunch.feature_names],
        image_shape=(8, 8) if digits else None,
        class_names=[str(label) for label in bunch.target_names],
        divisor=16.0 if digits else None,
    )


def _read_csv(path: Path, label_column: str | None, missing: bool) -> _Raw:
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
    raw = _Raw({"x": x}, feature_names=list(table), record={"row_names": row_names})
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


def _read_numpy(path: Path, label_column: str | None, missing: bool) -> _Raw:
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


def _read_torch(path: Path, label_column: str | None, missing: bool) -> _Raw:
    try:
        arrays = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(
            f"{path} is not a readable .pt file of tensors (anything else, which can execute code, "
            f"is not loaded): {str(error).splitlines()[:1]}"
        ) from error
    return _arrays(path, arrays, label_column, missing)


def _arrays(path: Path, arrays: Any, label_column: str | None, missing: bool) -> _Raw:
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
    if len(x) and x.ndim != 2:
        values["x"] = x.reshape(len(x), -1)  # (N, D)
    raw = _Raw(values, image_shape=tuple(x.shape[1:]) if x.ndim > 2 else None)
    raw.continuous = x.ndim <= 2 and "float" in str(x.dtype)
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


READERS: dict[str, Callable[[Path, str | None, bool], _Raw]] = {
    ".csv": _read_csv,
    ".npy": _read_numpy,
    ".npz": _read_numpy,
    ".pt": _read_torch,
}
