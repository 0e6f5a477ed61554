"""Independent bits."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from guides.family import Family
from zoo.bits import Bit


class Bernoulli(Family):
    """q(z) = Π_j Bern(z_j; σ(κ_j)), z in {0, 1}^d, P = d: what ``mean_field`` is of bits.

    It starts at κ = 0, where every bit is even.

    Raises:
        ValueError: an ``init_scale`` other than 1, which real vectors have.

    Example:
        >>> import torch
        >>> Bernoulli(3)(torch.zeros(5, 3)).mean[0]
        tensor([0.5000, 0.5000, 0.5000])
    """

    def __init__(self, dim: int, init_scale: float = 1.0):
        super().__init__(dim, init_scale)
        if init_scale != 1:
            raise ValueError(
                "bits start at probability ½ and have no scale of their own for init_scale="
                f"{init_scale} to set; leave it out"
            )

    @property
    def num_params(self) -> int:
        return self.dim

    def forward(self, kappa: Tensor) -> dist.TorchDistribution:
        return Bit(logits=kappa).to_event(1)
