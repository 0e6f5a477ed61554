"""The KL term of the ELBO in closed form, latent by latent, where there is one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from zoo.handlers import log_prob
from zoo.particle_weights import LogWeights


def with_closed_kl(weights: LogWeights, word: str = "pathwise") -> LogWeights:
    """Log weights with KL(q(z_j | ·) ‖ p(z_j | ·)) in the place of log q(z_j) - log p(z_j).

    The mean over draws stays the ELBO where p(z_j | ·) depends on nothing that q draws at z_j or
    after it: q must draw its latents in the order in which the model samples them, up to z_j.
    Latents after the first that breaks the order, and those without a closed form, keep their draw.

    Args:
        weights: of continuous latents that the guide draws under the model's own names.
        word: the estimator.

    Raises:
        ValueError: no latent has a closed form; an estimator that holds q or cuts its draws.
    """
    if word != "pathwise":
        raise ValueError(f"an analytic KL is differentiated as it is, without {word}; leave it out")
    if weights.local_sites is None or weights.relaxed or weights.log_q_score is not None:
        raise ValueError("an analytic KL needs draws that are run together and have a path")
    p, q = weights.local_sites
    local, found = weights.local, []
    for mine, other in zip(q, p, strict=False):
        if mine != other:
            break
        if mine in weights.enumerated:
            continue
        kl = _closed(q[mine], p[mine])
        if kl is not None:
            local = local + (log_prob(q[mine]) - log_prob(p[mine]) - kl)
            found.append(mine)
    if not found:
        raise ValueError(
            f"no KL between q and p of the latents {list(p)} is known in closed form (the guide "
            f"draws {list(q)}); use kl='drawn', or the family mean_field or full_rank"
        )
    return replace(weights, local=local)


def _closed(q: Any, p: Any) -> Tensor | None:
    """(..., B): KL(q ‖ p) of a site; None where torch knows none, or a mask or scale is on it."""
    return None if is_weighed(q) or is_weighed(p) else divergence(q["fn"], p["fn"])


def is_weighed(site: Any) -> bool:
    """Whether a mask or a scale is on a site: its density is then not that of its fn."""
    scale = site["scale"]
    return site["mask"] is not None or isinstance(scale, Tensor) or scale != 1


def divergence(q: Any, p: Any) -> Tensor | None:
    """KL(q ‖ p) in closed form, of broadcast batch shape; None where torch knows none."""
    shape = torch.broadcast_shapes(q.batch_shape, p.batch_shape)  # torch wants it of bits
    q, p = q.expand(shape), p.expand(shape)
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return _of_gaussians(q, p)


def _of_gaussians(q: Any, p: Any) -> Tensor | None:
    """Where one of two Gaussians has a full covariance and the other a diagonal one."""
    from torch.distributions import (
        Independent,
        LowRankMultivariateNormal,
        MultivariateNormal,
        Normal,
    )

    def full(d: Any) -> Any:
        if (
            isinstance(d, Independent)
            and isinstance(d.base_dist, Normal)
            and len(d.event_shape) == 1
        ):
            return MultivariateNormal(d.mean, scale_tril=torch.diag_embed(d.stddev))
        if isinstance(d, LowRankMultivariateNormal):
            return MultivariateNormal(d.mean, covariance_matrix=d.covariance_matrix)
        return d if isinstance(d, MultivariateNormal) else None

    both = full(q), full(p)
    return None if None in both else kl_divergence(*both)
