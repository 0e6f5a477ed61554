"""Named data sets and files: `load_data(name)` gives a training and a test set, and a record."""

from __future__ import annotations

import difflib
import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from zoo._image_folder import read_folder
from zoo._image_sources import IMAGES, read_images
from zoo._readers import READERS, Raw, read_sklearn
from zoo._scaling import scaled
from zoo._splits import label_rows, split_rows
from zoo.data import Dataset
from zoo.images import BINARIZATIONS, Binarization, as_image_rows

__all__ = ["SOURCES", "Split", "data_folder", "load_data"]

SOURCES = {
    "digits": "1797 handwritten digits, 8×8 pixels with values 0 … 16, divided by 16; 10 classes",
    "iris": "150 flowers, 4 measures; 3 species",
    "wine": "178 wines, 13 chemical measures; 3 cultivars",
    "breast_cancer": "569 tumours, 30 measures of cell nuclei; benign or malignant",
    "mnist": "60000 + 10000 handwritten digits, 28×28 grey levels; binarized dynamically",
    "fashion_mnist": "60000 + 10000 pictures of clothes, 28×28 grey levels; binarized dynamically",
    "static_mnist": "50000 (+ 10000) + 10000 digits binarized once, by Larochelle and Murray",
    "omniglot28": "24345 + 8070 characters of 50 alphabets, 28×28; binarized dynamically",
    "caltech_silhouettes": "8671 silhouettes of 101 classes of objects, 28×28, binary",
    "frey_faces": "1965 frames of one face, 28×20 grey levels",
}


@dataclass(frozen=True)
class Split:
    """A training set, a test set (None where there is none), and how they came about.

    `record` is plain JSON: the arguments of `load_data` that repeat it, `transform` in words,
    `mean` and `scale` of x ↦ (x − mean) / scale, `split` in words, `num_train`, `num_test`,
    `binarization` and the `binarization_seed` of its draw (None without one), `class_names`,
    `num_labels` (the training rows that have the value "y"), and for a file its path and SHA-256.
    `valid` holds the validation rows of an official split that has them, where they are not trained
    on. `validation` holds training rows whose labels are kept for judging, where there are some.
    """

    train: Dataset
    test: Dataset | None
    record: dict[str, Any]
    valid: Dataset | None = None
    validation: Dataset | None = None


