"""What q says of the classes of rows that are judged, against their labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.judge.classifiers import confusion
from experiments.judge.labels import predictions
from experiments.trained import Trained
from guides.guide import Guide
from zoo.calibration import calibration, classification_error
from zoo.clustering import accuracy
from zoo.context import seeded, stream
from zoo.data import Dataset


def classified(
    trained: Trained, guide: Guide, data: Dataset, side: str, seed: int, notes: list[str]
) -> dict[str, Any]:
    """Error, confusion and calibration of q(y | x); None each for a model without named classes.

    Args:
        trained: the run; its latent y is a class where its model says so or it had labels.
        guide: q for the rows.
        data: the rows; those without a label do not count.
        side: test or train.
        seed: of draws of z, where y is summed out given z.
        notes: are added to.
    """
    found: dict[str, Any] = {"error": None, "classes": None, "confusion": None, "calibration": None}
    labels, names = data.labels, guide.latents.discrete
    num_labels = trained.split.record.get("num_labels") or 0
    if labels is None or len(names) != 1 or not (num_labels or names[0] in trained.model.labels):
        return found
    known = (labels >= 0).cpu()
    if not bool(known.any()):
        return found
    with seeded(stream(seed, "classify"), trained.device):
        q, y = predictions(guide, data)[known], labels.cpu()[known]
    classes = q.shape[-1]
    if int(y.max()) >= classes:
        notes.append(
            f"no error: {names[0]} has {classes} values, and there is label {int(y.max())}"
        )
        return found
    if (missing := len(known) - len(y)) > 0:
        notes.append(f"{missing} {side} rows have no label: none of them is in the error")
    if num_labels and side == "train":
        notes.append(f"{num_labels} of the training rows had their label when they were trained on")
    if not num_labels:
        notes.append(
            "the run itself saw no labels: unless its model did, in a run before it, the values of "
            f"{names[0]} stand in no order and the error means nothing"
        )
    return {
        "error": {**classification_error(q, y).as_dict(), "num_rows": len(y)},
        "classes": class_names(trained, classes),
        "confusion": confusion(y.numpy(), q.argmax(-1).numpy(), np.arange(classes)),
        "calibration": calibration(q, y, seed=seed).as_dict(),
    }


def clusters(trained: Trained, guide: Guide, data: Dataset, seed: int) -> dict[str, float] | None:
    """How the most probable value of a single discrete latent agrees with the labels.

    None where the run had labels: then values are classes, and the error says it.
    """
    if data.labels is None or len(guide.latents.discrete) != 1:
        return None
    if trained.split.record.get("num_labels"):
        return None
    from sklearn.metrics import adjusted_rand_score

    with seeded(stream(seed, "classify"), trained.device):
        labels, found = data.labels.cpu(), predictions(guide, data).argmax(-1)
    return {
        "accuracy": accuracy(labels, found),
        "adjusted_rand_index": float(adjusted_rand_score(labels, found)),
    }


def class_names(trained: Trained, count: int) -> list[str]:
    """Of the classes 0 … C − 1, as the data call them."""
    words = trained.split.record.get("class_names") or []
    return [str(words[c]) if c < len(words) else str(c) for c in range(count)]
