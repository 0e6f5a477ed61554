"""A transductive support vector machine: unlabelled rows get labels and, slowly, a weight."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC

FIRST, FACTOR = 1e-4, 2.5  # C*/C at the start, and what it is multiplied by
MOST_TURNS = 10  # of labels and machine, at each C*
CHUNK = 2000  # rows that are labelled at a time


class TransductiveSVC:
    """min over f and ŷ of ½‖f‖² + C Σ_labelled ξ(y f(x)) + C* Σ_unlabelled ξ(ŷ f(x)).

    f lies in the space of a radial kernel. Self-labelling with an annealed weight: the machine
    labels the unlabelled rows, is fitted again with those labels at weight C*, and so on until no
    label changes; then C* grows, from 10⁻⁴ C by factors of 2.5 to C. The first labels are those of
    the machine of the labelled rows alone. Labels are given so that each class has the share that
    it has among the labelled rows (without this all rows soon have one label): the assignment of
    rows to places of classes with the greatest sum of decision values. Given f this is the best ŷ
    for two classes, so that for these no turn raises the objective; the objective is not convex,
    and what is found is a local minimum. This is the multi-switch of Sindhwani and Keerthi with as
    many switches as there are, not Joachims' search by pairs. Of more than two classes the machine
    is scikit-learn's, one against one. The kernel is that of all rows, (M + U)² numbers.

    Args:
        c: C.
        gamma: γ of the kernel exp(−γ ‖x − x'‖²); by default 1/(d Var[x]) over all rows.

    Reference: Joachims, "Transductive Inference for Text Classification using Support Vector
    Machines", 1999; Sindhwani and Keerthi, "Large Scale Semi-supervised Linear SVMs", 2006.

    Example:
        >>> x, y = np.array([[-2.0], [2.0]]), np.array([0, 1])
        >>> machine = TransductiveSVC().fit(x, y, np.array([[-2.5], [-1.0], [1.0], [3.0]]))
        >>> machine.predict(np.array([[-1.5], [1.5]])).tolist()
        [0, 1]
    """

    def __init__(self, c: float = 1.0, gamma: float | None = None):
        self.c, self.gamma = c, gamma
        self.rows = np.zeros((0, 0))  # (M + U, d)

    def fit(self, x: np.ndarray, y: np.ndarray, unlabelled: np.ndarray) -> TransductiveSVC:
        """Fits to rows (M, d) with their labels (M,), and to rows (U, d) without."""
        classes, counts = np.unique(y, return_counts=True)
        places = np.repeat(np.arange(len(classes)), _shares(counts, len(unlabelled)))  # (U,)
        self.rows = np.concatenate([x, unlabelled])
        if self.gamma is None:
            self.gamma = 1 / max(x.shape[1] * self.rows.var(), 1e-12)
        kernel = self._kernel(self.rows)
        alone = SVC(C=self.c, kernel="precomputed").fit(kernel[: len(x), : len(x)], y)
        values = alone.decision_function(kernel[len(x) :, : len(x)])
        labels = _assigned(values, classes, places)
        weight = FIRST / FACTOR
        while weight < 1:
            weight = min(1.0, weight * FACTOR)
            weights = np.concatenate([np.ones(len(x)), np.full(len(unlabelled), weight)])
            for _ in range(MOST_TURNS):
                machine = SVC(C=self.c, kernel="precomputed")
                self.machine = machine.fit(kernel, np.concatenate([y, labels]), weights)
                values, before = self.machine.decision_function(kernel[len(x) :]), labels
                labels = _assigned(values, classes, places)
                if np.array_equal(before, labels):
                    break
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The labels of rows, (N,)."""
        parts = range(0, len(x), CHUNK)
        return np.concatenate([self.machine.predict(self._kernel(x[i : i + CHUNK])) for i in parts])

    def _kernel(self, x: np.ndarray) -> np.ndarray:
        return rbf_kernel(x, self.rows, gamma=self.gamma)


def _assigned(values: np.ndarray, classes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(U,) labels, one row for each place of a class, the sum of decision values the greatest."""
    if values.ndim == 1:  # two classes: the greatest go to the second
        found = np.empty(len(values), dtype=int)
        found[np.argsort(values, kind="stable")] = places
        return classes[found]
    _, columns = linear_sum_assignment(values[:, places], maximize=True)  # rows in order
    return classes[places[columns]]


def _shares(counts: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in proportion to counts that sum to the total, by greatest remainder.

    Example:
        >>> _shares(np.array([1, 1, 2]), 10).tolist()
        [3, 2, 5]
    """
    exact = counts * total / counts.sum()
    found = np.floor(exact).astype(int)
    order = np.argsort(found - exact, kind="stable")
    found[order[: total - found.sum()]] += 1
    return found
