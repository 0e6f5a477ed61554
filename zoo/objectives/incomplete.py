"""Objectives for data with missing entries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from zoo.data import Batch
from zoo.model import Model
from zoo.objectives.bounds import iwae

__all__ = ["miwae"]

Guide = Callable[[Batch], Any]


def miwae(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    num_particles: int = 10,
    num_outer: int = 1,
    beta: float = 1.0,
) -> Tensor:
    """The importance-weighted bound on log p of the observed entries, for incomplete data.

    -mean_n log (1/K) Σ_k p(x_n^obs | z_nk) p(z_nk)/q(z_nk | x_n^obs), which rises to log p(x^obs)
    with K; fitted where entries are missing at random. The weights are those of ``iwae``, which
    leaves missing entries out as well; without any the two are the same.

    Args:
        model: p, its likelihood independent over the entries or with a ``marginal(mask)``.
        guide: q, which reads the observed entries.
        batch: B rows, their missing entries marked in ``observed``.
        num_particles: K.
        num_outer: S, draws of the global latents.
        beta: β, the weight of the KL terms; with any other than 1 it is not a bound.

    Raises:
        ValueError: as ``iwae``; a likelihood that cannot leave entries out.

    Reference: Mattei and Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete
    Data Sets", 2019.
    """
    return iwae(model, guide, batch, num_particles=num_particles, num_outer=num_outer, beta=beta)
