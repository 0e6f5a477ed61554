"""REINFORCE against reparameterization on a Gaussian: the printed table of the CS 7643 lecture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.recipe import SCALES, Published, Quantity, Recipe, Scale
from zoo.context import seeded

THETA = 2.0
SIZES = (10, 100, 1000, 10_000, 100_000)  # N of the lecture, each with 100 repetitions
REPETITIONS = 100
LECTURE = {  # the variances that it prints
    "score": (6.45307927e00, 6.80227241e-01, 8.69226368e-02, 1.00489791e-02, 8.62396526e-04),
    "path-wise": (4.59767676e-01, 4.26567475e-02, 3.33699503e-03, 5.17148975e-04, 4.65338152e-05),
}
MEANS = {
    "score": (3.8409546, 3.97298803, 4.03007634, 3.98531095, 3.99579423),
    "path-wise": (3.97775271, 4.00232825, 3.99894536, 4.00353734, 3.99995899),
}
SOURCE = "CS 7643 lecture on generative models (Batra), slide “Example”, 100 repetitions"
# scale -> draws for each N, at most so many repetitions, sizes
WORK: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "smoke": (400_000, 40_000, (1, *SIZES[:2])),
    "cpu": (10_000_000, 200_000, (1, *SIZES)),
    "gpu": (100_000_000, 2_000_000, (1, *SIZES)),
}
CHUNK = 2_000_000  # draws in memory at a time
COLOURS = {"score": "#D55E00", "b = E f": "#E69F00", "leave-one-out": "#CC79A7"}
COLOURS |= {"best b": "#009E73", "path-wise": "#0072B2"}


def gradient_estimators(scale: Scale = "cpu", seed: int = 0) -> Recipe:
    """Variance of five estimators of ∇_θ E[z²], z ~ N(θ, 1), at θ = 2, against N and the exact one.

    The score function without and with a baseline b (E f, the best constant, the mean of the other
    draws), and the path-wise estimator, each the gradient of a surrogate loss by autograd; the
    lecture's printed variances beside ours.
    """
    draws, most, sizes = WORK[scale]
    rows, quantities = [], []
    found: dict[tuple[str, int], tuple[float, float]] = {}
    with seeded(seed):
        for n in sizes:
            for name, sample in _estimates(n, min(most, max(REPETITIONS, draws // n))).items():
                found[name, n] = _variance(sample)
                mean = (float(sample.mean()), float(sample.std() / math.sqrt(len(sample))))
                row = {"estimator": name, "N": n, "repetitions": len(sample), "mean": mean}
                row["lecture's mean"] = _printed(MEANS, name, n)
                row["N · variance"] = tuple(n * value for value in found[name, n])
                rows.append(row | {"exact": n * exact(name, n)})
    for name, printed in LECTURE.items():
        for n, value in zip(SIZES, printed, strict=True):
            known = Published(value, "read", SOURCE, se=_error(name, n), scales=SCALES)
            quantities.append(Quantity(f"variance, {name}, N = {n}", found.get((name, n)), known))
    for name in SURROGATES:
        form = f"variance of N = 10 draws, {FORMULAS[name]}"
        known = Published(exact(name, 10), "exact", form)
        quantities.append(Quantity(f"variance, {name}, N = 10", found[name, 10], known))
    return Recipe(
        f"Estimators of ∇ E[z²] = {2 * THETA:.0f}, z ~ N(θ, 1), θ = {THETA:.0f}",
        sorted(rows, key=lambda row: list(SURROGATES).index(row["estimator"])),
        _figure(found, sizes),
        {"theta": THETA, "draws_for_each_size": draws, "repetitions_at_most": most},
        [
            "An estimate is the mean of N draws; ± of a variance is from the fourth moments.",
            f"The lecture's variances are each of {REPETITIONS} estimates, and so have an error of "
            "their own: 14 % and more.",
        ],
        quantities,
    )


def _score(theta: Tensor, noise: Tensor, baseline: Callable[[Tensor], Tensor | float]) -> Tensor:
    z = (theta + noise).detach()
    f = z.square()
    return (f - baseline(f)) * -0.5 * (z - theta).square()  # log p_θ(z), up to a constant


def _others(f: Tensor) -> Tensor:
    """The mean of f over the other draws of the same estimate; 0 where there are none."""
    return (f.sum(0) - f) / max(1, len(f) - 1)


SURROGATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "score": lambda theta, noise: _score(theta, noise, lambda f: 0.0),
    "b = E f": lambda theta, noise: _score(theta, noise, lambda f: THETA**2 + 1),
    "leave-one-out": lambda theta, noise: _score(theta, noise, _others),
    "best b": lambda theta, noise: _score(theta, noise, lambda f: THETA**2 + 3),
    "path-wise": lambda theta, noise: (theta + noise).square(),
}
FORMULAS = {
    "score": "(θ⁴ + 14θ² + 15)/N",
    "b = E f": "(8θ² + 10)/N",
    "leave-one-out": "(8θ² + 10 + (8θ² + 2)/(N − 1))/N",
    "best b": "(8θ² + 6)/N",
    "path-wise": "4/N",
}


def exact(name: str, n: int) -> float:
    """The variance of an estimate from n draws; one alone has nobody to leave out.

    Example:
        >>> exact("score", 10), exact("path-wise", 10), exact("leave-one-out", 1)
        (8.7, 0.4, 87.0)
    """
    t = THETA**2
    alone = t**2 + 14 * t + 15
    left = alone if n == 1 else 8 * t + 10 + (8 * t + 2) / (n - 1)
    single = {"score": alone, "b = E f": 8 * t + 10, "leave-one-out": left}
    return (single | {"best b": 8 * t + 6, "path-wise": 4.0})[name] / n


def _estimates(n: int, repetitions: int) -> dict[str, Tensor]:
    """name -> (R,) gradients; the estimators share their noise."""
    found: dict[str, list[Tensor]] = {name: [] for name in SURROGATES}
    for part in _parts(repetitions, max(1, CHUNK // n)):
        noise = torch.randn(n, part, dtype=torch.float64)
        for name, surrogate in SURROGATES.items():
            theta = torch.full((part,), THETA, dtype=torch.float64, requires_grad=True)
            (gradient,) = torch.autograd.grad(surrogate(theta, noise).mean(0).sum(), theta)
            found[name].append(gradient)
    return {name: torch.cat(parts) for name, parts in found.items()}


def _parts(total: int, size: int) -> Iterator[int]:
    for start in range(0, total, size):
        yield min(size, total - start)


def _variance(sample: Tensor) -> tuple[float, float]:
    """The variance of a sample (R,), and its standard error √((m₄ − m₂²)/R)."""
    centred = sample - sample.mean()
    second, fourth = centred.square().mean(), centred.pow(4).mean()
    return float(sample.var()), float(((fourth - second.square()) / len(sample)).sqrt())


def _error(name: str, n: int) -> float:
    """The standard error of a variance from the lecture's repetitions, by quadrature.

    The mean of n draws has kurtosis 3 + (κ − 3)/n, and a variance of R of them the standard error
    σ²·√((κ_n − 1)/R).
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    z = THETA + nodes
    draw = 2 * z if name == "path-wise" else z**2 * nodes
    draw = draw - 2 * THETA
    second, fourth = ((draw**k) @ weights / weights.sum() for k in (2, 4))
    kurtosis = 3 + (fourth / second**2 - 3) / n
    return float(second / n * math.sqrt((kurtosis - 1) / REPETITIONS))


def _printed(table: dict[str, tuple[float, ...]], name: str, n: int) -> float | None:
    return table[name][SIZES.index(n)] if name in table and n in SIZES else None


def _figure(found: dict[tuple[str, int], tuple[float, float]], sizes: tuple[int, ...]) -> Figure:
    """Variance against N, the exact lines through the points."""
    figure = Figure(figsize=(6.4, 4.4), dpi=120)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    for name in SURROGATES:
        axes.plot(sizes, [exact(name, n) for n in sizes], color=COLOURS[name], linewidth=1)
        means, errors = zip(*(found[name, n] for n in sizes), strict=True)
        axes.errorbar(sizes, means, errors, fmt="o", markersize=4, color=COLOURS[name], label=name)
    for name, values in LECTURE.items():
        axes.plot(SIZES, values, "x", markersize=7, color=COLOURS[name], label=f"{name}, lecture")
    axes.set(xscale="log", yscale="log", xlabel="draws N", ylabel="variance of the estimate")
    axes.legend(fontsize=8)
    return figure
