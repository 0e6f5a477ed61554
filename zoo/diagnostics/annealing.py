"""Annealed importance sampling: log p(x) from below, whatever the posterior looks like."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.context import frozen, seeded, stream, validation
from zoo.data import as_dataset
from zoo.diagnostics.draws import room
from zoo.diagnostics.steps import anneal, tuned
from zoo.diagnostics.targets import Path, rows_at_once
from zoo.estimate import Estimate
from zoo.model import Model, as_model
from zoo.progress import counting


@dataclass(frozen=True)
class Annealed:
    """A stochastic lower bound on log p(x), by row.

    Attributes:
        forward: log (1/K) Σ_k w_k; exp of it has the mean p(x), so its own mean is below log p(x).
            The errors are those of the delta method, too small where one chain has all the weight.
        log_weights: (K, N), log w.
        acceptance: (N,), the mean probability of acceptance.
        num_temperatures: T.
        num_leapfrog: steps of a transition.
        start: "prior" or "guide".
        seed: of the draws.
    """

    forward: Estimate
    log_weights: Tensor
    acceptance: Tensor
    num_temperatures: int
    num_leapfrog: int
    start: str
    seed: int

    @property
    def num_chains(self) -> int:
        """K."""
        return len(self.log_weights)

    @property
    def ess(self) -> Tensor:
        """(N,): the effective share of the chains, (Σ w)² / (K Σ w²), from 1/K to 1."""
        h = self.log_weights
        return (2 * h.logsumexp(0) - (2 * h).logsumexp(0)).exp() / len(h)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "forward": self.forward.as_dict(),
            "ess_fraction": self.ess.mean().item(),
            "acceptance": self.acceptance.mean().item(),
            "num_temperatures": self.num_temperatures,
            "num_chains": self.num_chains,
            "num_leapfrog": self.num_leapfrog,
            "start": self.start,
            "seed": self.seed,
        }


@torch.no_grad()
def annealed(
    model: Model | Callable[..., Any],
    data: Any,
    *,
    num_temperatures: int = 500,
    num_chains: int = 16,
    num_leapfrog: int = 10,
    target_acceptance: float = 0.65,
    guide: Any = None,
    seed: int = 0,
    max_elements: int | None = None,
    progress: bool | None = False,
) -> Annealed:
    """log (1/K) Σ_k w_k with w = Π_t f_{β_t}(u_{t−1}) / f_{β_{t−1}}(u_{t−1}), which has mean p(x).

    Notation: f_β = |dz/du| Σ_y p(y, z) p(x | y, z)^β over the unconstrained continuous latents u of
    a row, discrete ones summed out; β rises from 0 to 1 in T steps along a sigmoid. u_0 ~ p(z), and
    u_t follows from u_{t−1} by a transition of Hamiltonian Monte Carlo at β_t. The step size of
    every row and β, and the scale of every dimension, come from a first, adaptive pass; then they
    are frozen and fresh chains are run, since adaptation on the way would bias w.

    Args:
        model: p, without global latents.
        data: N rows; missing entries are integrated out.
        num_temperatures: T.
        num_chains: K of each row.
        num_leapfrog: steps of a transition.
        target_acceptance: the mean probability of acceptance that the first pass aims at.
        guide: q; the path is then q^(1−β) p(x, z)^β, which starts nearer to the posterior. It needs
            a density at any z.
        seed: of the draws.
        max_elements: how many numbers the largest tensor may have; by default 2²¹ on a CPU and 2²⁶
            on a GPU.
        progress: a bar; None shows one on a terminal.

    Raises:
        ValueError: global latents; no continuous latents; numbers out of range; a guide that cannot
            score a given z.

    Reference: Neal, "Annealed Importance Sampling", 2001; Wu, Burda, Salakhutdinov and Grosse, "On
    the Quantitative Analysis of Decoder-Based Generative Models", 2017.

    Example:
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> found = annealed(model, data, num_temperatures=30, num_leapfrog=3)
        >>> abs(found.forward.mean - model.log_evidence(data["x"]).mean().item()) < 0.5
        True
    """
    check(num_temperatures, num_chains, num_leapfrog, target_acceptance)
    model, data = as_model(model), as_dataset(data).fixed()
    weights, rates = [], []
    with quietly(model, seed, "annealing"):
        rows = rows_at_once(model, data, num_chains, max_elements or room(model), guide)
        with counting("transitions", len(data) * num_temperatures, progress) as advance:
            for batch in data.batches(rows):
                path = Path(model, batch.to(model.device), num_chains, guide)
                steps = tuned(path, num_temperatures, num_leapfrog, target_acceptance)
                u = path.draws()
                log_w, rate = anneal(path, u, steps, num_temperatures, num_leapfrog, advance)
                weights.append(log_w)
                rates.append(rate)
    h, start = torch.cat(weights, 1), "prior" if guide is None else "guide"
    forward = log_mean(h)
    return Annealed(forward, h, torch.cat(rates), num_temperatures, num_leapfrog, start, seed)


def check(temperatures: int, chains: int, leapfrog: int, acceptance: float) -> None:
    """ValueError for numbers out of range."""
    if min(temperatures, chains) < 2 or leapfrog < 1 or not 0 < acceptance < 1:
        raise ValueError(
            "annealing takes 2 temperatures and 2 chains or more, leapfrog steps from 1 and a "
            f"target acceptance in (0, 1); got {temperatures}, {chains}, {leapfrog}, {acceptance}"
        )


@contextmanager
def quietly(model: Model, seed: int, purpose: str) -> Iterator[None]:
    """Random numbers of their own, no gradients of parameters, no checks."""
    with seeded(stream(seed, purpose), model.device), validation(False), frozen(model):
        yield


def log_mean(h: Tensor) -> Estimate:
    """log (1/K) Σ_k w_k by row, of log w (K, N), with the error of the delta method."""
    rows = h.logsumexp(0) - math.log(len(h))
    return Estimate(rows, (h - rows).exp().std(0) / math.sqrt(len(h)))
