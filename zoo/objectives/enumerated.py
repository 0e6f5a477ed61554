"""Bounds for guides with a q(y | x) whose y is summed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from zoo.data import Batch
from zoo.model import Model
from zoo.objectives._gradient import loss_of
from zoo.objectives._reductions import log_mean_exp

__all__ = ["iwae_sum"]

Guide = Callable[[Batch], Any]


def iwae_sum(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    num_particles: int = 10,
    num_outer: int = 1,
    beta: float = 1.0,
    estimator: str | None = None,
) -> Tensor:
    """The importance-weighted bound with y summed out: -mean_n log Σ_y exp I(x_n, y).

    I(x, y) = log (1/K) Σ_k p(x, y, z_k)/q(z_k | x, y), z_k ~ q(z | x, y); the bound is
    log (1/K) Σ_k Σ_y of the same weights. It is above ``iwae``, Σ_y q(y | x) [I(x, y) -
    log q(y | x)], by the KL of q(y | x) from exp I(x, y) normalised, rises to log p(x) with K, and
    gives q(y | x) no gradient: it is for evaluation and for training p and q(z | x, y); of labels
    that are given the guide's own α log q(y | x) remains. Without a q(y | x) it is ``iwae``.

    Args:
        model: p.
        guide: q, with q(y | x) enumerated.
        batch: B rows.
        num_particles: K.
        num_outer: S, draws of the global latents.
        beta: β, the weight of the KL terms; with any other than 1 it is not a bound.
        estimator: as for ``iwae``.

    Raises:
        ValueError: as ``iwae``.

    Reference: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2016; Kingma,
    Rezende, Mohamed and Welling, "Semi-supervised Learning with Deep Generative Models", 2014.
    """
    given = {"beta": beta, "estimator": estimator, "summed": True}
    return loss_of(model, guide, batch, log_mean_exp, num_particles, num_outer, **given)
