"""Poisson principal component analysis of counts."""

import math
from typing import ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from zoo import identify
from zoo.data import Dataset
from zoo.model import Model
from zoo.models._parts import check_option, check_size, complete_rows
from zoo.nets import affine


class PoissonPPCA(Model):
    """z_n ~ N(0, I_d),  x_nj | z_n ~ Poisson(e_n exp(w_jᵀ z_n + μ_j)).

    Notation: rows w_j of W = `weight` (D, d), μ = `mean` (D,) in log counts per unit of exposure,
    exposures e (B,), such as times or areas, which are given with the data and enter as the
    offset log e_n. W is free up to a rotation of its columns; `loadings` gives an identified form.

    Args:
        data_dim: D.
        latent_dim: d.
        init: "random" (W ~ N(0, 0.1²/d), small so that rates start finite, and μ = 0), or "mean":
            μ_j = log((Σ_n x_nj + ½) / Σ_n e_n) from the data as well, the maximum for W = 0 but
            for the ½ that keeps it finite for a column of zeros.

    Raises:
        ValueError: an unknown `init`; latent_dim < 1; init="mean" with missing entries.

    Reference: Collins, Dasgupta & Schapire, A generalization of principal component analysis to
    the exponential family, 2001.

    >>> model, data = PoissonPPCA.example()
    >>> model(len(data), exposure=data["exposure"]).shape
    torch.Size([50, 4])
    >>> best = PoissonPPCA.for_data(data, init="mean")
    >>> best.mean.shape
    torch.Size([4])
    """

    inputs: ClassVar[tuple[str, ...]] = ("exposure",)

    def __init__(self, data_dim: int, latent_dim: int = 2, init: str = "random") -> None:
        super().__init__()
        check_option("init", init, ("random", "mean"))
        check_size("latent_dim", latent_dim)
        self.latent_dim, self.init = latent_dim, init
        start = 0.1 * torch.randn(data_dim, latent_dim) / math.sqrt(latent_dim)
        self.weight = nn.Parameter(start)  # (D, d)
        self.mean = nn.Parameter(torch.zeros(data_dim))  # (D,)

    def forward(self, n: int, exposure: Tensor | None = None) -> Tensor:
        """The joint of n rows; exposure (n,) > 0, one for every row if it is not given."""
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand_by([self.latent_dim]).to_event(1))
            rate = (affine(z, self.weight) + self.mean).exp()
            if exposure is not None:
                rate = exposure.unsqueeze(-1) * rate
            return pyro.sample("x", dist.Poisson(rate).to_event(1))

    def loadings(self, rotate: str | None = None) -> Tensor:
        """W (D, d) identified: orthogonal columns by falling variance, or rotate="varimax"."""
        return identify.loadings(self.weight, rotate)

    @torch.no_grad()
    def initialize(self, data: Dataset) -> None:
        """The mean log rates, if init="mean"."""
        if self.init == "mean":
            total = complete_rows(data, self.init).sum(0) + 0.5
            exposure = data["exposure"].sum() if "exposure" in data.names else len(data)
            self.mean.copy_((total / exposure).log())

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """A random start and 50 rows of counts with rates around 3 per unit of exposure."""
        generator = torch.Generator().manual_seed(0)
        W = torch.tensor([[0.6, 0.0], [0.4, 0.4], [0.0, 0.6], [-0.5, 0.2]])
        z = torch.randn(50, 2, generator=generator)
        exposure = 0.5 + torch.rand(50, generator=generator)
        rate = exposure.unsqueeze(-1) * (affine(z, W) + 1.0).exp()
        counts = torch.poisson(rate, generator=generator)
        return cls(4), Dataset({"x": counts, "exposure": exposure}, name="simulated counts")