def load_data(
    name: str | Path,
    *,
    data_root: str | Path | None = None,
    standardize: bool | Literal["train"] | None = None,
    test_fraction: float | None = None,
    binarization: Binarization | None = None,
    binarization_seed: int = 0,
    validation: Literal["leave", "train"] = "leave",
    num_train: int | None = None,
    num_test: int | None = None,
    label_column: str | None = None,
    missing: bool = False,
    labels: int | Literal["all"] | None = None,
    label_seed: int = 0,
    validation_labels: int = 0,
) -> Split:
    """Load a data set, scale or binarize the site "x" and split the rows.

    Formula: x ↦ (x − mean) / sd column by column, with the population sd (1/n) over the observed
    entries; a constant column becomes 0. The first ⌊(1 − F) N⌋ rows of
    `numpy.random.RandomState(0).permutation(N)` are the training set, the others the test set;
    with F = 0 all rows are the training set, in their own order.

    Args:
        name: a name in `SOURCES`, a file, or a folder of images. `.csv`: a header, then numeric
            cells (an empty cell, NA or nan is missing; a first column without a name or called
            "rownames" is dropped). `.npy`: an array (N, …). `.npz`: an array "x" or only one
            array; "labels" or else "y" holds classes; other arrays of N rows become further values.
            `.pt`: a tensor, or a dict of tensors read like an `.npz`. "x" becomes floating, (N,)
            becomes (N, 1), and images (N, …) become (N, D) with their `image_shape`. A folder: its
            images, all of one size; sub-folders are classes. Images of bytes stay bytes and are
            served as k/255, or as 0 and 1 where there is no other value; a table (N, D) of bytes is
            one of counts.
        data_root: where a relative file name is looked for that is not in the working directory,
            and where named images are, or are downloaded to; default the environment's ZOO_DATA,
            else `latent-zoo` in the user's cache.
        standardize: by the mean and sd of all rows (True), of the training rows ("train"), or not
            (False). None: "digits" are divided by 16, images of bytes by 255; measured quantities
            are standardised; other images, integers, booleans, and tables of counts stay.
        test_fraction: F in [0, 1); by default the official split where there is one, else 0.2.
        binarization: what becomes of grey levels in [0, 1]: `static`, one Bernoulli draw (not the
            published one, which is the data set `static_mnist`); `dynamic`, one at every visit in
            training; `none`. By default the source's own: none, or as `SOURCES` says.
        binarization_seed: of the static draw, or of the one that dynamic data are evaluated on.
        validation: `train` adds the validation rows of an official split to the training rows.
        num_train: take so many training rows, the first by `RandomState(2).permutation`.
        num_test: likewise; 0 takes none.
        label_column: column of a `.csv`, or array of an `.npz` or `.pt`, that holds classes.
        missing: read NaN as missing entries (a missing class becomes −1).
        labels: M; so many training rows keep their label as the value "y", as many of each class
            (± 1), and come first: see `Dataset.labelled`. All others, and the test rows, are judged
            with theirs only. `all`: every training row that has one.
        label_seed: of the choice of these rows; those of a smaller M are among those of a larger.
        validation_labels: V further training rows, as many of each class (± 1), whose labels serve
            judging alone; they are trained on without, and are the split's `validation`.

    Raises: ValueError for a file that is missing, empty, ragged, not numeric or not readable
    without executing code, an unknown name or label column, NaN without `missing`, Inf, arrays of
    different length, images that cannot be fetched (with their address and folder), a binarization
    of values outside [0, 1], labels that are not there or too few, or options out of range.

    Reference: Probabilistic Principal Component Analysis (Tipping and Bishop, 1999).

    >>> split = load_data("iris")
    >>> len(split.train), len(split.test), split.record["class_names"][0]
    (120, 30, 'setosa')
    """
    if standardize not in (None, True, False, "train"):
        raise ValueError(f"standardize is true, false or train, got {standardize!r}")
    fraction = 0.0 if test_fraction is None else test_fraction
    if not isinstance(fraction, int | float) or not 0 <= fraction < 1:
        raise ValueError(f"test_fraction lies in [0, 1), got {test_fraction!r}")
    if binarization not in (None, *BINARIZATIONS):
        raise ValueError(f"binarization is static, dynamic or none, got {binarization!r}")
    name = str(name)
    raw = _read(name, data_root, label_column, missing)
    if validation not in ("leave", "train"):
        raise ValueError(f"validation is leave or train, got {validation!r}")
    if validation == "train" and (test_fraction is not None or "valid" not in (raw.parts or {})):
        raise ValueError(f"validation=train, but {name} is not split with validation rows")
    if raw.binarization == "static" and binarization == "dynamic":
        raise ValueError(
            f"{name} is binary already, so there is nothing to draw anew; for dynamic binarization "
            "take a source of grey levels, such as mnist"
        )
    raw.values["x"], shape = as_image_rows(raw.values["x"])
    raw.image_shape = raw.image_shape or shape
    fixed = binarization is None or raw.binarization == "static"
    word: Any = raw.binarization if fixed else binarization
    shown = name if name in SOURCES else Path(name).stem
    split = partial(
        split_rows,
        official=raw.parts,
        test_fraction=test_fraction,
        validation=validation,
        num_train=num_train,
        num_test=num_test,
    )
    full, scaling = scaled(raw, shown, standardize, split, missing, word, binarization_seed)
    parts, how = split(len(full))
    train, test, valid = (full.subset(parts[side]) if len(parts[side]) else None for side in parts)
    assert train is not None
    classes = None if train.labels is None else train.labels.numpy()
    known, aside = label_rows(classes, labels, validation_labels, label_seed)
    apart = train.subset(aside) if len(aside) else None
    train = train.labelled(known) if len(known) else train
    official = raw.parts is not None and test_fraction is None
    record = {
        "name": name,
        "test_fraction": None if official else 0.2 if test_fraction is None else test_fraction,
        "label_column": label_column,
        "missing": missing,
        **scaling,
        **({"validation": validation} if official and "valid" in (raw.parts or {}) else {}),
        "split": how,
        "num_train": len(parts["train"]),
        "num_test": len(parts["test"]),
        "class_names": raw.class_names,
        "labels": labels,
        "num_labels": len(known),
        "label_seed": label_seed,
        "validation_labels": validation_labels,
        **raw.record,
    }
    return Split(train, test, record, valid, apart)


def data_folder(data_root: str | Path | None = None) -> Path:
    """The folder for data: `data_root`, else ZOO_DATA, else `latent-zoo` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(data_root or os.environ.get("ZOO_DATA") or Path(cache, "latent-zoo")).expanduser()


def _read(name: str, data_root: str | Path | None, label_column: str | None, missing: bool) -> Raw:
    if name in SOURCES:
        if label_column is not None:
            raise ValueError(f"{name} has its own labels; leave out label_column={label_column!r}")
        folder = data_folder(data_root)
        return read_images(name, folder) if name in IMAGES else read_sklearn(name)
    path = Path(name).expanduser()
    path = next((p for p in (path, data_folder(data_root) / path) if p.exists()), path)
    if path.is_dir():
        if label_column is not None or missing:
            raise ValueError(f"{path} is a folder of images: it has no label_column or missing")
        return read_folder(path)
    reader = READERS.get(Path(name).suffix.lower())
    if reader is None:
        near = difflib.get_close_matches(name, SOURCES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"no data set {name!r}{hint} Expected one of {', '.join(SOURCES)}, a file ending in "
            f"{', '.join(READERS)}, or a folder of images"
        )
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
