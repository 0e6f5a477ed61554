"""Leave-one-out predictions of models with global latents, from draws of q alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.chunks import holding
from zoo.context import seeded, stream, validation
from zoo.data import Batch, as_dataset
from zoo.diagnostics.draws import room
from zoo.diagnostics.psis import psis
from zoo.diagnostics.replicates import Pair, split_draws
from zoo.estimate import Estimate
from zoo.model import Model, as_model
from zoo.weights import log_weights


@dataclass(frozen=True)
class Loo:
    """log p(x_n | x_−n) of every row, in nats.

    Attributes:
        elpd: of each row, and their mean with its Monte-Carlo error; all rows have the same draws
            of g, so that the error is ``shared``.
        error: (N,), the Monte-Carlo standard error of each row.
        k: (N,), the Pareto shape of the weights of each row.
        k_se: (N,), its standard error.
        threshold: min(1 − 1/log10 S, 0.7); above it a row's figure and errors are not to be
            trusted.
        k_posterior: the shape of p(x, g)/q(g) itself; None where no ``log_ratio`` was given.
        p_loo: Σ_n log p(x_n | x) − log p(x_n | x_−n), the effective number of parameters.
        num_draws: S.
    """

    elpd: Estimate
    error: Tensor
    k: Tensor
    k_se: Tensor
    threshold: float
    k_posterior: float | None
    p_loo: float
    num_draws: int

    @property
    def total(self) -> float:
        """Σ_n log p(x_n | x_−n), what ArviZ calls elpd_loo."""
        return self.elpd.mean * len(self.k)

    @property
    def se_data(self) -> float:
        """√N times the standard deviation over rows: the error of ``total`` for other rows."""
        return self.elpd.se_data * len(self.k)

    @property
    def bad(self) -> int:
        """Rows with k above the threshold."""
        return int((self.k > self.threshold).sum())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "elpd": self.elpd.as_dict(),
            "total": self.total,
            "total_se": self.elpd.se * len(self.k),
            "total_se_data": self.se_data,
            "p_loo": self.p_loo,
            "k_max": _finite(float(self.k.max())),
            "k_threshold": self.threshold,
            "k_posterior": None if self.k_posterior is None else _finite(self.k_posterior),
            "rows": len(self.k),
            "rows_above_threshold": self.bad,
            "num_draws": self.num_draws,
        }


@torch.no_grad()
def loo(log_likelihood: Tensor, log_ratio: Tensor | None = None) -> Loo:
    """log p(x_n | x_−n) = log Σ_s w̃_sn p(x_n | g_s), w_sn ∝ [p(x, g_s)/q(g_s)] / p(x_n | g_s).

    The draws g_s are q's. Weights 1/p(x_n | g_s) alone, as for draws of the exact posterior (and
    in ``az.loo``), leave one row out of q and not of the posterior: where q is too narrow or off,
    the result is wrong, and its k is small all the same. p(x, g)/q(g) puts that right, as far as
    the weights, smoothed by PSIS, carry it: k says so.

    This is for *global* latents. Where every latent belongs to a row, x_n tells nothing of the
    others given the parameters, and log p(x_n | x_−n) = log p(x_n): the importance-weighted bound
    on rows that the fit has not seen (``evaluate``, ``importance_ladder``) is that figure.

    Args:
        log_likelihood: (S, N), log p(x_n | g_s), local latents integrated out.
        log_ratio: (S,), log p(x, g_s) − log q(g_s), up to a constant; None for draws of the exact
            posterior, such as those of a Markov chain.

    Raises:
        ValueError: shapes that do not fit; fewer than 25 draws; values that are not finite.

    Reference: Vehtari, Gelman and Gabry, "Practical Bayesian model evaluation using leave-one-out
    cross-validation and WAIC", 2017; Magnusson et al., "Bayesian leave-one-out cross-validation
    for large data", 2019.

    Example:
        >>> g, x = torch.randn(4000, 1).double(), torch.tensor([0.3, -0.2]).double()
        >>> loo(-((x - g) ** 2) / 2 - 0.9189).k.shape
        torch.Size([2])
    """
    ll = log_likelihood.detach().double()
    if ll.dim() != 2 or len(ll) < 25 or not ll.shape[1]:
        raise ValueError(
            "expected log_likelihood (S, N) of 25 draws or more and one row or more, got shape "
            f"{tuple(log_likelihood.shape)}"
        )
    ratio = ll.new_zeros(len(ll)) if log_ratio is None else log_ratio.detach().double()
    if ratio.shape != ll.shape[:1]:
        raise ValueError(
            f"expected log_ratio of shape ({len(ll)},), one number a draw of g as in the "
            f"log_likelihood {tuple(ll.shape)}, got {tuple(ratio.shape)}"
        )
    if not bool(ll.isfinite().all() and ratio.isfinite().all()):
        raise ValueError(
            "log_likelihood or log_ratio has NaN or infinite values; a row that a draw of g makes "
            "impossible has no importance weights"
        )
    smoothed = psis(ratio.unsqueeze(-1) - ll)
    terms = smoothed.log_weights + ll  # (S, N)
    rows = terms.logsumexp(0)
    # Of a ratio Σ w p/Σ w: each draw moves the logarithm by w̃ (p/p̂ − 1).
    moves = terms.sub(rows).exp() - smoothed.log_weights.exp()
    whole = psis(ratio)
    seen = (whole.log_weights.unsqueeze(-1) + ll).logsumexp(0)
    shared = float(moves.sum(1).square().sum().sqrt()) / len(rows)
    return Loo(
        elpd=Estimate(rows, torch.zeros_like(rows), shared),
        error=moves.square().sum(0).sqrt(),
        k=smoothed.k,
        k_se=smoothed.se,
        threshold=smoothed.threshold,
        k_posterior=None if log_ratio is None else float(whole.k),
        p_loo=float((seen - rows).sum()),
        num_draws=len(ll),
    )


@torch.no_grad()
def log_likelihoods(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    *,
    num_draws: int = 1000,
    num_inner: int = 100,
    seed: int = 0,
    max_elements: int | None = None,
) -> tuple[Tensor, Tensor]:
    """log p̂(x_n | g_s) and log p(g_s)/q(g_s) + Σ_n log p̂(x_n | g_s), g_s ~ q(g).

    Formula: p̂(x_n | g) = (1/K) Σ_k p(x_n, z_k | g)/q(z_k | x_n, g), unbiased for every K, and each
    row's is independent of the others' given g. The weight of a draw without row n is then unbiased
    too, so that K decides the noise of ``loo`` and not what it is of.

    Args:
        model: p, with latents outside the data plate.
        guide: q for the rows of ``data``; it needs a density.
        data: N rows.
        num_draws: S, of g.
        num_inner: K, of the local latents given each g; one is enough where there are none.
        seed: of the draws.
        max_elements: how many numbers the largest tensor may have.

    Returns:
        (S, N) and (S,), in float64.

    Raises:
        ValueError: no global latents; a point mass; as ``log_weights``.
    """
    if not getattr(guide, "has_density", True):
        raise ValueError(
            "the guide is a point mass (delta), which has no importance weights; use another "
            "family of the global latents, such as mean_field"
        )
    model, data = as_model(model), as_dataset(data)
    data = data.without(*data.partial).fixed()
    with seeded(stream(seed, "leave one out"), model.device), validation(False):
        pair = Pair.of(model, guide, data)
        if not pair.has_globals:
            raise ValueError(
                "the model has no global latents, so leaving a row out changes no other: "
                "log p(x_n | x_-n) is log p(x_n), which evaluate and importance_ladder bound on "
                "rows that were held out"
            )
        rows, most = pair.cut(len(data), num_draws, num_inner, max_elements or room(model))
        found, ratios = [], []
        for count in split_draws(num_draws, most if pair.together else 1):
            first = log_weights(model, guide, pair.head, 1, count)
            held = holding(guide, {name: first.values[name] for name in first.globals})
            parts = []
            for batch in data.batches(rows):
                weights = log_weights(model, held, batch.to(model.device), num_inner, count)
                inner = weights.summed.double()
                parts.append(inner.logsumexp(1) - math.log(inner.shape[1]))
            found.append(torch.cat(parts, 1))
            ratios.append(first.global_.double())
    likelihood = torch.cat(found)
    return likelihood, torch.cat(ratios) + likelihood.sum(1)


def _finite(k: float) -> float | None:
    """For JSON, which has no infinity: k of constant weights, or of a tail that has none."""
    return k if math.isfinite(k) else None
