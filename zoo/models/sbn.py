"""Sigmoid belief network: a deep latent variable model whose latents are bits."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from zoo._prior import Prior
from zoo.bits import Bit
from zoo.data import Dataset
from zoo.models.hierarchical_vae import HierarchicalVAE
from zoo.models.vae import VAE
from zoo.nets import MLP


class SBN(HierarchicalVAE, VAE):  # a word by its second base, which the first one has too
    """z_L ~ Bern(σ(b)),  z_l | z_{l+1} ~ Bern(σ(g_l(z_{l+1}))),  x | z_1 ~ p(x | f(z_1)).

    Notation: z_l in {0, 1}^d_l, its bits independent given the layer above; site "z1" is next to
    the data, f"z{L}" on top. g_l = `down[l - 1]` and f = `decoder` are affine, W z + c, unless
    `hidden` puts deterministic layers between; b = `prior.logits`. With a bernoulli likelihood and
    hidden=() it is the sigmoid belief network of Neal, and with its guide (inference `bottom_up`) a
    Helmholtz machine.

    `conditional` gives each p(z_l | z_{l+1}), `decode` p(x | z_1). A guide draws the bits, and its
    estimator says how their gradient is estimated: score unless told otherwise; for bounds of
    several particles choose vimco. Its networks have hidden layers as wide as the layers of bits.

    Args:
        data_dim: D.
        latent_dims: (d_L, …, d_1), top first, as the model samples them.
        hidden: widths of the deterministic layers of f and of every g_l.
        activation: of those; tanh, relu, leaky_relu, elu, gelu, silu or softplus.
        likelihood: p(x | f), a word of `zoo list likelihoods`; `for_data` chooses one where none is
            given.
        net: mlp, or conv for images; of f alone.
        gated: whether the hidden layers of f are gated.
        image_shape: (H, W) or (C, H, W) of images; `for_data` takes that of the data.
        likelihood_options: keyword arguments of the likelihood.

    Raises:
        ValueError: no layer, or one without bits; what `vae` refuses.

    Reference: Neal, Connectionist learning of belief networks, 1992; Dayan, Hinton, Neal & Zemel,
    The Helmholtz machine, 1995; Mnih & Rezende, Variational inference for Monte Carlo objectives,
    2016.

    >>> model, data = SBN.example()
    >>> model.conditional("z1", torch.ones(4, 5, 3)).mean.shape
    torch.Size([4, 5, 2])
    """

    inference: ClassVar[str] = "bottom_up"
    estimator: ClassVar[str] = "score"

    def __init__(
        self,
        data_dim: int,
        latent_dims: Sequence[int] = (200,),
        hidden: Sequence[int] = (),
        activation: str = "tanh",
        likelihood: str | None = None,
        net: str = "mlp",
        gated: bool = False,
        image_shape: Sequence[int] | None = None,
        likelihood_options: Mapping[str, Any] | None = None,
    ) -> None:
        if min(latent_dims, default=0) < 1:
            raise ValueError(
                "latent_dims holds the bits of every layer, top first, each at least 1; got "
                f"{tuple(latent_dims)}"
            )
        sizes = tuple(latent_dims)[::-1]  # from the data up
        shape: dict[str, Any] = {"net": net, "gated": gated, "image_shape": image_shape}
        shape["likelihood_options"] = likelihood_options
        VAE.__init__(self, data_dim, sizes[0], hidden, activation, likelihood, **shape)
        self.widths, self.activation = sizes, activation  # of a guide's networks
        self.prior = Bits(sizes[-1])
        self.down = nn.ModuleList(
            MLP(above, hidden, below, activation)
            for above, below in zip(sizes[1:], sizes, strict=False)
        )

    def layer(self, outputs: Tensor) -> dist.TorchDistribution:
        """p(z_l | z_{l+1}) of g_l(z_{l+1}), the logits (..., d_l)."""
        return Bit(logits=outputs).to_event(1)

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """Two small layers, of 3 and 2 bits, and 20 rows of 6 zeros and ones."""
        _, data = VAE.example()
        return cls(6, latent_dims=(3, 2), likelihood="bernoulli"), data


class Bits(Prior):
    """p(z) = Π_j Bern(z_j; σ(b_j)), b = `logits`, which starts at 0."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__(latent_dim)
        self.logits = nn.Parameter(torch.zeros(latent_dim))  # (d,)

    def forward(self) -> dist.TorchDistribution:
        """Batch (), event (d,)."""
        return Bit(logits=self.logits).to_event(1)
