"""How many latent dimensions, components or anything else: by held-out likelihood, AIC and BIC."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml
from rich.console import Console

from experiments import output as _output
from experiments.jobs import Jobs
from experiments.judge.grid import options_for
from experiments.judge.selection import Candidate, Selection
from experiments.outcomes import outcomes_of, what_failed
from experiments.runs import Spec, build_model, split_of
from experiments.show.figures import selection_figure
from experiments.show.tables import selection_table, terminal
from experiments.spec import check
from zoo.exact import knows
from zoo.model import Model
from zoo.registry import resolve, unknown
from zoo.sources import Split

SECTIONS = ("model", "family", "inference", "objective", "global", "fit")


def select(
    model: str,
    data: str = "digits",
    sweep: str | None = None,
    *,
    family: str | None = None,
    inference: str = "amortized",
    objective: str | None = None,
    seeds: int = 1,
    jobs: int | str = 1,
    out: str | None = None,
    overwrite: bool = False,
    steps: int | None = None,
    lr: float = 0.02,
    schedule: str = "cosine",
    num_particles: int | None = None,
    eval_particles: int | None = None,
    infer_steps: int = 600,
    seed: int = 0,
    device: str = "auto",
    global_family: str = "mean_field",
    model_options: Mapping[str, Any] | None = None,
    family_options: Mapping[str, Any] | None = None,
    inference_options: Mapping[str, Any] | None = None,
    objective_options: Mapping[str, Any] | None = None,
    global_options: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    fit_options: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Selection:
    """Chooses a size (latent_dim, num_components, or any other setting) by held-out likelihood.

    Every value is fitted and judged on the same test rows by exact log p(x), or by the
    importance-weighted bound where that is not known; the differences from the best are taken row
    by row. Where log p(x) is exact there are AIC = −2 log p(X) + 2 k and BIC = −2 log p(X) + k log
    N of the training rows too, with k counted net of rotation. Of several seeds the one of highest
    training likelihood stands for its value.

    Args:
        model: a word of ``zoo list models``, or my_model.py, or my_model.py:Class.
        data: a word of ``zoo list data``, or a .npy, .npz, .csv or .pt file.
        sweep: a setting and its values, model.num_components=1,2,3; settings are those of model,
            family, inference, objective, global and fit. By default the latent_dim of the model,
            or else its num_components, from 1 up.
        family: the shape of q(z); by default exact where the model knows its posterior, else
            full_rank.
        inference: where its parameters come from.
        objective: what is maximised; by default em where the model has a closed-form M-step, else
            elbo.
        seeds: how many restarts of every value.
        jobs: so many runs at a time, each in a process of its own; a number, auto or slurm:8, as
            for ``zoo compare``.
        out: a folder for select.json, select.csv and select.png.
        overwrite: whether an earlier selection in that folder may be replaced.
        steps: steps of every fit; 1500 (em: 200) unless --epochs is given.
        lr: the learning rate at step 0.
        schedule: constant, cosine, linear or exponential.
        num_particles: draws for each datapoint and step; by default the objective's own number.
        eval_particles: K of the importance-weighted bounds; by default as for ``fit``.
        infer_steps: steps that fit a table's row to each test row.
        seed: the first seed.
        device: auto (CUDA where there is one), cpu or cuda.
        global_family: the family of latents shared by all rows, or a Pyro AutoGuide by its name.
        model_options: keyword arguments of the model.
        family_options: keyword arguments of the family.
        inference_options: keyword arguments of the inference.
        objective_options: keyword arguments of the objective.
        global_options: keyword arguments of the global family.
        data_options: keyword arguments of ``load_data``.
        fit_options: further keyword arguments of ``fit``.
        console: where to print.

    Raises:
        ValueError: words, options or a sweep that are not there, a folder in use.

    Reference: Akaike, "A New Look at the Statistical Model Identification", 1974; Schwarz,
    "Estimating the Dimension of a Model", 1978.
    """
    console, how = console or terminal(), Jobs.read(jobs)
    place = None if out is None else _output.claim(out, "select", overwrite)
    if seeds < 1:
        raise ValueError(f"seeds counts from 1, got {seeds}")
    fitting = {"lr": lr, "schedule": schedule, **(fit_options or {})}
    base = Spec(
        model=model,
        data=data,
        family=family or "mean_field",
        inference=inference,
        objective=objective or "elbo",
        num_particles=num_particles,
        global_family=global_family,
        model_options=dict(model_options or {}),
        family_options=dict(family_options or {}),
        inference_options=dict(inference_options or {}),
        objective_options=dict(objective_options or {}),
        global_options=dict(global_options or {}),
        data_options=dict(data_options or {}),
        fit_options=fitting,
        seed=seed,
        device=device,
        eval_particles=eval_particles,
        infer_steps=infer_steps,
    )
    check(base)
    split = split_of(base)
    section, name, values = parse_sweep(sweep or default_sweep(model, split))
    if section == "model":
        options_for({model: resolve("models", model)}, {**base.model_options, name: None})
    specs = [with_setting(base, section, name, value) for value in values]
    start = build_model(specs[0], split)
    specs = [_by_default(spec, start, family, objective, steps) for spec in specs]
    asked: dict[str, Spec] = {}
    restarts: list[tuple[Any, list[str]]] = []
    for value, spec in zip(values, specs, strict=True):
        named = {
            f"{name} = {value}" + (f", seed {one}" if seeds > 1 else ""): replace(spec, seed=one)
            for one in range(seed, seed + seeds)
        }
        asked |= named
        restarts.append((value, list(named)))

    def say(what: str, seconds: float | str) -> None:
        took = seconds if isinstance(seconds, str) else f"{seconds:6.1f} s"
        console.print(f"  {what:<30} {took}", highlight=False, markup=False)

    runs_at = None if place is None else _output.runs_of(place, "select")
    if place is not None:
        _output.clear(place, "select", not how.here)
    found, failed = outcomes_of(asked, split, say, how, runs_at, overwrite)
    runs = [(value, [found[key] for key in own if key in found]) for value, own in restarts]
    candidates = [Candidate(value, made) for value, made in runs if made]
    result = Selection(model, f"{section}.{name}", split, candidates, failed)
    console.print(selection_table(result, console.width))
    for line in what_failed(failed, runs_at):
        console.print(line, highlight=False)
    if place is None:
        console.print("Nothing was written; --out DIR keeps table and picture.", highlight=False)
    else:
        _output.write(place, "select", result.as_dict(), result.as_rows(), selection_figure(result))
        console.print(f"The picture is {place / 'select.png'}", highlight=False, soft_wrap=True)
    return result


def default_sweep(model: str, split: Split) -> str:
    """Sizes of a model worth a look.

    Raises:
        ValueError: a model without latent_dim or num_components.
    """
    known = inspect.signature(resolve("models", model)).parameters
    if "latent_dim" in known and "num_components" not in known:
        width = split.train.event_shape("x").numel() if "x" in split.train.names else 100
        sizes = [size for size in (1, 2, 3, 5, 10) if size < width] or [1]
        return f"model.latent_dim={','.join(map(str, sizes))}"
    if "num_components" in known:
        return "model.num_components=1,2,3,4,5"
    raise ValueError(f"which setting of {model}? Give a sweep, such as model.NAME=1,2,3")


def parse_sweep(text: str) -> tuple[str, str, list[Any]]:
    """Section, setting and values of a sweep.

    Raises:
        ValueError: another form, an unknown section, fewer than one value, or one given twice.

    Example:
        >>> parse_sweep("model.latent_dim=1,2,5")
        ('model', 'latent_dim', [1, 2, 5])
    """
    path, equals, listed = text.partition("=")
    section, dot, name = path.strip().partition(".")
    if not (equals and dot and name):
        raise ValueError(
            f"a sweep is section.setting=a,b,c, such as model.latent_dim=1,2,5; got {text!r}"
        )
    if section not in SECTIONS:
        raise unknown("section of settings", section, SECTIONS)
    words = [word.strip() for word in listed.split(",")]
    if not all(words) or len(set(words)) < len(words):
        raise ValueError(f"the values of a sweep are different words, got {listed!r}")
    values = [yaml.safe_load(word) for word in words]
    if len({isinstance(value, str) for value in values}) > 1:
        raise ValueError(f"the values of a sweep are numbers or words, not both; got {listed!r}")
    return section, name, values


def with_setting(spec: Spec, section: str, name: str, value: Any) -> Spec:
    """The spec with one option of one of its sections set."""
    holder = f"{section}_options"
    return replace(spec, **{holder: {**getattr(spec, holder), name: value}})


def _by_default(
    spec: Spec, model: Model, family: str | None, objective: str | None, steps: int | None
) -> Spec:
    """Family, objective and steps where they were not given."""
    objective = objective or ("em" if knows(model, "em_step") else "elbo")
    family = family or ("exact" if knows(model, "posterior") else "full_rank")
    fitting = dict(spec.fit_options)
    if steps is not None or not fitting.keys() & {"steps", "epochs"}:
        fitting["steps"] = steps if steps is not None else 200 if objective == "em" else 1500
    return replace(spec, family=family, objective=objective, fit_options=fitting)
