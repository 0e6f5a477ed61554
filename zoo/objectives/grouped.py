"""Importance-weighted bounds of several kinds mixed: in groups, and each side with its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from zoo.data import Batch
from zoo.model import Model
from zoo.objectives._gradient import loss_of, trained_alone
from zoo.objectives._reductions import Blend, Groups, log_mean_exp
from zoo.objectives._said import said

__all__ = ["ciwae", "miwae", "piwae"]

Guide = Callable[[Batch], Any]


@said(shorthand="groups")
def miwae(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    groups: int = 1,
    num_particles: int = 10,
    num_outer: int = 1,
    beta: float = 1.0,
    estimator: str | None = None,
) -> Tensor:
    """The mean of M importance-weighted bounds, on log p of the observed entries.

    -mean_n (1/M) Σ_m log (1/K) Σ_k p(x_n^obs | z_nmk) p(z_nmk)/q(z_nmk | x_n^obs), M K draws. Two
    papers call their bound MIWAE, and this is both: with M = 1 that of incomplete data (Mattei and
    Frellsen), fitted where entries are missing at random, whose weights are those of ``iwae``,
    which leaves missing entries out as well; with M > 1 the multiply importance-weighted one
    (Rainforth and others), whose gradient for q has less noise for the same bound.

    Args:
        model: p, its likelihood independent over the entries or with a ``marginal(mask)``.
        guide: q, which reads the observed entries.
        batch: B rows, missing entries marked in ``observed``.
        groups: M.
        num_particles: K, of each group.
        num_outer: S, draws of the global latents.
        beta: β, the weight of the KL terms; with any other than 1 it is not a bound.
        estimator: as for ``iwae``.

    Raises:
        ValueError: no group; as ``iwae``; a likelihood that cannot leave entries out.

    Reference: Mattei and Frellsen, "MIWAE: Deep Generative Modelling and Imputation of Incomplete
    Data Sets", 2019; Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, "Tighter Variational
    Bounds are Not Necessarily Better", 2018.
    """
    if groups < 1:
        raise ValueError(f"groups counts from 1, got {groups}")
    given = {"beta": beta, "estimator": estimator}
    reduce = Groups(groups) if groups > 1 else log_mean_exp
    return loss_of(model, guide, batch, reduce, groups * num_particles, num_outer, **given)


@said(shorthand="groups")
def piwae(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    groups: int = 8,
    num_particles: int = 8,
    num_outer: int = 1,
    estimator: str | None = None,
) -> Tensor:
    """θ from the importance-weighted bound of all M K draws, φ from ``miwae`` with M groups of K.

    The value is the former, -mean_n log (1/MK) Σ w. Each side has draws of its own, so a step costs
    two runs.

    Args:
        model: p.
        guide: q.
        batch: B rows.
        groups: M.
        num_particles: K, of each group.
        num_outer: S, draws of the global latents.
        estimator: of φ, as for ``iwae``.

    Raises:
        ValueError: as ``miwae``.

    Reference: Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, "Tighter Variational Bounds are
    Not Necessarily Better", 2018.
    """
    draws = {"num_particles": num_particles, "num_outer": num_outer}
    with trained_alone("guide", model, guide):
        own = miwae(model, guide, batch, groups=groups, estimator=estimator, **draws)
    with trained_alone("model", model, guide):
        all_of_them = groups * num_particles
        loss = loss_of(
            model, guide, batch, log_mean_exp, all_of_them, num_outer, estimator=estimator
        )
    return loss + (own - own.detach())


@said(shorthand="share")
def ciwae(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    share: float = 0.5,
    num_particles: int = 10,
    num_outer: int = 1,
    beta: float = 1.0,
    estimator: str | None = None,
) -> Tensor:
    """A convex combination: -mean_n [s mean_k h_nk + (1-s) log mean_k w_nk], on the same K draws.

    Args:
        model: p.
        guide: q.
        batch: B rows.
        share: s from 0 (``iwae``) to 1 (``elbo``), β in the paper.
        num_particles: K.
        num_outer: S, draws of the global latents.
        beta: the weight of the KL terms; with any other than 1 it is not a bound.
        estimator: as for ``iwae``.

    Raises:
        ValueError: a share outside [0, 1]; as ``iwae``.

    Reference: Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, "Tighter Variational Bounds are
    Not Necessarily Better", 2018.
    """
    given = {"beta": beta, "estimator": estimator}
    return loss_of(model, guide, batch, Blend(share), num_particles, num_outer, **given)
