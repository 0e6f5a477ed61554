"""A flow of folds along planes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from guides.flow import Flow, Theta
from guides.monotone import above_minus_one, monotone_root


class Planar(Flow):
    """z = u + û tanh(w·u + b), log |det| = log(1 + w·û (1 - tanh²)), 2d + 1 numbers a layer.

    Invertible where w·û > -1: û = u₀ m(x)/x with x = w·u₀ and m(x) = log(1 - s + s eˣ) > -0.999,
    for which w·û = m(x) in every direction and at every length of w. The inverse is that of
    a + w·û tanh(a + b) = w·z, one equation in a = w·u.

    Args:
        length: L, the number of folds.
        flow: kappa (each datapoint has its own folds) or shared (one set for all).

    Reference: Rezende and Mohamed, "Variational Inference with Normalizing Flows", 2015.

    Example:
        >>> Planar(3, length=16).num_params
        118
    """

    def __init__(
        self,
        dim: int,
        init_scale: float = 1.0,
        length: int = 8,
        flow: Literal["kappa", "shared"] = "kappa",
    ):
        super().__init__(dim, init_scale, length, flow)
        self.declare(
            w=torch.randn(length, dim) / dim**0.5,
            u=0.1 * torch.randn(length, dim) / dim**0.5,
            b=torch.zeros(length),
        )

    def prepare(self, theta: Theta) -> Theta:
        w, u = theta["w"], theta["u"]
        slope, ratio = above_minus_one((w * u).sum(-1))
        return {"w": w, "u": u * ratio.unsqueeze(-1), "b": theta["b"], "slope": slope}

    def step(
        self, u: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        h = torch.tanh((u * theta["w"]).sum(-1) + theta["b"])
        log_det = torch.log1p(theta["slope"] * (1 - h * h))
        return u + theta["u"] * h.unsqueeze(-1), log_det

    def invert(
        self, z: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        b, slope = theta["b"], theta["slope"]

        def f(a: Tensor) -> tuple[Tensor, Tensor]:
            h = torch.tanh(a + b)
            return a + slope * h, 1 + slope * (1 - h * h)

        target = (z * theta["w"]).sum(-1)
        a = monotone_root(f, target, target - slope.abs(), target + slope.abs())
        h = torch.tanh(a + b)
        return z - theta["u"] * h.unsqueeze(-1), torch.log1p(slope * (1 - h * h))
