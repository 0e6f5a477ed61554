"""The report cards of guides side by side, and what they differ by on the same rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.judge.comparison import Comparison, guide_of
from zoo.diagnostics.report import Report, diagnose

LEAST = 2  # rows that a difference needs


@dataclass(frozen=True)
class CardDifference:
    """mean_n (guide − reference) of one number of every row, or of every simulation.

    Attributes:
        guide, reference: whose.
        name: of what.
        mean: over rows that have the number under both.
        se: its standard error, of the spread over those pairs.
        count: how many pairs.
    """

    guide: str
    reference: str
    name: str
    mean: float
    se: float
    count: int


@dataclass(frozen=True)
class Cards:
    """Cards of several guides.

    Attributes:
        reports: guide -> its card.
        reference: the guide that the others are set against.
        differences: of the others to it, row by row.
    """

    reports: Mapping[str, Report]
    reference: str
    differences: tuple[CardDifference, ...]

    def as_dict(self) -> dict[str, Any]:
        """What is added to ``compare.json``."""
        return {
            "cards": {label: report.as_dict() for label, report in self.reports.items()},
            "card_reference": self.reference,
            "card_differences": [vars(difference) for difference in self.differences],
        }


def cards_of(comparison: Comparison, simulate: bool = False, seed: int = 0) -> Cards:
    """A card for the first run of every guide: the same rows, seeds and simulations.

    Differences are paired: a − b of the same row, whose draws come from the same random numbers. On
    a fixed model all guides see the same simulated data too; those are paired only where they are
    the same.

    Args:
        comparison: of guides.
        simulate: whether cards look at simulated data.
        seed: of rows, draws and simulations.
    """
    side = comparison.side
    data = comparison.split.train if side == "train" else comparison.split.test
    assert data is not None
    reports = {}
    for cell in comparison.ranked:
        outcome = comparison.outcomes[cell][0]
        reports[cell.label] = diagnose(
            outcome.model,
            guide_of(outcome, side),
            data,
            simulate=simulate,
            run=outcome.result,
            infer_steps=outcome.spec.infer_steps,
            seed=seed,
            progress=None,
        )
    base = comparison.reference.label
    fixed = comparison.mode == "fixed"
    numbers = {label: _by_row(report, fixed) for label, report in reports.items()}
    found = []
    for label in reports:
        if label == base:
            continue
        for name, values in numbers[label].items():
            difference = _paired(label, base, name, values, numbers[base].get(name))
            if difference is not None:
                found.append(difference)
    return Cards(reports, base, tuple(found))


def _by_row(report: Report, fixed: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """name -> what marks the rows, and the number of each.

    On a fixed model KL(q ‖ p) = log p(x) − ELBO, and log p(x) is the same for all guides: ELBOs
    differ by just what the KLs do, a mode that one of them misses included.
    """
    results, found = report.results, {}
    if "bounds" in results:
        elbo = results["bounds"].elbo.rows
        mark = torch.arange(len(elbo))
        found["KL(q ‖ p), nats" if fixed else "−ELBO, nats"] = mark, -elbo
        high = results["psis"].k >= results["psis"].threshold
        found["share of high k̂"] = mark, high.double()
        found["ESS fraction"] = mark, results["psis"].ess_fraction
    if results.get("jeffreys") is not None:
        found["Jeffreys, nats"] = results["simulations"].truth, results["jeffreys"].values
    return found


def _paired(
    guide: str,
    reference: str,
    name: str,
    mine: tuple[Tensor, Tensor],
    its: tuple[Tensor, Tensor] | None,
) -> CardDifference | None:
    """The difference, where both have the number of the same rows."""
    if its is None or mine[0].shape != its[0].shape or not torch.equal(mine[0], its[0]):
        return None
    away = (mine[1].double() - its[1].double()).cpu()
    away = away[away.isfinite()]
    if len(away) < LEAST:
        return None
    se = float(away.std()) / math.sqrt(len(away))
    return CardDifference(guide, reference, name, float(away.mean()), se, len(away))
