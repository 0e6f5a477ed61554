"""A piece of an evaluation, k draws of B rows, as a function of tensors alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from zoo.chunks import holding
from zoo.data import Batch
from zoo.model import Model
from zoo.tracing import swapped
from zoo.weights import log_weights


class Drawn(NamedTuple):
    """What bounds take of the log weights of a piece.

    Attributes:
        h: (S, k, B) float64, log weights with enumerated sites summed out.
        global_: (S,) float64, log p(g) − log q(g).
        first: (S, k, B) float64, terms of the ELBO where the guide has q(y | x); else None: h.
        globals: what was drawn of g, by site.
    """

    h: Tensor
    global_: Tensor
    first: Tensor | None
    globals: Mapping[str, Tensor]


def draw(
    model: Model,
    guide: Callable[[Batch], Any],
    batch: Batch,
    particles: int,
    outer: int,
    held: Mapping[str, Tensor],
) -> Drawn:
    """k draws of every row of a batch, given the draws of g that are held, if any."""
    weights = log_weights(model, holding(guide, held) if held else guide, batch, particles, outer)
    return Drawn(
        weights.summed.double(),
        weights.global_.double(),
        None if weights.log_q_enum is None else weights.expected.double(),
        {name: site["value"] for name, site in weights.globals.items()},
    )


class Piece:
    """``draw`` for batches like one batch, a function of their tensors, of g and of all weights.

    Args:
        model, guide: whose parameters and buffers come as arguments in place of their own.
        batch: B rows; the others have as many, of the same names.
        particles: k.
        outer: S.
        held: draws of g, if they are held.

    Attributes:
        weights: parameters and buffers, the last arguments.
    """

    def __init__(
        self,
        model: Model,
        guide: Callable[[Batch], Any],
        batch: Batch,
        particles: int,
        outer: int,
        held: Mapping[str, Tensor],
    ):
        self.model, self.guide, self.batch = model, guide, batch
        self.particles, self.outer, self.names = particles, outer, tuple(held)
        self.modules = [part for part in (model, guide) if isinstance(part, nn.Module)]
        every = [v for m in self.modules for v in (*m.parameters(), *m.buffers()) if v.numel()]
        self.own = list(dict.fromkeys(every))
        self.weights = [value.detach() for value in self.own]
        self.drawn: tuple[str, ...] = ()

    def inputs(self, batch: Batch, held: Mapping[str, Tensor]) -> list[Tensor]:
        """The arguments that change from piece to piece."""
        return [batch.index, *batch.values.values(), *batch.observed.values(), *held.values()]

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)

        def take(names: Any) -> dict[str, Tensor]:
            return {name: next(rest) for name in names}

        index, like = next(rest), self.batch
        batch = replace(like, index=index, values=take(like.values), observed=take(like.observed))
        held = take(self.names)
        with swapped(self.modules, dict(zip(self.own, rest, strict=True))):
            found = draw(self.model, self.guide, batch, self.particles, self.outer, held)
        self.drawn = () if held else tuple(found.globals)
        first = [] if found.first is None else [found.first]
        drawn = (found.globals[name] for name in self.drawn)
        return found.h, found.global_, *drawn, *first

    def read(self, outputs: Iterator[Tensor]) -> Drawn:
        """What the function returned, by name."""
        h, global_ = next(outputs), next(outputs)
        drawn = {name: next(outputs) for name in self.drawn}
        return Drawn(h, global_, next(outputs, None), drawn)
