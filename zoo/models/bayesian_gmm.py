"""Bayesian Gaussian mixture."""

import math
from collections.abc import Mapping
from typing import Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.data import Dataset
from zoo.model import Model
from zoo.models._mixture import Components
from zoo.models._parts import check_option, check_positive, check_size, iris
from zoo.nets import select


class BayesianGMM(Model):
    """y_n ~ Categorical(π),  x_n | y_n = c ~ N(μ_c, Σ_c),  priors on π, μ and Σ.

    π ~ Dirichlet(a, …, a),  μ_cj ~ N(0, s²),  σ_cj ~ LogNormal(log m, t²),  R_c ~ LKJ(η),
    y_n ~ Categorical(π),  x_n | y_n = c ~ N(μ_c, diag(σ_c) R_c diag(σ_c)).

    Notation: global latents `weights` π (C,), `locs` μ (C, D), `scales` σ (C, D) and, with full
    covariance, `correlation` (C, D, D), the Cholesky factor of R_c; local latent y, enumerated.
    The posterior has C! equal modes, one for each order of the components.

    The default hyperparameters are meant for standardised data (sd 1). The variance of such data
    is the sum of that between the means and that within the components, so neither s nor σ should
    be far above 1: s = 1, and σ has median m = 0.5 and 95 % in (0.19, 1.33) with t = 0.5. The
    log-normal keeps σ off 0, where a component could collapse onto a point. a = 1 is even over
    all weights; a < 1 empties components that the data do not need. η = 2 leans mildly to no
    correlation (η = 1 is even over correlation matrices).

    Args:
        data_dim: D.
        num_components: C.
        covariance: "full" or "diagonal" (R_c = I).
        concentration: a.
        loc_scale: s, units of x.
        scale_median: m, units of x.
        scale_spread: t, in log units.
        correlation_concentration: η.

    Raises:
        ValueError: an unknown covariance; num_components < 1; a full covariance with D = 1; a
            hyperparameter that is not positive.

    Reference: Bishop, Pattern recognition and machine learning, chapter 10.2, 2006; Lewandowski,
    Kurowicka & Joe, Generating random correlation matrices based on vines and extended onion
    method, 2009.

    >>> model, data = BayesianGMM.example()
    >>> model(len(data)).shape
    torch.Size([50, 4])
    """

    def __init__(
        self,
        data_dim: int,
        num_components: int = 3,
        covariance: str = "full",
        concentration: float = 1.0,
        loc_scale: float = 1.0,
        scale_median: float = 0.5,
        scale_spread: float = 0.5,
        correlation_concentration: float = 2.0,
    ) -> None:
        super().__init__()
        check_option("covariance", covariance, ("full", "diagonal"))
        check_size("num_components", num_components)
        check_positive("scale_median", scale_median)
        if covariance == "full" and data_dim < 2:
            raise ValueError("one dimension has no correlations; use covariance='diagonal'")
        self.data_dim, self.num_components = data_dim, num_components
        self.covariance, self.concentration = covariance, concentration
        self.loc_scale, self.scale_median, self.scale_spread = loc_scale, scale_median, scale_spread
        self.correlation_concentration = correlation_concentration

    def forward(self, n: int) -> Tensor:
        C, D = self.num_components, self.data_dim
        weights = pyro.sample("weights", dist.Dirichlet(torch.full((C,), self.concentration)))
        locs = pyro.sample("locs", dist.Normal(0.0, self.loc_scale).expand_by([C, D]).to_event(2))
        spread = dist.LogNormal(math.log(self.scale_median), self.scale_spread)
        scales = pyro.sample("scales", spread.expand_by([C, D]).to_event(2))  # (..., C, D)
        if self.covariance == "full":
            lkj = dist.LKJCholesky(D, concentration=self.correlation_concentration)
            factor = pyro.sample("correlation", lkj.expand_by([C]).to_event(1))  # (..., C, D, D)
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(weights))
            loc, scale = select(locs, y, event_dim=1), select(scales, y, event_dim=1)
            if self.covariance == "diagonal":
                return pyro.sample("x", dist.Normal(loc, scale).to_event(1))
            tril = scale.unsqueeze(-1) * select(factor, y, event_dim=2)
            return pyro.sample("x", dist.MultivariateNormal(loc, scale_tril=tril))

    def posterior_components(self, samples: Mapping[str, Tensor]) -> Components:
        """Posterior means of π, μ and Σ by falling weight, from draws of the global latents.

        The draws are those of one mode, as guides with a single one give them.

        Args:
            samples: `weights` (S, C), `locs` (S, C, D), `scales` (S, C, D) and, with full
                covariance, `correlation` (S, C, D, D).
        """
        weights, locs = samples["weights"].mean(0), samples["locs"].mean(0)
        tril = torch.diag_embed(samples["scales"])
        if self.covariance == "full":
            tril = tril @ samples["correlation"]
        order = weights.argsort(descending=True)
        covariances = (tril @ tril.mT).mean(0)
        return Components(weights[order], locs[order], covariances[order])

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """50 iris flowers."""
        return cls(4), iris()
