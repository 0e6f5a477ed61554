"""A flow of M folds at once, across orthonormal directions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from guides.flow import Flow, Theta
from guides.monotone import above_minus_one, monotone_root
from guides.orthogonal import orthonormal, reflections
from zoo.nets import affine


class Sylvester(Flow):
    """z = u + Q R tanh(R̃ Qᵀu + b), log |det| = Σ_i log(1 + R_ii R̃_ii (1 - tanh²_i)).

    Q (d, M) has orthonormal columns; R and R̃ (M, M) are upper triangular. Invertible where
    R_ii R̃_ii > -1, which is kept as in ``planar``. The inverse solves for Qᵀu from its last entry
    to its first, one equation each.

    Args:
        length: L, the number of layers.
        flow: kappa (each datapoint has its own layers) or shared (one set for all).
        orthogonal: what Q is: orthogonal (M vectors made orthonormal), householder (a product of
            reflections) or triangular (the identity and the reversed order, layer by layer).
        num_columns: M, at most d; triangular always has d.
        num_reflections: H, the reflections of householder.

    Reference: van den Berg, Hasenclever, Tomczak and Welling, "Sylvester Normalizing Flows for
    Variational Inference", 2018.

    Example:
        >>> Sylvester(5, length=2, num_columns=3).num_params
        70
    """

    def __init__(
        self,
        dim: int,
        init_scale: float = 1.0,
        length: int = 4,
        flow: Literal["kappa", "shared"] = "kappa",
        orthogonal: Literal["orthogonal", "householder", "triangular"] = "orthogonal",
        num_columns: int = 8,
        num_reflections: int = 4,
    ):
        super().__init__(dim, init_scale, length, flow)
        if orthogonal not in ("orthogonal", "householder", "triangular"):
            raise ValueError(
                f"orthogonal is orthogonal, householder or triangular, got {orthogonal!r}"
            )
        if num_columns < 1 or num_reflections < 1:
            raise ValueError(
                f"num_columns and num_reflections count from 1, got {num_columns}, "
                f"{num_reflections}"
            )
        self.orthogonal = orthogonal
        self.columns = columns = dim if orthogonal == "triangular" else min(num_columns, dim)
        vectors = {"orthogonal": min(columns, dim - 1), "householder": num_reflections}
        count = vectors.get(orthogonal, 0) if dim > 1 else 0  # in one dimension Q = 1
        above = columns * (columns - 1) // 2
        start = {
            "diagonal": 0.1 * torch.randn(length, columns),
            "diagonal2": 1 + 0.1 * torch.randn(length, columns),
            "b": torch.zeros(length, columns),
        }
        if above:
            start["above"] = 0.1 * torch.randn(length, above) / columns**0.5
            start["above2"] = 0.1 * torch.randn(length, above) / columns**0.5
        if count:
            start["v"] = torch.randn(length, count, dim)
        self.declare(**start)

    def prepare(self, theta: Theta) -> Theta:
        second = theta["diagonal2"]
        slope, ratio = above_minus_one(theta["diagonal"] * second)
        R = self._upper(theta["diagonal"] * ratio, theta.get("above"))
        R2 = self._upper(second, theta.get("above2"))
        Q = self._columns(theta)
        return {"Q": Q, "R": R, "R2": R2, "out": Q @ R, "in": R2 @ Q.mT, "b": theta["b"]} | {
            "slope": slope
        }

    def _upper(self, diagonal: Tensor, above: Tensor | None) -> Tensor:
        """(..., M, M), upper triangular."""
        if above is None:
            return diagonal.unsqueeze(-1)
        M = self.columns
        row, column = torch.triu_indices(M, M, 1, device=diagonal.device)
        empty = diagonal.new_zeros((*diagonal.shape[:-1], M * M))
        return empty.index_copy(-1, M * row + column, above).unflatten(
            -1, (M, M)
        ) + torch.diag_embed(diagonal)

    def _columns(self, theta: Theta) -> Tensor:
        """Q (L, ..., d, M)."""
        if "v" in theta:
            make = orthonormal if self.orthogonal == "orthogonal" else reflections
            return make(theta["v"], self.columns)
        like = theta["b"]
        eye = torch.eye(self.dim, dtype=like.dtype, device=like.device)
        each = torch.stack([eye.flip(0) if i % 2 else eye for i in range(self.length)])
        lead = like.dim() - 2
        each = each.reshape(self.length, *(1,) * lead, self.dim, self.dim)
        return each.expand(*like.shape[:-1], self.dim, self.dim)

    def step(
        self, u: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        h = torch.tanh(affine(u, theta["in"]) + theta["b"])
        return u + affine(h, theta["out"]), self._log_det(h, theta)

    def invert(
        self, z: Tensor, theta: Theta, context: Tensor | None, index: int
    ) -> tuple[Tensor, Tensor]:
        R, R2, b = theta["R"], theta["R2"], theta["b"]
        target = affine(z, theta["Q"].mT)  # (..., M)
        v: list[Tensor] = []  # the entries i, i + 1, …, M - 1 of Qᵀu
        h: list[Tensor] = []
        for i in reversed(range(self.columns)):
            outer, inner = R[..., i, i], R2[..., i, i]
            rest = target[..., i] - sum(R[..., i, i + 1 + j] * x for j, x in enumerate(h))
            shift = b[..., i] + sum(R2[..., i, i + 1 + j] * x for j, x in enumerate(v))

            def f(x: Tensor, shift: Tensor = shift, outer=outer, inner=inner):
                y = torch.tanh(inner * x + shift)
                return x + outer * y, 1 + outer * inner * (1 - y * y)

            x = monotone_root(f, rest, rest - outer.abs(), rest + outer.abs())
            v.insert(0, x)
            h.insert(0, torch.tanh(inner * x + shift))
        folds = torch.stack(torch.broadcast_tensors(*h), -1)
        return z - affine(folds, theta["out"]), self._log_det(folds, theta)

    def _log_det(self, h: Tensor, theta: Theta) -> Tensor:
        return torch.log1p(theta["slope"] * (1 - h * h)).sum(-1)
