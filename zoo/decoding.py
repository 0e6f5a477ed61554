"""What a model says of x at given latents: p(x | z), and its mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zoo.context import seeded, validation
from zoo.data import Batch
from zoo.handlers import Enumerate, Record, Replay, in_plate, is_latent, log_prob
from zoo.local_params import at_home
from zoo.model import Model, observe
from zoo.sites import is_bits

DRAWS = 100  # in place of a mean that a distribution does not know


class AtMean(Messenger):
    """Continuous latents and bits that nobody gives stand at the mean of p, given those above."""

    def __init__(self, site: str):
        super().__init__()
        self.site = site

    def _pyro_sample(self, message: Any) -> None:
        if not is_latent(message) or message["name"] == self.site:
            return
        if not message["fn"].support.is_discrete or is_bits(message["fn"]):
            message["value"] = mean_of(message["fn"])


class EnumerateLatents(Enumerate):
    """Runs through the discrete latents, the data themselves left alone."""

    def __init__(self, plate: str, site: str):
        super().__init__(plate)
        self.site = site

    def _pyro_sample(self, message: Any) -> None:
        if message["name"] != self.site:
            super()._pyro_sample(message)


class Drawn(Messenger):
    """Discrete sites of a guide are drawn, each one value, though it would have them enumerated."""

    def _pyro_sample(self, message: Any) -> None:
        infer = message["infer"] or {}
        message["infer"] = {name: value for name, value in infer.items() if name != "enumerate"}


def latent_shapes(model: Model, batch: Batch, site: str = "x") -> dict[str, torch.Size]:
    """site -> event shape of the continuous latents and bits of rows, in the order of p."""
    with torch.no_grad(), seeded(0, model.device), validation(False), Record() as p:
        model.run(batch)
    return {
        name: found["fn"].event_shape
        for name, found in p.sites.items()
        if in_plate(found, model.plate)
        and not (found["is_observed"] or name in batch.values or name == site)
        and not (found["fn"].support.is_discrete and not is_bits(found["fn"]))
    }


def mean_of(fn: Any) -> Tensor:
    """E under a distribution, (*batch, *event); of draws where it does not know it."""
    try:
        return fn.mean
    except NotImplementedError:
        return fn.sample((DRAWS,)).mean(0)


def draw(guide: Callable[[Batch], Any], batch: Batch) -> dict[str, Tensor]:
    """One draw of everything that a guide samples, by site, but for auxiliary variables."""
    with Record() as q, at_home(guide), Drawn():
        guide(batch.unscaled())
    auxiliary = [n for n, s in q.sites.items() if (s["infer"] or {}).get("is_auxiliary")]
    return {name: site["value"] for name, site in q.sites.items() if name not in auxiliary}


def tiled(batch: Batch, copies: int) -> Batch:
    """The rows of a batch ``copies`` times over, (copies B), all the first time round first."""
    rows = torch.arange(len(batch), device=batch.index.device).repeat(copies)
    return replace(
        batch,
        values={name: value[rows] for name, value in batch.values.items()},
        index=batch.index[rows],
        observed={name: mask[rows] for name, mask in batch.observed.items()},
    )


def outcome(model: Model, rows: Batch, latents: Mapping[str, Tensor], site: str) -> Any:
    """p(x | z) of the rows, at latents that have a value each.

    Raises:
        ValueError: the model has no such site.
    """
    with Record() as p, Replay({name: {"value": value} for name, value in latents.items()}):
        model.run(rows)
    return _of(p, site)["fn"]


def expected(
    model: Model, rows: Batch, latents: Mapping[str, Tensor], site: str = "x", seen: bool = False
) -> Tensor:
    """E[x | z] of B rows, (B, *event).

    Continuous latents and bits that are not given stand at the mean of p given those that are;
    other discrete ones are summed out with p(y | z), or with p(y | x, z) where x is ``seen``.

    Args:
        model: p.
        rows: inputs, and for ``seen`` the data.
        latents: site -> (B, *event) of each row, or (*event) of a latent that all rows share.
        site: x.
        seen: whether the rows hold x.

    Raises:
        ValueError: the model has no such site; more than 1024 joint states.
    """
    plate, run = model.plate, observe(model) if seen else model.run
    held = {name: {"value": value} for name, value in latents.items()}
    with Record() as p, EnumerateLatents(plate, site) as states, AtMean(site), Replay(held):
        run(rows.unscaled())
    found = _of(p, site)
    mean, event = mean_of(found["fn"]), found["fn"].event_shape
    if not states.sizes:
        return mean.expand(len(rows), *event)
    scored = [s for n, s in p.sites.items() if in_plate(s, plate) and (seen or n != site)]
    total = sum((log_prob(s) for s in scored), torch.zeros((), device=mean.device))
    full = (*reversed(states.sizes.values()), 1, 1, len(rows))
    share = total.expand(full).reshape(-1, len(rows)).softmax(0)  # (C, B)
    each = mean.expand(*full, *event).reshape(*share.shape, -1)  # (C, B, D)
    return torch.einsum("cb,cbd->bd", share.to(each), each).reshape(len(rows), *event)


def _of(record: Record, site: str) -> Any:
    if site not in record.sites:
        raise ValueError(f"the model has no site {site!r}, only {sorted(record.sites)}")
    return record.sites[site]
