"""Figures of a fitted pair on training and test rows, of so many rows that it ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from experiments.spec import Spec
from guides.guide import Guide
from zoo._arrays import some_rows
from zoo.data import Dataset
from zoo.evaluation import Evaluation, evaluate
from zoo.model import Model
from zoo.sites import given_labels
from zoo.sources import Split

EVALUATION_SEED = 0x5C02E  # the stream that bounds are reported with, apart from those of training


@dataclass(frozen=True)
class Judged:
    """Figures of a model and a guide.

    Attributes:
        split: the rows that were judged.
        train, test: figures of every such row; ``test`` is None where there are no test rows.
        train_guide, test_guide: the guides that they were judged with.
    """

    split: Split
    train: Evaluation
    test: Evaluation | None
    train_guide: Guide
    test_guide: Guide | None


def judge(spec: Spec, model: Model, guide: Guide, split: Split) -> Judged:
    """Figures of the training and test rows, of ``spec.eval_rows`` each."""
    options = {"num_particles": spec.eval_particles, "seed": EVALUATION_SEED}
    chosen = rows_of(spec, model, guide, split)
    train = evaluate(model, guide, chosen.train, **options)
    if chosen.test is None:
        return Judged(chosen, train, None, guide, None)
    test_guide = guide.infer(chosen.test, **row_fit(spec))
    test = evaluate(model, test_guide, chosen.test, predictive=True, **options)
    return Judged(chosen, train, test, guide, test_guide)


def rows_of(spec: Spec, model: Model, guide: Guide, split: Split) -> Split:
    """The rows of a run that are judged, without labels: bounds are reported of x alone."""
    split = replace(split, train=split.train.without(*given_labels(model, split.train)))
    return judged_rows(split, 0 if guide.latents.global_.dim else spec.eval_rows)


def row_fit(spec: Spec) -> dict[str, Any]:
    """How ``guide.infer`` fits the rows of a run: by its own bound where it can."""
    options: dict[str, Any] = {"steps": spec.infer_steps}
    if spec.objective == "iwae" and spec.num_particles:
        options |= {"objective": "iwae", "num_particles": spec.num_particles}
    return options


def judged_rows(split: Split, count: int, apart: bool = False) -> Split:
    """The rows of a split that are judged: ``count`` of each side, all where that is 0.

    The training rows stay rows of their data, as a table of those needs; ``apart``, they do not.
    """
    train, test = split.train, split.test
    if 0 < count < len(train):
        index = choice(train, count)
        train = train.subset(index) if apart else train.only(index)
    if test is not None and 0 < count < len(test):
        test = test.subset(choice(test, count))
    return replace(split, train=train, test=test)


def choice(data: Dataset, count: int) -> torch.Tensor:
    """(M,): ``count`` of the rows, in their order, by ``RandomState(2).permutation``."""
    return some_rows(len(data), count, seed=2)
