"""The search for the best κ of every row, whatever a guide makes of κ."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from guides.copied import Copied, Few
from guides.draws import made
from guides.flow import Flow
from guides.infer import row_losses
from guides.layers import Structured
from guides.source import Source
from guides.table import PerDatapoint
from zoo.context import factory, seeded
from zoo.data import Batch, Dataset
from zoo.objectives.bounds import mean
from zoo.weights import log_weights

if TYPE_CHECKING:
    from guides.guide import Guide

WINDOW, PATIENCE = 100, 10  # steps of a window; windows without a rise that end the search
JUDGES = 512  # draws that decide between ends


class Search:
    """The search for κ, (rows, P), whatever the guide makes of it.

    Args:
        guide: where it starts, and what is shared.
        data: all rows.
        num_particles: draws for each gradient.
    """

    def __init__(self, guide: Guide, data: Dataset, num_particles: int):
        self.guide, self.data, self.num_particles = guide, data, num_particles
        family: Any = guide.family
        self.copied: Copied | None = None
        self.sizes: list[int] = []  # of the parts of κ that layers read
        self.shared = guide.classifier is not None
        if isinstance(family, Structured):
            self.sizes = [len(part) for part in self._layers()]
            self.shared |= len(self.sizes) < len(family.families)
        elif isinstance(family, Flow) and next(family.parameters(), None) is not None:
            self.copied = Copied(family)
        else:
            self.shared |= next(family.parameters(), None) is not None
        self.labels = getattr(guide.source, "labels", {})
        self.states = math.prod(self.labels.values())  # rows of κ for each datapoint
        start = self.anew()
        self.width = len(start) * self.states
        self.around = self._around(Few(data, start, self.labels))

    def _layers(self) -> list[Tensor]:
        """Where the parts of κ that ``read`` gives start, (P_l,) each."""
        family: Any = self.guide.family
        seen = family.read(next(self.data.batches(1)).to(self.guide.model.device))
        parts = seen if isinstance(seen, list) else [seen]
        if not all(isinstance(part, Tensor) for part in parts):
            raise ValueError(
                f"{type(family).__name__} has no parameters of its own for a row: its networks "
                "read the row in every layer; use amortized, bottom_up or top_down"
            )
        return [f.initial() for f, _ in zip(family.families, parts, strict=False)]

    def anew(self) -> Tensor:
        """(P,): location 0, scale ``init_scale``, new weights of a flow."""
        model, spec, family = self.guide.model, self.guide.spec, self.guide.family
        with factory(model.device, model.dtype):
            if self.sizes:
                return torch.cat(self._layers())
            assert family is not None
            if self.copied is None:
                return family.initial().to(model.device, model.dtype)
            other: Any = made(spec["family"], family.dim, spec["family_options"])
            return torch.cat([other.initial(), self.copied.weights(other)])

    @torch.no_grad()
    def own(self, batch: Batch) -> Tensor:
        """κ of the guide as it is, (rows, P); of rows that a table does not have, its mean row."""
        guide, source = self.guide, self.guide.source
        if self.sizes:
            seen = guide.family.read(batch)  # type: ignore[union-attr,operator]
            return torch.cat(seen, -1) if isinstance(seen, list) else seen
        if isinstance(source, PerDatapoint):
            table = source.table.weight.detach().unflatten(0, (-1, self.states))
            same = self.data.fingerprint == source.fingerprint
            kappa = table[batch.index] if same else table.mean(0).expand(len(batch), -1, -1)
        elif not self.labels:
            kappa = guide._source(batch)(batch)
        else:
            state, values = torch.arange(self.states, device=batch.index.device), {}
            for name, size in self.labels.items():  # the first the fastest, as in a table
                values[name], state = (state % size).unsqueeze(-1), state // size
            kappa = guide._source(batch)(batch.without(*(n for n in values if n in batch)), values)
            kappa = kappa.transpose(0, 1)
        kappa = kappa.detach().reshape(len(batch) * self.states, -1)
        if self.copied is None:
            return kappa
        theta = self.copied.weights(self.copied.flow)
        return torch.cat([kappa, theta.expand(len(kappa), -1)], -1)

    def climb(
        self,
        batch: Batch,
        start: Tensor,
        steps: int,
        lr: float,
        falling: bool,
        advance: Callable[[int], Any],
    ) -> Tensor:
        """The κ that Adam ends with."""
        kappa = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([kappa], lr=lr, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        total = torch.zeros((), device=kappa.device, dtype=kappa.dtype)
        least, waited = torch.full_like(total, torch.inf), 0
        for step in range(1, steps + 1):
            with torch.enable_grad():
                optimizer.zero_grad()
                loss = self._losses(batch, kappa, self.num_particles).sum()
                loss.backward()
            optimizer.step()
            if falling:
                schedule.step()
            total = total + loss.detach()
            if step % WINDOW == 0:
                advance(WINDOW)
                waited = 0 if bool(total < least) else waited + 1
                least, total = torch.minimum(total, least), torch.zeros_like(total)
                if waited == PATIENCE:
                    break
        return kappa.detach()

    @torch.no_grad()
    def best(self, batch: Batch, kappas: Sequence[Tensor], seed: int) -> Tensor:
        """Of each row the κ with the largest bound, on the same fresh random numbers for all."""
        losses = []
        for kappa in kappas:
            with seeded(seed, kappa.device):
                parts = [self._losses(batch, kappa, JUDGES // 8) for _ in range(8)]
            losses.append(torch.stack(parts).mean(0))
        chosen = torch.stack(losses).nan_to_num(torch.inf).argmin(0)  # (B,)
        every = torch.stack(list(kappas)).unflatten(1, (len(batch), self.states))
        return every[chosen, torch.arange(len(batch), device=chosen.device)].flatten(0, 1)

    def _losses(self, batch: Batch, kappa: Tensor, num_particles: int) -> Tensor:
        """(B,): -ELBO_n(κ_n)."""
        if not self.sizes:
            return row_losses(self.around, batch, kappa, num_particles)
        q = self._around(lambda rows: kappa)
        return -log_weights(q.model, q, batch, num_particles).bound(mean)[0]

    def guide_of(self, kappa: Tensor) -> Guide:
        """The guide of all rows with this κ."""
        self.around.source.table.weight = nn.Parameter(kappa)  # type: ignore[union-attr]
        return self.around

    def _around(self, source: Any) -> Guide:
        """The guide with κ from elsewhere."""
        family: Any = self.copied or self.guide.family
        if self.sizes:
            family = copy.copy(family)
            give = partial(source, objective=None) if isinstance(source, Source) else source
            parts = self.sizes
            family.__dict__["read"] = lambda batch: _split(give(batch), parts)
        other = self.guide.with_source(source if isinstance(source, Source) else None)  # type: ignore[arg-type]
        other.__dict__.pop("source", None)  # a guide of layers has None there, not a module
        other._modules["family"] = family
        other.shared_weights = self.shared
        return other


def _split(kappa: Tensor, sizes: list[int]) -> Any:
    """κ as layers read it: one vector for the first, or a list of one for each."""
    return kappa if len(sizes) == 1 else list(kappa.split(sizes, -1))
