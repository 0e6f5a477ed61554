"""Estimators that put a relaxed draw in the place of a discrete one."""

from __future__ import annotations

from typing import Any

import pyro
from torch import Tensor

from guides.estimators import Enumerate
from zoo.relaxed import Relaxed

__all__ = ["Gumbel"]


class Gumbel(Enumerate):
    """q(y | x), one relaxed draw each particle (Gumbel-softmax); the gradient is path-wise, biased.

    Which density is used: log p(y) − log q(y | x) in expectation over q(y | x), exactly; the
    relaxed draw stands for y in the rest (``zoo.relaxed``). The loss is no bound. Where no gradient
    of q(y | x) is taken, as in evaluation, y is enumerated, and what is reported is a bound.

    Args:
        temperature: τ; a small one has little bias and much variance.
        straight_through: the draw is one-hot, with the gradient of the relaxed one.

    Reference: Jang, Gu and Poole, "Categorical Reparameterization with Gumbel-Softmax", 2017.
    """

    def __init__(self, temperature: float = 0.5, straight_through: bool = False) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is above 0, got {temperature}")
        self.temperature, self.straight_through = temperature, straight_through

    def draw(self, name: str, logits: Tensor) -> Tensor:
        if not logits.requires_grad:
            return super().draw(name, logits)
        y: Any = Relaxed(logits, self.temperature, self.straight_through)
        return pyro.sample(name, y)
