"""Orthogonal matrices from vectors without constraints."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(v: Tensor) -> Tensor:
    """v/|v| over the last dimension, at any length that a float holds; 0 stays 0.

    Example:
        >>> unit(torch.tensor([[3e-30, 4e-30], [3e30, 4e30]]))
        tensor([[0.6000, 0.8000],
                [0.6000, 0.8000]])
    """
    tiny = torch.finfo(v.dtype).tiny
    v = v / v.detach().abs().amax(-1, keepdim=True).clamp_min(tiny)
    return v / torch.linalg.vector_norm(v, dim=-1, keepdim=True).clamp_min(tiny)


def reflect(u: Tensor, v: Tensor) -> Tensor:
    """(I - 2 v vᵀ) u, of v (..., d) of length one and u (..., d)."""
    return u - 2 * (u * v).sum(-1, keepdim=True) * v


def reflections(vectors: Tensor, columns: int) -> Tensor:
    """The first columns of H_1 … H_H, H_h = I - 2 v_h v_hᵀ/|v_h|²: (..., d, columns).

    Args:
        vectors: (..., H, d).
        columns: how many.
    """
    d = vectors.shape[-1]
    eye = torch.eye(columns, d, dtype=vectors.dtype, device=vectors.device)
    rows = eye.expand(*vectors.shape[:-2], columns, d)
    for v in reversed(unit(vectors).unbind(-2)):
        rows = reflect(rows, v.unsqueeze(-2))
    return rows.mT


def orthonormal(vectors: Tensor, columns: int) -> Tensor:
    """Orthonormal columns that span what the vectors do: (..., d, columns).

    Gram and Schmidt's procedure, each vector made orthogonal twice, so that nearly equal vectors
    lose no digit of the orthogonality. Where columns = d the last one has no freedom but its
    sign, and a fixed vector stands for it.

    Args:
        vectors: (..., min(columns, d - 1), d).
        columns: how many.

    Reference: van den Berg, Hasenclever, Tomczak and Welling, "Sylvester Normalizing Flows for
    Variational Inference", 2018.
    """
    *lead, given, d = vectors.shape
    found = vectors.new_zeros(*lead, 0, d)
    place = torch.arange(d, dtype=vectors.dtype, device=vectors.device)
    for k in range(columns):
        spare = unit(torch.cos((k + 1) * place + k))  # for a vector in the span of those before
        v = unit(vectors[..., k, :]) if k < given else spare.expand(*lead, d)
        for _ in range(3):
            v = v - torch.einsum(
                "...k,...kd->...d", torch.einsum("...kd,...d->...k", found, v), found
            )
            v = torch.where((v == 0).all(-1, keepdim=True), spare, unit(v))
        found = torch.cat([found, v.unsqueeze(-2)], -2)
    return found.mT
