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

    On the CPU a QR factorisation; on a CUDA device, where that goes matrix by matrix, the procedure
    of Gram and Schmidt, each vector made orthogonal twice, so that nearly equal vectors lose no
    digit. Where columns = d the last one has no freedom but its
    sign, and a fixed vector stands for it.

    Args:
        vectors: (..., min(columns, d - 1), d).
        columns: how many.

    Reference: van den Berg, Hasenclever, Tomczak and Welling, "Sylvester Normalizing Flows for
    Variational Inference", 2018.
    """
    *lead, given, d = vectors.shape
    place = torch.arange(d, dtype=vectors.dtype, device=vectors.device)
    vectors = unit(vectors)
    if given < columns:
        spare = unit(torch.cos(place + 1)).expand(*lead, columns - given, d)
        vectors = torch.cat([vectors, spare], -2)
    if not vectors.is_cuda:  # LAPACK's, with the signs of Gram and Schmidt
        Q, R = torch.linalg.qr(vectors.mT)
        diagonal = R.detach().diagonal(dim1=-2, dim2=-1)
        return Q * torch.where(diagonal < 0, -1.0, 1.0).unsqueeze(-2)
    found = vectors[..., :0, :]
    for k in range(columns):
        v, spare = vectors[..., k, :], unit(torch.cos((k + 2) * place + k))
        for _ in range(2):
            inner = torch.einsum("...kd,...d->...k", found, v)
            v = v - torch.einsum("...k,...kd->...d", inner, found)
            v = torch.where((v == 0).all(-1, keepdim=True), spare, unit(v))
        found = torch.cat([found, v.unsqueeze(-2)], -2)
    return found.mT
