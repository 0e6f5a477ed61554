"""log p(x) of a small Bernoulli VAE without its guide: importance sampling around the modes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from zoo.context import seeded, stream
from zoo.models.vae import VAE

FREEDOM = 5.0  # ν of the proposals
SEARCH, WIDE = 4096, 1.5  # points that the climbs start from, of N(0, 1.5² I)
CLIMBS, CLIMB = 8, 10  # of each row, and their steps
ROWS = 25  # at a time


@dataclass(frozen=True)
class Evidence:
    """log p(x_n) of rows in nats, and the Monte-Carlo errors of each.

    Attributes:
        rows, errors: (N,).
    """

    rows: Tensor
    errors: Tensor

    @property
    def mean(self) -> tuple[float, float]:
        """Over the rows, with its Monte-Carlo error."""
        return float(self.rows.mean()), float(self.errors.norm()) / len(self.rows)


@torch.no_grad()
def evidence(model: VAE, x: Tensor, draws: int = 50, seed: int = 0) -> Evidence:
    """log p(x_n) = log ∫ p(x_n | z) p(z) dz by importance sampling; no guide takes part.

    The proposal of a row is a mixture in equal parts of the prior and of eight t distributions
    around modes of p(z | x_n), with the inverse of I + Jᵀ diag(p (1 − p)) J there as their scale,
    J = ∂ logits/∂z. Modes are climbed to by damped Gauss–Newton steps from the best of each eighth
    of the Sobol points of N(0, 1.5² I). The same number of draws is taken of each part, which can
    only lower the error below what ``errors`` says. p̂ has no bias, so that log p̂ is too low rather
    than too high (Jensen).

    Args:
        model: Bernoulli pixels, the prior N(0, I), few latents.
        x: (N, D), zeros and ones.
        draws: of each of the nine parts, for each row.
        seed: of points and draws.

    Reference: Veach and Guibas, "Optimally Combining Sampling Techniques for Monte Carlo
    Rendering", 1995, for the mixture in equal parts.

    Example:
        >>> model, data = VAE.example()
        >>> found = evidence(model, data["x"])
        >>> found.rows.shape, found.mean[1] < 0.02
        (torch.Size([20]), True)
    """
    found = []
    with seeded(stream(seed, "evidence")):
        points = _points(model, seed)
        for rows in x.to(points).split(ROWS):
            found.append(_weighed(model, rows, *modes(model, rows, points), draws))
    return Evidence(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def log_joint(model: VAE, x: Tensor, z: Tensor) -> Tensor:
    """log p(x, z), (P, B), of x (B, D) and z (P, B, d)."""
    logits = model.decoder(z)
    like = torch.einsum("pbe,be->pb", logits, x) - softplus(logits).sum(-1)
    return like - z.square().sum(-1) / 2 - z.shape[-1] / 2 * math.log(2 * math.pi)


def modes(model: VAE, x: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Places (C, B, d) of high p(z | x), and minus a Hessian of log p(x, z) there, (C, B, d, d)."""
    logits = model.decoder(points)
    score = logits @ x.T - softplus(logits).sum(-1, keepdim=True)
    score = score - points.square().sum(-1, keepdim=True) / 2
    best = score.reshape(CLIMBS, -1, len(x)).argmax(1)  # (C, B)
    z = points.reshape(CLIMBS, -1, points.shape[-1]).gather(
        1, best.unsqueeze(-1).expand(-1, -1, points.shape[-1])
    )
    value, damping = log_joint(model, x, z), torch.ones_like(best, dtype=z.dtype)
    slope, hessian = _derivatives(model, x, z)
    for _ in range(CLIMB):
        ridge = hessian * (1 + damping[..., None, None] * torch.eye(z.shape[-1]).to(z))
        tried = z + torch.linalg.solve(ridge, slope)
        there = log_joint(model, x, tried)
        rises = there > value
        z, value = torch.where(rises.unsqueeze(-1), tried, z), torch.maximum(there, value)
        damping = damping * torch.where(rises, 0.2, 4.0)
        slope, hessian = _derivatives(model, x, z)
    return z, hessian


def _points(model: VAE, seed: int) -> Tensor:
    key = stream(seed, "points") % 2**31
    engine = torch.quasirandom.SobolEngine(model.latent_dim, scramble=True, seed=key)
    u = engine.draw(SEARCH, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    z = WIDE * math.sqrt(2) * torch.erfinv(2 * u - 1)
    return z.to(next(model.parameters()))


def _derivatives(model: VAE, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """∂ log p(x, z)/∂z (C, B, d), and I + Jᵀ diag(p (1 − p)) J (C, B, d, d)."""
    units = torch.eye(z.shape[-1]).to(z)
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        logits = model.decoder(z)
        v = torch.zeros_like(logits, requires_grad=True)
        (back,) = torch.autograd.grad(logits, z, v, create_graph=True)  # Jᵀ v
        columns = [
            torch.autograd.grad(back, v, unit.expand_as(z), retain_graph=True)[0] for unit in units
        ]
    z, p = z.detach(), logits.detach().sigmoid()  # (C, B, E)
    jacobian = torch.stack(columns, -2)  # (C, B, d, E)
    slope = torch.einsum("cbde,cbe->cbd", jacobian, x - p) - z
    return slope, units + (jacobian * (p * (1 - p)).unsqueeze(-2)) @ jacobian.mT


def _weighed(
    model: VAE, x: Tensor, centre: Tensor, hessian: Tensor, draws: int
) -> tuple[Tensor, Tensor]:
    """log p̂ (B,) and its error, from the mixture of the prior and t_ν(centre, hessian⁻¹)."""
    dim, parts = centre.shape[-1], len(centre)
    root = torch.linalg.cholesky(hessian)  # (C, B, d, d)
    normal = torch.randn(draws, *centre.shape, 1).to(x)
    chi = torch.distributions.Chi2(torch.full(centre.shape[:2], FREEDOM)).sample((draws,)).to(x)
    away = torch.linalg.solve_triangular(root.mT, normal, upper=True).squeeze(-1)
    z = centre + away * (FREEDOM / chi).sqrt().unsqueeze(-1)
    z = torch.cat([z.flatten(0, 1), torch.randn(draws, *centre.shape[1:]).to(x)])  # (P, B, d)
    off = torch.einsum("cbij,pcbi->pcbj", root, z.unsqueeze(1) - centre)  # rootᵀ (z − centre)
    log_t = (
        root.diagonal(dim1=-1, dim2=-2).log().sum(-1)
        - (FREEDOM + dim) / 2 * (off.square().sum(-1) / FREEDOM).log1p()
    )
    log_t = log_t + math.lgamma((FREEDOM + dim) / 2) - math.lgamma(FREEDOM / 2)
    log_t = log_t - dim / 2 * math.log(FREEDOM * math.pi)
    prior = -z.square().sum(-1) / 2 - dim / 2 * math.log(2 * math.pi)
    log_q = torch.cat([log_t, prior.unsqueeze(1)], 1).logsumexp(1) - math.log(parts + 1)
    log_w = (log_joint(model, x, z) - log_q).double()
    rows = log_w.logsumexp(0) - math.log(len(z))
    return rows, (log_w - rows).exp().std(0) / math.sqrt(len(z))
