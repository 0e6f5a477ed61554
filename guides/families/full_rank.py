"""A Gaussian with any covariance."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from guides.family import Family, inverse_softplus
from guides.gaussian import Gaussian


class FullRank(Family):
    """q(z) = N(z; m, L Lᵀ), L = diag(s) (I + N), s = softplus(r), P = d + d(d+1)/2.

    N is strictly lower triangular: each row of L keeps its scale while its direction is learned.

    Reference: Titsias and Lázaro-Gredilla, "Doubly Stochastic Variational Bayes", 2014.

    Example:
        >>> FullRank(2)(torch.zeros(5)).scale_tril.diagonal()
        tensor([0.6931, 0.6931])
    """

    @property
    def num_params(self) -> int:
        return 2 * self.dim + self.dim * (self.dim - 1) // 2

    def initial(self) -> Tensor:
        kappa = torch.zeros(self.num_params)
        kappa[self.dim : 2 * self.dim] = inverse_softplus(self.init_scale)
        return kappa

    def forward(self, kappa: Tensor) -> dist.TorchDistribution:
        d = self.dim
        loc, raw, below = kappa[..., :d], kappa[..., d : 2 * d], kappa[..., 2 * d :]
        row, column = torch.tril_indices(d, d, -1, device=kappa.device)
        empty = kappa.new_zeros((*kappa.shape[:-1], d * d))
        lower = empty.index_copy(-1, d * row + column, below).unflatten(-1, (d, d))
        unit = lower + torch.eye(d, dtype=kappa.dtype, device=kappa.device)
        return Gaussian(loc, scale_tril=softplus(raw).unsqueeze(-1) * unit)
