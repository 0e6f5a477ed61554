"""The density of q at latents that it did not draw."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pyro.distributions as dist
import torch
from torch import Tensor

from guides.labels import classifier_of
from zoo.data import Batch

if TYPE_CHECKING:
    from guides.guide import Guide


def distribution(guide: Guide, batch: Batch) -> dist.TorchDistribution:
    """q over the packed, unconstrained local latents: batch shape (B,), event shape (d,).

    Binary ones are packed as they are.

    Raises:
        ValueError: no such latents; a family that cannot score a given z, which has draws alone;
            labels that q is given and the batch lacks.
    """
    family = guide.family
    if family is None:
        raise ValueError("the model has no continuous or binary local latents")
    if not family.scores:
        raise ValueError(
            f"the family {type(family).__name__} cannot score a given z: only its own "
            "draws have a density; use posterior(batch), or a family such as mean_field"
        )
    classifier = classifier_of(guide)
    if classifier and (lost := [name for name in classifier.labels if name not in batch]):
        other = ", or use log_prob, which averages over q(y | x)" if guide.classifier else ""
        raise ValueError(
            f"the guide has q(z | x, y), and the batch lacks {lost}: add them to it{other}"
        )
    return family.distribution(guide.model, batch, guide._source(batch))


def log_prob(guide: Guide, batch: Batch, latents: Mapping[str, Tensor]) -> Tensor:
    """log q(z | x) of given local latents (..., B, *event) -> (..., B), in nats.

    With a classifier log q(y | x) q(z | x, y) at labels y that are given among the latents, else
    log Σ_y q(y | x) q(z | x, y) over the labels that the batch lacks; layers with a classifier of
    their own (``stacked``) are scored given the labels alone.
    """
    classifier = guide.classifier
    drawn = [n for n in classifier.labels if n not in batch] if classifier is not None else []
    if not drawn or not (guide.family is None or guide.family.scores):
        return _of(guide, distribution(guide, batch), latents)
    assert classifier is not None
    if all(name in latents for name in drawn):
        states = [{name: latents[name].long() for name in drawn}]
    else:
        values = itertools.product(*(range(classifier.labels[name]) for name in drawn))
        full = partial(torch.full_like, batch.index)
        states = [{n: full(c) for n, c in zip(drawn, state, strict=True)} for state in values]
    log_q, terms = classifier.logits(batch), []
    for y in states:
        term: Any = sum(_at(log_q[name], value) for name, value in y.items())
        if guide.family is not None:
            kappa = partial(guide._source(batch), labels=y)
            term = term + _of(guide, guide.family.distribution(guide.model, batch, kappa), latents)
        terms.append(term)
    return torch.stack(terms).logsumexp(0) if len(terms) > 1 else terms[0]


def _at(log_q: Tensor, y: Tensor) -> Tensor:
    """(..., B): log q(y) of log-probabilities (B, C) at y (..., B)."""
    return log_q.expand(*y.shape, -1).gather(-1, y.unsqueeze(-1)).squeeze(-1)


def _of(guide: Guide, q: Any, latents: Mapping[str, Tensor]) -> Tensor:
    raw, log_jacobian = guide.latents.vectors.pack(latents)
    density = guide.family is not None and guide.family.has_density
    return q.log_prob(raw) - (log_jacobian if density else 0)
