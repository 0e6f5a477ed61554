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

    With a classifier log Σ_y q(y | x) q(z | x, y), over the labels that the batch lacks; layers
    with a classifier of their own (``stacked``) are scored given the labels alone.
    """
    classifier = guide.classifier
    drawn = [n for n in classifier.labels if n not in batch] if classifier is not None else []
    if not drawn or guide.family is None or not guide.family.scores:
        return _of(guide, distribution(guide, batch), latents)
    assert classifier is not None
    log_q, terms = classifier.logits(batch), []
    for state in itertools.product(*(range(classifier.labels[name]) for name in drawn)):
        y = {n: torch.full_like(batch.index, c) for n, c in zip(drawn, state, strict=True)}
        kappa = partial(guide._source(batch), labels=y)
        q = guide.family.distribution(guide.model, batch, kappa)
        weight = sum(log_q[name][:, c] for name, c in zip(drawn, state, strict=True))
        terms.append(weight + _of(guide, q, latents))
    return torch.stack(terms).logsumexp(0)


def _of(guide: Guide, q: Any, latents: Mapping[str, Tensor]) -> Tensor:
    raw, log_jacobian = guide.latents.vectors.pack(latents)
    density = guide.family is not None and guide.family.has_density
    return q.log_prob(raw) - (log_jacobian if density else 0)
