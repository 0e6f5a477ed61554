"""Upper bounds from a χ divergence, which fit q alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from zoo.data import Batch
from zoo.model import Model
from zoo.objectives._gradient import loss_of, trained_alone
from zoo.objectives._reductions import Power
from zoo.objectives._said import said

__all__ = ["cubo"]

Guide = Callable[[Batch], Any]


@said(shorthand="order", no_bound="an upper bound at K = ∞ alone", fits="guide")
def cubo(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    order: float = 2.0,
    num_particles: int = 10,
    estimator: str | None = None,
) -> Tensor:
    """The χ upper bound: mean_n (1/n) log (1/K) Σ_k w_nk^n, minimised over q; p takes no gradient.

    At K = ∞ it is log p(x) plus (n-1)/n times the Rényi divergence of order n of p(z | x) from q,
    so that its minimum covers all of the posterior; at a finite K its mean is below that, may be
    below log p(x), and is no certificate.

    Args:
        model: p, held.
        guide: q; it needs a density.
        batch: B rows.
        order: n > 1.
        num_particles: K.
        estimator: pathwise, dreg, score or vimco.

    Raises:
        ValueError: an order of 1 or less; global latents or a q(y | x), where the mean of the upper
            bounds is none; as ``iwae``.

    Reference: Dieng, Tran, Ranganath, Paisley and Blei, "Variational Inference via χ Upper Bound
    Minimization", 2017.
    """
    if not (order > 1 and math.isfinite(order)):
        raise ValueError(f"the order of the χ bound is above 1 and finite, got {order}")
    reduce = Downwards(1 - order)
    with trained_alone("guide", model, guide):
        return loss_of(model, guide, batch, reduce, num_particles, estimator=estimator)


class Downwards(Power):
    """-L: an upper bound, which is minimised where the others are maximised."""

    def __call__(self, h: Tensor) -> Tensor:
        return -super().__call__(h)
