"""A Gaussian whose covariance is a diagonal plus a few directions."""

from __future__ import annotations

from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from guides.family import Family, inverse_softplus
from guides.gaussian import LowRankGaussian


class LowRank(Family):
    """q(z) = N(z; m, U Uᵀ + diag(s²)), U of d × ``rank``, P = d (2 + rank).

    Args:
        dim: d.
        init_scale: s at the start.
        rank: the columns of U.

    Reference: Ong, Nott and Smith, "Gaussian Variational Approximation with a Factor Covariance
    Structure", 2018.

    Example:
        >>> LowRank(4, rank=2)(torch.zeros(5, 16)).event_shape
        torch.Size([4])
    """

    shorthand: ClassVar[str] = "rank"

    def __init__(self, dim: int, init_scale: float = 1.0, rank: int = 2):
        super().__init__(dim, init_scale)
        if rank < 1:
            raise ValueError(f"rank counts columns from 1, got {rank}; mean_field has none")
        self.rank = rank

    @property
    def num_params(self) -> int:
        return self.dim * (2 + self.rank)

    def initial(self) -> Tensor:
        raw = torch.full((self.dim,), inverse_softplus(self.init_scale))
        # Columns of zeros are a saddle point: unequal small values let each find its direction.
        factor = 0.1 * self.init_scale * torch.eye(self.dim, self.rank).flatten()
        return torch.cat([torch.zeros(self.dim), raw, factor])

    def forward(self, kappa: Tensor) -> dist.TorchDistribution:
        d = self.dim
        loc, raw, factor = kappa[..., :d], kappa[..., d : 2 * d], kappa[..., 2 * d :]
        factor = factor.reshape(*kappa.shape[:-1], d, self.rank)
        return LowRankGaussian(loc, factor, softplus(raw).square())
