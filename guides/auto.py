"""Pyro's AutoGuides for the global latents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer.autoguide
import torch
from pyro import poutine
from torch import nn

from zoo.data import Batch
from zoo.handlers import Record
from zoo.model import Model, observe


def auto_guide(
    model: Model, name: str, sites: Iterable[str], batch: Batch, options: Mapping[str, Any]
) -> nn.Module:
    """A Pyro AutoGuide of the global latents alone, its parameters made at once."""
    make = getattr(pyro.infer.autoguide, name, None)
    if make is None:
        known = [n for n in dir(pyro.infer.autoguide) if n.startswith("Auto")]
        raise ValueError(f"Pyro has no AutoGuide {name!r}; it has {known}")
    with pyro.settings.context(module_local_params=True), poutine.block():
        auto = make(poutine.block(observe(model), expose=list(sites)), **options)
        auto(batch.unscaled())
    return auto


def has_density(auto: nn.Module, batch: Batch) -> bool:
    """Whether an AutoGuide draws from more than point masses.

    ``AutoDelta`` does not, nor ``AutoLaplaceApproximation`` while it is trained.
    """
    context = pyro.settings.context(module_local_params=True)
    with poutine.block(), Record() as q, context, torch.no_grad():
        auto(batch.unscaled())
    return not all(_is_point(site["fn"]) for site in q.sites.values())


def _is_point(fn: Any) -> bool:
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)
