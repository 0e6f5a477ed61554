"""Priors p(z) of local latents, chosen by one word: fixed, learned, or seen through an encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from zoo._prior import DiagonalMixture, Prior, Standardize
from zoo.nets import MLP, network, select

__all__ = ["Flow", "Mixture", "StandardNormal", "Vamp"]

SOFTPLUS_ONE = math.log(math.e - 1)  # softplus of it is 1


class StandardNormal(Prior):
    """p(z) = N(0, I_d)."""

    def forward(self) -> dist.TorchDistribution:
        """N(0, I_d)."""
        return dist.Normal(0.0, 1.0).expand_by([self.latent_dim]).to_event(1)


class Mixture(Prior):
    """p(z) = Σ_c π_c N(z; μ_c, diag σ_c²), all learned.

    Notation: π = softmax(`logits`) (C,), μ = `loc` (C, d), σ = exp(`log_scale`) (C, d). It starts
    with π even, μ ~ N(0, I), σ = 1.

    Args:
        latent_dim: d.
        num_components: C.

    Raises:
        ValueError: num_components < 1.

    >>> Mixture(2, num_components=3)().log_prob(torch.zeros(7, 5, 2)).shape
    torch.Size([7, 5])
    """

    shorthand: ClassVar[str | None] = "num_components"

    def __init__(self, latent_dim: int, num_components: int = 10) -> None:
        super().__init__(latent_dim)
        _check_components(num_components)
        self.logits = nn.Parameter(torch.zeros(num_components))  # (C,)
        self.loc = nn.Parameter(torch.randn(num_components, latent_dim))  # (C, d)
        self.log_scale = nn.Parameter(torch.zeros(num_components, latent_dim))  # (C, d)

    def forward(self) -> DiagonalMixture:
        """p(z), the component summed out."""
        return DiagonalMixture(self.logits, self.loc, self.log_scale.exp())

    def component(self, y: Tensor) -> dist.TorchDistribution:
        """p(z | y): batch that of y, event (d,)."""
        loc, log_scale = (select(t, y, event_dim=1) for t in (self.loc, self.log_scale))
        return dist.Normal(loc, log_scale.exp()).to_event(1)


class Vamp(Prior):
    """p(z) = 1/C Σ_c N(z; m(u_c), diag s(u_c)²): the encoder's own view of C pseudo-inputs u.

    Notation: u = `pseudo_inputs` (C, D), free real vectors in the data's space that start at rows
    of the data; (m, softplus⁻¹ s)(x) = `encoder`(x), R^D -> R^2d, which reads x standardised.

    The encoder is a part of this prior, and so of the model that holds it. A guide of the family
    mean_field with amortized inference uses the very same one, q(z | x) = N(m(x), diag s(x)²), so
    its gradient is the sum of both roles, and it is trained, saved and loaded once, with the model:
    freezing the model freezes it, and such a guide then has nothing of its own to train. Any other
    guide has its κ from elsewhere; the encoder then serves the prior alone.

    Args:
        latent_dim: d.
        data_dim: D.
        num_components: C.
        hidden, activation, gated, net, image_shape: the encoder's, as for `zoo.nets.network`.
        encoder: a network of yours from (..., D) to (..., 2d), in place of those.

    Raises:
        ValueError: num_components < 1; what `zoo.nets.network` refuses.

    Reference: Tomczak & Welling, VAE with a VampPrior, 2018.

    >>> Vamp(2, data_dim=6, hidden=(4,))().batch_shape
    torch.Size([])
    """

    shorthand: ClassVar[str | None] = "num_components"

    def __init__(
        self,
        latent_dim: int,
        data_dim: int,
        num_components: int = 50,
        hidden: Sequence[int] = (200, 200),
        activation: str = "tanh",
        gated: bool = False,
        net: str = "mlp",
        image_shape: Sequence[int] | None = None,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__(latent_dim)
        _check_components(num_components)
        if encoder is None:
            size = 2 * latent_dim
            body = network(net, data_dim, tuple(hidden), size, activation, gated, image_shape)
            encoder = nn.Sequential(Standardize(data_dim), body)
            last = [m for m in body.modules() if isinstance(m, nn.Linear)][-1]
            with torch.no_grad():  # start near N(0, I), whatever x is
                last.weight.mul_(0.1)
                last.bias[:latent_dim] = 0.0
                last.bias[latent_dim:] = SOFTPLUS_ONE
        self.encoder = encoder
        self.pseudo_inputs = nn.Parameter(torch.randn(num_components, data_dim))  # (C, D)

    def forward(self) -> DiagonalMixture:
        """p(z) under the encoder as it is now."""
        loc, raw = self.encoder(self.pseudo_inputs).chunk(2, -1)
        return DiagonalMixture(loc.new_zeros(len(loc)), loc, softplus(raw))

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Pseudo-inputs at rows of x (N, D), drawn at random and moved by a hundredth of the sd."""
        x = x.to(self.pseudo_inputs)
        count = len(self.pseudo_inputs)
        few = count > len(x)
        order = torch.randint(len(x), (count,)) if few else torch.randperm(len(x))[:count]
        noise = 0.01 * x.std(0, correction=0) * torch.randn_like(self.pseudo_inputs)
        self.pseudo_inputs.copy_(x[order.to(x.device)] + noise)
        for part in self.encoder.modules():
            if isinstance(part, Standardize):
                part.fit(x)


