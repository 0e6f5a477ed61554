"""Likelihoods of grey levels as such: L equal steps from 0 to 1."""

from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from zoo.likelihoods._base import EDGE, Likelihood, Positive, inverse
from zoo.likelihoods._levels import LogisticMixture, OneOfLevels
from zoo.models._parts import check_size

__all__ = ["Categorical", "DiscretizedLogisticMixture"]


class Categorical(Likelihood):
    """p(x_j = k/(L-1)) = softmax(f_j)_k: grey levels k = 0..L-1, a probability for each.

    Args:
        data_dim: D. The decoder gives L logits a dimension, f.unflatten(-1, (L, D)).
        num_levels: L.

    Reference: van den Oord, Kalchbrenner & Kavukcuoglu, Pixel recurrent neural networks, 2016.

    >>> Categorical(3)(torch.zeros(768)).log_prob(torch.tensor([0.0, 0.2, 1.0])) / 3
    tensor(-5.5452)
    """

    def __init__(self, data_dim: int, num_levels: int = 256) -> None:
        super().__init__(data_dim)
        check_levels(num_levels)
        self.per_dimension = self.num_levels = num_levels

    def distribution(self, parts: Tensor) -> TorchDistribution:
        return OneOfLevels(self.num_levels, parts.transpose(-1, -2)).to_event(1)

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        """The histogram of each dimension, smoothed so that its mean stays."""
        top = self.num_levels - 1
        target = x.mean(0).clamp(EDGE, 1 - EDGE)  # (D,)
        levels = torch.arange(self.num_levels, device=x.device, dtype=x.dtype)[:, None] / top
        slope = inverse(lambda s: ((s * levels).softmax(0) * levels).sum(0), target, top / EDGE)
        smooth = (slope * levels).log_softmax(0).exp()  # (L, D), as flat as its mean allows
        count = torch.zeros_like(smooth)  # (L, D)
        count.scatter_add_(0, (x * top).round().clamp(0, top).long(), torch.ones_like(x))
        count = torch.where(target == x.mean(0), count / len(x), smooth)  # not of a constant end
        weight = self.num_levels / (self.num_levels + len(x))
        return torch.lerp(count, smooth, weight).clamp(min=1e-30).log().flatten()


class DiscretizedLogisticMixture(Likelihood):
    """A mixture of M logistics, rounded to grey levels k/(L-1): the ends take the tails.

    Args:
        data_dim: D. The decoder gives f.unflatten(-1, (3, M, D)): logits of the components,
            locations in units of x, and scales 1e-4 + softplus.
        num_components: M.
        num_levels: L.

    Raises:
        ValueError: num_components < 1; num_levels < 2.

    Reference: Salimans, Karpathy, Chen & Kingma, PixelCNN++, 2017.

    >>> DiscretizedLogisticMixture(4, num_components=5).num_outputs
    60
    """

    shorthand: ClassVar[str] = "num_components"

    def __init__(self, data_dim: int, num_components: int = 5, num_levels: int = 256) -> None:
        super().__init__(data_dim)
        check_size("num_components", num_components)
        check_levels(num_levels)
        self.num_components, self.num_levels = num_components, num_levels
        self.scale = Positive("scale", "decoder", data_dim, 0.1, 1e-4)
        self.per_dimension = 3 * num_components

    def distribution(self, parts: Tensor) -> TorchDistribution:
        f = parts.unflatten(-2, (3, self.num_components)).transpose(-1, -2)  # (..., 3, D, M)
        logits, loc, scale = f.unbind(-3)
        return LogisticMixture(self.num_levels, logits, loc, self.scale([scale])).to_event(1)

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        """Components on either side of the mean, each half as wide as the data."""
        mean, deviation = x.mean(0).clamp(EDGE, 1 - EDGE), x.std(0, correction=0)
        (raw,) = self.scale.start(x, deviation.clamp(min=1 / (self.num_levels - 1)) / 2)
        side = torch.linspace(-1, 1, self.num_components, device=x.device, dtype=x.dtype)
        side = (side - side.mean())[:, None] * deviation  # (M, D)
        logits, raw = torch.zeros_like(side), raw.expand_as(side)
        centre = inverse(
            lambda c: self(torch.stack([logits, c + side, raw]).flatten()).mean, mean, 10.0
        )
        return torch.stack([logits, centre + side, raw]).flatten()


def check_levels(num_levels: int) -> None:
    """ValueError for fewer than two levels."""
    if num_levels < 2:
        raise ValueError(f"num_levels must be at least 2; got {num_levels}")
