"""Named data sets and files: `load_data(name)` gives a training and a test set, and a record."""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo._readers import READERS, Raw, read_sklearn
from zoo.data import Dataset

__all__ = ["SOURCES", "Split", "data_folder", "load_data"]

SOURCES = {
    "digits": "1797 handwritten digits, 8×8 pixels with values 0 … 16, divided by 16; 10 classes",
    "iris": "150 flowers, 4 measures; 3 species",
    "wine": "178 wines, 13 chemical measures; 3 cultivars",
    "breast_cancer": "569 tumours, 30 measures of cell nuclei; benign or malignant",
}


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


def _read(name: str, data_root: str | Path | None, label_column: str | None, missing: bool) -> Raw:
    if name in SOURCES:
        if label_column is not None:
            raise ValueError(f"{name} has its own labels; leave out label_column={label_column!r}")
        return read_sklearn(name)
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
