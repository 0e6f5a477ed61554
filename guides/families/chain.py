"""The state of a Markov chain for each row."""

from __future__ import annotations

import math
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from guides.family import Family
from zoo.sites import Latents


class Chain(Family):
    """q(z) = δ(z - u), κ = (u, log ε, t), P = d + 2: a Markov chain's place, step size and age.

    κ is a row of a table (``per_datapoint``), which no optimizer moves: the objective ``mcem``
    does, by Hamiltonian Monte Carlo towards p(z | x), so that u is a draw of the posterior once the
    chain has reached it. Saving and resuming a run keep the chains. Rows that are new get a chain
    that starts at the mean of those that are there. There is no density, and no bound.

    Args:
        dim: d.
        step_size: ε at the start; u starts at 0.

    Raises:
        ValueError: a step size that is not above 0; a model with global latents.

    Reference: Wei and Tanner, "A Monte Carlo Implementation of the EM Algorithm and the Poor Man's
    Data Augmentation Algorithms", 1990.

    Example:
        >>> Chain(2)(torch.tensor([1.0, 2.0, -2.3, 0.0])).mean
        tensor([1., 2.])
    """

    has_density: ClassVar[bool] = False
    scores: ClassVar[bool] = False
    is_state: ClassVar[bool] = True

    def __init__(self, dim: int, step_size: float = 0.1):
        super().__init__(dim)
        if not step_size > 0:
            raise ValueError(f"step_size is above 0, got {step_size}")
        self.step_size = step_size

    @property
    def num_params(self) -> int:
        return self.dim + 2

    def initial(self) -> Tensor:
        return torch.cat([torch.zeros(self.dim), torch.tensor([math.log(self.step_size), 0.0])])

    def forward(self, kappa: Tensor) -> dist.TorchDistribution:
        return dist.Delta(kappa[..., :-2], event_dim=1)

    def bind(self, latents: Latents) -> None:
        if names := latents.global_.names:
            raise ValueError(
                f"the family chain has a Markov chain for each row, which the global latents "
                f"{list(names)} would tie together; use mean_field or full_rank"
            )
