"""What a sweep over one setting found: likelihoods of the same rows, AIC and BIC."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from experiments.judge.paired import Difference, paired, same_data
from experiments.judge.restarts import apart
from experiments.output import flat
from experiments.runs import Outcome
from zoo.evaluation import Estimate, Evaluation
from zoo.sources import Split


@dataclass(frozen=True)
class Candidate:
    """One value of the setting that is swept, and its runs.

    Attributes:
        value: of the setting.
        outcomes: restarts, one a seed.
    """

    value: Any
    outcomes: Sequence[Outcome]

    @cached_property
    def best(self) -> Outcome:
        """The restart of highest training likelihood: test rows have no say in it."""
        return max(self.outcomes, key=lambda o: estimate(o.train).mean)

    @property
    def degrees_of_freedom(self) -> int | None:
        """Free parameters net of rotation, where log p(x) is exact and the model counts them."""
        if self.best.train.exact is None:
            return None
        return getattr(self.best.model, "degrees_of_freedom", None)

    def criterion(self, penalty: float) -> float | None:
        """−2 Σ_n log p(x_n) + penalty · k on the training rows, in nats doubled as is usual."""
        k, exact = self.degrees_of_freedom, self.best.train.exact
        if k is None or exact is None:
            return None
        return -2 * exact.rows.double().sum().item() + penalty * k

    @property
    def aic(self) -> float | None:
        """Akaike's information criterion: −2 log p(X) + 2 k."""
        return self.criterion(2.0)

    @property
    def bic(self) -> float | None:
        """Schwarz's Bayesian information criterion: −2 log p(X) + k log N."""
        return self.criterion(math.log(len(self.best.split.train)))


@dataclass(frozen=True)
class Selection:
    """Values of one setting of a model, judged on the same rows.

    Attributes:
        model: its word.
        setting: what was swept, ``model.latent_dim``.
        split: the data.
        candidates: in the order of the sweep.
        failed: run -> why there is none; a value without any run is no candidate.
    """

    model: str
    setting: str
    split: Split
    candidates: Sequence[Candidate]
    failed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        same_data({str(c.value): o.split.record for c in self.candidates for o in c.outcomes})

    @property
    def side(self) -> str:
        """The rows that values are judged on: test where there are any."""
        return "train" if self.split.test is None else "test"

    @property
    def figure(self) -> str:
        """What they are judged by: exact log p(x), else the importance-weighted bound."""
        exact = all(c.best.train.exact is not None for c in self.candidates)
        return "exact" if exact else "iwae"

    def likelihood(self, candidate: Candidate, side: str) -> Estimate:
        """log p(x), or its bound, of every row."""
        figures = candidate.best.train if side == "train" else candidate.best.test
        assert figures is not None
        found = getattr(figures, self.figure)
        if found is None:
            raise ValueError("a point mass has no bound on log p(x); use a family with a density")
        return found

    @cached_property
    def winner(self) -> Candidate:
        """The value of highest held-out likelihood."""
        return max(self.candidates, key=lambda c: self.likelihood(c, self.side).mean)

    def difference(self, candidate: Candidate) -> Difference:
        """Best minus this one, row by row, on the rows that they are judged on."""
        mine = self.likelihood(candidate, self.side)
        return paired(self.likelihood(self.winner, self.side), mine)

    def close(self, candidate: Candidate) -> bool:
        """Whether it is within one standard error of the best."""
        difference = self.difference(candidate)
        return difference.mean <= difference.se

    def lowest(self, name: str) -> Candidate | None:
        """The value with the lowest aic or bic."""
        known = [c for c in self.candidates if getattr(c, name) is not None]
        return min(known, key=lambda c: getattr(c, name)) if known else None

    def as_dict(self) -> dict[str, Any]:
        """What ``select.json`` holds."""
        candidates = []
        for c in self.candidates:
            rivals = [o.model for o in (c.best, *(o for o in c.outcomes if o is not c.best))]
            candidates.append(
                {
                    "value": c.value,
                    "degrees_of_freedom": c.degrees_of_freedom,
                    "aic": c.aic,
                    "bic": c.bic,
                    "train": self.likelihood(c, "train").as_dict(),
                    self.side: self.likelihood(c, self.side).as_dict(),
                    "best_minus_this": self.difference(c).as_dict(),
                    "is_best": c is self.winner,
                    "within_one_se": self.close(c),
                    "restarts_apart": apart(rivals),
                    "restarts": [
                        {"seed": o.spec.seed, "train": estimate(o.train).mean} for o in c.outcomes
                    ],
                    "run": c.best.summary,
                    "config": asdict(c.best.spec),
                }
            )
        return {
            **({"failed": dict(self.failed)} if self.failed else {}),
            "model": self.model,
            "setting": self.setting,
            "figure": self.figure,
            "rows": self.side,
            "data": self.split.record,
            "best": self.winner.value,
            "candidates": candidates,
        }

    def as_rows(self) -> list[dict[str, Any]]:
        """What ``select.csv`` holds: a line a value."""
        drop = ("run", "config", "restarts")
        rows = [
            flat({k: v for k, v in row.items() if k not in drop})
            for row in self.as_dict()["candidates"]
        ]
        return rows + [{"value": name, "failed": why} for name, why in self.failed.items()]


def estimate(figures: Evaluation) -> Estimate:
    """log p(x) where it is known, else its tightest bound."""
    found = figures.exact or figures.iwae or figures.log_joint
    assert found is not None
    return found
