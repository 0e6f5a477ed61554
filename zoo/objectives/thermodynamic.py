"""The thermodynamic variational objective: log p(x) as an integral, summed from the left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from zoo.data import Batch
from zoo.model import Model
from zoo.objectives._gradient import loss_of
from zoo.objectives._reductions import Thermodynamic
from zoo.objectives._said import said

__all__ = ["tvo"]

Guide = Callable[[Batch], Any]
Partition = Literal["log", "uniform"]


def _no_bound(options: Any) -> str:
    return "" if options["side"] == "left" else "a sum from the right"


@said(shorthand="intervals", no_bound=_no_bound)
def tvo(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    intervals: int = 5,
    partition: Partition = "log",
    first: float = 0.025,
    side: Literal["left", "right"] = "left",
    num_particles: int = 10,
    num_outer: int = 1,
    beta: float = 1.0,
    estimator: str | None = None,
) -> Tensor:
    """A Riemann sum of log p(x) = ∫₀¹ E_{π_β}[h] dβ, π_β(z) ∝ q(z | x)^(1-β) p(x, z)^β.

    -mean_n Σ_j (β_{j+1} - β_j) Σ_k w̃_k(β_j) h_nk, w̃(β) = softmax_k(β h), β_0 = 0 to β_J = 1. With
    K draws the integral of the summand is log mean_k w_k and the summand rises with β, so
    that draw by draw mean_k h_k ≤ left sum ≤ log mean_k w_k: a lower bound between the ELBO and the
    importance-weighted one at every K. The right sum is above the latter, and above log p(x) at
    K = ∞. The gradient is that of the K-sample value.

    Args:
        model: p.
        guide: q; it needs a density.
        batch: B rows.
        intervals: J; 1 is the ELBO.
        partition: log, β_1 = ``first`` and then evenly in log β up to 1; uniform, β_j = j/J.
        first: β_1 of the partition log.
        side: left or right, at which end of each interval the summand is taken.
        num_particles: K.
        num_outer: S, draws of the global latents.
        beta: the weight of the KL terms; with any other than 1 it is not a bound.
        estimator: pathwise, score or vimco.

    Raises:
        ValueError: no interval; a first point outside (0, 1); as ``iwae``.

    Reference: Masrani, Le and Wood, "The Thermodynamic Variational Objective", 2019.
    """
    points = partition_of(intervals, partition, first)
    steps = [b - a for a, b in zip(points, points[1:], strict=False)]
    ends = points[:-1] if side == "left" else points[1:]
    if side not in ("left", "right"):
        raise ValueError(f"side is left or right, got {side!r}")
    reduce = Thermodynamic(tuple(ends), tuple(steps))
    given = {"beta": beta, "estimator": estimator}
    return loss_of(model, guide, batch, reduce, num_particles, num_outer, **given)


def partition_of(intervals: int, partition: Partition = "log", first: float = 0.025) -> list[float]:
    """0 = β_0 < β_1 < … < β_J = 1.

    Example:
        >>> partition_of(2, "uniform"), partition_of(3, "log", 0.01)
        ([0.0, 0.5, 1.0], [0.0, 0.01, 0.1, 1.0])
    """
    if intervals < 1:
        raise ValueError(f"intervals counts from 1, got {intervals}")
    if partition == "uniform" or intervals == 1:
        return [j / intervals for j in range(intervals + 1)]
    if partition != "log" or not 0 < first < 1:
        raise ValueError(
            f"partition is log, with a first point between 0 and 1, or uniform; got {partition!r} "
            f"and {first}"
        )
    return (
        [0.0] + [first ** ((intervals - j) / (intervals - 1)) for j in range(1, intervals)] + [1.0]
    )
