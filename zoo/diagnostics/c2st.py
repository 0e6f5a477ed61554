"""Whether a classifier can tell draws of q from those of a reference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

FOLDS = 5
MOST_SQUARES = 40  # units whose products are features


@dataclass(frozen=True)
class Accuracy:
    """Cross-validated accuracy of a classifier, ½ where it cannot tell.

    Attributes:
        name: of the classifier.
        mean: the share of draws that it puts in the right set.
        se: √(p (1 − p)/n), binomial.
        num_draws: n, of both sets together.
    """

    name: str
    mean: float
    se: float
    num_draws: int

    @property
    def p(self) -> float:
        """Of as high an accuracy by chance, P(N(½, ¼/n) ≥ mean)."""
        z = (self.mean - 0.5) * 2 * math.sqrt(self.num_draws)
        return 0.5 * math.erfc(z / math.sqrt(2))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "p": self.p}


def c2st(draws: Tensor, reference: Tensor, seed: int = 0) -> tuple[Accuracy, ...]:
    """Accuracies of two classifiers on held-out draws: each sees what the other may miss.

    Logistic regression on the units, their squares and products tells apart means, standard
    deviations and correlations; nearest neighbours tell apart shapes and modes in few dimensions.
    Both have five folds with as many draws of q as of the reference.

    Args:
        draws: (S, U), of q.
        reference: (R, U); of the larger set the first min(S, R) are used.
        seed: of the folds.

    Raises:
        ValueError: fewer than 50 draws of either.

    Reference: Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", 2017.

    Example:
        >>> import torch
        >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> [a.name for a in c2st(x[:200], x[200:])], c2st(x[:200], x[200:] * 3)[0].mean > 0.7
        (['logistic', 'neighbours'], True)
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures, StandardScaler

    n = min(len(draws), len(reference))
    if n < 50:
        raise ValueError(f"a classifier needs 50 draws of each set or more, got {n}")
    x = np.concatenate([part[:n].detach().cpu().double().numpy() for part in (draws, reference)])
    y = np.repeat([0, 1], n)
    few = x.shape[1] <= MOST_SQUARES
    products = PolynomialFeatures(2, include_bias=False)
    features = products if few else FunctionTransformer(_squares)
    logistic = LogisticRegression(C=1.0, max_iter=2000)
    # An odd number of neighbours has no ties between two sets.
    neighbours = KNeighborsClassifier(n_neighbors=2 * (math.isqrt(n) // 2) + 1)
    found = []
    for name, classifier in (
        ("logistic", make_pipeline(StandardScaler(), features, StandardScaler(), logistic)),
        ("neighbours", make_pipeline(StandardScaler(), neighbours)),
    ):
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed % 2**32)
        share = float(np.mean(cross_val_predict(classifier, x, y, cv=folds) == y))
        found.append(Accuracy(name, share, math.sqrt(share * (1 - share) / len(y)), len(y)))
    return tuple(found)


def _squares(x: np.ndarray) -> np.ndarray:
    """(n, U) -> (n, 2 U): x and x², for many units."""
    return np.concatenate([x, x**2], 1)
