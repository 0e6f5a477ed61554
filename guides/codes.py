"""q for a code of x with labels and style above it: the guide of M1+M2."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from guides.classifier import Classifier
from guides.draws import sample
from guides.family import Family
from guides.inference import Amortized
from guides.layers import NearStart, Structured
from zoo.data import Batch, Dataset
from zoo.decoding import mean_of
from zoo.model import Model
from zoo.nets import MLP, indicator, join, keep_signal
from zoo.sites import Latents, Sites

__all__ = ["Stacked"]


class Stacked(Structured):
    """q(z1 | x) q(y | z1) q(z2 | z1, y): the label and the style are read off the code z1.

    z1, which the model samples last, is next to the data. Each layer has any family,
    κ_1 = g_1(x), κ_2 = g_2(z1, y). A classifier of codes sees a fresh draw of z1 at every visit; at
    test time it reads the mean. Codes that the model does not use (``used``) are not read.

    Args:
        classify: makes q(y | z1) from data and names; the guide gives it.
        hidden: widths of the hidden layers of g_1.
        style_hidden: widths of those of g_2.
        activation: as for ``amortized``.
        net, gated: of g_1, as for ``amortized``.

    Raises:
        ValueError: a model without labels and two layers of continuous latents.

    Reference: Kingma, Rezende, Mohamed and Welling, "Semi-supervised Learning with Deep Generative
    Models", 2014.
    """

    reverse: ClassVar[bool] = True
    classifies: ClassVar[bool] = True

    def __init__(
        self,
        model: Model,
        data: Dataset,
        latents: Latents,
        make: Callable[[int], Family],
        classify: Callable[..., Classifier] | None = None,
        hidden: Sequence[int] = (500, 500),
        style_hidden: Sequence[int] = (300,),
        activation: str = "softplus",
        net: str = "mlp",
        gated: bool = False,
    ):
        super().__init__(model, data, latents, make)
        if classify is None or len(self.order) != 2 or not Sites([self.order[0]]).identity:
            raise ValueError(
                "stacked reads labels and a second layer off a code in R^d, as of the model m1m2, "
                f"and {type(model).__name__} has the continuous latents {list(latents.local.names)}"
                f" and the labels {list(latents.discrete)}; use amortized (with another estimator "
                "than collapse)"
            )
        low, high = (family.initial() for family in self.families)  # type: ignore[operator]
        shape = (tuple(hidden), activation, None, net, gated, model.classes)
        self.first = Amortized(data, low, latents.names, *shape)
        d = self.order[0].size
        self.classifier = classify(
            Dataset(torch.stack([torch.ones(d), -torch.ones(d)])), latents=()
        )
        width = d + sum(latents.classes.values())
        style = MLP(width, tuple(style_hidden), len(high), activation)
        keep_signal(style)
        self.second = NearStart(high, style, scale=0.3)  # g_2, which moves with y from the start

    @torch.no_grad()
    def adopt(self, first: Amortized) -> None:
        """Takes over the encoder of a trained M1, of the same shape, and freezes it.

        Raises:
            ValueError: an encoder of another shape.
        """
        try:
            self.first.load_state_dict(first.state_dict())
        except RuntimeError as error:
            raise ValueError(f"the encoder of M1 does not fit: {error}") from None
        self.first.requires_grad_(False)

    def draw(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """Samples z1, the labels that the batch lacks, and z2."""
        code, style = self.order
        values = sample("_z1", self.layer(model, batch, 0, None), Sites([code]), self.families[0])  # type: ignore[arg-type]
        z1 = self.read_code(model, values[code.name])
        labels = self.classifier.draw(*as_rows(batch, z1))
        q = self._second(z1, labels)
        values |= {name: y for name, y in labels.items() if name not in batch.values}
        return values | sample("_z2", q, Sites([style]), self.families[1])  # type: ignore[arg-type]

    def read(self, batch: Batch) -> Batch:
        return batch

    def layer(self, model: Model, seen: Batch, place: int, before: Tensor | None) -> Any:
        """q(z1 | x), and q(z2 | z1, y) of rows that come with their labels."""
        if before is None:
            return self.families[0](self.first(seen, lambda kappa: kappa))
        return self._second(
            self.read_code(model, before), {n: seen[n] for n in self.classifier.labels}
        )

    def codes(self, model: Model, batch: Batch) -> Batch:
        """The rows with E[z1 | x] in the place of x: what is classified at test time."""
        z1 = mean_of(self.layer(model, batch, 0, None))
        return as_rows(batch, self.read_code(model, z1))[0]

    def read_code(self, model: Model, z1: Tensor) -> Tensor:
        """z1 (..., d), zero where the model does not use it."""
        return z1 * getattr(model, "used", 1.0)

    def _second(self, z1: Tensor, labels: dict[str, Tensor]) -> Any:
        said = [indicator(labels[name], size) for name, size in self.classifier.labels.items()]
        return self.families[1](self.second(join(z1, *said)))


def as_rows(batch: Batch, z1: Tensor) -> tuple[Batch, torch.Size]:
    """Codes (*lead, B, d) in the place of x, as rows *lead × B, and lead."""
    lead = z1.shape[:-2]
    times = math.prod(lead)
    labels = {name: v.repeat(times) for name, v in batch.values.items() if v.dim() == 1}
    values = {**labels, "x": z1.reshape(-1, z1.shape[-1])}
    return replace(batch, values=values, index=batch.index.repeat(times), observed={}), lead
