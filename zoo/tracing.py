"""One run of a function of tensors as a graph of tensor operations, Python gone from it."""

from __future__ import annotations

import os
import random
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from zoo.context import seeded, stream, validation
from zoo.rewriting import Gaussian, rewrite

SEED = stream(0, "tracing")


class CannotCapture(RuntimeError):
    """Why a step cannot be run as a graph; the message says what in it prevents that."""


def trace(
    function: Callable[..., Any], inputs: Sequence[Tensor], others: Sequence[Tensor] | None = None
) -> fx.GraphModule:
    """The tensor operations of ``function(*inputs)``, which changes its inputs in place.

    It is run twice, on copies of the inputs and on other values, Python's and NumPy's random
    numbers moved on between, and the two graphs must be one: a Python counter, a number from
    ``random``, or one read off a tensor would be frozen in the graph without a word. Tensors that
    are no inputs are constants: the graph holds the tensors themselves, so that a later change of
    their values in place is seen.

    Args:
        function: of tensors; what it draws is drawn from torch's generators.
        inputs: as it will be called.
        others: other values; by default floating ones a little larger, and the others as they are.

    Raises:
        CannotCapture: control flow that depends on values of tensors; two graphs that differ; a
            parameter that is reached by a road other than its module; a state of the random numbers
            that the function sets.

    Example:
        >>> def double(x):
        ...     return x.mul_(2)
        >>> graph = trace(double, [torch.ones(2)])
        >>> x = torch.ones(2)
        >>> _ = graph(x)
        >>> x
        tensor([2., 2.])
    """
    with python_random_kept():
        second, _ = _once(function, others or list(map(moved, inputs)), SEED + 1)
        random.random()
        np.random.random()  # noqa: NPY002  # of the global generator, which a model may use
        first, drawn = _once(function, inputs, SEED)
    for graph in (first, second):
        if found := rewrite(graph):
            raise CannotCapture(f"the shape of a result depends on values ({found[0]})")
    if difference := _difference(first, second):
        raise CannotCapture(
            f"two runs of the step are not the same graph ({difference}); a Python counter, a "
            "number of `random` or NumPy, or a value read off a tensor would be frozen in it"
        )
    used = {t.data_ptr() for t in inputs if t.numel()}
    for name, value in _constants(first):
        if value.requires_grad or value.data_ptr() in used:
            raise CannotCapture(
                f"a parameter of shape {tuple(value.shape)} is used from outside the modules of "
                f"model and guide ({name}); make it an attribute of one of them"
            )
    first.graph.eliminate_dead_code()
    for node in first.graph.nodes:
        node.meta.clear()  # of the inputs that it was traced with
    first.recompile()
    if any(not torch.equal(a, b) for a, b in zip(drawn, _drawn(first, inputs), strict=True)):
        raise CannotCapture(
            "the step sets the state of the random numbers (`manual_seed`, a checkpoint of "
            "activations with draws in it), which a graph cannot"
        )
    return first


def _once(
    function: Callable[..., Any], inputs: Sequence[Tensor], seed: int
) -> tuple[fx.GraphModule, list[Tensor]]:
    """The graph, and the state of the random numbers afterwards."""
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    copies = [t.detach().clone() for t in inputs]
    device = _device(inputs)
    one = TracingContext(FakeTensorMode(allow_fallback_kernels=True))  # or torch makes one an op
    with seeded(seed, device), validation(False), Gaussian(), tracing(one):
        try:
            return make_fx(function)(*copies), _random_state(device)
        except CannotCapture:
            raise
        except Exception as error:  # what the eager step does without
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if "_local_scalar_dense" in said or "data-dependent" in str(error):
                said = "the value of a tensor is read on the host (`.item()`, `if tensor:`)"
            raise CannotCapture(f"{said}, in {_place(error)}") from error


def moved(value: Tensor) -> Tensor:
    """Other values than these, so that what is read off them shows."""
    return value + 1e-3 * (1 + value.abs()) if value.is_floating_point() else value


@torch.no_grad()
def _drawn(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The state of the random numbers after a run of the graph."""
    device = _device(inputs)
    with seeded(SEED, device):
        graph(*(t.detach().clone() for t in inputs))
        return _random_state(device)


def _device(inputs: Sequence[Tensor]) -> torch.device:
    return next((t.device for t in inputs if t.device.type != "cpu"), torch.device("cpu"))


def _random_state(device: torch.device) -> list[Tensor]:
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *cuda]


def _place(error: Exception) -> str:
    """The last line of a traceback that is not torch's: file, number and text."""
    lines = traceback.extract_tb(error.__traceback__)
    own = [line for line in lines if f"{os.sep}torch{os.sep}" not in line.filename]
    line = [line for line in own if line.name != "__torch_function__"][-1]
    name = line.filename.partition(f"site-packages{os.sep}")[2] or Path(line.filename).name
    return f"{name}, line {line.lineno}: {line.line}"


def _difference(first: fx.GraphModule, second: fx.GraphModule) -> str:
    a, b = first.code.splitlines(), second.code.splitlines()
    for mine, other in zip(a, b, strict=False):
        if mine != other:
            return f"{mine.split('#')[0].strip()[:120]!r} against {other.strip()[:120]!r}"
    if len(a) != len(b):
        return f"{len(a)} operations against {len(b)}"
    for (name, mine), (_, other) in zip(_constants(first), _constants(second), strict=True):
        same = mine.data_ptr() == other.data_ptr() and mine.shape == other.shape
        if not same and not torch.equal(mine, other):
            return f"the constant {name} of shape {tuple(mine.shape)} has other values"
    return ""


def _constants(graph: fx.GraphModule) -> list[tuple[str, Tensor]]:
    names = dict.fromkeys(n.target for n in graph.graph.nodes if n.op == "get_attr")
    found = [(str(name), getattr(graph, str(name))) for name in names]
    return [(name, value) for name, value in found if isinstance(value, Tensor)]


@contextmanager
def python_random_kept() -> Iterator[None]:
    """Python's and NumPy's global generators go on afterwards as if nothing had happened."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def swapped(modules: Iterable[nn.Module], others: Mapping[Tensor, Tensor]) -> Iterator[None]:
    """Parameters and buffers of the modules are other tensors inside the block.

    A buffer that the block replaces by a new tensor gets its values in place, as if the module had
    written them.
    """
    changed: list[tuple[dict[str, Any], str, Tensor, Tensor]] = []
    for module in dict.fromkeys(m for part in modules for m in part.modules()):
        for home in (module._parameters, module._buffers):
            for name, value in home.items():
                if value is not None and value in others:
                    changed.append((home, name, value, others[value]))
    for home, name, _, other in changed:
        home[name] = other
    try:
        yield
        for home, name, _, other in changed:
            if (now := home[name]) is not other and now is not None:
                with torch.no_grad():
                    other.copy_(now)
    finally:
        for home, name, value, _ in changed:
            home[name] = value
