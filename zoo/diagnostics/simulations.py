"""The record of a sweep of simulations: truths, draws of q, and what p and q say of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Simulations:
    """n times (z*, x*) ~ p, and S draws z_s ~ q(z | x*), with their densities in nats.

    Attributes:
        names: of the U units, such as z[0], or y for a discrete latent that q draws. With global
            latents, those of the global ones.
        truth: (n, U), z*, each in its own space.
        draws: (S, n, U), z_s.
        log_joint_truth: (n,), log p(x*, z*), discrete latents that q does not draw summed out.
            With global latents log p(x*, z*, g*) of all rows together.
        log_joint_draws: (S, n), log p(x*, z_s).
        log_q_truth: (n,), log q(z* | x*); None where q scores its own draws alone, NaN where a
            truth is rounded to the edge of its support.
        log_q_draws: (S, n), log q(z_s | x*); NaN for draws of a Markov chain.
        log_likelihood_truth: (n,), log p(x* | z*), discrete latents that q does not draw summed
            out; with global latents Σ_rows log p(x* | z*, g*).
        log_likelihood_draws: (S, n), log p(x* | z_s).
        rows: of one simulation: 1, or the N of a data set.
        refits: how many times a posterior was fitted, 0 where q was applied as it is.
        local: whether a simulation is one row.
        seed: of all random numbers.
    """

    names: tuple[str, ...]
    truth: Tensor
    draws: Tensor
    log_joint_truth: Tensor
    log_joint_draws: Tensor
    log_q_truth: Tensor | None
    log_q_draws: Tensor
    log_likelihood_truth: Tensor
    log_likelihood_draws: Tensor
    rows: int
    refits: int
    local: bool
    seed: int

    @property
    def count(self) -> int:
        """n."""
        return len(self.truth)

    @property
    def num_draws(self) -> int:
        """S."""
        return len(self.draws)

    @property
    def scored(self) -> bool:
        """Whether log q is known of all truths and draws."""
        if self.log_q_truth is None:
            return False
        return not bool(self.log_q_truth.isnan().any() | self.log_q_draws.isnan().any())

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what was simulated, without the numbers."""
        return {
            "units": list(self.names),
            "simulations": self.count,
            "draws": self.num_draws,
            "rows_each": self.rows,
            "refits": self.refits,
            "of": "rows" if self.local else "data sets",
            "seed": self.seed,
        }
