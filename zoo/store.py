"""A run on disk: JSON and safetensors, written atomically, read without executing anything.

A run is a folder with ``run.json`` (what model, guide and data it is of), ``weights.safetensors``,
``state.safetensors`` (weights, optimizer, random numbers: one whole checkpoint), ``metrics.jsonl``
and ``summary.json``; from the command line also ``config.yaml``.
"""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zoo.data import Dataset
from zoo.files import FORMAT, RunError, read_json, read_tensors, replacing, write_json
from zoo.iterates import Iterates, read
from zoo.model import Model, as_model
from zoo.registry import names, resolve, unknown

if TYPE_CHECKING:
    from zoo.loop import FitResult

STATE, WEIGHTS = "state.safetensors", "weights.safetensors"


@dataclass
class Run:
    """A run read back.

    Attributes:
        path: its folder.
        model, guide: as trained; the guide is None where the run has none.
        spec: what ``run.json`` says: model, guide, data, objective, settings, versions.
        summary: ``summary.json``, or {} where there is none yet.
        metrics: the rows of ``metrics.jsonl``.
        iterates: some parameters along the way; None of older runs.
    """

    path: Path
    model: Model
    guide: Any
    spec: dict[str, Any]
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    iterates: Iterates | None = None


def load(path: str | Path, *, model: Any = None, guide: Any = None) -> Run:
    """Reads a run: the model and the guide as they were trained.

    Args:
        path: the run's folder.
        model: where the run is of a model of yours, an untrained one to take the weights.
        guide: likewise.

    Raises:
        RunError: no run there, a damaged or truncated file, one from a newer version, weights that
            do not fit; or a model or guide that must be given.
    """
    path = Path(path)
    spec = read_spec(path)
    weights, _ = read_tensors(path / WEIGHTS)
    try:
        model = _model(spec["model"], path) if model is None else as_model(model)
        model.to(_dtype(spec["dtype"]))
        if guide is None and spec["guide"] is not None:
            guide = _guide(spec["guide"], model, _stub(spec["data"]), path)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path / 'run.json'} is damaged: {error!r}") from None
    for side, part in (("model", model), ("guide", guide)):
        if isinstance(part, nn.Module):
            start = f"{side}."
            own = {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
            try:
                part.load_state_dict(own)
            except RuntimeError as error:
                raise RunError(f"the {side}'s weights in {path} do not fit it: {error}") from None
    summary = read_json(path / "summary.json") if (path / "summary.json").exists() else {}
    return Run(path, model, guide, spec, summary, read_metrics(path), read(path / STATE))


def describe(model: Model, guide: Any, data: Dataset, **more: Any) -> dict[str, Any]:
    """What ``run.json`` holds: all that is needed to build the same pair again, as plain JSON."""
    home, first = type(model).__module__, next(data.batches(1))
    known = home.startswith("zoo.models.") and _plain(model.options)
    spec = getattr(guide, "spec", None)
    return {
        "format": FORMAT,
        "model": {
            "word": home.rpartition(".")[2] if known else None,
            "class": type(model).__qualname__,
            "options": model.options if known else None,
        },
        "guide": None
        if guide is None
        else {"spec": spec if spec and _plain(spec) else None, "class": type(guide).__qualname__},
        "dtype": str(model.dtype).removeprefix("torch."),
        "data": {
            "name": data.name,
            "size": len(data),
            "fingerprint": data.fingerprint,
            "image_shape": data.image_shape and list(data.image_shape),
            "partial": list(data.given),
            "num_labelled": data.num_labelled or (len(data) if data.given else 0),
            "values": {
                name: {
                    "shape": list(data.event_shape(name)),
                    "dtype": str(first[name].dtype)[6:],
                    "missing": name in data.observed,
                }
                for name in data.names
            },
        },
        "versions": versions(),
        **more,
    }


def versions() -> dict[str, str]:
    """The software that a figure was measured with."""
    names = ("latent-zoo", "torch", "pyro-ppl", "numpy", "scikit-learn")
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def begin(path: Path, result: FitResult, data: Dataset, resumed: bool) -> None:
    """Makes the folder of a run, or refuses one that holds something else."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; give a folder for the run")
    path.mkdir(parents=True, exist_ok=True)
    if not resumed:
        if (path / "run.json").exists():
            raise ValueError(
                f"{path} already holds a run; go on with it by resume, give another folder, or "
                "delete it first"
            )
        how = {"objective": result.objective, "objective_options": result.objective_options}
        spec = describe(result.model, result.guide, data, **how)
        write_json(path / "run.json", spec)
        (path / "metrics.jsonl").write_text("")
    else:
        rows = "".join(json.dumps(row) + "\n" for row in result.metrics)
        with replacing(path / "metrics.jsonl") as temporary:
            temporary.write_text(rows)


def append_metrics(path: Path, row: Mapping[str, Any]) -> None:
    """Adds a row to ``metrics.jsonl``."""
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl``; a last line cut short by a kill is left out."""
    rows: list[dict[str, Any]] = []
    file = path / "metrics.jsonl"
    for line in file.read_text().splitlines() if file.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def read_spec(path: Path) -> dict[str, Any]:
    """``run.json``, checked for being one of ours and not from the future."""
    if not (path / "run.json").exists():
        there = "is no run (it has no run.json)" if path.exists() else "does not exist"
        raise RunError(f"{path} {there}; give the folder that --out named")
    spec = read_json(path / "run.json")
    whole = isinstance(spec, dict) and {"model", "guide", "data", "dtype"} <= spec.keys()
    if not whole or not isinstance(spec.get("format"), int):
        raise RunError(f"{path / 'run.json'} is not a run of the zoo")
    if spec["format"] > FORMAT:
        raise RunError(
            f"{path} is of format {spec['format']}, this version reads up to {FORMAT}; "
            "upgrade latent-zoo"
        )
    return spec


def _plain(content: Any) -> bool:
    """Whether something is JSON as it stands."""
    try:
        json.dumps(content)
    except TypeError:
        return False
    return True


def _model(spec: Mapping[str, Any], path: Path) -> Model:
    if spec.get("word") is None:
        raise RunError(
            f"{path} is a run of {spec.get('class')}, which is not one of the zoo's models; give "
            "an untrained one, load(path, model=…)"
        )
    if spec["word"] not in names("models"):  # a word, never a path: nothing of the run is executed
        raise RunError(f"{path}: {unknown('model', str(spec['word']), names('models'))}")
    return resolve("models", spec["word"])(**spec["options"])


def _guide(spec: Mapping[str, Any], model: Model, data: Dataset, path: Path) -> nn.Module:
    if spec.get("spec") is None:
        raise RunError(
            f"{path} has a guide of its own, {spec.get('class')}; give an untrained one, "
            "load(path, guide=…)"
        )
    make = import_module("guides.guide").Guide  # a word for zoo, which never imports guides
    return make(model, data, **spec["spec"])


def _dtype(name: str) -> torch.dtype:
    """float32, say, from its name."""
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise RunError(f"{name!r} is no type of number; the run is damaged")
    return found


def _stub(spec: Mapping[str, Any]) -> Dataset:
    """A data set of the right shapes and size that takes no memory, to build a guide for."""
    size = spec["size"]
    one = {
        name: torch.ones(1, *value["shape"], dtype=_dtype(value["dtype"]))
        for name, value in spec["values"].items()
    }
    masks = {
        name: torch.ones(1, dtype=torch.bool).expand(size, *value["shape"])
        for name, value in spec["values"].items()
        if value["missing"]
    }
    partial = spec.get("partial", ())  # of older runs
    rows = {name: spec["num_labelled"] if name in partial else size for name in one}
    held = {name: value.expand(rows[name], *value.shape[1:]) for name, value in one.items()}
    stub = Dataset(one, name=spec["name"], image_shape=spec.get("image_shape"))
    return stub.replaced(held, masks, spec["fingerprint"], partial)
