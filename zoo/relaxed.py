"""A categorical variable relaxed to the simplex, so that a gradient goes through its draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class Relaxed(dist.TorchDistribution):
    """ỹ = softmax((log q + G)/τ), G_c = −log(−log u_c): a draw of q(y) relaxed to the simplex.

    Which density is used: none of ỹ itself. In log p(x, y, …) − log q(y | x) the two terms of y
    are taken in expectation, Σ_c q_c log p(y = c) and Σ_c q_c log q_c, which is exact; ỹ stands
    for y in whatever depends on it. The mean of such "weights" is no bound on log p(x), and their
    gradient is biased; the bias falls with τ, and the variance rises.

    Args:
        logits: (..., C), log q up to a constant.
        temperature: τ > 0.
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

    def __init__(self, logits: Tensor, temperature: float, hard: bool = False):
        if not temperature > 0:
            raise ValueError(f"the temperature of a relaxed draw is above 0, got {temperature}")
        self.log_q, self.temperature, self.hard = logits.log_softmax(-1), temperature, hard
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Relaxed:
        """The same q, drawn independently over more dimensions."""
        shape = torch.Size(batch_shape) + self.event_shape
        return Relaxed(self.log_q.expand(shape), self.temperature, self.hard)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """(*sample_shape, *batch_shape, C), points of the simplex."""
        shape = torch.Size(sample_shape) + self.log_q.shape
        u = torch.rand(shape, dtype=self.log_q.dtype, device=self.log_q.device)
        tiny = torch.finfo(u.dtype).tiny
        gumbel = -(-u.clamp(min=tiny, max=1 - torch.finfo(u.dtype).eps / 2).log()).log()
        soft = ((self.log_q + gumbel) / self.temperature).softmax(-1)
        if not self.hard:
            return soft
        top = soft.argmax(-1, keepdim=True)
        return torch.zeros_like(soft).scatter(-1, top, 1.0) + (soft - soft.detach())

    def log_prob(self, value: Tensor) -> Tensor:
        """(...): Σ_c q_c log q_c, whatever the value."""
        return self._expected(self.log_q, value)

    def against(self, fn: Any) -> RelaxedPrior:
        """What the model's own distribution of y, a categorical one, scores in its place."""
        if not hasattr(fn, "logits") or fn.event_shape:
            raise ValueError(
                f"only a Categorical can be relaxed, and the model has {type(fn).__name__}; use "
                "the estimator enumerate"
            )
        return RelaxedPrior(self, fn.logits)

    def _expected(self, log_p: Tensor, value: Tensor) -> Tensor:
        score = (self.log_q.exp() * log_p).sum(-1)
        return score.expand(torch.broadcast_shapes(score.shape, value.shape[:-1]))


class RelaxedPrior(dist.TorchDistribution):
    """The model's p(y) for a relaxed draw of q: log_prob is Σ_c q_c log p(y = c)."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.simplex  # type: ignore[assignment]

    def __init__(self, q: Relaxed, log_p: Tensor):
        self.q, self.log_p = q, log_p
        shape = torch.broadcast_shapes(q.log_q.shape, log_p.shape)
        super().__init__(shape[:-1], shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RelaxedPrior:
        """The same, over more dimensions."""
        shape = torch.Size(batch_shape) + self.event_shape
        return RelaxedPrior(self.q, self.log_p.expand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """(...): Σ_c q_c log p(y = c)."""
        return self.q._expected(self.log_p, value)
