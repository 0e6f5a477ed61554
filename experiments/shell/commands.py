"""The commands that need torch: ``fit``, and those that are a function with a signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.runs import Outcome, Spec, complete, read_config, run
from experiments.several import several
from experiments.shell.options import CLASSES, PARTS, Option, collect, of, summary_of
from experiments.shell.parser import (
    ALONE,
    Line,
    UsageError,
    build,
    canonical,
    merge,
    parse,
    validate,
)
from experiments.show import report
from experiments.show.identified import identified_tables, record_identified
from experiments.spec import estimator_of, inference_of
from experiments.trained import is_run
from zoo import store
from zoo.checkpoint import UNSAID
from zoo.launch import world_size
from zoo.registry import names, resolve

AXES = ("model", "family", "inference", "estimator", "objective", "global_family")
WITH_RESUME = ("steps", "epochs", "device", "progress", "infer_steps", "eval_particles")
WITH_RESUME += ("eval_rows", "rotate")

FIT_EXAMPLES = """examples:
  zoo fit ppca --data wine --family full_rank --steps 5000 --schedule cosine --out runs/wine
  zoo fit ppca --model.latent_dim 5 --family low_rank --family.rank 3 --objective renyi:0.5
  zoo fit gmm --data iris --objective em --model.num_components 3 --steps 200
  zoo fit ppca --model-from runs/wine --data wine --freeze model --inference per_datapoint
  zoo fit m2 --data digits --labels 50 --classifier.alpha 1 --seeds 3 --jobs auto --out runs/m2
  zoo fit my_model.py:MyModel --data table.csv --label-column class --held-out-fraction 0.1
  zoo fit --resume runs/wine
  zoo fit --config runs/wine/config.yaml --seed 1 --out runs/wine-1

`zoo fit ppca --help` shows the options of ppca itself; other words do the same for theirs
(`zoo fit ppca --family low_rank --help`). Dashes and underscores are the same."""


def files(
    config: str | None = None,
    out: str | None = None,
    resume: str | None = None,
    seeds: int = 1,
    jobs: int | str = 1,
) -> None:
    """Where a run comes from and where it goes.

    Args:
        config: a config.yaml of another run, or its folder; options given besides win.
        out: a new folder for the run: config, weights, state, metrics, summary and loss curve.
            Without it nothing is written.
        resume: the folder of a run to go on with, in its own configuration; only the number of
            steps, the device and how to report may be given besides.
        seeds: so many runs, of seed, seed + 1, … (and label-seed, label-seed + 1, …), each in a
            folder of its own in ``out``, and the mean and standard deviation of their figures. One
            that is there already is not run again.
        jobs: so many of these runs at a time, each in a process of its own with its share of the
            cores and a CUDA device; auto is one a device, or one a core where there is none;
            slurm:8 sends them to Slurm, 8 at a time (extra ``cluster``; sbatch reads
            SBATCH_PARTITION, SBATCH_TIMELIMIT, SBATCH_GPUS and the like). One that fails costs its
            seed alone, and the same command makes it again.
    """


def fit(argv: Sequence[str]) -> int:
    """``zoo fit``."""
    more = list(of(files, "--{}", "{}", "files"))
    line = Line.read(argv, [*collect(Spec, {}), *more])
    if "--resume" in line.values and not line.help:
        return _finish(*_resume(line, more))
    config = read_config(line.values["--config"]) if "--config" in line.values else {}
    words = _words(line, config, Spec)
    options = [*collect(Spec, words, skip=["model"]), *more]
    title = summary_of(resolve("models", words["model"][0])) if words["model"] else _OF_FIT
    parser = build(
        "zoo fit",
        "zoo fit MODEL [--data D] [--family F] [--inference I] [--objective O] [options]\n"
        "       zoo fit --config FILE [options]\n       zoo fit --resume RUN",
        title,
        FIT_EXAMPLES,
        options,
    )
    if line.help:
        print(parser.format_help())
        return 0
    given = parse(parser, options, line)
    _one_model(line, words)
    settings = merge(validate(parser, options, _kept(config, words, given)), given)
    out = settings.pop("out", None)
    settings.pop("config", None)
    seeds, jobs = settings.pop("seeds", 1), settings.pop("jobs", 1)
    spec = Spec.from_dict({"model": words["model"][0], **settings})
    if seeds != 1 or jobs != 1:
        if world_size() > 1:
            raise UsageError("torchrun fits one run in several processes: no --seeds, no --jobs")
        content = several(spec, seeds, out, jobs)
        report.show_seeds(content, out)
        return 1 if content.get("failed") else 0
    return _finish(run(spec, out), out)


def _kept(
    config: Mapping[str, Any], words: Mapping[str, Sequence[str]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """What of a configuration still holds where other words or another length are given."""
    kept = {name: value for name, value in config.items() if name != "model"}
    for holder, (_, _, axis) in CLASSES.items():
        if axis in config and [config[axis]] != words[axis]:
            kept.pop(holder, None)  # the options of another class
    lengths = {"steps", "epochs"}
    if lengths & given.get("fit_options", {}).keys() and "fit_options" in kept:
        kept["fit_options"] = {k: v for k, v in kept["fit_options"].items() if k not in lengths}
    return kept


_OF_FIT = """Fits a model and a guide to data, judges them, and keeps the run in a folder.

