"""Which rows are trained on, tested on and left out."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Literal

import numpy as np

CHOSEN = 2  # the seed of the order in which num_train and num_test take rows


def split_rows(
    count: int,
    official: Mapping[str, np.ndarray] | None,
    test_fraction: float | None,
    validation: str,
    num_train: int | None,
    num_test: int | None,
) -> tuple[dict[str, np.ndarray], str]:
    """Row numbers of "train", "test" and "valid" (which may be empty), and how they were split.

    `num_train` and `num_test` take the first rows of a side by `RandomState(2).permutation`, so
    that the rows of a smaller number are among those of a larger one.

    Raises: ValueError for numbers that cannot be had.
    """
    empty = np.arange(0)
    if official is not None and test_fraction is None:
        parts = {name: official.get(name, empty) for name in ("train", "test", "valid")}
        how = "official"
        if len(parts["valid"]):
            how += ", validation rows " + ("left out" if validation == "leave" else "trained on")
        if validation == "train":
            parts |= {"train": np.concatenate([parts["train"], parts["valid"]]), "valid": empty}
    else:
        fraction = 0.2 if test_fraction is None else test_fraction
        order = np.random.RandomState(0).permutation(count) if fraction else np.arange(count)
        cut = int(round((1 - fraction) * count, 6))
        if cut == 0:
            raise ValueError(f"{count} rows leave none to train on; use a smaller test_fraction")
        parts = {"train": order[:cut], "test": order[cut:], "valid": empty}
        how = "RandomState(0).permutation, first rows train" if fraction else "none"
    for side, wanted in (("train", num_train), ("test", num_test)):
        rows = parts[side]
        if wanted is None or wanted == len(rows):
            continue
        if not (side == "train") <= wanted < len(rows):
            raise ValueError(f"num_{side}={wanted}, but there are {len(rows)} {side} rows to take")
        order = np.random.RandomState(CHOSEN).permutation(len(rows))
        parts[side] = rows[order[:wanted]]
    return parts, how


def label_rows(
    classes: np.ndarray | None, labels: int | Literal["all"] | None, validation: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose labels are kept, and rows whose labels serve judging alone; in order, disjoint.

    Formula: the classes and the rows of each are put in an order that the seed gives. Of C classes
    each gives its first M // C rows, the first M mod C classes one more; to judge with, each gives
    its last V // C rows, likewise. So the rows of a smaller number are among those of a larger one,
    and neither choice depends on the other.

    Args:
        classes: (N,) the class of each row; negative: it is missing.
        labels: M, or "all" that are not to judge with.
        validation: V.
        seed: of a stream of its own.

    Raises: ValueError for numbers that cannot be had.
    """
    if labels is not None and labels != "all" and (not _whole(labels) or labels < 1):
        raise ValueError(f"labels is a number of rows, all, or left out, got {labels!r}")
    if not _whole(validation) or validation < 0:
        raise ValueError(f"validation_labels is a number of rows from 0, got {validation!r}")
    empty = np.arange(0)
    if labels is None and not validation:
        return empty, empty
    if classes is None or not (classes >= 0).any():
        raise ValueError("the data have no labels to keep; leave labels and validation_labels out")
    words = [seed % 2**64, zlib.crc32(b"labels")]
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(words)))
    order = random.permutation(np.unique(classes[classes >= 0]))
    rows = [random.permutation(np.flatnonzero(classes == c)) for c in order]
    every = "all" if labels == "all" else labels or 0
    kept = _shares("labels", 0 if every == "all" else every, order, rows)
    aside = _shares("validation_labels", validation, order, rows)
    for c, own, k, v in zip(order, rows, kept, aside, strict=True):
        if k + v > len(own):
            raise ValueError(
                f"labels={labels} and validation_labels={validation} take {k} and {v} rows of "
                f"class {c}, which has {len(own)}; take fewer"
            )
    judging = np.concatenate([own[len(own) - v :] for own, v in zip(rows, aside, strict=True)])
    if every == "all":
        chosen = np.setdiff1d(np.concatenate(rows), judging)
        if not len(chosen):
            raise ValueError(f"validation_labels={validation} leaves no labels to train on")
    else:
        chosen = np.concatenate([own[:k] for own, k in zip(rows, kept, strict=True)])
    return np.sort(chosen), np.sort(judging)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shares(option: str, count: int, order: np.ndarray, rows: list[np.ndarray]) -> list[int]:
    """How many of `count` rows each class gives, classes in order."""
    if count > (there := sum(map(len, rows))):
        raise ValueError(f"{option}={count}, but {there} training rows have a label")
    if 0 < count < len(order):
        raise ValueError(f"{option}={count} is fewer than one row of each of {len(order)} classes")
    return [count // len(order) + (i < count % len(order)) for i in range(len(order))]
