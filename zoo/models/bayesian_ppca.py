"""Bayesian principal component analysis with automatic relevance determination."""

from collections.abc import Mapping
from typing import Self

import pyro
import pyro.distributions as dist
from torch import Tensor

from zoo import identify
from zoo.data import Dataset
from zoo.model import Model
from zoo.models._parts import check_size, iris
from zoo.nets import affine


class BayesianPPCA(Model):
    """z_n ~ N(0, I_d),  x_n | z_n ~ N(W z_n + μ, σ² I_D),  an ARD prior on W's columns.

    α_j ~ Gamma(a, b),  W_ij ~ N(0, 1/α_j),  μ_i ~ N(0, s²),  σ ~ HalfNormal(1),
    z_n ~ N(0, I_d),  x_n | z_n ~ N(W z_n + μ, σ² I_D).

    Notation: global latents `alpha` (d,), `weight` W (D, d), `mean` μ (D,), `scale` σ (); local
    latent `z` (d,). A column that the data do not need gets a large precision α_j and vanishes,
    so that `latent_dim` is an upper bound. The posterior of W is invariant to permutation and
    signs of the columns, and nearly so to rotation: report W Wᵀ or `zoo.identify.loadings`.

    The default hyperparameters are meant for standardised data (sd 1). With a = 1 and b = 0.05
    an entry of W has marginally a Student t distribution with 2 degrees of freedom and scale
    √b = 0.22: tails that let loadings near 1 through, while an unneeded column shrinks to
    sd √(b / (a + D/2)), 0.08 at D = 13. The flat Gamma(10⁻³, 10⁻³) of the reference has the same
    aim, but no simulation from it is finite in practice. s = 1 and σ of order 1 bound the mean
    and the noise by the spread of the data.

    Args:
        data_dim: D.
        latent_dim: d, an upper bound.
        alpha_shape: a.
        alpha_rate: b, squared units of x.
        mean_scale: s, units of x.
        noise_scale: scale of the half-normal prior of σ, units of x.

    Raises:
        ValueError: latent_dim < 1.

    Reference: Bishop, Bayesian PCA, 1999.

    >>> model, data = BayesianPPCA.example()
    >>> model(len(data)).shape
    torch.Size([50, 4])
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 2,
        alpha_shape: float = 1.0,
        alpha_rate: float = 0.05,
        mean_scale: float = 1.0,
        noise_scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_size("latent_dim", latent_dim)
        self.data_dim, self.latent_dim = data_dim, latent_dim
        self.alpha_shape, self.alpha_rate = alpha_shape, alpha_rate
        self.mean_scale, self.noise_scale = mean_scale, noise_scale

    def forward(self, n: int) -> Tensor:
        D, d = self.data_dim, self.latent_dim
        prior = dist.Gamma(self.alpha_shape, self.alpha_rate)
        alpha = pyro.sample("alpha", prior.expand_by([d]).to_event(1))  # (..., d)
        sd = alpha.rsqrt().unsqueeze(-2).expand(*alpha.shape[:-1], D, d)
        W = pyro.sample("weight", dist.Normal(0.0, sd).to_event(2))  # (..., D, d)
        mu = pyro.sample("mean", dist.Normal(0.0, self.mean_scale).expand_by([D]).to_event(1))
        sigma = pyro.sample("scale", dist.HalfNormal(self.noise_scale))  # (...)
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand_by([d]).to_event(1))
            loc = affine(z, W) + mu
            return pyro.sample("x", dist.Normal(loc, sigma.unsqueeze(-1)).to_event(1))

    def posterior_loadings(
        self, samples: Mapping[str, Tensor], rotate: str | None = None
    ) -> Tensor:
        """The posterior mean of W (D, d), identified, from draws of "weight" (S, D, d)."""
        return identify.loadings(samples["weight"].mean(0), rotate)

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """50 iris flowers."""
        return cls(4), iris()
