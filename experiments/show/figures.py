"""Pictures: how far each guide is from log p(x), and the posteriors that it believes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.judge.posteriors import shown
from experiments.show.panels import LIGHT, cloud_map, densities, ellipses, intervals
from experiments.show.tables import number

if TYPE_CHECKING:
    from experiments.judge.comparison import Comparison
    from experiments.judge.selection import Selection

# Okabe and Ito's colours, which the colour-blind tell apart; the reference is black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#666666")
DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), "-.", (0, (6, 2, 1, 2, 1, 2)))
CROWDED = 8  # guides, above which each has one line of text
STYLE: dict[str, Any] = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}


def comparison_figure(comparison: Comparison) -> Figure:
    """Left the gap of every guide, right the posteriors of a few rows under all of them.

    In two dimensions or more: a map of all rows (posterior means of the reference) and, zoomed in,
    1 and 2 sd ellipses of the draws of each guide, in the first two identified latent dimensions.
    In one dimension: densities. Where latents are shared by all rows: intervals of those.

    Args:
        comparison: with at least one guide.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        shared = _has_globals(comparison)  # then the latents of rows have no meaning of their own
        view = None if shared else shown(comparison)
        only_gaps = view is None and not shared
        plane = view is not None and view.cloud is not None
        widths = [1.0] if only_gaps else [1.0, 1.0, 1.35] if plane else [1.0, 1.6]
        tall = max(5.6, 0.32 * len(comparison.outcomes))
        figure = Figure(figsize=(7 if only_gaps else 15 if plane else 12, tall), dpi=140)
        figure.set_layout_engine("constrained", w_pad=0.08, wspace=0.04)
        parts = figure.subfigures(1, len(widths), width_ratios=widths, squeeze=False)[0]
        looks = _looks(comparison)
        _gaps(parts[0].subplots(), comparison, looks)
        if view is not None and plane:
            cloud_map(parts[1].subplots(), view, comparison)
            ellipses(parts[2], view, looks)
        elif view is not None:
            densities(parts[1], view, looks)
        elif not only_gaps:
            intervals(parts[1].subplots(), comparison, looks)
        if not only_gaps:
            handles = [
                Line2D([], [], color=c, linestyle=d, linewidth=w, label=cell.label)
                for cell, (c, d, w) in looks.items()
            ]
            figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 5))
        figure.suptitle(_title(comparison), fontsize=12, fontweight="bold")
        return figure


def _title(comparison: Comparison) -> str:
    data = comparison.split.train
    mode = (
        "one frozen model" if comparison.mode == "fixed" else "each guide with a model of its own"
    )
    options = next(iter(comparison.outcomes.values()))[0].model.options
    size = f" (latent_dim {options['latent_dim']})" if "latent_dim" in options else ""
    count = len(comparison.outcomes)
    posteriors = f"{count} posteriors" if count > 1 else "one posterior"
    return f"{comparison.model}{size} on {data.name}: {posteriors}, {comparison.mode} — {mode}"


def _looks(comparison: Comparison) -> dict[Any, tuple[str, Any, float]]:
    """Colour, dashes and width of every guide; the reference solid, wide and black, drawn first."""
    others = [cell for cell in comparison.outcomes if cell != comparison.reference]
    looks = {comparison.reference: ("#000000", "-", 3.0)}
    for i, cell in enumerate(others):
        looks[cell] = (COLOURS[i % len(COLOURS)], DASHES[i % len(DASHES)], 1.6)
    return looks


def _has_globals(comparison: Comparison) -> bool:
    return comparison.outcomes[comparison.reference][0].guide.latents.global_.dim > 0


