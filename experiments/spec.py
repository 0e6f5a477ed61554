"""What a run is: a point of the five axes with every option, as plain words and numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch

from experiments.shell.options import GLOBAL_START
from guides.classifier import Classifier
from guides.source import Source
from zoo.fitting import fit
from zoo.objective_words import bind_objective
from zoo.registry import resolve, unknown
from zoo.sources import load_data

OF_SPEC = ("objective", "seed", "device", "freeze", "out", "resume")  # of fit, not its options
# No word can give these.
ONLY_PYTHON = (
    "encoder",
    "classes",
    "label_classes",
    "classify",
    "estimator",
    "held_out",
    "callbacks",
    "objective_options",
)


@dataclass(frozen=True)
class Spec:
    """One run: what is fitted to what, how, and how it is judged; everything in it is plain JSON.

    Args:
        model: a word of ``zoo list models``, or my_model.py, or my_model.py:Class.
        data: a word of ``zoo list data``, or a .npy, .npz, .csv or .pt file.
        family: the shape of q(z) for one datapoint; a word of ``zoo list families``.
        inference: where its parameters come from; a word of ``zoo list inference``; by default the
            model's own word, which is amortized for most.
        estimator: how the gradient reaches q; a word of ``zoo list estimators``: pathwise, stl,
            dreg, score or vimco; of discrete latents of the rows collapse (summed out given z, no
            q(y | x)), or enumerate, score, vimco, gumbel, straight_through or rebar; by default the
            model's own word, which is collapse for most.
        objective: what is maximised; a word of ``zoo list objectives``; renyi:0.5 with its α.
        num_particles: draws for each datapoint and step; by default the objective's own number.
        global_family: the family of latents shared by all rows, or a Pyro AutoGuide by its name.
        model_options: keyword arguments of the model.
        family_options: keyword arguments of the family.
        inference_options: keyword arguments of the inference.
        estimator_options: keyword arguments of the estimator.
        classifier_options: keyword arguments of q(y | x).
        objective_options: keyword arguments of the objective.
        global_options: keyword arguments of the global family.
        data_options: keyword arguments of ``load_data``.
        fit_options: keyword arguments of ``fit`` (steps, lr, …).
        seed: of the starts, of the draws in training and of the order of the rows.
        device: auto (CUDA where there is one), cpu or cuda.
        model_from: the folder of a run whose model, as trained, is the start.
        m1_from: of the model m1m2: the folder of a run of vae (M1), whose decoder and encoder are
            taken over and stay as they are; the rest is trained on its codes.
        m1_min_sd: codes of M1 are used where the posterior mean varies by more than this standard
            deviation over the training rows.
        freeze: model or guide: that side takes no step.
        held_out_fraction: the part of the training rows that is kept out of the fit, to stop it
            early and keep the best weights; 0 keeps none out.
        eval_particles: K of the importance-weighted bounds that are reported; by default 1000, or
            100 where each is a sum over the values of y.
        eval_rows: how many rows of each side are judged, a seeded choice where there are more; 0
            judges all.
        infer_steps: steps that fit a table's row to each test row.
        rotate: how loadings are reported: none (orthogonal columns by falling variance) or
            varimax. The fit is the same.
    """

    model: str
    data: str = "digits"
    family: str = "mean_field"
    inference: str | None = None
    estimator: str | None = None
    objective: str = "elbo"
    num_particles: int | None = None
    global_family: str = "mean_field"
    model_options: dict[str, Any] = field(default_factory=dict)
    family_options: dict[str, Any] = field(default_factory=dict)
    inference_options: dict[str, Any] = field(default_factory=dict)
    estimator_options: dict[str, Any] = field(default_factory=dict)
    classifier_options: dict[str, Any] = field(default_factory=dict)
    objective_options: dict[str, Any] = field(default_factory=dict)
    global_options: dict[str, Any] = field(default_factory=dict)
    data_options: dict[str, Any] = field(default_factory=dict)
    fit_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    model_from: str | None = None
    m1_from: str | None = None
    m1_min_sd: float = 0.1
    freeze: Literal["model", "guide"] | None = None
    held_out_fraction: float = 0.0
    eval_particles: int | None = None
    eval_rows: int = 2000
    infer_steps: int = 2000
    rotate: Literal["none", "varimax"] = "none"

    @classmethod
    def from_dict(cls, content: Any) -> Spec:
        """The reverse of ``dataclasses.asdict``; refuses names that are not there."""
        known = [f.name for f in fields(cls)]
        if not isinstance(content, dict) or "model" not in content:
            raise ValueError("a configuration is a mapping with at least 'model'")
        for name in content:
            if name not in known:
                raise unknown("setting", name, known)
            hint = cls.__dataclass_fields__[name].type
            kind = dict if name.endswith("_options") else str if hint == "str" else object
            if not isinstance(content[name], kind):
                what = "a mapping of settings" if kind is dict else "a word"
                raise ValueError(f"{name}: expected {what}, got {content[name]!r}")
        return cls(**content)


def check(spec: Spec) -> None:
    """Refuses numbers that mean nothing, before anything is built.

    Raises:
        ValueError: a setting outside its range.
    """
    least = {"infer_steps": 0, "eval_particles": 2, "eval_rows": 0, "held_out_fraction": 0}
    for name, low in least.items():
        if (value := getattr(spec, name)) is not None and value < low:
            raise ValueError(f"{name} counts from {low}, got {value}")
    if spec.num_particles is not None and spec.num_particles < 1:
        raise ValueError(f"num_particles counts from 1, got {spec.num_particles}")
    if not -(2**62) < spec.seed < 2**62:
        raise ValueError(f"a seed is a whole number of at most 62 bits, got {spec.seed}")
    options = spec.fit_options
    for name, low in {"batch_size": 1, "epochs": 0, "steps": 0, "checkpoint_every": 0}.items():
        if (value := options.get(name)) is not None and value < low:
            raise ValueError(f"{name} counts from {low}, got {value}")
    if (clip := options.get("clip")) is not None and not clip > 0:
        raise ValueError(f"clip is the longest gradient, above 0, got {clip}")
    bind_objective(spec.objective, spec.objective_options)
    try:
        torch.device("cpu" if spec.device == "auto" else spec.device)
    except RuntimeError:
        raise ValueError(f"device is auto, cpu or cuda, got {spec.device!r}") from None


def inference_of(model: str) -> str:
    """The inference that a model's own guide has, where none is named."""
    return getattr(resolve("models", model), "inference", "amortized")


