"""q against the posterior of the rows, where the model knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.context import seeded, stream, validation
from zoo.data import Batch, as_dataset
from zoo.diagnostics.draws import room, unit_names
from zoo.diagnostics.replicates import Pair
from zoo.exact import knows, posterior
from zoo.model import Model, as_model
from zoo.sites import Latents, Sites
from zoo.weights import log_weights


@dataclass(frozen=True)
class AgainstExact:
    """Means and standard deviations of q(z | x_n) against those of p(z | x_n).

    Attributes:
        names: of the U units, such as z[0].
        bias: (N, U), (E_q − E_p)/sd_p.
        log_sd_ratio: (N, U), log sd_q/sd_p: below 0 where q is too narrow.
        rms_bias: (U,), the root mean square over rows, the noise of draws subtracted.
        rms_bias_error: (U,), its Monte-Carlo standard error, 0 where no draws were needed.
        rms_log_sd_ratio: (U,), as ``rms_bias``.
        rms_log_sd_ratio_error: (U,).
        mean_log_sd_ratio: (U,), over rows, where too wide and too narrow cancel.
        mean_log_sd_ratio_error: (U,), its Monte-Carlo standard error.
        num_rows: N.
        num_draws: S, of each row, of what has no moments in closed form; 0 where all has.
        seed: of the rows and draws.
    """

    names: tuple[str, ...]
    bias: Tensor
    log_sd_ratio: Tensor
    rms_bias: Tensor
    rms_bias_error: Tensor
    rms_log_sd_ratio: Tensor
    rms_log_sd_ratio_error: Tensor
    mean_log_sd_ratio: Tensor
    mean_log_sd_ratio_error: Tensor
    num_rows: int
    num_draws: int
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON, by unit."""
        return {
            "names": list(self.names),
            "rms_bias": self.rms_bias.tolist(),
            "rms_bias_error": self.rms_bias_error.tolist(),
            "rms_log_sd_ratio": self.rms_log_sd_ratio.tolist(),
            "rms_log_sd_ratio_error": self.rms_log_sd_ratio_error.tolist(),
            "mean_log_sd_ratio": self.mean_log_sd_ratio.tolist(),
            "mean_log_sd_ratio_error": self.mean_log_sd_ratio_error.tolist(),
            "num_rows": self.num_rows,
            "num_draws": self.num_draws,
            "seed": self.seed,
        }


