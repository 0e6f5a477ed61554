"""Bayesian linear regression, with the priors that Stan programs of posteriordb have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.data import Dataset
from zoo.model import Model
from zoo.models._parts import check_option, check_positive, check_size
from zoo.nets import affine

NOISE_PRIORS = ("flat", "half_cauchy", "half_normal")


class Regression(Model):
    """y_n | β, σ ~ N(x_nᵀ β, σ²),  β_p ~ N(m_p, s_p²) or flat,  σ ~ flat, C⁺(s) or N⁺(0, s²).

    Notation: x_n (P,) is the input "covariates", a constant among them where there is an intercept.
    The latents are global and stand in units of the data, ``beta`` b (P,) and ``sigma`` t ():
    β = c + u ⊙ b and σ = v t, with c and u the least-squares estimate and its standard errors and
    v the residuals' standard deviation (``initialize``). The map acts on each number alone, so the
    posterior is the same, a family of independent or of Gaussian latents is the same family, and an
    optimizer meets numbers of size 1 where β_p may be 10⁵ or 10⁻³.

    A flat prior is improper: it has density 1 and nothing to draw from. It stands here as a
    distribution of the right support whose log density is masked, so that a run of the model has
    values to run with; data simulated from the model mean nothing then.

    Args:
        num_covariates: P.
        loc, scale: (P,), m and s of β in its own units; without a scale β has a flat prior.
        noise: the prior of σ: flat, half_cauchy or half_normal.
        noise_scale: s of the prior of σ, units of y.

    Raises:
        ValueError: P below 1, another word, a scale that is not positive or not P long.

    Reference: Magnusson, Torgander, Bürkner, Zhang, Carpenter and Vehtari, "posteriordb: Testing,
    Benchmarking and Developing Bayesian Inference Algorithms", 2025.

    Example:
        >>> model, data = Regression.example()
        >>> model(len(data), data["covariates"]).shape
        torch.Size([50])
    """

    inputs: ClassVar[tuple[str, ...]] = ("covariates",)
    center: Tensor  # (P,)
    unit: Tensor  # (P,)
    noise_unit: Tensor  # ()
    prior_loc: Tensor  # (P,)
    prior_scale: Tensor  # (P,)

    def __init__(
        self,
        num_covariates: int,
        loc: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        noise: str = "flat",
        noise_scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_size("num_covariates", num_covariates)
        check_option("noise", noise, NOISE_PRIORS)
        check_positive("noise_scale", noise_scale)
        loc = [0.0] * num_covariates if loc is None else loc
        if {len(loc), num_covariates, len(scale or loc)} != {num_covariates}:
            raise ValueError(
                f"loc and scale have one number for each of the {num_covariates} covariates; got "
                f"{len(loc)} and {len(scale or loc)}"
            )
        for value in scale or ():
            check_positive("scale", value)
        self.flat, self.noise, self.noise_scale = scale is None, noise, noise_scale
        ones = torch.ones(num_covariates)
        self.register_buffer("prior_loc", torch.tensor(list(loc)).to(ones))
        self.register_buffer("prior_scale", ones if scale is None else torch.tensor(list(scale)))
        self.register_buffer("center", torch.zeros(num_covariates))
        self.register_buffer("unit", ones.clone())
        self.register_buffer("noise_unit", torch.ones(()))

    def initialize(self, data: Dataset) -> None:
        """c, u and v from the least-squares fit."""
        x = data["covariates"].to("cpu", torch.float64).numpy()
        y = data["y"].to("cpu", torch.float64).numpy()
        spare = max(len(y) - x.shape[1], 1)
        beta, *_ = np.linalg.lstsq(x, y, rcond=None)
        residual = np.sqrt(((y - x @ beta) ** 2).sum() / spare) or 1.0
        error = residual * np.sqrt(np.diag(np.linalg.pinv(x.T @ x)))
        self.center.copy_(torch.as_tensor(beta))
        self.unit.copy_(torch.as_tensor(np.where(error > 0, error, 1.0)))
        self.noise_unit.fill_(residual)

    @classmethod
    def options_for(cls, data: Dataset) -> dict[str, Any]:
        """P, read off the data."""
        return {"num_covariates": data.event_shape("covariates")[0]}

    def forward(self, n: int, covariates: Tensor) -> Tensor:
        b = pyro.sample("beta", self._prior().to_event(1))  # (..., P)
        t = pyro.sample("sigma", self._noise())  # (...)
        beta, sigma = self.center + self.unit * b, self.noise_unit * t
        with pyro.plate("data", n, dim=-1):
            loc = affine(covariates, beta.unsqueeze(-2)).squeeze(-1)  # (..., n)
            return pyro.sample("y", dist.Normal(loc, sigma))

    def _prior(self) -> Any:
        """p(b), batch shape (P,); flat: density 1 everywhere."""
        if self.flat:
            return _flat(dist.Normal(torch.zeros_like(self.unit), 1.0))
        loc = (self.prior_loc - self.center) / self.unit
        return dist.Normal(loc, self.prior_scale / self.unit)

    def _noise(self) -> Any:
        """p(t); flat: density 1 above 0."""
        scale = self.noise_scale / self.noise_unit
        if self.noise == "half_cauchy":
            return dist.HalfCauchy(scale)
        if self.noise == "half_normal":
            return dist.HalfNormal(scale)
        return _flat(dist.LogNormal(torch.zeros_like(scale), 1.0))

    def latents_of(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """b and t from β (..., P) and σ (...), by name."""
        beta = (parameters["beta"] - self.center) / self.unit
        return {"beta": beta, "sigma": parameters["sigma"] / self.noise_unit}

    def parameters_of(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """β and σ from b (..., P) and t (...), by name."""
        beta = self.center + self.unit * latents["beta"]
        return {"beta": beta, "sigma": self.noise_unit * latents["sigma"]}

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """50 rows around the line y = 30 + 0.5 x."""
        generator = torch.Generator().manual_seed(0)
        x = torch.linspace(70.0, 130.0, 50)
        y = 30 + 0.5 * x + 5 * torch.randn(50, generator=generator)
        data = Dataset({"y": y, "covariates": torch.stack([torch.ones(50), x], -1)}, name="a line")
        return cls.for_data(data, noise="half_cauchy", noise_scale=2.5), data


def _flat(fn: Any) -> Any:
    """Density 1 on the support of fn, whose draws it has."""
    return fn.mask(torch.zeros(fn.batch_shape, dtype=torch.bool, device=fn.mean.device))
