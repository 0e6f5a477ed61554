"""What is put on the KL term in training: a weight β, a warm-up of it, free bits.

None of the three leaves a bound on log p(x), and everything that prints such a loss says so.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent

from zoo.closed_kl import is_weighed
from zoo.handlers import log_prob
from zoo.registry import entries, resolve
from zoo.weights import LogWeights

NOT_A_BOUND = "not a bound"
LEAST = 1e-6  # β of summed-out sites, whose limit β -> 0 is a maximum over them


def tempered(weights: LogWeights, beta: float | Tensor) -> LogWeights:
    """Log weights whose KL terms count β times.

    h_β = log p(x | z, g) + β [log p(z | g) - log q(z | x, g)], and β [log p(g) - log q(g)]. Latents
    y that are summed out have the best q there is, so that
    h_β = β log Σ_y p(y, z)/q(z) p(x | y, z)^(1/β); where the guide has q(y | x) its logarithm
    counts β times.

    Args:
        weights: h_1, in nats.
        beta: β ≥ 0, a number or a tensor (). At 1 the record is returned as it is.

    Raises:
        ValueError: a β that is negative or not finite.

    Reference: Higgins et al., "β-VAE: Learning Basic Visual Concepts with a Constrained Variational
    Framework", 2017.
    """
    if not isinstance(beta, Tensor):
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta, the weight of the KL term, is finite and not negative: {beta}")
        if beta == 1:
            return weights
    likelihood, rest = weights.log_likelihood, weights.local - weights.log_likelihood
    global_ = beta * weights.global_
    if weights.local.dim() == 3:
        return replace(weights, local=likelihood + beta * rest, global_=global_)
    if weights.log_q_states is not None:
        spare = (1 - beta) * weights.log_q_states
        return replace(weights, local=likelihood + beta * rest + spare, global_=global_)
    power = beta.clamp_min(LEAST) if isinstance(beta, Tensor) else max(beta, LEAST)
    local = power * (rest + likelihood / power).logsumexp(0)
    return replace(weights, local=local, global_=global_, enumerated={})


def free_bits_excess(weights: LogWeights, least: float) -> Tensor:
    """(): Σ_j max(0, λ - KL_j), what the KL term lacks of λ nats in each group of latents.

    KL_j, the mean over draws and rows of log q(z_j | x) - log p(z_j), is of one dimension of a site
    where both q and p are independent over the last dimension of its event, and of the whole site
    elsewhere; latents that a guide draws together as one vector are one group. Latents that all
    rows share have none.

    Args:
        weights: of one batch.
        least: λ ≥ 0, nats.

    Raises:
        ValueError: a λ that is negative or not finite; sites that are summed out.
    """
    if not (math.isfinite(least) and least >= 0):
        raise ValueError(f"free_bits are nats a group of latents, finite and from 0, got {least}")
    if weights.enumerated:
        raise ValueError(
            f"free bits need latents that the guide draws, and {list(weights.enumerated)} are "
            "summed out; use beta or a warm-up of it"
        )
    if weights.relaxed or weights.log_q_score is not None:
        raise ValueError(
            "free bits need draws with a path-wise gradient, and these are discrete or scored; use "
            "beta or a warm-up of it"
        )
    groups = kl_groups(weights)
    return (least - groups).clamp_min(0).sum()


def kl_groups(weights: LogWeights) -> Tensor:
    """(J,): KL_j in nats, estimated by the draws. See ``free_bits_excess``."""
    rest = (weights.log_likelihood - weights.local).mean()  # all of them together
    if weights.local_sites is None:  # one run a particle: only sums were kept
        return rest[None]
    p, q = weights.local_sites
    auxiliary = any((site["infer"] or {}).get("is_auxiliary") for site in q.values())
    together = auxiliary or p.keys() != q.keys()
    if together:
        return rest[None]
    groups = [_per_dimension(q[name], p[name]) for name in p]
    return torch.cat(groups) if groups else rest.new_zeros(0)


def _per_dimension(q: Any, p: Any) -> Tensor:
    """(d,): the KL of each dimension of a site, or (1,) where q or p does not factorise."""
    terms = [_factors(site) for site in (q, p)]
    if terms[0] is None or terms[1] is None:
        return (log_prob(q) - log_prob(p)).mean()[None]
    ratio = terms[0] - terms[1]
    return ratio.reshape(-1, ratio.shape[-1]).mean(0)


def _factors(site: Any) -> Tensor | None:
    """(..., B, d): log-densities over the last dimension of the event; None where not a product."""
    fn, inner = site["fn"], site["fn"]
    while isinstance(inner, Independent):
        inner = inner.base_dist
    if inner is fn or inner.event_shape or is_weighed(site):
        return None
    terms = inner.log_prob(site["value"])
    before = tuple(range(-fn.event_dim, -1))
    return terms.sum(before) if before else terms


def why_no_bound(objective: Any, options: Mapping[str, Any]) -> str:
    """What makes an objective's value no bound on log p(x); empty if nothing does.

    Args:
        objective: its function, or its word.
        options: the keyword arguments that it is given.

    Example:
        >>> why_no_bound("elbo", {"beta": 4.0}), why_no_bound("elbo", {"num_particles": 5})
        ('β = 4', '')
        >>> why_no_bound("renyi", {"alpha": -1.0}), why_no_bound("beta", {})
        ('α below 0 at a finite K', 'β = 4')
    """
    if isinstance(objective, str):
        word, _, value = objective.partition(":")
        objective = resolve("objectives", word) if word in entries("objectives") else None
        if value and (name := getattr(objective, "shorthand", None)):
            options = {**options, name: float(value)}
    known = inspect.signature(objective).parameters if objective else {}
    told = {name: p.default for name, p in known.items()} | dict(options)
    own = getattr(getattr(objective, "func", objective), "no_bound", "")
    reasons = [own if isinstance(own, str) else own(told)]
    if (beta := told.get("beta", 1.0)) != 1:
        reasons.append(f"β = {beta:g}")
    if free := told.get("free_bits", 0.0):
        reasons.append(f"free bits of {free:g} nats")
    return " and ".join(filter(None, reasons))


def training_note(objective: str, options: Mapping[str, Any], warm_up: int = 0) -> str:
    """What a reader of a run's figures should know of its loss; empty where that was a bound.

    Example:
        >>> training_note("elbo", {"beta": 2.0})
        'trained on elbo (β = 2), which is not a bound; the bounds reported are'
    """
    reasons = why_no_bound(objective, options)
    if warm_up:
        rise = f"β rising over the first {warm_up} steps"
        reasons = f"{reasons}, and {rise}" if reasons else rise
    if not reasons:
        return ""
    return f"trained on {objective} ({reasons}), which is {NOT_A_BOUND}; the bounds reported are"
