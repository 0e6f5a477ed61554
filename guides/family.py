"""What a family is: a distribution over R^d for every parameter vector κ."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from zoo.data import Batch
from zoo.model import Model

if TYPE_CHECKING:
    from zoo.sites import Latents


class Family(nn.Module):
    """Ψ(z; κ), a distribution over z in R^d with parameters κ in R^P for each datapoint.

    A family writes ``num_params``, ``initial`` and ``forward``; batching, particles, supports and
    the source of κ are the guide's.

    Args:
        dim: d.
        init_scale: the standard deviation that q starts with.

    Attributes:
        has_density: False where q is a point mass, whose objective is no bound.
        scores_cheaply: whether log q(z) of a z from elsewhere costs about as much as a draw; a
            flow may have to invert its layers step by step.
        shorthand: the option that a word gives after a colon, ``low_rank:3``.
        uses_kappa: False where q comes from elsewhere and has no parameters of its own.
        scores: False where only the family's own draws have a density: q of a z from elsewhere is
            refused by name.
        is_state: whether κ is the state of a Markov chain: a row of a table, which the objective
            moves and no optimizer.
        refines: whether a Markov chain moves q's draws on, which ``refined`` then gives.
        bits: the family that the word stands for where z in {0, 1}^d; None where there is none.
    """

    has_density: ClassVar[bool] = True
    uses_kappa: ClassVar[bool] = True
    scores: ClassVar[bool] = True
    scores_cheaply: bool = True
    is_state: ClassVar[bool] = False
    refines: bool = False
    shorthand: ClassVar[str | None] = None
    infer: ClassVar[dict[str, Any]] = {}
    bits: ClassVar[type[Family] | None] = None
    drawer: Any  # of binary latents, a module that the guide sets; None for others

    def __init__(self, dim: int, init_scale: float = 1.0):
        super().__init__()
        if init_scale <= 0:
            raise ValueError(f"init_scale is a standard deviation, got {init_scale}")
        self.dim, self.init_scale, self.drawer = dim, init_scale, None

    @property
    def num_params(self) -> int:
        """P, the length of κ."""
        raise NotImplementedError

    def initial(self) -> Tensor:
        """(P,), the κ to start from: location 0, scale ``init_scale``."""
        return torch.zeros(self.num_params)

    def forward(self, kappa: Tensor) -> TorchDistribution:
        """The distribution over (..., d) for κ (..., P)."""
        raise NotImplementedError

    def distribution(
        self, model: Model, batch: Batch, source: Callable[[Batch], Tensor]
    ) -> TorchDistribution:
        """q(z | x) of every row: batch shape (B,), event shape (d,)."""
        return self(source(batch))

    def refined(
        self, model: Model, batch: Batch, source: Callable[[Batch], Tensor]
    ) -> TorchDistribution:
        """The draws that stand for the posterior, where they are more than those of q."""
        return self.distribution(model, batch, source)

    def bind(self, latents: Latents) -> None:
        """Told once which latents of the model q is of; most families need not know."""


def inverse_softplus(value: float) -> float:
    """The u with log(1 + exp(u)) = value > 0."""
    return value + math.log(-math.expm1(-value))
