"""Likelihoods of pixels between black and white: zeros and ones, and all that is between."""

from pyro.distributions import TorchDistribution
from torch import Tensor

from zoo.likelihoods._base import EDGE, Likelihood, inverse
from zoo.likelihoods._elementwise import Binary, TruncatedExponential

__all__ = ["Bernoulli", "ContinuousBernoulli"]


class Bernoulli(Likelihood):
    """x_j ~ Bernoulli(σ(f_j)): zeros and ones, such as binarized images.

    Args:
        data_dim: D. The decoder gives the D logits f.

    >>> import torch
    >>> likelihood = Bernoulli(3)
    >>> likelihood(torch.zeros(5, 3)).log_prob(torch.ones(3)).shape
    torch.Size([5])
    """

    def distribution(self, parts: Tensor) -> TorchDistribution:
        return Binary(logits=parts.squeeze(-2)).to_event(1)

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        return x.mean(0).clamp(EDGE, 1 - EDGE).logit()


class ContinuousBernoulli(Likelihood):
    """p(x_j) = C(f_j) exp(f_j x_j), 0 <= x_j <= 1, with C(f) = f / (exp(f) - 1): grey levels.

    Args:
        data_dim: D. The decoder gives the D logits f; E[x_j] is not σ(f_j), but nearer to ½.

    Reference: Loaiza-Ganem & Cunningham, The continuous Bernoulli: fixing a pervasive error in
    variational autoencoders, 2019.

    >>> import torch
    >>> ContinuousBernoulli(2)(torch.zeros(2)).log_prob(torch.tensor([0.3, 0.9]))
    tensor(0.)
    """

    def distribution(self, parts: Tensor) -> TorchDistribution:
        return TruncatedExponential(parts.squeeze(-2)).to_event(1)

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        target = x.mean(0).clamp(EDGE, 1 - EDGE)
        return inverse(lambda f: TruncatedExponential(f).mean, target, 1.1 / EDGE)
