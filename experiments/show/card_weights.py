"""Pictures of importance weights: k̂ of every row, the worst tail, bounds, what weights correct."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.show.card_axes import (
    AMBER,
    GREEN,
    RED,
    array,
    counted,
    headline,
    new_figure,
    quiet_grid,
)
from experiments.show.figures import COLOURS
from experiments.show.panels import LIGHT
from experiments.show.tables import number
from zoo.diagnostics.psis import tail_of
from zoo.estimate import Estimate

if TYPE_CHECKING:
    from zoo.diagnostics.report import Report

FAR = 1.5  # heights of the ladder, beyond which a bound is named and not drawn to scale
LEAST = 0.01  # nats, of the axis of bounds


def khat_figure(report: Report) -> Figure | None:
    """k̂ of the rows, sorted, ± se, over the two bands; that of the shared latents as a line."""
    rows, shared = report.results.get("psis"), report.results.get("global_psis")
    if rows is None and shared is None:
        return None
    threshold = float((rows if rows is not None else shared).threshold)  # type: ignore[union-attr]
    figure, axes = new_figure()
    axes.axhline(threshold, color=AMBER, linewidth=1)
    axes.axhline(1, color=RED, linewidth=1)
    said = []
    if rows is not None:
        said.append(_sorted_khat(axes, array(rows.k), array(rows.se), threshold))
    if shared is not None:
        k, se = float(shared.k.reshape(-1)[0]), float(shared.se.reshape(-1)[0])
        said.append(f"Shared latents: k̂ = {_khat(k, se)}, threshold {shared.threshold:.2f}")
        if math.isfinite(k):
            axes.axhline(k, color=COLOURS[3], linestyle="--", label="latents that rows share")
            axes.axhspan(k - se, k + se, color=COLOURS[3], alpha=0.15, linewidth=0)
            axes.legend(loc="upper left", frameon=False)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.25), max(high, 1.15))
    usable = f"{threshold:.2f}: above, weighted means are not to be trusted with these draws"
    for level, text in ((threshold, usable), (1.0, "1: above, the ratios have no mean")):
        axes.annotate(
            text,
            (0.01, level),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=8,
            bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
        )
    axes.set_ylabel("k̂, tail index of the importance ratios (± 1 se)")
    headline(axes, ". ".join(said))
    return figure


def _sorted_khat(axes: Any, k: np.ndarray, se: np.ndarray, threshold: float) -> str:
    order = np.argsort(k, kind="stable")
    k, se, place = k[order], se[order], np.arange(1, len(k) + 1)
    finite = np.isfinite(k)
    inside, above = finite & (k <= threshold), finite & (k > threshold)
    low, high = k[finite] - se[finite], k[finite] + se[finite]
    axes.fill_between(place[finite], low, high, color=COLOURS[0], alpha=0.18, linewidth=0)
    size = 5 if len(k) <= 200 else 2.5
    axes.plot(place[inside], k[inside], "o", color=COLOURS[0], markersize=size)
    axes.plot(place[above], k[above], "^", color=RED, markersize=size + 1)
    top = max(1.12, high.max(initial=0.0))
    endless = k == np.inf
    axes.plot(place[endless], np.full(endless.sum(), top), "^", color=RED, markersize=size + 2)
    constant = k == -np.inf
    bottom = low.min(initial=0.0) - 0.25
    axes.plot(place[constant], np.full(constant.sum(), bottom), "s", color=GREEN, markersize=size)
    axes.set_xlabel("datapoints, sorted by k̂")
    axes.set_xlim(0.5 - 0.01 * len(k), len(k) + 0.5 + 0.01 * len(k))
    style = {"textcoords": "offset points", "fontsize": 8, "va": "center"}
    for marks, level, text, at, side in (
        (endless, top, "k̂ = ∞", 0, "right"),
        (constant, bottom, "constant weights", -1, "left"),
    ):
        if marks.any():
            where = (place[marks][at], level)
            shift = (-8 if side == "right" else 8, 0)
            axes.annotate(text, where, xytext=shift, ha=side, **style)
    bad = int((k > threshold).sum())
    if bad:
        worst = k[-1] if math.isfinite(k[-1]) else math.inf
        tail = f"the worst is judged row {order[-1]} with k̂ = {_khat(worst, se[-1])}"
        return f"k̂ is above {threshold:.2f} in {counted(bad, len(k))}; {tail}"
    if constant.all():
        return f"All {len(k)} rows have constant weights: q is exact, or blind to another mode"
    worst = k[-1]
    return f"k̂ is below {threshold:.2f} in all {len(k)} rows; the largest is {_khat(worst, se[-1])}"


def _khat(k: float, se: float) -> str:
    if math.isinf(k):
        return "∞" if k > 0 else "−∞ (constant weights)"
    return f"{k:.2f} ± {se:.2f}".replace("-", "−")


def tail_figure(report: Report) -> Figure | None:
    """The tail of the worst row's importance ratios, and of the shared latents', with the fit."""
    found: list[tuple[str, Any]] = []
    draws, rows = report.results.get("draws"), report.results.get("psis")
    if draws is not None and rows is not None:
        row = int(array(rows.k).argmax())
        if not bool(rows.constant[row]) and (tail := _tail(draws.log_weight[:, row])):
            found.append((f"judged row {row}, the worst of {draws.num_rows}", tail))
    shared = report.results.get("global_weights")
    if shared is not None and (tail := _tail(shared.log_weight)):
        found.append(("the latents that rows share", tail))
    if not found:
        return None
    figure, panels = new_figure(len(found))
    for axes, (name, tail) in zip(np.atleast_1d(panels), found, strict=True):
        excess = array(tail.excess)
        axes.plot(excess, array(tail.exceedance), "o", color=COLOURS[0], markersize=4)
        axes.plot(excess, array(tail.fitted), color=COLOURS[1], label="generalised Pareto fit")
        axes.set(xscale="log", yscale="log")
        axes.set_xlabel("ratio p/q above the cutoff, in units of the largest")
        axes.set_ylabel(f"share of the {len(excess)} largest that is above")
        axes.legend(frameon=False, loc="lower left")
        worth = "finite variance" if tail.k < 0.5 else "infinite variance"
        worth = "no mean" if tail.k >= 1 else worth
        headline(axes, f"Tail of {name}: fitted k = {tail.k:.2f} ({worth})", len(found))
        quiet_grid(axes, "both")
    return figure


def _tail(log_weights: Tensor) -> Any:
    """The tail, or None where too few weights stand above the cutoff."""
    try:
        return tail_of(log_weights)
    except ValueError:
        return None


def bounds_figure(report: Report) -> Figure | None:
    """ELBO ≤ IWAE_k with errors; the jackknife, AIS and CUBO beside them; log p(x) if known."""
    found = report.results.get("bounds")
    if found is None:
        return None
    levels = np.array(found.levels, float)
    values = np.array([bound.mean for bound in found.ladder])
    errors = np.nan_to_num([2 * bound.se for bound in found.ladder], posinf=0.0)
    known = np.isfinite(values)
    if not known.any():
        return None
    figure, axes = new_figure()
    style = {"capsize": 3, "markersize": 6, "marker": "o", "color": COLOURS[0]}
    axes.errorbar(levels[known], values[known], errors[known], label="lower bounds", **style)
    others = [("jackknife estimate, no bound", found.jackknife, "s", COLOURS[2])]
    count = len(found.elbo.rows)
    annealed = report.results.get("annealed")
    if annealed is not None:
        others.append(_annealed(annealed.forward, found.iwae))
    others.append(("CUBO₂, no certificate at finite S", found.cubo, "x", LIGHT))
    exact = report.results.get("exact")
    level = values[known][-1] if exact is None else exact.mean
    reach = FAR * max(abs(level - values[known][0]), 4 * errors[known].max(), 1e-6)
    place = levels[-1]
    for label, estimate, marker, colour in others:
        place *= levels[-1] ** 0.09
        style |= {"marker": marker, "color": colour, "markerfacecolor": "white"}
        if not abs(estimate.mean - level) <= reach:  # it would flatten all others
            label = f"{label}: {number((estimate.mean, estimate.se), 3)}, off the scale"
            axes.plot([], [], linestyle="", marker=marker, color=colour, label=label)
            continue
        error = min(2 * estimate.se, reach)
        axes.errorbar(place, estimate.mean, error, linestyle="", label=label, **style)
    if exact is not None:
        axes.axhline(exact.mean, color="black", linewidth=1, label="log p(x), exact")
    axes.set_xscale("log")
    axes.set_xticks(levels, ["ELBO" if k == 1 else f"IWAE {k}" for k in found.levels], fontsize=8)
    axes.minorticks_off()
    axes.set_xlim(0.8, place * 1.25)
    low, high = axes.get_ylim()
    least = max(0.0, LEAST - (high - low)) / 2  # rounding is not to look like a gap
    axes.set_ylim(low - least, high + least)
    axes.set_ylabel(f"nats per datapoint, mean of {count} rows, ± 2 se")
    axes.set_xlabel("draws k in each bound")
    axes.legend(frameon=False, loc="best", fontsize=8)
    quiet_grid(axes)
    headline(axes, _bounds_said(report, found, exact))
    return figure


def _annealed(forward: Estimate, top: Estimate) -> tuple[str, Estimate, str, str]:
    """AIS of the first M rows; where not of all, by its difference to IWAE_S on those."""
    label, few = "AIS, stochastic lower bound", len(forward.rows)
    if few == len(top.rows):
        return label, forward, "D", COLOURS[3]
    away = forward.rows.double() - top.rows[:few]
    error = math.hypot(forward.se, float(away.std()) / math.sqrt(few)) if few > 1 else forward.se
    rows = top.rows + away.mean()
    moved = Estimate(rows, torch.zeros_like(rows), error)
    return f"{label} (by its difference on {few} rows)", moved, "D", COLOURS[3]


def _bounds_said(report: Report, found: Any, exact: Any) -> str:
    gap = number((found.gap.mean, found.gap.se), 3)
    said = f"IWAE {found.num_draws} − ELBO = {gap} nats: KL(q ‖ p(z | x)) is at least that"
    if exact is not None:
        away = number((exact.mean - found.elbo.mean, math.hypot(exact.se, found.elbo.se)), 3)
        said = f"The ELBO is {away} nats below log p(x), which is KL(q ‖ p(z | x))"
    sandwich = report.results.get("sandwich")
    if sandwich is not None:
        width = number((sandwich.width.mean, sandwich.width.se), 3)
        said += f". On simulated rows AIS leaves {width} nats between its two bounds"
    return said
