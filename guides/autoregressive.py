"""Autoregressive flows: each entry is mapped by an increasing function, made by those before it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from guides.flow import Flow, Theta
from guides.masked import Masked

_LEAST = 1e-3  # the smallest scale of an affine layer
_ONE = math.log(math.expm1(1.0))  # softplus of it is 1


def gate(raw: Tensor) -> Tensor:
    """0.001 + 1.998 σ(raw): 1 at 0, never above 2, so that no number of layers explodes."""
    return _LEAST + 2 * (1 - _LEAST) * torch.sigmoid(raw)


def positive(raw: Tensor) -> Tensor:
    """0.001 + 0.999 softplus(raw + 0.54), which is 1 at 0."""
    return _LEAST + (1 - _LEAST) * softplus(raw + _ONE)


class Autoregressive(Flow):
    """z_i = f(u_i; c_i(u_1, …, u_{i-1}, context)), c from a masked network; odd layers reversed.

    A flow writes ``transform`` and ``inverse`` of one entry. The inverse of a layer takes d passes
    through the network.

    Args:
        start: (E,), the outputs c_i for which f is the identity.
        hidden: widths of the hidden layers of each network.
    """

    def __init__(
        self,
        dim: int,
        init_scale: float,
        length: int,
        flow: Literal["kappa", "shared"],
        context_dim: int,
        hidden: Sequence[int],
        start: Tensor,
    ):
        super().__init__(dim, init_scale, length, flow, context_dim)
        places = range(1, dim + 1)
        outputs = [i for i in places for _ in start]
        self.net = Masked(list(places), outputs, tuple(hidden), self.context_dim)
        self.declare(**self.net.start(length, start.repeat(dim)))

    def transform(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """z and log dz/du, entry by entry: u (...), c (..., E)."""
        raise NotImplementedError

    def inverse(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """u and log dz/du, entry by entry: z (...), c (..., E)."""
        raise NotImplementedError

    def prepare(self, theta: Theta) -> Theta:
        return self.net.matrices(theta)

    def _outputs(self, u: Tensor, theta: Theta, context: Tensor | None) -> Tensor:
        return self.net(u, theta, context).unflatten(-1, (self.dim, -1))

    def step(
        self, u: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        u = u.flip(-1) if index % 2 else u
        z, log_slope = self.transform(u, self._outputs(u, theta, context))
        return z.flip(-1) if index % 2 else z, log_slope.sum(-1)

    def invert(
        self, z: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        z = z.flip(-1) if index % 2 else z
        u, total = z[..., :0], z.new_zeros(())
        for i in range(self.dim):
            filled = torch.cat([u, torch.zeros_like(z[..., i:])], -1)
            c = self._outputs(filled, theta, context)[..., i, :]
            entry, log_slope = self.inverse(z[..., i], c)
            u, total = torch.cat([u, entry.unsqueeze(-1)], -1), total + log_slope
        return u.flip(-1) if index % 2 else u, total
