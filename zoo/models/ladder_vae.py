"""Ladder variational autoencoder: many layers of latents, inferred from the top down."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import nn

from zoo.data import Dataset
from zoo.models.hierarchical_vae import HierarchicalVAE
from zoo.models.vae import VAE


class LadderVAE(HierarchicalVAE, VAE):  # a word by its second base, which the first one has too
    """z_L ~ N(0, I),  z_l | z_{l+1} ~ N(μ_l(z_{l+1}), diag σ_l²(z_{l+1})),  x | z_1 ~ p(x | z_1).

    Notation and form are those of `hierarchical_vae`. What makes the ladder is its guide, the
    inference `top_down`, which a guide of this model has unless told otherwise: each layer of q is
    the product of a message from the data and of the model's own p(z_l | z_{l+1}).

    The defaults are the five layers of Sønderby et al., 4 latents on top and 64 next to the data,
    two hidden layers of 512 next to the data and of 256, 128, 64 and 32 above, with leaky
    rectifiers, in the model and in the guide. They train with batch normalisation, which is not
    used here: its statistics tie the rows of a batch together, and a bound would be of no single
    datapoint. Their warm-up of the KL term is needed, `warm_up` of the fit: without it all layers
    may fall silent in the first steps, and then x does not depend on z at all.

    Args:
        data_dim: D.
        latent_dims: (d_L, …, d_1), top first, as the model samples them.
        widths: of the hidden layers of each network, from the data up; the last one goes on.
        depth: hidden layers in each network.

    The other arguments are those of `hierarchical_vae`.

    Reference: Sønderby, Raiko, Maaløe, Sønderby & Winther, Ladder variational autoencoders, 2016.

    >>> model, data = LadderVAE.example()
    >>> [name for name, _ in model.named_children()]
    ['likelihood', 'decoder', 'prior', 'down']
    >>> LadderVAE.inference
    'top_down'
    """

    inference: ClassVar[str] = "top_down"

    def __init__(
        self,
        data_dim: int,
        latent_dims: Sequence[int] = (4, 8, 16, 32, 64),
        widths: Sequence[int] = (512, 256, 128, 64, 32),
        depth: int = 2,
        activation: str = "leaky_relu",
        likelihood: str | None = None,
        prior: str = "standard_normal",
        net: str = "mlp",
        gated: bool = False,
        image_shape: Sequence[int] | None = None,
        likelihood_options: Mapping[str, Any] | None = None,
        prior_options: Mapping[str, Any] | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__(
            data_dim,
            latent_dims,
            widths,
            depth,
            activation,
            likelihood,
            prior,
            net,
            gated,
            image_shape,
            likelihood_options,
            prior_options,
            decoder,
        )

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """Three small layers, of 2, 2 and 3 latents, and 20 rows of 6 zeros and ones."""
        _, data = VAE.example()
        return cls(6, latent_dims=(2, 2, 3), widths=(8, 5), likelihood="bernoulli"), data
