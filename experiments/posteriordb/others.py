"""Three models that are no regression: eight schools, a mixture and a Gaussian process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from zoo.model import Model
from zoo.models._parts import check_size
from zoo.nets import cholesky, select


class EightSchools(Model):
    """μ ~ N(0, 5²),  τ ~ C⁺(5),  η_j ~ N(0, 1),  y_j ~ N(μ + τ η_j, s_j²), s_j given.

    Notation: global latents ``theta_trans`` η (J,), ``mu`` μ (), ``tau`` τ (); inputs "school" j,
    a whole number from 0, and "error" s_j. The effects θ_j = μ + τ η_j are what is reported.

    Args:
        num_schools: J.

    Raises:
        ValueError: J below 1.

    Reference: Rubin, "Estimation in Parallel Randomized Experiments", 1981.

    Example:
        >>> EightSchools(3)(3, torch.arange(3), torch.ones(3)).shape
        torch.Size([3])
    """

    inputs: ClassVar[tuple[str, ...]] = ("school", "error")

    def __init__(self, num_schools: int = 8) -> None:
        super().__init__()
        check_size("num_schools", num_schools)
        self.num_schools = num_schools

    def forward(self, n: int, school: Tensor, error: Tensor) -> Tensor:
        prior = dist.Normal(0.0, 1.0).expand_by([self.num_schools]).to_event(1)
        eta = pyro.sample("theta_trans", prior)  # (..., J)
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))  # (...)
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))  # (...)
        with pyro.plate("data", n, dim=-1):
            return pyro.sample("y", dist.Normal(mu + tau * select(eta, school), error))

    def latents_of(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """η, μ and τ from θ (..., J), μ and τ (...), by name."""
        mu, tau = parameters["mu"], parameters["tau"]
        eta = (parameters["theta"] - mu.unsqueeze(-1)) / tau.unsqueeze(-1)
        return {"theta_trans": eta, "mu": mu, "tau": tau}

    def parameters_of(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """θ, μ and τ from η (..., J), μ and τ (...), by name."""
        mu, tau = latents["mu"], latents["tau"]
        theta = mu.unsqueeze(-1) + tau.unsqueeze(-1) * latents["theta_trans"]
        return {"theta": theta, "mu": mu, "tau": tau}


class OrderedNormal(dist.TorchDistribution):
    """x_1 < … < x_d, the order statistics of N(0, s²): density d! Π_i N(x_i; 0, s²).

    Args:
        dim: d.
        scale: s > 0.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.ordered_vector  # type: ignore[assignment]
    has_rsample = False  # type: ignore[assignment]

    def __init__(self, dim: int, scale: float, batch_shape: Any = ()) -> None:
        self.scale = scale
        super().__init__(torch.Size(batch_shape), torch.Size((dim,)))

    def expand(self, batch_shape: Any, _instance: Any = None) -> OrderedNormal:
        """The same with another batch shape."""
        return OrderedNormal(self.event_shape[0], self.scale, batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """(...), in nats, of x (..., d)."""
        if self._validate_args:
            self._validate_sample(value)
        d = self.event_shape[0]
        each = torch.distributions.Normal(0.0, self.scale).log_prob(value).sum(-1)
        lead = torch.broadcast_shapes(each.shape, self.batch_shape)
        return (each + torch.lgamma(each.new_tensor(d + 1.0))).expand(lead)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(..., d)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return (self.scale * torch.randn(shape)).sort(-1).values


class TwoNormals(Model):
    """y_n ~ θ N(μ_1, σ_1²) + (1 − θ) N(μ_2, σ_2²),  μ_1 < μ_2,  θ ~ Beta(5, 5).

    μ_k ~ N(0, 2²), ordered; σ_k ~ N⁺(0, 2²). The component of a row is summed out.

    Notation: global latents ``mu`` (2,), ``sigma`` (2,), ``theta`` ().

    Reference: Magnusson et al., "posteriordb", 2025.

    Example:
        >>> TwoNormals()(5).shape
        torch.Size([5])
    """

    def forward(self, n: int) -> Tensor:
        mu = pyro.sample("mu", OrderedNormal(2, 2.0))  # (..., 2)
        sigma = pyro.sample("sigma", dist.HalfNormal(2.0).expand_by([2]).to_event(1))  # (..., 2)
        theta = pyro.sample("theta", dist.Beta(5.0, 5.0))  # (...)
        with pyro.plate("data", n, dim=-1):
            which = dist.Categorical(torch.stack([theta, 1 - theta], -1))
            return pyro.sample("y", dist.MixtureSameFamily(which, dist.Normal(mu, sigma)))


class GaussianProcess(Model):
    """y ~ N(0, K + σ I),  K_ij = α² exp(−(x_i − x_j)² / (2 ρ²)), one row of T places.

    ρ ~ Gamma(25, 4),  α ~ N⁺(0, 2²),  σ ~ N⁺(0, 1): σ is the variance of the noise.

    Notation: the input "place" x and the site "y" are (T,) a row, a row being a whole function;
    global latents ``rho``, ``alpha``, ``sigma`` ().

    Reference: Magnusson et al., "posteriordb", 2025.

    Example:
        >>> GaussianProcess()(1, torch.arange(6.0).expand(1, 6)).shape
        torch.Size([1, 6])
    """

    inputs: ClassVar[tuple[str, ...]] = ("place",)

    def forward(self, n: int, place: Tensor) -> Tensor:
        rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))  # (...)
        alpha = pyro.sample("alpha", dist.HalfNormal(2.0))  # (...)
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))  # (...)
        away = (place.unsqueeze(-1) - place.unsqueeze(-2)).square()  # (n, T, T)
        rho, alpha, sigma = (value[..., None, None] for value in (rho, alpha, sigma))
        noise = sigma * torch.eye(place.shape[-1]).to(place)
        kernel = alpha.square() * torch.exp(-away / (2 * rho.square())) + noise
        with pyro.plate("data", n, dim=-1):
            mean = torch.zeros_like(place)
            return pyro.sample("y", dist.MultivariateNormal(mean, scale_tril=cholesky(kernel)))
