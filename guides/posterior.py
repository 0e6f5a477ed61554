"""Draws of q by name, with their moments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guides.labels import classifier_of
from zoo.data import Batch
from zoo.handlers import Particles, Record, log_prob
from zoo.particles import outer_sum, split
from zoo.weights import log_weights

if TYPE_CHECKING:
    from guides.guide import Guide


@dataclass(frozen=True)
class Posterior:
    """S draws of the latents of B rows.

    Attributes:
        samples: by site; local (S, B, *event), global (S, *event), discrete (S, B) drawn from
            q(y | x), or else from q(z) p(y | x, z).
        log_q: (S, B), log q(z | x) of the continuous or binary local latents, in nats, with a
            classifier
            log q(z | x, y) at the y drawn with them; NaN for draws of a Markov chain, which have no
            density.
        log_q_global: (S,), log q(g).
        probabilities: by discrete site, (B, C): q(y | x), or else p(y | x, z) averaged over the
            draws, which is the responsibilities where nothing else is latent.
    """

    samples: dict[str, Tensor]
    log_q: Tensor
    log_q_global: Tensor
    probabilities: dict[str, Tensor]

    @property
    def mean(self) -> dict[str, Tensor]:
        """Posterior means of the continuous latents over the draws; of a bit, how often it is 1."""
        return {k: v.mean(0) for k, v in self.samples.items() if k not in self.probabilities}

    @property
    def sd(self) -> dict[str, Tensor]:
        """Posterior standard deviations of the continuous latents, over the draws."""
        return {k: v.std(0) for k, v in self.samples.items() if k not in self.probabilities}


@torch.no_grad()
def posterior(guide: Guide, batch: Batch, num_samples: int = 1000) -> Posterior:
    """S independent draws (g, z_1, …, z_B) of q for the rows of a batch.

    Each draw of the global latents goes with one of the local ones. Auxiliary sites are left out.

    Args:
        guide: q.
        batch: B rows.
        num_samples: S.

    Raises:
        ValueError: fewer than one draw.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples counts draws from 1, got {num_samples}")
    has_globals = bool(guide.latents.global_.dim)
    inner, outer = (1, num_samples) if has_globals else (num_samples, 1)
    if classifier_of(guide) and any(name not in batch for name in guide.latents.discrete):
        return _with_labels(guide, batch, inner, outer)  # y ~ q(y | x), and z given that
    draw = guide.refined if guide.refines else guide
    weights = log_weights(guide.model, draw, batch, inner, outer)
    rows = len(batch)
    samples = {}
    for site in guide.latents.vectors.sites:
        value = weights.values[site.name]
        samples[site.name] = value.reshape(num_samples, rows, *site.shape)
    for site in guide.latents.global_.sites:
        samples[site.name] = weights.values[site.name].reshape(num_samples, *site.shape)
    log_q = weights.log_q if weights.log_q.dim() == 3 else weights.log_q[0]
    log_q = torch.full_like(log_q, torch.nan) if guide.refines else log_q
    probabilities: dict[str, Tensor] = {}
    if weights.enumerated:
        joint, draws = weights.discrete()
        sizes = list(weights.enumerated.values())
        table = joint.mean((1, 2)).reshape(*reversed(sizes), rows)
        for i, name in enumerate(weights.enumerated):
            others = [d for d in range(len(sizes)) if d != len(sizes) - 1 - i]
            probabilities[name] = (table.sum(others) if others else table).T
            samples[name] = draws[name].reshape(num_samples, rows)
    return Posterior(
        samples=samples,
        log_q=log_q.reshape(num_samples, rows),
        log_q_global=weights.log_q_global.expand(num_samples),
        probabilities=probabilities,
    )


def _with_labels(guide: Guide, batch: Batch, inner: int, outer: int) -> Posterior:
    """Draws of a guide with q(y | x), each with a value of y."""
    model, rows = guide.model, len(batch)
    with Record() as q, Particles(outer, inner, model.plate):
        guide(batch.unscaled())
    count, latents = inner * outer, guide.latents
    samples, log_q = {}, torch.zeros(count, rows, device=batch.index.device, dtype=model.dtype)
    for site in latents.local.sites:
        samples[site.name] = q.sites[site.name]["value"].reshape(count, rows, *site.shape)
    for site in latents.global_.sites:
        samples[site.name] = q.sites[site.name]["value"].reshape(count, *site.shape)
    for name in latents.discrete:
        if name not in batch:
            samples[name] = q.sites[name]["value"].reshape(count, rows)
    inside, outside = split(q.sites, model.plate)
    for site in inside:
        if site["name"] not in latents.discrete and not (site["infer"] or {}).get("reward"):
            log_q = log_q + log_prob(site).reshape(count, rows)
    probabilities = {n: p for n, p in guide.classify(batch).items() if n not in batch}
    log_q_global = outer_sum(outside, outer, log_q.new_zeros(()))
    return Posterior(samples, log_q, log_q_global.expand(count), probabilities)