A run is a point of five axes, each chosen by one word: model, data, family × inference (the shape
of q(z) and where its parameters come from), and objective. `zoo list` shows the words."""


def _resume(line: Line, more: Sequence[Option]) -> tuple[Outcome, str]:
    """Goes on with a run in its own configuration."""
    place = line.values.pop("--resume")
    allowed = [f"--{name}" for name in WITH_RESUME]
    if line.positional or (other := sorted(set(line.values) - set(allowed))):
        what = line.positional[0] if line.positional else other[0]
        raise UsageError(
            f"--resume goes on with the run as it was configured and takes no {what}; it takes "
            f"{', '.join(flag.replace('_', '-') for flag in allowed)}"
        )
    store.read_spec(Path(place))
    before = Spec.from_dict(read_config(place))
    lost = set(complete(before).fit_options) - set(before.fit_options) - set(UNSAID)
    if lost := sorted(lost):
        raise UsageError(
            f"{place}/config.yaml is damaged: it lacks {', '.join(lost)} of the run; without them "
            f"it cannot be resumed, but --model-from {place} starts from its model"
        )
    options = collect(Spec, {}, skip=["model"])
    given = parse(build("zoo fit", "", "", "", options), options, line)
    length = given.pop("fit_options", {})
    if {"steps", "epochs"} & length.keys():
        length = {"steps": None, "epochs": None, **length}
    after = replace(before, **given, fit_options={**before.fit_options, **length})
    lengths = [(s.fit_options["steps"], s.fit_options["epochs"]) for s in (before, after)]
    schedule = before.fit_options["schedule"]
    if schedule != "constant" and lengths[0] != lengths[1]:
        raise UsageError(
            f"the {schedule} schedule of {place} falls over the steps that were set at its start, "
            "so another number of steps would be another run; resume it as it is, or start from "
            f"its model with --model-from {place}"
        )
    return run(after, place, resume=True), place


def _finish(outcome: Outcome, out: str | None) -> int:
    """Shows a run and draws its curve."""
    place = None if out is None else Path(out)
    if place is not None and outcome.result.metrics:
        report.loss_curve(outcome.result.metrics, outcome.spec.objective, place / "loss.png")
    if place is not None:
        record_identified(place, outcome)
    report.show(outcome.summary, place, tables=identified_tables(outcome.identified))
    return 0


def command(name: str, module: str, examples: str, argv: Sequence[str]) -> int:
    """A command that is a function: its signature is the command line."""
    function: Callable[..., Any] = getattr(import_module(module), name)
    parameter = next(iter(inspect.signature(function).parameters.values()))
    first = "" if parameter.kind is parameter.KEYWORD_ONLY else parameter.name
    line = Line.read(argv, collect(function, {}, skip=[first]))
    of_run = bool(line.positional) and is_run(line.positional[0])  # which has words of its own
    read = replace(line, positional=[]) if of_run else line
    words = _words(read, {}, function) if first == "model" else {}
    options = collect(function, words, skip=[first])
    many = parameter.kind is parameter.VAR_POSITIONAL
    shown = f"[{first.upper()} ...]" if many else first.upper()
    usage = " ".join(filter(None, ("zoo", name, shown, "[options]")))
    parser = build(f"zoo {name}", usage, summary_of(function), examples, options)
    if line.help:
        print(parser.format_help())
        return 0
    given = parse(parser, options, line)
    if first == "model" and not of_run:
        _one_model(line, words)
    elif not many and len(line.positional) != bool(first):
        raise UsageError(f"expected `{usage}`, got {line.positional or f'no {first.upper()}'}")
    result = function(*line.positional, **given)
    return 1 if getattr(result, "failed", None) else 0


def _words(
    line: Line, config: Mapping[str, Any], function: Callable[..., Any]
) -> dict[str, list[str]]:
    """The words on each axis: given, else configured, else the default of the command."""
    parameters = inspect.signature(function).parameters
    found: dict[str, list[str]] = {}
    for axis in AXES:
        default = parameters[axis].default if axis in parameters else None
        value = line.values.get(canonical(f"--{axis}"), config.get(axis, default))
        if axis == "model":
            value = line.positional[0] if line.positional else config.get("model")
        parts = value.split(",") if isinstance(value, str) else value
        found[axis] = list(parts) if isinstance(parts, list | tuple) else []
    for part in PARTS:  # --model.likelihood, whose own options follow from it
        inner = (config.get("model_options") or {}).get(part)
        word = line.values.get(f"--model.{part}", inner)
        found[f"model.{part}"] = [] if word in (None, "", ALONE) else [word]
    pairs = [word.partition("/") for word in found["family"]]  # compare's full_rank/amortized
    found["family"] = [family for family, _, _ in pairs]
    if not found["inference"] and "inference" in parameters and found["model"]:
        found["inference"] = [inference_of(found["model"][0])]
    if not found["estimator"] and "estimator" in parameters and found["model"]:
        found["estimator"] = [estimator_of(found["model"][0])]
    found["inference"] += [inference for _, _, inference in pairs if inference]
    found["estimator"] += filter(None, line.values.get("--estimators", "").split(","))
    return found


def _one_model(line: Line, words: Mapping[str, Sequence[str]]) -> None:
    if len(line.positional) > 1:
        raise UsageError(
            f"one model, please: got {' '.join(line.positional)} (an option begins with --)"
        )
    if not words["model"]:
        raise UsageError(
            f"which model? There are {', '.join(names('models'))}; or give my_model.py"
        )
