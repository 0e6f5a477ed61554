"""Probabilistic principal component analysis."""

import math
from typing import Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from zoo import identify
from zoo.data import Dataset
from zoo.model import Model
from zoo.models import _linear_gaussian as linear_gaussian
from zoo.models._parts import check_option, check_size, complete_rows, iris
from zoo.nets import affine


class PPCA(Model):
    """z_n ~ N(0, I_d),  x_n | z_n ~ N(W z_n + μ, σ² I_D).

    Notation: W = `weight` (D, d), μ = `mean` (D,), σ = exp(`log_scale`). W is free up to a
    rotation of its columns; `loadings` gives an identified form.

    Exact: log p(x) = log N(x; μ, W Wᵀ + σ² I) and p(z | x) = N(M⁻¹ Wᵀ(x − μ), σ² M⁻¹) with
    M = Wᵀ W + σ² I. Where entries are missing, W, μ and x are those of the observed entries.

    Args:
        data_dim: D.
        latent_dim: d.
        init: "random" (W ~ N(0, 1/d), μ = 0, σ = 1) or "ml", the maximum-likelihood solution in
            closed form: W = U_d (Λ_d − σ² I)^½, σ² the mean of the discarded eigenvalues of the
            1/n covariance.

    Raises:
        ValueError: an unknown `init`; latent_dim < 1; init="ml" with missing entries, with
            d >= D, or with data that d dimensions explain without noise.

    Reference: Tipping & Bishop, Probabilistic principal component analysis, 1999.

    >>> model, data = PPCA.example()
    >>> model.posterior(data["x"]).mean.shape
    torch.Size([50, 2])
    >>> best = PPCA.for_data(data, init="ml")
    >>> bool(best.log_evidence(data["x"]).mean() > model.log_evidence(data["x"]).mean())
    True
    """

    def __init__(self, data_dim: int, latent_dim: int = 2, init: str = "random") -> None:
        super().__init__()
        check_option("init", init, ("random", "ml"))
        check_size("latent_dim", latent_dim, data_dim - 1 if init == "ml" else None)
        self.latent_dim, self.init = latent_dim, init
        self.weight = nn.Parameter(
            torch.randn(data_dim, latent_dim) / math.sqrt(latent_dim)
        )  # (D, d)
        self.mean = nn.Parameter(torch.zeros(data_dim))  # (D,)
        self.log_scale = nn.Parameter(torch.zeros(()))  # ()

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand_by([self.latent_dim]).to_event(1))
            loc = affine(z, self.weight) + self.mean
            return pyro.sample("x", dist.Normal(loc, self.log_scale.exp()).to_event(1))

    def _parameters_of_x(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.weight, self.mean, (2 * self.log_scale).exp().expand_as(self.mean)

    def log_evidence(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x) (B,) in nats, of x (B, D); observed (B, D) bool marks the entries present."""
        return linear_gaussian.log_evidence(x, *self._parameters_of_x(), observed)

    def posterior(self, x: Tensor, observed: Tensor | None = None) -> dist.MultivariateNormal:
        """p(z | x): batch (B,), event (d,)."""
        return linear_gaussian.posterior(x, *self._parameters_of_x(), observed)

    @property
    def degrees_of_freedom(self) -> int:
        """Free parameters of p(x), net of rotation: D + D d + 1 − d(d−1)/2 (d < D)."""
        data_dim, latent_dim = self.weight.shape
        return data_dim + linear_gaussian.degrees_of_freedom(data_dim, latent_dim, 1)

    def loadings(self, rotate: str | None = None) -> Tensor:
        """W (D, d) identified: orthogonal columns by falling variance, or rotate="varimax"."""
        return identify.loadings(self.weight, rotate)

    @torch.no_grad()
    def initialize(self, data: Dataset) -> None:
        """The maximum-likelihood solution, if init="ml"."""
        if self.init == "ml":
            mean, cov = linear_gaussian.covariance(complete_rows(data, self.init))
            weight, variance = linear_gaussian.principal_loadings(cov, self.latent_dim)
            if variance <= 1e-12 * cov.diagonal().mean():
                raise ValueError(
                    f"{self.latent_dim} dimensions explain the {len(data)} rows without noise, so "
                    "the likelihood has no maximum; use a smaller latent_dim or more rows"
                )
            self.weight.copy_(weight)
            self.mean.copy_(mean)
            self.log_scale.copy_(variance.log() / 2)

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """A random start and 50 iris flowers."""
        return cls(4), iris()
