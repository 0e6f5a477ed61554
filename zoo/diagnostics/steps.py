"""Chains along a path of densities: step sizes that are tuned once and then frozen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.diagnostics.targets import Path
from zoo.leapfrog import Target, transition

RATE = 0.3  # how fast log ε follows the acceptance
MEMORY = 0.8  # of the running variance by dimension
FIRST = 30  # transitions of the tuning before the path starts
JITTER = 0.2  # a step is ε times a draw of U(0.8, 1.2), so that no length is a whole period
STEEPNESS = 4.0  # of the schedule


def schedule(num: int) -> Tensor:
    """β_t = (σ(δ(2t/T − 1)) − σ(−δ)) / (σ(δ) − σ(−δ)), t = 0 … T, with δ = 4: (T + 1,), float64.

    Example:
        >>> [round(b, 3) for b in schedule(4).tolist()]
        [0.0, 0.105, 0.5, 0.895, 1.0]
    """
    s = torch.linspace(-STEEPNESS, STEEPNESS, num + 1, dtype=torch.float64).sigmoid()
    return (s - s[0]) / (s[-1] - s[0])


@dataclass(frozen=True)
class Steps:
    """Frozen step sizes along a path.

    Attributes:
        log_step: (M, B), log ε at M places of the path, by row.
        scale: (M, d), by dimension.
    """

    log_step: Tensor
    scale: Tensor

    def at(self, place: float) -> Tensor:
        """(B, d): ε times the scale at a place t/T from 0 to 1, log-linear between those known."""
        last = len(self.log_step) - 1
        x = min(max(place * (last + 2) - 1, 0.0), float(last))  # the first is 1 / (M + 1)
        low = min(int(x), max(last - 1, 0))
        high, share = min(low + 1, last), x - low
        log_step = (1 - share) * self.log_step[low] + share * self.log_step[high]
        scale = (1 - share) * self.scale[low].log() + share * self.scale[high].log()
        return (log_step.unsqueeze(-1) + scale).exp()


def jittered(step: Tensor, u: Tensor) -> Tensor:
    """(K, B, d): a step (B, d) times a draw of U(0.8, 1.2) for each chain."""
    factor = 1 + JITTER * (2 * torch.rand_like(u[..., :1]) - 1)
    return step * factor


def adapt(log_step: Tensor, chance: Tensor, target: float) -> Tensor:
    """log ε (B,) after a transition of probabilities (K, B): up where too many are accepted."""
    return log_step + RATE * (chance.mean(0) - target)


def tuned(path: Path, num: int, num_leapfrog: int, target: float) -> Steps:
    """Steps from one pass over a coarser schedule, in which they follow the acceptance.

    The scale of a dimension is the running standard deviation of the chains of a row, pooled over
    rows; of one chain a row there is none, and it stays at that of all draws of the start.

    Args:
        path: of B rows and K chains.
        num: T of the run that follows.
        num_leapfrog: of a transition.
        target: the mean probability of acceptance.
    """
    u = path.draws()
    coarse = min(num, 200, max(50, num // 4))
    betas = schedule(coarse).to(u).unbind()
    variance = pooled(u)
    log_step = u.new_full(u.shape[1:2], math.log(0.5))
    log_steps, scales = [], []
    for t in range(1, max(coarse, 2)):
        target_t = path.at(betas[t])
        for _ in range(FIRST if t == 1 else 1):
            step = log_step.exp().unsqueeze(-1) * variance.sqrt()
            u, _, _, chance = transition(target_t, u, jittered(step, u), num_leapfrog)
            log_step = adapt(log_step, chance, target)
        variance = MEMORY * variance + (1 - MEMORY) * pooled(u) if len(u) > 1 else variance
        log_steps.append(log_step)
        scales.append(variance.sqrt())
    return Steps(torch.stack(log_steps), torch.stack(scales))


def pooled(u: Tensor) -> Tensor:
    """(d,): the variance over chains (K, B, d) within rows, averaged over rows; never 0."""
    rows = u if len(u) > 1 else u.transpose(0, 1)
    variance = rows.var(0).mean(0) if len(rows) > 1 else torch.ones_like(u[0, 0])
    return variance.nan_to_num(1.0, 1.0, 1.0).clamp_min(1e-12)


def anneal(
    path: Path,
    u: Tensor,
    steps: Steps,
    num: int,
    num_leapfrog: int,
    advance: Callable[[int], None],
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """log w (K, B) of chains from u, in float64, and their mean acceptance (B,).

    Forward log w = Σ_t log f_{β_t}(u_{t−1}) − log f_{β_{t−1}}(u_{t−1}) over t = 1 … T, with a
    transition at each β_t between 0 and 1; reversed the same with the schedule run backwards. A
    weight that is no number counts as 0.

    Args:
        path: of B rows and K chains.
        u: (K, B, d), draws of f_0, or of f_1 if reversed.
        steps: of the transitions.
        num: T, at least 2.
        num_leapfrog: of a transition.
        advance: told how many rows have taken a transition.
        reverse: whether β falls.
    """
    order = range(num, -1, -1) if reverse else range(num + 1)
    betas = schedule(num).to(u).unbind()
    value = path.at(betas[order[0]])(u)
    log_w, accepted = torch.zeros_like(value, dtype=torch.float64), torch.zeros_like(value[0])
    for t in order[1:-1]:
        step = jittered(steps.at(t / num), u)
        u, new, start, chance = transition(path.at(betas[t]), u, step, num_leapfrog)
        log_w += start.double() - value.double()
        value, accepted = new, accepted + chance.mean(0) / (num - 1)
        advance(path.rows)
    end = path.at(betas[order[-1]])(u)
    advance(path.rows)
    log_w += end.double() - value.double()
    return log_w.nan_to_num(nan=-torch.inf, neginf=-torch.inf), accepted


def tuned_at(
    target: Target, u: Tensor, num_leapfrog: int, goal: float, num: int = 60
) -> tuple[Tensor, Tensor]:
    """A frozen step (B, d) for one density, and where the chains that found it ended.

    Args:
        target: the log density.
        u: (K, B, d), where chains start; their spread is the scale of the dimensions.
        num_leapfrog: of a transition.
        goal: the mean probability of acceptance.
        num: transitions.
    """
    scale = u.var(0).nan_to_num(1.0, 1.0, 1.0).clamp_min(1e-12).sqrt()
    log_step = u.new_full(u.shape[1:2], math.log(0.5))
    for _ in range(num):
        step = log_step.exp().unsqueeze(-1) * scale
        u, _, _, chance = transition(target, u, jittered(step, u), num_leapfrog)
        log_step = adapt(log_step, chance, goal)
    return log_step.exp().unsqueeze(-1) * scale, u
