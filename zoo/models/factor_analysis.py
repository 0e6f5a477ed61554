"""Factor analysis."""

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


class FactorAnalysis(Model):
    """z_n ~ N(0, I_d),  x_n | z_n ~ N(W z_n + μ, Ψ),  Ψ = diag(ψ).

    Notation: W = `weight` (D, d), μ = `mean` (D,), ψ = exp(`log_uniqueness`) (D,), the part of
    each variance that the factors do not share. W is free up to a rotation; `loadings` gives an
    identified form.

    Exact: log p(x) = log N(x; μ, W Wᵀ + Ψ) and p(z | x) = N(M⁻¹ Wᵀ Ψ⁻¹ (x − μ), M⁻¹) with
    M = I + Wᵀ Ψ⁻¹ W. Where entries are missing, W, μ, Ψ and x are those of the observed entries.

    Args:
        data_dim: D.
        latent_dim: d.
        init: "random" (W ~ N(0, 1/d), μ = 0, ψ = 1) or "ml": maximum likelihood by EM, with W
            maximised in closed form for each Ψ. The uniqueness of a variable is kept above 1e-6
            of its variance (it falls to nil in a Heywood case).

    Raises:
        ValueError: an unknown `init`; latent_dim < 1; init="ml" with missing entries, with
            d >= D, or with a variable that is constant.

    Reference: Rubin & Thayer, EM algorithms for ML factor analysis, 1982.

    >>> model, data = FactorAnalysis.example()
    >>> model.posterior(data["x"]).mean.shape
    torch.Size([50, 1])
    >>> best = FactorAnalysis.for_data(data, latent_dim=1, init="ml")
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
        self.log_uniqueness = nn.Parameter(torch.zeros(data_dim))  # (D,)

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand_by([self.latent_dim]).to_event(1))
            loc = affine(z, self.weight) + self.mean
            return pyro.sample("x", dist.Normal(loc, self.uniquenesses.sqrt()).to_event(1))

    @property
    def uniquenesses(self) -> Tensor:
        """ψ (D,), in squared units of x."""
        return self.log_uniqueness.exp()

    def log_evidence(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x) (B,) in nats, of x (B, D); observed (B, D) bool marks the entries present."""
        return linear_gaussian.log_evidence(x, self.weight, self.mean, self.uniquenesses, observed)

    def posterior(self, x: Tensor, observed: Tensor | None = None) -> dist.MultivariateNormal:
        """p(z | x): batch (B,), event (d,)."""
        return linear_gaussian.posterior(x, self.weight, self.mean, self.uniquenesses, observed)

    @property
    def degrees_of_freedom(self) -> int:
        """Free parameters of p(x), net of rotation: 2 D + D d − d(d−1)/2, if there is room."""
        data_dim, latent_dim = self.weight.shape
        return data_dim + linear_gaussian.degrees_of_freedom(data_dim, latent_dim, data_dim)

    def loadings(self, rotate: str | None = None) -> Tensor:
        """W (D, d) identified: orthogonal columns by falling variance, or rotate="varimax"."""
        return identify.loadings(self.weight, rotate)

    @torch.no_grad()
    def initialize(self, data: Dataset) -> None:
        """The maximum-likelihood solution, if init="ml"."""
        if self.init == "ml":
            mean, cov = linear_gaussian.covariance(complete_rows(data, self.init))
            constant = (cov.diagonal() <= 0).nonzero().flatten().tolist()
            if constant:
                raise ValueError(
                    f"variables {constant} are constant, so the likelihood of factor analysis has "
                    "no maximum; drop them, or use ppca"
                )
            weight, uniquenesses = linear_gaussian.factor_loadings(cov, self.latent_dim)
            self.weight.copy_(weight)
            self.mean.copy_(mean)
            self.log_uniqueness.copy_(uniquenesses.log())

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """A random start and 50 iris flowers."""
        return cls(4, latent_dim=1), iris()
