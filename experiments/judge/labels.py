"""How often the labels of rows are guessed wrong."""

from __future__ import annotations

from typing import Any

import torch

from guides.guide import Guide
from guides.labels import classifier_of
from zoo.calibration import classification_error
from zoo.context import seeded, stream
from zoo.data import Dataset
from zoo.sources import Split

CHUNK = 2000  # rows at a time, where q(y | x) is a network
MAX_ELEMENTS = 40_000  # numbers of x at a time, where y is summed out over 100 draws of z


@torch.no_grad()
def predictions(guide: Guide, data: Dataset) -> torch.Tensor:
    """(N, C): q(y = c | x) of every row, labels that it may have not looked at."""
    (name,) = guide.latents.discrete
    data, where = data.without(*data.partial), guide.model.device
    width = max(data.event_shape(site).numel() for site in data.names)
    rows = max(1, MAX_ELEMENTS // width) if classifier_of(guide) is None else CHUNK
    parts = [guide.classify(batch.to(where))[name] for batch in data.batches(rows)]
    return torch.cat(parts).cpu()


def error(guide: Guide | None, data: Dataset | None) -> dict[str, float] | None:
    """{"mean": p, "se": √(p (1 − p)/N)}, p the share of rows whose most probable class is wrong.

    None where there are no labels to compare with, or no single discrete latent of the rows.
    """
    if guide is None or data is None or data.labels is None or len(guide.latents.discrete) != 1:
        return None
    labels = data.labels.cpu()
    known = labels >= 0
    if not bool(known.any()):
        return None
    with seeded(stream(0, "classify"), guide.model.device):  # of z, where y is summed out given it
        q = predictions(guide, data)
    return classification_error(q[known], labels[known]).as_dict()


def label_figures(
    guide: Guide, test_guide: Guide | None, split: Split, judged: Split
) -> dict[str, Any]:
    """What a summary says of labels: how many there were, and the errors of test and validation.

    All test rows are classified; where that takes the guide of the judged rows, those.
    """
    count = split.record.get("num_labels") or 0
    if not count:
        return {"num_labels": 0}
    every = guide.amortized or guide.classifier is not None
    test = error(guide, split.test) if every else error(test_guide, judged.test)
    valid = error(guide, split.validation) if every and split.validation is not None else None
    return {"num_labels": count, "test": test, "validation": valid}
