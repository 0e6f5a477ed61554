"""A family made from its word, and its draw handed to the sites of a model, with its density."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor

from guides.family import Family
from zoo.data import Batch
from zoo.model import Model, rows
from zoo.registry import build
from zoo.sites import Sites


def made(family: str | type[Family], dim: int, options: Mapping[str, Any]) -> Family:
    """A family from its word or its class."""
    if isinstance(family, str):
        return build("families", family, dim, **options)
    return family(dim, **options)


def sample(
    name: str, q: Any, sites: Sites, family: Family, drawer: Any = None
) -> dict[str, Tensor]:
    """Draws q and hands each site its part, with log q(z) = log q(u) - log |dz/du|.

    Binary latents have a ``drawer``, which draws each site as the estimator would have it.
    """
    if drawer is not None:
        return drawer.draw(q, sites)
    if sites.identity:
        return {sites.names[0]: pyro.sample(sites.names[0], q, infer=dict(family.infer))}
    raw = pyro.sample(name, q, infer={"is_auxiliary": True, **family.infer})
    values, log_jacobians = sites.unpack(raw)
    result = {}
    for site in sites.sites:
        value, density = values[site.name], -log_jacobians[site.name] * family.has_density
        batch_shape = value.shape[: value.dim() - site.event_dim]
        if site.plated:  # one Jacobian for the whole plate, shared out over it
            density = density / site.shape[: len(site.shape) - site.event_dim].numel()
        delta = dist.Delta(value, density.expand(batch_shape), event_dim=site.event_dim)
        result[site.name] = pyro.sample(site.name, delta)
    return result


def sample_local(
    sites: Sites,
    family: Family | None,
    model: Model,
    batch: Batch,
    source: Callable[..., Tensor],
    refined: bool = False,
    classifier: Any = None,
) -> dict[str, Tensor]:
    """Draws the local latents: layer by layer where the family has layers, else all as one.

    With a classifier first the labels, then all others given them.
    """
    if family is not None and hasattr(family, "draw"):
        with rows(batch, model.plate):
            return family.draw(model, batch)  # type: ignore[operator]
    labels: dict[str, Tensor] = {}
    if classifier is not None:
        # The plate comes again below: a trace would take the second for a site named twice.
        hidden = poutine.block(hide=[model.plate]) if family is not None else nullcontext()
        with hidden, rows(batch, model.plate):
            labels = classifier.draw(batch)
    drawn = {name: y for name, y in labels.items() if name not in batch.values}
    if family is None:
        return drawn
    make = family.refined if refined else family.distribution
    kappa = partial(source, labels=labels) if drawn else source
    q = make(model, batch, kappa)  # outside the plate: a source may run p and q itself
    with rows(batch, model.plate):
        return drawn | sample("_local", q, sites, family, family.drawer)
