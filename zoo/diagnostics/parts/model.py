"""The part of a card about the model against the data, apart from how good q is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zoo.diagnostics.card import BANDS, Check, tested, told, unchecked
from zoo.diagnostics.loo import log_likelihoods, loo
from zoo.diagnostics.parts.case import Case
from zoo.diagnostics.predictive import predictive_checks

ROW = "model"
OTHER = "look at the pictures of the fit: another likelihood, more latents or components"


def of_model(case: Case, statistics: Mapping[str, Callable[..., Any]] | None) -> list[Check]:
    """Predictive ranks, statistics, and leave-one-out or held-out likelihood."""
    return [
        *case.attempt(ROW, "predictive ranks", lambda: _ranks(case, statistics)),
        *case.attempt(ROW, "leave one out", lambda: _left_out(case)),
    ]


def _ranks(case: Case, statistics: Mapping[str, Callable[..., Any]] | None) -> list[Check]:
    seed = case.settings.seed
    found = predictive_checks(case.model, case.guide, case.few, statistics=statistics, seed=seed)
    case.results["predictive"] = found
    ranks = found.pit_prior
    value, low, high = ranks.largest
    p = ranks.p_adjusted
    assert p is not None  # of draws from p(x)
    text = f"ranks of {ranks.worst} {value:.2f} from uniform"
    band = BANDS["model"]
    checks = [tested(ROW, "predictive ranks", value, (low, high), p, text, OTHER, "model", band)]
    if found.statistics:
        worst = min(found.statistics, key=lambda check: check.p_two_sided)
        shown = f"{worst.observed:.3g} for {worst.mean:.3g} ± {worst.sd:.2g}"
        text = (
            f"{worst.name} {shown} (p {worst.p_two_sided:.2f}, {len(found.statistics)} looked at)"
        )
        checks.append(told(ROW, "statistics", text, "model"))
    return checks


def _left_out(case: Case) -> list[Check]:
    """PSIS-LOO where rows share latents; else leaving a row out is log p(x) itself."""
    if not case.globals:
        found = case.results.get("bounds")
        if found is None:
            return [unchecked(ROW, "leave one out", "there are no importance weights", "model")]
        text = f"IWAE of these rows {found.iwae.mean:.2f} nats"
        return [told(ROW, "leave one out", text, "model")]
    inner = 16 if case.latents.vectors.dim else 1
    draws = min(case.settings.num_draws, max(200, int(2e7 / (len(case.data) * inner))))
    matrix = log_likelihoods(
        case.model, case.guide, case.data, num_draws=draws, num_inner=inner, seed=case.settings.seed
    )
    found = case.results["loo"] = loo(*matrix)
    text = f"PSIS-LOO {found.total:.2f} ± {found.se_data:.2f} nats, {found.bad} rows with a high k̂"
    return [told(ROW, "leave one out", text, "model")]
