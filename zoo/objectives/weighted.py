"""The ELBO with another weight on its KL term, by words of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from zoo.data import Batch
from zoo.model import Model
from zoo.objectives._said import said
from zoo.objectives.bounds import elbo

__all__ = ["beta", "free_bits"]

Guide = Callable[[Batch], Any]


@said(shorthand="beta")
def beta(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    beta: float = 4.0,
    num_particles: int = 1,
    num_outer: int = 1,
    estimator: str | None = None,
) -> Tensor:
    """``elbo`` with its KL β times: -mean_n E_q[log p(x_n | z_n)] + β KL(q ‖ p). Not a bound.

    Args:
        model: p.
        guide: q.
        batch: B rows.
        beta: β ≥ 0; below log p(x) in expectation for β ≥ 1, but no bound on it that is reported.
        num_particles: K.
        num_outer: S.
        estimator: as for ``elbo``.

    Reference: Higgins et al., "β-VAE: Learning Basic Visual Concepts with a Constrained Variational
    Framework", 2017.
    """
    draws = {"num_particles": num_particles, "num_outer": num_outer, "estimator": estimator}
    return elbo(model, guide, batch, beta=beta, **draws)


@said(shorthand="free_bits")
def free_bits(
    model: Model,
    guide: Guide,
    batch: Batch,
    *,
    free_bits: float = 0.1,
    beta: float = 1.0,
    num_particles: int = 1,
    num_outer: int = 1,
    estimator: str | None = None,
) -> Tensor:
    """``elbo`` with λ nats of KL for nothing in each group of latents: Σ_j max(λ, KL_j). No bound.

    Args:
        model: p.
        guide: q.
        batch: B rows.
        free_bits: λ ≥ 0.
        beta: β, the weight of the KL terms.
        num_particles: K.
        num_outer: S.
        estimator: pathwise.

    Reference: Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, "Improved Variational
    Inference with Inverse Autoregressive Flow", 2016.
    """
    draws = {"num_particles": num_particles, "num_outer": num_outer, "estimator": estimator}
    return elbo(model, guide, batch, free_bits=free_bits, beta=beta, **draws)
