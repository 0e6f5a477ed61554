"""What a source of κ is: the base of everything in ``guides.inference``."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from zoo.data import Batch, Dataset

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
