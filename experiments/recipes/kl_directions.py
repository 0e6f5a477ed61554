"""KL(q ‖ p) against KL(p ‖ q): the two examples of the CS 7643 lecture and their exact answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.recipe import Published, Quantity, Recipe, Scale

NODES = {"smoke": 40, "cpu": 80, "gpu": 120}  # of a Gauss–Hermite rule, in each dimension
SIDE, ROUNDING = 15.0, 5e-7  # the square of the trapezoid rule; exact values are met to six digits
COVARIANCE = ((2.0, 1.2), (1.2, 1.0))  # of example 1
MODES, SPREAD = ((-2.0, -1.0), (2.0, 1.0)), ((0.6, -0.2), (-0.2, 0.5))  # of example 2


@dataclass(frozen=True)
class Mixture:
    """Σ_k N(z; m_k, L_k L_kᵀ)/K of two dimensions.

    Attributes:
        loc: (K, 2), the m_k.
        scale_tril: (K, 2, 2), the L_k.
    """

    loc: Tensor
    scale_tril: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """log density (...) of z (..., 2)."""
        parts = torch.distributions.MultivariateNormal(self.loc, scale_tril=self.scale_tril)
        return parts.log_prob(z[..., None, :]).logsumexp(-1) - math.log(len(self.loc))

    def expect(self, f: Callable[[Tensor], Tensor], nodes: int) -> Tensor:
        """E f(z), by a Gauss–Hermite rule in the coordinates of each component."""
        points, weights = map(torch.from_numpy, np.polynomial.hermite_e.hermegauss(nodes))
        weights = torch.outer(weights, weights).flatten() / (2 * math.pi)
        noise = torch.cartesian_prod(points, points)[:, None, :, None]  # (n², 1, 2, 1)
        z = self.loc + (self.scale_tril @ noise)[..., 0]
        return weights @ f(z).mean(-1)

    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean (2,) and the covariance (2, 2)."""
        mean, off = self.loc.mean(0), self.loc - self.loc.mean(0)
        within = (self.scale_tril @ self.scale_tril.mT).mean(0)
        return mean, within + off.mT @ off / len(self.loc)


def divergence(a: Mixture, b: Mixture, nodes: int) -> Tensor:
    """KL(a ‖ b) by Gauss–Hermite; differentiable in both.

    Example:
        >>> unit = Mixture(torch.zeros(1, 2).double(), torch.eye(2).double()[None])
        >>> float(divergence(Mixture(unit.loc + 1, unit.scale_tril), unit, 10))
        1.0
    """
    return a.expect(lambda z: a.log_prob(z) - b.log_prob(z), nodes)


