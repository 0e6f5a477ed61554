"""The part of a card that simulations give: calibration and the symmetric divergence."""

from __future__ import annotations

import math
from statistics import NormalDist

from zoo.diagnostics.card import BANDS, Z95, Check, tested, unchecked
from zoo.diagnostics.coverage import Coverage, coverage
from zoo.diagnostics.jeffreys import Jeffreys, jeffreys
from zoo.diagnostics.parts.case import Case
from zoo.diagnostics.sbc import SBC, sbc
from zoo.diagnostics.simulation import simulate_posteriors
from zoo.diagnostics.tarp import Tarp, tarp
from zoo.diagnostics.vsbc import Vsbc, vsbc

ROW = "simulation"
CUT = 20.0  # nats
NAMES = ("SBC", "VSBC", "coverage", "TARP", "Jeffreys")
REFIT = "take a richer family (full_rank, iaf), per_datapoint inference or more training"


def of_simulation(case: Case) -> list[Check]:
    """Ranks, bias, coverage and divergence on data drawn from the model."""
    settings = case.settings
    if not settings.simulate:
        return [unchecked(ROW, name, "needs simulations: --simulate") for name in NAMES]
    found = case.results
    sims = found["simulations"] = simulate_posteriors(
        case.model,
        case.guide,
        case.data,
        num_simulations=settings.num_simulations,
        seed=settings.seed,
        infer_steps=settings.infer_steps,
        refit_steps=settings.infer_steps,
        progress=settings.progress,
    )
    if sims.refits:
        what = "rows" if sims.local else "data sets"
        case.notes.append(f"q was fitted again to {sims.refits} simulated {what}")
    found["sbc"], found["vsbc"], found["coverage"] = sbc(sims), vsbc(sims), coverage(sims)
    found["tarp"], found["jeffreys"] = tarp(sims), jeffreys(sims)
    return [
        _sbc(found["sbc"]),
        _vsbc(found["vsbc"]),
        _coverage(found["coverage"]),
        _tarp(found["tarp"]),
        _jeffreys(found["jeffreys"]),
    ]


def _sbc(found: SBC) -> Check:
    worst = found.worst
    text = f"ranks of {worst} {found.distance:.3f} from uniform, {found.count} simulations"
    action = f"{found.direction(worst) or 'q is not calibrated'}: {REFIT}"
    return tested(ROW, "SBC", found.distance, found.interval, found.p, text, action)


def _vsbc(found: Vsbc) -> Check:
    """The bias of the worst unit, its interval with those of all units together."""
    place = found.names.index(found.worst)
    mean, error = float(found.shift[place]), float(found.error[place])
    wide = NormalDist().inv_cdf(1 - 0.025 / len(found.names)) * error
    interval = (max(0.0, abs(mean) - wide), abs(mean) + wide)
    text = f"mean rank of {found.worst} {mean:+.3f} from ½"
    action = f"{found.direction(found.worst) or 'q is biased'}: {REFIT}"
    return tested(ROW, "VSBC", abs(mean), interval, found.p, text, action)


def _coverage(found: Coverage) -> Check:
    """Of the highest-density regions, or of the worst unit's central intervals."""
    if found.worst is not None and found.joint is not None:
        worst, levels, what = found.worst, found.joint, "regions"
    else:
        unit, worst = found.worst_central
        levels, what = found.central[found.names.index(unit)], f"intervals of {unit}"
    shown = ", ".join(f"{100 * c.level:.0f} % hold {100 * c.coverage:.1f} %" for c in levels)
    action = f"q is too {'sure' if worst.error < 0 else 'wide'}: {REFIT}"
    text = f"{what} of {shown}"
    return tested(ROW, "coverage", abs(worst.error), worst.interval, worst.p, text, action)


def _tarp(found: Tarp) -> Check:
    text = f"TARP {found.distance:.3f} from uniform"
    action = f"q has the wrong shape: {REFIT}"
    return tested(ROW, "TARP", found.distance, found.interval, found.p, text, action)


def _jeffreys(found: Jeffreys | None) -> Check:
    """The mean, from below by that of min(value, 20): one simulation must not hide the others.

    Where q is far too narrow the values have no variance, and their mean is lost in its error; the
    mean of what is cut off at 20 nats is below theirs and has one.
    """
    if found is None:
        return unchecked(ROW, "Jeffreys", "q scores its own draws alone")
    cut = found.values.clamp(max=CUT)
    below, se = float(cut.mean()), float(cut.std()) / math.sqrt(found.count)
    edge = BANDS["Jeffreys"].green
    p = NormalDist().cdf((edge - below) / se) if se > 0 else float(below <= edge)
    low, high = below - Z95 * se, found.mean + Z95 * found.se
    text = f"Jeffreys divergence {found.mean:.3f} ± {found.se:.3f} nats"
    if not math.isfinite(high) or found.mean - below > max(1.0, 10 * se):
        text, high = f"Jeffreys divergence > {max(0.0, low):.1f} nats", max(high, below)
    action = f"q and p(z | x) differ: {REFIT}"
    high = high if math.isfinite(high) else math.inf
    return tested(ROW, "Jeffreys", found.mean, (low, high), p, text, action)
