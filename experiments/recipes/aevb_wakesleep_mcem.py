"""Three ways to learn one small VAE: AEVB, wake-sleep and Monte-Carlo EM, by log p(x)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.recipe import Quantity, Recipe, Scale
from experiments.recipes._evidence import Evidence, evidence
from guides import Guide
from zoo import load_data
from zoo.context import seeded
from zoo.data import Dataset
from zoo.fitting import FitResult, fit
from zoo.models.vae import VAE

BATCH, LR, LATENTS, WIDTH = 100, 1e-3, 3, 100
LOOKS = 6  # at log p(x), each after twice the steps of the one before


class Size(NamedTuple):
    """The data, {training rows: steps}, rows judged on each side, draws of a part."""

    data: str
    steps: dict[int, int]
    judged: int
    draws: int


SIZES: dict[str, Size] = {
    "smoke": Size("digits", {200: 32, 1000: 32}, 50, 20),
    "cpu": Size("static_mnist", {1000: 10_240, 50_000: 10_240}, 200, 50),
    "gpu": Size("static_mnist", {1000: 204_800, 50_000: 614_400}, 1000, 200),
}


class Way(NamedTuple):
    """An objective, the guide's family and inference, whether it suits many rows, a colour."""

    objective: str
    family: str
    inference: str
    online: bool
    colour: str


WAYS = {
    "AEVB": Way("elbo", "mean_field", "amortized", True, "#D55E00"),
    "wake-sleep": Way("wake_sleep", "mean_field", "amortized", True, "#009E73"),
    "Monte-Carlo EM": Way("mcem", "chain", "per_datapoint", False, "#0072B2"),
}


Look = tuple[int, Evidence, Evidence]  # training rows visited so far, log p of training and of test


def aevb_wakesleep_mcem(scale: Scale = "cpu", seed: int = 0) -> Recipe:
    """AEVB, wake-sleep and Monte-Carlo EM on MNIST: Kingma and Welling (2014), figure 3.

    log p(x) of training and of test rows against the training samples visited, for few rows and for
    all; 3 latents, 100 tanh units on each side, batches of 100. log p(x) = log ∫ p(x | z) p(z) dz
    by importance sampling around its modes, the same for every method: q takes no part in it.
    """
    size = SIZES[scale]
    split = load_data(size.data, binarization="static" if size.data == "digits" else None)
    assert isinstance(split.test, Dataset)
    with seeded(seed):  # the file of static MNIST has its test rows by class
        test = split.test["x"][torch.randperm(len(split.test))[: size.judged]]
    looks: dict[tuple[int, str], list[Look]] = {}
    rows: list[dict[str, Any]] = []
    for count, steps in size.steps.items():
        train = split.train.subset(torch.arange(count))
        for name, way in WAYS.items():
            row: dict[str, Any] = {"training rows": count, "method": name}
            if not way.online and count > min(size.steps):
                rows.append(row | {"samples": "not run", "train": None, "test": None})
                continue
            looks[count, name] = _curve(way, train, test, steps, size, seed)
            for samples, *sides in looks[count, name]:
                means = zip(("train", "test"), (side.mean for side in sides), strict=True)
                rows.append(row | {"samples": samples, **dict(means)})
    return Recipe(
        f"log p(x) of {split.train.name} by three ways of learning, nats per image",
        rows,
        _figure(looks, tuple(size.steps)),
        {
            "data": size.data, "steps": {str(n): steps for n, steps in size.steps.items()},
            "judged_rows": size.judged, "draws_of_each_part": size.draws, "batch_size": BATCH,
            "optimizer": "adam", "lr": LR, "weight_decay": "1/N", "latent_dim": LATENTS,
            "hidden": WIDTH,
        },
        [
            *_order(looks),
            "A sample is a visit of a training row by a step; for Monte-Carlo EM a visit costs ten "
            "leapfrog steps beside. Not run: Monte-Carlo EM on all rows, as in the paper.",
            "log p(x) of the first training rows and of as many test rows by chance, by importance "
            "sampling from the prior and t distributions around modes: a lower bound in "
            "expectation (Jensen); ± is its Monte-Carlo error, not that of the choice of rows.",
            "Adam at one rate for all, where the paper has Adagrad at the best of three; one draw "
            "of the posterior for each step of Monte-Carlo EM, where it has one for five.",
        ],
        _quantities(rows),
    )  # fmt: skip


