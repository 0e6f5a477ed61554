"""The part of a card that is read off importance weights."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from scipy import stats
from torch import Tensor

from zoo.diagnostics.bounds import bounds
from zoo.diagnostics.card import BANDS, Band, Check, measured, tested, told, unchecked
from zoo.diagnostics.draws import weighted_draws
from zoo.diagnostics.global_weights import global_weights
from zoo.diagnostics.moments import Corrected, corrected_moments
from zoo.diagnostics.parts.case import Case, worst_unit
from zoo.diagnostics.psis import Psis, psis
from zoo.estimate import Estimate
from zoo.evaluation import exact_evidence

ROW, GLOBAL = "weights", "weights of globals"
SURE, NOISE = 2.5758293035489004, 0.005  # standard errors, and how often noise is beyond them
NOISY = 0.1  # nats², the variance that inner draws may add to the log weights of globals
RICHER = "take a richer family (full_rank, iaf) or, with an encoder, per_datapoint inference"
LONGER = "train longer, with a wider encoder, or take per_datapoint inference"  # of bits
CORRECT = "correct by importance: zoo evaluate's IWAE, PSIS-weighted means"


def of_rows(case: Case) -> list[Check]:
    """The gap that is certain, k̂, ESS and corrected moments of the rows' latents."""
    if not case.local:
        return []
    found = case.results
    draws = weighted_draws(
        case.model,
        case.guide,
        case.few,
        case.settings.num_draws,
        seed=case.settings.seed,
        progress=case.settings.progress,
    )
    if draws.given_globals:
        case.notes.append("figures of rows are given one draw of the global latents")
    tolerance = 1e-8 if case.model.dtype == torch.float64 else 1e-5
    smoothed = psis(draws.log_weight, tolerance=tolerance)
    found |= {
        "draws": draws,
        "psis": smoothed,
        "bounds": bounds(draws.log_weight, draws.elbo_terms),
    }
    if not case.globals and (exact := exact_evidence(case.model, case.few)) is not None:
        found["exact"] = exact
    checks = [_ladder(case), _gap(case), _share(smoothed, _better(case)), _ess(smoothed, case)]
    if draws.values is None:
        return [*checks, unchecked(ROW, "shift", draws.no_values)]
    found["moments"] = corrected_moments(draws, smoothed)
    return checks + _moments(found["moments"], ROW, case)


def of_globals(case: Case) -> list[Check]:
    """k̂ and corrected moments of the latents that all rows share."""
    if not case.globals:
        return []
    settings = case.settings
    weights = global_weights(
        case.model,
        case.guide,
        case.data,
        settings.num_global_draws,
        num_inner=16 if case.latents.vectors.dim else 1,
        seed=settings.seed,
        max_cost=2e10,
        progress=settings.progress,
    )
    assert weights is not None
    smoothed = psis(weights.log_weight)
    case.results |= {"global_weights": weights, "global_psis": smoothed}
    noise, spread = weights.inner_variance, float(weights.log_weight.var())
    k, se = float(smoothed.k), float(smoothed.se)
    name, band = "k̂ of globals", Band(smoothed.threshold, 1.0)
    if noise > max(NOISY, spread / 4):
        why = (
            f"of the variance {spread:.2f} of the globals' log weights {noise:.2f} is noise of the "
            "rows' latents, drawn for each: it is q of the rows that is judged"
        )
        return [unchecked(GLOBAL, name, why)]
    text = f"k̂ {k:.2f} ± {se:.2f} of the globals, {weights.num_draws} draws"
    if bool(smoothed.constant):
        return [told(GLOBAL, name, "weights constant: exact, or blind to another mode")]
    checks = [measured(GLOBAL, name, k, se, text, f"{RICHER}; set global_family", band=band)]
    if k >= smoothed.threshold:
        why = f"k̂ of the globals is {k:.2f}: their corrected moments cannot be trusted"
        return [*checks, unchecked(GLOBAL, "shift of globals", why)]
    lost = math.exp(noise)  # of the ESS, to noise that is not q(g)'s
    fraction = min(1.0, lost * float(smoothed.ess_fraction))
    error = lost * float(smoothed.ess_fraction_se)
    text = f"ESS {100 * fraction:.0f} % of the draws"
    band = BANDS["ESS"]
    checks.append(measured(GLOBAL, "ESS of globals", fraction, error, text, CORRECT, band=band))
    case.results["global_moments"] = moments = corrected_moments(weights.as_draws(), smoothed)
    return checks + _moments(moments, GLOBAL, case, " of globals")


def _ladder(case: Case) -> Check:
    """What is known of log p(x)."""
    found = case.results["bounds"]
    text = f"ELBO {_number(found.elbo)}, IWAE {found.num_draws} {_number(found.iwae)}"
    if "exact" in case.results:
        text += f", log p(x) {_number(case.results['exact'])}"
    else:
        text += f", jackknife {_number(found.jackknife)}"
    return told(ROW, "bounds", text)


