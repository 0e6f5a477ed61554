"""From a bound to a loss: the gradient of its expectation, by the estimator that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, get_args

from torch import Tensor, nn

from zoo.context import frozen
from zoo.data import Batch
from zoo.held import pathless
from zoo.kl_weight import tempered
from zoo.model import Model, as_model
from zoo.objectives._rebar import control
from zoo.objectives._reductions import Reduction, mean
from zoo.paths import Draws
from zoo.weights import LogWeights, log_weights

Guide = Callable[[Batch], Any]
Estimator = Literal["pathwise", "stl", "dreg", "score", "vimco", "rebar"]
ESTIMATORS = get_args(Estimator)
DRAWS: dict[str, Draws] = {"pathwise": "path", "stl": "held", "dreg": "held", "rebar": "score"}
HELP = "use vimco or score, or sum it out (collapse, enumerate)"


def loss_of(
    model: Model,
    guide: Guide,
    batch: Batch,
    reduce: Reduction,
    num_particles: int,
    num_outer: int = 1,
    *,
    beta: float | Tensor = 1.0,
    estimator: str | None = None,
    summed: bool = False,
) -> Tensor:
    """(): -mean_n L(h_n1 … h_nK), with an unbiased estimate of the gradient of its expectation.

    pathwise: ∇L through z(ε). stl and dreg: Σ_k ∂L/∂h_k [∇_θ h_k + r_k ∇_z h_k ∇_φ z_k], q's
    parameters held in h. score and vimco: ∇L at given draws + Σ_k s_k ∇ log q(z_k), s_k = L - b or
    L - L₋ₖ, of the sites without a path, or of all where every one has a path.

    Args:
        model: p.
        guide: q.
        batch: B rows.
        reduce: L.
        num_particles, num_outer: K, S.
        beta: the weight of the KL terms.
        estimator: its word; None for the guide's own.
        summed: whether a q(y | x) is left out and y summed in the weights.

    Raises:
        ValueError: a pair of bound, estimator and guide for which it is not one.
    """
    word = chosen(guide, estimator)
    weights = weigh(model, guide, batch, num_particles, num_outer, word)
    return bound_loss(model, weights, guide, batch, reduce, beta, word, summed)


def bound_loss(
    model: Model,
    weights: LogWeights,
    guide: Guide,
    batch: Batch,
    reduce: Reduction,
    beta: float | Tensor,
    word: str,
    summed: bool = False,
) -> Tensor:
    """The loss of log weights that ``weigh`` gave."""
    by_state = summed and weights.log_q_enum is not None  # a draw for each y, weighed with all
    if by_state and weights.paths is not None and (isinstance(beta, Tensor) or beta != 1):
        raise ValueError(
            "dreg of iwae_sum is known for β = 1 alone, without a warm-up; use pathwise, or iwae"
        )
    if summed:
        weights = replace(weights, log_q_enum=None)
    if reduce is not mean:
        check_weighted(weights, guide)
    if reduce.upper and (weights.has_globals or weights.log_q_enum is not None):
        what = "global latents give" if weights.has_globals else "an average over q(y | x) gives"
        raise ValueError(f"α < 0 is an upper bound and {what} a lower one; use α ≥ 0, not cubo")
    log_q = weights.log_q_score
    if log_q is not None and reduce is mean:  # E[∇ log q] = 0: noise alone
        weights = replace(weights, local=weights.local + (log_q - log_q.detach()))
    told = tempered(weights, beta)
    _put_factor(told, reduce, beta, word, by_state)
    loss = -told.per_datapoint(reduce).mean() + reward(weights)
    if log_q is None:
        if word == "rebar" and getattr(guide, "gradient", None) != word:
            raise ValueError("rebar relaxes a discrete draw, and the guide has none; use pathwise")
        return loss
    loss = loss + _score(told, log_q, reduce, guide, batch, word)
    return loss + control(model, guide, batch, weights, beta) if word == "rebar" else loss


def chosen(guide: Guide, estimator: str | None) -> str:
    """The estimator's word: as given, else the guide's, else pathwise.

    Raises:
        ValueError: an unknown word.
    """
    word = estimator or getattr(guide, "gradient", "pathwise")
    if word not in ESTIMATORS:
        raise ValueError(
            f"there is no estimator {word!r} of a bound's gradient; there are {ESTIMATORS} (words "
            "such as enumerate and gumbel say how a guide draws: Guide(…, estimator=…))"
        )
    return word


def weigh(
    model: Model, guide: Guide, batch: Batch, num_particles: int, num_outer: int, word: str
) -> LogWeights:
    """Log weights whose draws carry the gradient that the estimator needs.

    Raises:
        ValueError: draws without a path for an estimator that follows it; log q of a z from
            elsewhere that the guide cannot give.
    """
    draws = DRAWS.get(word)
    if draws is None:
        own = getattr(getattr(guide, "latents", None), "discrete", ())
        of_labels = bool(own) and getattr(guide, "gradient", None) == word  # y is scored, z is not
        found = of_labels or pathless(guide, as_model(model).plate, batch.unscaled())
        draws = "score" if found else "cut"
    if getattr(getattr(guide, "family", None), "is_state", False):
        raise ValueError(
            "the family chain is the state of Markov chains, which the objective mcem alone moves; "
            "use mcem, or the family delta or mean_field"
        )
    if draws in ("held", "cut") and not getattr(guide, "has_density", True):
        raise ValueError(f"a point mass (delta) has no log q to estimate by {word}; use pathwise")
    if draws in ("held", "cut") and not getattr(guide, "scores", True):
        raise ValueError(
            f"{word} takes log q of a given z, and this guide's family scores its own draws alone; "
            "use the estimator pathwise, or a family such as mean_field, full_rank or iaf"
        )
    weights = log_weights(model, guide, batch, num_particles, num_outer, draws)
    check_pathwise(weights)
    if weights.relaxed and word != "pathwise":
        raise ValueError(f"{word} is of draws, and the guide relaxes {list(weights.relaxed)}")
    if draws == "held" and weights.log_q_score is not None:
        raise ValueError(f"{word} follows the path of a draw, and a discrete one has none; {HELP}")
    return weights


def _put_factor(
    weights: LogWeights, reduce: Reduction, beta: float | Tensor, word: str, by_state: bool
) -> None:
    """r_k, or 1 - β (1 - r_k) where log q counts β times, to the paths of the draws."""
    if weights.paths is None:
        return
    if word == "stl" and reduce is not mean:
        raise ValueError(
            "stl is unbiased for the elbo alone: with weights that are normalised the score does "
            "not vanish; use dreg, which is the same idea done right, or pathwise"
        )
    summed = weights.log_q_enum is None or weights.log_q_enum.dim() > 2
    h = (weights.expected if summed and not by_state else weights.local).detach()
    if by_state:  # as if all states of all draws were draws of one mixture
        ratio: Any = (h - h.logsumexp((0, -2), keepdim=True)).exp()
    else:
        ratio = reduce.ratio(h)
    if ratio is None:
        return
    sizes = tuple(weights.enumerated.values())[::-1] if h.dim() > 3 else ()
    weights.paths.put((1 - beta * (1 - ratio)).reshape(*sizes, *h.shape[-3:]))


def _score(
    weights: LogWeights, log_q: Tensor, reduce: Reduction, guide: Guide, batch: Batch, word: str
) -> Tensor:
    """(): of value 0; its gradient -mean Σ_k s_k ∇ log q(z_k), and a baseline's own."""
    if weights.log_q_enum is not None or log_q.dim() > 3:
        raise ValueError(
            "the score function of a draw beside a discrete site that is enumerated is not "
            "offered; draw both, or use pathwise"
        )
    if word == "rebar" and reduce is not mean:
        raise ValueError("rebar is for the elbo; use the estimator vimco or score")
    h, own = weights.expected.detach(), weights.local.new_zeros(())  # (S, K, B)
    if word == "vimco":
        signals = reduce.signals(h)
    else:
        gain = h / h.shape[-2] if reduce is mean else reduce(h).unsqueeze(-2)
        baseline = None if word == "rebar" else getattr(guide, "baseline", None)
        b, fit = (0.0, own) if baseline is None else baseline(gain, batch)
        signals, own = gain - b, own + fit
    term = own - (signals * log_q).sum(-2).mean()
    return term - term.detach()


