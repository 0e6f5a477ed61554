"""Latents that q does not use: because the posterior does not either, or because q failed to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.data import Batch, as_dataset
from zoo.diagnostics.draws import WeightedDraws
from zoo.diagnostics.moments import corrected_moments
from zoo.diagnostics.psis import Psis
from zoo.diagnostics.row_kl import row_kl
from zoo.model import Model, as_model

USED, POSTERIOR, INFERENCE, UNDECIDED = (
    "not collapsed",
    "in the posterior too",
    "collapse of inference",
    "undecided",
)
MOVES = 0.01  # squared prior sd: less than that and a posterior does not move with its row
SURE = 1.96  # standard errors


@dataclass(frozen=True)
class Collapse:
    """Of U units: whether q has collapsed to the prior, and whether the posterior has.

    Attributes:
        names: of the units.
        share: (U,), the share of rows with KL(q(z_u | x) ‖ p(z_u)) < ε.
        collapsed: (U,) bool, ``share`` ≥ 1 − δ.
        mean_variance: (U,), the variance over rows of the corrected posterior mean in squared prior
            standard deviations, Monte-Carlo noise subtracted; NaN with fewer than two usable rows.
        mean_variance_se: (U,), its standard error, over draws and rows.
        sd_ratio: (U,), the mean over rows of corrected sd / prior sd.
        sd_change: (U,), mean (corrected sd / prior sd − 1)², Monte-Carlo noise subtracted.
        sd_change_se: (U,), its standard error, over draws and rows.
        verdicts: by unit: ``not collapsed``, ``in the posterior too``, ``collapse of inference`` or
            ``undecided``.
        usable: how many of the rows have a k̂ below the threshold.
        num_rows: N.
        epsilon: ε, nats.
        delta: δ.
        by_moments: units whose KL is that of Gaussians with the moments of q's draws and of the
            prior, because q or p couples them.
    """

    names: tuple[str, ...]
    share: Tensor
    collapsed: Tensor
    mean_variance: Tensor
    mean_variance_se: Tensor
    sd_ratio: Tensor
    sd_change: Tensor
    sd_change_se: Tensor
    verdicts: tuple[str, ...]
    usable: int
    num_rows: int
    epsilon: float
    delta: float
    by_moments: tuple[str, ...]

    def count(self, verdict: str) -> int:
        """How many units have this verdict."""
        return self.verdicts.count(verdict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; figures that there are not are None."""

        def plain(values: Tensor) -> list[float | None]:
            return [None if math.isnan(v) else v for v in values.tolist()]

        return {
            "names": list(self.names),
            "share": self.share.tolist(),
            "verdicts": list(self.verdicts),
            "mean_variance": plain(self.mean_variance),
            "mean_variance_se": plain(self.mean_variance_se),
            "sd_ratio": plain(self.sd_ratio),
            "sd_change": plain(self.sd_change),
            "sd_change_se": plain(self.sd_change_se),
            "usable": self.usable,
            "num_rows": self.num_rows,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "by_moments": list(self.by_moments),
        }


