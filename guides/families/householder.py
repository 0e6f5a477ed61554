"""A flow of reflections: a Gaussian with a full covariance."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from guides.flow import Flow, Theta
from guides.orthogonal import reflect, unit


class Householder(Flow):
    """z = (I - 2 v vᵀ/|v|²) u, log |det| = 0, d numbers a layer.

    L reflections make any orthogonal matrix for L ≥ d, so that q = N(H m, H diag(s²) Hᵀ). They
    start in equal pairs, whose product is the identity. In one dimension a reflection has no
    parameters and nothing is done.

    Args:
        length: L, the number of reflections.
        flow: kappa (each datapoint has its own reflections) or shared (one set for all).

    Reference: Tomczak and Welling, "Improving Variational Auto-Encoders using Householder Flow",
    2016.

    Example:
        >>> Householder(3, length=16).num_params
        54
    """

    scores_cheaply = True

    def __init__(
        self,
        dim: int,
        init_scale: float = 1.0,
        length: int = 8,
        flow: Literal["kappa", "shared"] = "kappa",
    ):
        super().__init__(dim, init_scale, length, flow)
        v = torch.randn((length + 1) // 2, dim).repeat_interleave(2, 0)[:length]
        self.declare(**({"v": v} if dim > 1 else {}))

    def prepare(self, theta: Theta) -> Theta:
        return {"v": unit(theta["v"])}

    def step(
        self, u: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        return (reflect(u, theta["v"]) if theta else u), u.new_zeros(u.shape[:-1])

    def invert(
        self, z: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        return self.step(z, theta, context, index)
