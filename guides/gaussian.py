"""Multivariate Gaussians whose densities keep their digits where the covariance is badly scaled."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor


class Gaussian(dist.MultivariateNormal):
    """N(m, L Lᵀ): log q(m + L ε) = -½ (ε² + d log 2π) - Σ log L_ii, from ε itself.

    Solving for ε again costs digits where L is badly conditioned, and a triangular matrix easily
    is: in float32 such a "log q" was seen at -10²⁰, and the bound above the evidence by as much.
    Elsewhere the density is computed in float64.

    Example:
        >>> q = Gaussian(torch.zeros(2), scale_tril=torch.tensor([[1e-6, 0.0], [1.0, 1e-6]]))
        >>> bool(q.log_prob(q.rsample()).isfinite())
        True
    """

    _drawn: tuple[Tensor, Tensor] | None = None

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """m + L ε, the noise remembered with the draw."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        value = self.loc + (self._unbroadcasted_scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        self._drawn = (value, noise)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """(...): in nats, of (..., d)."""
        tril = self._unbroadcasted_scale_tril
        if self._drawn is not None and value is self._drawn[0]:
            noise = self._drawn[1]
        else:
            if self._validate_args:
                self._validate_sample(value)
            away = (value - self.loc).double().unsqueeze(-1)
            noise = torch.linalg.solve_triangular(tril.double(), away, upper=False)
            noise = noise.squeeze(-1).to(value.dtype)
        log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        d = self.event_shape[0]
        return -0.5 * (noise.square().sum(-1) + d * math.log(2 * math.pi)) - log_det


class LowRankGaussian(dist.LowRankMultivariateNormal):
    """N(m, U Uᵀ + diag(s²)), its density computed in float64.

    The quadratic form is a difference of two large numbers where U is large beside s.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """(...): in nats, of (..., d)."""
        if self._validate_args:
            self._validate_sample(value)
        parts = self.loc, self.cov_factor, self.cov_diag
        wide = dist.LowRankMultivariateNormal(*(p.double() for p in parts), validate_args=False)
        return wide.log_prob(value.double()).to(value.dtype)