def _quantities(rows: Sequence[Mapping[str, Any]]) -> list[Quantity]:
    """log p(x) of the test rows at the end; the paper has a picture of it and no numbers."""
    ends = {(row["training rows"], row["method"]): row["test"] for row in rows}
    few = min(count for count, _ in ends)
    return [
        Quantity(
            f"log p(x) of test rows, {'few' if count == few else 'all'} to train, {name}", test
        )
        for (count, name), test in ends.items()
    ]


def _curve(way: Way, train: Dataset, test: Tensor, steps: int, size: Size, seed: int) -> list[Look]:
    """Fits, and looks at log p(x) after 1/32, 1/16, … and all of the steps."""
    with seeded(seed):
        model = VAE.for_data(
            train, latent_dim=LATENTS, hidden=[WIDTH], activation="tanh", likelihood="bernoulli"
        )
        encoder = {"hidden": [WIDTH], "activation": "tanh"}
        options = encoder if way.inference == "amortized" else None
        guide = Guide(model, train, way.family, way.inference, inference_options=options)
    times = {steps // 2**i for i in range(LOOKS)}
    seen, looks = train["x"][: size.judged], list[Look]()

    def look(result: FitResult) -> None:
        if result.steps in times:
            known, new = (evidence(model, x, size.draws, seed) for x in (seen, test))
            looks.append((BATCH * result.steps, known, new))

    fit(
        model, guide, train, way.objective, steps=steps, batch_size=BATCH, lr=LR, seed=seed,
        weight_decay=1 / len(train), log_every=min(times), callbacks=[look], progress=False,
    )  # fmt: skip
    return looks


def _order(looks: Mapping[tuple[int, str], Sequence[Look]]) -> list[str]:
    """In words: who is ahead at the end, by differences on the same rows."""
    lines = []
    for count in dict.fromkeys(count for count, _ in looks):
        ends = {name: curve[-1] for (n, name), curve in looks.items() if n == count}
        test = {name: new.rows for name, (_, _, new) in ends.items()}
        train = {name: seen.rows for name, (_, seen, _) in ends.items()}
        for side, at in (("test", test), ("training", train)):
            ranked = sorted(at, key=lambda name: -float(at[name].mean()))
            parts = []
            for a, b in combinations(ranked, 2):
                apart = at[a] - at[b]
                se = float(apart.std()) / math.sqrt(len(apart))
                parts.append(f"{a} − {b} {float(apart.mean()):.2f} ± {se:.2f}")
            lines.append(f"{count} training rows, at the end, {side} rows: {'; '.join(parts)}.")
    return [*lines, "± of these is over rows, of one fit each: another seed may differ by more."]


def _figure(looks: Mapping[tuple[int, str], Sequence[Look]], counts: tuple[int, ...]) -> Figure:
    """A panel for each number of training rows; full lines training, dashed ones test."""
    figure = Figure(figsize=(9.6, 4.2), dpi=120)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for axes, count in zip(panels, counts, strict=True):
        for (n, name), curve in looks.items():
            if n != count:
                continue
            samples, train, test = zip(*curve, strict=True)
            for side, style, label in ((train, "o-", f"{name}, train"), (test, "x--", "test")):
                means = [value.mean[0] for value in side]
                axes.plot(samples, means, style, markersize=4, color=WAYS[name].colour, label=label)
        axes.set(xscale="log", xlabel="training samples visited")
        axes.set_title(f"{count} training rows", fontsize=10)
        axes.legend(fontsize=7)
    panels[0].set_ylabel("log p(x), nats per image")
    return figure