@contextmanager
def trained_alone(side: Literal["model", "guide"], model: Any, guide: Any) -> Iterator[None]:
    """Only one side's parameters take a gradient; an encoder that the model owns is the guide's."""
    model = as_model(model)
    encoder = getattr(model, "shared_encoder", None)
    shared = set(encoder.parameters()) if encoder is not None else set()
    mine = [p for p in model.parameters() if p not in shared]
    own = list(guide.parameters()) if isinstance(guide, nn.Module) else []
    with frozen(*(mine if side == "guide" else [*own, *shared])):
        yield


def reward(weights: LogWeights) -> Tensor | float:
    """-mean_n α log q(y_n | x_n) of a classifier, no part of the bound."""
    return 0.0 if weights.reward is None else -weights.reward.mean()


def check_pathwise(weights: LogWeights) -> None:
    """Refuses draws whose gradient a path-wise estimator would silently drop."""
    if weights.score_sites:
        raise ValueError(
            f"the guide draws {list(weights.score_sites)} without a path-wise gradient; use the "
            "estimator vimco or score, leave discrete sites out of the guide (they are summed "
            'out), mark them infer={"enumerate": "parallel"}, or use a reparameterized '
            "distribution"
        )


def check_weighted(weights: LogWeights, guide: Guide) -> None:
    """Refuses pairs of which only the ELBO is known to be a bound, or to have the right gradient.

    Raises:
        ValueError: a point mass; a relaxed site; q(y | x, z₁).
    """
    if not getattr(guide, "has_density", True):
        raise ValueError(
            "a point mass (delta) has no density, so its importance weights mean nothing; use "
            "elbo, which is then the MAP objective, or another family"
        )
    if weights.relaxed:
        raise ValueError(
            f"the guide relaxes the discrete {list(weights.relaxed)}, for which there is elbo "
            "alone; with other bounds use the estimator enumerate, score or vimco"
        )
    if weights.log_q_enum is not None and weights.log_q_enum.dim() > 2:
        raise ValueError(
            "the guide has q(y | x, z₁) given a draw of z₁, and a log-mean-exp over draws of the "
            "y-averaged weight is not offered; use elbo, iwae_sum (which gives q(y | ·) no "
            "gradient), or the inference amortized, whose q(y | x) is given x alone"
        )