def estimator_of(model: str) -> str:
    """What a model's own guide does with its discrete latents, where nobody says so."""
    return getattr(resolve("models", model), "estimator", "collapse")


def sums_labels(estimator: str, own: str) -> bool:
    """Whether bounds are sums over the values of a label, with an estimator and the model's own."""
    kinds = [resolve("estimators", word) for word in (estimator, own)]
    return next((kind.classifies for kind in kinds if not kind.of_any), False)


def complete(spec: Spec) -> Spec:
    """The same run with every default written out, so that it can be repeated later."""
    check(spec)
    spec = replace(
        spec,
        inference=spec.inference or inference_of(spec.model),
        estimator=spec.estimator or estimator_of(spec.model),
    )
    assert spec.inference is not None and spec.estimator is not None
    summed = sums_labels(spec.estimator, estimator_of(spec.model))
    objective = resolve("objectives", spec.objective.partition(":")[0])
    taken = inspect.signature(objective).parameters
    particles = spec.num_particles
    if particles is None and "num_particles" in taken:
        particles = taken["num_particles"].default
    options = {
        name: value for name, value in defaults(objective).items() if name != "num_particles"
    }
    if ":" in spec.objective:  # renyi:0.5 says α itself
        options.pop(str(getattr(objective, "shorthand", None)), None)
    globals_ = (
        {}
        if spec.global_family.startswith("Auto")
        else {**_defaults_of("families", spec.global_family), **GLOBAL_START}
    )
    return replace(
        spec,
        num_particles=particles,
        eval_particles=spec.eval_particles or (100 if summed else 1000),
        model_options=spec.model_options
        if spec.model_from
        else {**defaults(resolve("models", spec.model)), **spec.model_options},
        family_options={**_defaults_of("families", spec.family), **spec.family_options},
        inference_options={
            **defaults(resolve("inference", spec.inference), Source),
            **spec.inference_options,
        },
        estimator_options={**_defaults_of("estimators", spec.estimator), **spec.estimator_options},
        classifier_options={
            **(defaults(Classifier) if summed else {}),
            **spec.classifier_options,
        },
        objective_options={**options, **spec.objective_options},
        global_options={**globals_, **spec.global_options},
        data_options={**defaults(load_data), **spec.data_options},
        fit_options={
            **{k: v for k, v in defaults(fit).items() if k not in OF_SPEC},
            **spec.fit_options,
        },
    )


def defaults(function: Callable[..., Any], base: type | None = None) -> dict[str, Any]:
    """The defaults in a signature that are plain values, but for parameters of ``base``."""
    skip = inspect.signature(base).parameters if base else {}
    found = {
        name: list(p.default) if isinstance(p.default, tuple) else p.default
        for name, p in inspect.signature(function).parameters.items()
        if name not in skip and p.default is not p.empty
    }
    plain = (int, float, str, list, type(None))
    return {n: v for n, v in found.items() if isinstance(v, plain) and n not in ONLY_PYTHON}


def _defaults_of(kind: str, word: str) -> dict[str, Any]:
    """The defaults of a word, but for the option that it gives itself, as low_rank:3 does."""
    target = resolve(kind, word)
    said = getattr(target, "shorthand", None) if ":" in word else None
    return {name: value for name, value in defaults(target).items() if name != said}
