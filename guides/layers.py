"""Layers of local latents drawn one after the other: what every structured q has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from guides.draws import sample
from guides.family import Family
from zoo.data import Batch, Dataset
from zoo.model import Model
from zoo.nets import start_small
from zoo.sites import Latents, Site

Step = Callable[[int, Tensor | None], TorchDistribution]


class Structured(Family):
    """q(z | x) = Π_l q(z_l | the layer drawn before it, x), each layer a site of its own.

    It stands where a guide has its family, and brings the networks that give κ of every layer.

    Args:
        model: p.
        data: the data set that the guide is for.
        latents: those of the model; the layers are the local ones.
        make: d_l -> Ψ of one layer.

    Attributes:
        reverse: whether the layer that the model samples last is drawn first.
        classifies: whether it takes ``classify`` and makes a ``classifier`` of labels by it.
        takes_bits: whether layers may be binary vectors.

    Raises:
        ValueError: a family without κ, or one that cannot score a given z.
    """

    reverse: ClassVar[bool]
    classifies: ClassVar[bool] = False
    takes_bits: ClassVar[bool] = False
    uses_kappa: ClassVar[bool] = False

    def __init__(
        self, model: Model, data: Dataset, latents: Latents, make: Callable[[int], Family]
    ):
        super().__init__(latents.vectors.dim)
        self.sites = latents.vectors
        forwards = self.sites.sites
        self.order: tuple[Site, ...] = forwards[::-1] if self.reverse else forwards
        made = [make(site.size) for site in self.order]
        if odd := [type(f).__name__ for f in made if not (f.scores and f.uses_kappa)]:
            raise ValueError(
                f"{type(self).__name__} has one family a layer, and {odd[0]} is one of all latents "
                "together; use mean_field, full_rank or a flow, or the inference amortized"
            )
        self.families = nn.ModuleList(made)
        self._has_density = all(family.has_density for family in made)

    @property
    def has_density(self) -> bool:  # type: ignore[override]
        """False where a layer is a point mass."""
        return self._has_density

    @property
    def num_params(self) -> int:
        return 0  # κ of a layer depends on a draw: there is no table of it

    def read(self, batch: Batch) -> Any:
        """What the layers need to know of x, once for a batch."""
        raise NotImplementedError

    def layer(self, model: Model, seen: Any, place: int, before: Tensor | None) -> Any:
        """q of the layer drawn at ``place``, over (..., B, d_l), given (..., B, d) drawn before."""
        raise NotImplementedError

    def draw(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """Samples every layer."""
        seen, before, values = self.read(batch), None, {}
        for place, site in enumerate(self.order):
            alone, family = self.sites.only(site), self.families[place]
            q = self.layer(model, seen, place, before)
            values |= sample(f"_{site.name}", q, alone, family, self.drawer)  # type: ignore[arg-type]
            before, _ = alone.pack(values)
        return values

    def distribution(
        self, model: Model, batch: Batch, source: Callable[[Batch], Tensor]
    ) -> TorchDistribution:
        """q over the layers side by side, packed in the model's order."""
        seen = self.read(batch)
        places = [self.sites.sites.index(site) for site in self.order]
        return Chain(
            lambda place, before: self.layer(model, seen, place, before),
            [site.size for site in self.sites.sites],
            places,
        )


class Chain(TorchDistribution):
    """q(u) = Π_l q(u_l | u_{l-1}) over packed layers u, batch (B,), event (d,).

    Args:
        step: (place in the order of drawing, the layer drawn before) -> q of the layer.
        sizes: the layers' lengths, as they are packed.
        places: where in the packed vector each layer is, in the order of drawing.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector  # type: ignore[assignment]
    has_rsample = True

    def __init__(
        self,
        step: Step,
        sizes: Sequence[int],
        places: Sequence[int],
        batch_shape: torch.Size | None = None,
    ):
        self.step, self.sizes, self.places = step, list(sizes), list(places)
        shape = step(0, None).batch_shape if batch_shape is None else batch_shape
        super().__init__(shape, torch.Size([sum(sizes)]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Chain:
        """The same chain, drawn independently over more dimensions."""
        return Chain(self.step, self.sizes, self.places, torch.Size(batch_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """(*sample_shape, *batch_shape, d), every layer given the draw of the one before."""
        shape, before = torch.Size(sample_shape) + self.batch_shape, None
        parts: dict[int, Tensor] = {}
        for turn, place in enumerate(self.places):
            q = self.step(turn, before).expand(shape)
            before = parts[place] = q.rsample() if q.has_rsample else q.sample()
        return torch.cat([parts[place] for place in sorted(parts)], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """(...), in nats, of u (..., d)."""
        parts, total, before = value.split(self.sizes, -1), torch.zeros(()).to(value), None
        for turn, place in enumerate(self.places):
            total = total + self.step(turn, before).log_prob(parts[place])
            before = parts[place]
        return total


def product(a: Any, b: Any) -> TorchDistribution:
    """The normalised product of two Gaussians N(m, diag s²), leading dimensions broadcast.

    Example:
        >>> one, two = Normal(0.0, 1.0).expand([1]), Normal(3.0, 1.0).expand([1])
        >>> q = product(one.to_event(1), two.to_event(1))
        >>> q.mean, q.variance
        (tensor([1.5000]), tensor([0.5000]))
    """
    (m, s), (n, t) = ((q.base_dist.loc, q.base_dist.scale) for q in (a, b))
    total = s.square() + t.square()
    loc = (m * t.square() + n * s.square()) / total
    return Normal(loc, s * t * total.rsqrt()).to_event(1)


class NearStart(nn.Module):
    """κ = κ_0 + g(·), near κ_0 at the start: g's last weights are multiplied by ``scale``."""

    start: Tensor  # (P,)

    def __init__(self, start: Tensor, net: nn.Module, scale: float = 0.1):
        super().__init__()
        self.register_buffer("start", start)
        self.net = net
        start_small(net, scale)

    def forward(self, given: Tensor) -> Tensor:
        return self.start + self.net(given)
