"""q of several layers of local latents, each given the one before: bottom-up and top-down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import Independent, Normal
from torch import Tensor, nn
from torch.nn.functional import softplus

from guides.families.mean_field import MeanField
from guides.family import Family
from guides.inference import Amortized
from guides.layers import NearStart, Structured, product
from zoo.data import Batch, Dataset
from zoo.exact import knows
from zoo.model import Model
from zoo.nets import ACTIVATIONS, MLP, keep_signal, widths_of_layers
from zoo.sites import Latents, Sites

__all__ = ["BottomUp", "TopDown"]

FLOOR = 1e-3  # the standard deviation of a message stays above it: its precision is finite


class BottomUp(Structured):
    """q(z_1 | x) q(z_2 | z_1) … q(z_L | z_{L-1}): every κ from a network of the layer below.

    The layers are drawn in the reverse of the model's order: z_1, which the model samples last, is
    next to the data. Each has any family, Ψ(z_l; κ_l) with κ_1 = g_1(x) and κ_l = g_l(z_{l-1}).
    With one layer it is the inference ``amortized``. A latent with a bounded support is read as
    the real vector that it is mapped from, bits as they are.

    Args:
        widths: of the hidden layers of each network, from the data up, the last one going on; by
            default those of the model, or 64.
        depth: hidden layers in each network.
        activation: ``relu``, ``leaky_relu``, ``tanh``, ``softplus``, ``elu``, ``gelu`` or
            ``silu``; by default that of the model, or relu.
        net, gated: of the network that reads x, as for ``amortized``.

    Raises:
        ValueError: a family that has no κ or cannot score a given z; widths below 1 or too many.

    Reference: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2016; of bits
    Dayan, Hinton, Neal and Zemel, "The Helmholtz Machine", 1995.
    """

    reverse: ClassVar[bool] = True
    takes_bits: ClassVar[bool] = True

    def __init__(
        self,
        model: Model,
        data: Dataset,
        latents: Latents,
        make: Callable[[int], Family],
        widths: tuple[int, ...] | None = None,
        depth: int = 2,
        activation: str | None = None,
        net: str = "mlp",
        gated: bool = False,
    ):
        super().__init__(model, data, latents, make)
        (width, *others), activation = _shape(model, widths, activation, len(self.order))
        first, *above = (f.initial() for f in self.families)  # type: ignore[operator]
        self.first = Amortized(
            data,
            first,
            latents.names,
            hidden=(width,) * depth,
            activation=activation,
            net=net,
            gated=gated,
            classes=model.classes,
        )
        sizes = [site.size for site in self.order]
        self.above = nn.ModuleList(
            NearStart(start, MLP(size, (width,) * depth, len(start), activation))
            for start, width, size in zip(above, others, sizes, strict=False)
        )

    def read(self, batch: Batch) -> Tensor:
        return self.first(batch, lambda kappa: kappa)  # (B, P): κ_1

    def layer(self, model: Model, seen: Tensor, place: int, before: Tensor | None) -> Any:
        kappa = seen if before is None else self.above[place - 1](before)
        return self.families[place](kappa)


class TopDown(Structured):
    """q(z_L | x) q(z_{L-1} | z_L, x) … q(z_1 | z_2, x), each shared with the model's own p.

    A deterministic pass upwards d_l = MLP_l(d_{l-1}), d_0 = x, gives each layer a Gaussian message
    N(m̂_l, ŝ_l²) from d_l, ŝ_l > 10⁻³. Then downwards q(z_L | x) = N(m̂_L, ŝ_L²), and with the
    model's p(z_l | z_{l+1}) = N(μ_l, σ_l²)

        q(z_l | z_{l+1}, x) = N((m̂_l ŝ_l⁻² + μ_l σ_l⁻²) s², s²),  s⁻² = ŝ_l⁻² + σ_l⁻²,

    the normalised product of message and prior. The model offers
    ``conditional(name, above) -> N(μ_l, diag σ_l²)``; with one layer it is ``amortized``. There is
    no batch normalisation.

    Args:
        widths, activation, net, gated: as for ``bottom_up``.
        depth: hidden layers in each network, at least 1.

    Raises:
        ValueError: another family than ``mean_field``; a latent that is no real vector; a model
            with several layers and no ``conditional``, or whose conditional is not N(μ, diag σ²).

    Reference: Sønderby, Raiko, Maaløe, Sønderby and Winther, "Ladder Variational Autoencoders",
    2016.
    """

    reverse: ClassVar[bool] = False
    only_families: ClassVar[tuple[str, ...]] = ("mean_field",)

    def __init__(
        self,
        model: Model,
        data: Dataset,
        latents: Latents,
        make: Callable[[int], Family],
        widths: tuple[int, ...] | None = None,
        depth: int = 2,
        activation: str | None = None,
        net: str = "mlp",
        gated: bool = False,
    ):
        super().__init__(model, data, latents, make)
        _check_top_down(model, self)
        (first, *others), activation = _shape(model, widths, activation, len(self.order))
        if depth < 1:
            raise ValueError(f"depth counts the hidden layers of a network from 1, got {depth}")
        inner = [(width,) * (depth - 1) for width in (first, *others)]
        self.first = Amortized(
            data,
            torch.zeros(first),
            latents.names,
            hidden=inner[0],
            activation=activation,
            net=net,
            gated=gated,
            classes=model.classes,
        )
        self.activation = ACTIVATIONS[activation]()
        self.up = nn.ModuleList(
            MLP(below, hidden, width, activation)
            for below, hidden, width in zip((first, *others), inner[1:], others, strict=False)
        )
        for part in (self.first.encoder, *self.up):  # they give no κ: x may come through at once
            keep_signal(part, whole=True)
        starts = [family.initial() for family in self.families]  # type: ignore[operator]
        self.messages = nn.ModuleList(
            NearStart(start, nn.Linear(width, len(start)))
            for start, width in zip(starts, (first, *others)[::-1], strict=True)
        )

    def read(self, batch: Batch) -> list[Tensor]:
        d = self.activation(self.first(batch, lambda kappa: kappa))  # (B, width)
        upward = [d]
        for net in self.up:
            upward.append(d := self.activation(net(d)))
        return [net(d) for net, d in zip(self.messages, upward[::-1], strict=True)]

    def layer(self, model: Any, seen: list[Tensor], place: int, before: Tensor | None) -> Any:
        loc, raw = seen[place].chunk(2, -1)  # κ of mean_field
        message = Normal(loc, FLOOR + softplus(raw)).to_event(1)
        if before is None:
            return message
        name = self.order[place].name
        prior = model.conditional(name, before)
        if not (isinstance(prior, Independent) and isinstance(prior.base_dist, Normal)):
            raise ValueError(
                f"top_down multiplies Gaussians, and {type(model).__name__}.conditional({name!r}, "
                f"…) is {type(prior).__name__}, not N(μ, diag σ²); use bottom_up"
            )
        return product(message, prior)


def _shape(
    model: Model, widths: Sequence[int] | None, activation: str | None, layers: int
) -> tuple[tuple[int, ...], str]:
    """What is not given is that of the model's own networks, where it has a hierarchy of them."""
    given: Any = getattr(model, "widths", (64,)) if widths is None else widths
    activation = activation or str(getattr(model, "activation", "relu"))
    return widths_of_layers(given, layers), activation


def _check_top_down(model: Model, guide: TopDown) -> None:
    odd = [type(f).__name__ for f in guide.families if type(f) is not MeanField]
    if odd:
        raise ValueError(
            f"top_down multiplies Gaussians with diagonal covariances, and {odd[0]} is another "
            "family; use mean_field, or the inference bottom_up, which takes any"
        )
    if bounded := [site.name for site in guide.order if not Sites([site]).identity]:
        raise ValueError(f"top_down needs latents in R^d, and {bounded} are not; use bottom_up")
    if len(guide.order) > 1 and not knows(model, "conditional"):
        raise ValueError(
            f"top_down takes p(z_l | z_(l+1)) from the model, and {type(model).__name__} has no "
            "method conditional(name, above); write one, or use bottom_up"
        )
