"""What a comparison found: its guides in order, and their differences on the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

from experiments.judge.grid import Cell
from experiments.judge.paired import Difference, common_error, paired, same_data, spread
from experiments.judge.restarts import apart
from experiments.output import flat
from experiments.runs import Outcome
from guides.guide import Guide
from zoo.evaluation import Evaluation
from zoo.sources import Split

SIDES = ("train", "test")


@dataclass(frozen=True)
class Comparison:
    """Guides for one model, on the same data and the same random numbers.

    Args:
        model: its word.
        mode: ``fixed`` (one frozen model for all) or ``joint`` (each its own).
        source: where the fixed model comes from; None in joint mode.
        split: the rows that were judged.
        outcomes: guide -> its runs, one a seed (one in all where seeds make no difference).
        failed: run -> why there is none; a guide without any run is in no other place.

    Raises:
        ValueError: runs on data of different records.
    """

    model: str
    mode: str
    source: str | None
    split: Split
    outcomes: Mapping[Cell, Sequence[Outcome]]
    failed: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        same_data({c.label: o.split.record for c, runs in self.outcomes.items() for o in runs})

    @property
    def side(self) -> str:
        """The rows that guides are ranked on: test where there are any."""
        return "train" if self.split.test is None else "test"

    @cached_property
    def ranked(self) -> list[Cell]:
        """The guides by falling ELBO; point masses, which have none, last.

        On a fixed model none is above the exact one, whose bound is log p(x).
        """

        def height(cell: Cell) -> float:
            elbo = self.figure(cell, self.side, "elbo")
            if cell.exact and self.mode == "fixed":
                return math.inf
            return -math.inf if elbo is None else elbo[0]

        return sorted(self.outcomes, key=height, reverse=True)

    @cached_property
    def reference(self) -> Cell:
        """What the others are subtracted from: exact, else the best."""
        return next((cell for cell in self.outcomes if cell.exact), self.ranked[0])

    @property
    def known(self) -> bool:
        """Whether gaps are to log p(x) itself."""
        return self.gaps and all(o.train.exact is not None for o in self._runs)

    @property
    def gaps(self) -> bool:
        """Whether there are gaps to show: the guides are of something, and have densities."""
        return self.reference.local and all(o.train.iwae is not None for o in self._runs)

    @property
    def _runs(self) -> list[Outcome]:
        return [outcome for runs in self.outcomes.values() for outcome in runs]

    def _gap(self, outcome: Outcome, side: str) -> Difference | None:
        """log p(x) − ELBO, or a lower bound on it: the best IWAE of this model − ELBO."""
        figures = evaluation(outcome, side)
        if figures is None or figures.elbo is None or figures.iwae is None:
            return None
        if figures.exact is not None:
            return paired(figures.exact, figures.elbo)
        tightest = figures.iwae
        if self.mode == "fixed":
            every = [e.iwae for o in self._runs if (e := evaluation(o, side)) and e.iwae]
            tightest = max(every, key=lambda estimate: estimate.mean)
        return paired(tightest, figures.elbo)

    @property
    def seeds(self) -> int:
        """The largest number of runs that a guide has."""
        return max(map(len, self.outcomes.values()))

    def figure(self, cell: Cell, side: str, name: str) -> tuple[float, float] | None:
        """Mean of elbo, iwae or exact, and its Monte-Carlo error; over several seeds their sd."""
        found = [getattr(e, name) for o in self.outcomes[cell] if (e := evaluation(o, side))]
        if not found or any(f is None for f in found):
            return None
        return spread([f.mean for f in found], [f.se for f in found])

    def gap(self, cell: Cell, side: str) -> tuple[float, float] | None:
        """log p(x) − ELBO = KL(q ‖ p(z|x)) under the guide's own model, and its error.

        Where log p(x) is not known, a lower bound on that: the tightest IWAE of the model − ELBO.
        """
        found = [self._gap(o, side) for o in self.outcomes[cell]]
        gaps = [f for f in found if f is not None]
        if len(gaps) < len(found) or not gaps:
            return None
        return spread([g.mean for g in gaps], [g.se for g in gaps])

    @cached_property
    def differences(self) -> list[dict[str, Any]]:
        """Reference minus guide, seed by seed, of elbo and iwae on train and test rows."""
        result = []
        base = {outcome.spec.seed: outcome for outcome in self.outcomes[self.reference]}
        once = self.mode == "fixed" and self.reference.exact  # one run for all seeds
        for cell in self.ranked:
            if cell == self.reference:
                continue
            for outcome in self.outcomes[cell]:
                other = next(iter(base.values())) if once else base.get(outcome.spec.seed)
                for side, name in product(SIDES, ("elbo", "iwae")):
                    if other and (difference := self._difference(other, outcome, side, name)):
                        result.append(
                            {
                                "guide": cell.label,
                                "reference": self.reference.label,
                                "seed": outcome.spec.seed,
                                "rows": side,
                                "figure": name,
                                **difference.as_dict(),
                            }
                        )
        return result

    def _difference(self, a: Outcome, b: Outcome, side: str, name: str) -> Difference | None:
        mine, its = evaluation(a, side), evaluation(b, side)
        if mine is None or its is None:
            return None
        left, right = getattr(mine, name), getattr(its, name)
        if left is None or right is None:
            return None
        if a.spec.family == "exact" and mine.exact is not None:
            left = mine.exact  # every bound of the exact guide is log p(x), without noise
        error = None
        if name == "elbo" and not (self.reference.exact or left.shared or right.shared):
            rows = getattr(self.split, side)
            error = common_error(guide_of(a, side), guide_of(b, side), rows, mine.num_particles)
        return paired(left, right, error)

    @cached_property
    def restarts(self) -> dict[str, float]:
        """guide -> how far apart the models of its seeds are once aligned (joint mode)."""
        if self.mode == "fixed":
            return {}
        found = {c.label: apart([o.model for o in self.outcomes[c]]) for c in self.ranked}
        return {label: value for label, value in found.items() if value is not None}

    def remarks(self) -> list[str]:
        """What the table means, in lines below it."""
        lines = [
            "± is the Monte-Carlo standard error on these rows; for a gap, the larger of that and "
            "the paired standard error over rows."
            if self.seeds == 1
            else f"± is the standard deviation over {self.seeds} seeds."
        ]
        if self.known:
            lines.append("gap = log p(x) − ELBO = KL(q(z) ‖ p(z|x)), nats per datapoint.")
        elif self.gaps:
            which = "the best of these guides" if self.mode == "fixed" else "each guide's own"
            lines.append(
                f"gap = IWAE − ELBO, IWAE of {which}: a lower bound on KL(q(z) ‖ p(z|x)), nats per "
                "datapoint."
            )
        if self.gaps and not all(o.guide.scores for o in self._runs):
            lines.append("A hamiltonian's gap is of z and its momenta: no less than that of z.")
        if self.mode == "fixed":
            lines.append(
                f"One frozen model ({self.source}): differences between guides are inference gaps."
            )
        else:
            lines.append(
                "Each row has a model of its own: differences in ELBO mix the quality of the model "
                "with that of the guide."
            )
        if self.restarts:
            parts = ", ".join(f"{label} {value:.1%}" for label, value in self.restarts.items())
            lines.append(f"Largest distance between the models of two seeds, aligned: {parts}.")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """What ``compare.json`` holds."""
        runs = []
        for cell in self.ranked:
            for outcome in self.outcomes[cell]:
                gaps = {s: self._gap(outcome, s) for s in SIDES if evaluation(outcome, s)}
                runs.append(
                    {
                        "guide": cell.label,
                        **outcome.summary,
                        "gap": {s: g.as_dict() if g else None for s, g in gaps.items()},
                        "config": asdict(outcome.spec),
                    }
                )
        return {
            **({"failed": dict(self.failed)} if self.failed else {}),
            "model": self.model,
            "on": self.mode,
            "model_source": self.source,
            "data": self.split.record,
            "reference": self.reference.label,
            "gap_to": "exact" if self.known else "iwae" if self.gaps else None,
            "runs": runs,
            "differences": self.differences,
            "restarts_apart": self.restarts,
        }

    def as_rows(self) -> list[dict[str, Any]]:
        """What ``compare.csv`` holds: a line a run."""
        keep = ("guide", "model", "data", "family", "inference", "objective", "seed", "steps")
        keep += ("seconds", "num_parameters", "train", "test", "gap")
        runs = self.as_dict()["runs"]
        rows = [flat({"on": self.mode, **{k: run[k] for k in keep}}) for run in runs]
        return rows + [{"guide": name, "failed": why} for name, why in self.failed.items()]


def evaluation(outcome: Outcome, side: str) -> Evaluation | None:
    """The figures of the train or of the test rows."""
    return outcome.train if side == "train" else outcome.test


def guide_of(outcome: Outcome, side: str) -> Guide:
    """The guide for the train or for the test rows, which are there."""
    guide = outcome.judged.train_guide if side == "train" else outcome.judged.test_guide
    assert guide is not None
    return guide
