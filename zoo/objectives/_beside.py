"""What stands beside a bound in a loss: score-function gradients, and a guide's reward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.data import Batch
from zoo.weights import LogWeights

Guide = Callable[[Batch], Any]


def beside(weights: LogWeights, guide: Guide, batch: Batch) -> Tensor:
    """(): what a loss has beside the bound, in nats per datapoint.

    The guide's reward, -mean_n α log q(y_n | x_n) of a classifier; and for sites that are drawn
    without a path a term of value 0 and gradient -mean (h - b) ∇log q, h the log weight and b the
    guide's baseline, with the loss that trains the baseline.

    Args:
        weights: of the batch, their KL weighted as in the loss.
        guide: q; its ``baseline(h, batch) -> (b, loss)`` is used where there is one.
        batch: B rows.
    """
    total = torch.zeros((), device=weights.local.device, dtype=weights.local.dtype)
    if weights.reward is not None:
        total = total - weights.reward.mean()
    log_q = weights.log_q_score
    if log_q is None:
        return total
    h = weights.local.detach()  # (S, K, B)
    baseline = getattr(guide, "baseline", None)
    b, own = (0.0, 0.0) if baseline is None else baseline(h, batch)
    term = ((h - b) * log_q).mean()
    return total - (term - term.detach()) + own


def check_pathwise(weights: LogWeights) -> None:
    """Refuses draws whose gradient a path-wise estimator would silently drop."""
    if weights.score_sites:
        raise ValueError(
            f"the guide draws {list(weights.score_sites)} without a path-wise gradient; leave "
            "discrete sites out of the guide (they are summed out), mark them "
            'infer={"enumerate": "parallel"} or infer={"score": True}, or use a reparameterized '
            "distribution"
        )


def check_weighted(weights: LogWeights, guide: Guide) -> None:
    """Refuses pairs of which only the ELBO is known to be a bound, or to have the right gradient.

    Raises:
        ValueError: a point mass; a relaxed or score-function site; q(y | x, z₁).
    """
    if not getattr(guide, "has_density", True):
        raise ValueError(
            "a point mass (delta) has no density, so its importance weights mean nothing; use "
            "elbo, which is then the MAP objective, or another family"
        )
    if weights.relaxed or weights.log_q_score is not None:
        how = "relaxes (gumbel)" if weights.relaxed else "draws by the score function"
        raise ValueError(
            f"the guide {how} a discrete site, for which there is elbo alone; with iwae, renyi and "
            "iwae_sum use the estimator enumerate"
        )
    if weights.log_q_enum is not None and weights.log_q_enum.dim() > 2:
        raise ValueError(
            "the guide has q(y | x, z₁) given a draw of z₁, and a log-mean-exp over draws of the "
            "y-averaged weight is not offered; use elbo, iwae_sum (which gives q(y | ·) no "
            "gradient), or the inference amortized, whose q(y | x) is given x alone"
        )
