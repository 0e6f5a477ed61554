"""Maximum likelihood by Markov chains that start at q."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from zoo.context import frozen
from zoo.data import Batch
from zoo.model import Model
from zoo.objectives._beside import check_pathwise
from zoo.objectives.bounds import mean
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
    encoder = getattr(model, "shared_encoder", None)  # of the prior and of q: it is trained as q's
    shared = list(encoder.parameters()) if encoder is not None else []
    kept = {id(parameter) for parameter in shared}
    own = [p for p in model.parameters() if id(p) not in kept]
    with frozen(*own):
        weights = log_weights(model, guide, batch, num_particles)
        check_pathwise(weights)
        bound = weights.per_datapoint(mean).mean()
    with frozen(*shared):
        fit = log_weights(model, refined, batch, num_particles).per_datapoint(mean).mean()
    return -bound - (fit - fit.detach())
