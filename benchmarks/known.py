"""Posteriors of known quality: models whose posterior is known, and guides with one fault each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from guides import Guide
from zoo import Dataset, Model, fit, prior_predictive
from zoo.data import Batch
from zoo.model import rows
from zoo.models.ppca import PPCA

Known = tuple[Model, Any, Dataset]


class TwoModes(Model):
    """z ~ ½ N(−3, ½²) + ½ N(3, ½²),  x | z ~ N(z, 6²): both modes stay in the posterior."""

    places = (-3.0, 3.0)
    width, noise = 0.5, 6.0

    def forward(self, n):
        half, place = torch.tensor([0.5, 0.5]), torch.tensor(self.places)
        with pyro.plate("data", n, dim=-1):
            prior = dist.MixtureSameFamily(dist.Categorical(half), dist.Normal(place, self.width))
            z = pyro.sample("z", prior)
            return pyro.sample("x", dist.Normal(z, self.noise))

    def components(self, x: Tensor) -> tuple[Tensor, dist.Normal]:
        """The weights (B, 2) and the two parts (B, 2) of p(z | x)."""
        place = x.new_tensor(self.places)
        log_weight = dist.Normal(place, math.hypot(self.width, self.noise)).log_prob(x[:, None])
        variance = 1 / (1 / self.width**2 + 1 / self.noise**2)
        mean = variance * (place / self.width**2 + x[:, None] / self.noise**2)
        return log_weight.softmax(-1), dist.Normal(mean, math.sqrt(variance))


def two_modes(seed: int, num_rows: int, one: bool) -> Known:
    """The exact posterior of ``TwoModes``, or the mode at 3 alone."""
    torch.manual_seed(seed)
    model = TwoModes()
    data = Dataset({"x": prior_predictive(model, num_rows)["x"]})

    def guide(batch: Batch) -> None:
        share, parts = model.components(batch["x"])
        if one:
            share = torch.tensor([0.0, 1.0]).expand_as(share)
        with rows(batch):
            pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(share), parts))

    return model, guide, data


def linear(
    seed: int, num_rows: int, latent_dim: int = 2, data_dim: int = 6
) -> tuple[PPCA, Dataset]:
    """A PPCA with loadings of its own, and rows that it has drawn."""
    torch.manual_seed(seed)
    model = PPCA(6, latent_dim)
    with torch.no_grad():
        model.log_scale.fill_(math.log(0.7))
    return model, Dataset({"x": prior_predictive(model, num_rows)["x"]})


def altered(scale: float = 1.0, shift: float = 0.0) -> Callable[[int, int], Known]:
    """The exact posterior with its sds times ``scale``, and its mean ``shift`` sds off."""

    def make(seed: int, num_rows: int) -> Known:
        model, data = linear(seed, num_rows)

        def guide(batch: Batch) -> None:
            exact = model.posterior(batch["x"])
            tril = scale * exact.scale_tril
            mean = exact.mean + shift * exact.variance.sqrt()
            with rows(batch):
                pyro.sample("z", dist.MultivariateNormal(mean, scale_tril=tril))

        return model, guide, data

    return make


def mean_field(seed: int, num_rows: int, rho: float = 0.8) -> Known:
    """The best product of normals for a posterior of two latents with precision correlation ρ."""
    torch.manual_seed(seed)
    model = PPCA(2, 2)
    variance = 0.5
    # M/σ² = I + Wᵀ W/σ² with unit diagonal after scaling and off-diagonal ρ
    precision = 10 * torch.tensor([[1.0, rho], [rho, 1.0]])
    with torch.no_grad():
        model.weight.copy_(torch.linalg.cholesky(variance * (precision - torch.eye(2))).mT)
        model.log_scale.fill_(0.5 * math.log(variance))
    data = Dataset({"x": prior_predictive(model, num_rows)["x"]})

    def guide(batch: Batch) -> None:
        mean = model.posterior(batch["x"]).mean
        with rows(batch):
            pyro.sample("z", dist.Normal(mean, precision.diagonal().rsqrt()).to_event(1))

    return model, guide, data


def prior(seed: int, num_rows: int) -> Known:
    """The prior in the place of the posterior."""
    model, data = linear(seed, num_rows)

    def guide(batch: Batch) -> None:
        with rows(batch):
            pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(batch), 2]).to_event(1))

    return model, guide, data


def ignored(seed: int, num_rows: int) -> Known:
    """A decoder that ignores z: the posterior is the prior, and so is q."""
    model, _, _ = prior(seed, num_rows)
    with torch.no_grad():
        model.weight.zero_()
    data = Dataset({"x": prior_predictive(model, num_rows)["x"]})
    return model, Guide(model, data, "exact"), data


def hasty(seed: int, num_rows: int) -> Known:
    """An encoder trained for 60 steps."""
    model, data = linear(seed, num_rows)
    guide = Guide(model, data, "mean_field", "amortized", inference_options={"hidden": [32]})
    fit(model, guide, data, steps=60, lr=0.01, seed=seed, freeze="model", progress=False)
    return model, guide, data


CASES: dict[str, Callable[[int, int], Known]] = {
    "exact": altered(),
    "exact, two modes": lambda seed, n: two_modes(seed, n, False),
    "mean-field, ρ = 0.8": mean_field,
    **{f"sd × {scale}": altered(scale=scale) for scale in (0.5, 0.8, 0.95, 1.05, 1.2, 2.0)},
    **{f"mean + {shift} sd": altered(shift=shift) for shift in (0.1, 0.3, 1.0)},
    "one mode of two": lambda seed, n: two_modes(seed, n, True),
    "prior as posterior": prior,
    "decoder ignores z": ignored,
    "encoder trained too little": hasty,
}
EXACT = ("exact", "exact, two modes", "decoder ignores z")
MUST = ("sd × 0.5", "sd × 2.0", "mean + 1.0 sd", "one mode of two", "prior as posterior")
