"""Likelihoods of real numbers."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from zoo.likelihoods import _elementwise as elementwise
from zoo.likelihoods._base import Likelihood, Positive

__all__ = ["Gaussian", "StudentT"]


class Gaussian(Likelihood):
    """x_j ~ N(f_j, σ_j²): real numbers.

    A decoder-made scale that may shrink to zero has no maximum likelihood: a flexible decoder puts
    f at one datum and σ at 0 there, and log p(x) grows without bound (so it does for a learned
    scale of a dimension that is constant in the data). Held above a `floor`, σ_j = floor +
    softplus(f_{D+j}), log p(x) is at most -D log(floor √2π), and the floor should be near the
    resolution of the data: a result that keeps improving as the floor falls says nothing.

    Args:
        data_dim: D. The decoder gives D means, and for scale="decoder" D numbers of the scale.
        scale: "fixed" at start_scale; "scalar", one learned number; "dimension", D learned
            numbers; "decoder".
        floor: lower end of a scale that is not fixed, in units of the data.
        start_scale: σ at first; left out, it is 1 until `start` sees data, then their deviation.

    Raises:
        ValueError: an unknown scale; floor < 0; start_scale at or below the floor.

    Reference: Mattei & Frellsen, Leveraging the exact likelihood of deep latent variable models,
    2018.

    >>> Gaussian(3, scale="decoder").num_outputs
    6
    """

    shorthand: ClassVar[str] = "scale"

    def __init__(
        self,
        data_dim: int,
        scale: str = "scalar",
        floor: float = 1e-3,
        start_scale: float | None = None,
    ) -> None:
        super().__init__(data_dim)
        self.from_data = start_scale is None
        start = 1.0 if start_scale is None else start_scale
        self.scale = Positive("scale", scale, data_dim, start, floor)
        self.per_dimension = 1 + self.scale.per_dimension

    def distribution(self, parts: Tensor) -> TorchDistribution:
        loc, *scale = parts.unbind(-2)
        return dist.Normal(loc, self.scale(scale)).to_event(1)

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        deviation = x.std(0, correction=0) if self.from_data else None
        return torch.cat([x.mean(0), *self.scale.start(x, deviation)])


class StudentT(Gaussian):
    """x_j ~ f_j + σ_j t(ν_j): real numbers with outliers.

    Args:
        data_dim: D. The decoder gives D locations, then D numbers each for σ and ν if it makes
            them.
        scale, floor, start_scale: as of `Gaussian`.
        df: where the degrees of freedom ν come from: "fixed", "scalar", "dimension", "decoder".
        start_df: ν at first.
        min_df: ν stays above it; from 1 there is a mean, from 2 a variance.

    Raises:
        ValueError: as `Gaussian`; an unknown df; min_df < 0; start_df at or below min_df.

    >>> StudentT(3, scale="dimension", df="decoder").num_outputs
    6
    """

    def __init__(
        self,
        data_dim: int,
        scale: str = "scalar",
        floor: float = 1e-3,
        start_scale: float | None = None,
        df: str = "scalar",
        start_df: float = 5.0,
        min_df: float = 1.0,
    ) -> None:
        super().__init__(data_dim, scale, floor, start_scale)
        self.df = Positive("df", df, data_dim, start_df, min_df)
        self.per_dimension += self.df.per_dimension

    def distribution(self, parts: Tensor) -> TorchDistribution:
        loc, *rest = parts.unbind(-2)
        scale, df = rest[: self.scale.per_dimension], rest[self.scale.per_dimension :]
        return elementwise.StudentT(loc, self.scale(scale), self.df(df)).to_event(1)

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        return torch.cat([super().start(x), *self.df.start(x)])
