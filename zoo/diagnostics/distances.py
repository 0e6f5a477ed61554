"""Distances between two sets of draws, beside the distance that chance alone makes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ROOM = 2**22  # numbers that one piece may take
DIRECTIONS = 64


@dataclass(frozen=True)
class Distance:
    """A distance from the reference, and what two halves of the reference have.

    Attributes:
        value: the mean over pairs of random halves of q's draws and of the reference, h draws each.
        floor: the same between two halves of the reference: of the Wasserstein distance the mean,
            of MMD², which is about 0 there, the root mean square.
        ratio: value / floor; about 1 (of MMD² within about ±2) where both are draws of one
            distribution.
        error: of the ratio: the standard deviation of the value over halves, which is a jackknife
            that leaves half of the draws out, and that of the floor over √halves.
        p: of as large a distance of all draws if q were the reference, by permutation; at least
            1/(1 + permutations).
        halves: how many pairs.
    """

    value: float
    floor: float
    ratio: float
    error: float
    p: float
    halves: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))


def distances(
    draws: Tensor, reference: Tensor, halves: int = 20, permutations: int = 200
) -> tuple[Distance, Distance]:
    """The sliced Wasserstein distance and MMD², each with its floor, from one set of splits.

    Formula: W = mean over 64 random directions v of ∫ |F_v − G_v|, the 1-Wasserstein distance of
    the projections; MMD² = E k(x, x′) + E k(y, y′) − 2 E k(x, y), unbiased, k Gaussian with the
    median distance of all draws as its standard deviation.

    Args:
        draws: (S, U), of q, in units of the reference's standard deviations.
        reference: (R, U), likewise; draws of both are taken as independent.
        halves: random pairs of halves.
        permutations: of the test.

    Raises:
        ValueError: fewer than four draws of either; fewer than two halves.

    Reference: Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", 2015;
    Gretton et al., "A kernel two-sample test", 2012.
    """
    h = min(len(draws), len(reference)) // 2
    if h < 2 or halves < 2:
        raise ValueError(
            "an error needs two pairs of halves, and they four draws or more, got "
            f"{halves} pairs, {len(draws)} draws and {len(reference)} of the reference"
        )
    pool = torch.cat([draws[: 2 * h], reference[: 2 * h]])
    ours = torch.arange(4 * h, device=pool.device) < 2 * h
    first, second = _halves(ours, h, halves), _halves(~ours, h, halves)
    between = (first == 1).to(pool) - (second == 1).to(pool)  # (halves, 4h)
    within = (second == 1).to(pool) - (second == 2).to(pool)
    shuffled = torch.rand(permutations, 4 * h, device=pool.device).argsort(-1)
    labels = torch.cat([ours.unsqueeze(0), ours[shuffled]])
    whole = labels.to(pool) - (~labels).to(pool)
    found = []
    for metric, power in ((sliced_wasserstein(pool), 1), (mmd(pool), 2)):
        value, floor, every = metric(between), metric(within).pow(power), metric(whole)
        middle = floor.mean().clamp_min(1e-300)  # 0 where the reference is one point
        unit = float(middle) ** (1 / power)
        relative = float(floor.std() / middle) / (power * halves**0.5)
        ratio = float(value.mean()) / unit
        error = math.hypot(float(value.std()) / unit, ratio * relative)
        p = (1 + int((every[1:] >= every[0]).sum())) / (1 + permutations)
        found.append(Distance(float(value.mean()), unit, ratio, error, p, halves))
    return found[0], found[1]


def sliced_wasserstein(pool: Tensor) -> Callable[[Tensor], Tensor]:
    """signs (B, n), +1 and −1 for the members of two sets of one size and 0 for others, -> (B,)."""
    v = torch.randn(pool.shape[1], DIRECTIONS, dtype=pool.dtype, device=pool.device)
    line, order = (pool @ (v / v.norm(dim=0))).sort(0)  # (n, P)
    gaps = line.diff(dim=0)

    def metric(signs: Tensor) -> Tensor:
        size = max(1, ROOM // order.numel())
        parts = []
        for some in signs.split(size):
            share = some / (some > 0).sum(-1, keepdim=True)
            excess = share[:, order].cumsum(1)[:, :-1]  # (b, n − 1, P), F − G between the points
            parts.append((excess.abs() * gaps).sum(1).mean(-1))
        return torch.cat(parts)

    return metric


def mmd(pool: Tensor) -> Callable[[Tensor], Tensor]:
    """The same for MMD²; one kernel matrix (n, n) serves all sets."""
    square = torch.cdist(pool, pool).square()
    few = square[:: max(1, len(pool) // 1000), :: max(1, len(pool) // 1000)]
    median = few[few > 0].median()
    kernel = (-square / (2 * median)).exp()

    def metric(signs: Tensor) -> Tensor:
        one, other = (signs > 0).to(pool), (signs < 0).to(pool)
        count = one.sum(-1)
        left, right = one @ kernel, other @ kernel
        inside = (left * one).sum(-1) + (right * other).sum(-1) - 2 * count  # k(x, x) = 1
        return inside / (count * (count - 1)) - 2 * (left * other).sum(-1) / count**2

    return metric


def _halves(members: Tensor, h: int, count: int) -> Tensor:
    """(count, n): 1 and 2 for the halves of the 2h members, 0 elsewhere."""
    order = torch.rand(count, 2 * h, device=members.device).argsort(-1)
    result = torch.zeros(count, len(members), dtype=torch.long, device=members.device)
    result[:, members] = 1 + (order >= h).long()
    return result
