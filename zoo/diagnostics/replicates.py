"""Data sets and latents drawn anew from p, a piece of bounded size at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.chunks import plan
from zoo.data import Batch, Dataset
from zoo.handlers import Particles, Record, Replay, in_plate
from zoo.model import Model
from zoo.particles import vectorizes
from zoo.weights import log_weights


@dataclass(frozen=True)
class Pair:
    """What one run tells of a model and a guide on a data set.

    Attributes:
        head: the first rows, at most four, on the model's device.
        observed: the sites that the data give.
        has_globals: whether any latent is outside the data plate.
        together: whether many particles go through in one run.
        width: numbers of the largest tensor that one particle of one row takes.
    """

    head: Batch
    observed: tuple[str, ...]
    has_globals: bool
    together: bool
    width: int

    @classmethod
    def of(cls, model: Model, guide: Callable[[Batch], Any], data: Dataset) -> Pair:
        """The model is resolved on the way; the random state moves."""
        cut = plan(model, guide, data, 1, 2, 2**21)
        head = next(data.batches(min(len(data), 97))).to(model.device).rows(4)
        observed = log_weights(model, guide, head).observed
        return cls(head, observed, cut.has_globals, vectorizes(model, head), cut.width)

    def cut(self, rows: int, draws: int, inner: int, max_elements: int) -> tuple[int, int]:
        """Rows and draws of one piece, with ``inner`` particles of each."""
        each = self.width * inner
        few = min(rows, max(1, max_elements // (each * min(draws, 32))))
        return few, min(draws, max(1, max_elements // (each * few)))


def split_draws(total: int, most: int) -> Iterator[int]:
    """Draws of each piece."""
    for start in range(0, total, most):
        yield min(most, total - start)


@torch.no_grad()
def draw_globals(
    model: Model, guide: Callable[[Batch], Any], batch: Batch, count: int
) -> dict[str, Tensor]:
    """g ~ q(g): ``count`` draws by site, shaped as ``draw_joint`` takes them."""
    weights = log_weights(model, guide, batch, 1, count)
    return {name: weights.values[name] for name in weights.globals}


@torch.no_grad()
def draw_joint(
    model: Model, batch: Batch, count: int, given: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """(g, z, x) ~ p for the rows of a batch, conditioned on nothing but its inputs.

    Args:
        model: p.
        batch: B rows, of which only the number and the inputs are used.
        count: S.
        given: latents that are held, from ``draw_globals``.

    Returns:
        site -> (S, B, *event) for sites of the rows, (S, *shape) for the others.
    """
    given = given or {}
    if count == 1 or vectorizes(model, batch):
        with Record() as p, Particles(count, 1, model.plate), Replay(_sites(given)):
            model.run(batch)
        runs = [p.sites]
    else:
        runs = []
        for s in range(count):
            with Record() as p, Replay(_sites({name: v[s] for name, v in given.items()})):
                model.run(batch)
            runs.append(p.sites)
    each = count // len(runs)
    return {
        name: torch.cat([shaped(run[name], model.plate, each, len(batch)) for run in runs])
        for name in runs[0]
    }


def _sites(values: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: {"value": value} for name, value in values.items()}


def shaped(site: Any, plate: str, count: int, rows: int) -> Tensor:
    """(S, B, *event) of a site of the rows or (S, *shape), as recorded with (S, 1) particles."""
    value, event = site["value"], site["fn"].event_shape
    lead = value.shape[: value.dim() - len(event)]
    if in_plate(site, plate):
        target = (count, 1, rows) if count > 1 else (rows,)
        return value.expand(*target, *event).reshape(count, rows, *event)
    own = lead[-1:] if site["cond_indep_stack"] else ()
    target = (count, *lead[1:]) if count > 1 and len(lead) > 1 else lead
    each = torch.broadcast_to(value, (*target, *event)).reshape(-1, *own, *event)
    return each.expand(count, *own, *event)
