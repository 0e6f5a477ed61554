"""What a model knows exactly, asked by name: its evidence and its posterior."""

from __future__ import annotations

import inspect
from typing import Any

import pyro.distributions as dist
from torch import Tensor

from zoo._arrays import moved
from zoo.data import Batch
from zoo.model import Model


def knows(model: Any, what: str) -> bool:
    """Whether a model has ``log_evidence``, ``posterior`` or another piece of exact knowledge."""
    return callable(getattr(model, what, None))


def log_evidence(model: Model, batch: Batch) -> Tensor:
    """log p(x) of every row, (B,), in nats."""
    return _ask(model, "log_evidence", batch)


def posterior(model: Model, batch: Batch) -> dist.TorchDistribution:
    """p(z | x) of every row: a distribution of batch shape (B,)."""
    return _ask(model, "posterior", batch)


def responsibilities(model: Model, batch: Batch) -> Tensor:
    """p(y = c | x) of every row, (B, C)."""
    return _ask(model, "responsibilities", batch)


def _ask(model: Model, what: str, batch: Batch) -> Any:
    if not knows(model, what):
        raise ValueError(
            f"{type(model).__name__} has no exact {what}; use another family, such as mean_field, "
            f"full_rank or low_rank, or give the model a method {what}(x)"
        )
    method = getattr(model, what)
    wanted = inspect.signature(method).parameters
    values = moved(batch.values, model.dtype)  # what is known exactly is so in the model's type
    given = {name: value for name, value in values.items() if name in wanted}
    if lost := sorted(set(batch.values) - set(given)):
        raise ValueError(f"{type(model).__name__}.{what} does not condition on {lost}")
    if batch.observed:
        if "observed" not in wanted:
            raise ValueError(
                f"{type(model).__name__}.{what} cannot integrate missing entries out; use another "
                "family, or drop the rows with missing entries"
            )
        given["observed"] = next(iter(batch.observed.values()))
    return method(**given)
