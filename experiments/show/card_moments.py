"""The picture of what importance weights would correct: means and sds of q, unit by unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from experiments.show.card_axes import (
    HEIGHT,
    array,
    band_zones,
    headline,
    new_figure,
    quiet_grid,
    unit_ticks,
)
from experiments.show.figures import COLOURS
from experiments.show.panels import LIGHT
from zoo.diagnostics.card import BANDS, Z95

if TYPE_CHECKING:
    from zoo.diagnostics.report import Report

MOST_UNITS = 40  # the worst of them
MOST_DOTS = 60  # rows of each


def moments_figure(report: Report) -> Figure | None:
    """Root mean squares of shift/sd and log sd ratio, ± 95 %, over the bands; rows as pale dots."""
    kinds = (("", "moments"), (" of the latents that rows share", "global_moments"))
    there: list[tuple[str, Any]] = [(words, report.results.get(name)) for words, name in kinds]
    found = [(words, moments) for words, moments in there if _usable(moments)]
    if not found:
        return None
    figure, axes = new_figure(2, len(found), HEIGHT * len(found))
    for (left, right), (words, moments) in zip(np.reshape(axes, (-1, 2)), found, strict=True):
        _panel(left, moments, moments.shift, moments.rms_shift, moments.rms_shift_se, "shift")
        ratio, error = moments.rms_log_sd_ratio, moments.rms_log_sd_ratio_se
        _panel(right, moments, moments.log_sd_ratio, ratio, error, "spread")
        usable, rows = int(moments.usable.sum()), len(moments.usable)
        left.set_ylabel("|shift of the mean|, in posterior sds")
        right.set_ylabel("|log(sd of q/corrected sd)|")
        of = (
            ""
            if rows == 1
            else f"root mean square of {usable} rows (dots: {min(usable, MOST_DOTS)} of them)"
        )
        if usable < rows:
            of += f"; {rows - usable} with a high k̂ left out"
        for part in (left, right):
            part.set_xlabel("\n".join(filter(None, [part.get_xlabel(), of])), fontsize=8)
        shift, spread = _worst(moments, moments.rms_shift), _worst(moments, ratio)
        headline(left, f"Means{words}: {shift[0]} is off the most, {shift[1]:.2f} sd", 2)
        word = "narrow" if _signs(moments)[spread[2]] < 0 else "wide"
        text = f"Spreads{words}: {spread[0]} is off the most, log ratio {spread[1]:.2f}, too {word}"
        small = spread[1] <= BANDS["spread"].green
        headline(right, text.removesuffix(f", too {word}") if small else text, 2)
    return figure


def _usable(moments: Any) -> bool:
    return moments is not None and bool(moments.usable.any()) and bool(moments.names)


def _worst(moments: Any, values: Any) -> tuple[str, float, int]:
    place = int(np.nan_to_num(array(values), nan=-1.0).argmax())
    return moments.names[place], float(values[place]), place


def _signs(moments: Any) -> np.ndarray:
    """(U,): −1 where q is too narrow on average, else 1."""
    return np.where(array(moments.log_sd_ratio[moments.usable]).mean(0) < 0, -1, 1)


def _panel(axes: Any, moments: Any, each: Any, value: Any, error: Any, name: str) -> None:
    """The worst units first."""
    value, error = array(value), array(error)
    order = np.argsort(-np.nan_to_num(value, nan=-1.0), kind="stable")[:MOST_UNITS]
    dots = np.abs(array(each[moments.usable]))[:, order]
    if len(dots) > 1:
        some = dots[np.linspace(0, len(dots) - 1, min(len(dots), MOST_DOTS)).round().astype(int)]
        spread = np.linspace(-0.25, 0.25, len(some))[:, None] * np.ones(len(order))
        where = np.arange(len(order)) + spread
        axes.plot(where.ravel(), some.ravel(), ".", color=LIGHT, alpha=0.45, markersize=3, zorder=1)
    signs = _signs(moments)[order] if name == "spread" else np.ones(len(order))
    kinds = [(signs > 0, "o", "")]
    if name == "spread":
        kinds = [(signs > 0, "^", "q too wide"), (signs < 0, "v", "q too narrow")]
    for those, marker, label in kinds:
        if those.any():
            at = np.flatnonzero(those)
            low = np.minimum(Z95 * error[order][at], value[order][at])
            bars = np.stack([low, Z95 * error[order][at]])
            style = {"linestyle": "", "capsize": 2, "color": COLOURS[0], "markersize": 5}
            axes.errorbar(
                at,
                value[order][at],
                bars,
                marker=marker,
                label=label or None,
                clip_on=False,
                zorder=3,
                **style,
            )
    band_zones(axes, BANDS[name], float(max(np.nanmax(value + Z95 * error), dots.max(initial=0))))
    if len(kinds) > 1:
        axes.legend(frameon=False, fontsize=8, loc="upper right")
    unit_ticks(axes, [moments.names[i] for i in order], len(moments.names))
    quiet_grid(axes)
    axes.set_xlim(-0.6, len(order) - 0.4)
