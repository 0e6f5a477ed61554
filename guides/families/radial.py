"""A flow of swellings around points."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from guides.flow import Flow, Theta
from guides.monotone import above_minus_one


class Radial(Flow):
    """z = u + β (u - c) / (α + r), r = |u - c|, d + 2 numbers a layer.

    log |det| = (d - 1) log(1 + β/(α + r)) + log(1 + α β/(α + r)²), and α > 0, β > -α keep the map
    invertible: β = α m(b) with m > -0.999. The inverse is a quadratic equation in r.

    Args:
        length: L, the number of centres.
        flow: kappa (each datapoint has its own centres) or shared (one set for all).

    Reference: Rezende and Mohamed, "Variational Inference with Normalizing Flows", 2015.

    Example:
        >>> Radial(3, length=16).num_params
        86
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
        self.declare(
            center=init_scale * torch.randn(length, dim),
            a=torch.zeros(length),
            b=0.1 * torch.randn(length),
        )

    def prepare(self, theta: Theta) -> Theta:
        alpha = softplus(theta["a"]) + 1e-6
        return {
            "center": theta["center"],
            "alpha": alpha,
            "beta": alpha * above_minus_one(theta["b"])[0],
        }

    def step(
        self, u: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        away = u - theta["center"]
        swell, log_det = self._swell(torch.linalg.vector_norm(away, dim=-1), theta)
        return u + (swell - 1).unsqueeze(-1) * away, log_det

    def invert(
        self, z: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        alpha, beta = theta["alpha"], theta["beta"]
        away = z - theta["center"]
        far = torch.linalg.vector_norm(away, dim=-1)  # r + β r/(α + r)
        half = (far - alpha - beta) / 2
        root = torch.sqrt(half.square() + alpha * far)
        r = torch.where(half > 0, half + root, alpha * far / (root - half.clamp(max=0.0)))
        swell, log_det = self._swell(r, theta)
        return theta["center"] + away / swell.unsqueeze(-1), log_det

    def _swell(self, r: Tensor, theta: Theta) -> tuple[Tensor, Tensor]:
        """1 + β/(α + r) and the log-determinant at radius r."""
        alpha = theta["alpha"]
        growth = theta["beta"] / (alpha + r)
        share = alpha / (alpha + r)
        log_det = (self.dim - 1) * torch.log1p(growth) + torch.log1p(growth * share)
        return 1 + growth, log_det
