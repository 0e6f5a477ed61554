"""One point of the five axes, from words to a fitted pair, its figures and its folder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.config import read_config, write_config
from experiments.identified import Components, Loadings, identified
from experiments.judge.rows import Judged, judge, judged_rows, row_fit
from experiments.output import claim_run
from experiments.spec import Spec, complete
from experiments.stacking import like_m1, read_m1, stack
from experiments.summary import summarize
from guides.guide import Guide
from zoo import store
from zoo.context import seeded
from zoo.data import Dataset
from zoo.evaluation import Evaluation
from zoo.exact import knows
from zoo.fitting import FitResult, fit, pick_device
from zoo.launch import rank
from zoo.model import Model
from zoo.parallel import leave
from zoo.registry import resolve
from zoo.sources import Split, load_data

__all__ = [
    "Outcome",
    "Spec",
    "build_guide",
    "build_model",
    "complete",
    "hold_out",
    "judge",
    "judged_rows",
    "read_config",
    "row_fit",
    "run",
    "split_of",
    "summarize",
]

GUIDE_SEED = 0x6D1DE  # so that a guide does not start from the numbers that its model started from


@dataclass(frozen=True)
class Outcome:
    """What a run leaves behind.

    Attributes:
        spec: with every default written out.
        result: of the fit.
        model, guide: as trained.
        split: the rows that were trained on, and the test rows.
        judged: the figures, and what they are of.
        summary: what ``summary.json`` holds.
        identified: loadings and components, as far as the model has them.
    """

    spec: Spec
    result: FitResult
    model: Model
    guide: Guide
    split: Split
    judged: Judged
    summary: dict[str, Any]
    identified: dict[str, Loadings | Components] = field(default_factory=dict)

    @property
    def train(self) -> Evaluation:
        """Figures of the training rows."""
        return self.judged.train

    @property
    def test(self) -> Evaluation | None:
        """Figures of the test rows."""
        return self.judged.test


def split_of(spec: Spec) -> Split:
    """The data of a run; labels are the input "y" of a model that conditions on one.

    Raises:
        ValueError: data that are not there, cannot be read or are not numbers.
    """
    try:
        split = load_data(spec.data, **spec.data_options)
    except TypeError as error:
        raise ValueError(f"{spec.data}: {error}") from None
    train, test = split.train, split.test
    given = "y" in resolve("models", spec.model).inputs
    if given and split.record.get("labels") is not None:
        raise ValueError(
            f"{spec.model} is a model given y, which every row needs; --labels is for models of "
            "which y is a part, such as m2 or gmm"
        )
    if not given or "y" in train.names or train.labels is None:
        return split
    if test is not None:
        test = test.with_values(y=test.labels)
    return Split(train.with_values(y=train.labels), test, split.record)


def hold_out(split: Split, fraction: float) -> tuple[Split, Dataset | None]:
    """Takes a fraction of the training rows out, by ``RandomState(1).permutation``.

    Raises:
        ValueError: a fraction that leaves no rows on one of the sides.
    """
    if fraction == 0:
        return split, None
    rows = len(split.train)
    count = round(fraction * rows)
    if not 0 < count < rows:
        raise ValueError(f"held_out_fraction {fraction} of {rows} rows leaves one side empty")
    order = np.random.RandomState(1).permutation(rows)
    kept = split.train.subset(torch.from_numpy(np.sort(order[count:])))
    record = {**split.record, "num_train": rows - count, "num_held_out": count}
    if split.train.given:
        record["num_labels"] = len(kept[kept.given[0]]) if kept.given else 0
    held_out = split.train.subset(torch.from_numpy(np.sort(order[:count])))
    return replace(split, train=kept, record=record), held_out


def build_model(spec: Spec, split: Split) -> Model:
    """The model at its start: random by ``spec.seed``, or as a run left it.

    Raises:
        ValueError: options that are not those of the run in ``model_from``.
    """
    make = resolve("models", spec.model)
    with seeded(spec.seed):
        if spec.model_from is None:
            return make.for_data(split.train, **spec.model_options)
        try:
            model = store.load(spec.model_from).model
        except store.RunError:  # of a model that is not the zoo's: built here, filled from there
            fresh = make.for_data(split.train, **spec.model_options)
            model = store.load(spec.model_from, model=fresh).model
    if not isinstance(model, make):
        raise ValueError(
            f"{spec.model_from} is a run of {type(model).__name__}, not of {spec.model}"
        )
    other = {k: v for k, v in spec.model_options.items() if model.options.get(k, v) != v}
    if other:
        raise ValueError(
            f"the model in {spec.model_from} has other options than {other}; leave them out"
        )
    return model


def build_guide(spec: Spec, model: Model, split: Split) -> Guide:
    """The guide at its start, for the training rows."""
    with seeded(spec.seed + GUIDE_SEED):
        return Guide(
            model,
            split.train,
            spec.family,
            spec.inference or "amortized",
            estimator=spec.estimator,
            estimator_options=spec.estimator_options,
            classifier_options=spec.classifier_options,
            global_family=spec.global_family,
            family_options=spec.family_options,
            inference_options=spec.inference_options,
            global_options=spec.global_options,
        )


def run(
    spec: Spec,
    out: str | Path | None = None,
    model: Model | None = None,
    split: Split | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Outcome:
    """Builds, fits and judges; with ``out`` it also keeps the run on disk.

    Of torchrun's processes all fit; then the first alone goes on, and the others end.

    Args:
        spec: what to run.
        out: a folder for the run.
        model: a model in place of the one that ``spec`` describes, trained in place unless frozen.
        split: the data, where they are loaded already.
        resume: go on with the run in ``out``.
        progress: a bar on the terminal; by default where there is one.

    Raises:
        ValueError: words or options that are not there, data that do not fit, a folder in use.
        NonFiniteLossError: a loss that is NaN or infinite.
    """
    m1 = None if spec.m1_from is None else read_m1(spec)
    spec = complete(spec if m1 is None else like_m1(spec, m1))
    place = None if out is None else Path(out)
    if place is not None and not resume and rank() == 0:
        claim_run(place)
    split, held_out = hold_out(split_of(spec) if split is None else split, spec.held_out_fraction)
    model = build_model(spec, split) if model is None else model
    model.to(pick_device(spec.device))
    spec, notes = settled(spec, model)
    guide = build_guide(spec, model, split)
    if m1 is not None:
        notes += stack(spec, m1, model, guide, split)
    if place is not None and rank() == 0:
        write_config(place, spec)
    given = {k: v for k, v in spec.fit_options.items() if k != "progress"}
    particles = {} if spec.num_particles is None else {"num_particles": spec.num_particles}
    result = fit(
        model,
        guide,
        split.train,
        spec.objective,
        seed=spec.seed,
        device=spec.device,
        freeze=spec.freeze,
        held_out=held_out,
        objective_options={**spec.objective_options, **particles},
        out=place,
        resume=resume,
        progress=spec.fit_options["progress"] if progress is None else progress,
        **given,
    )
    if rank():  # of torchrun's processes the first one judges and writes
        raise SystemExit(0)
    leave()
    notes += [why for why in [result.run.get("why", "")] if "is not possible" in why]
    judged = judge(spec, model, guide, split)
    learned = identified(model, guide, split.train, spec.rotate)
    summary = summarize(spec, result, split, judged, notes)
    summary |= {name: part.as_dict() for name, part in learned.items()}
    if place is not None:
        store.write_json(place / "summary.json", summary)
    return Outcome(spec, result, model, guide, split, judged, summary, learned)


def settled(spec: Spec, model: Model) -> tuple[Spec, list[str]]:
    """The spec with words that do nothing for this model put right, and what to say about it."""
    notes = []
    word = spec.objective.partition(":")[0]
    if word in ("mle", "em") and spec.family != "exact" and knows(model, "posterior"):
        spec = replace(spec, family="exact", family_options={})
        notes.append(f"{word} trains no guide: its posterior is the model's own (family exact)")
    return spec, notes
