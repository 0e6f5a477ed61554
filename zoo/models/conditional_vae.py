"""Conditional variational autoencoder: a deep latent variable model of x given y."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from zoo.data import Dataset
from zoo.models._parts import check_size
from zoo.models.vae import VAE
from zoo.nets import indicator


class ConditionalVAE(VAE):
    """z_n ~ p(z),  x_n | z_n, y_n ~ p(x | f(z_n, y_n)), y given with the data.

    Notation: as `VAE`; y in R^F is an input, the value "y" of the data: a vector of covariates
    (B, F) is read as it is, whole numbers (B,) are labels 0 … F − 1 and read one-hot. An amortized
    guide reads y in the same way, so that q(z | x, y).

    Labels that a data set keeps for judging are no input until they are made one:
    `data.with_values(y=data.labels)`.

    Args:
        data_dim: D.
        condition_dim: F, the number of classes or of covariates; `for_data` takes that of the data,
            10 where nothing says it.
        latent_dim, hidden, activation, likelihood, prior, net, gated, image_shape: as for `VAE`.
        likelihood_options, prior_options: as for `VAE`.
        decoder: a network of yours from (..., d + F) to (..., E), in place of f.

    Raises:
        ValueError: as `VAE`; data without y; a label outside 0 … F − 1, or y of another width.

    Reference: Sohn, Lee & Yan, Learning structured output representation using deep conditional
    generative models, 2015.

    >>> model, data = ConditionalVAE.example()
    >>> model.decode(torch.zeros(7, 20, 2), data["y"]).mean.shape
    torch.Size([7, 20, 6])
    """

    inputs: ClassVar[tuple[str, ...]] = ("y", "exposure")

    def __init__(
        self,
        data_dim: int,
        condition_dim: int | None = None,
        latent_dim: int = 20,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        likelihood: str | None = None,
        prior: str = "standard_normal",
        net: str = "mlp",
        gated: bool = False,
        image_shape: Sequence[int] | None = None,
        likelihood_options: Mapping[str, Any] | None = None,
        prior_options: Mapping[str, Any] | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        condition_dim = 10 if condition_dim is None else condition_dim
        check_size("condition_dim", condition_dim)
        self.extra_dim = condition_dim
        parts = (activation, likelihood, prior, net, gated, image_shape)
        options = (likelihood_options, prior_options, decoder)
        super().__init__(data_dim, latent_dim, hidden, *parts, *options)
        self.classes = {"y": condition_dim}

    def forward(self, n: int, y: Tensor, exposure: Tensor | None = None) -> Tensor:
        """The joint of n rows given y (n,) of labels or (n, F); exposure as for `VAE`."""
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decode(z, y, exposure))

    def decode(  # type: ignore[override]
        self, z: Tensor, y: Tensor, exposure: Tensor | None = None
    ) -> dist.TorchDistribution:
        """p(x | z, y): batch (..., B), event (D,), of z (..., B, d) and y (B,) or (B, F)."""
        c = self.condition(y).to(z)
        code = torch.cat([z, c.expand(*z.shape[:-1], self.extra_dim)], -1)
        return self.likelihood(self.decoder(code), exposure)

    def condition(self, y: Tensor) -> Tensor:
        """y as a vector, (..., F): labels (...) one-hot, real numbers as they are."""
        width = self.extra_dim
        if y.is_floating_point():
            y = y if y.dim() > 1 else y.unsqueeze(-1)
            if y.shape[-1] != width:
                raise ValueError(
                    f"y has {y.shape[-1]} covariates a row, the model was made for {width}; give "
                    "condition_dim, or class labels as whole numbers"
                )
            return y
        if is_validation_enabled() and bool(((y < 0) | (y >= width)).any()):
            raise ValueError(
                f"labels y are whole numbers 0 … {width - 1}, got {y.min():d} … {y.max():d}; give "
                "condition_dim, the number of classes"
            )
        return indicator(y, width)

    @property
    def shared_encoder(self) -> nn.Module | None:  # type: ignore[override]
        """None: a vamp prior's encoder reads x alone, and q(z | x, y) reads y as well."""
        return None

    @classmethod
    def options_for(cls, data: Dataset) -> dict[str, Any]:
        """The width of y, and what `VAE` reads off the data."""
        if "y" not in data.names:
            raise ValueError(
                f"{cls.__name__} is a model given y, and the data have {', '.join(data.names)}, no "
                "labels; take data with classes (--label-column names that of a table), or add "
                "labels or covariates by data.with_values(y=...)"
            )
        y = data["y"]
        flat = y.is_floating_point()
        width = (y.shape[-1] if y.dim() > 1 else 1) if flat else int(y.max()) + 1
        return {"condition_dim": width, **super().options_for(data)}

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """A small random start and 20 rows of 6 zeros and ones in 3 classes."""
        generator = torch.Generator().manual_seed(0)
        y = torch.randint(3, (20,), generator=generator)
        x = torch.rand(20, 6, generator=generator) < 0.25 * (1 + y.unsqueeze(-1))
        data = Dataset({"x": x.to(torch.get_default_dtype()), "y": y}, name="simulated bits")
        return cls(6, 3, latent_dim=2, hidden=(8,), likelihood="bernoulli"), data
