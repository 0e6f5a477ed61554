"""The latents of rows, site by site: means of q, and the terms of its KL from the prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent

from zoo.closed_kl import divergence, is_weighed
from zoo.data import Batch
from zoo.handlers import Enumerate, Particles, Record, in_plate, log_prob
from zoo.local_params import at_home
from zoo.model import Model
from zoo.sites import is_bits
from zoo.weights import LogWeights


class Moments:
    """Mean over particles that come in pieces, and its standard error, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.start: Tensor | None = None
        self.sums: list[Any] = [0.0, 0.0]

    def add(self, terms: Tensor) -> None:
        """Takes in (k, ...) terms."""
        terms = terms.double()
        self.start = terms[0] if self.start is None else self.start
        away = terms - self.start
        self.count += len(terms)
        self.sums = [s + t for s, t in zip(self.sums, (away.sum(0), (away**2).sum(0)), strict=True)]

    def mean_and_error(self) -> tuple[Tensor, Tensor]:
        """(...): both; the error is 0 where all terms are equal."""
        assert self.start is not None
        away = self.sums[0] / self.count
        variance = (self.sums[1] / self.count - away**2).clamp_min(0) / max(1, self.count - 1)
        return self.start + away, variance.sqrt()


class Terms(NamedTuple):
    """log q − log p of one site, or its KL.

    Attributes:
        values: (K, B, d) by dimension, or (K, B, 1).
        split: whether the last dimension holds those of the site.
        single: whether the site is one number, which has no dimensions to be split into.
    """

    values: Tensor
    split: bool
    single: bool = False


def unit_names(site: str, terms: Terms) -> list[str]:
    """z[0], z[1], …, or z as a whole."""
    count = terms.values.shape[-1]
    return [f"{site}[{i}]" for i in range(count)] if terms.split else [site]


def kl_terms(weights: LogWeights) -> tuple[Tensor, dict[str, Terms]]:
    """log q(z | x) − log p(z) of every particle, (K, B) averaged over draws of g, and by site.

    Enumerated sites are summed out of p(z). Where the guide has q(y | x) they have an entry of
    their own, KL(q(y | x) ‖ p(y)), and the terms of the others are averaged over q(y | x). Where
    the guide draws several sites as one vector, or the prior of one is a mixture over values that
    are summed out, there is one entry for all of them. Where there is an entry for every site the
    first is their sum, which has less noise: some of them are KLs in closed form.
    """
    excess, log_q = weights.log_likelihood - weights.local, weights.log_q_states
    if log_q is not None:
        excess = (log_q.exp() * (excess + log_q)).sum(0)
    elif excess.dim() > 3:
        excess = -(-excess).logsumexp(0)
    p, q = weights.local_sites or ({}, {})
    drawn = [name for name in p if name not in weights.enumerated]
    lead = excess.shape  # (S, K, B)
    mixed = log_q is None and any(log_prob(p[n]).dim() > 3 for n in drawn)
    if not drawn or mixed or set(drawn) != {*q} - {*weights.enumerated}:
        names = drawn if log_q is None else [*p]
        together = {" + ".join(names) or "z": Terms(excess.mean(0).unsqueeze(-1), False)}
        return excess.mean(0), together
    share = None if log_q is None else log_q.exp()
    states = [*weights.enumerated.values()][::-1]
    closed = [name for name in drawn if _follows(name, p, q)]
    sites = {n: _terms(q[n], p[n], lead, n in closed, states, share) for n in drawn}
    if log_q is not None and share is not None:
        prior = sum((log_prob(p[n]) for n in weights.enumerated), torch.zeros(()))
        prior = prior.expand(*states, *lead).reshape(-1, *lead)  # (C, S, K, B)
        labels = (share * (log_q - prior)).sum(0).expand(lead).mean(0).unsqueeze(-1)
        known = {" + ".join(weights.enumerated): Terms(labels, False, single=True)}
        sites = {**known, **sites}
    if share is not None or len(drawn) == len(p):
        summed = [terms.values.sum(-1) for terms in sites.values()]
        return torch.stack(summed).sum(0), sites
    return excess.mean(0), sites


def _follows(name: str, p: Mapping[str, Any], q: Mapping[str, Any]) -> bool:
    """Whether q draws a site after all that p draws before it.

    Only then is the mean of log q − log p, given the draws that p depends on, a KL: where q goes
    from the bottom up, those were drawn with the site's own value in view.
    """
    before, drawn = [*p][: [*p].index(name)], [*q]
    return all(drawn.index(n) < drawn.index(name) for n in before if n in q)


def _terms(
    q: Any, p: Any, lead: torch.Size, closed: bool, states: list[int], share: Tensor | None
) -> Terms:
    """Of one site, averaged over draws of g and q(y | x): (K, B, d) or (K, B, 1)."""
    one, other, event = _factors(q), _factors(p), torch.Size()
    if one is None or other is None:
        values = log_prob(q) - log_prob(p)
    else:
        event = q["fn"].event_shape
        values = divergence(one, other) if closed else None
        if values is None:
            values = one.log_prob(q["value"]) - other.log_prob(q["value"])
    if share is None:
        values = values.expand(*lead, *event).reshape(*lead, -1)
    else:
        values = values.expand(*states, *lead, *event).reshape(-1, *lead, event.numel())
        values = (share.unsqueeze(-1) * values).sum(0)  # (S, K, B, d)
    return Terms(values.mean(0), bool(event))


def _factors(site: Any) -> Any:
    """The distribution of one dimension, where the site is a product of such; else None."""
    inner = site["fn"]
    while isinstance(inner, Independent):
        inner = inner.base_dist
    return None if inner.event_shape or is_weighed(site) else inner


def posterior_means(
    model: Model, guide: Callable[[Batch], Any], batch: Batch, num_samples: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """E_q[z | x] of every continuous or binary latent of the rows, and its estimate's variance.

    Returns:
        site -> (B, U) each, in float64; the variance is 0 where q knows its mean.
    """
    plate, rows = model.plate, batch.unscaled()
    with (
        Record() as q,
        Particles(1, num_samples, plate),
        Enumerate(plate, marked_only=True) as by_guide,
        at_home(guide),
    ):
        guide(rows)
    summed = [q.sites[name] for name in by_guide.sizes]
    weight = sum((log_prob(site) for site in summed), torch.zeros(()))  # (C, 1, 1, B) or ()
    found = {}
    for name, site in q.sites.items():
        auxiliary = (site["infer"] or {}).get("is_auxiliary")
        if auxiliary or name in by_guide.sizes or not in_plate(site, plate):
            continue
        if site["is_observed"] or (site["fn"].support.is_discrete and not is_bits(site["fn"])):
            continue
        size = site["fn"].event_shape.numel()
        value = _mean(site)
        value = value.reshape(*value.shape[: value.dim() - site["fn"].event_dim], size).double()
        if summed:
            share = torch.as_tensor(weight).double().exp().unsqueeze(-1)
            value = (share * value).sum(tuple(range(max(0, torch.as_tensor(weight).dim() - 3))))
        value = value.reshape(-1, *value.shape[-2:])  # (S or 1, B, U)
        moments = Moments()
        moments.add(value)
        mean, error = moments.mean_and_error()
        found[name] = mean, error.square()
    return found


def _mean(site: Mapping[str, Any]) -> Tensor:
    """The mean of the site's distribution where it knows it, given what was drawn before."""
    try:
        mean = site["fn"].mean
    except (NotImplementedError, AttributeError):
        return site["value"]
    return mean if bool(mean.isfinite().all()) else site["value"]
