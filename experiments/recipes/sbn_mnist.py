"""Sigmoid belief networks on binarized MNIST: wake-sleep, reweighted wake-sleep, VIMCO and NVIL."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from experiments.recipe import Published, Quantity, Recipe, Scale
from guides import Guide
from zoo import load_data
from zoo.context import seeded
from zoo.data import Dataset
from zoo.engine import RunName
from zoo.evaluation import evaluate
from zoo.fitting import FitResult, fit
from zoo.models.sbn import SBN
from zoo.sources import Split

METHODS: dict[str, tuple[str, str, int]] = {  # objective, estimator of the guide, K draws of a row
    "wake-sleep": ("wake_sleep", "score", 1),
    "NVIL": ("elbo", "score", 1),
    "RWS": ("rws", "score", 5),
    "VIMCO": ("iwae", "vimco", 5),
}
COLOURS = dict(zip(METHODS, ("#000000", "#D55E00", "#0072B2", "#009E73"), strict=True))
SOURCE = "Bornschein and Bengio, “Reweighted Wake-Sleep” (2015), table 1"
PUBLISHED: dict[str, dict[str, float | None]] = {  # nats, static binarized MNIST
    "200": {"wake-sleep": 116.3, "NVIL": 113.1, "RWS": 103.1, "VIMCO": None},
    "200-200-200": {"wake-sleep": 101.3, "NVIL": 96.7, "RWS": 90.1, "VIMCO": None},
}
SETTINGS: dict[str, Any] = {"batch_size": 100, "lr": 3e-3, "schedule": "cosine"}


class Size(NamedTuple):
    """How much is done at a scale: ``draws`` weigh a test row, ``curve`` is (rows, draws)."""

    data: str
    layers: Sequence[str]
    steps: int
    seeds: int
    rows: int
    draws: int
    curve: tuple[int, int]
    run: RunName = "auto"


SIZES = {
    "smoke": Size("digits", ["8", "6-4"], 20, 2, 50, 20, (50, 4)),
    "cpu": Size("static_mnist", ["200"], 3000, 3, 1000, 500, (500, 20), "compiled"),
    "gpu": Size("static_mnist", ["200", "200-200-200"], 250_000, 3, 10_000, 10_000, (1000, 100)),
}


class Fitted(NamedTuple):
    """Negative bounds on test rows of many draws and of one, and the former against steps."""

    nll: float
    elbo: float
    curve: list[tuple[int, float]]


def sbn_mnist(scale: Scale = "cpu", seed: int = 0) -> Recipe:
    """Wake-sleep, reweighted wake-sleep, VIMCO and NVIL train a sigmoid belief network on MNIST.

    Of the same networks and as many steps: the importance-weighted bound on −log p(x) of test
    images, mean ± standard deviation over seeds, beside the table of Bornschein and Bengio.
    """
    size = SIZES[scale]
    split = load_data(size.data, binarization="static", num_test=size.rows)  # the file is by class
    rows, found = [], {}
    for deep in size.layers:
        for method, (_, _, draws) in METHODS.items():
            clock, seeds = time.perf_counter(), range(seed, seed + size.seeds)
            fits = [_fit(method, deep, split, size, each) for each in seeds]
            seconds = (time.perf_counter() - clock) / size.seeds
            found[deep, method], (nll, elbo, _) = fits, zip(*fits, strict=True)
            row = {"layers": deep, "method": method, "K": draws}
            row |= {"−log p(x)": (mean(nll), stdev(nll)), "−ELBO": (mean(elbo), stdev(elbo))}
            rows.append(row | {"seeds": size.seeds, "seconds a seed": seconds})
    return Recipe(
        f"Sigmoid belief networks on {size.data}, nats per test image",
        rows,
        _figure(found, size),
        {"data": size.data, "binarization": "static", "rows": len(split.train), "adam": SETTINGS}
        | {"test_rows": size.rows, "draws": size.draws, "steps": size.steps, "seeds": size.seeds},
        [
            f"−log p(x) is at most so much: the importance-weighted bound of {size.draws} draws, "
            f"{size.rows} test rows; ± is the sd over seeds in the rows, "
            "and the standard error in the quantities.",
            f"Each of {size.steps} steps of Adam with K draws a row, and a q that is affine layer "
            "by layer. NVIL has a learned baseline, without scaling of the signal.",
            "Of NVIL a bound by one draw is published, −ELBO, and so ours beside it.",
        ],
        _quantities(found),
    )


def _fit(method: str, layers: str, split: Split, size: Size, seed: int) -> Fitted:
    """One fit from one seed, looked at ten times on the way."""
    objective, estimator, draws = METHODS[method]
    dims, data, test = [int(d) for d in layers.split("-")], split.train, split.test
    assert test is not None
    with seeded(seed):
        model = SBN.for_data(data, latent_dims=dims, likelihood="bernoulli")
        guide = Guide(model, data, estimator=estimator, inference_options={"depth": 0})
    curve, some = [], test.subset(range(size.curve[0]))

    def bounds(rows: Dataset, draws: int, run: RunName) -> tuple[float, float]:
        found = evaluate(model, guide, rows, num_particles=draws, seed=seed, run=run)
        assert found.iwae is not None and found.elbo is not None
        return -found.iwae.mean, -found.elbo.mean

    def look(result: FitResult) -> None:
        curve.append((result.steps, bounds(some, size.curve[1], "eager")[0]))

    told: dict[str, Any] = {"objective_options": {"num_particles": draws}, "run": size.run}
    told |= {"log_every": size.steps // 10, "callbacks": [look], "seed": seed, "progress": False}
    fit(model, guide, data, objective, steps=size.steps, **told, **SETTINGS)
    return Fitted(*bounds(test, size.draws, "auto"), curve)


def _quantities(found: Mapping[tuple[str, str], Sequence[Fitted]]) -> list[Quantity]:
    """The mean over seeds and its standard error, beside the published one."""
    quantities = []
    for deep, table in PUBLISHED.items():
        for method, value in table.items():
            one, cited = method == "NVIL", ", citing the bound of Mnih and Gregor (2014)"
            source = SOURCE + cited * one
            known = value and Published(value, "memory", source, 0.05, scales=("gpu",))
            values = [f.elbo if one else f.nll for f in found.get((deep, method), ())]
            ours = (mean(values), stdev(values) / len(values) ** 0.5) if values else None
            name = f"{'−ELBO' if one else '−log p(x)'}, SBN {deep}, {method}"
            quantities.append(Quantity(name, ours, known or None))
    return quantities


def _figure(found: Mapping[tuple[str, str], Sequence[Fitted]], size: Size) -> Figure:
    """The bound on −log p(x) of some test rows against steps, a line a seed."""
    figure = Figure(figsize=(5.4 * len(size.layers), 4.2), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(size.layers), squeeze=False)
    for axes, layers in zip(panels[0], size.layers, strict=True):
        for method, colour in COLOURS.items():
            for place, one in enumerate(found[layers, method]):
                label = None if place else method
                axes.plot(*zip(*one.curve, strict=True), ".-", color=colour, label=label)
        axes.set(title=f"SBN {layers}", xlabel="steps", ylabel="−log p(x) at most, nats")
        axes.legend(fontsize=8)
    return figure