class Flow(Prior):
    """z = T_L ∘ … ∘ T_1(u), u ~ N(μ, diag σ²), each T_l an affine coupling after a permutation.

    A coupling leaves half of the entries, z_a, as they are and maps the others to
    t(z_a) + exp(s(z_a)) ⊙ z_b, so that draws and densities both take one pass. In one dimension
    there is nothing to couple, and the prior is N(μ, σ²) with both learned.

    Args:
        latent_dim: d.
        length: L, the couplings.
        hidden: widths of the hidden layers of the networks (s, t).
        activation: one of `zoo.nets.ACTIVATIONS`.

    Raises:
        ValueError: length < 1.

    Reference: Dinh, Sohl-Dickstein & Bengio, Density estimation using Real NVP, 2017; as a prior,
    Huang et al., Learnable explicit density for continuous latent space, 2017.

    >>> Flow(3, length=2, hidden=(4,))().sample((5,)).shape
    torch.Size([5, 3])
    """

    shorthand: ClassVar[str | None] = "length"
    orders: Tensor  # (L, d)

    def __init__(
        self,
        latent_dim: int,
        length: int = 4,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
    ) -> None:
        super().__init__(latent_dim)
        if length < 1:
            raise ValueError(f"length counts couplings from 1, got {length}")
        self.split = latent_dim // 2  # entries that stay
        rest = latent_dim - self.split
        orders = [_order(latent_dim) for _ in range(length)]
        self.register_buffer("orders", torch.stack(orders))  # (L, d)
        count = length if self.split else 0
        nets = [MLP(self.split, tuple(hidden), 2 * rest, activation) for _ in range(count)]
        self.nets = nn.ModuleList(nets)
        self.loc = nn.Parameter(torch.zeros(latent_dim))  # (d,)
        self.log_scale = nn.Parameter(torch.zeros(latent_dim))  # (d,)
        with torch.no_grad():  # start near N(0, I)
            for net in nets:
                net[-1].weight.mul_(0.1)  # type: ignore[operator]
                net[-1].bias.zero_()  # type: ignore[operator]

    def forward(self) -> dist.TorchDistribution:
        """p(z)."""
        base = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        parts: list[Any] = []
        for order, net in zip(self.orders, self.nets, strict=bool(self.split)):
            # Made anew each time, so that what they remember of a draw ends with it.
            parts += [T.Permute(order), T.AffineCoupling(self.split, _Halves(net))]
        return dist.TransformedDistribution(base, parts) if parts else base


class _Halves(nn.Module):
    """The two halves of a network's output, as a coupling wants its shift and log scale."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.net(x).chunk(2, -1)


def _order(size: int) -> Tensor:
    """A permutation (d,); of two entries the one that swaps them."""
    return torch.tensor([1, 0]) if size == 2 else torch.randperm(size)


def _check_components(count: int) -> None:
    if count < 1:
        raise ValueError(f"num_components must be at least 1; got {count}")
