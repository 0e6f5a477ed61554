"""Optimizers, learning-rate schedules and gradient clipping, for dense and sparse parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop"]
ScheduleName = Literal["constant", "cosine", "linear", "exponential"]

_DENSE = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


def make_optimizers(modules: Iterable[nn.Module], name: str, lr: float) -> list[Optimizer]:
    """One optimizer for the dense parameters, and one for the rows of tables.

    Tables have sparse gradients: plain SGD takes them as they are, the others give way to Adam on
    the rows of the batch (``torch.optim.SparseAdam``).

    Raises:
        ValueError: an unknown name or a learning rate that is not positive.
    """
    if name not in _DENSE:
        raise ValueError(f"unknown optimizer {name!r}; there are {sorted(_DENSE)}")
    if not lr > 0:
        raise ValueError(f"the learning rate must be positive, got {lr}")
    parts = list(modules)
    tables = {
        m.weight
        for part in parts
        for m in part.modules()
        if isinstance(m, nn.Embedding) and m.sparse and m.weight.requires_grad
    }
    everything = dict.fromkeys(p for part in parts for p in part.parameters() if p.requires_grad)
    dense = [p for p in everything if p not in tables]
    optimizers: list[Optimizer] = [_DENSE[name](dense, lr=lr)] if dense else []
    if tables:
        rows = [p for p in everything if p in tables]
        make = torch.optim.SGD if name == "sgd" else torch.optim.SparseAdam
        optimizers.append(make(rows, lr=lr))
    return optimizers


def learning_rate(schedule: str, lr: float, step: int, steps: int, final: float = 1e-3) -> float:
    """lr × a factor falling from 1 at step 0 to ``final`` at the last step.

    ``constant`` 1; ``linear`` 1 - (1-f) t; ``cosine`` f + (1-f)(1 + cos πt)/2; ``exponential`` f^t,
    with t = step/steps and f = ``final``.

    Raises:
        ValueError: an unknown schedule.
    """
    t = min(1.0, step / max(1, steps))
    factors = {
        "constant": 1.0,
        "linear": 1 - (1 - final) * t,
        "cosine": final + (1 - final) * 0.5 * (1 + math.cos(math.pi * t)),
        "exponential": final**t,
    }
    if schedule not in factors:
        raise ValueError(f"unknown schedule {schedule!r}; there are {sorted(factors)}")
    return lr * factors[schedule]


def clip_gradients(optimizers: Iterable[Optimizer], limit: float) -> Tensor:
    """Shortens the gradient to ``limit``, without a device sync; returns its length before."""
    grads = [
        p.grad
        for o in optimizers
        for g in o.param_groups
        for p in g["params"]
        if p.grad is not None
    ]
    if not grads:
        return torch.zeros(())
    parts = [(g.coalesce().values() if g.is_sparse else g).norm() for g in grads]
    norm = torch.stack(parts).norm()
    factor = (limit / (norm + 1e-12)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(factor)
    return norm
