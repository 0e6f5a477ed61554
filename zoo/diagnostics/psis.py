"""Pareto-smoothed importance sampling: the tail index k of log weights, row by row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.diagnostics import pareto

ROOM = 2**22  # numbers in a tensor


@dataclass(frozen=True)
class Psis:
    """Smoothed importance weights and how far to trust them.

    Attributes:
        k: (...), k̂, the estimated tail index of the weights, whose moments below order 1/k exist;
            −∞ for constant weights and where more than M draws share the largest weight; +∞ where
            one to four weights stand above the cutoff, or all are zero.
        se: (...), its asymptotic standard error (1 + k̂)/√M; 0 where k̂ = −∞.
        log_weights: (S, ...), smoothed, log Σ_s exp = 0.
        ess: (...), 1/Σ_s w_s², of the smoothed weights: between 1 and S.
        ess_fraction: (...), ess/S, an estimate of (E w)²/E w².
        ess_fraction_se: (...), its standard error by the delta method; too small where k̂ > ½.
        threshold: min(1 − 1/log₁₀ S, 0.7); means under weights with a larger k̂ are not to be
            trusted with S draws.
        constant: (...) bool, sd of log w below the tolerance: q is the exact posterior, or blind to
            another mode, and nothing is smoothed.
        num_tail: M, the weights that are smoothed.
    """

    k: Tensor
    se: Tensor
    log_weights: Tensor
    ess: Tensor
    ess_fraction: Tensor
    ess_fraction_se: Tensor
    threshold: float
    constant: Tensor
    num_tail: int

    @property
    def num_draws(self) -> int:
        """S."""
        return len(self.log_weights)

    @property
    def usable(self) -> Tensor:
        """(...) bool, where k̂ is below the threshold."""
        return self.k < self.threshold

    def as_dict(self) -> dict[str, Any]:
        """For JSON: shares and quantiles over rows; None stands for an infinite k̂."""
        k, ess = self.k.flatten(), self.ess_fraction.flatten()
        levels = torch.tensor([0.5, 0.9, 1.0], dtype=k.dtype, device=k.device)
        finite = [v if math.isfinite(v) else None for v in _nearest(k, levels).tolist()]
        return {
            "num_draws": self.num_draws,
            "num_tail": self.num_tail,
            "threshold": self.threshold,
            "k": dict(zip(("median", "q90", "max"), finite, strict=True)),
            "above_threshold": (~self.usable).double().mean().item(),
            "above_1": (k >= 1).double().mean().item(),
            "constant": self.constant.double().mean().item(),
            "ess_fraction": {"median": ess.median().item(), "min": ess.min().item()},
        }


@dataclass(frozen=True)
class Tail:
    """The tail of one row's weights, for a plot with two logarithmic axes.

    Attributes:
        excess: (L,), how far each weight of the tail is above the cutoff, rising, in units of the
            largest weight.
        exceedance: (L,), the share 1 − (i − ½)/L of the tail that is larger.
        fitted: (L,), the same by the fitted distribution, (1 + k x/σ)^(−1/k).
        k: of the fit.
        sigma: of the fit.
    """

    excess: Tensor
    exceedance: Tensor
    fitted: Tensor
    k: float
    sigma: float


@torch.no_grad()
def psis(log_weights: Tensor, *, tolerance: float = 1e-8) -> Psis:
    """The M = ⌈min(S/5, 3√S)⌉ largest weights, replaced by quantiles of a Pareto fitted to them.

    Formula: a generalized Pareto distribution is fitted to what the largest weights have above the
    (M + 1)-th (see ``pareto.fit``), and the i-th of them becomes its (i − ½)/M quantile, at most
    the largest raw weight.

    On a finite number of draws k̂ is drawn to ½ and follows the tail where the draws are: weights
    whose tail is a power only in the limit, as those of Gaussians are, have k̂ below its limit.

    Args:
        log_weights: (S, ...), draws first; any constant may be added to each row. −∞ is a weight of
            zero.
        tolerance: weights whose log has a smaller standard deviation are constant; 1e-5 takes in
            the rounding of a float32 model.

    Raises:
        ValueError: fewer than 25 draws; NaN or +∞.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto Smoothed Importance Sampling", 2024.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> found = psis(torch.randn(4000, 3, generator=rng).square() * 0.3)
        >>> found.k.shape, found.num_tail, bool((found.k - 0.6).abs().max() < 0.3)
        (torch.Size([3]), 190, True)
    """
    draws = log_weights.shape[0] if log_weights.dim() else 0
    if draws < 25:
        raise ValueError(f"the tail of the weights needs 25 draws or more along the first: {draws}")
    if bool((log_weights.isnan() | (log_weights == torch.inf)).any()):
        raise ValueError(
            "log weights are NaN or +∞; look for a model or a guide that is not finite on some row"
        )
    shape = log_weights.shape[1:]
    flat = log_weights.detach().reshape(draws, -1)
    like = {"dtype": torch.float64, "device": flat.device}
    smooth = torch.empty(flat.shape, **like)
    figures = torch.empty(3, flat.shape[1], **like)
    constant = torch.empty(flat.shape[1], dtype=torch.bool, device=flat.device)
    for start in range(0, flat.shape[1], max(1, ROOM // draws)):
        here = slice(start, start + max(1, ROOM // draws))
        x = flat[:, here].T.double()
        constant[here] = x.std(-1) < tolerance
        weights, k = _smoothed(x, constant[here])
        smooth[:, here] = weights.T
        figures[:, here] = torch.stack([k, *_ess(weights)])
    k, fraction, error = figures.reshape(3, *shape)
    constant = constant.reshape(shape)
    return Psis(
        k=k,
        se=torch.where(k == -torch.inf, 0.0, (1 + k) / math.sqrt(tail_length(draws))),
        log_weights=smooth.reshape(log_weights.shape),
        ess=fraction * draws,
        ess_fraction=fraction,
        ess_fraction_se=error,
        threshold=min(1 - 1 / math.log10(draws), 0.7),
        constant=constant,
        num_tail=tail_length(draws),
    )


def tail_length(draws: int) -> int:
    """M."""
    return math.ceil(min(draws / 5, 3 * math.sqrt(draws)))


@torch.no_grad()
def tail_of(log_weights: Tensor) -> Tail:
    """The tail that ``psis`` fits, of one row of log weights (S,), and the fit beside it.

    Raises:
        ValueError: another shape; fewer than five weights above the cutoff.
    """
    if log_weights.dim() != 1:
        raise ValueError(f"expected the log weights of one row, (S,): {tuple(log_weights.shape)}")
    x = log_weights.detach().double()[None]
    _, tail, cutoff = _tail(x - x.max())
    excess = (tail[tail > cutoff].exp() - cutoff.exp()[0]).flatten()
    if len(excess) < 5:
        raise ValueError(f"only {len(excess)} weights are above the cutoff; five are needed")
    k, sigma = pareto.fit(excess[None])
    return Tail(
        excess=excess,
        exceedance=1 - _middles(len(excess), excess),
        fitted=pareto.survival(excess, k, sigma),
        k=k.item(),
        sigma=sigma.item(),
    )


def _tail(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places and values (N, M) of the largest of x (N, S), rising, and the cutoff (N,)."""
    count = tail_length(x.shape[-1])
    top, place = x.topk(count + 1)
    cutoff = top[:, -1].clamp_min(math.log(torch.finfo(x.dtype).tiny))
    return place[:, :-1].flip(-1), top[:, :-1].flip(-1), cutoff


