"""Whether a step may be captured: its gradient is the eager one, and Python changes nothing in it.

A graph holds what Python decided while it was traced. What a model decides by its own counters, or
by the identity of a parameter, does not show in the loss of one step.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from zoo.context import seeded, validation
from zoo.tracing import SEED, CannotCapture, python_random_kept, trace

if TYPE_CHECKING:
    from zoo.capture import Step

CLOSE = {torch.float64: 1e-6, torch.float32: 1e-3}  # relative difference of two equal gradients

Plain = dict[tuple[nn.Module, str], Any]
OPAQUE = object()
MOST = 1000  # entries of a list that are compared
OF_TORCH = set(vars(nn.Module())) - {"training"}
LIBRARIES = {"torch", "pyro", "numpy", "builtins", "functools", "types", "zoo", "guides"}


def agreed(step: Step, index: Tensor) -> fx.GraphModule:
    """The graph of a step on the rows ``index``, after an eager run of it; no weight moves.

    Raises:
        CannotCapture: an objective that takes its steps itself; hooks on a gradient; another
            gradient than eager's; numbers, words or flags of a module that a run changes.
    """
    loop = step.loop
    if loop.result.objective == "em":
        raise CannotCapture("em has no gradient, its steps are its own")
    for parameter in step.owner:
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise CannotCapture(
                f"a parameter of shape {tuple(parameter.shape)} has a hook on its gradient"
            )
    start = _copies(step.modules)
    with python_random_kept():
        expected = _eager(step, index)
        between = plain_values(step.modules)  # after a first run, which may find things out
        step.fill([index], loop.result.steps)
        try:
            graph = trace(step, list(step.state.values()), step.others())
        finally:
            now = plain_values(step.modules)
            changed = different(between, now)
            for module, name in changed:
                if (module, name) in start:  # as if it had never been run
                    setattr(module, name, start[module, name])
    if changed:
        raise CannotCapture(
            f"every run changes {_named(changed[0])}, and what that decides would be frozen"
        )
    _compare(step, expected)
    step.plain = now
    return graph


def plain_values(modules: Iterable[nn.Module]) -> Plain:
    """The numbers, words and flags among the attributes of modules and of their parts, in lists,
    dicts and objects of a user's own classes, too."""
    found = {key: _frozen(value) for key, value in _attributes(modules)}
    return {key: value for key, value in found.items() if value is not OPAQUE}


def _attributes(modules: Iterable[nn.Module]) -> Iterator[tuple[tuple[nn.Module, str], Any]]:
    for module in dict.fromkeys(m for part in modules for m in part.modules()):
        for name, value in vars(module).items():
            if name not in OF_TORCH:
                yield (module, name), value


def _copies(modules: Iterable[nn.Module]) -> Plain:
    """Copies of the attributes that hold nothing else than numbers, words and flags."""
    found: Plain = {}
    for key, value in _attributes(modules):
        if _frozen(value) is not OPAQUE:
            with contextlib.suppress(Exception):  # what cannot be copied is not put back
                found[key] = copy.deepcopy(value)
    return found


def _frozen(value: Any, depth: int = 0) -> Any:
    """The plain content of a value, to be compared; OPAQUE where there is none."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth > 2:
        return OPAQUE
    if isinstance(value, list | tuple) and len(value) <= MOST:
        return type(value), tuple(_frozen(v, depth + 1) for v in value)
    if isinstance(value, dict) and len(value) <= MOST:
        return dict, tuple((str(k), _frozen(v, depth + 1)) for k, v in value.items())
    home = type(value).__module__.partition(".")[0]
    own = hasattr(value, "__dict__") and not isinstance(value, nn.Module | Tensor | type)
    if own and not callable(value) and home not in LIBRARIES:
        return type(value), _frozen(vars(value), depth + 1)
    return OPAQUE


def different(before: Plain, after: Plain) -> list[tuple[nn.Module, str]]:
    """What has another value than before."""
    lacking = object()
    return [
        key
        for key in {**before, **after}
        if (a := before.get(key, lacking)) is not (b := after.get(key, lacking)) and a != b
    ]


def ensure_unchanged(step: Step) -> None:
    """Raises ``CannotCapture`` where a number, word or flag of a module is not as it was traced."""
    trained = {**step.parameters, **step.tables}
    for name, value in {**trained, **step.still}.items():
        if value.data_ptr() != step.state[name].data_ptr():
            raise CannotCapture("the tensor of a parameter or buffer has been replaced by another")
        if name in trained and not value.requires_grad:
            raise CannotCapture("a parameter has been frozen since the step was captured")
    if (now := plain_values(step.modules)) != step.plain:
        where = _named(different(step.plain, now)[0])
        raise CannotCapture(f"{where} has been changed since the step was captured")


def _named(key: tuple[nn.Module, str]) -> str:
    return f"the attribute {key[1]!r} of {type(key[0]).__name__}"


def _eager(step: Step, index: Tensor) -> dict[str, Tensor] | None:
    """The gradients of the eager step, by name, on the numbers that it is traced with."""
    loop, result = step.loop, step.loop.result
    kept = {name: step.state[name].clone() for name in {**step.parameters, **step.still}}
    for optimizer in loop.optimizers:
        optimizer.zero_grad(set_to_none=True)
    with seeded(SEED, loop.device), validation(result.steps == 0), step.held():
        loss = loop.backward(result.model, result.guide, index, result.steps)
    for name, value in kept.items():
        step.state[name].copy_(value)
    found = {**step.parameters, **step.tables}
    gradients = {name: p.grad for name, p in found.items() if p.grad is not None}
    for optimizer in loop.optimizers:
        optimizer.zero_grad(set_to_none=True)
    return gradients if bool(loss.isfinite()) else None


def _compare(step: Step, expected: dict[str, Tensor] | None) -> None:
    """Raises ``CannotCapture`` where the traced gradients are others."""
    if expected is None or step.loop.team.divides:
        return
    gradients, touched = step.traced
    apart = size = 0.0
    for name in {**expected, **gradients}:
        a, b = gradients.get(name), expected.get(name)
        if b is not None and b.is_sparse:
            b = b.coalesce()
            rows = touched.get(name)
            at = None if rows is None else torch.searchsorted(b.indices()[0], rows)
            b = b.values() if at is None else b.values()[at.clamp_max(b._nnz() - 1)]
        a, b = (torch.zeros((), device=step.device) if g is None else g.double() for g in (a, b))
        apart, size = apart + (a - b).square().sum(), size + b.square().sum()
    apart, size = float(apart) ** 0.5, float(size) ** 0.5
    close = 0.03 if step.loop.settings.half else CLOSE.get(step.loop.result.model.dtype, 1e-3)
    if apart > close * size:
        raise CannotCapture(
            f"the captured gradient is {apart:.3g} away from the eager one, of length {size:.3g}, "
            "on the same random numbers"
        )
