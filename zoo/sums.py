"""Sums of log weights over draws that come piece by piece: what bounds of several K are made of."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from zoo.piece import Drawn

MOST_BLOCKS = 8192  # sums that are kept of a row, whatever K


class Sums:
    """What is kept of the log weights of some rows: sums over blocks of draws, in float64.

    A block has G draws, G a level that the lower levels divide and that divides the higher ones
    but for K, or 1. Of each block are kept log Σ exp h and, at level 1 and the levels below G, the
    mean of log (1/k) Σ exp h over its groups of k. Enumerated sites are summed out of h; where the
    guide has q(y | x) level 1 is the ELBO, Σ_y q(y | x) [h_y − log q(y | x)], which is below.

    Args:
        levels: k, rising from 1 to K.
    """

    def __init__(self, levels: tuple[int, ...]):
        self.levels, self.top = levels, levels[-1]
        self.block = block_size(levels)
        self.low = [k for k in levels[:-1] if k == 1 or k < self.block]
        self.pending: tuple[Tensor, Tensor] | None = None
        self.log_sums: list[Tensor] = []  # (S, blocks, B)
        self.means: dict[int, list[Tensor]] = {k: [] for k in self.low}
        self.global_: Tensor | None = None  # (S,)

    def add(self, drawn: Drawn) -> None:
        """Takes in a piece, (S, k, B)."""
        self.global_ = drawn.global_ if self.global_ is None else self.global_
        h, first = drawn.h, drawn.h if drawn.first is None else drawn.first
        if self.pending is not None:
            same = first is h
            h = torch.cat([self.pending[0], h], -2)
            first = h if same else torch.cat([self.pending[1], first], -2)
        whole = h.shape[-2] - h.shape[-2] % self.block
        rest = h[..., whole:, :], first[..., whole:, :]
        self.pending = rest if whole < h.shape[-2] else None
        if not whole:
            return
        blocks = groups(h[..., :whole, :], self.block)  # (S, blocks, G, B)
        self.log_sums.append(blocks.logsumexp(-2))
        for k, found in self.means.items():
            if k == 1:
                found.append(groups(first[..., :whole, :], self.block).mean(-2))
                continue
            inside = groups(blocks, k).logsumexp(-2) - math.log(k)  # (S, blocks, G/k, B)
            found.append(inside.mean(-2))

    def result(self, size: int | None) -> tuple[list[Any], list[Any]]:
        """(S, B) values and variances of the bound at every level, and of its distance to K's.

        Args:
            size: N, the rows that log p(g)/q(g) is shared out over; None leaves it out.
        """
        blocks = torch.cat(self.log_sums, -2)  # (S, blocks, B)
        everything = blocks.logsumexp(-2, keepdim=True)
        if self.pending is not None:
            rest = self.pending[0].logsumexp(-2, keepdim=True)
            everything = torch.logaddexp(everything, rest)
        top = everything - math.log(self.top)  # (S, 1, B)
        log_ratio = blocks - math.log(self.block) - top
        best = [(top.squeeze(-2), _variance(log_ratio.exp()))]
        none = torch.zeros_like(best[0][0])
        bounds, gaps = [], []
        for k in self.levels[:-1]:
            inner = blocks if k <= self.block else self._of(blocks, k)
            ratio = (inner - math.log(max(k, self.block)) - top).exp()
            found = torch.cat(self.means[k], -2) if k in self.means else inner - math.log(k)
            bounds.append((found.mean(-2), _variance(found)))
            gaps.append(((top - found).mean(-2), _variance(ratio - found)))
        if size is not None:
            assert self.global_ is not None
            share = self.global_.unsqueeze(-1) / size
            bounds, best = ([(v + share, var) for v, var in part] for part in (bounds, best))
        return bounds + best, [*gaps, (none, none)]

    def _of(self, blocks: Tensor, k: int) -> Tensor:
        """log Σ exp h of each group of k draws, from whole blocks."""
        size = k // self.block
        return groups(blocks[..., : blocks.shape[-2] // size * size, :], size).logsumexp(-2)


def groups(h: Tensor, size: int) -> Tensor:
    """(..., n size, B) -> (..., n, size, B)."""
    return h.unflatten(-2, (-1, size))


def block_size(levels: tuple[int, ...]) -> int:
    """G: the smallest that leaves ``MOST_BLOCKS`` of them, if the levels allow one.

    Example:
        >>> block_size((1, 10, 100, 1000, 5000)), block_size((1, 10, 100, 1000, 100_000))
        (1, 100)
    """
    lower, top = levels[:-1], levels[-1]
    fitting = [
        size
        for size in lower
        if all(max(size, k) % min(size, k) == 0 for k in lower) and 16 * size <= top
    ]
    few = [size for size in fitting if top <= MOST_BLOCKS * size]
    return min(few) if few else max(fitting, default=1)


def _variance(terms: Tensor) -> Tensor:
    """Of the mean of (S, groups, B) independent terms: (S, B)."""
    return terms.var(-2) / terms.shape[-2]
