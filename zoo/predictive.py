"""Draws of data: before any data, and given some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.data import Batch, as_dataset
from zoo.functions import PlainModel
from zoo.handlers import Particles, Record, Replay
from zoo.local_params import at_home
from zoo.model import Model, as_model
from zoo.particles import vectorizes
from zoo.weights import log_weights


@torch.no_grad()
def prior_predictive(model: Model, n: int, **inputs: Tensor) -> dict[str, Tensor]:
    """(g, z, x) ~ p: one draw of the globals and n datapoints, every site by name.

    Args:
        model: p. A plain function needs rows of data: use ``predict`` on a batch of it.
        n: datapoints.
        inputs: what the model conditions on, (n, *event) each.

    Raises:
        ValueError: n below 1; a missing input; a plain function.
    """
    if n < 1:
        raise ValueError(f"n counts datapoints from 1, got {n}")
    if isinstance(as_model(model), PlainModel):
        raise ValueError(
            "a plain function takes its number of rows from data, so it has no prior predictive "
            "without any; use predict on a batch, or write it as a Model"
        )
    values = {k: torch.as_tensor(v) for k, v in inputs.items()}
    batch = Batch(values, torch.arange(n, device=model.device), n, {})
    with Record() as record:
        model.run(batch)
    return {name: site["value"] for name, site in record.sites.items()}


@torch.no_grad()
def predict(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    batch: Any,
    num_samples: int = 100,
) -> dict[str, Tensor]:
    """x̃ ~ ∫ p(x̃ | z) q(z | x) dz: new data from the latents of the rows of a batch.

    The observed sites are drawn afresh, never returned as predictions; discrete latents are drawn
    from the guide's q(y | x), or else from p(y | x, z).

    Args:
        model: p.
        guide: q.
        batch: B rows (a ``Batch`` or data).
        num_samples: S.

    Returns:
        name -> (S, B, *event) for every site that the batch observes.

    Raises:
        ValueError: num_samples below 1.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples counts draws from 1, got {num_samples}")
    model = as_model(model)
    batch = batch if isinstance(batch, Batch) else as_dataset(batch).batch()
    guide = guide.refined if getattr(guide, "refines", False) else guide  # type: ignore[attr-defined]
    has_globals = log_weights(model, guide, batch).has_globals
    outer, inner = (num_samples, 1) if has_globals else (1, num_samples)
    weights = log_weights(model, guide, batch, inner, outer)
    given = dict(weights.values)
    if weights.log_q_enum is not None:  # one value of y each, and z given that
        with Record() as q, Particles(outer, inner, model.plate), at_home(guide):
            guide(batch.unscaled())
        given = {name: site["value"] for name, site in q.sites.items()}
    elif weights.enumerated:
        given |= weights.discrete()[1]
    if num_samples == 1 or vectorizes(model, batch):
        with Particles(outer, inner, model.plate):
            sites = _run(model, batch, given)
        draws = {name: sites[name]["value"] for name in weights.observed}
    else:
        local = {n: v if n in weights.globals else v.flatten(0, 1) for n, v in given.items()}
        runs = [_run(model, batch, {n: v[s] for n, v in local.items()}) for s in range(num_samples)]
        draws = {n: torch.stack([run[n]["value"] for run in runs]) for n in weights.observed}
        sites = runs[0]
    events = {name: sites[name]["fn"].event_shape for name in draws}
    rows = (num_samples, len(batch))
    return {name: value.reshape(rows + tuple(events[name])) for name, value in draws.items()}


def _run(model: Model, batch: Batch, given: Mapping[str, Tensor]) -> dict[str, Any]:
    """The model's sites, the given latents held and everything else drawn."""
    with Record() as record, Replay({n: {"value": v} for n, v in given.items()}):
        model.run(batch)
    return record.sites
