"""Discrete variables relaxed to continuous ones, so that a gradient goes through their draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus


class Relaxed(dist.TorchDistribution):
    """ỹ = softmax((log q + G)/τ), G_c = −log(−log u_c): a draw of q(y) relaxed to the simplex.

    Which density is used: none of ỹ itself. In log p(x, y, …) − log q(y | x) the two terms of y
    are taken in expectation, Σ_c q_c log p(y = c) and Σ_c q_c log q_c, which is exact; ỹ stands
    for y in whatever depends on it. The mean of such "weights" is no bound on log p(x), and their
    gradient is biased; the bias falls with τ, and the variance rises.

    Args:
        logits: (..., C), log q up to a constant.
        temperature: τ > 0, a number or a tensor (), which is not looked at.
        hard: straight-through: ỹ is the one-hot argmax, with the gradient of the relaxed draw.

    Raises:
        ValueError: a temperature that is not above 0.

    Reference: Jang, Gu and Poole, "Categorical Reparameterization with Gumbel-Softmax", 2017;
    Maddison, Mnih and Teh, "The Concrete Distribution", 2017.

    Example:
        >>> y = Relaxed(torch.zeros(5, 3), temperature=0.5).rsample((7,))
        >>> y.shape, bool(((y.sum(-1) - 1).abs() < 1e-5).all())
        (torch.Size([7, 5, 3]), True)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.simplex  # type: ignore[assignment]
    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float | Tensor, hard: bool = False):
        if not isinstance(temperature, Tensor) and not temperature > 0:
            raise ValueError(f"the temperature of a relaxed draw is above 0, got {temperature}")
        self.logits, self.temperature, self.hard = logits, temperature, hard
        self.q: Any = self._unrelaxed()
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def _unrelaxed(self) -> Any:
        return dist.Categorical(logits=self.logits, validate_args=False)

    @property
    def probs(self) -> Tensor:
        """(..., C): E_q of the one-hot y."""
        return self.q.probs

    def expand(self, batch_shape: Any, _instance: Any = None) -> Relaxed:
        """The same q, drawn independently over more dimensions."""
        shape = torch.Size(batch_shape) + self.event_shape
        return type(self)(self.logits.expand(shape), self.temperature, self.hard)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """(*sample_shape, *batch_shape, *event_shape), points between the values of y."""
        soft = self._soft(uniform(torch.Size(sample_shape) + self.logits.shape, self.logits))
        return self._rounded(soft) + (soft - soft.detach()) if self.hard else soft

    def _soft(self, u: Tensor) -> Tensor:
        gumbel = -(-u.log()).log()
        return ((self.q.logits + gumbel) / self.temperature).softmax(-1)

    def _rounded(self, soft: Tensor) -> Tensor:
        return torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """(...): Σ_c q_c log q_c, whatever the value."""
        return self.against(self.q).log_prob(value)

    def against(self, fn: Any) -> Linear:
        """What the model's own distribution of y scores in its place: E_q log p(y)."""
        return Linear(fn, self.probs)


class RelaxedBits(Relaxed):
    """z̃_j = σ((λ_j + log u_j − log(1 − u_j))/τ): bits of q(z) = Π_j Bernoulli(σ(λ_j)), relaxed.

    The binary Concrete variable. Which density is used: none of z̃ itself. The two terms of a layer
    are in expectation over its own q given whatever relaxed layer that was drawn before, with π_j
    = σ(λ_j): Σ_j [π_j log p_j + (1 − π_j) log(1 − p_j)], where p_j may depend on a relaxed layer
    above, and the same of log q. As with ``Relaxed`` the loss is no bound.

    Args:
        logits: (..., d), the log-odds λ.
        temperature: τ > 0, a number or a tensor (), which is not looked at.
        hard: straight-through: z̃ is rounded to 0 or 1, with the gradient of the relaxed draw.

    Raises:
        ValueError: a temperature that is not above 0.

    Reference: Maddison, Mnih and Teh, "The Concrete Distribution", 2017.

    Example:
        >>> z = RelaxedBits(torch.zeros(5, 4), temperature=0.5, hard=True).rsample((7,))
        >>> z.shape, bool(((z == 0) | (z == 1)).all())
        (torch.Size([7, 5, 4]), True)
    """

    support = constraints.independent(constraints.unit_interval, 1)  # type: ignore[assignment]

    def _unrelaxed(self) -> Any:
        return dist.Bernoulli(logits=self.logits, validate_args=False).to_event(1)

    @property
    def probs(self) -> Tensor:
        """(..., d): π, E_q of the bits."""
        return self.logits.sigmoid()

    def _soft(self, u: Tensor) -> Tensor:
        return ((self.logits + logistic(u)) / self.temperature).sigmoid()

    def _rounded(self, soft: Tensor) -> Tensor:
        return (soft > 0.5).to(soft.dtype)


