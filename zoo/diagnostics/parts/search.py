"""The parts of a card that look for a better posterior: by optimisation, and by Markov chains."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from zoo.diagnostics.annealing import annealed
from zoo.diagnostics.card import BANDS, Z95, Check, measured, tested, told, unchecked
from zoo.diagnostics.chains import short_chains
from zoo.diagnostics.gaps import Gaps, difference, gaps
from zoo.diagnostics.nuts import nuts_posterior
from zoo.diagnostics.parts.case import Case
from zoo.diagnostics.sandwich import sandwich
from zoo.estimate import Estimate

GAPS, CHAINS = "gaps", "chains"
QUICK = {"num_rows": 50, "steps": 600, "num_particles": 4}
FULL = {"num_rows": 100, "steps": 2000}
ANNEALED_ROWS, SIMULATED_ROWS = 50, 50
SMALL = 2000  # rows and numbers of data up to which NUTS is run
WIDTH = 0.5  # nats; a wider sandwich says little


def of_gaps(case: Case) -> list[Check]:
    """The approximation gap and the amortization gap."""
    if case.binary:
        return [unchecked(GAPS, "gaps", case.binary)]
    if not case.latents.local.dim:
        return []
    if case.globals:
        why = "the gaps of rows are not taken apart where rows share latents"
        return [unchecked(GAPS, "gaps", why)]
    options = FULL if case.settings.thorough else QUICK
    if case.settings.search_steps is not None:
        options = {**options, "steps": case.settings.search_steps}
    found = gaps(
        case.model,
        case.guide,
        case.few,
        num_draws=case.settings.num_draws,
        seed=case.settings.seed,
        progress=case.settings.progress,
        **options,
    )
    case.results["gaps"] = found
    amortized = getattr(case.guide, "amortized", True)
    return [_gap(case, found, "approximation"), _gap(case, found, "amortization", amortized)]


def _gap(case: Case, found: Gaps, kind: str, amortized: bool = True) -> Check:
    estimate: Estimate = getattr(found, kind)
    left = 0.0 if len(found.index) == len(case.data) else estimate.se_data
    se = math.hypot(estimate.se, left)
    sign = "≥ " if found.is_lower_bound and kind == "approximation" else ""
    name = "approximation gap" if kind == "approximation" else found.amortization_is
    text = f"{name} {sign}{estimate.mean:.3f} ± {se:.3f} nats ({len(found.index)} rows)"
    action = "take a richer family: full_rank, iaf or spline in place of mean_field"
    if kind == "amortization":
        action = "a larger encoder or more training, or semi_amortized or per_datapoint inference"
        action = action if amortized else "fit the table longer: more steps, a falling rate"
    return measured(GAPS, f"{kind} gap", estimate.mean, se, text, action)


def of_chains(case: Case) -> list[Check]:
    """Short chains from q, annealing with its sandwich, and NUTS where the data are small."""
    names = ["short chains"]
    if case.latents.vectors.dim and not case.globals:
        names += ["sandwich", "annealing"]
    if case.globals:
        names.append("NUTS")
    if case.binary or not case.settings.thorough:
        why = case.binary or "needs Markov chains: --thorough"
        return [unchecked(CHAINS, name, why) for name in names]
    how = {"short chains": _short, "annealing": _annealed, "sandwich": _sandwich, "NUTS": _nuts}
    checks = []
    for name in names:
        checks += case.attempt(CHAINS, name, lambda name=name: how[name](case))
    return checks


def _short(case: Case) -> list[Check]:
    found = short_chains(
        case.model,
        case.guide,
        case.data if case.globals else _some(case, ANNEALED_ROWS),
        seed=case.settings.seed,
        progress=case.settings.progress,
    )
    case.results["chains"] = found
    if not found.moved:
        return [unchecked(CHAINS, "short chains", "the chains hardly moved: no evidence")]
    sizes = []
    for part in found.parts:
        for what, unit, size, low, high in (
            ("mean", "sd", part.rms_shift, part.rms_shift_lower, part.rms_shift_upper),
            (
                *("log sd", ""),
                *(part.rms_log_sd_ratio, part.rms_log_sd_ratio_lower, part.rms_log_sd_ratio_upper),
            ),
        ):
            for i, name in enumerate(part.names):
                moved = f"{what} of {name} moves {float(size[i]):.2f} {unit}".rstrip()
                sizes.append((float(size[i]), float(low[i]), float(high[i]), moved))
    value, _, _, text = max(sizes)
    interval = (max(low for _, low, _, _ in sizes), max(high for _, _, high, _ in sizes))
    action = "q is further off than that: take a richer family, or use the chains' ends"
    band = BANDS["shift"]
    text = f"{text} along chains"
    p = found.p_value
    return [tested(CHAINS, "short chains", value, interval, p, text, action, band=band)]


def _annealed(case: Case) -> list[Check]:
    """log p̂(x) by annealing, and how far the ELBO of the same rows is below it.

    Annealing gives a lower bound: above the ELBO it is evidence against q; only where its sandwich
    is narrow is it evidence for q, and below the ELBO it is none at all.
    """
    rows = _some(case, ANNEALED_ROWS)
    seed, progress = case.settings.seed, case.settings.progress
    found = annealed(case.model, rows, seed=seed, progress=progress)
    case.results["annealed"] = found
    elbo = case.results["bounds"].elbo
    at = torch.arange(len(case.few))[: len(rows)]
    gap = difference(found.forward, Estimate(elbo.rows[at], elbo.error[at]))
    se = math.hypot(gap.se, gap.se_data)
    above = f"above the ELBO by {gap.mean:.3f} ± {se:.3f}"
    text = f"annealing: log p(x) ≥ {found.forward.mean:.3f}, {above}"
    narrow = "sandwich" in case.results and case.results["sandwich"].width.mean <= WIDTH
    if gap.mean < -Z95 * se or not (narrow or gap.mean > 0):
        why = "below the ELBO" if gap.mean < 0 else "and the sandwich is wide"
        return [unchecked(CHAINS, "annealing", f"{text}: {why}, so it is no evidence")]
    action = "take a richer family (full_rank, iaf) or per_datapoint inference"
    check = measured(CHAINS, "annealing", gap.mean, se, text, action, band=BANDS["certified gap"])
    return [check if narrow else replace(check, high=math.inf)]


def _sandwich(case: Case) -> list[Check]:
    seed, progress = case.settings.seed, case.settings.progress
    found = sandwich(
        case.model, case.few, num_simulations=SIMULATED_ROWS, seed=seed, progress=progress
    )
    case.results["sandwich"] = found
    width, low = found.width, found.lower.mean
    text = f"on simulated rows log p(x) is between {low:.3f} and {found.upper.mean:.3f}"
    text += f", width {width.mean:.3f} ± {width.se_data:.3f} nats"
    if width.mean > WIDTH:
        text += ": annealing is not to be trusted here"
    return [told(CHAINS, "sandwich", text)]


def _nuts(case: Case) -> list[Check]:
    """A reference by NUTS, for ``of_reference``."""
    size = len(case.data) * sum(case.data.event_shape(n).numel() or 1 for n in case.data.names)
    if size > 50 * SMALL or len(case.data) > SMALL:
        why = f"NUTS is run on up to {SMALL} rows and {50 * SMALL} numbers"
        return [unchecked(CHAINS, "NUTS", why)]
    seed, progress = case.settings.seed, case.settings.progress
    found = nuts_posterior(case.model, case.data, seed=seed, max_rows=SMALL, progress=progress)
    case.results["nuts"] = found
    text = "NUTS: " + ("chains agree, q is compared with them" if found.ok else found.why_not)
    return [told(CHAINS, "NUTS", text)]


def _some(case: Case, count: int):
    """The first of the few rows, whose bounds are known."""
    return case.few if len(case.few) <= count else case.few.only(torch.arange(count))
