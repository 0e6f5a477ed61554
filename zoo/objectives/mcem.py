"""Monte-Carlo EM: one Markov chain a row, and a gradient step of the model at its draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.data import Batch
from zoo.leapfrog import Target, target_of, transition
from zoo.model import Model, as_model
from zoo.objectives._reductions import mean
from zoo.objectives._said import said
from zoo.shares import Part
from zoo.weights import log_weights

__all__ = ["mcem"]

DECAY = 0.6  # log ε moves by t^-0.6 for each unit that the t-th acceptance is off
JITTER = 0.2  # ε is drawn within this part of itself: no orbit closes on its start again and again


@said(no_bound="log p(x, z) at a draw of z", fits="model")
def mcem(
    model: Model,
    guide: Any,
    batch: Batch,
    *,
    num_transitions: int = 1,
    num_leapfrog: int = 10,
    acceptance: float = 0.9,
) -> Tensor:
    """Monte-Carlo EM: -mean_n log p_θ(x_n, z_n) at the state z_n of a Markov chain for each row.

    E-step: u_n, the unconstrained z_n, takes Hamiltonian Monte Carlo transitions towards
    p_θ(z | x_n) from where the row's last step left it, with a step size ε_n of its own, drawn
    within 20 % of itself each time, that is moved towards the acceptance after the t-th transition:
    log ε_n += t^-0.6 (chance - acceptance), ever less, so that the posterior is the chain's law in
    the limit. M-step: the optimizer's, of θ alone. Once the chain has reached the posterior the
    gradient has the mean ∇ log p(x_n), by Fisher's identity; as θ moves, the chain follows.
    Discrete latents are summed out. The value is no bound on log p(x).

    Each step moves the chains; Kingma and Welling take five steps of θ with each draw.

    Args:
        model: p, without global latents.
        guide: the states and steps: a ``Guide`` of the family ``chain``, per datapoint.
        batch: B rows, whose chains move.
        num_transitions: of each chain in a step.
        num_leapfrog: T, leapfrog steps of each transition.
        acceptance: the mean acceptance probability to aim at.

    Raises:
        ValueError: another guide; numbers out of range; rows divided over processes.

    Reference: Wei and Tanner, "A Monte Carlo Implementation of the EM Algorithm and the Poor Man's
    Data Augmentation Algorithms", 1990; Kingma and Welling, "Auto-Encoding Variational Bayes",
    2014, appendix; for the steps Andrieu and Thoms, "A Tutorial on Adaptive MCMC", 2008.
    """
    if min(num_transitions, num_leapfrog) < 1 or not 0 < acceptance < 1:
        raise ValueError(
            "num_transitions and num_leapfrog count from 1 and acceptance is a probability, got "
            f"{num_transitions}, {num_leapfrog} and {acceptance}"
        )
    if not getattr(getattr(guide, "family", None), "is_state", False):
        raise ValueError(
            "mcem moves a Markov chain of each row, which the guide has no state for; use the "
            "family chain with the inference per_datapoint, or the objective elbo"
        )
    if isinstance(batch, Part):
        raise ValueError(
            "the chains of mcem live in one process; fit without torchrun, or use elbo with a "
            "table, which is divided"
        )
    model = as_model(model)
    model.resolve(batch)
    table = guide.source.table.weight  # (N, P), which no optimizer moves
    with torch.no_grad():
        kappa = table.index_select(0, batch.index)
        target = target_of(model, batch.unscaled(), guide.latents.local)
        after = advanced(target, kappa, num_transitions, num_leapfrog, acceptance)
        table.index_copy_(0, batch.index, after.to(table.dtype))
    return -log_weights(model, guide, batch).per_datapoint(mean).mean()


@torch.no_grad()
def advanced(
    target: Target,
    kappa: Tensor,
    num_transitions: int = 1,
    num_leapfrog: int = 10,
    acceptance: float = 0.9,
) -> Tensor:
    """κ = (u, log ε, t) after some transitions of the chain of each row, (B, P).

    Args:
        target: the log density of u (B, d), up to a constant.
        kappa: (B, P), P = d + 2; t counts the transitions that were taken.
        num_transitions, num_leapfrog, acceptance: as for ``mcem``.
    """
    u, log_step, taken = kappa[:, :-2], kappa[:, -2], kappa[:, -1]
    for _ in range(num_transitions):
        drawn = 1 + JITTER * (2 * torch.rand_like(log_step) - 1)
        step = (log_step.exp() * drawn).unsqueeze(-1)
        u, _, _, chance = transition(target, u, step, num_leapfrog)
        taken = taken + 1
        log_step = log_step + taken**-DECAY * (chance - acceptance)
    return torch.cat([u, torch.stack([log_step, taken], -1)], -1)
