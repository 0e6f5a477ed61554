"""The generalized Pareto distribution of what exceeds a cutoff: fit, quantiles, survival."""

from __future__ import annotations

import torch
from torch import Tensor

WEIGHT = 10.0  # the prior of k counts as so many exceedances
CENTRE = 0.5  # its mean


def fit(excess: Tensor) -> tuple[Tensor, Tensor]:
    """k and σ of P(X > x) = (1 + k x/σ)^(−1/k), from L exceedances of each of N rows.

    Formula: with b = −k/σ, the profile likelihood ℓ(b) = L (log(−b/k(b)) − k(b) − 1) and
    k(b) = (1/L) Σ_i log(1 − b x_i) is averaged over a grid of b that follows the data, and
    k = k(b̄), σ = −k/b̄. Then k is drawn to ½ as if by ten more exceedances: (L k + 5)/(L + 10).

    Args:
        excess: (N, L) float64, above 0 and rising along the last dimension.

    Returns:
        k and σ, (N,) each; NaN where the smaller exceedances are 0.

    Reference: Zhang and Stephens, "A New and Efficient Estimation Method for the Generalized
    Pareto Distribution", 2009; Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto Smoothed
    Importance Sampling", 2024 (the prior of k).

    Example:
        >>> u = (torch.arange(3000, dtype=torch.float64) + 0.5) / 3000
        >>> k, sigma = fit(((1 - u) ** -0.3 - 1)[None] / 0.3)
        >>> round(k.item(), 2), round(sigma.item(), 2)
        (0.3, 1.0)
    """
    count = excess.shape[-1]
    size = 30 + int(count**0.5)
    grid = torch.arange(1, size + 1, dtype=excess.dtype, device=excess.device) - 0.5
    quartile, largest = excess[:, int(count / 4 + 0.5) - 1], excess[:, -1]
    b = (1 - (size / grid).sqrt()) / (3 * quartile[:, None]) + 1 / largest[:, None]  # (N, m)
    k = torch.log1p(-b[:, :, None] * excess[:, None]).mean(-1)
    log_likelihood = count * (torch.log(-b / k) - k - 1)
    share = log_likelihood.softmax(-1)
    share = torch.where(share < 10 * torch.finfo(share.dtype).eps, 0.0, share)
    b = (b * share).sum(-1) / share.sum(-1)  # (N,)
    k = torch.log1p(-b[:, None] * excess).mean(-1)
    return (count * k + WEIGHT * CENTRE) / (count + WEIGHT), -k / b


def quantile(probability: Tensor, k: Tensor, sigma: Tensor) -> Tensor:
    """(N, P): x with P(X ≤ x) = probability (P,), for each k and σ (N,)."""
    log_survival = torch.log1p(-probability)[None]
    small = k.abs() < torch.finfo(k.dtype).eps
    shape = torch.where(small, 1.0, k)[:, None]
    found = torch.where(small[:, None], -log_survival, torch.expm1(-shape * log_survival) / shape)
    return found * sigma[:, None]


def survival(x: Tensor, k: Tensor, sigma: Tensor) -> Tensor:
    """(...): P(X > x) of x (...), with k and σ broadcast over it."""
    small = k.abs() < torch.finfo(k.dtype).eps
    shape = torch.where(small, 1.0, k)
    inside = (1 + shape * x / sigma).clamp_min(0)
    return torch.where(small, torch.exp(-x / sigma), inside ** (-1 / shape))
