"""Statistics of a whole data set that replicated data sets are compared by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Statistic = Callable[[Tensor], Any]


@dataclass(frozen=True)
class StatisticCheck:
    """T(x) against T(x̃) of R replicated data sets.

    Attributes:
        name: of T.
        observed: T(x).
        mean, sd: of T(x̃).
        p: the share of T(x̃) ≥ T(x), an estimate of the Bayesian p-value.
        se: its binomial standard error, √(p (1 − p)/R).
        p_two_sided: min(1, 2 min(p₊, p₋)) with p± = (1 + #{T(x̃) ≥ or ≤ T(x)})/(1 + R), which is at
            most α with a probability of at most α where the model is right.
        num_draws: R.
    """

    name: str
    observed: float
    mean: float
    sd: float
    p: float
    se: float
    p_two_sided: float
    num_draws: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(vars(self))


def default_statistics(x: Tensor) -> dict[str, Statistic]:
    """Functions (N, *event) -> () that suit the data; NaN marks missing entries.

    mean, sd, min and max of all entries, the share of zeros where there are any, and the standard
    deviation and skewness of the rows' sums. Of data that are 0 or 1 only the mean, which says all
    about single entries, and those of the rows' sums.

    Args:
        x: (N, *event), the observed data.
    """
    present = x[~x.isnan()]
    binary = bool(((present == 0) | (present == 1)).all())
    chosen: dict[str, Statistic] = {"mean": torch.nanmean}
    if not binary:
        chosen |= {"sd": _sd, "min": _min, "max": _max}
        if bool((present == 0).any()):
            chosen["zeros"] = _zeros
    if x[0].numel() > 1:
        chosen["row_sum_sd"] = lambda v: _sums(v).std()
    if not (binary and x[0].numel() == 1):
        chosen["row_sum_skewness"] = lambda v: _skewness(_sums(v))
    return chosen


def apply(statistics: Mapping[str, Statistic], x: Tensor, vectorized: bool) -> dict[str, Tensor]:
    """name -> (R,), T of each of R data sets x (R, N, *event), in float64.

    Raises:
        ValueError: a statistic that gives no single finite number, by name.
    """
    found = {}
    for name, statistic in statistics.items():
        if vectorized:
            values = torch.vmap(statistic)(x)
        else:
            values = torch.stack([_number(name, statistic(one)) for one in x])
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"the statistic {name!r} is not finite on some data; it gets (N, *event) with NaN "
                "at missing entries, so use such as torch.nanmean"
            )
        found[name] = values.double().to(x.device)
    return found


def compare(name: str, observed: Tensor, replicated: Tensor) -> StatisticCheck:
    """One statistic (1,) of the data against (R,) of replicates."""
    count = len(replicated)
    above, below = (replicated >= observed).sum(), (replicated <= observed).sum()
    p = float(above) / count
    least = (1 + float(torch.minimum(above, below))) / (1 + count)
    return StatisticCheck(
        name=name,
        observed=float(observed),
        mean=float(replicated.mean()),
        sd=float(replicated.std()),
        p=p,
        se=(p * (1 - p) / count) ** 0.5,
        p_two_sided=min(1.0, 2 * least),
        num_draws=count,
    )


def _number(name: str, value: Any) -> Tensor:
    value = torch.as_tensor(value)
    if value.numel() != 1:
        raise ValueError(
            f"the statistic {name!r} gives values of shape {tuple(value.shape)}; a statistic takes "
            "one data set (N, *event) to one number"
        )
    return value.reshape(()).double()


def _sums(x: Tensor) -> Tensor:
    """(N,), of the entries of each row that are there."""
    return x.reshape(len(x), -1).nansum(-1)


def _sd(x: Tensor) -> Tensor:
    return (x - x.nanmean()).square().nanmean().sqrt()


def _min(x: Tensor) -> Tensor:
    return torch.where(x.isnan(), torch.inf, x).min()


def _max(x: Tensor) -> Tensor:
    return torch.where(x.isnan(), -torch.inf, x).max()


def _zeros(x: Tensor) -> Tensor:
    return (x == 0).sum() / (~x.isnan()).sum()


def _skewness(sums: Tensor) -> Tensor:
    """0 where all sums are equal."""
    away = sums - sums.mean()
    scale = away.square().mean().sqrt().clamp_min(torch.finfo(sums.dtype).tiny)
    return (away / scale).pow(3).mean()
