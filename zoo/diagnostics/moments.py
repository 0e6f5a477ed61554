"""Means and standard deviations of q, and what importance sampling makes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.diagnostics.draws import WeightedDraws
from zoo.diagnostics.psis import Psis

ROOM = 2**22  # numbers in a tensor


class Worst(NamedTuple):
    """The unit that q has furthest off.

    Attributes:
        name: of the unit.
        rms_shift: see ``Corrected``.
        rms_shift_se: its standard error.
        rms_log_sd_ratio: see ``Corrected``.
        rms_log_sd_ratio_se: its standard error.
        row: of the largest shift of the unit among the usable rows.
        shift: there.
        shift_error: its standard error.
    """

    name: str
    rms_shift: float
    rms_shift_se: float
    rms_log_sd_ratio: float
    rms_log_sd_ratio_se: float
    row: int
    shift: float
    shift_error: float


@dataclass(frozen=True)
class Corrected:
    """Moments of N rows and U units under q and under Pareto-smoothed importance weights.

    Attributes:
        names: of the units.
        mean: (N, U), of q, over its draws.
        sd: (N, U), of q.
        corrected_mean: (N, U), Σ_s w_s z_s.
        corrected_mean_error: (N, U), its Monte-Carlo standard error.
        corrected_sd: (N, U), the root of Σ w_s (z_s − mean)² / (1 − Σ w_s²).
        corrected_sd_error: (N, U), its Monte-Carlo standard error.
        shift: (N, U), (corrected mean − mean)/corrected sd: the error of q's mean, in standard
            deviations of the posterior (of q where the corrected one is not above 0).
        shift_error: (N, U), its Monte-Carlo standard error.
        log_sd_ratio: (N, U), log(sd/corrected sd): below 0 where q is too narrow.
        log_sd_ratio_error: (N, U), its Monte-Carlo standard error.
        usable: (N,), k̂ below the threshold of PSIS; the summaries are over these rows.
        rms_shift: (U,), √max(0, mean_n (shift² − error²)), NaN without a usable row.
        rms_shift_se: (U,), its Monte-Carlo standard error; at 0 it is on one side.
        rms_log_sd_ratio: (U,), the same of the logarithmic ratio.
        rms_log_sd_ratio_se: (U,).
    """

    names: tuple[str, ...]
    mean: Tensor
    sd: Tensor
    corrected_mean: Tensor
    corrected_mean_error: Tensor
    corrected_sd: Tensor
    corrected_sd_error: Tensor
    shift: Tensor
    shift_error: Tensor
    log_sd_ratio: Tensor
    log_sd_ratio_error: Tensor
    usable: Tensor
    rms_shift: Tensor
    rms_shift_se: Tensor
    rms_log_sd_ratio: Tensor
    rms_log_sd_ratio_se: Tensor

    def worst(self) -> Worst | None:
        """The unit with the largest of both root mean squares; None without a usable row."""
        if not bool(self.usable.any()):
            return None
        unit = int(torch.maximum(self.rms_shift, self.rms_log_sd_ratio).nan_to_num(-1.0).argmax())
        size = torch.where(self.usable, self.shift[:, unit].abs(), -1.0)
        row = int(size.nan_to_num(-1.0).argmax())
        return Worst(
            self.names[unit],
            self.rms_shift[unit].item(),
            self.rms_shift_se[unit].item(),
            self.rms_log_sd_ratio[unit].item(),
            self.rms_log_sd_ratio_se[unit].item(),
            row,
            self.shift[row, unit].item(),
            self.shift_error[row, unit].item(),
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON: by unit, over the usable rows."""
        worst = self.worst()
        figures = {
            "rms_shift": self.rms_shift,
            "rms_shift_se": self.rms_shift_se,
            "rms_log_sd_ratio": self.rms_log_sd_ratio,
            "rms_log_sd_ratio_se": self.rms_log_sd_ratio_se,
        }
        return {
            "names": list(self.names),
            "rows": len(self.usable),
            "usable": int(self.usable.sum()),
            **{k: v.tolist() if worst else None for k, v in figures.items()},
            "worst": worst._asdict() if worst else None,
        }