def _gap(case: Case) -> Check:
    """KL(q ‖ p) ≥ IWAE − ELBO, or where log p(x) is known KL(q ‖ p) itself."""
    found = case.results["bounds"]
    gap, name = found.gap, "KL(q‖p) ≥"
    if "exact" in case.results:
        elbo = found.elbo
        gap = Estimate(case.results["exact"].rows.double() - elbo.rows, elbo.error)
        name = "KL(q‖p) ="
    case.results["gap"] = gap
    text = f"{name} {_number(gap)} nats"
    return measured(ROW, "certified gap", gap.mean, case.se(gap), text, _better(case))


def _share(smoothed: Psis, action: str = RICHER) -> Check:
    """The share s of rows whose weights have too heavy a tail.

    k̂ has noise, which lifts rows over the threshold. Two things are certain for all that: rows that
    are above by 2.6 standard errors, and that rows below it are seen above with probability ½ at
    most, so that the share seen is at most (1 + s)/2 in expectation. The larger of both lower
    limits counts; the upper one is that of the share seen.
    """
    name, count = "k̂ of rows", smoothed.k.numel()
    if bool(smoothed.constant.all()):
        text = "weights constant: exact, or blind to another mode"
        return tested(ROW, name, 0.0, (0.0, 0.0), 1.0, text, "")
    sure = smoothed.k - SURE * smoothed.se.nan_to_num(0.0, 0.0) > smoothed.threshold
    seen, certain = int((smoothed.k >= smoothed.threshold).sum()), int(sure.sum())
    low = max(0.0, _lowest(certain, count), 2 * _lowest(seen, count) - 1)
    high = float(stats.beta.ppf(0.975, seen + 1, count - seen)) if seen < count else 1.0
    green = BANDS[name].green
    p_certain = stats.binom.sf(certain - 1, count, green + NOISE)
    p_seen = stats.binom.sf(seen - 1, count, (1 + green) / 2)
    p = min(1.0, 2 * float(min(p_certain, p_seen)))
    share, middle = seen / count, float(smoothed.k.median())
    text = f"k̂ > {smoothed.threshold:.2f} in {100 * share:.1f} % of rows, median {middle:.2f}"
    return tested(ROW, name, share, (low, high), p, text, action)


def _better(case: Case) -> str:
    """What to do where q is not the posterior; bits have no richer family."""
    return LONGER if case.binary else RICHER


def _lowest(found: int, count: int) -> float:
    """The lower limit of a share by Clopper and Pearson."""
    return float(stats.beta.ppf(0.025, found, count - found + 1)) if found else 0.0


def _ess(smoothed: Psis, case: Case) -> Check:
    """The mean over rows of the fraction of draws that count."""
    usable = smoothed.usable
    if int(usable.sum()) < max(1, 0.5 * usable.numel()):
        return unchecked(ROW, "ESS", "k̂ is too high in most rows for it to mean anything")
    estimate = Estimate(smoothed.ess_fraction[usable], smoothed.ess_fraction_se[usable])
    text = f"ESS {100 * estimate.mean:.0f} % of the draws"
    return measured(ROW, "ESS", estimate.mean, case.se(estimate), text, CORRECT)


def _moments(moments: Corrected, row: str, case: Case, suffix: str = "") -> list[Check]:
    """How far means and sds move when q's draws are weighed."""
    if int(moments.usable.sum()) < max(1, 0.5 * moments.usable.numel()):
        why = "k̂ is too high in most rows for corrected moments to be trusted"
        return [unchecked(row, f"shift{suffix}", why)]
    parts, on = [], moments.usable
    shift = moments.shift, moments.rms_shift, moments.rms_shift_se
    spread = moments.log_sd_ratio, moments.rms_log_sd_ratio, moments.rms_log_sd_ratio_se
    for name, (rows, values, errors) in (("shift", shift), ("spread", spread)):
        if not suffix:
            errors = case.rms_se(rows[on], values, errors)
        worst = worst_unit(values, errors, BANDS[name].green)
        unit, sign = moments.names[worst.place], _signed(moments, worst.place)
        if name == "shift":
            text = f"mean of {unit} off by {worst.value:.2f} sd"
            action = f"{RICHER}; {CORRECT}"
        else:
            text = f"sd of {unit} by a factor {math.exp(sign * worst.value):.2f}"
            action = _width(sign)
        interval, p, band = worst.interval, worst.p, BANDS[name]
        check = Check(row, name + suffix, "posterior", text, worst.value, *interval, band, p)
        parts.append(replace(check, action=action))
    return parts


def _signed(moments: Corrected, place: int) -> int:
    """Whether q is too wide (1) or too narrow (−1) in a unit."""
    ratio: Tensor = moments.log_sd_ratio[moments.usable][:, place]
    return 1 if float(ratio.mean()) >= 0 else -1


def _width(sign: int) -> str:
    if sign < 0:
        return "q is too narrow: full_rank or a flow in place of mean_field, or an iwae objective"
    return "q is too wide: train longer, or per_datapoint inference"


def _number(estimate: Estimate) -> str:
    """The mean and its error, to the digits that the error leaves."""
    error = estimate.se
    digits = 4 if error < 5e-5 else min(4, max(1, 1 - math.floor(math.log10(error))))
    shown = f" ± {error:.{digits}f}" if error >= 5e-5 else ""
    return f"{round(estimate.mean, digits) + 0.0:.{digits}f}{shown}"
