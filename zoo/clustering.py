"""How well clusters agree with labels."""

from typing import Any

import numpy as np
import torch


def accuracy(labels: Any, clusters: Any) -> float:
    """max_m 1/N Σ_n [label_n = m(cluster_n)], over one-to-one maps m of clusters to labels.

    The best map is found by the Hungarian method. Where there are more clusters than labels, rows
    of the clusters that are left over count as wrong. Unlike the adjusted Rand index it is not
    corrected for chance: compare equal numbers of clusters.

    Args:
        labels: (N,) class ids, whole numbers.
        clusters: (N,) cluster ids, whole numbers.

    Raises:
        ValueError: no rows, or not one id a row in each.

    Reference: Kuhn, The Hungarian method for the assignment problem, 1955.

    >>> accuracy([0, 0, 1, 1, 2], [5, 5, 0, 0, 0])
    0.8
    """
    from scipy.optimize import linear_sum_assignment

    true, found = (torch.as_tensor(ids).cpu().numpy() for ids in (labels, clusters))
    if true.shape != found.shape or true.ndim != 1 or not len(true):
        raise ValueError(
            f"expected one label and one cluster a row, got shapes {true.shape} and {found.shape}"
        )
    rows, columns = (np.unique(ids, return_inverse=True)[1] for ids in (true, found))
    table = np.zeros((rows.max() + 1, columns.max() + 1), dtype=int)
    np.add.at(table, (rows, columns), 1)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / len(true))
