"""Distributions of counts by the logarithm of their rate, which neither under- nor overflows."""

from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from zoo.likelihoods._elementwise import Elementwise

HELP = "counts are the whole numbers from 0: check the data, or choose the likelihood gaussian"


class LogPoisson(Elementwise):
    """Poisson by its log rate a: log p(x) = a x - exp(a) - log x!."""

    arg_constraints: ClassVar[Any] = {"log_rate": constraints.real}
    support: ClassVar[Any] = constraints.nonnegative_integer
    support_help = HELP
    log_rate: Tensor

    def _score(self, value: Tensor) -> Tensor:
        return value * self.log_rate - self.mean - torch.lgamma(value + 1)

    @property
    def mean(self) -> Tensor:
        return self.log_rate.exp()

    def _draw(self, log_rate: Tensor) -> Tensor:
        return torch.poisson(log_rate.exp())


class LogNegativeBinomial(Elementwise):
    """Negative binomial of log mean a and r > 0: variance μ + μ²/r with μ = exp(a).

    log p(x) = log Γ(x+r) - log Γ(r) - log x! + x (a - log r) - (x + r) log(1 + μ/r). Where r is
    large the first two are taken together by Stirling's series, so that the limit r -> ∞, which
    is Poisson, is met.
    """

    arg_constraints: ClassVar[Any] = {"log_mean": constraints.real, "count": constraints.positive}
    support: ClassVar[Any] = constraints.nonnegative_integer
    support_help = HELP
    log_mean: Tensor
    count: Tensor

    def _score(self, value: Tensor) -> Tensor:
        x, r, log_r = value, self.count, self.count.log()
        small, large = r.clamp(max=20.0), r.clamp(min=20.0)
        near = torch.lgamma(x + small) - torch.lgamma(small) - x * small.log()
        far = (x + large - 0.5) * torch.log1p(x / large) - x
        far = far + _stirling(x + large) - _stirling(large)
        gammas = torch.where(r < 20, near, far) - torch.lgamma(x + 1)
        return gammas + x * self.log_mean + (x + r) * F.logsigmoid(log_r - self.log_mean)

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp()

    def _draw(self, log_mean: Tensor, count: Tensor) -> Tensor:
        return torch.poisson(torch._standard_gamma(count) * (log_mean - count.log()).exp())


def _stirling(z: Tensor) -> Tensor:
    """log Γ(z) - (z - ½) log z + z - ½ log 2π, to 1e-12 from z = 20."""
    square = z.square()
    return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * square)) / square) / square) / z


class GivenTotal(TorchDistribution):
    """Multinomial of logits l (..., D) given the total: log p(x | Σ_j x_j), whatever the total.

    `total` (...) is used by draws and the mean alone. Entries that are not `observed` (..., D)
    are left out: given the sum of the others, the others are again multinomial, with the
    probabilities renormalised.
    """

    arg_constraints: ClassVar[Any] = {"logits": constraints.real_vector}
    support: ClassVar[Any] = constraints.independent(constraints.nonnegative_integer, 1)
    support_help = HELP

    def __init__(
        self,
        logits: Tensor,
        total: Tensor,
        observed: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.total, self.observed = logits, total, observed
        shapes = [logits.shape[:-1], total.shape]
        shapes += [] if observed is None else [observed.shape[:-1]]
        shape = torch.broadcast_shapes(*shapes)
        super().__init__(shape, logits.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        logits = self.logits.expand(*batch_shape, *self.event_shape)
        return type(self)(logits, self.total, self.observed, validate_args=False)

    def marginal(self, observed: Tensor) -> Self:
        """p(x_o | Σ_o x_o) of the observed entries o, marked by observed (..., D)."""
        return type(self)(self.logits, self.total, observed, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        if self.observed is None:
            log_p = F.log_softmax(self.logits, -1)
        else:
            value = torch.where(self.observed, value, 0.0)
            lowest = torch.finfo(self.logits.dtype).min
            kept = torch.where(self.observed, self.logits, lowest)
            log_p = torch.where(self.observed, F.log_softmax(kept, -1), 0.0)
        ways = torch.lgamma(value.sum(-1) + 1) - torch.lgamma(value + 1).sum(-1)
        return ways + torch.einsum("...d,...d->...", value, log_p)

    @property
    def mean(self) -> Tensor:
        return self.total.unsqueeze(-1) * self.logits.softmax(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Halves the dimensions again and again, each half's share of the total a binomial."""
        shape = torch.Size(sample_shape) + self.batch_shape
        size = self.event_shape[0]
        depth = (size - 1).bit_length()
        p = F.pad(self.logits.softmax(-1), (0, 2**depth - size)).expand(*shape, -1)
        counts = self.total.round().expand(shape).unsqueeze(-1)
        for level in range(depth):
            mass = p.unflatten(-1, (2**level, 2, -1)).sum(-1)  # (..., 2^level, 2)
            share = mass[..., 0] / mass.sum(-1).clamp(min=torch.finfo(p.dtype).tiny)
            left = torch.binomial(counts.contiguous(), share)
            counts = torch.stack([left, counts - left], -1).flatten(-2)
        return counts[..., :size]
