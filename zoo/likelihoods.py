"""Likelihoods p(x | f) of data x given a decoder's outputs f, each chosen by one word."""

from typing import ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from zoo._distributions import Binary
from zoo._likelihood import Likelihood, Positive

__all__ = ["Bernoulli", "Gaussian", "likelihood_for"]


class Bernoulli(Likelihood):
    """x_j ~ Bernoulli(σ(f_j)): zeros and ones, such as binarized images.

    Args:
        data_dim: D. The decoder gives the D logits f.

    >>> likelihood = Bernoulli(3)
    >>> likelihood(torch.zeros(5, 3)).log_prob(torch.ones(3)).shape
    torch.Size([5])
    """

    def distribution(self, logits: Tensor) -> TorchDistribution:
        return Binary(logits=logits).to_event(1)

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        return x.mean(0).clamp(1e-3, 1 - 1e-3).logit()


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
        floor: lower end of a scale that is learned, in units of the data.
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
        self.scale = Positive("scale", scale, data_dim, start_scale or 1.0, floor)
        self.per_dimension = 1 + self.scale.per_dimension

    def distribution(self, loc: Tensor, *scale: Tensor) -> TorchDistribution:
        return dist.Normal(loc, self.scale(*scale)).to_event(1)

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        deviation = x.std(0, correction=0) if self.from_data else None
        return torch.cat([x.mean(0), *self.scale.start(deviation)])


def likelihood_for(x: Tensor) -> str:
    """The word of a likelihood that fits values x: zeros and ones, counts, or anything else.

    >>> likelihood_for(torch.tensor([0.0, 1.0])), likelihood_for(torch.tensor([0.0, 7.0]))
    ('bernoulli', 'poisson')
    """
    x = x[~x.isnan()] if x.is_floating_point() else x
    if bool(((x == 0) | (x == 1)).all()):
        return "bernoulli"
    whole = not x.is_floating_point() or bool((x == x.round()).all())
    return "poisson" if whole and bool((x >= 0).all()) else "gaussian"
