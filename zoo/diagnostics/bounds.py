"""Bounds on log p(x) of every row from log weights that are kept: the ladder and what tops it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.estimate import Estimate
from zoo.importance import rungs
from zoo.sums import groups

ROOM = 2**22  # numbers in a tensor


@dataclass(frozen=True)
class Bounds:
    """Figures of N rows from S draws each, in nats.

    Attributes:
        levels: k, rising from 1 to S.
        ladder: IWAE_k at each level; in expectation each is a lower bound on log p(x) and not above
            the next one. The first is the ELBO.
        gap: IWAE_S − ELBO ≤ KL(q ‖ p(z | x)): a certified lower bound on it, up to its error.
        jackknife: the jackknife estimate of log p(x). It is closer than IWAE_S where the weights
            have a variance, and no bound.
        cubo: CUBO₂ = ½ log mean_s w². Above log p(x) only with infinitely many draws: at any finite
            S its mean is below its limit, and it certifies nothing (``cubo_certifies``).
    """

    levels: tuple[int, ...]
    ladder: tuple[Estimate, ...]
    gap: Estimate
    jackknife: Estimate
    cubo: Estimate

    cubo_certifies = False  # at a finite number of draws

    @property
    def num_draws(self) -> int:
        """S."""
        return self.levels[-1]

    @property
    def elbo(self) -> Estimate:
        """The evidence lower bound."""
        return self.ladder[0]

    @property
    def iwae(self) -> Estimate:
        """IWAE_S."""
        return self.ladder[-1]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "levels": list(self.levels),
            "ladder": [bound.as_dict() for bound in self.ladder],
            "gap": self.gap.as_dict(),
            "jackknife": self.jackknife.as_dict(),
            "cubo": {**self.cubo.as_dict(), "certifies": self.cubo_certifies},
        }


@torch.no_grad()
def bounds(
    log_weight: Tensor, elbo_terms: Tensor | None = None, levels: Sequence[int] | None = None
) -> Bounds:
    """ELBO ≤ IWAE_k ≤ … ≤ log p(x) of every row, the gap, the jackknife and CUBO₂.

    Formula: with h = log w, L_k is the mean over ⌊S/k⌋ groups of log (1/k) Σ exp h; the jackknife
    S L_S − (S − 1) mean_s L_(−s), where L_(−s) leaves draw s out; CUBO₂ = ½ log mean exp 2h.
    Errors: the standard deviation over groups by its root, at k = S that of the delta method, of
    the jackknife that of its pseudo-values S L_S − (S − 1) L_(−s). All but the first are too small
    where a few draws carry the weight (see ``psis``).

    Args:
        log_weight: (S, N), log p(x_n, z_ns) − log q(z_ns | x_n), in nats.
        elbo_terms: (S, N), with the mean ELBO, where it is not ``log_weight`` itself: of a guide
            with q(y | x), which ``log_weight`` has summed out.
        levels: k, between 1 and S/2 (1 and S are added); by default powers of ten.

    Raises:
        ValueError: other shapes; fewer than two draws; a level outside 1 … S/2.

    Reference: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2016; Nowozin,
    "Debiasing Evidence Approximations", 2018; Dieng, Tran, Ranganath, Paisley and Blei,
    "Variational Inference via χ Upper Bound Minimization", 2017.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.diagnostics.draws import weighted_draws
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> found = bounds(weighted_draws(model, Guide(model, data, "exact"), data, 100).log_weight)
        >>> found.levels, abs(found.gap.mean) < 1e-4
        ((1, 10, 100), True)
    """
    first = log_weight if elbo_terms is None else elbo_terms
    if log_weight.dim() != 2 or first.shape != log_weight.shape or len(log_weight) < 2:
        raise ValueError(
            "expected log weights (S, N) of two draws or more, and ELBO terms of the same shape; "
            f"got {tuple(log_weight.shape)} and {tuple(first.shape)}"
        )
    draws, rows = log_weight.shape
    steps = rungs(draws, levels)
    like = {"dtype": torch.float64, "device": log_weight.device}
    found = torch.empty(len(steps) + 3, 2, rows, **like)
    size = max(1, ROOM // draws)
    for start in range(0, rows, size):
        here = slice(start, start + size)
        h, terms = log_weight[:, here].double(), first[:, here].double()
        found[:, :, here] = torch.stack([torch.stack(pair) for pair in _figures(h, terms, steps)])
    estimates = [Estimate(value, error) for value, error in found]
    return Bounds(steps, tuple(estimates[:-3]), *estimates[-3:])


def _figures(h: Tensor, terms: Tensor, levels: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    """Values and errors (B,) of the levels, the gap, the jackknife and CUBO₂."""
    draws = len(h)
    top = h.logsumexp(0) - math.log(draws)
    ratio = (h - top).exp()  # w over the mean of w
    result = []
    for k in levels[:-1]:
        whole = terms if k == 1 else groups(h[: draws // k * k], k).logsumexp(-2) - math.log(k)
        result.append(_mean(whole))
    result.append((top, _mean(ratio)[1]))
    result.append((top - terms.mean(0), _mean(ratio - terms)[1]))
    result.append(_jackknife(h, top))
    second = (2 * h).logsumexp(0) - math.log(draws)
    result.append((second / 2, _mean((2 * h - second).exp())[1] / 2))
    return result


def _mean(terms: Tensor) -> tuple[Tensor, Tensor]:
    """Of independent terms (n, B), with its standard error."""
    return terms.mean(0), terms.std(0) / math.sqrt(len(terms))


def _jackknife(h: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """S L_S − (S − 1) mean_s L_(−s), of L_S = ``top``."""
    draws = len(h)
    share = (h - top - math.log(draws)).exp()
    largest = h.argmax(0, keepdim=True)
    rest = h.scatter(0, largest, -torch.inf).logsumexp(0) - top - math.log(draws)
    left = torch.log1p(-share).scatter(0, largest, rest[None])  # log of what the others weigh
    return _mean(top - (draws - 1) * (left + math.log(draws / (draws - 1))))
