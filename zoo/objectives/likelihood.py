"""Objectives that are no integrals over latents: maximum likelihood, and maximum a posteriori."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor

from zoo.data import Batch
from zoo.exact import knows, log_evidence
from zoo.model import Model
from zoo.objectives._reductions import mean
from zoo.objectives._said import said
from zoo.objectives.bounds import elbo
from zoo.weights import log_weights

__all__ = ["map", "mle"]

Guide = Callable[[Batch], Any]


@said(fits="model")
def mle(model: Model, guide: Guide | None, batch: Batch) -> Tensor:
    """Maximum likelihood: -mean_n log p(x_n), where p has no latents or all can be summed out.

    Args:
        model: p.
        guide: not used; may be None.
        batch: B rows.

    Raises:
        ValueError: continuous or global latents, which only a bound can handle.
    """
    return -log_likelihood(model, batch).mean()


def log_likelihood(model: Model, batch: Batch) -> Tensor:
    """log p(x_n), (B,), where p has no latents or all can be summed out; else ValueError."""
    known = knows(model, "log_evidence")
    if known and set(batch.values) <= set(inspect.signature(model.log_evidence).parameters):  # type: ignore[arg-type]
        return log_evidence(model, batch)
    try:
        weights = log_weights(model, lambda _: {}, batch)
    except ValueError as error:
        raise ValueError(
            f"mle needs a model whose latents can all be summed out: {error}; use elbo"
        ) from error
    return weights.per_row(mean)[0]


@said(no_bound="log p(x, z) at a point")
def map(model: Model, guide: Guide, batch: Batch) -> Tensor:
    """Maximum a posteriori: -mean_n log p(x_n, z_n) at the point z_n = q(x_n), θ and z together.

    With global latents g: -[log p(g) + (N/B) Σ_n log p(x_n, z_n | g)] / N at one point g. Discrete
    latents of the rows are summed out. It is no bound on log p(x). The densities are those of
    the latents themselves: the mode depends on how they are parameterized.

    Args:
        model: p.
        guide: q, all of it a point mass: the family ``delta`` (also as ``global_family``).
        batch: B rows.

    Raises:
        ValueError: a guide with a density.
    """
    if getattr(guide, "has_density", True):
        raise ValueError(
            "map is of a guide that is a point mass: use family='delta' (and "
            "global_family='delta' where the model has global latents), or the objective elbo"
        )
    return elbo(model, guide, batch)
