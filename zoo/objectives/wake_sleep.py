"""Objectives that fit q to what p says of the latents: KL(p ‖ q), awake or asleep.

Awake, z is drawn from q for the rows at hand and weighed by w̃; asleep, rows and latents are dreamt
from p. Neither needs a path through a draw, so that latents may be discrete and may branch. The
draws are held where the gradient is taken: q gets that of Σ w̃ log q, p that of its bound.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.data import Batch
from zoo.handlers import Record, Replay, in_plate, is_data, log_prob
from zoo.held import given_globals
from zoo.local_params import at_home
from zoo.model import Model, as_model
from zoo.objectives._gradient import check_weighted, reward, trained_alone
from zoo.objectives._reductions import Reduction, log_mean_exp, mean
from zoo.objectives._said import said
from zoo.particles import one_particle
from zoo.weights import LogWeights, log_weights

__all__ = ["forward_kl", "rws", "wake_sleep"]

Guide = Callable[[Batch], Any]
Phi = Literal["wake", "sleep", "both"]


def wake_sleep(
    model: Model, guide: Guide, batch: Batch, *, num_particles: int = 1, num_outer: int = 1
) -> Tensor:
    """Wake: θ from -mean_n E_q[log p(x_n, z)]; sleep: φ from -E_p(x, z)[log q(z | x)].

    The value is -mean_n E_q[h_n], the ELBO's. The two phases descend two different functions, so
    that it need not fall.

    Args:
        model: p.
        guide: q, with a density, and amortized (one of your own with a table says so by an
            attribute ``amortized = False``); global latents take the path-wise gradient of the
            ELBO, and those of the rows are not given them.
        batch: B rows, and so many dreams.
        num_particles: K, draws for each row.
        num_outer: S, draws of the global latents.

    Raises:
        ValueError: a guide that has a table, whose rows no dream is of; one that is a point mass or
            cannot score a given z.

    Reference: Hinton, Dayan, Frey and Neal, "The Wake-Sleep Algorithm for Unsupervised Neural
    Networks", 1995.
    """
    weights = _cut(model, guide, batch, num_particles, num_outer)
    return _generative(weights, mean) + _free(_asleep(model, guide, batch, weights))


def rws(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    phi: Phi = "wake",
    num_particles: int = 10,
    num_outer: int = 1,
) -> Tensor:
    """Reweighted wake-sleep: θ from the importance-weighted bound, φ from KL(p(z | x) ‖ q(z | x)).

    θ: -mean_n log mean_k w_nk at given draws, ∇_θ = -mean_n Σ_k w̃_nk ∇ log p(x_n, z_nk). φ awake:
    ∇_φ = -mean_n Σ_k w̃_nk ∇ log q(z_nk | x_n), of the same draws, with a bias that falls as 1/K; φ
    asleep: -∇ E_p(x, z)[log q(z | x)], without bias for rows that p dreams; both: their mean.
    The value is that of θ's bound.

    Args:
        model: p.
        guide: q, with a density; asleep an amortized one.
        batch: B rows, and so many dreams.
        phi: wake, sleep or both.
        num_particles: K.
        num_outer: S, draws of the global latents, which take the path-wise gradient of the bound.

    Raises:
        ValueError: as ``wake_sleep``; another word for φ.

    Reference: Bornschein and Bengio, "Reweighted Wake-Sleep", 2015; Le, Kosiorek, Siddharth, Teh
    and Wood, "Revisiting Reweighted Wake-Sleep for Models with Stochastic Control Flow", 2020.
    """
    if phi not in ("wake", "sleep", "both"):
        raise ValueError(f"phi is wake, sleep or both, got {phi!r}")
    weights = _cut(model, guide, batch, num_particles, num_outer)
    loss = _generative(weights, log_mean_exp)
    terms = [_awake(weights)] if phi != "sleep" else []
    terms += [_asleep(model, guide, batch, weights)] if phi != "wake" else []
    return loss + _free(torch.stack(terms).mean())


@said(no_bound="a cross-entropy, -E_p(z|x)[log q(z | x)]", fits="guide")
def forward_kl(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    rows: Literal["observed", "dreamt"] = "observed",
    num_particles: int = 10,
) -> Tensor:
    """KL(p(z | x) ‖ q(z | x)) up to a constant, minimised over q; p takes no gradient.

    observed: -mean_n Σ_k w̃_nk log q(z_nk | x_n) with z_nk ~ q and w̃ normalised over K, the gradient
    biased as 1/K; dreamt: -E_p(x, z)[log q(z | x)], without bias, over rows that p simulates
    (inference compilation, neural posterior estimation). The value is that of the cross-entropy.

    Args:
        model: p, held.
        guide: q, with a density; for dreamt rows an amortized one.
        batch: B rows, or so many dreams with their inputs.
        rows: observed or dreamt.
        num_particles: K; of observed rows.

    Raises:
        ValueError: global latents; as ``wake_sleep``.

    Reference: Gu, Ghahramani and Turner, "Neural Adaptive Sequential Monte Carlo", 2015; Le, Baydin
    and Wood, "Inference Compilation and Universal Probabilistic Programming", 2017.
    """
    if rows not in ("observed", "dreamt"):
        raise ValueError(f"rows is observed or dreamt, got {rows!r}")
    with trained_alone("guide", model, guide):
        weights = _cut(model, guide, batch, num_particles if rows == "observed" else 1, 1)
        if weights.has_globals:
            raise ValueError(
                "forward_kl fits q of the latents of rows, and there are global ones, whose q it "
                "would leave as it is; use elbo or rws"
            )
        found = _awake(weights) if rows == "observed" else _asleep(model, guide, batch, weights)
        return found + reward(weights)


def _cut(model: Model, guide: Guide, batch: Batch, inner: int, outer: int) -> LogWeights:
    if not getattr(guide, "scores", True):
        raise ValueError(
            "this objective takes log q of a given z, and the guide's family scores its own draws "
            "alone; use mean_field, full_rank or iaf"
        )
    latents = getattr(guide, "latents", None)
    real = latents is not None and not (latents.discrete or latents.bits.dim)
    word = getattr(guide, "gradient", "pathwise")
    if word in ("stl", "dreg") or (real and word != "pathwise"):
        raise ValueError(
            f"this objective has a gradient of its own, to which {word} adds nothing: leave the "
            "estimator out"
        )
    weights = log_weights(model, guide, batch, inner, outer, "cut")
    check_weighted(weights, guide)
    if weights.has_globals and given_globals(guide, as_model(model), batch.unscaled()):
        raise ValueError(
            "the guide's q(z | x, g) is given draws of global latents, whose way through the draws "
            "of the rows is cut here; use elbo or iwae"
        )
    return weights


def _generative(weights: LogWeights, reduce: Reduction) -> Tensor:
    """θ's loss: log q of the draws counts, and takes no gradient. So does that of globals, whose
    own is path-wise."""
    local = weights.local + (weights.log_q - weights.log_q.detach())
    log_q = None if weights.log_q_enum is None else weights.log_q_enum.detach()
    held = replace(weights, local=local, log_q_enum=log_q)
    return -held.per_datapoint(reduce).mean() + reward(weights)


def _awake(weights: LogWeights) -> Tensor:
    """-mean_n Σ_k w̃_nk log q(z_nk | x_n); with q(y | x) over all y, with y summed out of p alone
    over z."""
    log_q, log_y = weights.log_q, weights.log_q_states
    if log_y is None:
        log_q = log_q if log_q.dim() == 3 else log_q[0]
        return -(weights.summed.detach().softmax(-2) * log_q).sum(-2).mean()
    w = weights.local.detach().logsumexp(0, keepdim=True)
    w = (weights.local.detach() - w.logsumexp(-2, keepdim=True)).exp()  # over (C, K)
    return -(w * (log_q + log_y)).sum((0, -2)).mean()


def _asleep(model: Model, guide: Guide, batch: Batch, weights: LogWeights) -> Tensor:
    """-mean over dreams of log q(z | x), (x, z) ~ p given one draw of the globals from q."""
    if not getattr(guide, "amortized", True):
        raise ValueError(
            "the sleep phase needs q of rows that p dreams, and this guide has a table of the rows "
            "of the data; use inference='amortized', or rws with phi='wake'"
        )
    model, plain = as_model(model), batch.unscaled()
    given = weights.globals
    if weights.local.shape[-3] > 1:  # the first of several draws
        given = {n: one_particle(site, model.plate, 0, 0) for n, site in given.items()}
    with torch.no_grad(), Replay(given), Record() as p:
        model.run(plain)
    local = {name: site["value"] for name, site in p.sites.items() if in_plate(site, model.plate)}
    seen = {name: local.get(name, value) for name, value in plain.values.items()}
    latents = {n: v for n, v in local.items() if n not in seen and not is_data(p.sites[n])}
    return -_log_q(guide, replace(plain, values=seen), latents).mean()


def _log_q(guide: Any, batch: Batch, latents: dict[str, Tensor]) -> Tensor:
    """(B,): log q of given latents of the rows."""
    known = getattr(guide, "log_prob", None)
    if known is not None:
        return known(batch, latents)
    given = {name: {"value": value} for name, value in latents.items()}
    with Record() as q, Replay(given), at_home(guide):
        guide(batch)
    lost = [n for n, s in q.sites.items() if n not in latents and not s["is_observed"]]
    if lost:
        raise ValueError(
            f"the guide draws {lost}, which p does not; write log_prob(batch, latents)"
        )
    total = sum(log_prob(q.sites[name]) for name in latents if name in q.sites)
    return torch.as_tensor(total, device=batch.index.device)


def _free(term: Tensor) -> Tensor:
    """Of value 0, its gradient left."""
    return term - term.detach()
