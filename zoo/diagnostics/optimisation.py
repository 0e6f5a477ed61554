"""Whether a fit has ended: its iterates, and the trend of its loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from zoo.diagnostics.loss_trend import Trend, trend
from zoo.diagnostics.mixing import bulk_ess
from zoo.iterates import Iterates

LEAST = 16  # snapshots in the tail


@dataclass(frozen=True)
class Optimisation:
    """Split-R̂ of M iterates over the tail of a fit, and the trend of the loss there.

    Attributes:
        names: of the M entries that move.
        drift: (M,), |mean of the second half − mean of the first| in sds within the halves.
        drift_se: (M,), its standard error.
        df: (M,), degrees of freedom of the error.
        ess: (M,), independent iterates of the tail, at most T.
        mean, sd: (M,), of the iterates of the tail.
        num_snapshots: T, of the tail.
        steps: (first, last) of the tail.
        still: entries that do not move there, which are left out.
        falling_rate: whether the learning rate falls to less than half over the tail.
        trend: of the loss; None where the tail has fewer than 8 losses.
    """

    names: tuple[str, ...]
    drift: Tensor
    drift_se: Tensor
    df: Tensor
    ess: Tensor
    mean: Tensor
    sd: Tensor
    num_snapshots: int
    steps: tuple[int, int]
    still: tuple[str, ...]
    falling_rate: bool
    trend: Trend | None

    @property
    def rhat(self) -> Tensor:
        """(M,): √((n−1)/n + drift²/2) with n = T/2."""
        return self._rhat(self.drift)

    @property
    def worst(self) -> tuple[str, float]:
        """The entry with the largest R̂; ("", 1) where nothing moves."""
        if not self.names:
            return "", 1.0
        place = int(self.drift.argmax())
        return self.names[place], float(self.rhat[place])

    @property
    def interval(self) -> tuple[float, float]:
        """Of the largest R̂ that an iterate has, at least 95 %: the largest of M intervals' ends.

        Each is at 1 − 5 %/M, so that all hold together (Bonferroni).
        """
        if not self.names:
            return 1.0, 1.0
        wide = torch.from_numpy(stats.t.isf(0.025 / len(self.names), self.df.numpy()))
        wide = wide * self.drift_se
        low, high = (self.drift - wide).clamp_min(0), self.drift + wide
        return float(self._rhat(low).max()), float(self._rhat(high).max())

    def p_value(self, limit: float = 1.01) -> float:
        """Of "no iterate has R̂ above ``limit``", by Bonferroni over the M entries."""
        if not self.names:
            return 1.0
        n = self.num_snapshots // 2
        edge = math.sqrt(2 * max(0.0, limit**2 - (n - 1) / n))
        d, se, df = (x.numpy() for x in (self.drift, self.drift_se, self.df))
        p = stats.t.sf((d - edge) / se, df) + stats.t.sf((d + edge) / se, df)
        return float(min(1.0, len(p) * p.min()))

    def share(self, limit: float = 1.1) -> float:
        """Of the entries, with R̂ above a limit."""
        return float((self.rhat > limit).double().mean()) if self.names else 0.0

    @property
    def relative_mcse(self) -> Tensor:
        """(M,): the standard error of the tail's mean in sds of the iterates, 1/√ESS."""
        return self.ess.rsqrt()

    def only(self, start: str) -> Optimisation:
        """Of the entries whose names begin so, such as ``model.``, alone.

        Weights of a network may wander for ever where its outputs do not, as behind units that are
        off; parameters of the model and tables of κ have a meaning of their own.
        """
        on = torch.tensor([name.startswith(start) for name in self.names], dtype=torch.bool)
        columns = ("drift", "drift_se", "df", "ess", "mean", "sd")
        return replace(
            self,
            **{column: getattr(self, column)[on] for column in columns},
            names=tuple(name for name in self.names if name.startswith(start)),
            still=tuple(name for name in self.still if name.startswith(start)),
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        name, value = self.worst
        return {
            "worst_rhat": value,
            "worst": name,
            "interval": list(self.interval),
            "share_above_1.1": self.share(),
            "relative_mcse": float(self.relative_mcse.max()) if self.names else 0.0,
            "entries": len(self.names),
            "still": list(self.still),
            "num_snapshots": self.num_snapshots,
            "steps": list(self.steps),
            "falling_rate": self.falling_rate,
            "slope": self.trend and self.trend.slope,
            "slope_se": self.trend and self.trend.se,
        }

    def _rhat(self, drift: Tensor) -> Tensor:
        n = self.num_snapshots // 2
        return ((n - 1) / n + drift.square() / 2).sqrt()


def optimisation(
    iterates: Iterates | None, metrics: Sequence[Mapping[str, Any]], *, tail: float = 0.5
) -> Optimisation:
    """R̂² = (n−1)/n + B/(n W) of each iterate, the tail of the fit split in two halves of n.

    W is the mean variance within the halves, B/n = (m₁ − m₂)²/2 that of their means m. Stationary
    iterates have R̂ near 1, by as much above as autocorrelation moves the means: the interval has
    the error of m₁ − m₂ if the halves, less a line through each, are AR(1) processes. (Of 3000 such
    series of 500 iterates without a drift 5 to 6 % have p < 0.05 up to ρ = 0.9, 10 % at 0.97.)

    R̂ knows no nats: an entry may drift that the bound does not feel, so look at the trend of the
    loss too. Where the learning rate falls, iterates end by standing still, and the drift before
    that is no alarm: ``falling_rate`` says so.

    Args:
        iterates: of a fit (``FitResult.iterates``, ``Run.iterates``); None of an older run.
        metrics: its rows, with ``step``, ``loss`` and ``lr``.
        tail: the last share of the steps that is looked at.

    Raises:
        ValueError: a share outside (0, 1]; fewer than 16 snapshots in the tail.

    Reference: Dhaka, Catalina, Andersen, Magnusson, Huggins and Vehtari, "Robust, Accurate
    Stochastic Optimization for Variational Inference", 2020.

    Example:
        >>> values = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
        >>> found = optimisation(Iterates(values, torch.arange(1, 401), ("model.mean",)), [])
        >>> found.worst[1] < 1.01, found.steps
        (True, (201, 400))
    """
    if not 0 < tail <= 1:
        raise ValueError(f"tail is the share of the steps to look at, in (0, 1], got {tail}")
    rows = [row for row in metrics if "loss" in row]
    last = max([row["step"] for row in rows], default=0)
    last = last if iterates is None else max(last, int(iterates.steps[-1]))
    first = last * (1 - tail)
    rows = [row for row in rows if row["step"] > first]
    values, names = torch.zeros(0, 0, dtype=torch.float64), ()
    if iterates is not None:
        values, names = iterates.values[iterates.steps > first].double(), iterates.names
        if len(values) < LEAST:
            raise ValueError(
                f"the tail has {len(values)} snapshots, and R̂ needs {LEAST}: train for more steps, "
                "or look at a larger tail"
            )
    size = values.abs().amax(0) if len(values) else torch.zeros(0)
    moves = (values.isfinite().all(0) & (values.std(0) > 1e-12 * size)) if len(values) else size > 0
    return Optimisation(
        **_moved(values[:, moves]),
        names=tuple(name for name, on in zip(names, moves, strict=True) if on),
        num_snapshots=len(values),
        steps=(math.floor(first) + 1, last),
        still=tuple(name for name, on in zip(names, moves, strict=True) if not on),
        falling_rate=bool(rows) and rows[-1].get("lr", 1.0) < 0.5 * rows[0].get("lr", 1.0),
        trend=trend(rows),
    )


def _moved(values: Tensor) -> dict[str, Tensor]:
    """What is known of iterates (T, M) that move."""
    if not values.numel():
        empty = torch.zeros(0, dtype=torch.float64)
        return dict.fromkeys(("drift", "drift_se", "df", "ess", "mean", "sd"), empty)
    n = len(values) // 2
    halves = torch.stack([values[:n], values[len(values) - n :]])  # (2, n, M)
    within = halves.var(1).mean(0).sqrt().clamp_min(1e-300)
    x = torch.linspace(-1, 1, n, dtype=values.dtype)
    rest = halves - halves.mean(1, keepdim=True)
    rest = rest - x[:, None] * (torch.einsum("t,htm->hm", x, rest) / (x @ x)).unsqueeze(1)
    power = rest.square().sum((0, 1)).clamp_min(1e-300)
    rho = (rest[:, 1:] * rest[:, :-1]).sum((0, 1)) / power
    rho = (rho + (2 + 4 * rho) / n).clamp(0, 0.995)
    worth = (n * (1 - rho) / (1 + rho)).clamp_min(1)  # independent iterates of a half
    return {
        "drift": (halves[1].mean(0) - halves[0].mean(0)).abs() / within,
        "drift_se": (power / (n - 2) / worth).sqrt() / within,
        "df": (2 * worth - 4).clamp_min(1),
        "ess": bulk_ess(values[None]).clamp(1, len(values)).nan_to_num(1.0),
        "mean": values.mean(0),
        "sd": values.std(0),
    }
