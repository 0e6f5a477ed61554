"""Tighter bounds, noisier encoders: signal-to-noise of IWAE's gradients against K."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.recipe import Published, Quantity, Recipe, Scale
from zoo.context import seeded, stream
from zoo.data import Batch, Dataset
from zoo.diagnostics.gradient_noise import GradientNoise, Way, gradient_noise
from zoo.model import Model

DIM = 20
OFF = 0.01  # sd by which the parameters are moved from the optimum
PRECISION, WIDE = 2.0, 1.5  # of p(z | x) and of q, in each dimension
# scale -> K, rows, draws of a latent for each K, gradients at most
WORK: dict[str, tuple[tuple[int, ...], int, int, int]] = {
    "smoke": ((1, 16, 32, 64, 128), 64, 250_000, 200),
    "cpu": ((1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024), 256, 10_000_000, 1000),
    "gpu": (tuple(2**i for i in range(14)), 1024, 4_000_000_000, 10_000),
}
FEWEST = 40  # gradients
LAST = 4  # of the K: the slopes are fitted to these
# curve -> its side, the way whose mean and the way whose spread it has, exponent of K, colour
CURVES: dict[str, tuple[str, str, str, float, str]] = {
    "θ": ("model", "pathwise", "pathwise", 0.5, "#0072B2"),
    "φ": ("guide", "dreg", "pathwise", -0.5, "#D55E00"),
    "φ, DReG": ("guide", "dreg", "dreg", 0.5, "#009E73"),
}
THEOREM = {
    "θ": "Rainforth et al. (2018): SNR ~ √(MK)",
    "φ": "Rainforth et al. (2018): SNR ~ √(M/K)",
    "φ, DReG": "Tucker et al. (2019): SNR ~ √K",
}


class Toy(Model):
    """z ~ N(μ, I), x | z ~ N(z, I): z | x ~ N((x + μ)/2, I/2), x ~ N(μ, 2I)."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean)  # (D,)

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(self.mean, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1))


