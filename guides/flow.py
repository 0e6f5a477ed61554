"""Normalizing flows: a Gaussian pushed through invertible layers, of which a family writes one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import softplus

from guides.family import Family, inverse_softplus

Theta = dict[str, Tensor]


class Flow(Family):
    """q = T_L ∘ … ∘ T_1 (N(m, diag s²)): log q(z) = log N(u; m, s²) - Σ_l log |det T_l'|.

    κ_n is (m, softplus⁻¹ s), 2d numbers, and what the layers need: with ``flow="kappa"`` the
    parameters θ_l of all of them; with ``flow="shared"`` the θ_l belong to the family, the same
    for every datapoint, and κ_n has a context vector that networks read.

    A flow calls ``declare`` with its start at the end of ``__init__`` and writes ``step`` and
    ``invert`` of one layer, and where it pays ``prepare``. Draws remember their density; that of
    any other z is computed by inverting the layers.

    Args:
        dim: d.
        init_scale: s at the start.
        length: L, the number of layers.
        flow: where θ stands: kappa (each datapoint has its own) or shared (one for all).
        context_dim: numbers in κ_n that networks with shared weights read.

    Raises:
        ValueError: a length below 1, a word other than kappa or shared.

    Reference: Rezende and Mohamed, "Variational Inference with Normalizing Flows", 2015.
    """

    shorthand: ClassVar[str | None] = "length"
    scores_cheaply: bool = False
    fused: ClassVar[bool] = False  # whether step and invert take all layers at once
    initial_theta: Tensor  # (L, P_θ)

    def __init__(
        self,
        dim: int,
        init_scale: float = 1.0,
        length: int = 4,
        flow: Literal["kappa", "shared"] = "kappa",
        context_dim: int = 0,
    ):
        super().__init__(dim, init_scale)
        if length < 1:
            raise ValueError(f"length counts layers from 1, got {length}; mean_field has none")
        if flow not in ("kappa", "shared"):
            raise ValueError(f"flow is kappa or shared, got {flow!r}")
        if context_dim < 0:
            raise ValueError(f"context_dim counts numbers from 0, got {context_dim}")
        self.length, self.flow = length, flow
        self.context_dim = context_dim if flow == "shared" else 0
        self.shapes: dict[str, torch.Size] = {}

    def declare(self, **start: Tensor) -> None:
        """The parameters of a layer by name, and where they start: (L, *shape) each."""
        self.shapes = {name: value.shape[1:] for name, value in start.items()}
        parts = [value.reshape(self.length, -1) for value in start.values()]
        theta = torch.cat(parts, -1) if parts else torch.zeros(self.length, 0)
        if self.flow == "shared" and theta.numel():
            self.theta = nn.Parameter(theta)  # (L, P_θ)
        else:
            self.register_buffer("initial_theta", theta, persistent=False)

    def prepare(self, theta: Theta) -> Theta:
        """What ``step`` takes, from the raw θ of all layers (L, ..., *shape), computed once."""
        return theta

    def step(
        self, u: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        """z (..., d) and log |det dz/du| (...) of layer ``index`` from 0; θ (..., *shape)."""
        raise NotImplementedError

    def invert(
        self, z: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        """u (..., d) and log |det dz/du| (...) at it, with gradients, from z (..., d)."""
        raise NotImplementedError

    @property
    def num_extra(self) -> int:
        """Numbers in κ beside the 2d of the base."""
        own = sum(shape.numel() for shape in self.shapes.values()) * self.length
        return own if self.flow == "kappa" else self.context_dim

    @property
    def num_params(self) -> int:
        return 2 * self.dim + self.num_extra

    def initial_extra(self) -> Tensor:
        """(num_extra,): θ near the identity, or a context of zeros."""
        if self.flow == "kappa":
            return self.initial_theta.flatten().clone()
        return torch.zeros(self.context_dim)

    def initial(self) -> Tensor:
        raw = torch.full((self.dim,), inverse_softplus(self.init_scale))
        extra = self.initial_extra()
        return torch.cat([torch.zeros(self.dim), raw, extra.to(raw)])

    def layers(self, extra: Tensor) -> list[Layer]:
        """The L layers, with θ from the part of κ (..., num_extra) behind the base, or shared."""
        if not self.shapes:
            return [Layer(self, {}, None, i) for i in range(self.length)]
        if self.flow == "kappa":
            flat = extra.unflatten(-1, (self.length, -1)).movedim(-2, 0)  # (L, ..., P_θ)
        else:
            flat = self.theta
        context = extra if self.context_dim else None
        parts = flat.split([shape.numel() for shape in self.shapes.values()], -1)
        named = {
            name: part.reshape(*part.shape[:-1], *shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        ready = self.prepare(named)
        if self.fused:
            return [Layer(self, ready, context, 0)]
        each = {name: value.unbind(0) for name, value in ready.items()}
        return [
            Layer(self, {name: value[i] for name, value in each.items()}, context, i)
            for i in range(self.length)
        ]

    def forward(self, kappa: Tensor) -> dist.TorchDistribution:
        d = self.dim
        loc, raw, extra = kappa[..., :d], kappa[..., d : 2 * d], kappa[..., 2 * d :]
        return FlowDistribution(loc, softplus(raw), self.layers(extra))


class Layer(NamedTuple):
    """One layer of a flow, with its parameters."""

    flow: Flow
    theta: Theta
    context: Tensor | None
    index: int

    def step(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """z and log |det dz/du|."""
        return self.flow.step(u, self.theta, self.context, self.index)

    def invert(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """u and log |det dz/du|."""
        return self.flow.invert(z, self.theta, self.context, self.index)


class FlowDistribution(dist.TorchDistribution):
    """The distribution of T_L(… T_1(m + s ε)), ε standard normal; batch (...), event (d,).

    Args:
        loc: (..., d), m.
        scale: (..., d), s.
        layers: T_1, …, T_L.

    Example:
        >>> q = FlowDistribution(torch.zeros(5, 2), torch.ones(5, 2), [])
        >>> q.expand((3, 5)).rsample().shape
        torch.Size([3, 5, 2])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support: Any = constraints.real_vector  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = True
    _drawn: tuple[Tensor, Tensor] | None = None

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        layers: Sequence[Layer],
        batch_shape: torch.Size | None = None,
        validate_args: bool | None = None,
    ):
        self.loc, self.scale, self.layers = loc, scale, layers
        shape = loc.shape[:-1] if batch_shape is None else batch_shape
        super().__init__(shape, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> FlowDistribution:
        """The same parameters, drawn from more than once."""
        shape = torch.Size(batch_shape)
        return FlowDistribution(self.loc, self.scale, self.layers, shape, self._validate_args)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """(*sample_shape, ..., d), the density remembered with the draw."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        z, log_q = self.loc + self.scale * noise, self._log_base(noise)
        for layer in self.layers:
            z, log_det = layer.step(z)
            log_q = log_q - log_det
        self._drawn = (z, log_q)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """(...): in nats, of (..., d)."""
        if self._drawn is not None and value is self._drawn[0]:
            return self._drawn[1]
        if self._validate_args:
            self._validate_sample(value)
        lead = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        u, total = value.expand(*lead, -1), value.new_zeros(lead)
        for layer in reversed(self.layers):
            u, log_det = layer.invert(u)
            total = total + log_det
        return self._log_base((u - self.loc) / self.scale) - total

    def _log_base(self, noise: Tensor) -> Tensor:
        """(...): log N(u; m, s²) at u = m + s ε."""
        constant = self.event_shape[0] * math.log(2 * math.pi)
        return -0.5 * (noise.square().sum(-1) + constant) - self.scale.log().sum(-1)
