"""What a pass over the draws gives: bounds of rising K."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.estimate import Estimate


@dataclass(frozen=True)
class Ladder:
    """Importance-weighted bounds of rising K, from the same draws, in nats per datapoint.

    Attributes:
        levels: the numbers of draws k, rising from 1 to ``num_particles``.
        bounds: an unbiased estimate of IWAE_k = E log (1/k) Σ_k p(x, z_k)/q(z_k | x) at each level;
            each is a lower bound on log p(x), the first the ELBO.
        gaps: IWAE_K − IWAE_k at each level, with the error of the difference (the draws are the
            same); the last is 0.
        num_outer: draws of the global latents, 1 where there are none.
        predictive: see ``importance_ladder``.
        seed: of the draws.
        run: how the draws were made, ``way``, and ``why``.
    """

    levels: tuple[int, ...]
    bounds: tuple[Estimate, ...]
    gaps: tuple[Estimate, ...]
    num_outer: int
    predictive: bool
    seed: int
    run: Mapping[str, str]

    @property
    def num_particles(self) -> int:
        """K."""
        return self.levels[-1]

    @property
    def elbo(self) -> Estimate:
        """The evidence lower bound."""
        return self.bounds[0]

    @property
    def iwae(self) -> Estimate:
        """IWAE_K; −IWAE_K is the usual estimate of the NLL, from above."""
        return self.bounds[-1]

    @property
    def kl(self) -> Estimate:
        """IWAE_K − ELBO ≤ KL(q ‖ p(z | x)): a lower bound, up to its Monte-Carlo error."""
        return self.gaps[0]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "levels": list(self.levels),
            "bounds": [bound.as_dict() for bound in self.bounds],
            "below_top": [gap.as_dict() for gap in self.gaps],
            "num_outer": self.num_outer,
            "predictive": self.predictive,
            "seed": self.seed,
            "run": dict(self.run),
        }
