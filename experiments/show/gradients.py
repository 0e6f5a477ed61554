"""Tables and a picture of gradients: signal, spread and bias of every estimator against K."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from rich.table import Table

from experiments.show.figures import COLOURS, DASHES, STYLE

if TYPE_CHECKING:
    from experiments.judge.gradients import Gradients
    from zoo.diagnostics.gradient_noise import Bias

SIDES = {"model": "θ, the model", "guide": "φ, the guide"}


def gradients_tables(result: Gradients) -> list[Table]:
    """A table for each side that has a gradient, a row for each objective, K and estimator."""
    tables = []
    for side, name in SIDES.items():
        rows = []
        entries, last = 0, None
        for (objective, k), cell in result.cells.items():
            for word, sides in cell.ways.items():
                if side not in sides:
                    continue
                noise, entries = sides[side], sides[side].entries
                snr = noise.snr
                first = (objective, k) != last
                row = [objective, str(k)] if first else ["", ""]
                row += [word, figure(noise.norm.value, noise.norm.se)]
                spread = noise.variance.value**0.5
                row.append(figure(spread, noise.variance.se / (2 * spread) if spread else 0.0))
                row.append("∞" if snr is None else figure(snr.value, snr.se))
                rows.append([*row, bias_words(noise.bias)])
                last = objective, k
        if not rows:
            continue
        floor = next(iter(result.cells.values())).floor
        table = Table(
            title=f"Gradients of {name}: {entries} entries, nats per datapoint",
            title_justify="left",
            caption=f"noise alone has an SNR of {floor:.2g}; "
            "bias against the mean of the other unbiased estimators",
            caption_justify="left",
        )
        for i, head in enumerate(
            ["objective", "K", "estimator", "‖E g‖", "√tr Cov", "SNR", "bias"]
        ):
            table.add_column(head, justify="left" if i in (0, 2) else "right")
        for row in rows:
            table.add_row(*row)
        tables.append(table)
    return [*tables, *_slopes(result)]


def _slopes(result: Gradients) -> list[Table]:
    """How SNR goes with K, in logarithms, where it can be told from noise."""
    found = result.slopes()
    sides = [side for side in SIDES if any(key[0] == side for key in found)]
    if not sides:
        return []
    table = Table(
        title="b of SNR ∝ K^b", title_justify="left", caption="over K above twice the noise"
    )
    for i, head in enumerate(["objective", "estimator", *(SIDES[side] for side in sides)]):
        table.add_column(head, justify="right" if i > 1 else "left")
    for objective, word in dict.fromkeys(key[1:] for key in found):
        slopes = [found.get((side, objective, word)) for side in sides]
        cells = ["–" if b is None else f"{b.value:.2f} ± {b.se:.2f}" for b in slopes]
        table.add_row(objective, word, *cells)
    return [table]


def figure(value: float, se: float) -> str:
    """A figure of any size with its error.

    Example:
        >>> figure(0.00123456, 0.000045), figure(2.0, 0.0)
        ('0.00123 ± 4.5e-05', '2')
    """
    return f"{value:.3g} ± {se:.2g}" if se > 1e-9 * abs(value) else f"{value:.3g}"


def bias_words(bias: Bias | None) -> str:
    """A bias where it is seen, and how large an unseen one could be; none in the same draws."""
    if bias is None:
        return "not checked"
    if bias.seen:
        return figure(bias.value, bias.se)
    return f"none seen (< {bias.below:.2g})" if bias.below else "none"


def remarks(result: Gradients) -> list[str]:
    """Which estimators there are no gradients of, and whose own parameters are untrained."""
    lines = []
    if result.untrained:
        words = ", ".join(result.untrained)
        lines.append(f"{words}: with a baseline that is as at its start, since nothing trained it")
    reasons: dict[str, list[str]] = {}
    for word, why in result.refused.items():
        reasons.setdefault(why, []).append(word)
    for (objective, k), cell in result.cells.items():
        for word, why in cell.refused.items():
            reasons.setdefault(why, []).append(f"{word} ({objective}, K = {k})")
    for why, who in reasons.items():
        lines.append(textwrap.shorten(f"no {', '.join(who)}: {why}", 400, placeholder="…"))
    return lines


def gradients_figure(result: Gradients) -> Figure:
    """Above SNR, below √tr Cov, against K: a column for each side and objective.

    Hollow marks are of estimators with a bias that is seen; below the dashes is noise alone.
    """
    import matplotlib as mpl

    objectives = list(dict.fromkeys(objective for objective, _ in result.cells))
    found = {side for cell in result.cells.values() for s in cell.ways.values() for side in s}
    columns = [(side, o) for side in SIDES if side in found for o in objectives]
    with mpl.rc_context(STYLE):
        size = (3.4 * len(columns) + 0.6, 6.4)
        drawn = Figure(figsize=size, dpi=140, layout="constrained")
        axes = drawn.subplots(2, len(columns), squeeze=False, sharex=True, sharey="row")
        for column, (side, objective) in enumerate(columns):
            for i, word in enumerate(result.estimators):
                _line(axes[:, column], result, side, objective, word, i)
            floor = next(iter(result.cells.values())).floor
            axes[0, column].axhline(floor, color="#999999", linestyle="--", linewidth=0.8)
            axes[0, column].set_title(f"{SIDES[side]}: {objective}", loc="left", fontsize=10)
            axes[1, column].set_xlabel("K, particles")
        ks = sorted({k for _, k in result.cells})
        for part in axes.flat:
            part.set_xscale("log")
            part.set_yscale("log")
            part.set_xticks(ks, [str(k) for k in ks])
            part.set_xticks([], minor=True)
            part.grid(color="#EDEDED")
            part.set_axisbelow(True)
        axes[0, 0].set_ylabel("SNR, mean |E g| / sd(g)")
        axes[1, 0].set_ylabel("√tr Cov(g), nats per datapoint")
        handles: dict[str, Any] = {}
        for part in axes[0]:
            handles |= {h.get_label(): h for h in part.get_legend_handles_labels()[0]}
        drawn.legend(
            handles=list(handles.values()),
            loc="outside lower center",
            ncols=min(len(handles), 6) or 1,
            frameon=False,
            title="± 2 se; hollow: a bias is seen; dashed: the SNR of noise alone",
            title_fontsize=8,
        )
        about = result.about
        where = about["run"] or f"{about['steps']} steps"
        drawn.suptitle(
            f"Gradients of {about['model']} on {about['data']} ({where}), "
            f"{about['num_gradients']} draws of {about['num_rows']} rows",
            fontsize=11,
            fontweight="bold",
        )
        return drawn


def _line(axes: Any, result: Gradients, side: str, objective: str, word: str, i: int) -> None:
    colour = COLOURS[i % len(COLOURS)]
    cells = [
        (k, cell.ways[word][side])
        for (o, k), cell in result.cells.items()
        if o == objective and side in cell.ways.get(word, {})
    ]
    signals = [(k, n.snr.value, 2 * n.snr.se, n) for k, n in cells if n.snr is not None]
    spreads = [
        (k, v**0.5, n.variance.se / v**0.5, n) for k, n in cells if (v := n.variance.value) > 0
    ]
    for part, points in zip(axes, (signals, spreads), strict=True):
        if not points:
            continue
        ks, values, errors, noises = zip(*points, strict=True)
        dashes = DASHES[i % len(DASHES)]
        part.errorbar(
            ks, values, yerr=errors, color=colour, linestyle=dashes, capsize=2, label=word
        )
        for k, value, noise in zip(ks, values, noises, strict=True):
            hollow = noise.bias is not None and noise.bias.seen
            face = "white" if hollow else colour
            part.plot(k, value, "o", color=colour, markerfacecolor=face, markersize=5, zorder=3)
