"""One step of each optimizer as arithmetic on tensors, with the state that torch's keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

COLUMNS = 3  # of ``coefficients``
MOMENTS = {
    "Adam": ("exp_avg", "exp_avg_sq"),
    "AdamW": ("exp_avg", "exp_avg_sq"),
    "SparseAdam": ("exp_avg", "exp_avg_sq"),
    "RMSprop": ("square_avg",),
    "SGD": (),
}


def moments(optimizer: Optimizer, parameter: Tensor) -> list[Tensor]:
    """What the optimizer keeps of a parameter, made as its first step would make it."""
    names = MOMENTS[type(optimizer).__name__]
    state = optimizer.state[parameter]
    for name in names:
        if name not in state:
            state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    if names and "step" not in state:
        state["step"] = 0 if _sparse(optimizer) else torch.zeros((), dtype=torch.float32)
    return [state[name] for name in names]


def set_step(optimizer: Optimizer, parameter: Tensor, step: int) -> None:
    """Says how many steps a parameter has taken."""
    state = optimizer.state[parameter]
    if isinstance(state.get("step"), Tensor):
        state["step"].fill_(step)
    elif "step" in state:
        state["step"] = step


def coefficients(lr: float, step: int, betas: Sequence[float]) -> list[float]:
    """The numbers of step t = 1, 2, …: lr, 1/(1 - β₁^t) and 1/√(1 - β₂^t), in float64."""
    return [lr, 1 / (1 - betas[0] ** step), 1 / math.sqrt(1 - betas[1] ** step)]


def betas_of(optimizers: Sequence[Optimizer]) -> tuple[float, float]:
    """Adam's two decays; zeros where no optimizer has any."""
    found = [g["betas"] for o in optimizers for g in o.param_groups if "betas" in g]
    return tuple(float(b) for b in found[0]) if found else (0.0, 0.0)  # type: ignore[return-value]


def updated(
    optimizer: Optimizer, value: Tensor, gradient: Tensor, kept: Sequence[Tensor], row: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """A parameter, or the touched rows of a table, after one step, and what is kept of it.

    Formula: as ``torch.optim`` has it. Adam m ← β₁m + (1-β₁)g, v ← β₂v + (1-β₂)g²,
    θ ← θ - lr/(1-β₁^t) m / (√v/√(1-β₂^t) + ε); on the rows of a table
    θ ← θ - lr √(1-β₂^t)/(1-β₁^t) m / (√v + ε); AdamW takes lr λ θ off before; RMSprop
    v ← αv + (1-α)g², θ ← θ - lr g/(√v + ε); SGD θ ← θ - lr g. But for AdamW λθ is added to g.

    Args:
        optimizer: one of torch's, of which the settings are read.
        value: θ.
        gradient: g, of θ's shape.
        kept: ``moments`` before the step.
        row: (3,) float64, ``coefficients``.
    """
    name, group = type(optimizer).__name__, optimizer.param_groups[0]
    lr, second = row[0].to(value.dtype), row[2].to(value.dtype)
    decay = group.get("weight_decay", 0.0)
    if decay and name == "AdamW":
        value = value - lr * decay * value
    elif decay:
        gradient = gradient + decay * value
    if name == "SGD":
        return value - lr * gradient, []
    if name == "RMSprop":
        alpha = group["alpha"]
        v = alpha * kept[0] + (1 - alpha) * gradient * gradient
        return value - lr * gradient / (v.sqrt() + group["eps"]), [v]
    b1, b2 = group["betas"]
    m = kept[0] + (1 - b1) * (gradient - kept[0])
    v = b2 * kept[1] + (1 - b2) * gradient * gradient
    if name == "SparseAdam":
        size = (row[0] * row[1] / row[2]).to(value.dtype)
        return value - size * m / (v.sqrt() + group["eps"]), [m, v]
    size = (row[0] * row[1]).to(value.dtype)  # numbers once a step: a division costs an entry dear
    return value - size * m / (v.sqrt() * second + group["eps"]), [m, v]


def _sparse(optimizer: Optimizer) -> bool:
    return isinstance(optimizer, torch.optim.SparseAdam)


def clipped(gradients: Sequence[Tensor], limit: float, norms: Sequence[Tensor]) -> list[Tensor]:
    """The gradient shortened to ``limit``, the lengths of its parts given."""
    norm = torch.stack(list(norms)).norm()
    factor = (limit / (norm + 1e-12)).clamp(max=1.0)
    return [g * factor for g in gradients]
