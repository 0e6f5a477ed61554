"""Where the parameters κ_n of q(z_n) come from: a table, an encoder, an encoder and some steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from guides.family import inverse_softplus
from guides.source import Objective, Source
from guides.table import PerDatapoint
from zoo.data import Batch, Dataset
from zoo.nets import MLP, indicator, join, network, start_small

__all__ = ["Amortized", "PerDatapoint", "SemiAmortized"]


class Amortized(Source):
    """κ_n = κ_0 + g(x_n): one network for all datapoints.

    The network reads the observed values of the row and, where entries are missing, which ones.
    They are flattened and standardised by the mean and the standard deviation of the data that the
    guide was built from, the latter at least a tenth of its root mean square over the columns.
    Labels, whole numbers whose classes the model counts in ``classes``, are read one-hot.

    Args:
        hidden: widths of the hidden layers; ``[]`` is a linear encoder.
        activation: ``relu``, ``tanh``, ``softplus``, ``elu``, ``gelu`` or ``silu``.
        encoder: a network of yours from the standardised features (B, F) to (B, P).
        net: mlp, or conv for data with an ``image_shape``, with ``hidden`` dense layers after it.
        gated: hidden layers are gated, a(W h + b) ⊙ σ(V h + c).
        classes: name -> number of classes of a label, as the model has it.
        label_classes: the same of labels that are latents where they are not given; they are read
            behind all else.

    Raises:
        ValueError: nothing to read; conv for data that are no images.

    Reference: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014.
    """

    center: Tensor  # (F,)
    spread: Tensor  # (F,)
    start: Tensor  # (P,)

    def __init__(
        self,
        data: Dataset,
        initial: Tensor,
        latents: tuple[str, ...] = (),
        hidden: tuple[int, ...] = (64, 64),
        activation: str = "relu",
        encoder: nn.Module | None = None,
        net: str = "mlp",
        gated: bool = False,
        classes: Mapping[str, int] | None = None,
        label_classes: Mapping[str, int] | None = None,
    ):
        super().__init__(data, initial, latents)
        self.classes, self.labels = dict(classes or {}), dict(label_classes or {})
        names = (name for name in data.names if name not in latents)
        # A convolution looks for the image first.
        self.names = tuple(sorted(names, key=lambda name: net == "conv" and name != "x"))
        if not self.names:
            raise ValueError("the data have no observed values for an encoder to read")
        rows = torch.arange(min(len(data), 10_000), device=data.device)
        head = self._raw(data.without(*data.partial).fixed().batch(rows), initial.dtype)
        self.masked = tuple(name for name in self.names if name in data.observed)
        spread = head.std(0, correction=0)
        # A column that hardly varies, such as a pixel at the edge, must not be blown up.
        spread = spread.clamp_min(0.1 * spread.square().mean().sqrt())
        self.register_buffer("center", head.mean(0))  # (F,)
        self.register_buffer("spread", torch.where(spread > 0, spread, 1.0))  # (F,)
        self.register_buffer("start", initial)  # (P,)
        width = head.shape[-1] + sum(data.event_shape(name).numel() for name in self.masked)
        self.width = width = width + sum(self.labels.values())  # F
        shape = data.image_shape if "x" in self.names else None
        self.encoder = encoder or network(
            net, width, tuple(hidden), len(initial), activation, gated, shape
        )
        if encoder is None:  # start near κ_0, whatever x is
            start_small(self.encoder, 0.1)

    def _raw(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        return torch.cat([self._wide(batch[n], n).to(dtype) for n in self.names], -1)

    def _wide(self, value: Tensor, name: str) -> Tensor:
        """(B, ...) as a row of numbers each: a label one-hot, the mask of one as wide."""
        if name not in self.classes or value.is_floating_point() or value.dim() > 1:
            return value.reshape(len(value), -1)
        if value.dtype == torch.bool:
            return value.unsqueeze(-1).expand(-1, self.classes[name])
        return indicator(value, self.classes[name])

    def features(self, batch: Batch) -> Tensor:
        """(B, F): what the encoder reads."""
        seen = self.seen(batch)
        return join(seen, self.said(batch)) if self.labels else seen

    def said(self, labels: Mapping[str, Tensor]) -> Tensor:
        """(..., Σ C): labels as vectors, one-hot or relaxed."""
        return join(*(indicator(labels[name], size) for name, size in self.labels.items()))

    def seen(self, batch: Batch) -> Tensor:
        """(B, F - Σ C): what is read but for labels."""
        if lost := sorted(set(self.names) - set(batch.values)):
            raise ValueError(f"the encoder reads {list(self.names)}, the batch lacks {lost}")
        raw = self._raw(batch, self.center.dtype)
        scaled = (raw - self.center) / self.spread
        if not self.masked and not batch.observed:
            return scaled
        if extra := sorted(set(batch.observed) - set(self.masked)):
            raise ValueError(
                f"{extra} have missing entries, which this encoder has never seen; build the guide "
                "on data with missing entries, or use per_datapoint"
            )
        everything = {name: torch.ones_like(batch[name], dtype=torch.bool) for name in self.names}
        masks = {**everything, **batch.observed}
        present = torch.cat([self._wide(masks[name], name) for name in self.names], -1)
        shown = [masks[name].reshape(len(batch), -1) for name in self.masked]
        return torch.cat([scaled * present, *(m.to(scaled.dtype) for m in shown)], -1)

    def forward(self, batch: Batch, objective: Objective) -> Tensor:
        kappa = self.encoder(self.features(batch))
        if kappa.shape != (len(batch), self.num_params):
            raise ValueError(
                f"the encoder returned {tuple(kappa.shape)}, the family needs "
                f"{(len(batch), self.num_params)}"
            )
        return self.start + kappa

    def given(self, batch: Batch, labels: Mapping[str, Tensor], objective: Objective) -> Tensor:
        first = next(iter(self.encoder), None) if isinstance(self.encoder, MLP) else None
        plain = (
            type(self).forward is Amortized.forward and type(self).features is Amortized.features
        )
        if not (plain and isinstance(first, nn.Linear)):
            return super().given(batch, labels, objective)
        seen = self.seen(batch)  # x is read once, whatever y
        said = self.said(labels).to(seen.dtype)
        x, y = first.weight.split([seen.shape[-1], said.shape[-1]], -1)
        kappa = linear(seen, x, first.bias) + linear(said, y)
        for layer in list(self.encoder)[1:]:
            kappa = layer(kappa)
        return self.start + kappa


class SemiAmortized(Amortized):
    """κ_n from an encoder, then ``steps`` gradient steps on the bound of each datapoint.

    κ ← κ + η ⊙ ∇_κ ELBO_n(κ), η > 0 learned with the rest; a gradient longer than ``clip`` is
    shortened to it. Every step draws noise of its own, apart from the noise that the bound is then
    evaluated with: a bound scored with the noise that chose κ is not one.

    Args:
        hidden: widths of the encoder's hidden layers.
        activation: as for ``amortized``.
        encoder: a network of yours.
        net, gated, classes, label_classes: as for ``amortized``.
        steps: T.
        step_size: η at the start.
        num_particles: draws for each inner gradient.
        clip: the longest inner gradient, in nats per unit of κ.
        through: whether training differentiates through the steps; without, the encoder gets the
            gradient of its own κ only through the last value.

    Reference: Kim, Wiseman, Miller, Sontag and Rush, "Semi-Amortized Variational Autoencoders",
    2018.
    """

    def __init__(
        self,
        data: Dataset,
        initial: Tensor,
        latents: tuple[str, ...] = (),
        hidden: tuple[int, ...] = (64, 64),
        activation: str = "relu",
        encoder: nn.Module | None = None,
        steps: int = 4,
        step_size: float = 0.01,
        num_particles: int = 4,
        clip: float = 10.0,
        through: bool = True,
        net: str = "mlp",
        gated: bool = False,
        classes: Mapping[str, int] | None = None,
        label_classes: Mapping[str, int] | None = None,
    ):
        like = (hidden, activation, encoder, net, gated, classes, label_classes)
        super().__init__(data, initial, latents, *like)
        if steps < 1 or step_size <= 0 or clip <= 0 or num_particles < 1:
            raise ValueError("steps, step_size, num_particles and clip are positive")
        self.steps, self.clip, self.through = steps, clip, through
        self.num_particles = num_particles
        raw = torch.full_like(initial, inverse_softplus(step_size))
        # Without a gradient through the steps their size stays as it is.
        self.raw_step = nn.Parameter(raw, requires_grad=through)  # (P,)

    def forward(self, batch: Batch, objective: Objective) -> Tensor:
        kappa = super().forward(batch, objective)
        keep = self.through and torch.is_grad_enabled()
        start = kappa
        with torch.enable_grad():
            for _ in range(self.steps):
                kappa = kappa if keep else kappa.detach()
                kappa = kappa if kappa.requires_grad else kappa.requires_grad_()
                (slope,) = torch.autograd.grad(objective(kappa).sum(), kappa, create_graph=keep)
                length = slope.norm(dim=-1, keepdim=True)
                slope = slope * (self.clip / length.clamp_min(self.clip))
                kappa = kappa + softplus(self.raw_step) * slope
        if keep:
            return kappa
        # Straight through: the value after the steps, the encoder's gradient as if there were none.
        return (kappa - start).detach() + start
