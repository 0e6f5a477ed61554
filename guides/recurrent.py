"""q of the latents of a sequence, one step after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import Normal, TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from guides.families.mean_field import MeanField
from guides.family import Family
from guides.layers import NearStart, Structured
from zoo.data import Batch, Dataset
from zoo.model import Model
from zoo.models.vrnn import VRNN
from zoo.nets import MLP
from zoo.sites import Latents

__all__ = ["Recurrent"]


class Recurrent(Structured):
    """q(z_t | x_≤t, z_<t) = N(m_t, diag s_t²), (m_t, s_t) = g(φ_x(x_t), h_{t-1}), t = 1 … T.

    φ_x, h and its GRU are the model's own (``vrnn``) and are trained with it; g is the guide's. In
    the noise ε_t = (z_t - μ_t)/σ_t that the model samples, q is N((m_t - μ_t)/σ_t, (s_t/σ_t)²);
    log p(ε) - log q(ε) is log p(z) - log q(z). Of steps after the end of a sequence q is the prior.

    Args:
        hidden: widths of the hidden layers of g; by default those of the model.
        activation: as for ``amortized``; by default that of the model.

    Raises:
        ValueError: another model than ``vrnn``, another family than ``mean_field``.

    Reference: Chung et al., "A Recurrent Latent Variable Model for Sequential Data", 2015.
    """

    reverse: ClassVar[bool] = False
    only_families: ClassVar[tuple[str, ...]] = ("mean_field",)

    def __init__(
        self,
        model: Model,
        data: Dataset,
        latents: Latents,
        make: Callable[[int], Family],
        hidden: tuple[int, ...] | None = None,
        activation: str | None = None,
    ):
        if not isinstance(model, VRNN):
            raise ValueError(
                f"recurrent follows the states of a vrnn, and {type(model).__name__} has none; use "
                "amortized, or bottom_up for several layers of latents"
            )
        super().__init__(model, data, latents, make)
        if not isinstance(family := self.families[0], MeanField):
            raise ValueError(
                f"recurrent is Gaussian with a diagonal covariance in each step, and "
                f"{type(family).__name__} is another family; use mean_field, or the inference "
                "amortized"
            )
        start = MeanField(model.latent_dim, family.init_scale).initial()
        hidden = model.hidden if hidden is None else tuple(hidden)
        width = model.recurrent_dim + model.features
        self.net = NearStart(
            start, MLP(width, hidden, len(start), activation or model.activation)
        )  # g

    def read(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return batch["x"], batch.observed.get("x")

    def layer(self, model: Any, seen: Any, place: int, before: Tensor | None) -> Any:
        x, mask = (v if v is None else _steps(model, v) for v in seen)
        return _Rolled(model, self.net, model.phi_x(x), None if mask is None else mask.all(-1))


def _steps(model: VRNN, x: Tensor) -> Tensor:
    """(B, T, D) of x as it stands in the data."""
    return x.unflatten(-1, (model.num_steps, model.step_dim)) if model.flat else x


class _Rolled(TorchDistribution):
    """q(ε) of a sequence, packed: batch (B,), event (T d,).

    Args:
        model: p.
        net: g, [φ_x(x_t), h_{t-1}] -> (m_t, softplus⁻¹ s_t).
        seen: (B, T, F), φ_x(x).
        present: (B, T) bool, False for steps after the end; None where there are none.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector  # type: ignore[assignment]
    has_rsample = True

    def __init__(
        self,
        model: VRNN,
        net: Callable[[Tensor], Tensor],
        seen: Tensor,
        present: Tensor | None,
        batch_shape: torch.Size | None = None,
    ):
        self.parts = model, net, seen, present
        self.last: tuple[Tensor, Tensor] | None = None  # a draw and its density
        shape = seen.shape[:-2] if batch_shape is None else batch_shape
        event = torch.Size([model.num_steps * model.latent_dim])
        super().__init__(shape, event, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Rolled:
        """The same q, drawn independently over more dimensions."""
        return _Rolled(*self.parts, torch.Size(batch_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """(*sample_shape, *batch_shape, T d)."""
        value, log_q = self._roll(torch.Size(sample_shape) + self.batch_shape)
        self.last = value, log_q
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        """(...), in nats, of ε (..., T d)."""
        if self.last is not None and value is self.last[0]:
            return self.last[1]
        return self._roll(value.shape[:-1], value)[1]

    def _roll(self, lead: torch.Size, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        model, net, seen, present = self.parts
        lead = torch.broadcast_shapes(lead, seen.shape[:-2])
        h = seen.new_zeros(*lead, model.recurrent_dim)
        shape = (model.num_steps, model.latent_dim)
        values = None if given is None else given.unflatten(-1, shape)
        steps, scores = [], []
        for t in range(model.num_steps):
            mean, scale = model.prior(h)
            now = seen[..., t, :].expand(*lead, -1)
            loc, raw = net(torch.cat([now, h], -1)).to(mean.dtype).chunk(2, -1)
            loc, spread = (loc - mean) / scale, softplus(raw) / scale
            if present is not None:
                here = present[..., t, None]
                loc, spread = torch.where(here, loc, 0.0), torch.where(here, spread, 1.0)
            q = Normal(loc, spread).to_event(1)
            eps = q.rsample() if values is None else values[..., t, :]
            steps.append(eps)
            scores.append(q.log_prob(eps))
            if t + 1 < model.num_steps:
                h = model.advance(h, now, model.phi_z(mean + scale * eps))
        value = torch.cat(steps, -1) if given is None else given
        return value, torch.stack(scores).sum(0)
