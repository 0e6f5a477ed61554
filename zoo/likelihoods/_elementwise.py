"""Distributions of one real number that likelihoods are made of: fast, and right at the edges."""

import math
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from zoo.bits import Bit


class Elementwise(TorchDistribution):
    """One number, whose parameters are kept as they come and broadcast to the batch shape.

    The parameters are those of ``arg_constraints``, in that order. A small one is never copied
    for every datapoint, so that what depends on it alone is computed once.
    """

    support_help: str

    def __init__(self, *parameters: Tensor, validate_args: bool | None = None) -> None:
        for name, value in zip(self.arg_constraints, parameters, strict=True):
            setattr(self, name, value)
        shape = torch.broadcast_shapes(*(value.shape for value in parameters))
        super().__init__(shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        new: Any = self._get_checked_instance(type(self), _instance)
        names = list(self.arg_constraints)
        setattr(new, names[0], getattr(self, names[0]).expand(batch_shape))
        for name in names[1:]:
            setattr(new, name, getattr(self, name))
        TorchDistribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._score(value)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        return self._draw(*(getattr(self, n).expand(shape) for n in self.arg_constraints))

    def _score(self, value: Tensor) -> Tensor:
        raise NotImplementedError

    def _draw(self, *parameters: Tensor) -> Tensor:
        raise NotImplementedError


class Binary(Bit):
    """Bernoulli by its logits, x in {0, 1}: log p(x) = log σ((2x - 1) l).

    One pass over the logits and exact in both tails; it asks for values that are 0 or 1.
    """

    has_enumerate_support = False  # as data it is drawn, and never enumerated
    support_help = (
        "Bernoulli scores zeros and ones: binarize grey levels (--binarization dynamic, or "
        "load_data(..., binarization='dynamic')) or choose the likelihood continuous_bernoulli"
    )

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return F.logsigmoid((2 * value.to(self.logits.dtype) - 1) * self.logits)


class TruncatedExponential(Elementwise):
    """The continuous Bernoulli, p(x) = exp(l x) l / (exp(l) - 1) on [0, 1], by its logit l.

    Written in l, it needs no care but at l = 0, where log((exp(l) - 1) / l), its derivative and
    the quantiles are 0/0: there their series stand in. In λ = σ(l), as it is often written,
    float32 cannot tell λ from 1 beyond l = 17, and λ near ½ takes a wide band of series.
    """

    arg_constraints: ClassVar[Any] = {"logits": constraints.real}
    support: ClassVar[Any] = constraints.unit_interval
    support_help = "continuous_bernoulli scores values from 0 to 1: rescale the data to that range"
    logits: Tensor

    def _score(self, value: Tensor) -> Tensor:
        return value * self.logits - self.log_normalizer

    @property
    def log_normalizer(self) -> Tensor:
        """log((exp(l) - 1) / l) = l/2 + log(sinh(l/2) / (l/2)), even but for its first term."""
        near, size, square = self._parts()
        far = size / 2 + (-torch.expm1(-size) / size).log()
        # square = (l/2)²; the next term is below 1e-14 for |l| < 1/2
        terms = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775)
        return self.logits / 2 + torch.where(near, square * _polynomial(terms, square), far)

    @property
    def mean(self) -> Tensor:
        near, size, square = self._parts()
        far = (-1 / torch.expm1(-size) - 1 / size - 0.5) * self.logits.sign()
        terms = (1 / 6, -1 / 90, 1 / 945, -1 / 9450, 1 / 93555)
        return 0.5 + torch.where(near, self.logits / 2 * _polynomial(terms, square), far)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where |l| < 1/2; |l| elsewhere and 1 there; (l/2)² there and 0 elsewhere."""
        near = self.logits.abs() < 0.5
        size = torch.where(near, 1.0, self.logits).abs()
        return near, size, torch.where(near, self.logits / 2, 0.0).square()

    def _draw(self, logits: Tensor) -> Tensor:
        u = torch.rand_like(logits)
        size = logits.abs().clamp(min=1e-6)  # below it the draw is u, to seven digits
        x = -torch.log1p(u * torch.expm1(-size)) / size  # that of -|l|
        return torch.where(logits > 0, 1 - x, x).clamp(0.0, 1.0)


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Σ_i c_i x^i."""
    value = torch.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + c
    return value


class StudentT(Elementwise):
    """Student's t of location m, scale s and ν degrees of freedom, also where ν is large.

    log Γ((ν+1)/2) - log Γ(ν/2), a difference of large numbers that float32 loses from ν = 1000,
    is there its series in 1/ν.
    """

    arg_constraints: ClassVar[Any] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "df": constraints.positive,
    }
    support: ClassVar[Any] = constraints.real
    loc: Tensor
    scale: Tensor
    df: Tensor

    def _score(self, value: Tensor) -> Tensor:
        small = self.df.clamp(max=20.0)
        near = torch.lgamma((small + 1) / 2) - torch.lgamma(small / 2) - 0.5 * (small / 2).log()
        inverse = 1 / self.df.clamp(min=20.0)
        far = inverse * _polynomial((-1 / 4, 1 / 24, -1 / 20, 17 / 112), inverse.square())
        gammas = torch.where(self.df < 20, near, far) - 0.5 * math.log(2 * math.pi)
        y = (value - self.loc) / self.scale
        return gammas - self.scale.log() - (self.df + 1) / 2 * torch.log1p(y.square() / self.df)

    @property
    def mean(self) -> Tensor:
        """m, the mean where ν > 1 and the median everywhere."""
        return self.loc.expand(self.batch_shape)

    def _draw(self, loc: Tensor, scale: Tensor, df: Tensor) -> Tensor:
        half = df / 2
        return loc + scale * torch.randn_like(loc) * (half / torch._standard_gamma(half)).sqrt()