@torch.no_grad()
def against_exact(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    *,
    num_draws: int = 1000,
    num_rows: int = 2000,
    seed: int = 0,
    max_elements: int | None = None,
) -> AgainstExact:
    """(E_q[z] − E_p[z])/sd_p and log(sd_q/sd_p) of every row and unit, p(z | x) being exact.

    Moments are in closed form where p(z | x) and q know theirs, as Gaussians and mixtures do; those
    of others are over S draws. The mean square of the bias is then less by its noise,
    (sd_q²/S + …)/sd_p², and not below 0.

    Args:
        model: p, with ``posterior(x)`` over the continuous local latents.
        guide: q for the rows of ``data``; a point mass has a ratio of −∞.
        data: N rows.
        num_draws: S.
        num_rows: N, at most: beyond that rows are chosen at random.
        seed: of the rows and draws.
        max_elements: how many numbers the largest tensor may have.

    Raises:
        ValueError: a model without a posterior, or one that does not condition on what the data
            hold; fewer than 20 draws.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> found = against_exact(model, Guide(model, data, "exact"), data)
        >>> found.names, bool(found.rms_bias.max() < 1e-6)
        (('z[0]', 'z[1]'), True)
    """
    if num_draws < 20:
        raise ValueError(f"num_draws counts from 20, got {num_draws}")
    model, data = as_model(model), as_dataset(data)
    data = data.without(*data.partial).fixed()
    if not knows(model, "posterior"):
        raise ValueError(
            f"{type(model).__name__} does not know its posterior; compare with draws of a long "
            "Markov chain by against_reference"
        )
    parts, sampled = [], False
    with seeded(stream(seed, "against exact"), model.device), validation(False):
        index = torch.randperm(len(data))[:num_rows].sort().values
        pair = Pair.of(model, guide, data)
        sites = Latents.find(model, pair.head).local
        most = max_elements or room(model)
        for part in index.split(max(1, most // (max(pair.width, sites.dim) * num_draws))):
            batch = data.batch(part).to(model.device)
            exact = _moments(posterior(model, batch), num_draws, len(batch))
            ours = _of_guide(model, guide, batch, sites, num_draws)
            sampled = sampled or exact[2] is not None or ours[2] is not None
            parts.append((*_compared(ours, exact, num_draws),))
    bias, bias_noise, ratio, ratio_noise = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    rms_bias, rms_bias_error = _rms(bias, bias_noise)
    rms_ratio, rms_ratio_error = _rms(ratio, ratio_noise)
    return AgainstExact(
        names=unit_names(sites),
        bias=bias,
        log_sd_ratio=ratio,
        rms_bias=rms_bias,
        rms_bias_error=rms_bias_error,
        rms_log_sd_ratio=rms_ratio,
        rms_log_sd_ratio_error=rms_ratio_error,
        mean_log_sd_ratio=ratio.mean(0),
        mean_log_sd_ratio_error=ratio_noise.sum(0).sqrt() / len(ratio),
        num_rows=len(bias),
        num_draws=num_draws if sampled else 0,
        seed=seed,
    )


def _rms(values: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """√max(0, mean_n (v² − noise)) of (N, U), and its Monte-Carlo error, on one side at 0."""
    square = values.square() - noise
    error = (4 * square.clamp_min(0) * noise + 2 * noise.square()).sum(0).sqrt() / len(values)
    mean = square.mean(0).clamp_min(0)
    return mean.sqrt(), (mean + error).sqrt() - mean.sqrt()


Moments = tuple[Tensor, Tensor, Tensor | None]  # mean, variance (B, U); kurtosis of draws


def _moments(q: Any, num_draws: int, rows: int) -> Moments:
    """Of a distribution of batch (B,): in closed form, else of draws."""
    try:
        mean, variance = q.mean, q.variance
    except (NotImplementedError, AttributeError):
        return _of_draws(q.sample((num_draws,)).reshape(num_draws, rows, -1))
    if not bool(mean.isfinite().all() and variance.isfinite().all()):
        return _of_draws(q.sample((num_draws,)).reshape(num_draws, rows, -1))
    return mean.reshape(rows, -1).double(), variance.reshape(rows, -1).double(), None


def _of_draws(z: Tensor) -> Moments:
    """From draws (S, B, U)."""
    z = z.double()
    mean, variance = z.mean(0), z.var(0)
    fourth = (z - mean).pow(4).mean(0)
    return mean, variance, fourth / variance.square().clamp_min(1e-300)


def _of_guide(model: Model, guide: Any, batch: Batch, sites: Sites, num_draws: int) -> Moments:
    """Of q, in the sites' own space."""
    if sites.identity and hasattr(guide, "distribution") and not getattr(guide, "refines", False):
        try:
            return _moments(guide.distribution(batch), num_draws, len(batch))
        except (NotImplementedError, ValueError):
            pass  # such as q(y | x): draws tell
    if hasattr(guide, "posterior"):
        values = guide.posterior(batch, num_draws).samples
    else:
        weights = log_weights(model, guide, batch, num_draws)
        if weights.log_q_enum is not None:
            raise ValueError("the guide has q(y | x) and no posterior(batch) to draw z from")
        values = weights.values
    shaped = [values[site.name].reshape(num_draws, len(batch), -1) for site in sites.sites]
    return _of_draws(torch.cat(shaped, -1))


def _compared(q: Moments, p: Moments, num_draws: int) -> tuple[Tensor, ...]:
    """Bias and log ratio of standard deviations, (B, U), each with the variance of its noise."""
    bias = (q[0] - p[0]) / p[1].sqrt()
    ratio = (q[1].sqrt() / p[1].sqrt()).log()
    noise, ratio_noise = torch.zeros_like(bias), torch.zeros_like(bias)
    for _, variance, kurtosis in (q, p):
        if kurtosis is not None:
            noise = noise + variance / p[1] / num_draws
            ratio_noise = ratio_noise + (kurtosis - 1).clamp_min(0) / (4 * num_draws)
    return bias, noise, ratio, ratio_noise
