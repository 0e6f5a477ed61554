"""Hamiltonian dynamics on log p(x, z): leapfrog steps, and the Metropolis chain made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from zoo.context import validation
from zoo.data import Batch
from zoo.model import Model
from zoo.particles import log_joint, simulate
from zoo.sites import Sites

Target = Callable[[Tensor], Tensor]  # u (..., B, d) -> log density (..., B), up to a constant


def target_of(model: Model, batch: Batch, sites: Sites) -> Target:
    """u -> log p(x, z(u)) + log |dz/du| of every row, discrete latents summed out.

    Args:
        model: p, without global latents.
        batch: B rows.
        sites: the continuous local latents, packed into u (..., B, d).
    """

    def target(u: Tensor) -> Tensor:
        values, log_jacobians = sites.unpack(u)
        given: dict[str, Any] = {name: {"value": value} for name, value in values.items()}
        *lead, rows, _ = u.shape
        outer, inner = ([1, 1] + lead)[-2:]
        with poutine.block(), validation(False):
            recorded = simulate(model, batch, outer, inner, given)
        total = log_joint(recorded, model.plate, outer, inner, rows).reshape(*lead, rows)
        return total + sum(log_jacobians.values())

    return target


def value_and_slope(target: Target, u: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    """The log density (..., B) at u (..., B, d) and its gradient there.

    Args:
        target: the log density.
        u: (..., B, d).
        keep: whether the gradient is itself differentiated, in u and in the parameters of p.
    """
    with torch.enable_grad():
        u = u if keep and u.requires_grad else u.detach().requires_grad_()
        value = target(u)
        (slope,) = torch.autograd.grad(value.sum(), u, create_graph=keep)
    return (value if keep else value.detach()), slope


def leapfrog(
    target: Target,
    u: Tensor,
    v: Tensor,
    step: Tensor,
    num_steps: int,
    keep: bool = False,
    cooling: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """T leapfrog steps of the Hamiltonian -target(u) + ½ |v|²: (u_T, v_T) and both ends' target.

    v ← v + ½ε ∇target(u), u ← u + ε v, v ← v + ½ε ∇target(u). Each of the three shears has
    determinant one, so the map keeps volume; it is undone by T steps from (u_T, -v_T).

    Args:
        target: the log density.
        u: (..., B, d), positions.
        v: (..., B, d), velocities.
        step: ε > 0, broadcast over (..., B, d).
        num_steps: T.
        keep: whether a gradient flows through the steps.
        cooling: (T,), what v is multiplied by after each step; the volume then shrinks by its
            product for each dimension.

    Returns:
        u_T, v_T, target(u_0) and target(u_T), the latter two (..., B).

    Reference: Neal, "MCMC using Hamiltonian Dynamics", 2011.

    Example:
        >>> u, v, eps = torch.zeros(1, 1), torch.ones(1, 1), torch.tensor(0.1)
        >>> there = leapfrog(lambda u: -u.square().sum(-1) / 2, u, v, eps, 10)
        >>> back = leapfrog(lambda u: -u.square().sum(-1) / 2, there[0], -there[1], eps, 10)
        >>> bool(back[0].abs() < 1e-6)
        True
    """
    start, slope = value_and_slope(target, u, keep)
    value = start
    for t in range(num_steps):
        v = v + 0.5 * step * slope
        u = u + step * v
        value, slope = value_and_slope(target, u, keep)
        v = v + 0.5 * step * slope
        v = v if cooling is None else v * cooling[t]
    return u, v, start, value


def transition(
    target: Target, u: Tensor, step: Tensor, num_steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step of Hamiltonian Monte Carlo, which keeps exp(target) and is its own reverse.

    v ~ N(0, I), T leapfrog steps, and their end is accepted with probability
    min(1, exp(target(u_T) - ½|v_T|² - target(u_0) + ½|v_0|²)).

    Args:
        target: the log density.
        u: (..., B, d), positions.
        step: ε > 0, broadcast over (..., B, d); it may be drawn, but not depend on u.
        num_steps: T.

    Returns:
        The new positions (..., B, d), the target there, the target at u and the probability of
        acceptance, (..., B) each.

    Reference: Duane, Kennedy, Pendleton and Roweth, "Hybrid Monte Carlo", 1987.
    """
    v = torch.randn_like(u)
    new, end, start, value = leapfrog(target, u, v, step, num_steps)
    gain = value - start - 0.5 * (end.square() - v.square()).sum(-1)
    chance = gain.clamp(max=0).exp().nan_to_num(0.0)  # an end off the support is refused
    accepted = torch.rand_like(chance) < chance
    u = torch.where(accepted.unsqueeze(-1), new, u)
    return u, torch.where(accepted, value, start), start, chance


@torch.no_grad()
def metropolis(
    target: Target, u: Tensor, step: Tensor, num_steps: int, num_transitions: int
) -> tuple[Tensor, Tensor]:
    """Hamiltonian Monte Carlo from u: draws that keep exp(target), each chain on its own.

    Args:
        target: the log density.
        u: (..., B, d), where the chains start.
        step: ε > 0, broadcast over (..., B, d).
        num_steps: T of each ``transition``.
        num_transitions: how many.

    Returns:
        The chains' ends (..., B, d), and the mean acceptance probability ().
    """
    accepted = u.new_zeros(())
    for _ in range(num_transitions):
        u, _, _, chance = transition(target, u, step, num_steps)
        accepted = accepted + chance.mean() / num_transitions
    return u, accepted
