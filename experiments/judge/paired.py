"""Differences of two sets of figures on the same rows, with both of their errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

import torch

from guides.guide import Guide
from zoo.context import seeded, validation
from zoo.data import Dataset
from zoo.evaluation import Estimate
from zoo.weights import log_weights

PROBE = 100  # draws that the error of a difference is measured with
SEED = 0xD1FF  # of those draws


@dataclass(frozen=True)
class Difference:
    """mean_n (a_n − b_n), in nats per datapoint.

    Attributes:
        mean: the mean over rows.
        se_rows: sd_n(a_n − b_n) / √N, its standard error as an estimate for new data.
        se_mc: its Monte-Carlo standard error on these rows.
        num_rows: N.
    """

    mean: float
    se_rows: float
    se_mc: float
    num_rows: int

    @property
    def se(self) -> float:
        """The larger of the two errors; that over rows holds the Monte-Carlo noise of each row."""
        return max(self.se_rows, self.se_mc)

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def paired(a: Estimate, b: Estimate, se_mc: float | None = None) -> Difference:
    """The difference of two estimates, row by row.

    Formula: mean_n (a_n − b_n); the standard error over rows is the sd of the N differences by
    √N, which is small where a and b rise and fall together.

    Args:
        a, b: figures of the same N rows, in the same order.
        se_mc: the Monte-Carlo error of the difference, where it has been measured on common random
            numbers; by default √(se_a² + se_b²), as if the draws of the two were independent.

    Raises:
        ValueError: figures of different numbers of rows.

    Example:
        >>> a = Estimate(torch.tensor([3.0, 5.0]), torch.tensor([0.6, 0.8]))
        >>> b = Estimate(torch.tensor([2.0, 2.0]), torch.zeros(2))
        >>> paired(a, b)
        Difference(mean=2.0, se_rows=1.0, se_mc=0.5, num_rows=2)
    """
    if a.rows.shape != b.rows.shape:
        raise ValueError(
            f"figures of {len(a.rows)} and of {len(b.rows)} rows cannot be paired; compare runs on "
            "the same data"
        )
    rows = a.rows.double() - b.rows.double()  # (N,)
    count = len(rows)
    se_rows = rows.std().item() / math.sqrt(count) if count > 1 else 0.0
    return Difference(
        mean=rows.mean().item(),
        se_rows=se_rows,
        se_mc=math.hypot(a.se, b.se) if se_mc is None else se_mc,
        num_rows=count,
    )


@torch.no_grad()
def common_error(a: Guide, b: Guide, data: Dataset, num_particles: int) -> float | None:
    """The Monte-Carlo error of ELBO_a − ELBO_b where both are given the same random numbers.

    Formula: √(Σ_n Var_k(h_nk^a − h_nk^b) / K) / N, with log weights h of 100 common draws.

    Args:
        a, b: guides, each for a model of its own or both for one.
        data: N rows.
        num_particles: K of the evaluation that the error is for.

    Returns:
        None with global latents, whose draws all rows share.
    """
    total = 0.0
    device = a.model.device
    for i, batch in enumerate(data.batches(512)):
        sides = []
        for guide in (a, b):
            with seeded(SEED + i, device), validation(False):
                weights = log_weights(guide.model, guide, batch.to(device), PROBE)
            if weights.has_globals or weights.log_q_enum is not None:
                return None
            sides.append(weights.summed[0])  # (K, B)
        total += (sides[0] - sides[1]).var(0).sum().item() / num_particles
    return math.sqrt(total) / len(data)


def same_data(records: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses to compare figures on different data.

    Args:
        records: run -> the record of its data (``Split.record``): source, scaling, binarization,
            split.

    Raises:
        ValueError: records that differ; it names the runs and the settings.

    Example:
        >>> same_data({"a": {"binarize": "static"}, "b": {"binarize": "dynamic"}})
        Traceback (most recent call last):
        ValueError: 'a' and 'b' cannot be compared: binarize is 'static' in one and 'dynamic' ...
    """
    (first, record), *others = records.items()
    for name, other in others:
        for key in sorted({*record, *other}):
            mine, its = record.get(key), other.get(key)
            if mine != its:
                raise ValueError(
                    f"{first!r} and {name!r} cannot be compared: {key} is {mine!r} in one and "
                    f"{its!r} in the other; fit both on the same data"
                )


def spread(means: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Mean and error: that of the one run, or the sd over several.

    Example:
        >>> spread([2.0], [0.1]), spread([1.0, 3.0], [0.1, 0.1])[1] ** 2
        ((2.0, 0.1), 2.0)
    """
    return fmean(means), errors[0] if len(means) == 1 else stdev(means)
