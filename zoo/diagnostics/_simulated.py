"""Data drawn from a model with the latents that they came from: what a calibration starts with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.data import Batch, Dataset, as_dataset
from zoo.handlers import Record, in_plate
from zoo.model import Model


class Truth(NamedTuple):
    """The latents that simulated rows came from.

    Attributes:
        values: by site, (n, *event) where it is of the rows, else *shape.
        local: the names of those of the rows.
        discrete: the names of those with a countable support.
    """

    values: dict[str, Tensor]
    local: tuple[str, ...]
    discrete: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether a simulation is a whole data set: some latent is of all rows together."""
        return len(self.local) < len(self.values)

    def rows(self, start: int, stop: int) -> Truth:
        """The latents of some of the rows."""
        kept = {n: v[start:stop] if n in self.local else v for n, v in self.values.items()}
        return self._replace(values=kept)

    def shape(self, name: str) -> torch.Size:
        """Of one draw: the event, for a global latent in a plate with the plate's size before."""
        return self.values[name].shape[1 if name in self.local else 0 :]


def simulated(model: Model, data: Dataset, index: Tensor, chunk: int) -> tuple[Dataset, Truth]:
    """(g, z_n, x_n) ~ p for rows that have the inputs and the missing entries of others.

    Args:
        model: p.
        data: the rows that inputs and masks are taken from, without labels that q is to guess.
        index: (n,), which of them, each as often as is wanted.
        chunk: rows drawn at a time; all n, where the model has global latents.

    Raises:
        ValueError: a factor in the model, which no draw obeys; a site that no column of the data
            is; draws that are not finite.
    """
    batches, sites = [], []
    for part in index.split(chunk):
        template = data.fixed().batch(part.to(data.device)).to(model.device)
        batch, latents = _run(model, template)
        batches.append(batch)
        sites.append(latents)
    first, shared = batches[0], sites[0]
    local = tuple(name for name, site in shared.items() if in_plate(site, model.plate))
    values = {
        name: torch.cat([part[name]["value"] for part in sites]) if name in local else site["value"]
        for name, site in shared.items()
    }
    whole = Batch(
        {name: torch.cat([b.values[name] for b in batches]) for name in first.values},
        torch.arange(len(index), device=model.device),
        len(index),
        {name: torch.cat([b.observed[name] for b in batches]) for name in first.observed},
    )
    rows = as_dataset(whole)
    rows.name, rows.image_shape = f"simulated {data.name}", data.image_shape
    rows.feature_names = data.feature_names
    discrete = tuple(n for n, site in shared.items() if site["fn"].support.is_discrete)
    return rows, Truth(values, local, discrete)


def _run(model: Model, template: Batch) -> tuple[Batch, dict[str, Any]]:
    """One draw of the joint: the rows, and the recorded latents."""
    with Record() as record:
        model.run(template)
    values, latents = dict(template.values), {}
    for name, site in record.sites.items():
        if isinstance(site["fn"], dist.Unit):
            raise ValueError(
                f"the model has the factor {name!r}, so its sites as they are drawn do not follow "
                "its joint; write it as a distribution, or leave diagnostics from simulations out"
            )
        if site["is_observed"]:
            continue  # deterministic
        column = _column(name, site, template, model)
        if column is None:
            latents[name] = site
        else:
            values[column] = _finite(name, site["value"]).to(values[column].dtype)
    for name, mask in template.observed.items():
        values[name] = torch.where(mask, values[name], template[name])
    return Batch(values, template.index, template.size, dict(template.observed)), latents


def _column(name: str, site: Any, template: Batch, model: Model) -> str | None:
    """The column of the data that a site is, or None for a latent."""
    if name in template and name not in model.inputs:
        return name
    infer: Mapping[str, Any] = site["infer"] or {}
    if not infer.get("was_observed"):
        return None
    same = [column for column, value in template.values.items() if value is infer.get("obs")]
    if not same:
        raise ValueError(
            f"the observed site {name!r} is not a column of the data {sorted(template.values)}, so "
            "simulated values of it have no place; name it like the argument of the function"
        )
    return same[0]


def _finite(name: str, value: Tensor) -> Tensor:
    if value.is_floating_point() and not bool((fine := value.isfinite()).all()):
        raise ValueError(
            f"{1 - fine.double().mean().item():.2%} of the simulated {name!r} are not finite: the "
            "model's prior is too wide to simulate from; choose a narrower one"
        )
    return value
