"""The part of a card that sets q beside a reference: given draws, NUTS, or an exact posterior."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.context import seeded, stream, validation
from zoo.diagnostics.against_exact import against_exact
from zoo.diagnostics.card import BANDS, Band, Check, tested, told, unchecked
from zoo.diagnostics.parts.case import Case, worst_unit
from zoo.diagnostics.read_draws import read_draws, thinned
from zoo.diagnostics.reference import against_reference
from zoo.exact import knows
from zoo.weights import log_weights

ROW = "reference"
DRAWS = 4000  # of q
RICHER = "take a richer family, or use the reference itself"


def of_reference(case: Case, reference: Any) -> list[Check]:
    """Bias, standard deviations, distances and classifiers, against the best there is to compare.

    Args:
        case: what the card is about; NUTS draws are taken from its results.
        reference: draws, site -> (R, *shape) or (chains, R, *shape) in a file; None for none.
    """
    if isinstance(reference, str | Path):
        return _against(case, thinned(read_draws(reference)), "the reference")
    if reference is not None:
        return _against(case, reference, "the reference")
    if "nuts" in case.results and case.results["nuts"].ok:
        found, wanted = case.results["nuts"].samples, case.latents.global_.names
        draws = {name: found[name].cpu().numpy() for name in wanted}
        return _against(case, thinned(draws), "NUTS")
    if knows(case.model, "posterior") and case.latents.local.dim and not case.globals:
        return _exact(case)
    why = "no draws of the posterior are known: --reference FILE"
    return [unchecked(ROW, "reference", why)]


def _exact(case: Case) -> list[Check]:
    found = against_exact(case.model, case.guide, case.few, seed=case.settings.seed)
    case.results["reference"] = found
    parts = []
    for name, rows, rms, error in (
        ("bias", found.bias, found.rms_bias, found.rms_bias_error),
        ("sd ratio", found.log_sd_ratio, found.rms_log_sd_ratio, found.rms_log_sd_ratio_error),
    ):
        parts.append(_moment(found.names, name, rms, case.rms_se(rows, rms, error)))
    return parts


def _against(case: Case, reference: Mapping[str, Any], what: str) -> list[Check]:
    draws = _draws(case, list(reference))
    found = against_reference(draws, reference, seed=case.settings.seed)
    case.results["reference"] = found
    best = max(found.c2st, key=lambda accuracy: accuracy.mean)
    interval = (best.mean - 1.96 * best.se, min(1.0, best.mean + 1.96 * best.se))
    text = f"{best.name} tells q from {what} in {100 * best.mean:.1f} % of draws"
    p = min(1.0, len(found.c2st) * best.p)
    apart = f"Wasserstein {found.wasserstein.ratio:.1f} ± {found.wasserstein.error:.1f} "
    apart += f"and MMD² {found.mmd.ratio:.1f} ± {found.mmd.error:.1f} times their floor"
    return [
        _moment(found.names, "bias", found.bias.abs(), found.bias_error),
        _moment(found.names, "sd ratio", found.log_sd_ratio.abs(), found.log_sd_ratio_error),
        tested(ROW, "classifier", best.mean, interval, p, text, RICHER, band=Band(0.55, 0.65)),
        told(ROW, "distances", apart),
    ]


def _moment(names: tuple[str, ...], name: str, values: Tensor, errors: Tensor) -> Check:
    """The worst unit, with Bonferroni over all of them."""
    band = BANDS["shift" if name == "bias" else "spread"]
    worst = worst_unit(values, errors, band.green)
    if worst.p is None:
        return unchecked(ROW, name, "q has no width to compare: it is a point mass")
    unit = "sd" if name == "bias" else "in logarithm"
    text = f"{name} of {names[worst.place]} {worst.value:.2f} ± {worst.se:.2f} {unit}"
    return Check(
        *(ROW, name, "posterior", text, worst.value, *worst.interval, band, worst.p), action=RICHER
    )


@torch.no_grad()
def _draws(case: Case, wanted: list[str]) -> dict[str, Tensor]:
    """site -> (S, *shape) or, of the rows' latents, (S, N, *event): independent draws of q."""
    latents, model = case.latents, case.model
    known = {s.name: s for s in (*latents.local.sites, *latents.global_.sites)}
    names = [name for name in wanted if name in known]
    if not names:
        raise ValueError(f"the reference has {wanted}, of which q draws none: it has {list(known)}")
    local = any(name in latents.local.names for name in names)
    rows = case.data.batch() if local else next(case.data.batches(1))
    inner, outer = (1, DRAWS) if case.globals else (DRAWS, 1)
    purpose = stream(case.settings.seed, "reference")
    with seeded(purpose, model.device), validation(False):
        values = log_weights(model, case.guide, rows.to(model.device), inner, outer).values
    found = {}
    for name in names:
        shape = known[name].shape
        lead = (DRAWS, len(rows)) if name in latents.local.names else (DRAWS,)
        found[name] = values[name].reshape(*lead, *shape)
    return found
