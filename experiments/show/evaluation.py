"""What a person sees of an evaluation: the ladder of bounds, and what the latents are used for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAVY
from rich.markup import escape
from rich.table import Table

from experiments.show.figures import COLOURS, STYLE
from experiments.show.panels import LIGHT
from experiments.show.tables import number

Content = Mapping[str, Any]


def evaluation_tables(content: Content) -> list[Table | str]:
    """The ladder, the other figures, and notes.

    Args:
        content: what ``evaluation.json`` holds.
    """
    ladder = Table(
        title=f"{_title(content)}\n{_settings(content)}",
        title_justify="left",
        box=SIMPLE_HEAVY,
        caption="nats per datapoint ± Monte-Carlo error; every line is an estimate of a lower "
        f"bound on log p(x){_summed_out(content)}",
        caption_justify="left",
    )
    for column in ("bound", "nats per datapoint", f"below IWAE {content['num_particles']}"):
        ladder.add_column(column, justify="left" if column == "bound" else "right")
    steps = content["ladder"]
    for k, bound, gap in zip(steps["levels"], steps["bounds"], steps["below_top"], strict=True):
        top = k == content["num_particles"]
        ladder.add_row(_name(k), _number(bound), "" if top else _number(gap))
    if content["exact"]:
        ladder.add_row("log p(x), exact", _number(content["exact"]), "")
    rest = Table(box=SIMPLE_HEAVY)
    for column in ("figure", "value", "what it is"):
        rest.add_column(column, justify="right" if column == "value" else "left")
    for row in _figures(content):
        rest.add_row(*map(escape, row))  # z[0] is no markup
    return [ladder, rest, *(f"Note: {note}." for note in content["notes"])]


def _figures(content: Content) -> list[tuple[str, str, str]]:
    """Name, value and kind of every figure that there is."""
    rows = _rows(content)
    K, nll = content["num_particles"], content["nll"]
    found = [
        (
            "NLL",
            _number(nll),
            f"−IWAE {K}: estimate, from above; for new rows ± {nll['se_data']:.3f}",
        )
    ]
    if bits := content["bits_per_dimension"]:
        found.append(
            ("bits per dimension", _number(bits), f"NLL/(D ln 2), {bits['levels']} grey levels")
        )
    extended = content.get("with_auxiliaries", False)
    z = _latents(content)
    found.append(
        (
            f"KL(q({z}|x) ‖ p({z}|x))",
            f"≥ {_number(content['kl_to_posterior'])}",
            f"lower bound: IWAE {K} − ELBO"
            + ("; z alone has no more than the whole" if extended else ""),
        )
    )
    if (kl := content["kl"]) and not extended:
        found.append((f"KL(q({z}|x) ‖ p({z}))", _number(kl["total"]), f"estimate, {rows}"))
    if mutual := content["mutual_information"]:
        few = f"estimate on {mutual['num_rows']} rows"
        found += [
            (
                "I_q(n; z)",
                _number(mutual["information"]),
                f"{few}; at most log N = {mutual['log_num_rows']:.2f}",
            ),
            ("KL(q̄(z) ‖ p(z))", _number(mutual["marginal_kl"]), f"{few}; q̄ the mean of q(z|x)"),
        ]
    if units := content["active_units"]:
        means = "means from draws" if units["sampled_means"] else "means of q"
        text = f"Var_x E_q[z|x] > {units['threshold']:g}; {means}"
        found.append(("active units", f"{units['active']} of {units['of']}", text))
    if error := content["error"]:
        found += [*_classes(error, content["calibration"], content["rows"])]
    if clusters := content["clustering"]:
        found += [
            ("clustering accuracy", f"{clusters['accuracy']:.4f}", "best one-to-one map to labels"),
            ("adjusted Rand index", f"{clusters['adjusted_rand_index']:.4f}", "against the labels"),
        ]
    return found


def _classes(error: Content, found: Content, side: str) -> Iterator[tuple[str, str, str]]:
    """How often q(y | x) is wrong, and whether it knows."""
    few = f"{error['num_rows']} labelled {side} rows"
    yield f"{side} error, %", _number(error, 100), f"argmax q(y|x) is not the label; {few}"
    yield "log loss", _number(found["log_loss"]), "−log q(y|x) of the label, nats per row"
    chance = found["ece_if_calibrated"]
    chance = number((100 * chance["mean"], 100 * chance["sd"]))
    text = f"{len(found['bins']['count'])} bins of confidence; by chance alone, if q were right,"
    yield "calibration error, %", _number(found["ece"], 100), f"{text} {chance}"
    yield "Brier score", _number(found["brier"]), "Σ_c (q(c|x) − [c is the label])², from 0 to 2"


def evaluation_figure(content: Content) -> Figure:
    """The ladder with its errors; KL and variance of the posterior mean by unit.

    Args:
        content: what ``evaluation.json`` holds.
    """
    import matplotlib as mpl

    kl, units = content["kl"], content["active_units"]
    panels = 1 + (kl is not None) + (units is not None)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.8 * panels, 4.2), dpi=140, layout="constrained")
        axes = list(figure.subplots(1, panels, squeeze=False)[0])
        _ladder(axes.pop(0), content)
        order = None
        active = dict(zip(units["names"], _active(units), strict=True)) if units else {}
        if kl is not None:
            order = sorted(range(len(kl["names"])), key=lambda i: -kl["units"][i])
            _bars(axes[0], kl["names"], kl["units"], kl["error"], order, active)
            z = _latents({**content, "with_auxiliaries": False})
            axes[0].set_title(f"KL(q({z}|x) ‖ p({z})) by unit, nats", loc="left", fontsize=10)
            if kl["not_by_unit"]:
                text = f"{', '.join(kl['not_by_unit'])}: as a whole, q or p couples its dimensions"
                axes[0].set_xlabel(text, fontsize=8)
            axes.pop(0)
        if units is not None:
            same = kl is not None and kl["names"] == units["names"]
            if not same or order is None:
                order = sorted(range(len(units["names"])), key=lambda i: -units["variance"][i])
            _bars(axes[0], units["names"], units["variance"], units["error"], order, active)
            axes[0].axhline(units["threshold"], color="black", linewidth=0.8, linestyle="--")
            axes[0].set_yscale("log")
            low = min([v for v in units["variance"] if v > 0] + [units["threshold"]])
            axes[0].set_ylim(bottom=max(low / 3, 1e-8))
            title = (
                f"Var_x E_q[z|x]: {units['active']} of {units['of']} active "
                f"(above {units['threshold']:g})"
            )
            axes[0].set_title(title, loc="left", fontsize=10)
        figure.suptitle(_title(content), fontsize=11, fontweight="bold")
        return figure


def _ladder(axes: Any, content: Content) -> None:
    """Bounds against k, with 2 standard errors."""
    steps = content["ladder"]
    values = [bound["mean"] for bound in steps["bounds"]]
    errors = [2 * bound["se"] for bound in steps["bounds"]]
    axes.errorbar(steps["levels"], values, yerr=errors, marker="o", capsize=3, color=COLOURS[0])
    axes.set_xscale("log")
    if content["exact"]:
        axes.axhline(content["exact"]["mean"], color="black", linewidth=0.8)
        axes.annotate(
            "log p(x)", (1, content["exact"]["mean"]), xytext=(0, 3), textcoords="offset points"
        )
    axes.set_xlabel("draws k")
    axes.set_ylabel("nats per datapoint, ± 2 se")
    axes.set_title("Lower bounds: ELBO (k = 1) to IWAE", loc="left", fontsize=10)
    axes.grid(axis="y", color="#E6E6E6")
    axes.set_axisbelow(True)


def _bars(
    axes: Any,
    names: list[str],
    heights: list[float],
    errors: list[float],
    order: list[int],
    active: Mapping[str, bool],
) -> None:
    """A bar a unit, pale where it is not active."""
    colours = [COLOURS[0] if active.get(names[i], True) else LIGHT for i in order]
    axes.bar(
        range(len(order)),
        [heights[i] for i in order],
        yerr=[2 * errors[i] for i in order],
        color=colours,
        ecolor="#444444",
        error_kw={"linewidth": 0.8},
    )
    if len(order) <= 30:
        turn = 90 if len(order) > 8 else 0
        axes.set_xticks(range(len(order)), [names[i] for i in order], rotation=turn, fontsize=8)
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(order)} units, pale where not active")


def _active(units: Content) -> list[bool]:
    return [value > units["threshold"] for value in units["variance"]]


def _title(content: Content) -> str:
    words = content["objective"]
    if content["kl"] is not None:  # else there is nothing for a family to act on
        words = f"{content['family']}, {content['inference']}, {words}"
    return f"{content['model']} on {content['data']}: {words}"


def _rows(content: Content) -> str:
    """How many rows, of which kind."""
    return f"{content['num_rows']} {content['rows']} rows"


def _settings(content: Content) -> str:
    """Which rows, K, binarization and seed."""
    parts = [_rows(content), f"K = {content['num_particles']}"]
    word = content["binarization"]
    if word is not None:
        drawn = content["binarization_seed"]
        parts.append(f"binarization {word}" + ("" if drawn is None else f" (seed {drawn})"))
    return ", ".join([*parts, f"seed {content['seed']}"])


def _latents(content: Content) -> str:
    """The latents that q is over: y and z, z, or z and momenta that it was drawn with."""
    labels = [] if content["kl"] is None else content["classifier"]
    return ", ".join([*labels, "z", *(["v"] if content.get("with_auxiliaries", False) else [])])


def _summed_out(content: Content) -> str:
    """What the bounds of a guide with q(y | x) make of y."""
    if not content["classifier"]:
        return ""
    y = ", ".join(content["classifier"])
    return f"; the ELBO has q({y} | x), in IWAE k {y} is summed out, which is tighter"


def _name(k: int) -> str:
    return "ELBO" if k == 1 else f"IWAE {k}"


def _number(estimate: Mapping[str, float], times: float = 1) -> str:
    return number((times * estimate["mean"], times * estimate["se"]))
