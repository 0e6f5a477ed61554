"""Whether a model can take many particles in one run, and the way round where it cannot."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from zoo.context import seeded
from zoo.data import Batch
from zoo.functions import PlainModel
from zoo.handlers import Enumerate, Particles, Record, Replay, in_plate, log_prob
from zoo.model import Model, observe
from zoo.paths import ManyPaths


def split(sites: Mapping[str, Any], plate: str) -> tuple[list[Any], list[Any]]:
    """The sites inside the data plate, and those outside."""
    inside = [s for s in sites.values() if in_plate(s, plate)]
    return inside, [s for s in sites.values() if not in_plate(s, plate)]


def outer_sum(sites: Iterable[Any], outer: int, like: Tensor) -> Tensor:
    """(S,): global log-probabilities, everything but the outer particles summed."""
    terms = (log_prob(s) for s in sites)
    summed = (t.reshape(outer, -1).sum(-1) if outer > 1 and t.dim() > 2 else t.sum() for t in terms)
    return sum(summed, like).expand(outer)


def one_particle(site: Any, plate: str, s: int, k: int) -> Any:
    """A site recorded with (S, K) particles, at one pair of them."""
    value = site["value"]
    if in_plate(site, plate):
        lead = value.dim() - site["fn"].event_dim  # the batch's dimensions, data the last
        if lead > 3:  # a draw for every state of an enumerated site before it
            value = value.narrow(lead - 3, s if value.shape[lead - 3] > 1 else 0, 1)
            return {**site, "value": value.narrow(lead - 2, k, 1)}
        return {**site, "value": value[s if value.shape[0] > 1 else 0, k]}
    return {**site, "value": value[s, 0] if site["cond_indep_stack"] else value[s, 0, 0]}


def vectorizes(model: Model, batch: Batch) -> bool:
    """Whether the model means the same with particle dimensions as without.

    A ``Model`` does, by contract. A plain function is tried once for each set of names in a
    batch: (2, 3) particles in one run against the same latents one pair at a time, on the CPU;
    where it fails or differs, particles are run one after the other.
    """
    if not isinstance(model, PlainModel):
        return True
    names = frozenset(batch.values)
    if names not in model.vectorized:
        with torch.no_grad(), seeded(0), poutine.block():
            model.vectorized[names] = _same(model, batch.rows(5))
    return model.vectorized[names]


def simulate(
    model: Model,
    batch: Batch,
    outer: int = 1,
    inner: int = 1,
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The sites of one run on a batch with (S, K) particles of the latents, drawn from p or given.

    Discrete latents of the data plate run through all their values.
    """
    plate = model.plate
    with (
        Record() as record,
        Enumerate(plate),
        Particles(outer, inner, plate),
        Replay(given or {}),
    ):
        observe(model)(batch.unscaled())
    return record.sites


def drawn(sites: Mapping[str, Any]) -> dict[str, Any]:
    """The latents among recorded sites, but for the enumerated ones."""
    return {
        name: site
        for name, site in sites.items()
        if not site["is_observed"] and "_enumerated" not in (site["infer"] or {})
    }


def log_joint(sites: Mapping[str, Any], plate: str, outer: int, inner: int, rows: int) -> Tensor:
    """(S, K, B): log p(x, z | g) + log p(g) at the recorded values, enumerated sites summed out."""
    inside, outside = split(sites, plate)
    local = torch.as_tensor(sum(log_prob(s) for s in inside))
    local = local.logsumexp(tuple(range(local.dim() - 3))) if local.dim() > 3 else local
    total = outer_sum(outside, outer, local.new_zeros(()))
    return local.expand(outer, inner, rows) + total[:, None, None]


def _same(model: PlainModel, batch: Batch) -> bool:
    if model.device.type != "cpu":
        model, batch = copy.deepcopy(model).cpu(), batch.to("cpu")
    plate, rows = model.plate, len(batch)
    try:
        sites = simulate(model, batch, 2, 3)
        together = log_joint(sites, plate, 2, 3, rows)
        for s, k in itertools.product(range(2), range(3)):
            given = {name: one_particle(site, plate, s, k) for name, site in drawn(sites).items()}
            alone = log_joint(simulate(model, batch, given=given), plate, 1, 1, rows)
            if not torch.allclose(together[s, k], alone[0, 0], rtol=1e-4, atol=1e-4):
                return False
    except (RuntimeError, ValueError, IndexError):
        return False
    return True


def one_by_one(weigh: Callable[[Mapping[str, Any]], Any], inner: int, outer: int) -> Any:
    """The record of (S, K) particles from one run a particle, for functions that do not vectorise.

    Args:
        weigh: a record of log weights of one particle, the globals given or, where empty, drawn.
        inner: K.
        outer: S.
    """
    grid: list[list[Any]] = []
    for _ in range(outer):
        first = weigh({})
        grid.append([first, *(weigh(first.globals) for _ in range(inner - 1))])
    first = grid[0][0]

    def gather(name: str) -> Tensor:
        return torch.cat([torch.cat([getattr(w, name) for w in r], -2) for r in grid], -3)

    def values(name: str) -> Tensor:
        if name in first.globals:
            return torch.stack([row[0].values[name] for row in grid])
        return torch.stack([torch.stack([w.values[name] for w in row]) for row in grid])

    def enumerated() -> Tensor | None:
        """(C, B), or (C, S, K, B) where it differs between draws, which come before y."""
        every = [[w.log_q_enum for w in r] for r in grid]
        if first.log_q_enum is None or all(
            torch.equal(first.log_q_enum, one) for r in every for one in r
        ):
            return first.log_q_enum
        return torch.stack([torch.stack(r, 1) for r in every], 1)

    return replace(
        first,
        log_q_enum=enumerated(),
        local=gather("local"),
        log_q=gather("log_q"),
        log_likelihood=gather("log_likelihood"),
        local_sites=None,
        global_=torch.cat([row[0].global_ for row in grid]),
        log_q_global=torch.cat([row[0].log_q_global for row in grid]),
        values={name: values(name) for name in first.values},
        log_q_score=None if first.log_q_score is None else gather("log_q_score"),
        paths=None if first.paths is None else ManyPaths([[w.paths for w in r] for r in grid]),
    )
