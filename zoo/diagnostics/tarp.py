"""Tests of accuracy with random points: is the truth as near to a point as draws of q are?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.context import seeded, stream
from zoo.diagnostics.pit import distance, interval, p_value, randomised_pit
from zoo.diagnostics.simulations import Simulations

ROOM = 2**22  # numbers in the largest tensor


@dataclass(frozen=True)
class Tarp:
    """How far the coverage values are from uniform.

    Attributes:
        values: (n,), the share of draws that are nearer to the reference point than the truth,
            randomised at ties and at the truth itself.
        distance: D = sup |F_n(f) − f|.
        interval: of the true distance, of probability 1 − alpha or more.
        p: of D, were the values uniform.
        draws: S.
        seed: of the reference points.
    """

    values: Tensor
    distance: float
    interval: tuple[float, float]
    p: float
    draws: int
    seed: int

    @property
    def count(self) -> int:
        """n."""
        return len(self.values)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; ``curve`` is the expected coverage at 0, 0.05, …, 1."""
        grid = torch.linspace(0, 1, 21, dtype=torch.float64, device=self.values.device)
        return {
            "distance": self.distance,
            "interval": list(self.interval),
            "p": self.p,
            "curve": (self.values.unsqueeze(-1) <= grid).double().mean(0).tolist(),
            "simulations": self.count,
            "draws": self.draws,
            "seed": self.seed,
        }


@torch.no_grad()
def tarp(simulations: Simulations, *, seed: int | None = None, alpha: float = 0.05) -> Tarp:
    """f_n, the randomised rank of d(z*_n, r_n) among d(z_sn, r_n), is uniform if q is exact.

    Notation: d, the Euclidean distance in units of the truths' standard deviations; r_n, the truth
    of another simulation, chosen by a random permutation without fixed points. The coverage values
    f_n themselves are tested, by Kolmogorov–Smirnov: points of the curve of expected coverage
    depend on one another. All units count together, discrete ones by their number.

    It needs no density, and sees wrong dependences between units, which ranks of each do not.

    What it cannot see: reference points that do not depend on x leave a q that is right on average
    over x alone, such as the prior, without a trace. In many dimensions all distances to a point
    are nearly the same, and faults of a single unit drown: those are what ``sbc`` is for.

    Args:
        simulations: from ``simulate_posteriors``.
        seed: of the permutation and of ties; by default that of the simulations.
        alpha: the interval has the probability 1 − alpha or more.

    Reference: Lemos, Coogan, Hezaveh and Perreault-Levasseur, "Sampling-based accuracy testing of
    posterior estimators for general inference", 2023.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.diagnostics.simulation import simulate_posteriors
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> found = tarp(simulate_posteriors(model, Guide(model, data, "exact"), data))
        >>> found.p > 1e-4, found.interval[0] < 0.03
        (True, True)
    """
    s = simulations
    seed = s.seed if seed is None else seed
    with seeded(stream(seed, "tarp"), s.truth.device):
        ring = torch.randperm(s.count, device=s.truth.device)
    other = torch.empty_like(ring)
    other[ring] = ring.roll(1)  # one cycle through all: nobody is their own
    unit = s.truth.double().std(0)
    unit = torch.where(unit > 0, unit, 1.0)
    truth = s.truth.double() / unit  # (n, U)
    own, drawn = (truth - truth[other]).norm(dim=-1), []
    size = max(1, ROOM // (s.num_draws * len(s.names)))
    for place in torch.arange(s.count, device=truth.device).split(size):
        draws = s.draws[:, place].double() / unit
        drawn.append((draws - truth[other[place]]).norm(dim=-1))
    values = randomised_pit(own, torch.cat(drawn, 1), seed, "pit of tarp")
    found = distance(values)
    d = found.item()
    p = p_value(found, s.count).item()
    return Tarp(values, d, interval(d, s.count, alpha), p, s.num_draws, seed)
