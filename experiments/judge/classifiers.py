"""Classifiers on few labelled rows: the choice of those, the fit, and the error on new rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from zoo._splits import label_rows

CLASSIFIERS = ("svm", "logistic", "knn", "tsvm")
MOST_STEPS = 2000  # of the logistic regression


def choose(y: np.ndarray, count: int | Literal["all"], seed: int) -> np.ndarray:
    """Places of labelled rows, as many of each class: M // C, and one more of some classes.

    They are the rows that ``load_data(labels=M, label_seed=seed)`` labels.

    Args:
        y: (N,) classes, negative where a row has none.
        count: M, or all rows that have a class.
        seed: of the rows, and of the classes that have one more.

    Raises:
        ValueError: fewer rows than classes, or more than there are of a class; a single class.

    Example:
        >>> rows = choose(np.array([0, 1, 1, 0, 1, -1]), 3, seed=0)
        >>> len(rows), bool(5 in rows)
        (3, False)
    """
    if (found := len(np.unique(y[y >= 0]))) < 2:
        raise ValueError(f"a classifier needs two classes, the training rows have {found}")
    return label_rows(y, count, 0, seed)[0]


def guesses(
    word: str,
    x: np.ndarray,
    y: np.ndarray,
    unlabelled: np.ndarray,
    new: np.ndarray,
    *,
    c: float = 1.0,
    neighbours: int = 1,
) -> tuple[np.ndarray, bool]:
    """Classes (n,) of new rows by a classifier fitted to rows (M, d), and whether it converged.

    Args:
        word: of `CLASSIFIERS`.
        x, y: the labelled rows and their classes.
        unlabelled: (U, d), for tsvm.
        new: (n, d).
        c: the penalty of errors, of all but knn.
        neighbours: k of knn.
    """
    machine: Any
    if word == "tsvm":
        from experiments.judge.transductive import TransductiveSVC

        return TransductiveSVC(c).fit(x, y, unlabelled).predict(new), True
    if word == "svm":
        from sklearn.svm import SVC

        machine = SVC(C=c)
    elif word == "knn":
        from sklearn.neighbors import KNeighborsClassifier

        machine = KNeighborsClassifier(neighbours)
    else:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        machine = LogisticRegression(C=c, max_iter=MOST_STEPS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is said in words
            machine.fit(x, y)
        return machine.predict(new), bool(machine.n_iter_.max() < MOST_STEPS)
    return machine.fit(x, y).predict(new), True


def error(wrong: Sequence[np.ndarray]) -> dict[str, Any]:
    """The mean over choices of labels of the mean over rows, and its errors.

    Args:
        wrong: a choice an entry, (n,) of 0 and 1, or of differences of such.

    Returns:
        ``mean``; ``se``, over rows of their means over the choices: √(p (1 − p)/n) with one choice;
        ``values``, one a choice, and ``sd``, theirs, None with one.

    Example:
        >>> error([np.array([1, 0, 0, 0])])
        {'mean': 0.25, 'se': 0.216..., 'sd': None, 'values': [0.25]}
    """
    rows = np.asarray(wrong, dtype=float)  # (S, n)
    values = rows.mean(1)
    return {
        "mean": float(values.mean()),
        "se": float(rows.mean(0).std() / math.sqrt(rows.shape[1])),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else None,
        "values": values.tolist(),
    }


def confusion(truth: np.ndarray, guess: np.ndarray, classes: np.ndarray) -> list[list[int]]:
    """How many rows of each class (down) were taken for each (across).

    Example:
        >>> confusion(np.array([0, 0, 2]), np.array([0, 2, 2]), np.array([0, 2]))
        [[1, 1], [0, 1]]
    """
    table = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(table, (np.searchsorted(classes, truth), np.searchsorted(classes, guess)), 1)
    return table.tolist()
