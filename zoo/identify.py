"""Identified forms of parameters that the likelihood leaves free: rotations, signs, labels."""

import torch
from torch import Tensor


def _ordered(W: Tensor) -> Tensor:
    """Columns by falling sum of squares, the largest entry of each made positive."""
    W = W[:, W.square().sum(0).argsort(descending=True)]
    largest = W.gather(0, W.abs().argmax(0, keepdim=True))  # (1, d)
    return W * torch.where(largest < 0, -1.0, 1.0).to(W)


def orthogonalize(W: Tensor) -> Tensor:
    """U S of the singular value decomposition W = U S Vᵀ: the same W Wᵀ, orthogonal columns.

    Columns stand by falling variance and the entry of largest size in each is positive, so all
    rotations and reflections W R of the same loadings give one answer (if no two singular
    values are equal).

    Args:
        W: (D, d) loadings.

    Returns:
        (D, d).

    Raises:
        ValueError: d > D.

    Reference: Tipping & Bishop, Probabilistic principal component analysis, 1999.

    >>> orthogonalize(torch.tensor([[0.0, 2.0], [-3.0, 0.0]]))
    tensor([[0., 2.],
            [3., 0.]])
    """
    if W.shape[-1] > W.shape[-2]:
        raise ValueError(f"loadings (D, d) need d <= D; got {tuple(W.shape)}")
    U, S, _ = torch.linalg.svd(W, full_matrices=False)
    return _ordered(U * S)


def varimax(W: Tensor, *, tol: float = 1e-10, max_iter: int = 1000) -> Tensor:
    """W R with the rotation R that maximises Σ_j [mean_i l_ij⁴ − (mean_i l_ij²)²], l = W R.

    Starts from `orthogonalize(W)`, so the answer does not depend on the rotation in which W is
    given; columns are then ordered and signed as there.

    Args:
        W: (D, d) loadings.
        tol: largest change of an entry of R at which the iteration stops.
        max_iter: largest number of iterations.

    Returns:
        (D, d).

    Raises:
        ValueError: d > D.

    Reference: Kaiser, The varimax criterion for analytic rotation in factor analysis, 1958.

    >>> W = torch.tensor([[1.0, 1.0], [2.0, 2.0], [1.0, -1.0]])
    >>> (varimax(W) ** 2).round(decimals=3)
    tensor([[2., 0.],
            [8., 0.],
            [0., 2.]])
    """
    start = orthogonalize(W.double())
    R = torch.eye(W.shape[1]).to(start)  # (d, d)
    for _ in range(max_iter):
        L = start @ R
        U, _, Vh = torch.linalg.svd(start.mT @ (L**3 - L * L.square().mean(0)))
        before, R = R, U @ Vh
        if (R - before).abs().max() < tol:
            break
    return _ordered(start @ R).to(W)


def loadings(W: Tensor, rotate: str | None = None) -> Tensor:
    """The loadings (D, d) in an identified form: `orthogonalize(W)`, or `varimax(W)`.

    Args:
        W: (D, d) loadings in any rotation.
        rotate: None or "varimax".

    Raises:
        ValueError: the rotation is unknown.
    """
    rotations = {None: orthogonalize, "varimax": varimax}
    if rotate not in rotations:
        raise ValueError(f"rotate must be None or 'varimax', not {rotate!r}")
    return rotations[rotate](W.detach())


def procrustes(W: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """W R and R, with R = argmin ‖W R − reference‖ over orthogonal matrices (d, d).

    With W Wᵀ ≈ reference referenceᵀ from two restarts, the latents go along: z ↦ Rᵀ z.

    Args:
        W: (D, d) loadings.
        reference: (D, d) loadings to be matched.

    Returns:
        The aligned loadings (D, d) and the rotation (d, d).

    Raises:
        ValueError: the shapes differ.

    Reference: Schönemann, A generalized solution of the orthogonal Procrustes problem, 1966.

    >>> W = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    >>> aligned, rotation = procrustes(W.flip(1), W)
    >>> torch.allclose(aligned, W, atol=1e-6)
    True
    """
    if W.shape != reference.shape:
        raise ValueError(
            f"W and reference need one shape (D, d); got {tuple(W.shape)} and "
            f"{tuple(reference.shape)}"
        )
    U, _, Vh = torch.linalg.svd(W.mT @ reference)
    return W @ (U @ Vh), U @ Vh


def match_components(features: Tensor, reference: Tensor) -> Tensor:
    """The permutation π that minimises Σ_c ‖features[π_c] − reference_c‖² (Hungarian method).

    Features of a component are whatever identifies it: its mean (D,), or its column of the
    responsibilities (N,), which compares co-assignment.

    Args:
        features: (C, F), one row per component.
        reference: (C, F) of the run to which the components are matched.

    Returns:
        (C,) integers: `features[permutation]` is in the reference's order.

    Raises:
        ValueError: the shapes differ.

    Reference: Kuhn, The Hungarian method for the assignment problem, 1955.

    >>> means = torch.tensor([[0.0], [5.0], [9.0]])
    >>> match_components(means, torch.tensor([[8.0], [0.5], [5.5]]))
    tensor([2, 0, 1])
    """
    from scipy.optimize import linear_sum_assignment

    if features.shape != reference.shape:
        raise ValueError(
            f"features and reference need one shape (C, F); got {tuple(features.shape)} and "
            f"{tuple(reference.shape)}"
        )
    cost = (reference.detach()[:, None] - features.detach()[None]).square().sum(-1)
    _, permutation = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(permutation, device=features.device)
