"""A point: the maximum a posteriori estimate."""

from __future__ import annotations

from typing import ClassVar

import pyro.distributions as dist
from torch import Tensor

from guides.family import Family


class Delta(Family):
    """q(z) = δ(z - m), κ = m, P = d: maximises log p(x, z), which is the MAP estimate.

    The density is that of z itself, not of its unconstrained image, so no Jacobian enters. The
    objective is a log joint and no bound on log p(x); it is printed as such.

    Example:
        >>> import torch
        >>> Delta(2)(torch.tensor([1.0, 2.0])).log_prob(torch.tensor([1.0, 2.0]))
        tensor(0.)
    """

    has_density: ClassVar[bool] = False

    @property
    def num_params(self) -> int:
        return self.dim

    def forward(self, kappa: Tensor) -> dist.TorchDistribution:
        return dist.Delta(kappa, event_dim=1)
