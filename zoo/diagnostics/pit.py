"""Ranks of truths among draws as numbers in (0, 1), and how far from uniform they are."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import kstwo
from torch import Tensor

from zoo.context import seeded, stream
from zoo.diagnostics.simulations import Simulations


def randomised_pit(truth: Tensor, draws: Tensor, seed: int, purpose: str = "pit") -> Tensor:
    """u = (#{z_s < z*} + V (1 + #{z_s = z*})) / (S + 1), V ~ U(0, 1), in float64.

    Where z*, z_1, …, z_S are exchangeable u is exactly uniform, at every S and also for discrete
    values; ranks themselves would not be, for a test that takes them for continuous.

    Args:
        truth: (…), z*.
        draws: (S, …), z_s.
        seed: of V.
        purpose: which of its streams V comes from.

    Example:
        >>> u = randomised_pit(torch.zeros(3), torch.tensor([-1.0, 0.0, 2.0])[:, None], 0)
        >>> bool(((u > 1 / 4) & (u < 3 / 4)).all())
        True
    """
    with seeded(stream(seed, purpose), truth.device):
        noise = torch.rand(truth.shape, dtype=torch.float64, device=truth.device)
    below, ties = (draws < truth).sum(0), (draws == truth).sum(0)
    return (below + noise * (1 + ties)) / (len(draws) + 1)


def unit_pits(simulations: Simulations) -> Tensor:
    """(n, U): the PIT of every unit; the same numbers for every diagnostic."""
    found = simulations
    return randomised_pit(found.truth, found.draws, found.seed, "pit of units")


def distance(pit: Tensor) -> Tensor:
    """(U,): D = sup_u |F_n(u) − u|, the Kolmogorov–Smirnov distance from uniform, of (n, U)."""
    ordered, n = pit.sort(0).values, len(pit)
    grid = torch.arange(n + 1, dtype=ordered.dtype, device=ordered.device) / n
    shape = (n, *[1] * (ordered.dim() - 1))
    above, below = grid[1:].reshape(shape) - ordered, ordered - grid[:-1].reshape(shape)
    return torch.maximum(above, below).amax(0)


def p_value(distances: Tensor, count: int) -> Tensor:
    """P(D_n ≥ D), the exact distribution of n uniform numbers."""
    p = np.asarray(kstwo.sf(distances.cpu().numpy(), count))
    return torch.as_tensor(p, dtype=torch.float64, device=distances.device)


def interval(distance: float, count: int, alpha: float = 0.05) -> tuple[float, float]:
    """[max(0, D − c), min(1, D + c)] for sup |F − u|, c = √(log(2/α) / 2n), n independent numbers.

    F is their distribution. The interval holds with probability 1 − α or more, by
    sup |F_n − F| ≤ c.

    Reference: Massart, "The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality", 1990.

    Example:
        >>> interval(0.1, 2000)
        (0.0696..., 0.1303...)
    """
    c = math.sqrt(math.log(2 / alpha) / (2 * count))
    return max(0.0, distance - c), min(1.0, distance + c)


def direction(pit: Tensor, threshold: float = 3.0) -> str:
    """What a PIT (n,) says of q, in words; empty where it says nothing.

    Formula: y = Φ⁻¹(u), with mean m and standard deviation s: 0 and 1 of a calibrated q. For a
    Gaussian posterior and q, m is (E z* − E_q z)/sd_q and s is the sd of z* about that over sd_q.
    "biased downward" is m √n > threshold, "biased upward" −m √n > threshold; "too narrow" is
    (s − 1) √(2n) > threshold, "too wide" (1 − s) √(2n) > threshold.

    Args:
        pit: (n,), numbers in (0, 1).
        threshold: in standard errors.

    Example:
        >>> direction(torch.linspace(0.3, 0.7, 500))
        'q too wide'
    """
    score = torch.special.ndtri(pit.double().clamp(1e-12, 1 - 1e-12))
    n = len(score)
    shift, excess = score.mean().item() * n**0.5, (score.std().item() - 1) * (2 * n) ** 0.5
    words = [
        "q biased downward" if shift > threshold else "",
        "q biased upward" if -shift > threshold else "",
        "q too narrow" if excess > threshold else "",
        "q too wide" if -excess > threshold else "",
    ]
    return ", ".join(filter(None, words))
