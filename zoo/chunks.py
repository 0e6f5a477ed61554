"""Log weights of any number of rows and particles, a piece of bounded size at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zoo.data import Batch, Dataset
from zoo.handlers import Replay
from zoo.local_params import at_home
from zoo.model import Model
from zoo.particles import log_joint, simulate, vectorizes
from zoo.weights import LogWeights, log_weights

PROBE = (4, 32)  # rows and particles that the width is measured with


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor made inside the block has (views are not made).

    Attributes:
        numel: of that tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, seconds of it, at the first operation

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # as torch calls it
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            made = (leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
            self.numel = max(self.numel, *made, 0)
        return result


@dataclass(frozen=True)
class Plan:
    """How K particles of every row are cut into pieces.

    Attributes:
        width: numbers of the largest tensor that one particle of one row takes.
        rows: B, datapoints side by side.
        particles: particles of each in one piece; all K unless a single row has no room for them.
        outer: S, draws of the global latents, all of them in every piece.
        has_globals: whether any latent is outside the data plate.
    """

    width: int
    rows: int
    particles: int
    outer: int
    has_globals: bool


def plan(
    model: Model,
    guide: Callable[[Batch], Any],
    data: Dataset,
    num_particles: int,
    num_outer: int,
    max_elements: int,
    of_model: bool = False,
) -> Plan:
    """Cuts so that no tensor has more than ``max_elements`` numbers, as far as one can be cut.

    The width is measured: log weights of four rows are taken once, and the largest tensor made on
    the way is counted, hidden layers, levels of a pixel and enumerated states with it. Particles
    come first, so that an encoder runs once for many of them. The random state moves.

    Args:
        model: p.
        guide: q.
        data: N rows.
        num_particles: K.
        num_outer: S, used where there are global latents.
        max_elements: numbers in one tensor.
        of_model: counts the tensors of the model alone, so that all guides of a model get the same
            pieces, and with them the same random numbers.
    """
    head = next(data.batches(min(len(data), 97))).to(model.device)
    model.resolve(head)
    head = head.rows(PROBE[0])
    together = vectorizes(model, head)
    with Largest() as seen:
        first = log_weights(model, guide, head)
    outer = num_outer if first.has_globals else 1
    few = min(outer, 2)
    room = max(1, max_elements // max(1, seen.numel * few))
    inner = min(num_particles, PROBE[1], room)
    if of_model and together:
        drawn = log_weights(model, guide, head, inner, few).values
        given = {name: {"value": value} for name, value in drawn.items()}
        with Largest() as seen:
            log_joint(simulate(model, head, few, inner, given), model.plate, few, inner, len(head))
    else:
        with Largest() as seen:
            log_weights(model, guide, head, inner, few)
    states = math.prod(first.enumerated.values())
    rows = sum(data.event_shape(name).numel() for name in data.names) * states
    width = max(1, rows, -(-seen.numel // (len(head) * inner * few)))
    budget = max(1, max_elements // (width * outer))
    pieces = -(-num_particles // budget) if together else 1
    particles = -(-num_particles // pieces)
    return Plan(width, max(1, budget // num_particles), particles, outer, first.has_globals)


def pieces(
    model: Model, guide: Callable[[Batch], Any], batch: Batch, num_particles: int, cut: Plan
) -> Iterator[LogWeights]:
    """The log weights of K particles of a batch, ``cut.particles`` at a time.

    All pieces of a batch have the same draws of the global latents.
    """
    left, held = num_particles, guide
    while left:
        weights = log_weights(model, held, batch, min(left, cut.particles), cut.outer)
        if held is guide and cut.has_globals and left > cut.particles:
            held = holding(guide, {n: site["value"] for n, site in weights.globals.items()})
        left -= min(left, cut.particles)
        yield weights


def holding(guide: Callable[[Batch], Any], values: Mapping[str, Tensor]) -> Callable[[Batch], Any]:
    """The guide with the sites of these names held at their values."""

    def held(batch: Batch) -> Any:
        with at_home(guide), Replay({name: {"value": value} for name, value in values.items()}):
            return guide(batch)

    return held
