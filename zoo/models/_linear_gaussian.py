"""x = W z + μ + ε with z ~ N(0, I) and ε ~ N(0, diag(v)): what is known in closed form."""

import math

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor

from zoo.nets import affine, cholesky


def _natural(
    x: Tensor, weight: Tensor, mean: Tensor, variance: Tensor, observed: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Residual x − μ, precision r, and the posterior's M = I + Wᵀ diag(r) W and b = Wᵀ r (x − μ).

    A missing entry has precision 0, so its value plays no part.
    """
    residual = x - mean  # (..., D)
    precision = variance.reciprocal()  # (..., D)
    if observed is not None:
        residual = torch.where(observed, residual, 0.0)
        precision = torch.where(observed, precision, 0.0)
    identity = torch.eye(weight.shape[-1], dtype=x.dtype, device=x.device)
    M = identity + weight.mT @ (precision.unsqueeze(-1) * weight)  # (..., d, d)
    b = affine(residual * precision, weight.mT)  # (..., d)
    return residual, precision, M, b


def log_evidence(
    x: Tensor, weight: Tensor, mean: Tensor, variance: Tensor, observed: Tensor | None = None
) -> Tensor:
    """log N(x; μ, W Wᵀ + diag(v)) of the observed entries, at cost D d² (matrix inversion lemma).

    Args:
        x: (..., D); missing entries may hold any number.
        weight: (..., D, d).
        mean: (..., D).
        variance: (..., D), v.
        observed: (..., D) bool, or None if nothing is missing.

    Returns:
        (...), nats.
    """
    residual, precision, M, b = _natural(x, weight, mean, variance, observed)
    factor = cholesky(M)
    log_det_M = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_norm = (2 * math.pi * variance).log()  # (..., D)
    if observed is not None:
        log_norm = torch.where(observed, log_norm, 0.0)
    # (x − μ)ᵀ Σ⁻¹ (x − μ) as a sum of squares: with m = M⁻¹ b the posterior mean, |x − μ − W m|² in
    # the metric r, plus |m|². The usual difference of two large numbers loses digits in float32.
    m = affine(b, torch.cholesky_inverse(factor))
    square = ((residual - affine(m, weight)).square() * precision).sum(-1) + m.square().sum(-1)
    return -0.5 * (square + log_det_M + log_norm.sum(-1))


def posterior(
    x: Tensor, weight: Tensor, mean: Tensor, variance: Tensor, observed: Tensor | None = None
) -> MultivariateNormal:
    """p(z | x) = N(M⁻¹ b, M⁻¹), batch (...), event (d,); arguments as in `log_evidence`."""
    _, _, M, b = _natural(x, weight, mean, variance, observed)
    flipped = cholesky(M.flip(-2, -1)).flip(-2, -1).mT  # lower triangular, M = flippedᵀ flipped
    identity = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device).expand_as(M)
    tril = torch.linalg.solve_triangular(flipped, identity, upper=False)  # M⁻¹ = tril trilᵀ
    return MultivariateNormal(affine(affine(b, tril.mT), tril), scale_tril=tril)


def degrees_of_freedom(data_dim: int, latent_dim: int, num_noise: int) -> int:
    """The dimension of the set of covariances W Wᵀ + diag(v): D d − d(d−1)/2 + V, if there is room.

    W R and W give one covariance, which takes d(d−1)/2 off; no set of covariances has more than
    D(D+1)/2 dimensions. V is the number of free variances in v, 1 or D.

    Reference: Tipping & Bishop, Probabilistic principal component analysis, 1999.

    >>> degrees_of_freedom(4, 1, 1), degrees_of_freedom(4, 2, 4), degrees_of_freedom(4, 3, 4)
    (5, 10, 10)
    """
    d = min(latent_dim, data_dim)
    free = data_dim * d - d * (d - 1) // 2 + num_noise
    return min(free, data_dim * (data_dim + 1) // 2)


def covariance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) with 1/n of the rows (N, D), in float64."""
    x = x.double()
    mean = x.mean(0)
    return mean, (x - mean).mT @ (x - mean) / len(x)


def principal_loadings(cov: Tensor, latent_dim: int) -> tuple[Tensor, Tensor]:
    """W = U_d (Λ_d − σ²)^½ and σ² = mean of the discarded eigenvalues of a covariance (D, D).

    The maximum-likelihood loadings and noise variance of PPCA.

    Reference: Tipping & Bishop, Probabilistic principal component analysis, 1999.
    """
    values, vectors = torch.linalg.eigh(cov)  # rising
    variance = values[:-latent_dim].mean()
    kept = (values[-latent_dim:] - variance).clamp_min(0.0)
    return (vectors[:, -latent_dim:] * kept.sqrt()).flip(1), variance


def factor_loadings(
    cov: Tensor, latent_dim: int, *, tol: float = 1e-9, max_iter: int = 20_000
) -> tuple[Tensor, Tensor]:
    """Maximum-likelihood loadings (D, d) and uniquenesses (D,) of a covariance (D, D).

    With λ_j, u_j the eigenpairs of Ψ^-½ S Ψ^-½, the best W for a given Ψ is
    Ψ^½ U_d (Λ_d − I)^½; then ψ = diag(S − W Wᵀ). Stops when no log ψ moves by `tol`.

    Reference: Rubin & Thayer, EM algorithms for ML factor analysis, 1982.
    """
    variance = cov.diagonal()
    psi = variance.clone()  # (D,)
    while True:
        scale = psi.sqrt()
        values, vectors = torch.linalg.eigh(cov / (scale[:, None] * scale))
        kept = (values[-latent_dim:] - 1).clamp_min(0.0)
        weight = (scale[:, None] * vectors[:, -latent_dim:] * kept.sqrt()).flip(1)
        before, psi = psi, (variance - weight.square().sum(1)).maximum(1e-6 * variance)
        max_iter -= 1
        if max_iter == 0 or (psi / before).log().abs().max() < tol:
            return weight, psi
