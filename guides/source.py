"""What a source of κ is: the base of everything in ``guides.inference``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.data import Batch, Dataset
from zoo.decoding import tiled
from zoo.paths import remembered

Objective = Callable[[Tensor], Tensor]  # κ (B, P) -> a noisy bound for each datapoint (B,)


class Source(nn.Module):
    """κ_n for the rows of a batch: ``forward(batch, objective) -> (B, P)``.

    Args:
        data: the data set that the guide is for; its shapes build encoders, its length tables.
        initial: (P,), the κ to start from.
        latents: names of the model's latents, which an encoder never reads.

    Attributes:
        amortized: whether unseen rows get their κ without an optimisation.
    """

    amortized: ClassVar[bool] = True

    def __init__(self, data: Dataset, initial: Tensor, latents: tuple[str, ...] = ()):
        super().__init__()
        self.num_params = len(initial)

    def forward(self, batch: Batch, objective: Objective) -> Tensor:
        raise NotImplementedError

    def given(self, batch: Batch, labels: Mapping[str, Tensor], objective: Objective) -> Tensor:
        """κ of q(z | x, y) at values of labels: (*lead, B, P).

        Args:
            batch: B rows.
            labels: y by site, (*lead, B) with leading dimensions of any size, a relaxed one
                (*lead, B, C); dimensions of size 1 are broadcast.
            objective: as for ``forward``, of *lead × B rows.
        """
        rows, lead = with_labels(batch, labels)
        return self(rows, objective).reshape(*lead, len(batch), -1)


def with_labels(batch: Batch, labels: Mapping[str, Tensor]) -> tuple[Batch, torch.Size]:
    """The rows once for every leading index of the labels, as rows that come with them, and lead.

    Args:
        batch: B rows.
        labels: as for ``Source.given``.
    """
    tails = {n: y.shape[-1:] if y.is_floating_point() else y.shape[:0] for n, y in labels.items()}
    leads = [y.shape[: y.dim() - len(tails[n]) - 1] for n, y in labels.items()]
    lead = torch.broadcast_shapes(*leads)
    values = {
        name: y.expand(*lead, len(batch), *tails[name]).reshape(-1, *tails[name])
        for name, y in labels.items()
    }
    rows = tiled(batch, math.prod(lead)) if lead else batch
    return replace(rows, values={**rows.values, **values}), lead


class Kappa:
    """κ of the rows of a batch, and at labels: what a guide's draw asks for.

    Args:
        source: where κ comes from.
        objective: κ (B, P), batch -> a noisy bound for each datapoint (B,).
    """

    def __init__(self, source: Source, objective: Callable[[Batch, Tensor], Tensor]):
        self.source, self.objective = source, objective

    def __call__(self, batch: Batch, labels: Mapping[str, Tensor] | None = None) -> Tensor:
        """(B, P), or (*lead, B, P) at labels that the batch lacks."""
        if not labels:
            return remembered(
                lambda: self.source(batch, lambda kappa: self.objective(batch, kappa))
            )

        def bound(kappa: Tensor) -> Tensor:
            return self.objective(with_labels(batch, labels)[0], kappa)

        return remembered(lambda: self.source.given(batch, labels, bound))
