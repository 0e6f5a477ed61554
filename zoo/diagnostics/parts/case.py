"""The pair that a card is about, and what every part of the card shares."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data import Dataset, as_dataset
from zoo.diagnostics.card import Check, unchecked
from zoo.estimate import Estimate
from zoo.model import Model, as_model
from zoo.sites import Latents, given_labels

SPLITTER = 2**32  # seeds of NumPy


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
            ValueError: a model without latents.
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
        if count is not None and count < len(data):
            order = np.random.RandomState(settings.seed % SPLITTER).permutation(len(data))[:count]
            few = data.only(torch.from_numpy(np.sort(order)))
        return cls(model, guide, data, few, latents, settings)

    @property
    def local(self) -> bool:
        """Whether rows have latents of their own."""
        return bool(self.latents.local.dim or self.latents.discrete)

    @property
    def globals(self) -> bool:
        """Whether any latent is shared by all rows."""
        return bool(self.latents.global_.dim)

    @property
    def whole(self) -> bool:
        """Whether all rows are looked at."""
        return len(self.few) == len(self.data)

    def se(self, estimate: Estimate) -> float:
        """The standard error for all rows: Monte Carlo, and that of the choice where it is one."""
        left = 0.0 if self.whole else math.sqrt(1 - len(self.few) / len(self.data))
        return math.hypot(estimate.se, left * estimate.se_data)

    def attempt(self, row: str, name: str, part: Callable[[], list[Check]]) -> list[Check]:
        """What a part finds, or why it was not checked: a ValueError that says so."""
        try:
            return part()
        except ValueError as error:
            return [unchecked(row, name, " ".join(str(error).split()))]


def worst_unit(values: Tensor, errors: Tensor, edge: float) -> tuple[int, float]:
    """The place of the largest of several numbers, and Bonferroni's p that all are below an edge.

    Args:
        values, errors: (U,), estimates and their standard errors.
        edge: of the green.
    """
    p = torch.special.ndtr((edge - values) / errors.clamp_min(1e-12))
    return int(values.argmax()), min(1.0, len(values) * float(p.min()))
