"""Whole draws (g, z, y) of q with their densities and predictions, as arrays to be labelled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.chunks import holding
from zoo.data import Batch, Dataset
from zoo.diagnostics.replicates import Pair, draw_globals, draw_joint, shaped, split_draws
from zoo.handlers import Enumerate, Particles, Record, Replay, in_plate, log_prob
from zoo.local_params import at_home
from zoo.model import Model, observe
from zoo.particles import outer_sum, split
from zoo.weights import log_weights


@dataclass(frozen=True)
class PosteriorDraws:
    """S draws of q for N rows, on the CPU.

    Attributes:
        local: site -> (S, N, *event), discrete latents too: from q(y | x), or else p(y | x, z).
        globals: site -> (S, *shape).
        log_joint: (S,) log p(x, z, g) in nats; discrete latents that q does not draw summed out.
            Without global latents over the N rows, with them over all rows of the data.
        log_q: (S,), of the same; NaN where q has no density.
        row_log_weight: (S, N), log p(x_n, z_n | g) − log q(z_n | x_n, g).
        log_likelihood: (S, N), log (1/K) Σ_k p(x_n, z_k | g)/q(z_k | x_n, g), or None.
        predictive: observed site -> (S, N, *event), drawn anew from p(x | z, g).
    """

    local: dict[str, Tensor]
    globals: dict[str, Tensor]
    log_joint: Tensor
    log_q: Tensor
    row_log_weight: Tensor
    log_likelihood: Tensor | None
    predictive: dict[str, Tensor]


@torch.no_grad()
def posterior_draws(
    model: Model,
    guide: Callable[[Batch], Any],
    data: Dataset,
    index: Tensor,
    num_draws: int,
    num_inner: int,
    most: int,
) -> PosteriorDraws:
    """S draws (g_s, z_s1 … z_sN) ~ q, all rows of a draw with the same g.

    Args:
        model: p.
        guide: q for the rows of ``data``.
        data: all rows.
        index: (N,) those that are kept.
        num_draws: S.
        num_inner: K; 0 leaves the likelihood out.
        most: how many numbers the largest tensor may have.
    """
    pair = Pair.of(model, guide, data)
    chain = bool(getattr(guide, "refines", False))
    density = getattr(guide, "has_density", True)
    draw = guide.refined if chain else guide  # type: ignore[attr-defined]
    rows, size = pair.cut(len(index), num_draws, 1, most)
    pieces = []
    for count in split_draws(num_draws, size if pair.together else 1):
        given = draw_globals(model, guide, pair.head, count) if pair.has_globals else {}
        held, parts = holding(draw, given), []
        for batch, kept in _batches(model, data, index, rows, pair.has_globals):
            part = _joint(model, held, batch, count)
            if kept:
                likelihood = None
                if pair.has_globals and num_inner and density:
                    inner = holding(guide, given)
                    likelihood = _likelihood(model, inner, batch, num_inner, count, pair, most)
                predicted = draw_joint(model, batch, count, part.raw)
                found = {name: predicted[name] for name in pair.observed}
                parts.append((part, likelihood, found))
            else:
                parts.append((part, None, None))
        pieces.append(_joined(parts))
    local, globals_, joint, log_q, weight, likelihood, predictive = zip(*pieces, strict=True)
    single = None
    if num_inner and density and not pair.has_globals:  # the same for every draw of z
        batches = _batches(model, data, index, rows, False)
        found = [_likelihood(model, guide, b, num_inner, 1, pair, most) for b, _ in batches]
        single = torch.cat(found, 1).expand(num_draws, -1).cpu()
    many = None if single is not None or likelihood[0] is None else torch.cat(likelihood)
    log_q = torch.cat(log_q) if density and not chain else torch.cat(log_q) * torch.nan
    weight = torch.cat(weight) if density and not chain else torch.cat(weight) * torch.nan
    return PosteriorDraws(
        local=_cat(local),
        globals=_cat(globals_),
        log_joint=torch.cat(joint),
        log_q=log_q,
        row_log_weight=weight,
        log_likelihood=many if single is None else single,
        predictive=_cat(predictive),
    )


@dataclass(frozen=True)
class _Part:
    """One run on some rows: named draws, the same as they were recorded, and densities."""

    local: dict[str, Tensor]
    globals: dict[str, Tensor]
    raw: dict[str, Tensor]
    log_p: Tensor  # (S, B)
    log_q: Tensor  # (S, B)
    log_p_global: Tensor  # (S,)
    log_q_global: Tensor  # (S,)


def _joint(model: Model, guide: Callable[[Batch], Any], batch: Batch, count: int) -> _Part:
    """One value of every latent: y ~ q(y | x) and z given it, or z ~ q and y ~ p(y | x, z)."""
    plate, rows = model.plate, batch.unscaled()
    with Record() as q, Particles(count, 1, plate), at_home(guide):
        guide(rows)
    with Record() as p, Enumerate(plate) as left, Replay(q.sites):
        observe(model)(rows)
    drawn = {n: s for n, s in q.sites.items() if not (s["infer"] or {}).get("reward")}
    p_in, p_out = split(p.sites, plate)
    q_in, q_out = split(drawn, plate)
    like = torch.zeros((), dtype=torch.float64, device=model.device)
    base, states = (count, 1, len(batch)), tuple(reversed(left.sizes.values()))

    def total(sites: list[Any], states: tuple[int, ...] = ()) -> Tensor:  # (C, S, B)
        summed = sum((log_prob(s).double() for s in sites), like)
        return summed.expand(*states, *base).reshape(-1, count, len(batch))

    by_state = total(p_in, states)
    raw = {name: site["value"] for name, site in q.sites.items()}
    if left.sizes:
        state = torch.distributions.Categorical(logits=by_state.movedim(0, -1)).sample()
        state = state.unsqueeze(1) if count > 1 else state[0]
        for name, size in left.sizes.items():
            raw[name], state = state % size, torch.div(state, size, rounding_mode="floor")
    local, globals_ = {}, {}
    for name, site in p.sites.items():
        if site["is_observed"]:
            continue
        value = shaped({**site, "value": raw[name]}, plate, count, len(batch))
        (local if in_plate(site, plate) else globals_)[name] = value
    return _Part(
        local,
        globals_,
        raw,
        by_state.logsumexp(0),
        total(q_in)[0],
        outer_sum(p_out, count, like),
        outer_sum(q_out, count, like),
    )


def _batches(
    model: Model, data: Dataset, index: Tensor, rows: int, every: bool
) -> Iterator[tuple[Batch, bool]]:
    """The rows that are kept, then, where g depends on them too, all others."""
    for part in index.split(rows):
        yield data.batch(part).to(model.device), True
    if every and len(index) < len(data):
        others = torch.ones(len(data), dtype=torch.bool)
        others[index] = False
        for part in others.nonzero().flatten().split(rows):
            yield data.batch(part).to(model.device), False


def _likelihood(
    model: Model,
    guide: Callable[[Batch], Any],
    batch: Batch,
    inner: int,
    count: int,
    pair: Pair,
    most: int,
) -> Tensor:
    """(S, B), local latents integrated out; a few inner draws at a time."""
    sums, size = [], max(1, most // (pair.width * len(batch) * count))
    for some in split_draws(inner, size if pair.together else inner):
        summed = log_weights(model, guide, batch, some, count).summed
        sums.append(summed.double().logsumexp(1))
    return torch.stack(sums).logsumexp(0) - math.log(inner)


def _joined(parts: list[tuple[_Part, Tensor | None, Any]]) -> tuple[Any, ...]:
    """All rows of some draws, on the CPU."""
    kept = [part for part in parts if part[2] is not None]
    first = parts[0][0]
    log_p = sum(part.log_p.sum(1) for part, _, _ in parts) + first.log_p_global
    log_q = sum(part.log_q.sum(1) for part, _, _ in parts) + first.log_q_global
    likelihoods = [part[1] for part in kept if part[1] is not None]
    likelihood = torch.cat(likelihoods, 1).cpu() if likelihoods else None
    return (
        {n: torch.cat([part.local[n] for part, _, _ in kept], 1).cpu() for n in first.local},
        {name: value.cpu() for name, value in first.globals.items()},
        log_p.cpu(),
        log_q.cpu(),
        torch.cat([part.log_p - part.log_q for part, _, _ in kept], 1).cpu(),
        likelihood,
        {n: torch.cat([found[n] for *_, found in kept], 1).cpu() for n in kept[0][2]},
    )


def _cat(parts: tuple[Mapping[str, Tensor], ...]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
