"""What is shared between rows, copied for each: a flow's weights, and a table of a few rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from guides.family import Family
from guides.flow import Flow
from guides.source import Objective
from guides.table import PerDatapoint
from zoo.data import Batch, Dataset


class Copied(Family):
    """A flow whose shared weights stand in κ_n, behind what κ_n holds already: θ_n for each row.

    Args:
        flow: with ``flow="shared"``.

    Example:
        >>> from guides.families.iaf import IAF
        >>> flow = IAF(2, length=1, context_dim=0, hidden=(3,))
        >>> copied = Copied(flow)
        >>> kappa = torch.cat([flow.initial(), copied.weights(flow)]).expand(5, -1)
        >>> copied(kappa).rsample().shape
        torch.Size([5, 2])
    """

    def __init__(self, flow: Flow):
        super().__init__(flow.dim, flow.init_scale)
        self.flow = flow
        self.shapes = {name: value.shape for name, value in flow.named_parameters()}  # (L, P_θ)
        self.scores_cheaply = flow.scores_cheaply

    @property
    def num_params(self) -> int:
        return self.flow.num_params + sum(shape.numel() for shape in self.shapes.values())

    def initial(self) -> Tensor:
        own = self.flow.initial()
        return torch.cat([own, self.weights(self.flow).to(own)])

    def weights(self, flow: nn.Module) -> Tensor:
        """(Σ L P_θ,): the weights of a flow of this kind, side by side."""
        return torch.cat([value.detach().flatten() for value in flow.parameters()])

    def forward(self, kappa: Tensor) -> Any:
        sizes = [shape.numel() for shape in self.shapes.values()]
        own, *parts = kappa.split([self.flow.num_params, *sizes], -1)
        theta = {  # (L, ..., P_θ), as layers take what stands in κ
            name: part.unflatten(-1, shape).movedim(-2, 0)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        return functional_call(self.flow, theta, (own,))


class Few(PerDatapoint):
    """A table for the rows of ``data``, which may be some rows of others (``data.only``).

    Args:
        data: the rows.
        initial: (P,), the κ of all of them to start from.
        label_classes: as for ``per_datapoint``.
    """

    place: Tensor  # (N of the whole data,)

    def __init__(
        self, data: Dataset, initial: Tensor, label_classes: Mapping[str, int] | None = None
    ):
        index = torch.cat([batch.index for batch in data.batches(4096)]).to(initial.device)
        whole = data.subset(torch.arange(len(data))) if data.chosen else data
        super().__init__(whole, initial, label_classes=label_classes)
        self.fingerprint = data.fingerprint
        place = torch.full((len(index) and int(index.max()) + 1,), -1, device=index.device)
        place[index] = torch.arange(len(index), device=index.device)
        self.register_buffer("place", place)

    def forward(self, batch: Batch, objective: Objective) -> Tensor:
        inside = batch.index.clamp(max=len(self.place) - 1)
        found = torch.where(batch.index == inside, self.place[inside], -1)
        if batch.fingerprint == self.fingerprint and bool((found < 0).any()):
            raise ValueError("the batch has rows that this table was not made for")
        return super().forward(replace(batch, index=found), objective)
