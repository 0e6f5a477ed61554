"""A Gaussian refined by Hamiltonian dynamics towards the posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.functional import softplus

from guides.family import Family, inverse_softplus
from zoo.data import Batch
from zoo.leapfrog import leapfrog, metropolis, target_of
from zoo.model import Model, rows
from zoo.shares import widened
from zoo.sites import Latents


class Hamiltonian(Family):
    """z_T after T leapfrog steps from z₀ ~ q₀ = N(m, diag s²), v₀ ~ N(0, I); κ = (m, softplus⁻¹ s).

    The steps follow ∇ log p(x, z) with a learned size ε_j for each dimension, every one taken. They
    keep volume in the space of (z, v), where the weight is

        log w = log p(x, z_T) + log N(v_T; 0, I) - log q₀(z₀) - log N(v₀; 0, I),

    E[w] = p(x), and every bound made of w is one. (log p(x, z_T) - log q₀(z₀) is no log weight: its
    mean may exceed log p(x).) v₀ is an auxiliary site, and so is z₀. ε_j stands for a mass M_j by
    ε_j = ε / √M_j. The gradient goes through the steps to κ, to ε and to p. A latent with a bounded
    support moves in its unconstrained image u, by ∇ [log p(x, z(u)) + log |dz/du|].

    Small steps alone conserve -log p(x, z) - log N(v), hence w: they move z and leave the bound
    that of q₀. What raises it is tempering: the steps start at v₀ / √β₀ and v is multiplied after
    step t by a learned α_t in (0, 1), Π_t α_t = √β₀, whose volume change the start cancels. The
    formula above stays as it is.

    With ``metropolis`` the bound is that of q₀ alone, and each end is accepted or refused: such
    draws follow p(z | x) ever more closely, but have no density. They are what ``guide.posterior``
    gives, and what the objective ``mcmc`` takes p's gradient from. The step is then one number
    times s, moved towards ``acceptance`` by that objective.

    q of a z from elsewhere cannot be scored.

    Args:
        dim: d.
        init_scale: s at the start.
        num_leapfrog: T.
        step_size: ε at the start; with ``metropolis`` in units of s.
        tempering: β₀ in (0, 1] at the start; 1 leaves tempering out. Not for ``metropolis``.
        metropolis: whether ends are accepted or refused.
        num_transitions: with ``metropolis``, how many times T steps are taken.
        acceptance: with ``metropolis``, the mean acceptance probability to aim at.

    Raises:
        ValueError: a model with global latents; numbers out of range.

    Reference: Caterini, Doucet and Sejdinovic, "Hamiltonian Variational Auto-Encoder", 2018;
    Salimans, Kingma and Welling, "Markov Chain Monte Carlo and Variational Inference: Bridging the
    Gap", 2015; Hoffman, "Learning Deep Latent Gaussian Models with Markov Chain Monte Carlo", 2017.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> guide = Guide(model, data, "hamiltonian:3")
        >>> guide.posterior(data.batch(), 5).samples["z"].shape
        torch.Size([5, 50, 2])
    """

    scores: ClassVar[bool] = False
    shorthand: ClassVar[str] = "num_leapfrog"

    log_step: Tensor  # ()

    def __init__(
        self,
        dim: int,
        init_scale: float = 1.0,
        num_leapfrog: int = 4,
        step_size: float = 0.1,
        tempering: float = 0.5,
        metropolis: bool = False,
        num_transitions: int = 5,
        acceptance: float = 0.65,
    ):
        super().__init__(dim, init_scale)
        if min(num_leapfrog, num_transitions) < 1 or step_size <= 0 or not 0 < acceptance < 1:
            raise ValueError(
                "num_leapfrog and num_transitions count from 1, step_size is positive and "
                f"acceptance a probability; got {num_leapfrog}, {num_transitions}, {step_size} and "
                f"{acceptance}"
            )
        if not 0 < tempering <= 1:
            raise ValueError(f"tempering is β₀ in (0, 1], 1 for none; got {tempering}")
        self.num_leapfrog, self.num_transitions = num_leapfrog, num_transitions
        self.refines, self.acceptance = metropolis, acceptance
        if metropolis:
            self.register_buffer("log_step", torch.tensor(step_size).log())  # ()
        else:
            self.raw_step = nn.Parameter(torch.full((dim,), inverse_softplus(step_size)))  # (d,)
        self.raw_cooling: nn.Parameter | None = None
        if tempering < 1 and not metropolis:
            each = torch.full((num_leapfrog,), tempering ** (0.5 / num_leapfrog))
            self.raw_cooling = nn.Parameter(each.logit())  # (T,), α_t = sigmoid

    @property
    def num_params(self) -> int:
        return 2 * self.dim

    def initial(self) -> Tensor:
        loc = torch.zeros(self.dim)
        return torch.cat([loc, torch.full_like(loc, inverse_softplus(self.init_scale))])

    def forward(self, kappa: Tensor) -> dist.TorchDistribution:
        """q₀, from which the steps start."""
        loc, raw = kappa.chunk(2, -1)
        return dist.Normal(loc, softplus(raw)).to_event(1)

    def bind(self, latents: Latents) -> None:
        if names := latents.global_.names:
            raise ValueError(
                f"the family hamiltonian follows the gradient of log p(x, z) of each datapoint, "
                f"which the global latents {list(names)} would share; use mean_field or full_rank"
            )
        self.latents = latents

    def distribution(
        self, model: Model, batch: Batch, source: Callable[[Batch], Tensor]
    ) -> dist.TorchDistribution:
        """z_T with -log N(v_T; 0, I), z₀ and v₀ being sites before it; q₀ for ``metropolis``."""
        q = self(source(batch))
        if self.refines:
            return q
        noise = dist.Normal(torch.zeros_like(q.mean), 1.0).to_event(1)
        u, v = (_auxiliary(name, d, model, batch) for name, d in (("_z0", q), ("_v", noise)))
        target, step = target_of(model, batch, self.latents.local), softplus(self.raw_step)
        cooling = self.raw_cooling.sigmoid() if self.raw_cooling is not None else None
        v = v if cooling is None else v / cooling.prod()
        keep = torch.is_grad_enabled()
        u, v, *_ = leapfrog(target, u, v, step, self.num_leapfrog, keep, cooling)
        return dist.Delta(u, log_density=-noise.log_prob(v), event_dim=1)

    def refined(
        self, model: Model, batch: Batch, source: Callable[[Batch], Tensor]
    ) -> dist.TorchDistribution:
        """Ends of Metropolis chains from q₀, as point masses without a density of their own."""
        if not self.refines:
            return self.distribution(model, batch, source)
        adapt = self.training and torch.is_grad_enabled()
        with torch.no_grad():
            q = self(source(batch))
            u = _auxiliary("_z0", q, model, batch)
            target, step = target_of(model, batch, self.latents.local), self.log_step.exp()
            with widened(batch, u.shape[:-1]):
                u, rate = metropolis(
                    target, u, step * q.stddev, self.num_leapfrog, self.num_transitions
                )
            if adapt:
                self.log_step += 0.05 * (rate - self.acceptance)
        return dist.Delta(u, event_dim=1)


def _auxiliary(name: str, q: Any, model: Model, batch: Batch) -> Tensor:
    """A draw in the data plate, which the steps must leave again: the model brings its own."""
    with poutine.block(hide=[model.plate]), rows(batch, model.plate):
        return pyro.sample(name, q, infer={"is_auxiliary": True})
