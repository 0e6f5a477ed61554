"""Expected coverage: how often the region that q gives probability α holds the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from scipy.special import betaincinv
from scipy.stats import binomtest
from torch import Tensor

from zoo.diagnostics.pit import randomised_pit, unit_pits
from zoo.diagnostics.simulations import Simulations

GRID = tuple(round(0.05 * i, 2) for i in range(1, 20))  # of a curve


@dataclass(frozen=True)
class Level:
    """The coverage of regions of one probability.

    Attributes:
        level: α, the probability that q gives the region.
        coverage: the share of n truths inside.
        low, high: a Clopper–Pearson interval.
        p: of the exact binomial test of coverage α.
    """

    level: float
    coverage: float
    low: float
    high: float
    p: float

    @property
    def error(self) -> float:
        """coverage − α: negative where q is too sure."""
        return self.coverage - self.level

    @property
    def interval(self) -> tuple[float, float]:
        """Of the true |coverage − α|."""
        low, high = self.low - self.level, self.high - self.level
        nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
        return nearest, max(abs(low), abs(high))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        own = {"level": self.level, "coverage": self.coverage, "low": self.low, "high": self.high}
        return {**own, "p": self.p}


@dataclass(frozen=True)
class Coverage:
    """Expected coverage of highest-density regions of q, and of central intervals by unit.

    Attributes:
        names: of the U units.
        joint: by level, of the highest-density regions of q(z | x); None where log q of the truth
            is not known. Intervals at 95 % each.
        central: by unit, then by level, of its central intervals.
        worst: of ``joint``, the level with the largest |coverage − α|, its interval and p with
            those of the other levels together (Bonferroni); None without.
        worst_central: the unit and the level with the largest |coverage − α| of all, its interval
            and p with those of all units and levels together.
        grid: (G,), probabilities of regions.
        curve: (G,), the coverage of highest-density regions at each; None where not known.
        curves: (G, U), that of central intervals.
        error: (G,), √(α (1 − α)/n), the standard error of each, were q exact.
        count: n.
        draws: S.
    """

    names: tuple[str, ...]
    joint: tuple[Level, ...] | None
    central: tuple[tuple[Level, ...], ...]
    worst: Level | None
    worst_central: tuple[str, Level]
    grid: Tensor
    curve: Tensor | None
    curves: Tensor
    error: Tensor
    count: int
    draws: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        unit, level = self.worst_central
        return {
            "joint": None if self.joint is None else [level.as_dict() for level in self.joint],
            "worst": None if self.worst is None else self.worst.as_dict(),
            "central": {
                name: [level.as_dict() for level in levels]
                for name, levels in zip(self.names, self.central, strict=True)
            },
            "worst_central": {"unit": unit, **level.as_dict()},
            "grid": self.grid.tolist(),
            "curve": None if self.curve is None else self.curve.tolist(),
            "curves": self.curves.T.tolist(),
            "error": self.error.tolist(),
            "simulations": self.count,
            "draws": self.draws,
        }


def coverage(
    simulations: Simulations, levels: Sequence[float] = (0.5, 0.9), alpha: float = 0.05
) -> Coverage:
    """The share of truths in {z: q(z | x) ≥ c_α(x)}, the smallest region of probability α under q.

    Formula: z* is inside where h ≤ α, h the randomised rank of −log q(z* | x*) among
    −log q(z_s | x*), as in ``zoo.diagnostics.pit``: with exchangeable draws the coverage is exactly
    α at every S. The central interval of a unit holds its truth where |2u − 1| ≤ α, u its
    randomised rank. A coverage below α is a q that is too sure, on average over data.

    What it cannot see: a q that is right on average over x alone. The prior in the place of q has
    exact coverage, as has any q that leaves out a part of x. Errors that widen q for some x and
    narrow it for others cancel. With global latents the region is that of all latents together.

    Args:
        simulations: from ``simulate_posteriors``.
        levels: α, between 0 and 1.
        alpha: of the intervals: 1 − alpha is their probability.

    Raises:
        ValueError: no level, or one outside (0, 1).

    Reference: Hermans, Delaunoy, Rozet, Wehenkel, Begy and Louppe, "A trust crisis in
    simulation-based inference? Your posterior approximations can be unfaithful" (first named
    "Averting a crisis in simulation-based inference"), 2021.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.diagnostics.simulation import simulate_posteriors
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> found = coverage(simulate_posteriors(model, Guide(model, data, "exact"), data))
        >>> [(level.level, abs(level.error) < 0.05) for level in found.joint]
        [(0.5, True), (0.9, True)]
    """
    levels = tuple(float(level) for level in levels)
    if not levels or not all(0 < level < 1 for level in levels):
        raise ValueError(f"levels are probabilities between 0 and 1, one or more, got {levels}")
    s = simulations
    middle = (2 * unit_pits(s) - 1).abs()  # (n, U), uniform
    joint = worst = curve = density = None
    if s.log_q_truth is not None and s.scored:
        density = randomised_pit(-s.log_q_truth, -s.log_q_draws, s.seed, "pit of density")
    grid = torch.tensor(GRID, dtype=torch.float64, device=middle.device)
    if density is not None:
        joint = tuple(_level(density, level, alpha) for level in levels)
        most = max(joint, key=lambda found: abs(found.error))
        worst = _level(density, most.level, alpha, len(levels))
        curve = (density.unsqueeze(-1) <= grid).double().mean(0)
    central = tuple(tuple(_level(u, level, alpha) for level in levels) for u in middle.unbind(-1))
    unit, most = max(
        ((i, found) for i, of_unit in enumerate(central) for found in of_unit),
        key=lambda pair: abs(pair[1].error),
    )
    times = len(s.names) * len(levels)
    return Coverage(
        names=s.names,
        joint=joint,
        central=central,
        worst=worst,
        worst_central=(s.names[unit], _level(middle[:, unit], most.level, alpha, times)),
        grid=grid,
        curve=curve,
        curves=torch.stack([(middle <= point).double().mean(0) for point in grid]),
        error=(grid * (1 - grid) / s.count).sqrt(),
        count=s.count,
        draws=s.num_draws,
    )


def _level(rank: Tensor, level: float, alpha: float, times: int = 1) -> Level:
    """Of ranks (n,) that are uniform if q is exact; one of ``times`` that hold together."""
    inside, n, tail = int((rank <= level).sum()), len(rank), alpha / times / 2
    low = float(betaincinv(inside, n - inside + 1, tail)) if inside else 0.0
    high = float(betaincinv(inside + 1, n - inside, 1 - tail)) if inside < n else 1.0
    return Level(level, inside / n, low, high, min(1.0, times * _p(inside, n, level)))


@lru_cache(maxsize=4096)
def _p(inside: int, n: int, level: float) -> float:
    return float(binomtest(inside, n, level).pvalue)
