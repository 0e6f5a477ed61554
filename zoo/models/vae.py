"""Variational autoencoder: a deep latent variable model with any likelihood and prior."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from zoo.data import Dataset
from zoo.likelihoods import likelihood_for
from zoo.model import Model
from zoo.models._parts import check_size, some_rows
from zoo.nets import last_bias, network
from zoo.registry import build, resolve


class VAE(Model):
    """z_n ~ p(z),  x_n | z_n ~ p(x | f(z_n)).

    Notation: z in R^d; f = `decoder`, a network R^d -> R^E whose outputs are the parameters of
    `likelihood` over x in R^D; p(z) = `prior`. With hidden=() and a gaussian likelihood f is affine
    and the model is probabilistic PCA.

    Args:
        data_dim: D.
        latent_dim: d.
        hidden: widths of the hidden layers of f.
        activation: tanh, relu, elu, gelu, silu or softplus.
        likelihood: p(x | f), a word of `zoo list likelihoods`; `for_data` chooses one where none is
            given: bernoulli for zeros and ones, poisson for counts, else gaussian.
        prior: p(z), a word of `zoo list priors`, such as mixture:10.
        net: mlp, or conv for images.
        gated: hidden layers are gated, a(W h + b) ⊙ σ(V h + c).
        image_shape: (H, W) or (C, H, W) of images; `for_data` takes that of the data.
        likelihood_options: keyword arguments of the likelihood.
        prior_options: keyword arguments of the prior. The encoder of a vamp prior is built like f
            unless they say otherwise.
        decoder: a network of yours from (..., d) to (..., E), in place of f.

    Raises:
        ValueError: no likelihood; an unknown word; sizes below 1; an exposure for a likelihood that
            is not of counts.

    Reference: Kingma & Welling, Auto-encoding variational Bayes, 2014; Rezende, Mohamed & Wierstra,
    Stochastic backpropagation and approximate inference in deep generative models, 2014.

    >>> model, data = VAE.example()
    >>> model.decode(torch.zeros(3, 5, 2)).mean.shape
    torch.Size([3, 5, 6])
    >>> VAE.for_data(data, hidden=(8,)).options["likelihood"]
    'bernoulli'
    """

    inputs: ClassVar[tuple[str, ...]] = ("exposure",)
    extra_dim: int = 0  # numbers that the decoder reads beside z

    def __init__(
        self,
        data_dim: int,
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
        super().__init__()
        check_size("latent_dim", latent_dim)
        if likelihood is None:
            raise ValueError(
                f"{type(self).__name__} needs a likelihood, such as likelihood='bernoulli'; "
                f"{type(self).__name__}.for_data(data) chooses one from the data"
            )
        self.latent_dim = latent_dim
        self.likelihood = build("likelihoods", likelihood, data_dim, **(likelihood_options or {}))
        shape = (activation, gated, image_shape)
        code, outputs = latent_dim + self.extra_dim, self.likelihood.num_outputs
        self.decoder = decoder or network(net, code, hidden, outputs, *shape, decoder=True)
        like = {"hidden": hidden, "net": net, **dict(zip(ENCODER, shape, strict=True))}
        self.prior = _prior(prior, latent_dim, {"data_dim": data_dim, **like}, prior_options or {})

    def forward(self, n: int, exposure: Tensor | None = None) -> Tensor:
        """The joint of n rows; exposure (n,) > 0 for counts, one for every row if not given."""
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.decode(z, exposure=exposure))

    def decode(self, z: Tensor, exposure: Tensor | None = None) -> dist.TorchDistribution:
        """p(x | z): batch (...), event (D,), of z (..., d)."""
        return self.likelihood(self.decoder(z), exposure)

    @property
    def shared_encoder(self) -> nn.Module | None:  # type: ignore[override]
        """The encoder of a vamp prior, x (..., D) -> (m, softplus⁻¹ s) (..., 2d)."""
        return getattr(self.prior, "encoder", None)

    @classmethod
    def options_for(cls, data: Dataset) -> dict[str, Any]:
        """The likelihood that fits the values, and the shape of images."""
        return {"likelihood": likelihood_for(some_rows(data)["x"]), **super().options_for(data)}

    @torch.no_grad()
    def initialize(self, data: Dataset) -> None:
        """E[x] near the mean of the data: f's last bias. Pseudo-inputs of a vamp prior at rows."""
        batch = some_rows(data).to(self.device, self.dtype)
        self.prior.initialize(batch["x"])
        start = self.likelihood.start(batch["x"], batch.values.get("exposure"))
        bias = last_bias(self.decoder, self.likelihood.num_outputs)
        if bias is not None:
            bias.copy_(start)

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """A small random start and 20 rows of 6 zeros and ones."""
        x = torch.rand(20, 6, generator=torch.Generator().manual_seed(0)) < 0.4
        data = Dataset(x.to(torch.get_default_dtype()), name="simulated bits")
        return cls(6, latent_dim=2, hidden=(8,), likelihood="bernoulli"), data


ENCODER = ("activation", "gated", "image_shape")


def _prior(word: str, latent_dim: int, like: dict[str, Any], options: Mapping[str, Any]) -> Any:
    """A prior; one with an encoder gets the shapes of the model where the options say nothing."""
    has_encoder = "data_dim" in inspect.signature(resolve("priors", word)).parameters
    given = {name: value for name, value in options.items() if value is not None}
    return build("priors", word, latent_dim, **({**like, **given} if has_encoder else given))
