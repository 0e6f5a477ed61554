"""Independent Gaussians."""

from __future__ import annotations

from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from guides.bernoulli import Bernoulli
from guides.family import Family, inverse_softplus


class MeanField(Family):
    """q(z) = Π_j N(z_j; m_j, s_j²), κ = (m, softplus⁻¹ s), P = 2d; of bits Π_j Bern(z_j; σ(κ_j)).

    Reference: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014.

    Example:
        >>> MeanField(3)(torch.zeros(5, 6)).batch_shape
        torch.Size([5])
    """

    bits: ClassVar[type[Family] | None] = Bernoulli

    @property
    def num_params(self) -> int:
        return 2 * self.dim

    def initial(self) -> Tensor:
        loc = torch.zeros(self.dim)
        return torch.cat([loc, torch.full_like(loc, inverse_softplus(self.init_scale))])

    def forward(self, kappa: Tensor) -> dist.TorchDistribution:
        loc, raw = kappa.chunk(2, -1)
        return dist.Normal(loc, softplus(raw)).to_event(1)
