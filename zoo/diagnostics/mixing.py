"""Whether Markov chains agree with one another, and how many independent draws theirs are worth."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import ndtri
from scipy.stats import rankdata
from torch import Tensor


def rhat(draws: Tensor) -> Tensor:
    """R̂ = √(V̂/W) of split chains after rank normalisation, the larger of that of x and |x − med|.

    W is the mean variance within half-chains and V̂ = (S−1)/S W + B/S with B/S the variance of
    their means. Draws are replaced by Φ⁻¹((rank − 3/8)/(n + 1/4)).

    Args:
        draws: (C, S, U), of C chains.

    Returns:
        (U,), float64 on the CPU; NaN for a unit that is constant or not finite.

    Raises:
        ValueError: fewer than four draws of a chain.

    Reference: Vehtari, Gelman, Simpson, Carpenter and Bürkner, "Rank-Normalization, Folding, and
    Localization: An Improved R̂", 2021.

    Example:
        >>> x = torch.randn(4, 500, 1, generator=torch.Generator().manual_seed(0))
        >>> shifted = x + torch.tensor([0.0, 0.0, 0.0, 2.0])[:, None, None]
        >>> rhat(torch.cat([x, shifted], -1)).round(decimals=1).tolist()
        [1.0, 1.3]
    """
    halves = _halves(draws)
    middle = halves.reshape(-1, halves.shape[-1]).quantile(0.5, 0)
    return torch.maximum(_ratio(_ranked(halves)), _ratio(_ranked((halves - middle).abs())))


def bulk_ess(draws: Tensor) -> Tensor:
    """C S / τ of rank-normalised split chains, τ = −1 + 2 Σ_k (ρ_2k + ρ_2k+1), Geyer's sequence.

    The pairs of autocorrelations are summed until one is below 0, and kept from rising.

    Args:
        draws: (C, S, U), of C chains.

    Returns:
        (U,), float64 on the CPU; NaN for a unit that is constant or not finite.

    Raises:
        ValueError: fewer than four draws of a chain.

    Reference: as ``rhat``; Geyer, "Practical Markov Chain Monte Carlo", 1992.

    Example:
        >>> x = torch.randn(4, 500, 1, generator=torch.Generator().manual_seed(0))
        >>> 1500 < bulk_ess(x).item() < 2500
        True
    """
    z = _ranked(_halves(draws))
    chains, count, _ = z.shape
    centred = z - z.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(centred, 2 * count, 1)
    power = spectrum.real.square() + spectrum.imag.square()
    covariance = torch.fft.irfft(power, 2 * count, 1)[:, :count] / count  # (C, S, U)
    within = z.var(1).mean(0)
    total = within * (count - 1) / count + z.mean(1).var(0)
    rho = 1 - (within - covariance.mean(0)) / total
    rho[0] = 1.0
    pairs = rho[: count // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    positive = (pairs > 0).double().cumprod(0)
    tau = -1 + 2 * (pairs.cummin(0).values * positive).sum(0)
    return chains * count / tau.clamp_min(1 / math.log10(chains * count))


def _halves(draws: Tensor) -> Tensor:
    """(2 C, S/2, U) in float64; of an odd S the draw in the middle is left out."""
    if draws.dim() != 3 or draws.shape[1] < 4:
        raise ValueError(
            f"expected (C, S, U) with four draws of each chain or more, got {tuple(draws.shape)}"
        )
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, -half:]]).detach().cpu().double()


def _ranked(x: Tensor) -> Tensor:
    """Normal scores of the ranks over all chains, by unit; NaN where a value is not finite."""
    flat = x.reshape(-1, x.shape[-1]).numpy()
    scores = ndtri((rankdata(flat, axis=0) - 0.375) / (len(flat) + 0.25))
    good = np.isfinite(flat).all(0) & (flat != flat[:1]).any(0)
    return torch.from_numpy(np.where(good, scores, np.nan)).reshape(x.shape)


def _ratio(z: Tensor) -> Tensor:
    count = z.shape[1]
    within = z.var(1).mean(0)
    return ((count - 1) / count + z.mean(1).var(0) / within).sqrt()
