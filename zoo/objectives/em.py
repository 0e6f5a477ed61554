"""Expectation-maximisation, where both of its steps are exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.data import Batch
from zoo.exact import knows, log_evidence
from zoo.model import Model
from zoo.objectives._said import said

__all__ = ["em"]


@said(fits="model")
@torch.no_grad()
def em(model: Model, guide: Callable[[Batch], Any] | None, batch: Batch) -> Tensor:
    """One exact EM iteration: -mean_n log p(x_n) before it, the parameters after it in the model.

    The E-step is the enumerated posterior p(y | x), the M-step the closed form of the model's
    ``em_step``. There is no gradient and no learning rate; every step takes all N rows.

    Args:
        model: p, with ``em_step`` and ``log_evidence``.
        guide: not used.
        batch: all N rows.

    Raises:
        ValueError: a model without a closed-form M-step, a minibatch, or missing entries.

    Reference: Dempster, Laird and Rubin, "Maximum Likelihood from Incomplete Data via the EM
    Algorithm", 1977.
    """
    if not knows(model, "em_step"):
        raise ValueError(
            f"{type(model).__name__} has no closed-form M-step (em_step); use elbo or mle"
        )
    if batch.scale != 1:
        raise ValueError(
            f"em takes the whole data set in each step, got {len(batch)} of {batch.size} rows; "
            "leave batch_size out"
        )
    if batch.observed:
        raise ValueError(
            f"em has no closed-form M-step with missing entries, as {list(batch.observed)} have; "
            "use elbo, or drop the rows with missing entries"
        )
    loss = -log_evidence(model, batch).mean()
    model.em_step(batch["x"].to(model.dtype))  # type: ignore[operator]
    return loss
