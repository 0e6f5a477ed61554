"""κ_n from a table: per-datapoint inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from guides.source import Objective, Source
from zoo.data import Batch, Dataset

__all__ = ["PerDatapoint"]

MAX_TABLE = 2 * 2**30  # bytes; the optimizer keeps two more of the size


class PerDatapoint(Source):
    """κ_n = row n of a table: one free vector a datapoint; a step costs O(batch), not O(N).

    Given labels y it is κ_ny, a vector for each of their C values. The gradient is sparse, and so
    is the optimizer's step; the table and its two moments take 3 N C P numbers. Unseen rows need an
    optimisation: ``guide.infer(data)``.

    Raises:
        ValueError: a table of more than 2 GiB, with its size.

    Reference: Hoffman, Blei, Wang and Paisley, "Stochastic Variational Inference", 2013.
    """

    amortized: ClassVar[bool] = False

    def __init__(
        self,
        data: Dataset,
        initial: Tensor,
        latents: tuple[str, ...] = (),
        label_classes: Mapping[str, int] | None = None,
    ):
        super().__init__(data, initial, latents)
        if data.chosen:
            raise ValueError(
                f"these are {len(data)} rows that belong to other data, and a table is of whole "
                "data: take them by data.subset(index) instead of data.only(index)"
            )
        self.labels = dict(label_classes or {})
        self.states = math.prod(self.labels.values())  # rows of the table for each datapoint
        _check_size(len(data) * self.states, initial)
        table = initial.expand(len(data) * self.states, -1).clone()
        self.table = nn.Embedding.from_pretrained(table, freeze=False, sparse=True)  # (N C, P)
        self.table.distinct = True  # type: ignore[assignment]  # no row twice in a step
        self.fingerprint = data.fingerprint

    def forward(self, batch: Batch, objective: Objective) -> Tensor:
        if batch.fingerprint != self.fingerprint:
            raise ValueError(
                f"this guide has a table of {self.table.num_embeddings // self.states} rows for "
                f"the data set it was built with; the batch belongs to another, of {batch.total} "
                "rows: call guide.infer(data) for unseen rows"
            )
        return self.pick(batch, self.table)

    def pick(self, batch: Batch, table: Callable[[Tensor], Tensor]) -> Tensor:
        """(B, P): the vectors of the rows and of their labels; the mean one of a relaxed label.

        Args:
            batch: ``index`` and the labels.
            table: rows n C + y -> (…, P).
        """
        first, weights = batch.index * self.states, None
        stride = 1
        for name, size in self.labels.items():
            y = batch[name]
            if y.is_floating_point():
                if len(self.labels) > 1:
                    raise ValueError("a table takes one relaxed label; use the estimator enumerate")
                weights = y  # (B, C)
            else:
                first = first + stride * y
            stride *= size
        if weights is None:
            return table(first)
        every = first.unsqueeze(-1) + torch.arange(self.states, device=first.device)
        return (weights.unsqueeze(-1) * table(every)).sum(-2)


def _check_size(rows: int, row: Tensor) -> None:
    size = rows * row.numel() * row.element_size()
    if size > MAX_TABLE:
        raise ValueError(
            f"a table of {rows} rows of {row.numel()} numbers takes {size / 2**30:.1f} GiB, more "
            f"than {MAX_TABLE / 2**30:.0f}; use --inference amortized, a shorter flow, or weights "
            "that all rows share (--family.flow shared)"
        )
