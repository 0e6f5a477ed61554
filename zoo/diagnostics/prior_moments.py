"""Means and standard deviations of the latents of rows before the row is seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.data import Batch
from zoo.functions import PlainModel
from zoo.handlers import Particles, Record, Replay
from zoo.latent_sites import Moments
from zoo.model import Model
from zoo.particles import vectorizes
from zoo.sites import Site, Sites

SAME = 8  # rows that are drawn where all are alike


class PriorMoments(NamedTuple):
    """Of each row and unit, (B, U) in float64.

    Attributes:
        mean: E[z].
        variance: Var[z].
        error: the standard error of ``mean``, 0 where the model says it.
    """

    mean: Tensor
    variance: Tensor
    error: Tensor


@torch.no_grad()
def prior_moments(
    model: Model,
    batch: Batch,
    sites: Sites,
    num_draws: int = 1000,
    given: Mapping[str, Tensor] | None = None,
) -> PriorMoments:
    """E[z] = E[E[z | before]] and Var[z] = E[Var[z | before]] + Var[E[z | before]] under p(z | g).

    What a site's distribution says of its mean and variance, given the latents that the model draws
    before it, is averaged over draws of those; where it says nothing, the draws themselves are.

    Args:
        model: p.
        batch: B rows, of which the inputs alone are used.
        sites: the continuous latents of the rows.
        num_draws: of each row.
        given: values of the global latents, by site.
    """
    alike = not isinstance(model, PlainModel) and not any(n in batch.values for n in model.inputs)
    few = batch.rows(SAME) if alike else batch
    found = [_moments(record, sites, len(few)) for record in _runs(model, few, num_draws, given)]
    conditional = Moments()
    within = torch.zeros(())
    for mean, variance in found:
        conditional.add(mean)
        within = within + variance.sum(0)
    count = conditional.count
    mean, error = conditional.mean_and_error()  # (B, U)
    within, between = within / count, error.square() * count
    if not alike:
        return PriorMoments(mean, within + between, error)
    over = mean.mean(0)
    between = between.mean(0) + (mean - over).square().mean(0)
    error = error.square().sum(0).sqrt() / len(few)
    whole = (t.expand(len(batch), -1) for t in (over, within.mean(0) + between, error))
    return PriorMoments(*whole)


def _runs(
    model: Model, batch: Batch, num_draws: int, given: Mapping[str, Tensor] | None
) -> list[dict[str, Any]]:
    """The recorded sites of the joint, all draws in one run where the model takes particles."""
    together = vectorizes(model, batch)
    held = {name: {"value": value} for name, value in (given or {}).items()}
    runs = []
    for _ in range(1 if together else num_draws):
        inner = num_draws if together else 1
        with Record() as record, Replay(held), Particles(1, inner, model.plate):
            model.run(batch)
        runs.append(record.sites)
    return runs


def _moments(record: Mapping[str, Any], sites: Sites, rows: int) -> tuple[Tensor, Tensor]:
    """Means and variances of every unit given the draws before it, (k, B, U)."""
    parts = [_of_site(record[site.name], site, rows) for site in sites.sites]
    most = max(len(mean) for mean, _ in parts)
    mean, variance = (
        torch.cat([part.expand(most, -1, -1) for part in which], -1)
        for which in zip(*parts, strict=True)
    )
    return mean, variance


def _of_site(recorded: Any, site: Site, rows: int) -> tuple[Tensor, Tensor]:
    """(k, B, u) each; k = 1 where nothing was drawn before that it depends on."""

    def shaped(value: Tensor) -> Tensor:
        return value.double().reshape(-1, rows, site.shape.numel())

    fn = recorded["fn"]
    try:
        mean, variance = fn.mean, fn.variance
        known = bool((mean.isfinite() & variance.isfinite()).all())
    except (NotImplementedError, AttributeError):
        known = False
    if known:
        return shaped(mean), shaped(variance)
    value = shaped(recorded["value"])
    return value, torch.zeros_like(value)
