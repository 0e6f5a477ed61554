"""The best member of a family for each row: what inference without any sharing would reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pyro import poutine

from guides.layers import Structured
from guides.search import Search
from zoo.context import frozen, seeded, stream, validation
from zoo.data import Dataset
from zoo.decoding import tiled
from zoo.progress import counting

if TYPE_CHECKING:
    from guides.guide import Guide

ROOM = 2**22  # numbers in the parameters of the rows that are optimised side by side


def optimal(
    guide: Guide,
    data: Dataset,
    *,
    steps: int = 2000,
    lr: float = 0.02,
    schedule: Literal["cosine", "constant"] = "cosine",
    num_particles: int = 8,
    batch_size: int = 100,
    seed: int = 0,
    progress: bool | None = False,
) -> Guide:
    """q*_n = argmax over q in the family of ELBO_n(q), for every row n of ``data``, p frozen.

    Everything that q has is free in each row: κ_n, and with it a copy θ_n of the weights that a
    flow shares between rows. Two searches, one from the guide's own κ_n and θ, one from the
    family's start (location 0, scale ``init_scale``, new weights), are judged on other random
    numbers than those they were made with, and the best is kept for each row: one of the two, or q
    as it came.

    Adam's rate falls from ``lr`` to zero along a cosine over ``steps``. The search ends before once
    the bound, averaged over rows, starts and 100 steps, has not risen for 10 times 100 steps. In
    the paper the rate stays at 0.001 (``lr=0.001, schedule="constant"``): on a linear Gaussian
    model 4000 such steps reach what 1000 to 2000 of the default do. Where a family scores cheaply,
    log q's parameters are held (sticking the landing): noise vanishes as q nears p(z | x).

    Args:
        guide: a trained guide with continuous latents of the rows.
        data: the rows; about 100 tell the mean gap.
        steps: at most, of each search.
        lr: the first learning rate.
        schedule: cosine or constant.
        num_particles: draws for each gradient.
        batch_size: rows optimised side by side, fewer where their parameters are many.
        seed: of the searches' own noise.
        progress: a bar; None shows one on a terminal.

    Returns:
        A guide for ``data`` with a table of κ_n, as ``guide.infer`` of a table. Its
        ``shared_weights`` says whether weights are left that rows share: those of the networks
        between layers (``bottom_up``), of a classifier, of leapfrog steps.

    Raises:
        ValueError: no continuous latents of the rows, or bits; a point mass; layers whose networks
            read more than κ_n (``recurrent``, ``stacked``).

    Reference: Cremer, Li and Duvenaud, "Inference Suboptimality in Variational Autoencoders", 2018.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> best = Guide(model, data).optimal(data, steps=10)
        >>> best.source.table.weight.shape, best.shared_weights
        (torch.Size([50, 4]), False)
    """
    family = guide.family
    if family is None:
        raise ValueError(
            "the guide has no continuous latents of the rows, so there is no family to take the "
            "best member of"
        )
    if not guide.has_density:
        raise ValueError(
            "the guide has a point mass (delta), which has no bound to be the best of; use another "
            "family, such as mean_field"
        )
    if guide.latents.bits.dim:
        raise ValueError(
            f"{list(guide.latents.bits.names)} are bits, without the path-wise gradient that the "
            "search for the best q climbs by; fit a table, with the inference per_datapoint"
        )
    if not family.uses_kappa and not isinstance(family, Structured):
        other = guide.with_source(guide.source)  # type: ignore[arg-type]  # exact: None
        other.shared_weights = False
        return other
    if min(steps, num_particles, batch_size) < 1 or lr <= 0:
        raise ValueError("steps, num_particles, batch_size and lr are positive")
    if schedule not in ("cosine", "constant"):
        raise ValueError(f"schedule is cosine or constant, got {schedule!r}")
    device, found = guide.model.device, []
    apart = seeded(stream(seed, "optimal"), device)
    with frozen(guide.model, guide), apart, validation(False), poutine.block():
        search = Search(guide, data, num_particles)
        size = max(1, min(batch_size, ROOM // (2 * search.width)))
        with counting("steps", steps * -(-len(data) // size), progress) as advance:
            for batch in data.batches(size):
                batch = batch.to(device)
                own = search.own(batch)
                starts = own, search.anew().expand_as(own)  # side by side, as twice the rows
                ends = search.climb(
                    tiled(batch, 2), torch.cat(starts), steps, lr, schedule == "cosine", advance
                )
                kappas = own, *ends.chunk(2)
                found.append(search.best(batch, kappas, stream(seed, "optimal, judged")))
        return search.guide_of(torch.cat(found))
