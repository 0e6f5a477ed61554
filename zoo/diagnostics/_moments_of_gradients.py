"""Norm, spread and distance of gradients from independent draws of them, with errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

STILL = 1e-4  # a smaller spread or difference, relative to the size of the gradient, is rounding


class Value(NamedTuple):
    """A figure and its standard error."""

    value: float
    se: float


class Distance(NamedTuple):
    """‖E d‖ of draws d, and what it could be by chance.

    Attributes:
        value, se: the norm with its noise taken off, 0 where no more than noise is seen.
        below: the greatest that is left by three standard errors of its square.
        chance: the probability of a distance of this size where E d = 0.
    """

    value: float
    se: float
    below: float
    chance: float


def norm(g: Tensor) -> Value:
    """‖E g‖ of draws g (G, P), without the noise that ‖mean g‖ has on top: √U, see `distance`."""
    u, se = _squared(g)
    return _root(u, se)


def variance(g: Tensor) -> Value:
    """tr Cov g of draws (G, P), and its error by the jackknife."""
    count = len(g)
    c = (g - g.mean(0)).square().sum(1)  # (G,)
    left = (c.sum() - count / (count - 1) * c) / (count - 2)
    return Value(float(c.sum() / (count - 1)), _jackknife(left))


def distance(d: Tensor, size: float) -> Distance:
    """‖E d‖ of differences d (G, P): U = Σ_{i≠j} d_i·d_j / (G (G − 1)) estimates its square.

    U has mean ‖E d‖² whatever the noise is. Where E d = 0, G ‖mean d‖² is Σ_j λ_j χ²₁ for large G,
    λ the eigenvalues of Cov d; its tail is that of a χ²_ν with a = tr Σ²/tr Σ and ν = (tr Σ)²/tr Σ²
    (Satterthwaite), tr Σ² from the products of different draws, or that of the largest λ alone, the
    others at their mean, where that is heavier.

    Args:
        d: draws.
        size: of the gradients that they are differences of; less than 1e-4 of it is rounding.
    """
    count, entries = d.shape
    u, se = _squared(d)
    mean, rounding = float(d.mean(0).norm()), STILL * size
    trace = variance(d).value
    if trace <= rounding**2:  # nothing varies: the difference itself is seen
        return Distance(mean, 0.0, mean, 0.0) if mean > rounding else Distance(0.0, 0.0, 0.0, 1.0)
    centred = d - d.mean(0)
    gram = centred @ centred.T
    most = float(torch.linalg.eigvalsh(gram)[-1]) / (count - 1)
    apart = gram[~torch.eye(count, dtype=torch.bool, device=d.device)]
    square = min(max(float(apart.var()), trace**2 / entries), trace**2)  # tr Σ²
    found = count * mean**2
    chance = max(
        _tail(found * trace / square, trace**2 / square),
        _tail(max(0.0, found - (trace - most)) / most, 1.0),
    )
    root = _root(u, se)
    return Distance(root.value, root.se, math.sqrt(max(u, 0.0) + 3 * se), chance)


def slope(values: Mapping[int, Value], floor: float) -> Value | None:
    """b of value ∝ K^b by least squares in logarithms, weighted by the errors.

    Its error is wider where the figures are further from a line than their errors.

    Args:
        values: K -> figure.
        floor: what less than twice of cannot be told from noise, and is left out.

    Returns:
        None where fewer than two figures are left.

    Example:
        >>> found = slope({1: Value(1.0, 0.01), 10: Value(10.0, 0.1), 100: Value(0.0, 0.1)}, 0.1)
        >>> f"{found.value:.3f} ± {found.se:.3f}"
        '1.000 ± 0.006'
    """
    kept = {k: v for k, v in values.items() if v.value > 2 * floor and v.se > 0}
    if len(kept) < 2:
        return None
    x = [math.log(k) for k in kept]
    y = [math.log(v.value) for v in kept.values()]
    w = [(v.value / v.se) ** 2 for v in kept.values()]
    total = sum(w)
    centre = sum(a * b for a, b in zip(w, x, strict=True)) / total
    spread = sum(a * (b - centre) ** 2 for a, b in zip(w, x, strict=True))
    height = sum(a * c for a, c in zip(w, y, strict=True)) / total
    b = sum(a * (t - centre) * c for a, t, c in zip(w, x, y, strict=True)) / spread
    apart = sum(
        a * (c - height - b * (t - centre)) ** 2 for a, t, c in zip(w, x, y, strict=True)
    ) / max(1, len(kept) - 2)
    return Value(b, math.sqrt(max(1.0, apart) / spread))


def _tail(value: float, freedom: float) -> float:
    """P(χ²_ν > value)."""
    half = torch.tensor([freedom / 2, value / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def _squared(d: Tensor) -> tuple[float, float]:
    """U and its error by the jackknife, which is too large rather than too small where E d = 0."""
    count = len(d)
    total = d.sum(0)
    squares, along = d.square().sum(1), d @ total  # (G,)
    whole, own = total.square().sum(), squares.sum()
    u = (whole - own) / (count * (count - 1))
    left = (whole - 2 * along + 2 * squares - own) / ((count - 1) * (count - 2))
    return float(u), _jackknife(left)


def _root(u: float, se: float) -> Value:
    """√u with the error that is left of that of u; 0 where u is not positive."""
    value = math.sqrt(max(u, 0.0))
    own = math.sqrt(se)
    return Value(value, min(se / (2 * value), own) if value else own)


def _jackknife(left: Tensor) -> float:
    """The standard error of a figure, from the figures without one draw each (G,)."""
    count = len(left)
    return float(((count - 1) / count * (left - left.mean()).square().sum()).sqrt())
