"""KL(q ‖ p) of every row and unit of the latents, each unit on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.chunks import pieces, plan
from zoo.context import seeded, stream, validation
from zoo.data import Batch, Dataset
from zoo.diagnostics.draws import WeightedDraws, room
from zoo.diagnostics.moments import Corrected
from zoo.diagnostics.prior_moments import PriorMoments, prior_moments
from zoo.latent_sites import Moments, kl_terms
from zoo.model import Model
from zoo.sites import Latents

OF_PRIOR, OF_KL = 1000, 100  # draws of a row


@torch.no_grad()
def row_kl(
    model: Model,
    guide: Callable[[Batch], Any],
    data: Dataset,
    draws: WeightedDraws,
    moments: Corrected,
    max_elements: int | None = None,
) -> tuple[PriorMoments, Tensor, tuple[str, ...]]:
    """KL(q(z_u | x_n) ‖ p(z_u)), (N, U) in nats, and the moments of p(z_u) that it needs.

    In closed form, or the mean of log q − log p over draws, where q and p are products over the
    dimensions of a site (as ``latent_kl``); for other units that of two Gaussians with the moments
    of q's draws and of the prior, ½ (m²/s² + v/s² − 1 − log v/s²) less its bias 1/S.

    Args:
        model: p.
        guide: q for the rows of ``data``.
        data: the N rows of the draws.
        draws: with values (S, N, U); their globals are held.
        moments: of the draws.
        max_elements: how many numbers the largest tensor may have.

    Returns:
        The prior's moments, the KL, and the names of the units whose KL is that of Gaussians.
    """
    guide, priors = draws.hold(guide), []
    found: dict[str, list[Tensor]] = {}
    count = min(OF_KL, draws.num_draws)
    with seeded(stream(draws.seed, "kl of rows"), model.device), validation(False):
        cut = plan(model, guide, data, max(count, OF_PRIOR), 1, max_elements or room(model))
        sites = Latents.find(model, next(data.batches(1)).to(model.device)).local
        scalars = {site.name for site in sites.sites if site.shape.numel() == 1}
        for batch in data.batches(cut.rows):
            batch = batch.to(model.device)
            units: dict[str, Moments] = {}
            priors.append(prior_moments(model, batch, sites, OF_PRIOR, draws.globals))
            for weights in pieces(model, guide, batch, count, cut):
                for name, terms in kl_terms(weights)[1].items():
                    if terms.split or name in scalars:
                        units.setdefault(name, Moments()).add(terms.values)
            for name, terms in units.items():
                for place, kl in enumerate(terms.mean_and_error()[0].T):
                    found.setdefault(f"{name}[{place}]", []).append(kl)
    prior = PriorMoments(*(torch.cat(parts) for parts in zip(*priors, strict=True)))
    kl = _of_gaussians(moments, prior, draws.num_draws)
    for place, name in enumerate(draws.names):
        if name in found:
            kl[:, place] = torch.cat(found[name])
    return prior, kl, tuple(name for name in draws.names if name not in found)


def _of_gaussians(moments: Corrected, prior: PriorMoments, num_draws: int) -> Tensor:
    """(N, U)."""
    ratio = moments.sd.square() / prior.variance
    shift = (moments.mean - prior.mean).square() / prior.variance
    return (shift + ratio - 1 - ratio.log()) / 2 - 1 / num_draws