class Encoder(nn.Module):
    """q(z | x) = N(A x + b, (2/3) I)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)  # (D, D), (D,)

    def mean(self, x: Tensor) -> Tensor:
        """A x + b, (B, D)."""
        return x @ self.weight.T + self.bias

    def forward(self, batch: Batch) -> None:
        with pyro.plate("data", len(batch), dim=-1):
            pyro.sample("z", dist.Normal(self.mean(batch["x"]), WIDE**-0.5).to_event(1))


def iwae_snr(scale: Scale = "cpu", seed: int = 0) -> Recipe:
    """SNR of IWAE's gradient: √K for the model, 1/√K for the encoder, and √K with DReG.

    The Gaussian toy of Rainforth et al. (2018), all rows in each gradient (M = 1), with
    SNR = ‖E g‖ / √(tr Cov g). E g of φ is from DReG, which has the same mean as the path-wise
    gradient and little noise.
    """
    sizes, rows, draws, most = WORK[scale]
    model, guide, data = toy(rows, seed)
    ways = {name: Way(guide, {"estimator": name}) for name in ("pathwise", "dreg")}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CURVES}
    table: list[dict[str, Any]] = []
    for k in sizes:
        count = min(most, max(FEWEST, draws // (k * rows)))
        noise = gradient_noise(
            model, ways, data, "iwae", {"num_particles": k}, num_rows=rows,
            num_gradients=count, seed=stream(seed, f"K = {k}"),
        )  # fmt: skip
        row: dict[str, Any] = {"K": k, "gradients": count}
        for name, (side, signal, spread, *_) in CURVES.items():
            found[name].append(_ratio(noise, side, signal, spread))
            row[f"SNR {name}"] = found[name][-1]
        row["SNR φ, no DReG"] = _ratio(noise, "guide", "pathwise", "pathwise")
        table.append(row)
    limits, first = leading(model, guide, data["x"]), single(model, guide, data["x"])
    quantities: list[Quantity] = []
    for name, (*_, power, _) in CURVES.items():
        ours = (found[name][0], *limit(sizes, found[name], power))
        source = "closed form of the ELBO's gradient", THEOREM[name], "closed form of that limit"
        exact = zip(source, (first[name], power, limits[name]), strict=True)
        titles = ("SNR, K = 1", "slope, K → ∞", f"SNR · K^{-power}, K → ∞")
        for title, value, (form, known) in zip(titles, ours, exact, strict=True):
            quantities.append(Quantity(f"{name}: {title}", value, Published(known, "exact", form)))
    return Recipe(
        "Signal-to-noise of the gradients of IWAE on a Gaussian toy",
        table,
        _figure(sizes, found, limits),
        {"rows": rows, "dim": DIM, "off": OFF, "draws_for_each_K": draws, "K_fitted": LAST},
        [
            "p(z) = N(μ, I), x | z ~ N(z, I), q = N(Ax + b, 2I/3), 20 dimensions, parameters at "
            f"the optimum plus noise of sd {OFF}; SNR = ‖E g‖/√(tr Cov g) of all of a side's.",
            "φ's mean gradient is from DReG's draws; no DReG: from the path-wise ones alone.",
            "The paper has 1024 rows, and |E g|/sd(g) of each parameter apart (from memory).",
            f"Slopes and limits: log SNR = c + s log K + r/K, least squares, K ≥ {sizes[-LAST]}.",
        ],
        quantities,
    )


def toy(rows: int, seed: int) -> tuple[Toy, Encoder, Dataset]:
    """Data from μ ~ N(0, I), and the pair near its optimum μ = x̄, A = I/2, b = x̄/2."""
    with seeded(seed):
        x = torch.randn(DIM) + math.sqrt(2) * torch.randn(rows, DIM)
        best = x.mean(0)
        model = Toy(best + OFF * torch.randn(DIM))
        weight = 0.5 * torch.eye(DIM) + OFF * torch.randn(DIM, DIM)
        guide = Encoder(weight, best / 2 + OFF * torch.randn(DIM))
    return model, guide, Dataset({"x": x}, name="Gaussian toy")


@torch.no_grad()
def single(model: Toy, guide: Encoder, x: Tensor) -> dict[str, float]:
    """Curve -> its SNR at K = 1, exactly."""
    off, feature = _off(model, guide, x)
    ahead = (guide.mean(x) - model.mean).double()
    constant = torch.ones_like(off)
    return {
        "θ": _snr(ahead, constant / WIDE),
        "φ": _snr(-PRECISION * off, constant * PRECISION**2 / WIDE, feature),
        "φ, DReG": _snr(-PRECISION * off, constant * (PRECISION - WIDE) ** 2 / WIDE, feature),
    }


@torch.no_grad()
def leading(model: Toy, guide: Encoder, x: Tensor) -> dict[str, float]:
    """Curve -> lim SNR/K^s, s = ±½, K → ∞, in closed form.

    With w = p(z | x)/q(z | x) and Δ the mean of q minus that of p(z | x), for a row: θ has the
    mean ∇ log p(x) and the variance E w²(z − m)²/K; φ has the mean E w² g/K with DReG's
    g = ∂ log w/∂z, and the variances E w² (∂ log p(z | x)/∂z)²/K and Var(w² g − 2 E[w² g] w)/K³.
    """
    off, feature = _off(model, guide, x)

    def moments(a: int) -> tuple[Tensor, Tensor]:
        """E w^a g and E w^a g², (N, D); g = (A - P)(z - m) - A Δ, A and P the precisions."""
        mass, shift, variance = tilted(off, a)
        mean = (WIDE - PRECISION) * shift - WIDE * off
        return mass * mean, mass * (mean.square() + (WIDE - PRECISION) ** 2 * variance)

    mass, shift, variance = tilted(off, 2)
    spread = mass * (shift.square() + variance)
    e, (third, _), (_, fourth) = moments(2)[0], moments(3), moments(4)
    doubled = fourth - 4 * e * third + (4 * mass - 1) * e.square()
    return {
        "θ": _snr((x - model.mean).double() / 2, spread),
        "φ": _snr(e, PRECISION**2 * spread, feature),
        "φ, DReG": _snr(e, doubled, feature),
    }


def tilted(off: Tensor, a: int) -> tuple[Tensor, Tensor, float]:
    """(M, s, v): E_q w^a f(z) = M E f under N(m + s, v I), M (N, 1), s (N, D), of Δ = ``off``.

    Example:
        >>> tilted(torch.zeros(1, 20), 2)[0]
        tensor([[1.9067]])
    """
    precision = a * PRECISION - (a - 1) * WIDE
    log = (a * math.log(PRECISION) - (a - 1) * math.log(WIDE) - math.log(precision)) / 2
    log_mass = log + a * (a - 1) * PRECISION * WIDE / precision / 2 * off.square()
    mass = log_mass.sum(-1, keepdim=True).exp()
    return mass, -(a - 1) * WIDE / precision * off, 1 / precision


def _off(model: Toy, guide: Encoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Δ (N, D), and (1, x) (N, D + 1), by which a gradient for Ax + b is one for b and A."""
    off = guide.mean(x) - (x + model.mean) / 2
    return off.double(), torch.cat([torch.ones_like(x[:, :1]), x], -1).double()


