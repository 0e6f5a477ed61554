"""The one primitive: log importance weights of a guide against a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from zoo.data import Batch
from zoo.handlers import Enumerate, Particles, Record, Replay, is_data, log_prob
from zoo.held import held
from zoo.local_params import at_home
from zoo.model import Model, as_model, observe
from zoo.particle_weights import LogWeights
from zoo.particles import one_by_one, outer_sum, split, vectorizes
from zoo.paths import Cut, Draws, Memory, lacks_path
from zoo.relaxed import Relaxed

__all__ = ["LogWeights", "log_weights"]


def log_weights(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    batch: Batch,
    num_particles: int = 1,
    num_outer: int = 1,
    draws: Draws = "path",
) -> LogWeights:
    """log w = log p(x, z) - log q(z | x), per datapoint and particle, vectorised.

    Inner particles are drawn for the sites inside the data plate only, so that a log-mean-exp over
    them never mixes two values of a global latent.

    Args:
        model: p, a ``Model`` or a plain Pyro function with ``obs=``.
        guide: q, a callable of the batch that samples the latents which the batch lacks.
            Discrete local latents that it leaves out are enumerated.
        batch: B rows.
        num_particles: K, inner particles.
        num_outer: S, draws of the global latents; without any S must be 1.
        draws: where the gradient of the draws goes. ``path``: through reparameterized draws, and
            log q as it is. ``held``: the parameters of q held in log q, so that its gradient is
            along the path alone, multiplied by what ``paths`` is told. ``cut``: none through the
            draws of the rows; ``log_q_score`` is the log q of them all. ``score``: as ``path``, and
            ``log_q_score`` is that of those without a path.

    Raises:
        ValueError: a latent that the guide does not sample and that cannot be enumerated; a site of
            the guide that the model lacks; more than 1024 joint states to enumerate.

    Reference: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2016.
    """
    model = as_model(model)
    if not torch.is_grad_enabled():
        draws = "path"  # there is no gradient to carry
    if min(num_particles, num_outer) < 1 or not isinstance(num_particles * num_outer, int):
        raise ValueError(
            f"num_particles and num_outer count draws from 1, got {num_particles}, {num_outer}"
        )
    model.resolve(batch)
    if num_particles * num_outer == 1 or vectorizes(model, batch):
        weights = _weigh(model, guide, batch, num_particles, num_outer, draws)
    else:
        weights = one_by_one(
            lambda given: _weigh(model, guide, batch, 1, 1, draws, given), num_particles, num_outer
        )
    if num_outer > 1 and not weights.has_globals:
        raise ValueError("num_outer counts draws of global latents, and there are none; use 1")
    return weights


def _weigh(
    model: Model,
    guide: Callable[[Batch], Any],
    batch: Batch,
    inner: int,
    outer: int,
    draws: Draws = "path",
    given: Mapping[str, Any] | None = None,
) -> LogWeights:
    """One vectorised run of the guide and the model; ``given`` fixes latents beforehand."""
    plate, rows, memory, paths = model.plate, batch.unscaled(), Memory(), None
    with (
        memory.open() if draws == "held" else nullcontext(),
        Cut(plate) if draws == "cut" else nullcontext(),
        Record() as q,
        Replay(given or {}),
        Particles(outer, inner, plate),
        Enumerate(plate, marked_only=True) as by_guide,
        at_home(guide),
    ):
        guide(rows)
    lost: tuple[str, ...] = ()
    if draws == "held":
        lost = tuple(name for name, site in q.sites.items() if _needs_score(site))
        q.sites, paths = held(guide, model, rows, q.sites, memory)
    with Record() as p, Enumerate(plate, used=by_guide.used) as by_model, Replay(q.sites):
        observe(model)(rows)
    _check_sites(p.sites, q.sites)
    sizes = {**by_guide.sizes, **by_model.sizes}
    if by_guide.sizes and by_model.sizes:
        raise ValueError(
            f"the guide enumerates {list(by_guide.sizes)} but leaves {list(by_model.sizes)} out; "
            "let it sample all discrete sites of the data plate, or none"
        )

    base = (outer, inner, len(batch))
    states = (torch.Size(sizes.values()).numel(),) if sizes else ()
    like = batch.index.new_zeros((), dtype=model.dtype)

    def total(terms: Iterable[Tensor]) -> Tensor:  # (S, K, B) or (C, S, K, B)
        summed = sum(terms, like)
        return summed.expand(*reversed(sizes.values()), *base).reshape(*states, *base)

    rewards = [s for s in q.sites.values() if _marked(s, "reward")]
    drawn = {name: site for name, site in q.sites.items() if not _marked(site, "reward")}
    q_in, q_out = split(drawn, plate)
    p_in, p_out = split(p.sites, plate)
    if not p_in:
        raise ValueError(f"the model samples nothing inside its data plate {plate!r}")
    q_enum = [s for s in q_in if s["name"] in by_guide.sizes]
    q_drawn = [s for s in q_in if s["name"] not in by_guide.sizes]
    q_score = [
        s
        for s in q_drawn
        if draws == "cut" or _marked(s, "score") or (draws == "score" and _needs_score(s))
    ]
    log_q = total(map(log_prob, q_drawn))
    log_q_global = outer_sum(q_out, outer, like)
    scores = [log_prob(s) for s in p_in]
    return LogWeights(
        local=total(scores) - log_q,
        global_=outer_sum(p_out, outer, like) - log_q_global,
        log_q=log_q,
        log_q_global=log_q_global,
        log_q_enum=_log_q_enum(q_enum, total),
        log_likelihood=total(t for t, s in zip(scores, p_in, strict=True) if s["is_observed"]),
        size=batch.total,
        has_globals=bool(q_out),
        score_sites=lost
        + tuple(
            s["name"]
            for s in q_in + q_out
            if _needs_score(s) and not any(s is other for other in q_score)
        ),
        values={name: site["value"] for name, site in drawn.items()},
        globals={site["name"]: site for site in q_out},
        observed=tuple(n for n, s in p.sites.items() if is_data(s)),
        enumerated=sizes,
        local_sites=(
            {s["name"]: s for s in p_in if not s["is_observed"]},
            {s["name"]: s for s in q_in},
        ),
        reward=-sum(_by_row(log_prob(s)) for s in rewards) if rewards else None,
        log_q_score=total(map(log_prob, q_score)) if q_score else None,
        relaxed=tuple(s["name"] for s in q_in if isinstance(s["fn"], Relaxed)),
        paths=paths,
    )


def _log_q_enum(sites: list[Any], total: Callable[..., Tensor]) -> Tensor | None:
    """(C, B), or (C, S, K, B) where the enumerated sites are given draws of others."""
    if not sites:
        return None
    given_draw = any(set(log_prob(s).shape[-3:-1]) - {1} for s in sites)
    log_q = total(map(log_prob, sites))
    return log_q if given_draw else log_q[:, 0, 0]


def _by_row(value: Tensor) -> Tensor:
    """(..., B) -> (B,), averaged over particles."""
    return value.reshape(-1, value.shape[-1]).mean(0)


def _marked(site: Any, mark: str) -> bool:
    return bool((site["infer"] or {}).get(mark))


def _needs_score(site: Any) -> bool:
    """Whether the draw loses a gradient that parameters want."""
    wanted = torch.is_grad_enabled() and not _marked(site, "score") and lacks_path(site)
    return wanted and log_prob(site).requires_grad


def _check_sites(p: Mapping[str, Any], q: Mapping[str, Any]) -> None:
    """The guide must have drawn just the latents that were not enumerated."""
    latent = {n for n, s in p.items() if not s["is_observed"]}
    handled = {n for n in latent if {"_replayed", "_enumerated"} & set(p[n]["infer"] or {})}
    if missing := sorted(latent - handled):
        raise ValueError(
            f"the guide does not sample {missing}; continuous and global latents need a "
            "distribution in the guide (only discrete sites of the data plate are enumerated)"
        )
    proposed = {n for n, s in q.items() if not (s["infer"] or {}).get("is_auxiliary")}
    if extra := sorted(proposed - latent):
        raise ValueError(
            f"the guide samples {extra}, which the model does not have as latents for this batch; "
            f"its latents are {sorted(latent)}"
        )
