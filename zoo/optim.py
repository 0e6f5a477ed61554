"""Optimizers, learning-rate schedules and gradient clipping, for dense and sparse parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop"]
ScheduleName = Literal["constant", "cosine", "linear", "exponential", "burda"]
EPS, BETAS = 1e-8, (0.9, 0.999)  # Adam's own

_DENSE = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


def make_optimizers(
    modules: Iterable[nn.Module],
    name: str,
    lr: float,
    eps: float = EPS,
    betas: Sequence[float] = BETAS,
    weight_decay: float = 0.0,
) -> list[Optimizer]:
    """One optimizer for the dense parameters, and one for the rows of tables.

    Tables have sparse gradients: plain SGD takes them as they are, the others give way to Adam on
    the rows of the batch (``torch.optim.SparseAdam``).

    Args:
        modules: what to train.
        name: ``adam``, ``adamw``, ``sgd`` or ``rmsprop``.
        lr: the learning rate.
        eps: ε, added to the root of the mean squared gradient (not of SGD).
        betas: how much Adam keeps of the means of the gradient and of its square at each step.
        weight_decay: λ; the gradient of λ/2 ‖θ‖² is added to that of the dense parameters. AdamW
            takes lr λ θ off them instead, and has torch's own λ where it is 0.

    Raises:
        ValueError: an unknown name, numbers out of their range, or some that the optimizer lacks.
    """
    if name not in _DENSE:
        raise ValueError(f"unknown optimizer {name!r}; there are {sorted(_DENSE)}")
    if not lr > 0:
        raise ValueError(f"the learning rate must be positive, got {lr}")
    if not eps > 0 or len(betas) != 2 or not all(0 <= b < 1 for b in betas):
        raise ValueError(f"eps is above 0 and betas two numbers in [0, 1), got {eps}, {betas}")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay counts from 0, got {weight_decay}")
    own: dict[str, Any] = {} if name == "sgd" else {"eps": eps}
    if name in ("adam", "adamw"):
        own["betas"] = tuple(betas)
    for option, changed in (("eps", eps != EPS), ("betas", tuple(betas) != BETAS)):
        if changed and option not in own:
            raise ValueError(f"the optimizer {name} takes no {option}; use adam")
    parts = list(modules)
    tables = sparse_tables(parts)
    everything = dict.fromkeys(p for part in parts for p in part.parameters() if p.requires_grad)
    dense = [p for p in everything if p not in tables]
    decay = {"weight_decay": weight_decay} if weight_decay else {}
    optimizers: list[Optimizer] = [_DENSE[name](dense, lr=lr, **own, **decay)] if dense else []
    if tables:
        rows = [p for p in everything if p in tables]
        make = torch.optim.SGD if name == "sgd" else torch.optim.SparseAdam
        optimizers.append(make(rows, lr=lr, **own))
    return optimizers


def sparse_tables(modules: Iterable[nn.Module]) -> set[Tensor]:
    """The tables among the parameters to train: a step moves the rows of its batch alone."""
    return {
        m.weight
        for part in modules
        for m in part.modules()
        if isinstance(m, nn.Embedding) and m.sparse and m.weight.requires_grad
    }


def learning_rate(schedule: str, lr: float, step: int, steps: int, final: float = 1e-3) -> float:
    """lr × a factor falling from 1 at step 0 to ``final`` at the last step.

    ``constant`` 1; ``linear`` 1 - (1-f) t; ``cosine`` f + (1-f)(1 + cos πt)/2; ``exponential`` f^t,
    with t = step/steps and f = ``final``. ``burda``: round(10^(1-(i-1)/7), 1)/10 for the share
    3^(i-1)/3280 of the steps, i = 1 … 8; with lr = 0.001 and 3280 epochs that of the paper.

    Raises:
        ValueError: an unknown schedule.

    Reference: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2016.

    Example:
        >>> [round(learning_rate("burda", 1e-3, step, 3280), 6) for step in (0, 1, 4, 3279)]
        [0.001, 0.00072, 0.00052, 0.0001]
    """
    t = min(1.0, step / max(1, steps))
    if schedule == "constant":
        return lr
    if schedule == "linear":
        return lr * (1 - (1 - final) * t)
    if schedule == "cosine":
        return lr * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * t)))
    if schedule == "exponential":
        return lr * final**t
    if schedule == "burda":
        stage = sum(3280 * step >= steps * (3**i - 1) // 2 for i in range(1, 8))  # i - 1
        return lr * (round(10 ** (1 - stage / 7), 1) / 10)
    raise ValueError(f"unknown schedule {schedule!r}; there are {sorted(get_args(ScheduleName))}")


def clip_gradients(
    optimizers: Iterable[Optimizer],
    limit: float,
    row_norm: Callable[[Tensor], Tensor] = Tensor.norm,
) -> Tensor:
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
    parts = [row_norm(g.coalesce().values()) if g.is_sparse else g.norm() for g in grads]
    norm = torch.stack(parts).norm()
    factor = (limit / (norm + 1e-12)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(factor)
    return norm
