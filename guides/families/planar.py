"""A flow of folds along planes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from guides.flow import Flow, Theta
from guides.monotone import above_minus_one, monotone_root
from zoo.nets import affine


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

    fused = True  # the folds meet in the products w_i·û_j alone

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
        w, u = w.movedim(0, -2), (u * ratio.unsqueeze(-1)).movedim(0, -2)  # (..., L, d)
        found = {"b": theta["b"].movedim(0, -1), "slope": slope.movedim(0, -1)}  # (..., L)
        return {"w": w, "u": u, "between": w @ u.mT, **found}  # w_i·û_j (..., L, L)

    def step(
        self, u: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        folds: list[Tensor] = []
        rest = affine(u, theta["w"]) + theta["b"]  # w_i·z_l + b_i of the folds still to come
        for i, between in enumerate(theta["between"].unbind(-1)):
            first, rest = rest.split((1, self.length - i - 1), -1)
            h = torch.tanh(first)
            rest = torch.addcmul(rest, h, between[..., i + 1 :])
            folds.append(h)
        return self._folded(u, torch.cat(folds, -1), theta, 1)

    def invert(
        self, z: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        between, folds = theta["between"], []
        rest = affine(z, theta["w"])  # w_i·z_l of the folds still to be undone
        for i in reversed(range(self.length)):
            target, b, slope = rest[..., i], theta["b"][..., i], theta["slope"][..., i]

            def f(a: Tensor, b: Tensor = b, slope: Tensor = slope) -> tuple[Tensor, Tensor]:
                h = torch.tanh(a + b)
                return a + slope * h, 1 + slope * (1 - h * h)

            a = monotone_root(f, target, target - slope.abs(), target + slope.abs())
            h = torch.tanh(a + b).unsqueeze(-1)
            rest = torch.addcmul(rest[..., :i], h, between[..., :i, i], value=-1)
            folds.insert(0, h)
        return self._folded(z, torch.cat(folds, -1), theta, -1)

    def _folded(self, x: Tensor, h: Tensor, theta: Theta, side: int) -> tuple[Tensor, Tensor]:
        """x ± Σ_i û_i h_i and log |det| of all folds."""
        log_det = torch.log1p(theta["slope"] * (1 - h * h)).sum(-1)
        return x + side * affine(h, theta["u"].mT), log_det
