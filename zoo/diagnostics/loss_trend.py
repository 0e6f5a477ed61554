"""Whether a loss still falls: a line through it, with an error that knows of autocorrelation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

LEAST = 8  # losses


@dataclass(frozen=True)
class Trend:
    """The line through the losses of the tail, in nats per datapoint.

    Attributes:
        slope: per 1000 steps; below 0 where the loss still falls.
        se: its standard error, autocorrelation counted.
        df: degrees of freedom of slope/se.
        steps: (first, last) of the losses.
    """

    slope: float
    se: float
    df: float
    steps: tuple[int, int]

    @property
    def change(self) -> tuple[float, float]:
        """Nats over the whole tail, and their standard error."""
        length = (self.steps[1] - self.steps[0]) / 1000
        return self.slope * length, self.se * length

    @property
    def p_value(self) -> float:
        """Of a loss that does not fall any more, against one that does."""
        if self.se == 0:
            return float(self.slope >= 0)
        return float(stats.t.cdf(self.slope / self.se, self.df))

    def __str__(self) -> str:
        verb = "falling" if self.slope < 0 else "rising"
        return f"still {verb} by {abs(self.slope):.2g} ± {self.se:.1g} nats per 1000 steps"


def trend(rows: Sequence[Mapping[str, Any]]) -> Trend | None:
    """Least squares through losses, with the error of residuals that follow an AR(1) process.

    Formula: se = se of independent residuals · √((1 + ρ)/(1 − ρ)), ρ their correlation at lag 1,
    its bias (1 + 3 ρ)/N taken off, between 0 and 0.95.

    Args:
        rows: with ``step`` and ``loss``; those of a warm-up, whose loss is another one, are left
            out where others are there.

    Returns:
        None for fewer than 8 rows.

    Example:
        >>> trend([{"step": 100 * i, "loss": 5 - 0.01 * i} for i in range(20)]).slope
        -0.100
    """
    bounds = [row for row in rows if "loss_is" not in row]
    rows = bounds or list(rows)
    if len(rows) < LEAST:
        return None
    steps, losses = (np.array([row[name] for row in rows], float) for name in ("step", "loss"))
    count, x = len(rows), (steps - steps.mean()) / 1000
    slope = float(x @ losses / (x @ x))
    rest = losses - losses.mean() - slope * x
    power = float(rest @ rest)
    rho = float(rest[1:] @ rest[:-1]) / power if power > 0 else 0.0
    rho = min(max(rho + (1 + 3 * rho) / count, 0.0), 0.95)
    longer = (1 + rho) / (1 - rho)
    se = math.sqrt(power / (count - 2) / float(x @ x) * longer)
    return Trend(slope, se, max(1.0, (count - 2) / longer), (int(steps[0]), int(steps[-1])))
