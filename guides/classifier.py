"""q(y | x): a classifier inside a guide, and what it makes of labels that are given."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guides.estimators import Estimator
from guides.inference import Amortized
from zoo.data import Batch, Dataset
from zoo.nets import keep_signal, start_small

START = 0.3  # about the size of logits at the start


class Classifier(nn.Module):
    """q(y | x) = Π_i Categorical(y_i; softmax c_i(x)), c a network that reads x.

    Rows that come with a label leave y out of q, and add α (N/N_l) log q(y_n | x_n) to the
    objective, N_l of the N rows having labels: α times their mean log q(y | x) in nats per
    datapoint of all, as in the paper, whose term is α n Σ_l log q(y_l | x_l) / n_l. Without it a
    classifier would learn from rows without labels alone. It is no part of the bound.

    Args:
        alpha: α ≥ 0.
        hidden: widths of the hidden layers.
        activation: as for the inference ``amortized``.
        net: mlp, or conv for images.
        gated: whether hidden layers are gated.
        encoder: a network of yours from the standardised features (B, F) to (B, Σ C_i).

    Raises:
        ValueError: α below 0, or nothing to read.

    Reference: Kingma, Rezende, Mohamed and Welling, "Semi-supervised Learning with Deep Generative
    Models", 2014.
    """

    def __init__(
        self,
        data: Dataset,
        labels: Mapping[str, int],
        latents: tuple[str, ...],
        estimator: Estimator,
        alpha: float = 0.1,
        hidden: Sequence[int] = (300,),
        activation: str = "softplus",
        net: str = "mlp",
        gated: bool = False,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not (math.isfinite(alpha) and alpha >= 0):
            raise ValueError(f"alpha, the weight of log q(y | x), is from 0, got {alpha}")
        self.alpha, self.labels, self.estimator = alpha, dict(labels), estimator
        start = torch.zeros(sum(labels.values()))
        self.net = Amortized(
            data, start, latents, tuple(hidden), activation, encoder, net, gated
        )  # c
        if encoder is None:  # a start near 1/C everywhere would leave each class to chance for long
            keep_signal(self.net.encoder, whole=True)
            start_small(self.net.encoder, START)
        estimator.bind(self.net.width, math.prod(labels.values()))

    def logits(self, batch: Batch) -> dict[str, Tensor]:
        """log q(y = c | x) by site, (B, C)."""
        parts = self.net(batch, lambda kappa: kappa).split(list(self.labels.values()), -1)
        return {name: part.log_softmax(-1) for name, part in zip(self.labels, parts, strict=True)}

    def draw(self, batch: Batch, lead: Sequence[int] = ()) -> dict[str, Tensor]:
        """y by site, drawn or given, inside the data plate.

        Args:
            batch: its rows are *lead × B, where a latent drawn before stands in the place of x.
            lead: dimensions before that of the rows.
        """
        found = {}
        for name, logits in self.logits(batch).items():
            logits = logits.reshape(*lead, -1, logits.shape[-1])
            if name not in batch.values:
                found[name] = self.estimator.draw(name, logits)
                continue
            found[name] = y = batch[name].reshape(*lead, -1)
            if self.alpha:
                score = -self.alpha / batch.share * dist.Categorical(logits=logits).log_prob(y)
                _reward(f"_classify_{name}", score)
        return found

    def baseline(self, h: Tensor, batch: Batch) -> tuple[Any, Any]:
        """Of the log weights h (S, K, B), and the loss of its own parameters."""
        return self.estimator.baseline(h, self.net.features(batch))


def _reward(name: str, log_factor: Tensor) -> None:
    """A factor of q that ``log_weights`` keeps apart, and stock Pyro subtracts like any log q."""
    unit = dist.Unit(log_factor, has_rsample=True)
    value = log_factor.new_empty(log_factor.shape + (0,))
    pyro.sample(name, unit, obs=value, infer={"is_auxiliary": True, "reward": True})
