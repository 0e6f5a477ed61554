"""One run of a function of tensors as a graph of tensor operations, Python gone from it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from zoo.context import seeded, validation


class CannotCapture(RuntimeError):
    """Why a step cannot be run as a graph; the message says what in it prevents that."""


def trace(function: Callable[..., Any], inputs: Sequence[Tensor]) -> fx.GraphModule:
    """The tensor operations of ``function(*inputs)``, which changes its inputs in place.

    It is run twice on copies of the inputs, Python's and NumPy's random numbers moved on between,
    and the two graphs must be one: a Python counter or a number from ``random`` would be frozen in
    the graph without a word. Tensors that are no inputs are constants: the graph holds the tensors
    themselves, so that a later change of their values in place is seen.

    Args:
        function: of tensors; what it draws is drawn from torch's generators.
        inputs: as it will be called.

    Raises:
        CannotCapture: control flow that depends on values of tensors; two graphs that differ; a
            parameter that is reached by a road other than its module.

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
        first = _once(function, inputs)
        random.random()
        np.random.random()  # noqa: NPY002  # of the global generator, which a model may use
        second = _once(function, inputs)
    if difference := _difference(first, second):
        raise CannotCapture(
            f"two runs of the step are not the same graph ({difference}); a Python counter or "
            "numbers of `random` or NumPy in the model would be frozen in it"
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
    return first


def _once(function: Callable[..., Any], inputs: Sequence[Tensor]) -> fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    copies = [t.detach().clone() for t in inputs]
    device = next((t.device for t in copies if t.device.type != "cpu"), torch.device("cpu"))
    with seeded(0, device), validation(False), Gaussian():
        try:
            return make_fx(function)(*copies)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            hint = ""
            if "_local_scalar_dense" in said[0] or "data-dependent" in str(error):
                hint = "the value of a tensor is read on the host (`.item()`, `if tensor:`): "
            raise CannotCapture(f"{hint}{said[0]}") from error


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


class Gaussian(TorchFunctionMode):
    """Standard normal numbers come from ``torch.randn`` alone: the same numbers in one operation,
    which ``vmap`` knows where it refuses ``empty().normal_()``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.normal_ and len(args) == 1 and not kwargs:
            like = args[0]
            return torch.randn(like.shape, dtype=like.dtype, device=like.device)
        return func(*args, **kwargs)


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
