"""Bounds on log p(x), from log weights h_nk = log p(x_n, z_nk) - log q(z_nk | x_n).

All are averages over datapoints: with global latents g the loss is
-E_g[log p(g)/q(g) + (N/B) Σ_n bound_n(g)] / N, with inner particles that share g.
Their gradients are path-wise; that of a discrete site that the guide draws is what the guide's
estimator makes of it (``zoo.objectives._beside``). With ``beta`` other than 1 the KL terms count
β times: h_β = log p(x | z, g) + β [log p(z | g) - log q(z | x, g)], and β log p(g)/q(g). Neither
that nor ``free_bits`` leaves a bound on log p(x).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from zoo.data import Batch
from zoo.exact import knows, log_evidence
from zoo.kl_weight import free_bits_excess, tempered
from zoo.model import Model
from zoo.objectives._beside import beside, check_pathwise, check_weighted
from zoo.weights import LogWeights, log_weights

__all__ = ["elbo", "iwae", "mle", "renyi"]

Guide = Callable[[Batch], Any]


def elbo(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    num_particles: int = 1,
    num_outer: int = 1,
    beta: float = 1.0,
    free_bits: float = 0.0,
) -> Tensor:
    """The evidence lower bound: -mean_n E_q[h_n].

    With λ free bits: -mean_n E_q[log p(x_n | z_n)] + β Σ_j max(λ, KL_j), KL_j the mean over the
    batch and its draws of log q(z_j | x_n) - log p(z_j), of each dimension j of a latent where q
    and p are independent over its dimensions, of the whole latent elsewhere. λ = 0 is the bound.

    Args:
        model: p.
        guide: q.
        batch: B rows.
        num_particles: K, draws for each datapoint.
        num_outer: S, draws of the global latents.
        beta: β, the weight of the KL terms; with any other than 1 it is not a bound.
        free_bits: λ, nats of KL that each group of latents has for nothing; above 0 it is not a
            bound.

    Raises:
        ValueError: a latent without a path-wise gradient; free bits of a point mass, or with
            latents that are summed out.

    Reference: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014; for free bits Kingma,
    Salimans, Jozefowicz, Chen, Sutskever and Welling, "Improved Variational Inference with Inverse
    Autoregressive Flow", 2016.
    """
    weights = _weights(model, guide, batch, num_particles, num_outer)
    told = tempered(weights, beta)
    loss = -told.per_datapoint(mean).mean() + beside(told, guide, batch)
    if free_bits == 0:
        return loss
    if not getattr(guide, "has_density", True):
        raise ValueError(
            "a point mass (delta) has no KL, so free bits mean nothing; leave them out"
        )
    return loss + beta * free_bits_excess(weights, free_bits)


def iwae(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    num_particles: int = 10,
    num_outer: int = 1,
    beta: float = 1.0,
) -> Tensor:
    """The importance-weighted bound: -mean_n log (1/K) Σ_k exp h_nk, rising to log p with K.

    Where q has an enumerated y: Σ_y q(y|x) [log mean_k p(x,y,z_k)/q(z_k|x,y) - log q(y|x)].

    Args:
        model: p.
        guide: q; it needs a density (no point mass).
        batch: B rows.
        num_particles: K.
        num_outer: S, draws of the global latents.
        beta: β, the weight of the KL terms; with any other than 1 it is not a bound.

    Raises:
        ValueError: a latent without a path-wise gradient; a guide that is a point mass.

    Reference: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2016.
    """
    return _loss(model, guide, batch, num_particles, num_outer, log_mean_exp, beta)


def renyi(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    alpha: float = 0.5,
    num_particles: int = 10,
    num_outer: int = 1,
    beta: float = 1.0,
) -> Tensor:
    """The Rényi bound: -mean_n (1/(1-α)) log (1/K) Σ_k exp((1-α) h_nk).

    For every α ≥ 0 a lower bound in expectation at every K: the ELBO at α = 1 (its limit), the
    importance-weighted bound at α = 0. For α < 0 an upper bound at K = ∞ only, and no certificate
    at finite K (α = -1 is CUBO₂).

    Args:
        model: p.
        guide: q.
        batch: B rows.
        alpha: α.
        num_particles: K.
        num_outer: S, draws of the global latents.
        beta: β, the weight of the KL terms; with any other than 1 it is not a bound.

    Raises:
        ValueError: α < 0 with global latents or a q(y | x), where the mixture of the two bounds is
            neither.

    Reference: Li and Turner, "Rényi Divergence Variational Inference", 2016.
    """
    reduce = renyi_mean(alpha)
    return _loss(model, guide, batch, num_particles, num_outer, reduce, beta, alpha < 0)


def mle(model: Model, guide: Guide | None, batch: Batch) -> Tensor:
    """Maximum likelihood: -mean_n log p(x_n), where p has no latents or all can be summed out.

    Args:
        model: p.
        guide: not used; may be None.
        batch: B rows.

    Raises:
        ValueError: continuous or global latents, which only a bound can handle.
    """
    return -log_likelihood(model, batch).mean()


def log_likelihood(model: Model, batch: Batch) -> Tensor:
    """log p(x_n), (B,), where p has no latents or all can be summed out; else ValueError."""
    known = knows(model, "log_evidence")
    if known and set(batch.values) <= set(inspect.signature(model.log_evidence).parameters):  # type: ignore[arg-type]
        return log_evidence(model, batch)
    try:
        weights = log_weights(model, lambda _: {}, batch)
    except ValueError as error:
        raise ValueError(
            f"mle needs a model whose latents can all be summed out: {error}; use elbo"
        ) from error
    return weights.per_row(mean)[0]


def _loss(
    model: Model,
    guide: Guide,
    batch: Batch,
    num_particles: int,
    num_outer: int,
    reduce: Callable[[Tensor], Tensor],
    beta: float,
    upper: bool = False,
) -> Tensor:
    weights = _weights(model, guide, batch, num_particles, num_outer)
    if reduce is not mean:
        check_weighted(weights, guide)
    if upper and (weights.has_globals or weights.log_q_enum is not None):
        what = "global latents give" if weights.has_globals else "an average over q(y | x) gives"
        raise ValueError(f"α < 0 is an upper bound and {what} a lower one; use α ≥ 0")
    told = tempered(weights, beta)
    return -told.per_datapoint(reduce).mean() + beside(told, guide, batch)


def _weights(model: Model, guide: Guide, batch: Batch, inner: int, outer: int) -> LogWeights:
    """Log weights whose gradient by automatic differentiation is that of the objective."""
    weights = log_weights(model, guide, batch, inner, outer)
    check_pathwise(weights)
    return weights


def mean(h: Tensor) -> Tensor:
    """Over the particles: (..., K, B) -> (..., B)."""
    return h.mean(-2)


def log_mean_exp(h: Tensor) -> Tensor:
    """log (1/K) Σ_k exp h_k over the particles: (..., K, B) -> (..., B)."""
    return h.logsumexp(-2) - math.log(h.shape[-2])


def renyi_mean(alpha: float) -> Callable[[Tensor], Tensor]:
    """(1/(1-α)) log (1/K) Σ_k exp((1-α) h_k) over the particles; the mean at α = 1."""
    if not math.isfinite(alpha):
        raise ValueError(f"α must be finite, got {alpha}")
    if alpha == 1:
        return mean
    power = 1 - alpha  # near 0 the quotient loses digits, hence float64
    return lambda h: (log_mean_exp(power * h.double()) / power).to(h.dtype)


def cubo(weights: LogWeights) -> Tensor:
    """CUBO₂ = ½ log (1/K) Σ_k exp(2 h_k), (S, B): an upper bound at K = ∞, no certificate before.

    Reference: Dieng, Tran, Ranganath, Paisley and Blei, "Variational Inference via χ Upper Bound
    Minimization", 2017.
    """
    return weights.bound(renyi_mean(-1.0))