@torch.no_grad()
def corrected_moments(draws: WeightedDraws, psis: Psis) -> Corrected:
    """Mean and sd of each unit, by q's own draws and by the same draws under their weights.

    Formula: self-normalised importance sampling, μ̃ = Σ w_s z_s. Errors are those of the delta
    method on the draws that both have in common: the shift and the ratio change with draw s by
    D_s/σ̃ − (μ̃ − μ) V_s/(2σ̃³) and v_s/(2σ²) − V_s/(2σ̃²), with D_s = S w_s (z_s − μ̃) − (z_s − μ),
    V_s = S w_s ((z_s − μ̃)² − σ̃²), v_s = (z_s − μ)² − σ². Equal weights give 0 with error 0.

    Args:
        draws: with ``values`` (S, N, U).
        psis: of their log weights, (S, N), or (S,) where N = 1.

    Raises:
        ValueError: draws without values; weights of another shape.

    Reference: Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto Smoothed Importance Sampling", 2024;
    Yao, Vehtari, Simpson and Gelman, "Yes, but did it work?", 2018.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.diagnostics.draws import weighted_draws
        >>> from zoo.diagnostics.psis import psis
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> draws = weighted_draws(model, Guide(model, data, "exact"), data, 1000)
        >>> found = corrected_moments(draws, psis(draws.log_weight, tolerance=1e-4))
        >>> found.rms_shift.max().item(), found.shift_error.max().item() < 1e-12
        (0.0, True)
    """
    values, w = draws.needs_values(), psis.log_weights
    w = w.unsqueeze(1) if w.dim() == 1 else w
    if w.shape != values.shape[:2]:
        raise ValueError(
            f"expected weights of the same draws, {tuple(values.shape[:2])}; got {tuple(w.shape)}"
        )
    count, rows, units = values.shape
    found = torch.empty(10, rows, units, dtype=torch.float64, device=values.device)
    size = max(1, ROOM // (count * units))
    for start in range(0, rows, size):
        here = slice(start, start + size)
        z, share = values[:, here].double(), w[:, here].exp().unsqueeze(-1)
        found[:, here] = torch.stack(_moments(z, share))
    usable = psis.usable.reshape(-1) & found.isfinite().all(-1).all(0)
    mean, sd, new_mean, new_mean_error, new_sd, new_sd_error, *rest = found
    shift, shift_error, ratio, ratio_error = rest
    rms_shift, rms_shift_se = _root_mean_square(shift[usable], shift_error[usable])
    rms_ratio, rms_ratio_se = _root_mean_square(ratio[usable], ratio_error[usable])
    return Corrected(
        names=draws.names,
        mean=mean,
        sd=sd,
        corrected_mean=new_mean,
        corrected_mean_error=new_mean_error,
        corrected_sd=new_sd,
        corrected_sd_error=new_sd_error,
        shift=shift,
        shift_error=shift_error,
        log_sd_ratio=ratio,
        log_sd_ratio_error=ratio_error,
        usable=usable,
        rms_shift=rms_shift,
        rms_shift_se=rms_shift_se,
        rms_log_sd_ratio=rms_ratio,
        rms_log_sd_ratio_se=rms_ratio_se,
    )


def _moments(z: Tensor, share: Tensor) -> tuple[Tensor, ...]:
    """The first ten figures of ``Corrected``, from draws (S, B, U) and weights (S, B, 1)."""
    count, root = len(z), math.sqrt(len(z))
    start = z[:1]
    z = z - start  # so that equal draws have an sd of exactly 0
    mean, variance = z.mean(0), z.var(0)
    still = variance == 0
    new_mean = (share * z).sum(0)
    spread = (z - new_mean).square()
    new = (share * spread).sum(0) / (1 - share.square().sum(0))
    # The unit of the figures: q's own sd without a corrected one, 1 for draws that are all equal.
    old = torch.where(still, 1.0, variance)
    new = torch.where(new.isfinite() & (new > 0), new, old)
    sd, distance = new.sqrt(), new_mean - mean
    moved = count * share * (z - new_mean)
    narrowed = count * share * (spread - new)
    widened = (z - mean).square() - variance
    of_shift = (moved - (z - mean)) / sd - distance * narrowed / (2 * sd * new)
    of_ratio = widened / (2 * old) - narrowed / (2 * new)
    return (
        mean + start[0],
        variance.sqrt(),
        new_mean + start[0],
        moved.std(0) / root,
        torch.where(still, 0.0, sd),
        narrowed.std(0) / (2 * sd * root),
        distance / sd,
        of_shift.std(0) / root,
        (old / new).log() / 2,
        of_ratio.std(0) / root,
    )


def _root_mean_square(values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """(U,): of (n, U) values less their noise, and its standard error.

    (x + e)² − error² has variance 4 x² error² + 2 error⁴. Of the root r of a mean square with an
    error δ the error is √(r² + δ) − r: δ/(2r) far from 0, and √δ there.
    """
    square, noise = values.square(), errors.square()
    mean = (square - noise).mean(0).clamp_min(0)
    variance = 4 * (square - noise).clamp_min(0) * noise + 2 * noise.square()
    delta = variance.sum(0).sqrt() / len(values)
    root = mean.sqrt()
    return torch.where(mean.isfinite(), root, torch.nan), (mean + delta).sqrt() - root
