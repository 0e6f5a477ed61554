"""A flow of affine couplings."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from guides.autoregressive import gate
from guides.flow import Flow, Theta
from guides.masked import Masked


class RealNVP(Flow):
    """z_A = u_A, z_B = μ(u_A) + σ(u_A) u_B: one half moves the other, in turn; log |det| = Σ log σ.

    σ = 0.001 + 1.998 sigmoid(r) starts at 1 and stays below 2. The inverse costs what a step costs.
    In one dimension A is empty, and the context alone moves the entry.

    Args:
        length: L, the number of couplings.
        flow: shared (networks of the family, κ_n holds their context) or kappa (κ_n holds the
            weights of its own networks).
        context_dim: numbers in κ_n that shared networks read.
        hidden: widths of the hidden layers of each network.

    Reference: Dinh, Sohl-Dickstein and Bengio, "Density Estimation Using Real NVP", 2017.
    """

    scores_cheaply = True

    def __init__(
        self,
        dim: int,
        init_scale: float = 1.0,
        length: int = 4,
        flow: Literal["kappa", "shared"] = "shared",
        context_dim: int = 16,
        hidden: tuple[int, ...] = (64,),
    ):
        super().__init__(dim, init_scale, length, flow, context_dim)
        self.kept = dim // 2
        moved = dim - self.kept
        self.net = Masked([0] * self.kept, [1] * (2 * moved), hidden, self.context_dim)
        self.declare(**self.net.start(length, torch.zeros(2 * moved)))

    def prepare(self, theta: Theta) -> Theta:
        return self.net.matrices(theta)

    def step(
        self, u: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        return self._couple(u, theta, context, index, False)

    def invert(
        self, z: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        return self._couple(z, theta, context, index, True)

    def _couple(
        self, value: Tensor, theta: Theta, context: Tensor | None, index: int, back: bool
    ) -> tuple[Tensor, Tensor]:
        value = value.flip(-1) if index % 2 else value
        kept, moved = value[..., : self.kept], value[..., self.kept :]
        shift, raw = self.net(kept, theta, context).chunk(2, -1)
        scale = gate(raw)
        moved = (moved - shift) / scale if back else shift + scale * moved
        value = torch.cat([kept, moved], -1)
        return value.flip(-1) if index % 2 else value, scale.log().sum(-1)
