"""Variational autoencoder with several layers of latents."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from zoo.data import Dataset
from zoo.models.vae import VAE
from zoo.nets import MLP, keep_signal, widths_of_layers
from zoo.registry import build

FLOOR = 1e-3  # a standard deviation stays above it
SOFTPLUS_ONE = 0.5413248546129181  # softplus of it is 1


class HierarchicalVAE(VAE):
    """z_L ~ p(z_L),  z_l | z_{l+1} ~ N(μ_l(z_{l+1}), diag σ_l²(z_{l+1})),  x | z_1 ~ p(x | f(z_1)).

    Notation: site "z1" is next to the data, f"z{L}" on top. (μ_l, σ_l) = `down[l - 1]`, σ_l =
    10⁻³ + softplus, which starts near 1; f = `decoder`. p(z_L) = `prior`, N(0, I) unless told.
    `conditional` gives each p(z_l | z_{l+1}), `decode` p(x | z_1).

    The defaults are the two-layer model of Burda et al.: 50 latents on top, 100 below, hidden
    layers 200-200 next to the data and 100-100 between the latents, tanh. A guide of this model has
    the inference `bottom_up`, with networks of the same widths, unless told otherwise. Batch
    normalisation is not used: its statistics tie the rows of a batch together, and a bound would be
    of no single datapoint. A warm-up of the KL term (`warm_up` of the fit) keeps layers from
    falling silent early.

    Args:
        data_dim: D.
        latent_dims: (d_L, …, d_1), top first, as the model samples them.
        widths: of the hidden layers of each network, from the data up: the first is of f, the next
            of p(z_1 | z_2); the last one goes on.
        depth: hidden layers in each network; 0 makes them affine.
        activation: tanh, relu, leaky_relu, elu, gelu, silu or softplus.
        likelihood: p(x | f), a word of `zoo list likelihoods`; `for_data` chooses one where none is
            given.
        prior: p(z_L), standard_normal, mixture:10 or flow.
        net: mlp, or conv for images; of f alone.
        gated: whether the hidden layers of f are gated.
        image_shape: (H, W) or (C, H, W) of images; `for_data` takes that of the data.
        likelihood_options, prior_options: keyword arguments of the two.
        decoder: a network of yours from (..., d_1) to (..., E), in place of f.

    Raises:
        ValueError: no layer, or one without dimensions; the prior vamp, whose encoder is of one
            layer; what `vae` refuses.

    Reference: Burda, Grosse & Salakhutdinov, Importance weighted autoencoders, 2016; Rezende,
    Mohamed & Wierstra, Stochastic backpropagation and approximate inference in deep generative
    models, 2014.

    >>> model, data = HierarchicalVAE.example()
    >>> model.conditional("z1", torch.zeros(3, 5, 2)).mean.shape
    torch.Size([3, 5, 3])
    """

    inference: ClassVar[str] = "bottom_up"

    def __init__(
        self,
        data_dim: int,
        latent_dims: Sequence[int] = (50, 100),
        widths: Sequence[int] = (200, 100),
        depth: int = 2,
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
        if min(latent_dims, default=0) < 1:
            raise ValueError(
                "latent_dims holds the dimension of every layer, top first, each at least 1; got "
                f"{tuple(latent_dims)}"
            )
        if prior.partition(":")[0] == "vamp":
            raise ValueError(
                "the prior vamp is made of the encoder of one layer of latents; with several use "
                "standard_normal, mixture or flow, or the model vae"
            )
        sizes = tuple(latent_dims)[::-1]  # from the data up
        first, *others = widths_of_layers(widths, len(sizes))
        super().__init__(
            data_dim,
            sizes[0],
            (first,) * depth,
            activation,
            likelihood,
            net=net,
            gated=gated,
            image_shape=image_shape,
            likelihood_options=likelihood_options,
            decoder=decoder,
        )
        self.widths, self.activation = (first, *others), activation
        self.prior = build("priors", prior, sizes[-1], **(prior_options or {}))
        self.down = nn.ModuleList(
            MLP(above, (width,) * depth, 2 * below, activation)
            for above, below, width in zip(sizes[1:], sizes, others, strict=False)
        )
        for part in [*self.down, *([] if decoder else [self.decoder])]:
            keep_signal(part)
        with torch.no_grad():
            for part, below in zip(self.down, sizes, strict=False):
                part[-1].bias[below:] = SOFTPLUS_ONE  # type: ignore[index]

    def conditional(self, name: str, above: Tensor | None = None) -> dist.TorchDistribution:
        """p(z_l | z_{l+1}) of the site f"z{l}", above (..., d_{l+1}); p(z_L) where it is the top.

        Raises:
            ValueError: a name that is no layer; the layer above missing, or given for the top one.
        """
        names = [f"z{place + 1}" for place in range(len(self.down) + 1)]
        if name not in names or (above is None) != (name == names[-1]):
            raise ValueError(
                f"conditional takes one of {names} and the value of the layer above, which "
                f"{names[-1]} has not; got {name!r} and {'no' if above is None else 'a'} value"
            )
        if above is None:
            return self.prior()
        return self.layer(self.down[names.index(name)](above).to(self.dtype))

    def layer(self, outputs: Tensor) -> dist.TorchDistribution:
        """p(z_l | z_{l+1}) of what `down[l - 1]` gives, N(μ, diag σ²) of (..., 2 d_l)."""
        mean, raw = outputs.chunk(2, -1)
        return dist.Normal(mean, FLOOR + softplus(raw)).to_event(1)

    def forward(self, n: int, exposure: Tensor | None = None) -> Tensor:
        """The joint of n rows; exposure (n,) > 0 for counts, one for every row if not given."""
        with pyro.plate("data", n, dim=-1):
            z = None
            for place in range(len(self.down) + 1, 0, -1):
                z = pyro.sample(f"z{place}", self.conditional(f"z{place}", z))
            return pyro.sample("x", self.decode(z, exposure=exposure))  # type: ignore[arg-type]

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """Two small layers, of 2 and 3 latents, and 20 rows of 6 zeros and ones."""
        _, data = VAE.example()
        return cls(6, latent_dims=(2, 3), widths=(8, 5), likelihood="bernoulli"), data
