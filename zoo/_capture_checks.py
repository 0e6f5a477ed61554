"""The part of the conformance kit that looks at the captured step; see ``zoo.testing``."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from zoo._model_checks import ensure
from zoo.fitting import FitResult, fit


def check(pair: Any, data: Any, objective: Any, run: str, tol: float, **options: Any) -> float:
    """Fits two copies of a pair, captured and eager; the largest relative difference of theirs."""
    ours, theirs = copy.deepcopy(pair), copy.deepcopy(pair)
    way: Any = run  # traced is for tests alone
    captured = fit(ours[0], ours[1], data, objective, run=way, **options)
    way, why = captured.run["way"], captured.run["why"]
    ensure(way == run, f"the step was run {way}, not {run}: {why}")
    eager = fit(theirs[0], theirs[1], data, objective, run="eager", **options)
    most = 0.0
    for what, apart in {**_losses(captured, eager), **_weights(ours, theirs)}.items():
        ensure(apart <= tol, f"{what} is {apart:.3g} away from the eager one, relative to its size")
        most = max(most, apart)
    return most


def _losses(captured: FitResult, eager: FitResult) -> dict[str, float]:
    """By row of metrics: the difference of the losses, or of the held-out bounds."""
    apart = {}
    steps, expected = ([row["step"] for row in f.metrics] for f in (captured, eager))
    ensure(steps == expected, f"rows of metrics at the steps {steps}, and eager at {expected}")
    for row, other in zip(captured.metrics, eager.metrics, strict=True):
        for what in ("loss", "held_out"):
            if what in other:
                a, b = torch.tensor(row[what]), torch.tensor(other[what])
                apart[f"{what} at step {row['step']}"] = _relative(a, b)
    return apart


def _weights(ours: Any, theirs: Any) -> dict[str, float]:
    """By name: the difference of the parameters and buffers."""
    apart = {}
    for side, part, other in zip(("model", "guide"), ours, theirs, strict=True):
        expected = other.state_dict() if isinstance(other, nn.Module) else {}
        for name, value in expected.items():
            apart[f"{side}.{name}"] = _relative(part.state_dict()[name], value)
    return apart


def _relative(got: Tensor, expected: Tensor) -> float:
    """max |a - b| / max(1, max |b|); infinite where either is not finite."""
    if not got.numel():
        return 0.0
    got, expected = got.double(), expected.double()
    apart = (got - expected).abs().max() / expected.abs().max().clamp_min(1.0)
    return float(apart.nan_to_num(torch.inf))
