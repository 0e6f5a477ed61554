"""An encoder that the model owns and the guide uses as its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from guides.families.mean_field import MeanField
from guides.family import Family
from guides.inference import Amortized
from guides.source import Objective, Source
from zoo.data import Batch, Dataset
from zoo.model import Model


class Shared(Source):
    """κ_n = e(x_n), e = ``model.shared_encoder``: the guide has no parameters of its own.

    e belongs to the model (see ``zoo.priors.Vamp``), so it is trained, frozen, saved and loaded
    there; options of an encoder of the guide's own have nothing to act on.
    """

    model: Model
    masked: ClassVar[tuple[str, ...]] = ()  # it reads whole rows alone

    def __init__(self, data: Dataset, initial: Tensor, latents: tuple[str, ...], model: Model):
        super().__init__(data, initial, latents)
        self.__dict__["model"] = model  # not a part of the guide's state

    def forward(self, batch: Batch, objective: Objective) -> Tensor:
        if "x" in batch.observed:
            raise ValueError(
                "the encoder of a vamp prior reads whole rows, and x has missing entries; use the "
                "inference per_datapoint, or another prior"
            )
        assert self.model.shared_encoder is not None
        x = batch["x"].reshape(len(batch), -1).to(self.model.dtype)
        return self.model.shared_encoder(x)


def make_source(
    find: Any,
    model: Model,
    family: Family,
    data: Dataset,
    latents: tuple[str, ...],
    options: Mapping[str, Any],
    labels: Mapping[str, int] | None = None,
) -> Source:
    """The source of κ: the model's own encoder where it has one for this family, else ``find``'s.

    Args:
        find: the class of the source that was asked for.
        model: p; what it knows of its inputs (``classes``) is told to encoders.
        family: Ψ.
        data, latents: as for ``Source``.
        options: the source's keyword arguments.
        labels: site -> number of classes, of labels that κ is given: q(z | x, y).
    """
    start = family.initial()
    own = (
        not labels
        and options.get("encoder") is None
        and type(family) is MeanField
        and find is Amortized
    )
    if own and model.shared_encoder is not None and "x" not in latents:
        return Shared(data, start, latents, model)
    if model.classes and issubclass(find, Amortized):
        options = {"classes": model.classes, **options}
    if labels:
        options = {"label_classes": labels, **options}
    return find(data, start, latents, **options)
