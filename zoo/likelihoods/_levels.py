"""Distributions of one number on L equal levels 0, 1/(L-1), ..., 1, such as the 256 of an image."""

from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor


class Levels(constraints.Constraint):
    """The values k/(L-1), k = 0..L-1, to a thousandth of a step."""

    is_discrete = True
    event_dim = 0

    def __init__(self, count: int) -> None:
        self.top = count - 1

    def check(self, value: Tensor) -> Tensor:
        level = value * self.top
        nearest = level.round().clamp(0, self.top)
        return (level - nearest).abs() < 1e-3

    def __repr__(self) -> str:
        return f"Levels(k/{self.top}, k = 0..{self.top})"


class OnLevels(TorchDistribution):
    """A number on levels, whose parameters have one dimension more than its batch shape."""

    arg_constraints: ClassVar[Any] = {}
    support_help = (
        "the levels of an image are its 256 grey levels divided by 255: give the data so, without "
        "noise, averaging or standardising, or choose the likelihood gaussian"
    )

    def __init__(self, count: int, *parameters: Tensor, validate_args: bool | None = None) -> None:
        self.count, self.top, self.parameters = count, count - 1, parameters
        super().__init__(parameters[0].shape[:-1], validate_args=validate_args)

    @property
    def support(self) -> Levels:  # type: ignore[override]
        return Levels(self.count)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        parameters = (p.expand(*batch_shape, p.shape[-1]) for p in self.parameters)
        new = type(self)(self.count, *parameters, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._score(value)

    def _score(self, value: Tensor) -> Tensor:
        raise NotImplementedError


class OneOfLevels(OnLevels):
    """A probability for each level, by their logits (..., L)."""

    def _score(self, value: Tensor) -> Tensor:
        (logits,) = self.parameters
        level = (value * self.top).round().clamp(0, self.top).long()
        shape = torch.broadcast_shapes(logits.shape[:-1], level.shape)
        index = level.expand(shape).unsqueeze(-1)
        picked = logits.expand(*shape, -1).gather(-1, index).squeeze(-1)
        return picked - logits.logsumexp(-1)

    @property
    def mean(self) -> Tensor:
        (logits,) = self.parameters
        levels = torch.arange(self.count, dtype=logits.dtype, device=logits.device)
        return logits.softmax(-1) @ levels / self.top

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        (logits,) = self.parameters
        return choose(logits.expand(*sample_shape, *logits.shape)) / self.top


class LogisticMixture(OnLevels):
    """A mixture of logistic distributions on the real line, rounded to the nearest level.

    A level k/(L-1) has the mass from half a step below it to half a step above, the first and the
    last that of the tails as well. With a and b the two ends, standardised, σ(a) - σ(b) =
    σ(a) σ(-b) (1 - exp(b - a)), whose logarithm is a sum of three terms that are exact in the
    tails. The parameters are logits, locations and scales (..., M) of the M components.
    """

    def _score(self, value: Tensor) -> Tensor:
        logits, loc, scale = self.parameters
        value = value.unsqueeze(-1)  # (..., 1)
        half, middle = 0.5 / self.top, value - loc
        below = F.logsigmoid((middle + half) / scale)
        above = F.logsigmoid((half - middle) / scale)
        both = (-torch.expm1(-2 * half / scale)).log()
        first, last = value < half, value > 1 - half
        inside = above + torch.where(last, 0.0, below + both)
        mass = torch.where(first, below, inside)
        return (F.log_softmax(logits, -1) + mass).logsumexp(-1)

    @property
    def mean(self) -> Tensor:
        """Σ_k p(x >= k/(L-1)) / (L-1), k = 1..L-1."""
        logits, loc, scale = self.parameters
        total = torch.zeros_like(loc)
        for k in range(1, self.count):
            total = total + ((loc - (k - 0.5) / self.top) / scale).sigmoid()
        return (logits.softmax(-1) * total).sum(-1) / self.top

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        logits, loc, scale = (p.expand(*sample_shape, *p.shape) for p in self.parameters)
        component = choose(logits).long().unsqueeze(-1)
        loc, scale = (p.gather(-1, component).squeeze(-1) for p in (loc, scale))
        value = (loc + scale * torch.rand_like(loc).logit()).clamp(0.0, 1.0)
        return (value * self.top).round() / self.top


def choose(logits: Tensor) -> Tensor:
    """Indices (...) drawn with probabilities softmax(logits (..., L)), as floating point."""
    noise = torch.empty_like(logits).exponential_()
    return (logits - noise.log()).argmax(-1).to(logits.dtype)
