"""A guide for unseen rows: nothing trained is changed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from pyro import poutine
from torch import Tensor, nn

from guides.source import with_labels
from guides.table import PerDatapoint
from zoo.context import frozen, seeded, stream, validation
from zoo.data import Batch, Dataset
from zoo.leapfrog import target_of
from zoo.objectives.bounds import log_mean_exp, mean
from zoo.objectives.mcem import advanced
from zoo.weights import log_weights

if TYPE_CHECKING:
    from guides.guide import Guide

REDUCE = {"elbo": mean, "iwae": log_mean_exp}


def infer(
    guide: Guide,
    data: Dataset,
    *,
    steps: int = 2000,
    lr: float | None = None,
    num_particles: int = 4,
    batch_size: int = 4096,
    seed: int = 0,
    objective: Literal["elbo", "iwae"] = "elbo",
) -> Guide:
    """max_κ Σ_n bound_n(κ_n) for the rows of ``data``, the model and all shared weights frozen.

    An amortized guide is returned as it is. For a table each row is optimised on its own by Adam,
    its learning rate falling to zero along a cosine, with log q's parameters held (sticking the
    landing), whose noise vanishes as q nears the posterior; a family that does not score cheaply,
    such as most flows, and the importance-weighted bound take the plain path-wise gradient; bits
    the score function, less the mean of the row's other draws, whatever the estimator. The random
    numbers are a stream of their own: the bound is later evaluated with other draws than
    those that chose κ. The chain of a row (family ``chain``) takes as many transitions of ``mcem``.

    Args:
        guide: a trained guide.
        data: the new rows.
        steps: gradient steps.
        lr: the first learning rate; by default 0.05, or 0.02 with the noisier path-wise gradient.
        num_particles: draws for each gradient.
        batch_size: rows optimised side by side.
        seed: of the optimisation's own noise.
        objective: elbo, or iwae with its ``num_particles``.

    Raises:
        ValueError: another objective; iwae where latents are bits.

    Reference: Roeder, Wu and Duvenaud, "Sticking the Landing", 2017.
    """
    if objective not in REDUCE:
        raise ValueError(f"rows are fitted by {' or '.join(REDUCE)}, not by {objective!r}")
    if guide.amortized:
        return guide
    family, model = guide.family, guide.model
    free = not getattr(family, "is_state", False)  # or it is a chain's, which steps move
    if objective != "elbo" and guide.latents.bits.dim:
        raise ValueError(
            "rows whose latents are bits are fitted by elbo alone; use objective='elbo'"
        )
    assert family is not None and isinstance(guide.source, PerDatapoint)
    trained = guide.source.table.weight.detach()
    start = trained.mean(0)
    rate = lr or (0.05 if objective == "elbo" and family.scores_cheaply else 0.02)
    parts = []
    device = model.device
    apart = seeded(stream(seed, "infer"), device)  # never the numbers a bound is evaluated with
    with frozen(model, guide), apart, validation(False), poutine.block():
        for batch in data.batches(batch_size):
            batch = batch.to(device)
            rows = len(batch) * guide.source.states
            kappa = start.expand(rows, -1).clone().requires_grad_(free)
            if not free:
                target = target_of(model, batch.unscaled(), guide.latents.local)
                for _ in range(steps):
                    kappa = advanced(target, kappa)
                parts.append(kappa)
                continue
            optimizer = torch.optim.Adam([kappa], lr=rate, betas=(0.9, 0.99))
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            with torch.enable_grad():
                for _ in range(steps):
                    optimizer.zero_grad()
                    row_losses(guide, batch, kappa, num_particles, objective).sum().backward()
                    optimizer.step()
                    schedule.step()
            parts.append(kappa.detach())
    source = PerDatapoint(data, start, label_classes=guide.source.labels)
    source.table.weight = nn.Parameter(torch.cat(parts), free)
    return guide.with_source(source)


def row_losses(
    guide: Guide, batch: Batch, kappa: Tensor, num_particles: int, objective: str = "elbo"
) -> Tensor:
    """(B,): -bound_n(κ_n); of the ELBO with the parameters of log q held, where that is cheap."""
    family, source = guide.family, guide.source
    assert family is not None and isinstance(source, PerDatapoint)
    if source.labels:  # κ of every label
        batch = replace(batch, index=torch.arange(len(batch), device=kappa.device))

        def found(rows: Batch, labels: Mapping[str, Tensor] | None = None) -> Tensor:
            rows, lead = with_labels(rows, labels or {})
            return source.pick(rows, lambda place: kappa[place]).reshape(*lead, len(batch), -1)

        weights = log_weights(guide.model, partial(guide.draw, source=found), batch, num_particles)
        return -weights.bound(REDUCE[objective])[0]
    with nullcontext() if family.drawer is None else family.drawer.hard():
        weights = log_weights(
            guide.model, lambda b: guide.draw(b, lambda _: kappa), batch, num_particles
        )
    loss = -weights.bound(REDUCE[objective])[0]
    if weights.log_q_score is not None:
        h, log_q = weights.local[0].detach(), weights.log_q_score[0]  # (K, B)
        others = (h.sum(0) - h) / max(1, num_particles - 1)
        term = ((h - others) * log_q).mean(0)
        return loss - (term - term.detach())
    local = guide.latents.local
    places = ("_z0", "_local", local.names[0])  # where the draw of Ψ stands
    raw = next(weights.values[name] for name in places if name in weights.values)
    if (
        objective != "elbo"
        or not (family.has_density and family.scores_cheaply)
        or not raw.requires_grad
    ):
        return loss
    held = family(kappa.detach()).log_prob(raw)
    free = family(kappa).log_prob(raw)
    return loss + (held - free).reshape(-1, len(batch)).mean(0)
