"""Which rows are trained on, tested on and left out."""

from __future__ import annotations

from collections.abc import Mapping

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
