"""What a prior is, and the parts that priors are made of; the priors are in ``zoo.priors``."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints


class Prior(nn.Module):
    """p(z) over R^d: ``forward()`` gives a distribution of batch shape () and event shape (d,).

    Args:
        latent_dim: d.

    Attributes:
        shorthand: the option that a word gives after a colon, ``mixture:10``.
    """

    shorthand: ClassVar[str | None] = None

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim must be at least 1; got {latent_dim}")
        self.latent_dim = latent_dim

    def forward(self) -> dist.TorchDistribution:
        """p(z)."""
        raise NotImplementedError

    def initialize(self, x: Tensor) -> None:
        """A start from rows x (N, D) of the data; by default there is nothing to start."""


class DiagonalMixture(dist.TorchDistribution):
    """Σ_c π_c N(z; m_c, diag s_c²), any batch shape of the same mixture.

    Args:
        logits: (C,), log π up to a constant.
        loc: (C, d), m.
        scale: (C, d), s > 0.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector  # type: ignore[assignment]
    has_rsample = False  # type: ignore[assignment]

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, batch_shape: Any = ()) -> None:
        self.logits, self.loc, self.scale = logits.log_softmax(-1), loc, scale
        super().__init__(torch.Size(batch_shape), loc.shape[-1:])

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiagonalMixture:
        """The same mixture with another batch shape."""
        return DiagonalMixture(self.logits, self.loc, self.scale, batch_shape)

    @property
    def mean(self) -> Tensor:
        """(..., d)."""
        return (self.logits.exp() @ self.loc).expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """(..., d)."""
        second = self.logits.exp() @ (self.loc.square() + self.scale.square())
        return second.expand(self._extended_shape()) - self.mean.square()

    def log_joint(self, value: Tensor) -> Tensor:
        """log p(z, c), (..., C), in nats, of z (..., d)."""
        away = (value.unsqueeze(-2) - self.loc) / self.scale
        constant = self.loc.shape[-1] * math.log(2 * math.pi) / 2 + self.scale.log().sum(-1)
        return self.logits - away.square().sum(-1) / 2 - constant

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z), (...), in nats, of z (..., d)."""
        if self._validate_args:
            self._validate_sample(value)
        result = self.log_joint(value).logsumexp(-1)
        return result.expand(torch.broadcast_shapes(result.shape, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(..., d)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        component = torch.distributions.Categorical(logits=self.logits).sample(shape[:-1])
        return torch.normal(self.loc[component], self.scale[component])


class Standardize(nn.Module):
    """(x − mean) / spread, of buffers that are set from data and saved with the rest."""

    center: Tensor  # (D,)
    spread: Tensor  # (D,)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(size))  # (D,)
        self.register_buffer("spread", torch.ones(size))  # (D,)

    def fit(self, x: Tensor) -> None:
        """Mean and standard deviation of x (N, D), the latter at least a tenth of its size."""
        spread = x.std(0, correction=0)
        spread = spread.clamp_min(0.1 * spread.square().mean().sqrt())
        self.center.copy_(x.mean(0))
        self.spread.copy_(torch.where(spread > 0, spread, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.center) / self.spread