def _snr(mean: Tensor, variance: Tensor, feature: Tensor | None = None) -> float:
    """‖E g‖/√(tr Cov g) of g = mean_n g_n ⊗ f_n, from each row's mean and variance (N, D)."""
    f = torch.ones_like(mean[:, :1]) if feature is None else feature
    trace = (variance.sum(-1) * f.square().sum(-1)).sum() / len(mean) ** 2
    return float((f.T @ mean / len(mean)).norm() / trace.sqrt())


def _ratio(noise: GradientNoise, side: str, signal: str, spread: str) -> tuple[float, float]:
    """‖E g‖ of one way over √(tr Cov g) of another, and its error to first order."""
    norm, trace = noise.ways[signal][side].norm, noise.ways[spread][side].variance
    root = math.sqrt(trace.value)
    return norm.value / root, math.hypot(norm.se, norm.value * trace.se / trace.value / 2) / root


def limit(
    sizes: Sequence[int], found: Sequence[tuple[float, float]], power: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """The s of log SNR = c + s log K + r/K with its error, and exp c of s = ``power`` with its."""
    pairs = list(zip(sizes, found, strict=True))[-LAST:]
    k, value, se = torch.tensor([(k, *pair) for k, pair in pairs], dtype=torch.float64).T
    design, w = torch.stack([torch.ones_like(k), 1 / k, k.log()], -1), (value / se).square()

    def fitted(columns: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        covariance = torch.linalg.inv(columns.T @ (w.unsqueeze(-1) * columns))
        return covariance @ columns.T @ (w * y), covariance.diagonal().sqrt()

    free, errors = fitted(design, value.log())
    held, given = fitted(design[:, :2], value.log() - power * k.log())
    level = float(held[0].exp())
    return (float(free[2]), float(errors[2])), (level, level * float(given[0]))


def _figure(
    sizes: Sequence[int],
    found: dict[str, list[tuple[float, float]]],
    limits: dict[str, float],
) -> Figure:
    """SNR against K, with the theory's lines at their level for large K."""
    figure = Figure(figsize=(6.4, 4.4), dpi=120)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    for name, (*_, power, colour) in CURVES.items():
        means, errors = zip(*found[name], strict=True)
        axes.errorbar(sizes, means, errors, fmt="o", markersize=4, color=colour, label=name)
        line = [limits[name] * k**power for k in sizes]
        axes.plot(sizes, line, color=colour, linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="draws K", ylabel="‖E g‖ / √(tr Cov g)")
    axes.set_title("lines: the leading term for large K, slopes ±½", fontsize=9)
    axes.legend(fontsize=8)
    return figure
