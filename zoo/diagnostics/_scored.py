"""Draws of q for simulated rows, and what p and q say of them and of the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.data import Batch
from zoo.diagnostics._simulated import Truth
from zoo.handlers import Particles, Record, Replay, log_prob
from zoo.local_params import at_home
from zoo.model import Model
from zoo.particles import outer_sum, simulate, split, vectorizes
from zoo.sites import Sites


class Scored(NamedTuple):
    """T draws of R simulations (T rows of B; or, of whole data sets, R = 1), in float64.

    Attributes:
        units: (T, R, U), the latents as they are.
        log_joint: (T, R), log p(x, z), or log p(x, z, g) summed over the rows.
        log_likelihood: (T, R), log p(x | z), or of all rows given g too.
        log_q: (T, R), log q(z | x), or log q(z, g | x); None where it is not known.
    """

    units: Tensor
    log_joint: Tensor
    log_likelihood: Tensor
    log_q: Tensor | None

    @classmethod
    def joined(cls, parts: list[Scored], dim: int) -> Scored:
        """Pieces side by side along draws (0) or simulations (1)."""
        log_q = [part.log_q for part in parts if part.log_q is not None]
        return cls(
            torch.cat([part.units for part in parts], dim),
            torch.cat([part.log_joint for part in parts], dim),
            torch.cat([part.log_likelihood for part in parts], dim),
            torch.cat(log_q, dim) if len(log_q) == len(parts) else None,
        )


def drawn(
    model: Model, guide: Any, batch: Batch, count: int, truth: Truth, names: Iterable[str]
) -> Scored:
    """``count`` draws of q, from its Markov chain where it has one.

    Args:
        model: p.
        guide: q for the rows of the batch.
        batch: B simulated rows.
        count: T.
        truth: what kinds of latents there are.
        names: the sites whose numbers are units.
    """
    names = tuple(names)
    if count > 1 and not vectorizes(model, batch):
        ones = [drawn(model, guide, batch, 1, truth, names) for _ in range(count)]
        return Scored.joined(ones, 0)
    whole = truth.whole
    outer, inner = (count, 1) if whole else (1, count)
    sites = recorded(model, guide, batch, outer, inner)
    log_q = _log_q(sites, model, outer, inner, len(batch), whole)
    if getattr(guide, "refines", False):
        log_q = torch.full_like(log_q, torch.nan)  # of a chain's draws
    values = {name: sites[name]["value"] for name in truth.values if name in sites}
    parts = [_flat(values[name], name, truth, count, len(batch)) for name in names]
    scores = _score(model, batch, values, outer, inner, whole)
    return Scored(torch.cat(parts, -1), *scores, log_q)


def at_truth(
    model: Model, guide: Any, batch: Batch, truth: Truth, names: Iterable[str], sites: Iterable[str]
) -> Scored:
    """The truth of the rows of a batch as a single draw, (1, R, …).

    Args:
        model, guide, batch, names: as for ``drawn``.
        truth: the latents of these rows.
        sites: every site that the guide draws, its auxiliary ones too.
    """
    whole = truth.whole
    sites = tuple(sites)
    values = {name: value for name, value in truth.values.items() if name in sites}
    parts = [_flat(values[name], name, truth, 1, len(batch)) for name in names]
    log_q = log_q_of(model, guide, batch, values, truth, sites)
    scores = _score(model, batch, values, 1, 1, whole)
    return Scored(torch.cat(parts, -1), *scores, log_q)


def recorded(model: Model, guide: Any, batch: Batch, outer: int, inner: int) -> dict[str, Any]:
    """The sites of q, its discrete ones drawn."""
    draw = guide.refined if getattr(guide, "refines", False) else guide
    with Record() as q, Particles(outer, inner, model.plate), at_home(guide):
        draw(batch.unscaled())
    return {name: s for name, s in q.sites.items() if not (s["infer"] or {}).get("reward")}


def log_q_of(
    model: Model,
    guide: Any,
    batch: Batch,
    values: Mapping[str, Tensor],
    truth: Truth,
    sites: tuple[str, ...],
) -> Tensor | None:
    """(1, R): log q at given latents; None where q scores its own draws alone."""
    if getattr(guide, "refines", False) or not getattr(guide, "scores", True):
        return None
    whole = truth.whole
    score: Callable[..., Tensor] | None = getattr(guide, "log_prob", None)
    if not callable(score) or any(name in truth.discrete for name in values):
        return _replayed(model, guide, batch, values, sites, whole)
    local = {name: value for name, value in values.items() if name in truth.local}
    rows = score(batch, local).double() if local else batch.index.new_zeros(len(batch)).double()
    if not whole:
        return rows.reshape(1, -1)
    try:
        shared = guide.log_prob_global({n: v for n, v in values.items() if n not in local})
    except (AttributeError, ValueError):  # an AutoGuide has a density of its own
        return None
    return (rows.sum() + shared.double()).reshape(1, 1)


def _replayed(
    model: Model,
    guide: Any,
    batch: Batch,
    values: Mapping[str, Tensor],
    sites: tuple[str, ...],
    whole: bool,
) -> Tensor | None:
    """log q from a run of the guide on these values; None where they do not give all its draws."""
    given, latents = dict(values), getattr(guide, "latents", None)
    for name in sites:
        if name in values:
            continue
        known = latents.local.sites if latents is not None else ()
        packed = known if name == "_local" else [site for site in known if name == f"_{site.name}"]
        if not packed:
            return None
        given[name], _ = Sites(list(packed)).pack(values)
        for site in packed:  # they follow from the vector, up to rounding
            del given[site.name]
    with (
        Record() as q,
        at_home(guide),
        Replay({name: {"value": value} for name, value in given.items()}),
    ):
        guide(batch.unscaled())
    found = {name: s for name, s in q.sites.items() if not (s["infer"] or {}).get("reward")}
    return _log_q(found, model, 1, 1, len(batch), whole)


def _log_q(
    sites: Mapping[str, Any], model: Model, outer: int, inner: int, rows: int, whole: bool
) -> Tensor:
    """(T, R), every site of q summed."""
    inside, outside = split(sites, model.plate)
    local = _total((log_prob(s) for s in inside), model).expand(outer, inner, rows)
    if not whole:
        return local.reshape(inner, rows)
    return (local.sum((-2, -1)) + outer_sum(outside, outer, local.new_zeros(()))).reshape(outer, 1)


def _score(
    model: Model, batch: Batch, values: Mapping[str, Tensor], outer: int, inner: int, whole: bool
) -> tuple[Tensor, Tensor]:
    """log p(x, z) and log p(x | z), (T, R) each, what ``values`` lack summed out."""
    given = {name: {"value": value} for name, value in values.items()}
    inside, outside = split(simulate(model, batch, outer, inner, given), model.plate)
    likelihood = _total((log_prob(s) for s in inside if s["is_observed"]), model)
    prior = _total((log_prob(s) for s in inside if not s["is_observed"]), model)
    joint = likelihood + prior
    if states := tuple(range(joint.dim() - 3)):  # p(x | z) = p(x, z) / p(z), y summed out of both
        joint = joint.logsumexp(states)
        likelihood = joint - prior.logsumexp(states)
    shape = (outer, inner, len(batch))
    joint, likelihood = joint.expand(shape), likelihood.expand(shape)
    if not whole:
        return joint.reshape(inner, -1), likelihood.reshape(inner, -1)
    shared = outer_sum(outside, outer, joint.new_zeros(()))
    joint = joint.sum((-2, -1)) + shared
    return joint.reshape(outer, 1), likelihood.sum((-2, -1)).reshape(outer, 1)


def _total(terms: Iterable[Tensor], model: Model) -> Tensor:
    zero = torch.zeros((), dtype=torch.float64, device=model.device)
    return sum((term.double() for term in terms), zero)


def _flat(value: Tensor, name: str, truth: Truth, count: int, rows: int) -> Tensor:
    """(T, R, d): the numbers of a site, in a row."""
    shape = truth.shape(name)
    if name in truth.local:
        return value.expand((count, rows, *shape)).reshape(count, rows, -1)
    return value.reshape(count, 1, -1)