class Linear(dist.TorchDistribution):
    """log p of a discrete variable, continued linearly to the points between its values.

    At a one-hot vector, or at bits, it is log p itself. See ``linear`` for the formula.

    Args:
        fn: p, a Categorical or bits.
        at: (..., *event_shape), weights that take the place of any value; None for the value.

    Raises:
        ValueError: any other distribution.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real  # type: ignore[assignment]

    def __init__(self, fn: Any, at: Tensor | None = None):
        classes = kind_of(fn) is torch.distributions.Categorical
        event = fn.logits.shape[-1:] if classes else fn.event_shape
        self.fn, self.at = fn, at
        batch = fn.batch_shape
        if at is not None:
            batch = torch.broadcast_shapes(batch, at.shape[: at.dim() - len(event)])
        super().__init__(batch, event, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Linear:
        """The same, over more dimensions."""
        return Linear(self.fn.expand(batch_shape), self.at)

    def against(self, fn: Any) -> Linear:
        """Another distribution of the same variable, continued in the same way."""
        return Linear(fn, self.at)

    def log_prob(self, value: Tensor) -> Tensor:
        """(...): ``linear`` at the weights, or at the value."""
        score = linear(self.fn, value if self.at is None else self.at)
        lead = value.shape[: value.dim() - self.event_dim]
        return score.expand(torch.broadcast_shapes(score.shape, lead))


def linear(fn: Any, weight: Tensor) -> Tensor:
    """Σ_c w_c log p(c) of a Categorical; Σ_j [w_j log p_j + (1 − w_j) log(1 − p_j)] of bits.

    Args:
        fn: p, a Categorical, or a Bernoulli, independent over its event.
        weight: (..., C) or (..., *event_shape), w.

    Raises:
        ValueError: any other distribution.

    Example:
        >>> linear(dist.Categorical(torch.tensor([0.5, 0.5])), torch.tensor([0.3, 0.7])).exp()
        tensor(0.5000)
    """
    if kind_of(fn) is torch.distributions.Categorical:
        return (weight * fn.logits).sum(-1)
    odds = base_of(fn).logits
    terms: Any = weight * odds - softplus(odds)
    return sum_rightmost(terms, fn.event_dim)  # type: ignore[return-value]


def uniform(shape: Sequence[int], like: Tensor) -> Tensor:
    """u in (0, 1), neither end among them."""
    u = torch.rand(torch.Size(shape), dtype=like.dtype, device=like.device)
    finfo = torch.finfo(u.dtype)
    return u.clamp(min=finfo.tiny, max=1 - finfo.eps / 2)


def logistic(u: Tensor) -> Tensor:
    """log u − log(1 − u)."""
    return u.log() - (-u).log1p()


def base_of(fn: Any) -> Any:
    """The distribution of one entry."""
    return fn.base_dist if isinstance(fn, torch.distributions.Independent) else fn


def kind_of(fn: Any) -> type:
    """Categorical or Bernoulli, the variables that can be relaxed."""
    base = base_of(fn)
    if isinstance(fn, torch.distributions.Categorical):
        return torch.distributions.Categorical
    if isinstance(base, torch.distributions.Bernoulli):
        return torch.distributions.Bernoulli
    raise ValueError(
        f"only a Categorical or independent bits can be relaxed, and this is a {type(fn).__name__} "
        f"of {type(base).__name__}; use the estimator enumerate or score"
    )
