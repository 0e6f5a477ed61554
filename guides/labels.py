"""What q says of the labels of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guides.classifier import Classifier
from guides.relaxations import Gumbel
from zoo.data import Batch, Dataset

if TYPE_CHECKING:
    from guides.guide import Guide

DRAWS = 100  # of z, where y is summed out given z


def classifier_of(guide: Guide) -> Classifier | None:
    """q(y | ·) of a guide, its own or that of its layers."""
    return guide.classifier or getattr(guide.family, "classifier", None)


@torch.no_grad()
def classify(guide: Guide, batch: Batch) -> dict[str, Tensor]:
    """The probability of each value of every discrete latent of the rows, by site: (B, C).

    q(y | x) where the guide has a classifier, q(y | E[z1 | x]) for one that reads a code z1; else
    E_q(z|x) p(y | x, z) over 100 draws of z, by the generator of the device. Labels that the batch
    has are not looked at.

    Raises:
        ValueError: a model without discrete latents of its rows.
    """
    names = guide.latents.discrete
    if not names:
        raise ValueError(f"{type(guide.model).__name__} has no discrete latents of its rows")
    batch = batch.without(*(name for name in names if name in batch))
    classifier = classifier_of(guide)
    if classifier is None:
        return guide.posterior(batch, DRAWS if guide.latents.local.dim else 1).probabilities
    return {n: logits.exp() for n, logits in classifier.logits(_read(guide, batch)).items()}


def no_bound(guide: Guide, data: Dataset) -> str:
    """What in q makes the loss of these data no bound: relaxed labels or bits, rewarded labels."""
    classifier, drawer = classifier_of(guide), getattr(guide.family, "drawer", None)
    if classifier is None:
        relaxed = drawer is not None and isinstance(drawer.estimator, Gumbel)
        return f"relaxed bits ({guide.spec['estimator']})" if relaxed else ""
    found = ["a relaxed y (gumbel)"] if isinstance(classifier.estimator, Gumbel) else []
    if classifier.alpha and any(name in data.names for name in classifier.labels):
        found.append(f"{classifier.alpha:g} log q(y | x) of labels")
    return " and ".join(found)


def baseline(guide: Guide, h: Tensor, batch: Batch) -> tuple[Any, Any]:
    """b of the estimator ``score`` for log weights h (S, K, B), and the loss that trains it."""
    classifier = classifier_of(guide)
    drawer = getattr(guide.family, "drawer", None) or guide.reader
    if classifier is not None:
        return classifier.baseline(h, _read(guide, batch))
    return (0.0, 0.0) if drawer is None else drawer.baseline(h, batch)


def _read(guide: Guide, batch: Batch) -> Batch:
    """The rows as the classifier reads them: x, or the means of their codes."""
    family: Any = guide.family
    with torch.no_grad():
        return family.codes(guide.model, batch) if guide.classifier is None else batch
