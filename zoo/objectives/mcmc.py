"""Maximum likelihood by Markov chains that start at q."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from zoo.data import Batch
from zoo.model import Model
from zoo.objectives._gradient import check_pathwise, trained_alone
from zoo.objectives._reductions import mean
from zoo.weights import log_weights

__all__ = ["mcmc"]


def mcmc(
    model: Model, guide: Callable[[Batch], Any], batch: Batch, *, num_particles: int = 1
) -> Tensor:
    """θ from a Markov chain's draws, φ from the ELBO of q, where the chain starts.

    ∇_θ = -mean_n ∇_θ log p_θ(x_n, z_T) with z_T ~ the chain from z_0 ~ q(z | x_n), by Fisher's
    identity ∇ log p(x_n) once the chain has reached the posterior; ∇_φ = -∇_φ mean_n E_q[h_n].
    The value is -mean_n E_q[h_n], the negative ELBO of q, and a bound; z_T never enters it.

    Args:
        model: p.
        guide: q, refined by Metropolis steps (``hamiltonian`` with ``metropolis``).
        batch: B rows.
        num_particles: K, draws of q and chains for each datapoint.

    Raises:
        ValueError: a guide without such a chain; a latent without a path-wise gradient.

    Reference: Hoffman, "Learning Deep Latent Gaussian Models with Markov Chain Monte Carlo", 2017.
    """
    refined = getattr(guide, "refined", None)
    if refined is None or not getattr(guide, "refines", False):
        raise ValueError(
            "mcmc needs a guide whose draws a Markov chain moves on: the family hamiltonian with "
            "metropolis=True; for another guide use elbo"
        )
    with trained_alone("guide", model, guide):
        weights = log_weights(model, guide, batch, num_particles)
        check_pathwise(weights)
        bound = weights.per_datapoint(mean).mean()
    with trained_alone("model", model, guide):
        fit = log_weights(model, refined, batch, num_particles).per_datapoint(mean).mean()
    return -bound - (fit - fit.detach())
