"""Simulation-based calibration: is the truth anywhere among the draws with equal probability?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.diagnostics.pit import direction, distance, interval, p_value, randomised_pit, unit_pits
from zoo.diagnostics.simulations import Simulations

LIKELIHOOD = "log p(x|z)"


@dataclass(frozen=True)
class SBC:
    """How far the PIT of every unit, and of log p(x | z), is from uniform.

    Attributes:
        names: of the U + 1 quantities, ``log p(x|z)`` the last.
        pit: (n, U + 1), randomised ranks of the truth among the draws.
        distances: (U + 1,), D = sup |F_n(u) − u|, of n numbers.
        p_values: (U + 1,), of D, were the PIT uniform.
        alpha: the intervals hold together with probability 1 − α.
        draws: S.
    """

    names: tuple[str, ...]
    pit: Tensor
    distances: Tensor
    p_values: Tensor
    alpha: float
    draws: int

    @property
    def count(self) -> int:
        """n."""
        return len(self.pit)

    @property
    def p(self) -> float:
        """Of all quantities together: min(1, (U + 1) min p)."""
        return min(1.0, len(self.names) * self.p_values.min().item())

    @property
    def worst(self) -> str:
        """The quantity with the largest distance."""
        return self.names[int(self.distances.argmax())]

    @property
    def distance(self) -> float:
        """Its D."""
        return self.distances.max().item()

    @property
    def interval(self) -> tuple[float, float]:
        """Of the true distance of the worst one, at level α/(U + 1) as the worst is chosen."""
        return interval(self.distance, self.count, self.alpha / len(self.names))

    def of(self, name: str) -> tuple[float, float]:
        """The distance of a quantity and its p value."""
        place = self._place(name)
        return self.distances[place].item(), self.p_values[place].item()

    def direction(self, name: str) -> str:
        """What is wrong with a quantity, in words; see ``zoo.diagnostics.pit.direction``."""
        return direction(self.pit[:, self._place(name)])

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise ValueError(f"no quantity is called {name!r}; there are {list(self.names)}")
        return self.names.index(name)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        low, high = self.interval
        each = zip(self.names, self.distances.tolist(), self.p_values.tolist(), strict=True)
        return {
            "worst": self.worst,
            "distance": self.distance,
            "interval": [low, high],
            "direction": self.direction(self.worst),
            "p": self.p,
            "simulations": self.count,
            "draws": self.draws,
            "quantities": {
                name: {"distance": d, "p": p, "direction": self.direction(name)}
                for name, d, p in each
            },
        }


def sbc(simulations: Simulations, alpha: float = 0.05) -> SBC:
    """u_i = (#{z_si < z*_i} + V (1 + #{z_si = z*_i}))/(S + 1) is uniform for every unit i, if
    q(z | x) = p(z | x); and so for f(z, x) = log p(x | z) in the place of z_i.

    D_i = sup_u |F_n(u) − u| is the largest error of a one-sided quantile of q, as a probability,
    averaged over data from the model. p is that of the Kolmogorov–Smirnov test.

    What it cannot see: of marginals, wrong dependences between units, and any q that is right on
    average over x without being right for each: the prior in the place of q passes. The ranks of
    log p(x | z) see those that change how well the draws fit x, the prior among them, and miss
    what leaves the likelihood alone, such as a direction in z that x says nothing of. Modes that
    mirror one another (signs, labels) show as wrong marginals where q has one of them, though
    nothing that is asked of the model depends on it.

    Args:
        simulations: from ``simulate_posteriors``.
        alpha: of the simultaneous intervals.

    Reference: Talts, Betancourt, Simpson, Vehtari and Gelman, "Validating Bayesian inference
    algorithms with simulation-based calibration", 2018; Modrák, Moon, Kim, Bürkner, Huurre,
    Faltejsková, Gelman and Vehtari, "Simulation-based calibration checking for Bayesian
    computation: the choice of test quantities shapes sensitivity", 2023.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.diagnostics.simulation import simulate_posteriors
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> found = sbc(simulate_posteriors(model, Guide(model, data, "exact"), data))
        >>> found.names, found.p > 1e-4, found.interval[0] < 0.05
        (('z[0]', 'z[1]', 'log p(x|z)'), True, True)
    """
    s = simulations
    fit = randomised_pit(s.log_likelihood_truth, s.log_likelihood_draws, s.seed, "pit of fit")
    pit = torch.cat([unit_pits(s), fit.unsqueeze(-1)], -1)  # (n, U + 1)
    found = distance(pit)
    return SBC((*s.names, LIKELIHOOD), pit, found, p_value(found, s.count), alpha, s.num_draws)