def _middles(count: int, like: Tensor) -> Tensor:
    """(i − ½)/L."""
    return torch.arange(0.5, count, dtype=like.dtype, device=like.device) / count


def _smoothed(x: Tensor, constant: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised log weights (N, S) and k (N,) of log weights (N, S)."""
    none = (x == -torch.inf).all(-1)
    x = torch.where((constant | none)[:, None], 0.0, x - x.max(-1, keepdim=True).values)
    place, tail, cutoff = _tail(x)
    count = tail.shape[-1]
    k = torch.where((cutoff == 0) & ~none, -torch.inf, torch.inf).to(x)
    lengths = (tail > cutoff[:, None]).sum(-1)  # shorter where weights are equal or next to zero
    for length in lengths.unique().tolist():
        room = max(1, 8 * ROOM // (count * (30 + int(count**0.5))))
        for rows in (lengths == length).nonzero().flatten().split(room if length > 4 else len(x)):
            if length <= 4:
                continue
            base = cutoff[rows].exp()[:, None]
            tip = place[rows, count - length :]
            shape, sigma = pareto.fit(tail[rows, count - length :].exp() - base)
            found = (pareto.quantile(_middles(length, x), shape, sigma) + base).log().clamp_max(0)
            fitted = shape.isfinite() & (sigma > 0)
            found = torch.where(fitted[:, None], found, tail[rows, count - length :])
            x[rows[:, None], tip] = found
            k[rows] = torch.where(fitted, shape, torch.inf)
    weights = x - x.logsumexp(-1, keepdim=True)
    return torch.where(none[:, None], torch.nan, weights), k


def _ess(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """(N,): 1/(S Σ w²) of normalised log weights (N, S), and its standard error."""
    draws = log_weights.shape[-1]
    w = log_weights.exp() * draws
    second = w.square().mean(-1, keepdim=True)
    fraction = 1 / second
    change = 2 * fraction * (w - 1) - fraction**2 * (w.square() - second)
    found, error = fraction.squeeze(-1), change.std(-1) / math.sqrt(draws)
    return found.nan_to_num(0.0), error.nan_to_num(0.0)


def _nearest(values: Tensor, levels: Tensor) -> Tensor:
    """Quantiles that are among the values, of which some may be infinite."""
    place = (levels * (values.numel() - 1)).round().long()
    return values.sort().values[place]
