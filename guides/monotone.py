"""A bound that keeps layers of a flow invertible, and the roots that undo them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

LEAST = 1e-3  # the smallest slope of a layer along the direction that it squeezes
_S = -math.expm1(LEAST - 1)  # so that log(1 - s) = -1 + LEAST


def above_minus_one(x: Tensor) -> tuple[Tensor, Tensor]:
    """m(x) = log(1 - s + s eˣ) and m(x)/x: increasing, m(0) = 0, m > -1 + 0.001, m ~ x + log s.

    A vector u times m(x)/x, x = w·u, has w·û = m(x): every û with w·û > -1 + 0.001 is reached,
    once, and nothing is divided by |w|. Both have all digits at any x, in float32 as well.

    Args:
        x: any shape.

    Example:
        >>> m, ratio = above_minus_one(torch.tensor([-1e6, 0.0, 1e6]))
        >>> m
        tensor([-9.9900e-01,  0.0000e+00,  1.0000e+06])
    """
    low = torch.log1p(_S * torch.expm1(x.clamp(max=1.0)))
    high = x + torch.log(_S + (1 - _S) * torch.exp(-x.clamp(min=1.0)))
    m = torch.where(x < 1, low, high)
    # The cumulants of a Bernoulli variable of mean s, for m(x)/x where both are small.
    v, skew = _S * (1 - _S), 1 - 2 * _S
    kurtosis = v * (1 - 6 * v)
    fifth = v * skew * (1 - 12 * v)
    small = x.abs() < 1e-2
    near = torch.where(small, x, 0.0)
    series = _S + near * (v / 2 + near * (v * skew / 6 + near * (kurtosis + near * fifth / 5) / 24))
    return m, torch.where(small, series, m / torch.where(small, 1.0, x))


def monotone_root(
    f: Callable[[Tensor], tuple[Tensor, Tensor]],
    target: Tensor,
    low: Tensor,
    high: Tensor,
    halvings: int = 24,
    steps: int = 9,
) -> Tensor:
    """x in [low, high] with f(x) = target, for f increasing in every entry on its own.

    The bracket is halved, then Newton's steps are taken, halving where one would leave it. Their
    numbers are fixed, so nothing waits for the device. The gradient is that of the implicit
    function theorem, ∂x = (∂target - ∂f)/f'.

    Args:
        f: x -> (f(x), f'(x)), both of the shape of x.
        target: (...).
        low, high: a bracket, broadcast to the target's shape.
        halvings, steps: how many of each.

    Example:
        >>> target = torch.tensor(8.0, requires_grad=True)
        >>> zero = torch.tensor(0.0)
        >>> x = monotone_root(lambda x: (x**3, 3 * x**2), target, zero, zero + 5)
        >>> x.backward()
        >>> round(float(x.detach()), 4), round(float(target.grad), 4)
        (2.0, 0.0833)
    """
    with torch.no_grad():
        low, high, goal = (t.detach() for t in torch.broadcast_tensors(low, high, target))
        x, half = (low + high) / 2, (high - low) / 2
        for _ in range(halvings):
            half = half / 2
            x = x + torch.copysign(half, goal - f(x)[0])
        low, high = x - 2 * half, x + 2 * half
        for _ in range(steps):
            value, slope = f(x)
            off = value - goal
            low, high = torch.where(off > 0, low, x), torch.where(off < 0, high, x)
            new = x - off / slope
            x = torch.where((new >= low) & (new <= high), new, (low + high) / 2)
    value, slope = f(x)
    zero = (target - value) / slope.detach().clamp_min(torch.finfo(x.dtype).tiny ** 0.5)
    return x + (zero - zero.detach())
