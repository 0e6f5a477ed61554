"""A mean over datapoints and how far to trust it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean over datapoints in nats, and the two errors that it has.

    Attributes:
        rows: (N,), the value of each datapoint.
        error: (N,), the Monte-Carlo standard error of each.
        shared: the Monte-Carlo standard error that all rows share (draws of global latents).
    """

    rows: Tensor
    error: Tensor
    shared: float = 0.0

    @property
    def mean(self) -> float:
        """Nats per datapoint."""
        return self.rows.mean().item()

    @property
    def se(self) -> float:
        """Monte-Carlo standard error of the mean on these data."""
        own = self.error.square().sum().sqrt().item() / len(self.rows)
        return math.hypot(own, self.shared)

    @property
    def se_data(self) -> float:
        """Standard error of the mean as an estimate for new data from the same source."""
        return self.rows.std().item() / math.sqrt(len(self.rows)) if len(self.rows) > 1 else 0.0

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"mean": self.mean, "se": self.se, "se_data": self.se_data}