def _gaps(axes: Any, comparison: Comparison, looks: dict[Any, Any]) -> None:
    """A line a guide: gap to log p(x) or to its tightest bound, or the ELBO where there is none."""
    sides = ["test", "train"] if comparison.split.test is not None else ["train"]
    known, gaps = comparison.known, comparison.gaps
    order = [cell for cell in comparison.ranked if comparison.figure(cell, sides[0], "elbo")]
    crowded = len(order) > CROWDED
    for y, cell in enumerate(order):
        colour = looks[cell][0]
        for side, shift in zip(sides, (-0.12, 0.12), strict=False):
            value = comparison.gap(cell, side) if gaps else comparison.figure(cell, side, "elbo")
            if value is None:
                continue
            filled = side == sides[0]
            axes.errorbar(
                value[0],
                y + shift,
                xerr=2 * value[1],
                fmt="o" if filled else "s",
                color=colour,
                markerfacecolor=colour if filled else "white",
                markersize=7 if filled else 6,
                capsize=3,
            )
            if crowded and not filled:
                continue  # two figures a line would run into each other
            axes.annotate(
                number(value, 3),
                (value[0] + 2 * value[1], y + shift),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                fontsize=7 if crowded else 8,
                color=colour if filled else LIGHT,
            )
    names = [cell.label if crowded else cell.label.replace(" / ", "\n") for cell in order]
    axes.set_yticks(range(len(order)), names, fontsize=9 if len(order) <= 6 else 7)
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.margins(x=0.12)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.35 * (high - low))  # room for the figures
    axes.locator_params(axis="x", nbins=5)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#E6E6E6")
    axes.set_axisbelow(True)
    if gaps:
        axes.axvline(0, color="black", linewidth=0.8)
        evidence = "log p(x) − ELBO = KL" if known else "tightest IWAE − ELBO ≤ KL"
        axes.set_xlabel(f"{evidence}(q ‖ p(z|x)), nats per datapoint")
    else:
        axes.set_xlabel("ELBO, nats per datapoint (higher is better)")
    error = "± 2 se" if comparison.seeds == 1 else f"± 2 sd of {comparison.seeds} seeds"
    marks = ", ".join(f"{mark} {side} rows" for mark, side in zip("●□", sides, strict=False))
    what = "Gap to the evidence" if gaps else "Bound on the evidence"
    what += ", at least" if gaps and not known else ""
    axes.set_title(f"{what}\n{marks}, {error}", loc="left", fontsize=10)


def selection_figure(selection: Selection) -> Figure:
    """Left the likelihood of train and held-out rows by value, right AIC and BIC if known.

    Args:
        selection: with at least one value.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        criteria = [name for name in ("aic", "bic") if selection.lowest(name)]
        figure = Figure(figsize=(11 if criteria else 6, 4.4), dpi=140, layout="constrained")
        axes = figure.subplots(1, 2 if criteria else 1, squeeze=False)[0]
        _likelihoods(axes[0], selection)
        if criteria:
            count = len(selection.split.train)
            for name, colour, marker in zip(criteria, COLOURS, "os", strict=False):
                known = [(i, getattr(c, name)) for i, c in enumerate(selection.candidates)]
                places, values = zip(*[k for k in known if k[1] is not None], strict=True)
                low = min(values)
                heights = [(v - low) / (2 * count) for v in values]
                axes[1].plot(places, heights, color=colour, marker=marker, label=name.upper())
                best = heights.index(0.0)
                axes[1].plot(places[best], 0, "*", color=colour, markersize=16)
            axes[1].set_title("Criteria of the training rows (★ lowest)", loc="left", fontsize=10)
            axes[1].set_ylabel("(criterion − lowest) / 2N, nats per datapoint")
            axes[1].legend(frameon=False)
        for part in axes:
            part.set_xticks(
                range(len(selection.candidates)), [c.value for c in selection.candidates]
            )
            part.set_xlabel(selection.setting.partition(".")[2])
            part.grid(axis="y", color="#E6E6E6")
            part.set_axisbelow(True)
        figure.suptitle(
            f"{selection.model} on {selection.split.train.name}", fontsize=12, fontweight="bold"
        )
        return figure


def _likelihoods(axes: Any, selection: Selection) -> None:
    """Held-out and training likelihood; errors are those of the difference to the best."""
    places = range(len(selection.candidates))
    train = [selection.likelihood(c, "train").mean for c in selection.candidates]
    if selection.side == "test":
        axes.plot(places, train, color=LIGHT, marker="s", markerfacecolor="white", label="train")
    held = [selection.likelihood(c, selection.side).mean for c in selection.candidates]
    differences = [selection.difference(c) for c in selection.candidates]
    axes.errorbar(
        places,
        held,
        yerr=[2 * d.se for d in differences],
        color=COLOURS[0],
        marker="o",
        capsize=3,
        label=f"{selection.side}, ± 2 se of the paired difference to the best",
    )
    for place, value, c in zip(places, held, selection.candidates, strict=True):
        if c is selection.winner or selection.close(c):
            size = 16 if c is selection.winner else 9
            axes.plot(place, value, "*", color=COLOURS[1], markersize=size, zorder=3)
    name = {"exact": "log p(x)", "iwae": "importance-weighted bound"}[selection.figure]
    axes.set_ylabel(f"{name}, nats per datapoint")
    axes.set_title("Likelihood (★ best, small ★ within one se)", loc="left", fontsize=10)
    axes.legend(frameon=False, loc="best")
