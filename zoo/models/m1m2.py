"""M1+M2: a deep generative model of images with their classes, in two layers of latents."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from zoo.data import Dataset
from zoo.models._parts import check_size, num_classes_of
from zoo.models.m2 import M2
from zoo.models.vae import VAE
from zoo.nets import MLP, indicator, join, keep_signal

FLOOR = 1e-3  # the standard deviation of z1 given y and z2 stays above it


class M1M2(VAE):
    """y ~ Categorical(π),  z2 ~ N(0, I),  z1 | y, z2 ~ N(μ, diag σ²),  x | z1 ~ p(x | f(z1)).

    Notation: y in 0 … C − 1 is the class, z2 in R^s the style, z1 in R^d the code of x; (μ, σ) =
    `top(z2, y)`, σ = 10⁻³ + softplus; f = `decoder` and the likelihood as for `VAE`. y is given or
    latent row by row, as in `M2`. Codes outside `used`, a buffer (d,), are N(0, 1) whatever y and
    z2.

    Two ways of training. End to end: all of it by one bound. Stacked, as in the paper: a `vae` is
    trained first (M1), `adopt` takes its decoder over, the guide `stacked` its encoder, both stay
    frozen, and the rest is M2 on codes z1 drawn afresh in each step; `used` are then the codes
    whose posterior mean moves with x.

    Args:
        data_dim: D.
        num_classes: C; `for_data` takes that of the labels, 10 where nothing says it.
        latent_dim: d.
        style_dim: s.
        hidden: widths of the hidden layers of f.
        style_hidden: widths of the hidden layers of `top`.
        activation: of all of them, as for `VAE`.
        likelihood, net, gated, image_shape: of x given z1, as for `VAE`.
        learn_classes: whether π is learned; else it is even.
        likelihood_options: keyword arguments of the likelihood.
        decoder: a network of yours from (..., d) to (..., E), in place of f.

    Raises:
        ValueError: sizes below 1; as `VAE`.

    Reference: Kingma, Rezende, Mohamed & Welling, Semi-supervised learning with deep generative
    models, 2014.

    >>> model, data = M1M2.example()
    >>> model.code(torch.zeros(7, 20, 2), torch.arange(3).reshape(3, 1, 1)).mean.shape
    torch.Size([3, 7, 20, 4])
    """

    labels: ClassVar[tuple[str, ...]] = ("y",)
    estimator: ClassVar[str] = "enumerate"
    inference: ClassVar[str] = "stacked"

    class_logits: Tensor  # (C,)
    used: Tensor  # (d,)

    def __init__(
        self,
        data_dim: int,
        num_classes: int | None = None,
        latent_dim: int = 50,
        style_dim: int = 50,
        hidden: Sequence[int] = (500, 500),
        style_hidden: Sequence[int] = (300,),
        activation: str = "softplus",
        likelihood: str | None = None,
        net: str = "mlp",
        gated: bool = False,
        image_shape: Sequence[int] | None = None,
        learn_classes: bool = False,
        likelihood_options: Mapping[str, Any] | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        num_classes = 10 if num_classes is None else num_classes
        check_size("num_classes", num_classes)
        check_size("style_dim", style_dim)
        parts = (activation, likelihood, "standard_normal", net, gated, image_shape)
        super().__init__(data_dim, latent_dim, hidden, *parts, likelihood_options, None, decoder)
        self.num_classes, self.style_dim = num_classes, style_dim
        self.activation, self.style_hidden = activation, tuple(style_hidden)
        self.top = MLP(style_dim + num_classes, style_hidden, 2 * latent_dim, activation)
        keep_signal(self.top)  # so that z1 moves with y from the start
        if learn_classes:
            self.class_logits = nn.Parameter(torch.zeros(num_classes))  # (C,)
        else:
            self.register_buffer("class_logits", torch.zeros(num_classes))  # (C,)
        self.register_buffer("used", torch.ones(latent_dim))  # (d,)

    def forward(self, n: int, exposure: Tensor | None = None) -> Tensor:
        """The joint of n rows; exposure as for `VAE`."""
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=self.class_logits))
            z2 = pyro.sample("z2", dist.Normal(0.0, 1.0).expand_by([self.style_dim]).to_event(1))
            z1 = pyro.sample("z1", self.code(z2, y))
            return pyro.sample("x", self.decode(z1, exposure=exposure))

    def code(self, z2: Tensor, y: Tensor) -> dist.TorchDistribution:
        """p(z1 | y, z2): batch (...), event (d,), of z2 (..., s) and y (...), broadcast."""
        loc, raw = self.top(join(z2, indicator(y, self.num_classes))).chunk(2, -1)
        on = self.used > 0
        scale = torch.where(on, FLOOR + softplus(raw), 1.0)
        return dist.Normal(torch.where(on, loc, 0.0), scale).to_event(1)

    @torch.no_grad()
    def adopt(self, m1: VAE, used: Tensor | None = None) -> None:
        """Takes over the decoder and the likelihood of a trained `VAE`, and freezes them.

        Args:
            m1: of the same data, latent_dim, hidden, activation, likelihood and net.
            used: (d,) bool, the codes that y and z2 explain; all by default.

        Raises:
            ValueError: a model of other sizes; no code that is used.
        """
        for name in ("decoder", "likelihood"):
            try:
                getattr(self, name).load_state_dict(getattr(m1, name).state_dict())
            except (RuntimeError, AttributeError) as error:
                raise ValueError(
                    f"the {name} of M1 does not fit this model: {error}; give both the same "
                    "latent_dim, hidden, activation, likelihood and net"
                ) from None
            getattr(self, name).requires_grad_(False)
        if used is not None:
            if used.shape != self.used.shape or not bool(used.any()):
                raise ValueError(f"used marks some of {len(self.used)} codes, got {used}")
            self.used.copy_(used)

    @classmethod
    def options_for(cls, data: Dataset) -> dict[str, Any]:
        """The number of classes, and what `VAE` reads off the data."""
        return {**num_classes_of(data), **super().options_for(data)}

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """A small random start and the data of `M2.example`."""
        _, data = M2.example()
        sizes = {"latent_dim": 4, "style_dim": 2, "hidden": (8,), "style_hidden": (8,)}
        return cls(6, 3, **sizes, likelihood="bernoulli"), data  # type: ignore[arg-type]