@torch.no_grad()
def collapse(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    draws: WeightedDraws,
    psis: Psis,
    *,
    epsilon: float = 0.01,
    delta: float = 0.01,
    max_elements: int | None = None,
) -> Collapse:
    """(ε, δ)-collapse of q by unit, and whether the exact posterior shares it.

    Formula: a unit is collapsed if KL(q(z_u | x_n) ‖ p(z_u)) < ε in a share 1 − δ of the rows. With
    m_n and s_n the importance-corrected posterior mean and sd, in units of the prior's sd and from
    its mean, V = Var_n m_n and D = mean_n (s_n − 1)² say whether the posterior moves away from the
    prior: it does where V − 1.96 se or D − 1.96 se is above 0.01 (collapse of inference: q misses
    what the row tells), it does not where V + 1.96 se and D + 1.96 se are both below (collapse that
    the posterior has too, of which no better q is the cure). Otherwise, or where fewer than half of
    the rows have a k̂ below the threshold, it is undecided.

    A q that has collapsed sees no mode that is far from the prior; neither do its weights.

    Args:
        model: p.
        guide: q for the rows of ``data``.
        data: the N rows of the draws.
        draws: with values, from ``weighted_draws``; their globals are held.
        psis: of their log weights.
        epsilon: ε, nats.
        delta: δ.
        max_elements: how many numbers the largest tensor may have.

    Raises:
        ValueError: draws without values, or of other rows; ε or δ out of range.

    Reference: Lucas, Tucker, Grosse and Norouzi, "Don't Blame the ELBO!", 2019; Dai, Wang and Wipf,
    "The Usual Suspects? Reassessing Blame for VAE Posterior Collapse", 2020.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.diagnostics.draws import weighted_draws
        >>> from zoo.diagnostics.psis import psis
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> _ = model.weight.data[:, 1].zero_()
        >>> guide = Guide(model, data, "exact")
        >>> draws = weighted_draws(model, guide, data, 1000)
        >>> collapse(model, guide, data, draws, psis(draws.log_weight, tolerance=1e-4)).verdicts
        ('not collapsed', 'in the posterior too')
    """
    model, data = as_model(model), as_dataset(data)
    if draws.needs_values().shape[1] != len(data):
        raise ValueError(f"the draws are of {draws.num_rows} rows, the data have {len(data)}")
    if not (epsilon > 0 and 0 <= delta < 1):
        raise ValueError(f"expected ε above 0 and δ in [0, 1), got {epsilon} and {delta}")
    moments = corrected_moments(draws, psis)
    prior, kl, by_moments = row_kl(model, guide, data, draws, moments, max_elements)
    share = (kl < epsilon).double().mean(0)
    collapsed, usable = share >= 1 - delta, moments.usable
    scale = prior.variance.sqrt()
    noise = moments.corrected_mean_error.square() + prior.error.square()
    away = (moments.corrected_mean - prior.mean) / scale
    variance = _mean(_deviation(away[usable]), (noise / prior.variance)[usable])
    ratio, ratio_noise = moments.corrected_sd / scale, moments.corrected_sd_error / scale
    change = _mean((ratio[usable] - 1).square(), ratio_noise[usable].square())
    count = int(usable.sum())
    return Collapse(
        names=draws.names,
        share=share,
        collapsed=collapsed,
        mean_variance=variance[0],
        mean_variance_se=variance[1],
        sd_ratio=ratio[usable].mean(0),
        sd_change=change[0],
        sd_change_se=change[1],
        verdicts=_verdicts(collapsed, variance, change, 2 * count >= len(data)),
        usable=count,
        num_rows=len(data),
        epsilon=epsilon,
        delta=delta,
        by_moments=by_moments,
    )


def _deviation(values: Tensor) -> Tensor:
    """(n, U): squared distances from the mean over rows, whose mean is the variance."""
    return (values - values.mean(0)).square() * (len(values) / max(1, len(values) - 1))


def _mean(values: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Over rows (n, U), the noise subtracted; NaN for fewer than two."""
    if len(values) < 2:
        nothing = values.new_full(values.shape[1:], torch.nan)
        return nothing, nothing
    terms = values - noise
    return terms.mean(0), terms.std(0) / math.sqrt(len(terms))


def _verdicts(
    collapsed: Tensor, variance: tuple[Tensor, Tensor], change: tuple[Tensor, Tensor], enough: bool
) -> tuple[str, ...]:
    """By unit."""
    pairs = torch.stack([*variance, *change])  # (4, U)
    value, error = pairs[::2], pairs[1::2]
    moves = (value - SURE * error > MOVES).any(0).tolist()
    still = (value + SURE * error < MOVES).all(0).tolist()
    found = []
    for gone, one, other in zip(collapsed.tolist(), moves, still, strict=True):
        known = INFERENCE if one else POSTERIOR if other else UNDECIDED
        found.append(USED if not gone else known if enough else UNDECIDED)
    return tuple(found)
