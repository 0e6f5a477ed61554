"""A flow of autoregressive affine maps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from guides.autoregressive import Autoregressive, gate
from guides.flow import Flow


class IAF(Autoregressive, Flow):
    """z_i = μ_i + σ_i u_i with (μ_i, σ_i) from u_1 … u_{i-1} and a context; log |det| = Σ log σ_i.

    σ = 0.001 + 1.998 sigmoid(r) starts at 1 and stays below 2. Every second layer takes the entries
    in the reversed order.

    Args:
        length: L, the number of layers.
        flow: shared (networks of the family, κ_n holds their context) or kappa (κ_n holds the
            weights of its own networks).
        context_dim: numbers in κ_n that shared networks read.
        hidden: widths of the hidden layers of each network.

    Reference: Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, "Improving Variational
    Inference with Inverse Autoregressive Flow", 2016.

    Example:
        >>> IAF(3, context_dim=5).num_params
        11
    """

    def __init__(
        self,
        dim: int,
        init_scale: float = 1.0,
        length: int = 4,
        flow: Literal["kappa", "shared"] = "shared",
        context_dim: int = 16,
        hidden: tuple[int, ...] = (64,),
    ):
        super().__init__(dim, init_scale, length, flow, context_dim, hidden, torch.zeros(2))

    def transform(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        scale = gate(c[..., 1])
        return c[..., 0] + scale * u, scale.log()

    def inverse(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        scale = gate(c[..., 1])
        return (z - c[..., 0]) / scale, scale.log()
