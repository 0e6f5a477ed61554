"""Lower bounds on log p(x), from log weights h_nk = log p(x_n, z_nk) - log q(z_nk | x_n).

All are averages over datapoints: with global latents g the loss is
-E_g[log p(g)/q(g) + (N/B) Σ_n L_n(g)] / N, with inner particles that share g. L is a function of
the K log weights of a row, and ``estimator`` says how the gradient of its expectation is estimated,
see ``zoo.objectives._gradient.loss_of``; by default as the guide says. With ``beta`` other than 1
the KL terms count β times: h_β = log p(x | z, g) + β [log p(z | g) - log q(z | x, g)], and
β log p(g)/q(g). That does not leave a bound on log p(x).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from zoo.closed_kl import with_closed_kl
from zoo.data import Batch
from zoo.kl_weight import free_bits_excess
from zoo.model import Model
from zoo.objectives._gradient import bound_loss, chosen, loss_of, weigh
from zoo.objectives._reductions import Power, log_mean_exp, mean
from zoo.objectives._said import said

__all__ = ["elbo", "iwae", "renyi"]

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
    kl: Literal["drawn", "analytic"] = "drawn",
    estimator: str | None = None,
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
        kl: ``drawn``, log q - log p at the draws; ``analytic``, KL(q(z_j | ·) || p(z_j | ·)) in
            closed form for the latents that have one, see ``zoo.closed_kl``.
        estimator: pathwise, stl, score or vimco.

    Raises:
        ValueError: draws without the gradient that the estimator follows; free bits of a point
            mass, or with latents that are summed out; an analytic KL where no latent has one.

    Reference: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014; for free bits Kingma,
    Salimans, Jozefowicz, Chen, Sutskever and Welling, "Improved Variational Inference with Inverse
    Autoregressive Flow", 2016; for stl Roeder, Wu and Duvenaud, "Sticking the Landing", 2017.
    """
    word = chosen(guide, estimator)
    if kl not in ("drawn", "analytic"):
        raise ValueError(f"kl is drawn or analytic, got {kl!r}")
    weights = weigh(model, guide, batch, num_particles, num_outer, word)
    if kl == "analytic":
        weights = with_closed_kl(weights, word)
    loss = bound_loss(model, weights, guide, batch, mean, beta, word)
    if free_bits == 0:
        return loss
    if not getattr(guide, "has_density", True) or word == "stl":
        what = "stl holds q" if word == "stl" else "a point mass (delta) has no KL"
        raise ValueError(f"{what}, so free bits mean nothing; leave them out")
    return loss + beta * free_bits_excess(weights, free_bits)


def iwae(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    num_particles: int = 10,
    num_outer: int = 1,
    beta: float = 1.0,
    estimator: str | None = None,
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
        estimator: pathwise, dreg, score or vimco.

    Raises:
        ValueError: draws without the gradient that the estimator follows; a guide that is a point
            mass.

    Reference: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2016; for dreg
    Tucker, Lawson, Gu and Maddison, "Doubly Reparameterized Gradient Estimators for Monte Carlo
    Objectives", 2019; for vimco Mnih and Rezende, "Variational Inference for Monte Carlo
    Objectives", 2016.
    """
    given = {"beta": beta, "estimator": estimator}
    return loss_of(model, guide, batch, log_mean_exp, num_particles, num_outer, **given)


@said(
    shorthand="alpha",
    no_bound=lambda options: "α below 0 at a finite K" if options["alpha"] < 0 else "",
)
def renyi(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    alpha: float = 0.5,
    num_particles: int = 10,
    num_outer: int = 1,
    beta: float = 1.0,
    estimator: str | None = None,
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
        estimator: pathwise, dreg, score or vimco.

    Raises:
        ValueError: α < 0 with global latents or a q(y | x), where the mixture of the two bounds is
            neither.

    Reference: Li and Turner, "Rényi Divergence Variational Inference", 2016.
    """
    given = {"beta": beta, "estimator": estimator}
    return loss_of(model, guide, batch, Power(alpha), num_particles, num_outer, **given)
