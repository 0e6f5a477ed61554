"""Products, selections and joins that are safe under any leading dimensions."""

from __future__ import annotations

import torch
from pyro.ops.indexing import Vindex
from torch import Tensor


def affine(z: Tensor, W: Tensor) -> Tensor:
    """W z, with the leading dimensions of both broadcast.

    The product is a matrix product over every dimension that only one of the two has, so a
    shared W is never copied once per datapoint.

    Args:
        z: (..., d), for example local latents (S, K, B, d).
        W: (..., D, d): a parameter (D, d), a global latent (S, 1, 1, D, d), or one matrix per
            enumerated component (C, 1, 1, 1, D, d).

    Returns:
        (..., D).

    Raises:
        ValueError: the last dimensions of z and W differ.

    >>> affine(torch.ones(7, 2), torch.ones(3, 2)).shape
    torch.Size([7, 3])
    >>> affine(torch.ones(5, 4, 7, 2), torch.ones(6, 1, 1, 1, 3, 2)).shape
    torch.Size([6, 5, 4, 7, 3])
    """
    if z.shape[-1] != W.shape[-1]:
        raise ValueError(
            f"affine(z, W) needs the last dimensions of z and W to be equal (z: (..., d), "
            f"W: (..., D, d)); got z {tuple(z.shape)} and W {tuple(W.shape)}"
        )
    return torch.einsum("...d,...ed->...e", z, W)


def cholesky(matrix: Tensor) -> Tensor:
    """L with L Lᵀ = A, of A (..., d, d); NaN where A is not positive definite.

    Unlike ``torch.linalg.cholesky`` it does not wait for the device to say whether it worked.
    """
    factor, failed = torch.linalg.cholesky_ex(matrix)
    return torch.where((failed > 0)[..., None, None], torch.nan, factor)


def select(table: Tensor, y: Tensor, event_dim: int = 0) -> Tensor:
    """The rows table[..., y, :] picked by an integer latent, leading dimensions broadcast.

    Args:
        table: (..., M, *event): a parameter (M, *event) or a global latent (S, 1, 1, M, *event).
        y: (...) integers in 0..M-1, drawn (B,), (K, B) or enumerated (C, 1, 1, 1); of a relaxed y,
            weights (..., M), the weighted sum of the rows is taken.
        event_dim: number of dimensions of the event.

    Returns:
        (..., *event), the leading dimensions of the table and of y broadcast.

    >>> select(torch.arange(6.0).reshape(3, 2), torch.tensor([2, 0]), event_dim=1)
    tensor([[4., 5.],
            [0., 1.]])
    >>> y = torch.arange(3).reshape(3, 1, 1, 1)
    >>> select(torch.zeros(5, 1, 1, 3, 2), y, event_dim=1).shape
    torch.Size([3, 5, 1, 1, 2])
    """
    if y.is_floating_point():
        weights = y.reshape(*y.shape, *(1,) * event_dim)
        return (weights * table).sum(-1 - event_dim)
    return Vindex(table)[(Ellipsis, y) + (slice(None),) * event_dim]


def indicator(y: Tensor, size: int) -> Tensor:
    """(1[y = 0], …, 1[y = size - 1]): (..., size), of whole numbers y (...).

    A relaxed y, a point (..., size) of the simplex, is left as it is.

    Raises:
        ValueError: a relaxed y of another length.

    >>> indicator(torch.tensor([2, 0]), 3)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    if y.is_floating_point():
        if y.shape[-1:] != (size,):
            raise ValueError(f"a relaxed y has {size} entries, got shape {tuple(y.shape)}")
        return y
    classes = torch.arange(size, device=y.device)
    return (y.unsqueeze(-1) == classes).to(torch.get_default_dtype())


def join(*parts: Tensor) -> Tensor:
    """Vectors (..., d_i) side by side, (..., Σ d_i), their leading dimensions broadcast.

    >>> join(torch.zeros(7, 2), torch.zeros(3, 1, 5)).shape
    torch.Size([3, 7, 7])
    """
    lead = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*lead, part.shape[-1]) for part in parts], -1)
