"""M2: a deep generative model of images with their classes, for few labels."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from zoo.data import Dataset
from zoo.models._parts import check_size, num_classes_of
from zoo.models.vae import VAE
from zoo.nets import indicator, join


class M2(VAE):
    """y_n ~ Categorical(π),  z_n ~ p(z),  x_n | y_n, z_n ~ p(x | f(z_n, y_n)).

    Notation: y in 0 … C − 1 is the class, z in R^d what is left of x beside it, such as the style
    of handwriting; π = softmax(`class_logits`), even and fixed unless learned; f, the prior and the
    likelihood as for `VAE`. A label that the data lack is a latent: the same model takes rows with
    their label and rows without. A guide has q(y | x) q(z | x, y).

    Args:
        data_dim: D.
        num_classes: C; `for_data` takes that of the labels, 10 where nothing says it.
        latent_dim, hidden, activation, likelihood, prior, net, gated, image_shape: as for `VAE`.
        learn_classes: whether π is learned.
        likelihood_options, prior_options: as for `VAE`.
        decoder: a network of yours from (..., d + C) to (..., E), in place of f.

    Raises:
        ValueError: num_classes < 1; as `VAE`.

    Reference: Kingma, Rezende, Mohamed & Welling, Semi-supervised learning with deep generative
    models, 2014.

    >>> model, data = M2.example()
    >>> model.decode(torch.zeros(7, 20, 2), torch.arange(3).reshape(3, 1, 1)).mean.shape
    torch.Size([3, 7, 20, 6])
    """

    labels: ClassVar[tuple[str, ...]] = ("y",)
    estimator: ClassVar[str] = "enumerate"

    class_logits: Tensor  # (C,)

    def __init__(
        self,
        data_dim: int,
        num_classes: int | None = None,
        latent_dim: int = 50,
        hidden: Sequence[int] = (500, 500),
        activation: str = "softplus",
        likelihood: str | None = None,
        prior: str = "standard_normal",
        net: str = "mlp",
        gated: bool = False,
        image_shape: Sequence[int] | None = None,
        learn_classes: bool = False,
        likelihood_options: Mapping[str, Any] | None = None,
        prior_options: Mapping[str, Any] | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        num_classes = 10 if num_classes is None else num_classes
        check_size("num_classes", num_classes)
        self.extra_dim = self.num_classes = num_classes
        parts = (activation, likelihood, prior, net, gated, image_shape)
        options = (likelihood_options, prior_options, decoder)
        super().__init__(data_dim, latent_dim, hidden, *parts, *options)
        if learn_classes:
            self.class_logits = nn.Parameter(torch.zeros(num_classes))  # (C,)
        else:
            self.register_buffer("class_logits", torch.zeros(num_classes))  # (C,)

    def forward(self, n: int, exposure: Tensor | None = None) -> Tensor:
        """The joint of n rows; exposure as for `VAE`."""
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=self.class_logits))
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decode(z, y, exposure))

    def decode(  # type: ignore[override]
        self, z: Tensor, y: Tensor, exposure: Tensor | None = None
    ) -> dist.TorchDistribution:
        """p(x | y, z): batch (...), event (D,), of z (..., d) and y (...), broadcast."""
        return self.likelihood(self.decoder(join(z, indicator(y, self.num_classes))), exposure)

    @property
    def shared_encoder(self) -> nn.Module | None:  # type: ignore[override]
        """None: a vamp prior's encoder reads x alone, and q(z | x, y) reads y as well."""
        return None

    @classmethod
    def options_for(cls, data: Dataset) -> dict[str, Any]:
        """The number of classes, and what `VAE` reads off the data."""
        return {**num_classes_of(data), **super().options_for(data)}

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """A small random start and 20 rows of 6 zeros and ones in 3 classes, none of them given."""
        generator = torch.Generator().manual_seed(0)
        y = torch.randint(3, (20,), generator=generator)
        x = torch.rand(20, 6, generator=generator) < 0.25 * (1 + y.unsqueeze(-1))
        data = Dataset(x.to(torch.get_default_dtype()), labels=y, name="simulated bits")
        return cls(6, 3, latent_dim=2, hidden=(8,), likelihood="bernoulli"), data
