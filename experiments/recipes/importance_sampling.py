"""Importance sampling against plain Monte Carlo, with the zero variance at q* ∝ f·p (Mattei)."""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Normal

from experiments.recipe import Published, Quantity, Recipe, Scale
from zoo.context import seeded

X, NOISE = 4.0, 0.5  # f(z) = N(4; z, 0.5²), the likelihood of one far observation
DRAWS = {"smoke": 200_000, "cpu": 4_000_000, "gpu": 20_000_000}
REPETITIONS = {"smoke": 200, "cpu": 2000, "gpu": 2000}  # of an estimate, in the figure
SIZES = (1, 3, 10, 30, 100, 300, 1000, 3000)
TOTAL = 1 + NOISE**2
BEST = (X / TOTAL, NOISE / math.sqrt(TOTAL))  # q* = N(3.2, 0.447²)
PROPOSALS = {  # name -> mean and standard deviation
    "p, plain Monte Carlo": (0.0, 1.0),
    "wide": (0.0, 3.0),
    "shifted": (3.0, 1.0),
    "near q*": (3.1, 0.5),
    "q*": BEST,
    "too narrow": (BEST[0], 0.3),
}
EXACT = math.exp(-(X**2) / (2 * TOTAL)) / math.sqrt(2 * math.pi * TOTAL)  # I = N(4; 0, 1 + 0.5²)
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00")


def importance_sampling(scale: Scale = "cpu", seed: int = 0) -> Recipe:
    """Variance of Î_K = mean f(z_k) p(z_k)/q(z_k), against q: plain, wide, near q*, q*, too narrow.

    p = N(0, 1) and f(z) = N(4; z, ½²) ≥ 0, so that I = N(4; 0, 1 + ½²) is a likelihood and the
    proposal without variance, q* = f·p/I, is the posterior N(3.2, 0.2).
    """
    rows: list[dict[str, Any]] = []
    quantities: list[Quantity] = []
    errors: dict[str, Tensor] = {}
    with seeded(seed):
        for name, proposal in PROPOSALS.items():
            variance = relative_variance(*proposal)
            finite = math.isfinite(variance)
            weight = weights(proposal, DRAWS[scale])
            mean, spread = weight.mean(), _variance(weight)
            se = float(EXACT * (weight.var() / len(weight)).sqrt())
            estimate = (float(EXACT * mean), se) if finite else float(EXACT * mean)
            rows.append(
                {
                    "q": name,
                    "mean": proposal[0],
                    "sd": proposal[1],
                    "10⁴ Î": (1e4 * float(EXACT * mean), 1e4 * se) if finite else None,
                    "variance of a draw / I²": spread if finite else spread[0],
                    "exact": variance if finite else "∞",
                }
            )
            known = Published(EXACT, "exact", "I = N(4; 0, 1.25)", rounding=1e-12)
            quantities.append(Quantity(f"I, q: {name}", estimate, known))
            form = "s²/(s*·√(2s² − s*²))·exp((m − m*)²/(2s² − s*²)) − 1"
            exact = Published(variance, "exact", form, rounding=1e-12) if finite else None
            measured = spread if finite else spread[0]
            quantities.append(Quantity(f"variance of a draw / I², q: {name}", measured, exact))
            errors[name] = _errors(proposal, REPETITIONS[scale])
    return Recipe(
        f"Importance sampling of I = E_p f = {EXACT:.4e}",
        rows,
        _figure(errors),
        {
            "x": X,
            "noise": NOISE,
            "draws": DRAWS[scale],
            "repetitions": REPETITIONS[scale],
            "proposals": {name: list(proposal) for name, proposal in PROPOSALS.items()},
        },
        [
            "The variance is of one weight f·p/q in units of I²; K draws divide it by K.",
            "A Gaussian q whose variance is half that of q* or less has infinite variance: what is "
            "measured of “too narrow” grows with the number of draws, and no error holds.",
            "The lecture has the theorem and no numbers; f, p and the proposals here are ours.",
        ],
        quantities,
    )


def relative_variance(mean: float, sd: float) -> float:
    """Var_q(f·p/q)/I² for q = N(mean, sd²); infinite where 2 sd² ≤ s*².

    Example:
        >>> relative_variance(*BEST) < 1e-12, relative_variance(3.2, 0.3)
        (True, inf)
    """
    excess = 2 * sd**2 - BEST[1] ** 2
    if excess <= 0:
        return math.inf
    scale = math.log(sd**2 / (BEST[1] * math.sqrt(excess)))
    return math.expm1(scale + (mean - BEST[0]) ** 2 / excess)


def weights(proposal: tuple[float, float], *shape: int) -> Tensor:
    """f(z)·p(z)/(q(z)·I) for draws of q; their mean is 1."""
    mean, sd = torch.tensor(proposal, dtype=torch.float64)
    q, p = Normal(mean, sd), Normal(torch.zeros_like(mean), torch.ones_like(sd))
    z = q.sample(torch.Size(shape))
    log_f = Normal(z, NOISE).log_prob(torch.full_like(z, X))
    return (log_f + p.log_prob(z) - q.log_prob(z) - math.log(EXACT)).exp()


def _variance(sample: Tensor) -> tuple[float, float]:
    """The variance of a sample, and its standard error √((m₄ − m₂²)/R)."""
    centred = (sample - sample.mean()).square()
    return float(centred.mean()), float((centred.var() / len(centred)).sqrt())


def _errors(proposal: tuple[float, float], repetitions: int) -> Tensor:
    """(sizes,): the root-mean-square error of estimates from K draws, in units of I."""
    return torch.stack(
        [(weights(proposal, k, repetitions).mean(0) - 1).square().mean().sqrt() for k in SIZES]
    )


def _figure(errors: dict[str, Tensor]) -> Figure:
    """The densities on the left; the error against K on the right, with the exact lines."""
    figure = Figure(figsize=(9.6, 4), dpi=120)
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    z = torch.linspace(-4, 7, 400, dtype=torch.float64)
    for (name, proposal), colour in zip(PROPOSALS.items(), COLOURS, strict=True):
        left.plot(z, Normal(*proposal).log_prob(z).exp().numpy(), color=colour, label=name)
        exact = relative_variance(*proposal)
        style = "o" if math.isfinite(exact) else "o--"
        if name == "q*":  # an error of zero has no place on a logarithmic axis
            continue
        right.plot(SIZES, errors[name].numpy(), style, color=colour, markersize=4)
        if math.isfinite(exact):
            right.plot(SIZES, [math.sqrt(exact / k) for k in SIZES], color=colour, linewidth=1)
    left.set(xlabel="z", ylabel="density")
    left.legend(fontsize=8)
    right.set(xscale="log", yscale="log", xlabel="draws K", ylabel="error of Î / I, rms")
    right.set_title("lines: exact; dashed: no variance; q*: nil", fontsize=9)
    return figure
