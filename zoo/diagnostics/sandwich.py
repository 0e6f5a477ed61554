"""Bidirectional Monte Carlo: log p(x) of simulated rows between a lower and an upper bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.data import Dataset, as_dataset
from zoo.diagnostics._simulated import simulated
from zoo.diagnostics.annealing import check, log_mean, quietly
from zoo.diagnostics.draws import room
from zoo.diagnostics.steps import anneal, tuned
from zoo.diagnostics.targets import Path, rows_at_once
from zoo.estimate import Estimate
from zoo.model import Model, as_model
from zoo.progress import counting


@dataclass(frozen=True)
class Sandwich:
    """log p(x*) between two stochastic bounds, on rows x* that the model has simulated.

    Attributes:
        data: the simulated rows.
        lower: the forward chains', as ``Annealed.forward``.
        upper: the reverse chains', from the z* that x* was made of: its mean over (z*, x*) is above
            that of log p(x*). The errors by row are given z* and those of weights with a long tail,
            so too small where T is; ``se_data``, over the simulations, has the choice of z* in it.
        width: upper − lower. On rows like the simulated ones log p(x) exceeds the forward estimate
            by no more than this on average; what it is on other rows is not known.
        acceptance: (2,), of the forward and of the reverse chains.
        num_temperatures, num_chains, num_reverse, num_leapfrog: of both runs.
        start: "prior" or "guide".
        seed: of simulations and chains.
    """

    data: Dataset
    lower: Estimate
    upper: Estimate
    width: Estimate
    acceptance: Tensor
    num_temperatures: int
    num_chains: int
    num_reverse: int
    num_leapfrog: int
    start: str
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        forward, reverse = self.acceptance.tolist()
        return {
            "lower": self.lower.as_dict(),
            "upper": self.upper.as_dict(),
            "width": self.width.as_dict(),
            "acceptance": {"forward": forward, "reverse": reverse},
            "num_simulations": len(self.width.rows),
            "num_temperatures": self.num_temperatures,
            "num_chains": self.num_chains,
            "num_reverse": self.num_reverse,
            "num_leapfrog": self.num_leapfrog,
            "start": self.start,
            "seed": self.seed,
        }


@torch.no_grad()
def sandwich(
    model: Model | Callable[..., Any],
    data: Any,
    *,
    num_simulations: int = 100,
    num_temperatures: int = 500,
    num_chains: int = 16,
    num_reverse: int = 4,
    num_leapfrog: int = 10,
    target_acceptance: float = 0.65,
    guide: Any = None,
    seed: int = 0,
    max_elements: int | None = None,
    progress: bool | None = False,
) -> Sandwich:
    """Bidirectional Monte Carlo: E log (1/K) Σ_k w_k ≤ E log p(x*) ≤ E [−log (1/R) Σ_r w̃_r].

    (z*, x*) ~ p, so that z* is an exact draw of p(z | x*). Chains that start at z* and go down the
    path of ``annealed`` with the same frozen steps have weights w̃ of mean 1/p(x*). All R of a row
    start at the one z* that is known.

    What it does not say: how loose the bounds are on rows that p would not make. Data that the
    model fits badly can be harder or easier than its own.

    Args:
        model: p, without global latents.
        data: rows, whose inputs and missing entries the simulations take over.
        num_simulations: how many rows are simulated.
        num_temperatures: T.
        num_chains: K forward chains of each row.
        num_reverse: R, reverse chains of each row.
        num_leapfrog, target_acceptance, seed, max_elements, progress: as ``annealed``.
        guide: as ``annealed``; one that is not amortized is fitted to the simulated rows.

    Raises:
        ValueError: as ``annealed``; a factor in the model; an observed site that is no column.

    Reference: Grosse, Ghahramani and Adams, "Sandwiching the Marginal Likelihood Using
    Bidirectional Monte Carlo", 2015.

    Example:
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> found = sandwich(model, data, num_temperatures=30, num_leapfrog=3, num_simulations=20)
        >>> abs(found.width.mean) < 1
        True
    """
    check(num_temperatures, min(num_chains, num_reverse), num_leapfrog, target_acceptance)
    if num_simulations < 1:
        raise ValueError(f"num_simulations counts rows from 1, got {num_simulations}")
    model, data = as_model(model), as_dataset(data)
    data = data.without(*data.partial).fixed()
    lower, upper, rates, done = [], [], [], 0
    with quietly(model, seed, "sandwich"):
        most, elements = max(num_chains, num_reverse), max_elements or room(model)
        size = rows_at_once(model, data, most, elements, guide)
        chosen = torch.randperm(len(data))[torch.arange(num_simulations) % len(data)]
        rows, truth = simulated(model, data, chosen, size)
        q = guide.infer(rows) if callable(getattr(guide, "infer", None)) else guide
        with counting("transitions", 2 * num_simulations * num_temperatures, progress) as advance:
            for batch in rows.batches(size):
                path = Path(model, batch, num_chains, q)
                steps = tuned(path, num_temperatures, num_leapfrog, target_acceptance)
                each = (steps, num_temperatures, num_leapfrog, advance)
                up, forward = anneal(path, path.draws(), *each)
                back, stop = Path(model, batch, num_reverse, q), done + len(batch)
                z = truth.rows(done, stop).values
                z = {name: torch.cat([z[name]] * num_reverse) for name in back.sites.names}
                done = stop
                down, reverse = anneal(back, back.pack(z), *each, reverse=True)
                lower.append(up)
                upper.append(down)
                rates.append(torch.stack([forward, reverse]))
    low, high = log_mean(torch.cat(lower, 1)), log_mean(torch.cat(upper, 1))
    high = Estimate(-high.rows, high.error)
    error = (low.error.square() + high.error.square()).sqrt()
    return Sandwich(
        data=rows,
        lower=low,
        upper=high,
        width=Estimate(high.rows - low.rows, error),
        acceptance=torch.cat(rates, 1).mean(1),
        num_temperatures=num_temperatures,
        num_chains=num_chains,
        num_reverse=num_reverse,
        num_leapfrog=num_leapfrog,
        start="prior" if guide is None else "guide",
        seed=seed,
    )
