"""The pair that a card is about, and what every part of the card shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from scipy.stats import t as student
from torch import Tensor

from zoo._arrays import some_rows
from zoo.data import Dataset, as_dataset
from zoo.diagnostics.card import Z95, Check, unchecked
from zoo.estimate import Estimate
from zoo.model import Model, as_model
from zoo.sites import Latents, given_labels

LEAST = 10  # rows that stand for others
MOST = 2**26  # log weights that are kept


@dataclass(frozen=True)
class Settings:
    """How much a card looks at. See ``diagnose``."""

    simulate: bool = False
    thorough: bool = False
    num_rows: int | None = 500
    num_draws: int = 4000
    num_global_draws: int = 25_000
    num_simulations: int | None = None
    infer_steps: int = 2000
    search_steps: int | None = None
    seed: int = 0
    progress: bool | None = False


@dataclass
class Case:
    """A model, a guide and rows.

    Attributes:
        model, guide: the pair.
        data: all rows, without the labels that new rows would lack.
        few: the rows that get many draws each, still as rows of ``data``.
        latents: what is hidden.
        settings: how much to look at.
        results: what the parts have found so far, by name.
        notes: what a reader should know besides.
    """

    model: Model
    guide: Any
    data: Dataset
    few: Dataset
    latents: Latents
    settings: Settings
    results: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, model: Any, guide: Any, data: Any, settings: Settings) -> Case:
        """The case, with the rows chosen by the seed.

        Raises:
            ValueError: a model without latents; too few rows, or more draws than there is room for.
        """
        model, data = as_model(model), as_dataset(data)
        data = data.without(*given_labels(model, data)).to(model.device)
        head = next(data.batches(min(len(data), 97)))
        model.resolve(head)
        latents = Latents.find(model, head)
        if not latents.names:
            raise ValueError(
                f"{type(model).__name__} has no latents for these data, so there is no posterior"
            )
        few, count = data, settings.num_rows
        if count is not None and count < min(LEAST, len(data)):
            raise ValueError(f"{count} rows say too little of {len(data)}: num_rows from {LEAST}")
        kept = min(len(data), count or len(data)) * settings.num_draws
        if kept > MOST:
            raise ValueError(
                f"{kept} log weights have no room ({MOST} have): take fewer rows (num_rows) or "
                "draws (num_draws)"
            )
        if count is not None and count < len(data):
            few = data.only(some_rows(len(data), count, settings.seed))
        return cls(model, guide, data, few, latents, settings)

    @property
    def local(self) -> bool:
        """Whether rows have latents of their own."""
        return bool(self.latents.vectors.dim or self.latents.discrete)

    @property
    def binary(self) -> str:
        """Why what moves continuous latents is not checked; empty where rows have some."""
        names = " and ".join(self.latents.bits.names)
        return f"the latents are binary ({names}); it is of continuous ones" if names else ""

    @property
    def globals(self) -> bool:
        """Whether any latent is shared by all rows."""
        return bool(self.latents.global_.dim)

    @property
    def whole(self) -> bool:
        """Whether all rows are looked at."""
        return len(self.few) == len(self.data)

    @property
    def left(self) -> float:
        """√(1 − n/N), what is left of the error of having chosen n rows; 0 where all are there."""
        return 0.0 if self.whole else math.sqrt(1 - len(self.few) / len(self.data))

    def se(self, estimate: Estimate) -> float:
        """The standard error for all rows: Monte Carlo, and that of the choice where it is one.

        The latter is widened by Student's t for few rows, so that 1.96 of it are 95 %.
        """
        count = len(estimate.rows)
        if not self.left:
            return estimate.se
        wide = float(student.ppf(0.975, count - 1)) / Z95 if count > 1 else math.inf
        return math.hypot(estimate.se, self.left * wide * estimate.se_data)

    def rms_se(self, rows: Tensor, rms: Tensor, error: Tensor) -> Tensor:
        """(U,): of the root mean square of rows (n, U), the choice of rows counted.

        Formula: √(error² + left² · Var_n(row²)/n / (4 rms²)), by the delta method.
        """
        if not self.left or len(rows) < LEAST:
            return error if not self.left else torch.full_like(error, torch.inf)
        chosen = rows.square().std(0) / math.sqrt(len(rows)) / (2 * rms).clamp_min(1e-12)
        chosen = torch.where(rms > 0, chosen, 0.0)
        return torch.hypot(error, self.left * chosen)

    def attempt(self, row: str, name: str, part: Callable[[], list[Check]]) -> list[Check]:
        """What a part finds, or why it was not checked: a ValueError that says so."""
        try:
            return part()
        except ValueError as error:
            return [unchecked(row, name, " ".join(str(error).split()))]


class Worst(NamedTuple):
    """The unit that is furthest beyond an edge, and an interval of the largest of all.

    Attributes:
        place: of the unit, the one with the smallest p.
        value, se: of it.
        interval: of the largest number of all units, 95 % together (Bonferroni).
        p: that all are below the edge, by Bonferroni.
    """

    place: int
    value: float
    se: float
    interval: tuple[float, float]
    p: float | None


def worst_unit(values: Tensor, errors: Tensor, edge: float) -> Worst:
    """Which of several numbers is worst, and how sure that is.

    Args:
        values, errors: (U,), estimates and their standard errors.
        edge: of the green.
    """
    known = values.isfinite() & errors.isfinite()
    if not bool(known.any()):
        return Worst(0, math.nan, math.nan, (math.nan, math.nan), None)
    values = torch.where(known, values.double(), -torch.inf)
    errors = torch.where(known, errors.double(), 0.0)
    z = (values - edge) / errors.clamp_min(1e-12)
    place = int(z.argmax()) if bool((z > 0).any()) else int(values.argmax())
    count = int(known.sum())
    p = min(1.0, count * float(torch.special.ndtr(-z.max())))
    wide = NormalDist().inv_cdf(1 - 0.025 / count) * errors
    interval = max(0.0, float((values - wide).max())), float((values + wide).max())
    return Worst(place, float(values[place]), float(errors[place]), interval, p)
