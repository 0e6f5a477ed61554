"""Likelihoods of counts."""

from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from zoo.likelihoods._base import Likelihood, Positive
from zoo.likelihoods._counts import GivenTotal, LogNegativeBinomial, LogPoisson
from zoo.models._parts import check_positive

__all__ = ["Multinomial", "NegativeBinomial", "Poisson"]


class Poisson(Likelihood):
    """x_j ~ Poisson(e exp(f_j)): counts, per unit of an exposure e where one is given.

    Args:
        data_dim: D. The decoder gives D log rates f.

    Raises:
        ValueError: an exposure that is not positive.

    >>> rates = Poisson(2)(torch.zeros(3, 2), exposure=torch.tensor([1.0, 2.0, 4.0])).mean
    >>> rates[:, 0]
    tensor([1., 2., 4.])
    """

    takes_exposure = True

    def distribution(self, parts: Tensor, exposure: Tensor | None = None) -> TorchDistribution:
        return LogPoisson(log_rate(parts.squeeze(-2), exposure)).to_event(1)

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        return log_mean(x, exposure)


class NegativeBinomial(Likelihood):
    """x_j ~ NB(mean μ_j = e exp(f_j), variance μ_j + μ_j²/r_j): counts that vary more than Poisson.

    p(x) = Γ(x+r) / (Γ(r) x!) (r/(r+μ))^r (μ/(r+μ))^x; Poisson is its limit for large r. An exposure
    e multiplies the mean and leaves r.

    Args:
        data_dim: D. The decoder gives D log means, and for dispersion="decoder" D numbers of r.
        dispersion: where r comes from: "fixed", "scalar", "dimension", "decoder".
        start_count: r at first.
        floor: r stays above it.

    Raises:
        ValueError: an unknown dispersion; start_count at or below the floor; an exposure that is
            not positive.

    Reference: Lopez, Regier, Cole, Jordan & Yosef, Deep generative modeling for single-cell
    transcriptomics, 2018.

    >>> NegativeBinomial(3, dispersion="decoder").num_outputs
    6
    """

    shorthand: ClassVar[str] = "dispersion"
    takes_exposure = True

    def __init__(
        self,
        data_dim: int,
        dispersion: str = "dimension",
        start_count: float = 5.0,
        floor: float = 1e-4,
    ) -> None:
        super().__init__(data_dim)
        self.count = Positive("dispersion", dispersion, data_dim, start_count, floor)
        self.per_dimension = 1 + self.count.per_dimension

    def distribution(self, parts: Tensor, exposure: Tensor | None = None) -> TorchDistribution:
        mean, *count = parts.unbind(-2)
        fn = LogNegativeBinomial(log_rate(mean, exposure), self.count(count))
        return fn.to_event(1)

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        return torch.cat([log_mean(x, exposure), *self.count.start(x)])


class Multinomial(Likelihood):
    """p(x | Σ_j x_j) = (Σ_j x_j)! Π_j π_j^x_j / x_j!,  π = softmax(f): what a total is made of.

    The total is given, never modelled: words of a document, say. Where entries are missing the
    others are scored given their own sum, p(x_o | Σ_o x_o), again a multinomial with π
    renormalised; the total of all is not known then.

    Args:
        data_dim: D. The decoder gives D logits f.
        total: how many a draw has, where no exposure says it row by row; `start` makes it the mean
            total of the data.

    Raises:
        ValueError: total <= 0, an exposure that is not positive.

    Reference: Miao, Yu & Blunsom, Neural variational inference for text processing, 2016.

    >>> words = Multinomial(4, total=10)(torch.zeros(3, 4)).sample()
    >>> words.sum(-1)
    tensor([10., 10., 10.])
    """

    takes_exposure = True
    total: Tensor

    def __init__(self, data_dim: int, total: float = 1.0) -> None:
        super().__init__(data_dim)
        check_positive("total", total)
        self.register_buffer("total", torch.tensor(float(total)))  # ()

    def distribution(self, parts: Tensor, exposure: Tensor | None = None) -> TorchDistribution:
        return GivenTotal(parts.squeeze(-2), self.total if exposure is None else exposure)

    @torch.no_grad()
    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        self.total.copy_(x.sum(-1).mean())
        return log_mean(x)


def log_rate(log_rate: Tensor, exposure: Tensor | None) -> Tensor:
    """a + log e (..., D), of a (..., D) and an exposure (B,)."""
    return log_rate if exposure is None else log_rate + exposure.log().unsqueeze(-1)


def log_mean(x: Tensor, exposure: Tensor | None = None) -> Tensor:
    """The log mean count (D,) per unit of exposure; a column of zeros counts as half a one."""
    total = len(x) if exposure is None else exposure.sum()
    return (x.sum(0).clamp(min=0.5) / total).log()