def trapezoid(a: Mixture, b: Mixture, points: int = 801) -> float:
    """KL(a ‖ b) by the trapezoid rule on a square: another rule than what is minimised."""
    axis = torch.linspace(-SIDE, SIDE, points, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    density = a.log_prob(z)
    return float((density.exp() * (density - b.log_prob(z))).sum() * (2 * SIDE / (points - 1)) ** 2)


def kl_directions(scale: Scale = "cpu", seed: int = 0) -> Recipe:
    """KL(q ‖ p) locks on a mode and is overconfident, KL(p ‖ q) covers: both fitted by gradient.

    Example 1: p a correlated Gaussian, q one with a diagonal covariance; 2: p a mixture of two
    Gaussians, q one Gaussian. Nothing here is random.
    """
    nodes = NODES[scale]
    one = _gaussian(torch.zeros(1, 2, dtype=torch.float64), COVARIANCE)
    two = _gaussian(torch.tensor(MODES, dtype=torch.float64), SPREAD)
    left, right, middle = (torch.tensor(m).double() for m in (*MODES, (0.3, 0.1)))
    cases = [
        ("1", "KL(q ‖ p)", one, fit(one, True, middle, nodes, diagonal=True)),
        ("1", "KL(p ‖ q)", one, fit(one, False, middle, nodes, diagonal=True)),
        ("2", "KL(q ‖ p), from the left", two, fit(two, True, left, nodes)),
        ("2", "KL(q ‖ p), from the right", two, fit(two, True, right, nodes)),
        ("2", "KL(p ‖ q)", two, fit(two, False, middle, nodes)),
    ]
    rows: list[dict[str, Any]] = []
    for example, name, p, q in cases:
        (mean, cov), row = q.moments(), {"example": example, "minimised": name}
        row |= {"mean 1": float(mean[0]), "mean 2": float(mean[1])}
        row |= {"variance 1": float(cov[0, 0]), "variance 2": float(cov[1, 1])}
        row["covariance"] = float(cov[0, 1])
        row |= {"KL(q ‖ p)": trapezoid(q, p), "KL(p ‖ q)": trapezoid(p, q)}
        rows.append(row)
    return Recipe(
        "Two directions of KL, q fitted to p by gradient, nats",
        rows,
        _figure(cases),
        {"nodes": nodes, "covariance": COVARIANCE, "modes": MODES, "covariance_of_modes": SPREAD},
        [
            "The lecture gives no numbers for its pictures; the covariances here are ours.",
            "From the left and from the right are two optima of KL(q ‖ p), alike by symmetry.",
        ],
        _quantities(cases, rows, nodes),
    )


def fit(p: Mixture, q_first: bool, start: Tensor, nodes: int, diagonal: bool = False) -> Mixture:
    """The Gaussian q that minimises KL(q ‖ p), or KL(p ‖ q), from N(start, I), by L-BFGS."""
    free = torch.cat([start.double(), torch.zeros(3, dtype=torch.float64)]).requires_grad_()

    def q() -> Mixture:
        low = free.new_zeros(()) if diagonal else free[4]
        scale = torch.stack([free[2].exp(), free.new_zeros(()), low, free[3].exp()])
        return Mixture(free[None, :2], scale.reshape(1, 2, 2))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = divergence(q(), p, nodes) if q_first else divergence(p, q(), nodes)
        loss.backward()
        return loss.detach()  # type: ignore[return-value]

    optimizer = torch.optim.LBFGS(
        [free],
        max_iter=200,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(closure)  # type: ignore[arg-type]
    found = q()
    return Mixture(found.loc.detach(), found.scale_tril.detach())


def _gaussian(loc: Tensor, covariance: Any) -> Mixture:
    scale = torch.linalg.cholesky(torch.tensor(covariance, dtype=torch.float64))
    return Mixture(loc, scale.expand(len(loc), 2, 2))


def _quantities(cases: list[Any], rows: list[dict[str, Any]], nodes: int) -> list[Quantity]:
    """Each optimum against what mathematics, or another quadrature, has for it."""
    ours = [dict(row) for row in rows]
    for row, (_, _, p, q) in zip(ours, cases, strict=True):  # what was minimised
        row |= {"KL(q ‖ p)": float(divergence(q, p, nodes))}
        row |= {"KL(p ‖ q)": float(divergence(p, q, nodes))}
    one, two = cases[0][2], cases[2][2]
    cov = one.moments()[1]
    precision = torch.linalg.inv(cov)
    information = 0.5 * float(cov.diagonal().log().sum() - cov.logdet())
    whole = two.moments()[1]
    marginal, matched = "the marginal variance of p", "the moments of p"
    known: list[tuple[int, str, float, str]] = []
    for i in (0, 1):
        known.append((0, f"variance {i + 1}", 1 / float(precision[i, i]), "1/Λ_ii of p"))
        known.append((1, f"variance {i + 1}", float(cov[i, i]), marginal))
        known.append((4, f"variance {i + 1}", float(whole[i, i]), matched))
    known.append((4, "covariance", float(whole[0, 1]), matched))
    for i, name in ((0, "KL(q ‖ p)"), (1, "KL(p ‖ q)")):
        known.append((i, name, information, "−½ log(1 − ρ²), the same for both directions"))
    rule = "the trapezoid rule at the fitted q"
    for i, name in ((2, "KL(q ‖ p)"), (3, "KL(q ‖ p)"), (4, "KL(p ‖ q)")):
        known.append((i, name, rows[i][name], rule))
    return [
        Quantity(
            f"{cases[i][0]}: {name} of the least {cases[i][1]}",
            (ours[i][name], 0.0),
            Published(value, "exact", source, rounding=ROUNDING),
        )
        for i, name, value, source in sorted(known, key=lambda entry: entry[0])
    ]


def _figure(cases: list[Any]) -> Figure:
    """p in green and q in red, as in the lecture; a panel each."""
    figure = Figure(figsize=(3 * len(cases), 3.1), dpi=120)
    figure.set_layout_engine("constrained")
    axis = torch.linspace(-4.5, 4.5, 121, dtype=torch.float64)
    a, b = torch.meshgrid(axis, axis, indexing="xy")
    z = torch.stack([a, b], -1)
    for axes, (example, name, p, q) in zip(figure.subplots(1, len(cases)), cases, strict=True):
        for part, colour in ((p, "#009E73"), (q, "#D55E00")):
            density = part.log_prob(z).exp()
            levels = [float(density.max()) * level for level in (0.05, 0.2, 0.5, 0.9)]
            axes.contour(a.numpy(), b.numpy(), density.numpy(), levels, colors=colour)
        axes.set_title(f"{example}: least {name}", fontsize=9)
        axes.set_aspect("equal")
    return figure
