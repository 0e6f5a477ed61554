"""A family made from its word, and its draw handed to the sites of a model, with its density."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor

from guides.family import Family
from guides.sites import Sites
from zoo.data import Batch
from zoo.model import Model, rows
from zoo.registry import build


def made(family: str | type[Family], dim: int, options: Mapping[str, Any]) -> Family:
    """A family from its word or its class."""
    if isinstance(family, str):
        return build("families", family, dim, **options)
    return family(dim, **options)


def sample(name: str, q: Any, sites: Sites, family: Family) -> dict[str, Tensor]:
    """Draws q and hands each site its part, with log q(z) = log q(u) - log |dz/du|."""
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
    family: Family,
    model: Model,
    batch: Batch,
    source: Callable[[Batch], Tensor],
    refined: bool = False,
) -> dict[str, Tensor]:
    """Draws the local latents: layer by layer where the family has layers, else all as one."""
    if hasattr(family, "draw"):
        with rows(batch, model.plate):
            return family.draw(model, batch)  # type: ignore[operator]
    make = family.refined if refined else family.distribution
    q = make(model, batch, source)  # outside the plate: a source may run p and q itself
    with rows(batch, model.plate):
        return sample("_local", q, sites, family)
