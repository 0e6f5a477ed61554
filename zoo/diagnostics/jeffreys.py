"""The symmetric divergence between q and p(z | x), averaged over simulations, in nats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from scipy.stats import t as student
from torch import Tensor

from zoo.diagnostics.simulations import Simulations


@dataclass(frozen=True)
class Jeffreys:
    """E_x [KL(q(z | x) ‖ p(z | x)) + KL(p(z | x) ‖ q(z | x))], in nats per datapoint.

    Attributes:
        values: (n,), an unbiased term from each simulation, over the rows of a simulation; one
            alone may be negative.
        mean: of them; infinite where q gives some truth no density.
        se: its standard error, of the spread over simulations; NaN where the mean is infinite.
        median: of them. Far below the mean: a few simulations carry it, and its error is not to be
            trusted.
        largest_share: what the largest |value| is of the sum of all, 1/n where all are alike.
        threshold: in nats per datapoint.
        p: of a mean of at most ``threshold``, by the t test.
        rows: of one simulation: with global latents the values times ``rows`` are divergences.
        draws: S.
    """

    values: Tensor
    mean: float
    se: float
    median: float
    largest_share: float
    threshold: float
    p: float
    rows: int
    draws: int

    @property
    def count(self) -> int:
        """n."""
        return len(self.values)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        finite = math.isfinite(self.mean)
        return {
            "mean": self.mean if finite else None,
            "se": self.se if finite else None,
            "infinite": not finite,
            "median": self.median,
            "largest_share": self.largest_share if finite else None,
            "threshold": self.threshold,
            "p": self.p,
            "rows_each": self.rows,
            "simulations": self.count,
            "draws": self.draws,
        }


def jeffreys(simulations: Simulations, threshold: float = 0.1) -> Jeffreys | None:
    """mean over n of [log p(x*, z*) − log q(z* | x*)] − mean_s [log p(x*, z_s) − log q(z_s | x*)].

    log p(x*) cancels: the first bracket has the mean log p(x) + KL(p ‖ q), the second
    log p(x) − KL(q ‖ p). Zero if and only if q(z | x) is exact for every x that the model draws; so
    it sees what ranks do not, the prior in the place of q too. It sizes the fault and does not say
    where it is. With global latents it is of all latents of a data set together, over its rows.

    What it cannot see: little. KL(p ‖ q) has heavy tails where q is too narrow or misses a mode:
    the truths that q hardly covers carry the mean, and where none was drawn the mean is too small
    and so is its error. Take a small value with the median, ``largest_share`` and ``coverage``.

    Args:
        simulations: from ``simulate_posteriors``.
        threshold: in nats per datapoint, of the test.

    Returns:
        None where log q of the truths or of the draws is not known.

    Reference: Domke, "An easy to interpret diagnostic for approximate inference: symmetric
    divergence over simulations", 2021.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.diagnostics.simulation import simulate_posteriors
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> found = jeffreys(simulate_posteriors(model, Guide(model, data, "exact"), data))
        >>> abs(found.mean) < 1e-4
        True
    """
    s = simulations
    if s.log_q_truth is None or not s.scored:
        return None
    of_truth = s.log_joint_truth - s.log_q_truth
    values = (of_truth - (s.log_joint_draws - s.log_q_draws).mean(0)) / s.rows
    mean, median = values.mean().item(), values.median().item()
    if not math.isfinite(mean):
        return Jeffreys(
            values, math.inf, math.nan, median, 1.0, threshold, 0.0, s.rows, s.num_draws
        )
    se, size = values.std().item() / math.sqrt(s.count), values.abs()
    above = mean - threshold
    p = float(student.sf(above / se, s.count - 1)) if se > 0 else float(above <= 0)
    total = size.sum().item()
    share = size.max().item() / total if total else 1 / s.count
    return Jeffreys(values, mean, se, median, share, threshold, p, s.rows, s.num_draws)
