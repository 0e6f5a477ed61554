"""Where each number of the data falls among draws of it: the probability integral transform."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy import stats
from torch import Tensor

LEVEL = 0.05  # of the band


@dataclass(frozen=True)
class PIT:
    """u = (#{x̃ < x} + v (1 + #{x̃ = x}))/(1 + R), v ~ Uniform(0, 1), per datapoint and entry.

    Attributes:
        values: (N, E), u; NaN where the entry is missing.
        names: of the E entries.
        distance: (E,), Kolmogorov–Smirnov distance of the u of an entry from the uniform
            distribution.
        band: (E,), √(log(2/0.05)/(2 N_e)): the true distance is within it of ``distance`` with a
            probability of 95 % or more (Dvoretzky–Kiefer–Wolfowitz).
        p: (E,), of that distance if u were uniform; None where it is not meant to be.
        num_draws: R.
    """

    values: Tensor
    names: tuple[str, ...]
    distance: Tensor
    band: Tensor
    p: Tensor | None
    num_draws: int

    @property
    def p_adjusted(self) -> float | None:
        """min(1, E · min p): Bonferroni over the entries, whatever their dependence."""
        if self.p is None:
            return None
        known = self.p[self.p.isfinite()]  # entries that some row has
        return min(1.0, len(known) * float(known.min())) if len(known) else 1.0

    @property
    def worst(self) -> str:
        """The entry with the largest distance."""
        return self.names[int(self.distance.nan_to_num(-1.0).argmax())]

    @property
    def largest(self) -> tuple[float, float, float]:
        """The largest distance of an entry, and its 95 % interval over all E entries.

        Formula: max_e D_e, within max_e (D_e ∓ √(log(2 E/0.05)/(2 N_e))).
        """
        known = self.distance.isfinite() & self.band.isfinite()
        distance, band = self.distance[known], self.band[known]
        wider = math.sqrt(1 + math.log(max(1, len(band))) / math.log(2 / LEVEL)) * band
        low, high = float((distance - wider).max()), float((distance + wider).max())
        return float(distance.max()), max(0.0, low), min(1.0, high)

    @property
    def pooled(self) -> float:
        """The distance of all u together; entries of a row depend on each other, so it has no p."""
        return float(ks_distance(self.values.reshape(-1, 1))[0])

    @property
    def mean(self) -> float:
        """½ where draws are neither too high nor too low."""
        return float(self.values.nanmean())

    @property
    def spread(self) -> float:
        """12 E(u − ½)²: 1 if uniform, below 1 where data are closer to the middle of the draws."""
        return float(12 * (self.values - 0.5).square().nanmean())

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the values of each row."""
        value, low, high = self.largest
        return {
            "pooled_distance": self.pooled,
            "mean": self.mean,
            "spread": self.spread,
            "worst": self.worst,
            "worst_distance": {"value": value, "low": low, "high": high},
            "p_adjusted": self.p_adjusted,
            "entries": len(self.names),
            "num_draws": self.num_draws,
        }


class Counts:
    """How many draws of each number are below it, and how many equal it.

    Args:
        x: (N, E).
    """

    def __init__(self, x: Tensor):
        self.x, self.draws = x, 0
        self.below = torch.zeros_like(x, dtype=torch.float64)
        self.equal = torch.zeros_like(self.below)

    def add(self, drawn: Tensor, rows: slice = slice(None)) -> None:
        """Takes in draws (S, B, E) of some rows; all rows get the same number in the end."""
        x = self.x[rows]
        self.below[rows] += (drawn < x).sum(0)
        self.equal[rows] += (drawn == x).sum(0)
        self.draws += len(drawn) if rows.start in (None, 0) else 0

    def pit(self, missing: Tensor | None, names: tuple[str, ...], tested: bool) -> PIT:
        """With ties broken at random; ``missing`` (N, E) marks entries that are left out."""
        v = torch.rand(self.x.shape, dtype=torch.float64, device=self.x.device)
        u = (self.below + v * (1 + self.equal)) / (1 + self.draws)
        if missing is not None:
            u = u.masked_fill(missing, torch.nan)
        distance, count = ks_distance(u), (~u.isnan()).sum(0).cpu()
        band = (math.log(2 / LEVEL) / (2 * count.double())).sqrt()
        p = None
        if tested:
            p = torch.as_tensor(stats.kstwo.sf(distance.numpy(), count.numpy()))
        return PIT(u, names, distance, band, p, self.draws)


def ks_distance(u: Tensor) -> Tensor:
    """(E,): max over i of i/n − u_(i) and u_(i) − (i − 1)/n, by column of (N, E), NaN left out."""
    u = u.double().sort(0).values  # NaN come last
    count = (~u.isnan()).sum(0).clamp_min(1)
    place = torch.arange(1, len(u) + 1, dtype=u.dtype, device=u.device).unsqueeze(-1)
    away = torch.maximum(place / count - u, u - (place - 1) / count)
    return away.nan_to_num(-torch.inf).amax(0).clamp_min(0).cpu()
