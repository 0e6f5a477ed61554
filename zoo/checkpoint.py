"""The whole state of a fit between two steps, in one file: what ``resume`` takes up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from zoo import store
from zoo.engine import KNOWN, Engine
from zoo.files import FORMAT, RunError, read_tensors, write_tensors
from zoo.optim import BETAS, EPS
from zoo.store import STATE, WEIGHTS

if TYPE_CHECKING:
    from zoo.loop import Loop

# What fits did before there were options for it; a checkpoint may not say so.
UNSAID = {
    "warm_up": 0,
    "ema": None,
    "accumulate": 1,
    "labelled_rows": None,
    "weight_decay": 0.0,
    "precision": "float32",
    "eps": EPS,
    "betas": list(BETAS),
}


def save(path: Path, loop: Loop) -> None:
    """Writes weights, optimizer, random numbers and counters: the checkpoint, then the weights."""
    result, stopping = loop.result, loop.stopping
    optimizers, numbers = _flatten(loop.optimizers)
    iterates, names = loop.recorder.state()
    tensors = {
        **loop.weights(),
        **optimizers,
        **iterates,
        **{f"best.{name}": value for name, value in loop.best.items()},
        "rng.cpu": torch.get_rng_state(),
        "window": loop.window,
    }
    if loop.average is not None:
        tensors |= {f"average.{name}": value for name, value in loop.average.state().items()}
    if loop.device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(loop.device)
    if stopping is not None and stopping.reference is not None:
        tensors["reference"] = stopping.reference
    last = len(loop.optimizers) - 1
    tensors = loop.team.whole(tensors, last)
    best = loop.team.whole(dict(loop.best or loop.shown()), last)
    if not loop.team.first:
        return
    meta = {
        "format": FORMAT,
        "steps": result.steps,
        "seconds": result.seconds,
        "best_step": result.best_step,
        "stopped_early": result.stopped_early,
        "metrics": result.metrics,
        "filled": loop.filled,
        **loop.settings.recipe,
        "seed": loop.settings.seed,
        "fingerprint": loop.data.fingerprint,
        "objective": result.objective,
        "optimizers": numbers,
        "iterates": names,
        "run": result.run,
        "stopping": [stopping.since, stopping.best, stopping.best_step] if stopping else None,
    }
    write_tensors(path / STATE, tensors, meta)
    write_tensors(path / WEIGHTS, best, {"format": FORMAT})


def load(path: Path, loop: Loop) -> None:
    """Puts a checkpoint into a loop that was made with the same arguments.

    Raises:
        RunError: no checkpoint, or one of other data, another seed, another objective or
            other options of the fit that its steps depend on.
    """
    spec = store.read_spec(path)
    pair = json.loads(json.dumps(store.describe(loop.result.model, loop.result.guide, loop.data)))
    if other := [part for part in ("model", "guide", "dtype") if spec[part] != pair[part]]:
        raise RunError(f"{path} is a run of another {' and '.join(other)}; start a new one")
    tensors, meta = read_tensors(path / STATE)
    result, settings = loop.result, loop.settings
    now = {
        **settings.recipe,
        "seed": settings.seed,
        "fingerprint": loop.data.fingerprint,
        "objective": result.objective,
    }
    before = {"objective_options": now.get("objective_options"), **UNSAID, **meta}
    if other := [name for name, value in now.items() if before.get(name) != value]:
        raise RunError(
            f"{path} cannot be gone on with: {other} of the fit are not those of the checkpoint "
            "(fingerprint tells the training data)"
        )
    if (rows := len(tensors["window"])) != settings.log_every:
        raise RunError(f"{path} cannot be gone on with: its log_every is {rows}")
    tensors = loop.team.cut(tensors, len(loop.optimizers) - 1)
    try:
        loop.load_weights(_part(tensors, "model.", keep=True) | _part(tensors, "guide.", keep=True))
        _restore(loop.optimizers, tensors, meta["optimizers"])
        if loop.average is not None:
            loop.average.restore(_part(tensors, "average."))
    except (RuntimeError, KeyError, IndexError) as error:
        raise RunError(f"the checkpoint in {path} does not fit this pair: {error}") from None
    way = (meta.get("run") or {}).get("way", "eager")  # which all fits were before there were ways
    if way not in KNOWN:
        raise RunError(f"the checkpoint in {path} was run in an unknown way, {way!r}")
    moved = way == "graph" and loop.device.type != "cuda"  # from a GPU
    loop.engine = Engine(loop, "compiled" if moved else way, "as before")
    if settings.run not in ("auto", loop.engine.way):
        loop.say(f"run: {loop.engine.way}, as before, for the same bits; not {settings.run}")
    loop.recorder.restore(tensors, meta.get("iterates"))
    loop.best = _part(tensors, "best.")
    loop.window, loop.filled = tensors["window"].to(loop.device), meta["filled"]
    for name in ("steps", "seconds", "best_step", "stopped_early", "metrics"):
        setattr(result, name, meta[name])
    if loop.stopping is not None and meta["stopping"]:
        loop.stopping.since, loop.stopping.best, loop.stopping.best_step = meta["stopping"]
        loop.stopping.reference = tensors["reference"].to(loop.device)
    torch.set_rng_state(tensors["rng.cpu"])
    if loop.device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], loop.device)


def _part(tensors: dict[str, Tensor], start: str, keep: bool = False) -> dict[str, Tensor]:
    """The tensors whose names begin so; the beginning is dropped unless kept."""
    return {
        name if keep else name.removeprefix(start): value
        for name, value in tensors.items()
        if name.startswith(start)
    }


def _flatten(optimizers: list[Optimizer]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Optimizer states as named tensors and named numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for i, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                home = tensors if isinstance(value, Tensor) else numbers
                home[f"optimizer.{i}.{index}.{name}"] = value
    return tensors, numbers


def _restore(
    optimizers: list[Optimizer], tensors: dict[str, Tensor], numbers: dict[str, Any]
) -> None:
    """The reverse of ``_flatten``."""
    everything = {**_part(tensors, "optimizer.", keep=True), **numbers}
    for i, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Any]] = {}
        for name, value in everything.items():
            _, which, index, key = name.split(".")
            if int(which) == i:
                state.setdefault(int(index), {})[key] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
