"""The part of a card about what the latents are used for."""

from __future__ import annotations

import torch

from zoo.diagnostics.card import Band, Check, tested, told, unchecked
from zoo.diagnostics.collapse import (
    INFERENCE,
    MOVES,
    POSTERIOR,
    UNDECIDED,
    Collapse,
    collapse,
)
from zoo.diagnostics.parts.case import Case
from zoo.latent_use import active_units, latent_kl
from zoo.surgery import mutual_information, paired_rows

ROW = "latents"


def of_latents(case: Case) -> list[Check]:
    """Active units, KL by unit, collapse and its kind, mutual information."""
    if not case.latents.vectors.dim:
        return []
    pair, seed = (case.model, case.guide, case.few), case.settings.seed
    found = case.results
    found["kl"] = kl = latent_kl(*pair, seed=seed)
    text = f"KL(q ‖ prior) {kl.total.mean:.2f} nats"
    if len(case.few) > 1:
        found["active_units"] = units = active_units(*pair, seed=seed)
        text = f"{units.count} of {len(units.names)} units active, {text}"
    return [
        told(ROW, "use", text, "latents"),
        *case.attempt(ROW, "information", lambda: _information(case)),
        *case.attempt(ROW, "collapse", lambda: _collapse(case)),
    ]


def _information(case: Case) -> list[Check]:
    rows = paired_rows(case.guide)
    seed = case.settings.seed
    found = mutual_information(case.model, case.guide, case.few, num_rows=rows, seed=seed)
    case.results["mutual_information"] = found
    bits = f"I(x; z) {found.information.mean:.2f}, KL(q̄ ‖ p) {found.marginal_kl.mean:.2f}"
    text = f"{bits} nats (log N = {found.log_n:.2f} is the most {found.num_rows} rows show)"
    return [told(ROW, "information", text, "latents")]


def _collapse(case: Case) -> list[Check]:
    draws = case.results.get("draws")
    if draws is None or draws.values is None:
        why = draws.no_values if draws is not None else "there are no draws of the rows' latents"
        return [unchecked(ROW, "collapse", why, "latents")]
    found = collapse(case.model, case.guide, case.few, draws, case.results["psis"])
    case.results["collapse"] = found
    ours, also, open_ = (found.count(v) for v in (INFERENCE, POSTERIOR, UNDECIDED))
    total = int(found.collapsed.sum())
    if not total:
        return [told(ROW, "collapse", "no unit collapsed", "latents")]
    text = f"{total} collapsed: {also} in the posterior too, {ours} by q alone, {open_} undecided"
    action = "q ignores what rows tell: KL warm-up (--warm-up), per_datapoint inference"
    interval, band = (float(ours), float(ours + open_)), Band(0.5, 0.5)
    p = _p_value(found) if ours else 1.0
    return [tested(ROW, "collapse", float(ours), interval, p, text, action, "latents", band)]


def _p_value(found: Collapse) -> float:
    """That the posterior of no collapsed unit moves or narrows: Bonferroni over units and both."""
    size = torch.stack([found.mean_variance, found.sd_change]) - MOVES
    z = (size / torch.stack([found.mean_variance_se, found.sd_change_se]))[:, found.collapsed]
    p = torch.special.ndtr(-z[z.isfinite()])
    return min(1.0, z.numel() * float(p.min())) if len(p) else 1.0
