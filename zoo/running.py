"""How a captured step is run: op by op, compiled by inductor, or replayed as a CUDA graph."""

from __future__ import annotations

import itertools
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from zoo.capture import Step
from zoo.tracing import CannotCapture, trace

Run = Callable[[int], None]  # takes so many steps

# Inductor draws the numbers that eager code draws; shapes are known, so nothing checks them.
INDUCTOR = {
    "fallback_random": True,
    "size_asserts": False,
    "alignment_asserts": False,
    "scalar_asserts": False,
}
_names = itertools.count()


def graph_of(step: Step) -> fx.GraphModule:
    """The step's operations, a function of the tensors of its state.

    Raises:
        CannotCapture: see ``zoo.tracing.trace``.
    """
    return trace(step, list(step.state.values()))


def in_order(graph: fx.GraphModule, step: Step) -> Run:
    """Runs the operations one by one, as Pyro would without Pyro."""
    state = list(step.state.values())

    def run(count: int) -> None:
        with torch.no_grad():
            for _ in range(count):
                graph(*state)
                state[0].add_(1)

    return run


def compiled(graph: fx.GraphModule, step: Step) -> Run:
    """Runs machine code made by inductor: on the CPU a loop of any number of steps in one call.

    Raises:
        CannotCapture: there is no C++ compiler, or inductor does not know an operation.
    """
    if step.device.type != "cpu":
        return replayed(machine_code(graph, list(step.state.values())), step)
    state = list(step.state.values())
    limit = torch.zeros(1, dtype=torch.long)
    try:
        loop = _inductor_loop(graph)
        with torch.no_grad():
            loop(state[0].clone(), limit, *state[1:])
    except Exception:  # torch 2.11 has no loops that change tensors in place
        return in_order(machine_code(graph, state), step)

    def run(count: int) -> None:
        with torch.no_grad():
            loop(state[0], limit.fill_(count), *state[1:])

    return run


def machine_code(graph: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """What inductor makes of a graph, for inputs like these.

    Raises:
        CannotCapture: there is no compiler, or inductor does not know an operation.
    """
    try:
        from torch._inductor import config
        from torch._inductor.compile_fx import compile_fx

        on_cpu = inputs[0].device.type == "cpu"
        given = config.patch({**INDUCTOR, "cpp_wrapper": on_cpu})
        with given, torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of its own parts
            made: Any = compile_fx(graph, list(inputs))
            return made
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise CannotCapture(f"inductor cannot compile it: {said[0]}") from error


def _inductor_loop(graph: fx.GraphModule) -> Callable[..., Any]:
    """``(i, limit, *state)``: the step for i, i + 1, … below the limit, as machine code.

    Dynamo keeps what it compiles by the code object, so every step gets one of its own.
    """
    import torch._dynamo
    from torch._higher_order_ops.while_loop import while_loop
    from torch._inductor import config

    def loop(i: Tensor, limit: Tensor, *state: Tensor) -> Any:
        def once(i: Tensor) -> tuple[Tensor]:
            graph(i, *state)
            return (i + 1,)

        return while_loop(lambda i: (i < limit).reshape(()), once, (i,))

    code = loop.__code__.replace(co_name=f"step_{next(_names)}")
    fresh = types.FunctionType(code, loop.__globals__, code.co_name, None, loop.__closure__)
    made = torch.compile(fresh, fullgraph=True, dynamic=False)

    def call(*state: Tensor) -> Any:
        with config.patch({**INDUCTOR, "cpp_wrapper": True}):
            return made(*state)

    return call


def replayed(function: Callable[..., Any], step: Step) -> Run:
    """Records the kernels of one step as a CUDA graph and replays it.

    Raises:
        CannotCapture: an operation that cannot be recorded.
    """
    state, device = list(step.state.values()), step.device
    before = torch.cuda.get_rng_state(device)
    halted, kept = step.state["halted"], {n: step.state[n].clone() for n in step.still}
    halted.fill_(True)  # steps that leave every weight as it was
    stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream(device))
    try:
        with torch.no_grad(), torch.cuda.stream(stream):
            for _ in range(3):  # libraries make their workspaces
                function(*state)
        torch.cuda.current_stream(device).wait_stream(stream)
        with torch.no_grad(), torch.cuda.graph(graph):
            function(*state)
            state[0].add_(1)
    except RuntimeError as error:  # an operation that waits for the device
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise CannotCapture(f"it cannot be recorded as a CUDA graph: {said[0]}") from error
    finally:
        for name, value in kept.items():
            step.state[name].copy_(value)
        halted.fill_(False)
        torch.cuda.set_rng_state(before, device)

    def run(count: int) -> None:
        for _ in range(count):
            graph.replay()

    return run


WAYS: dict[str, Callable[[fx.GraphModule, Step], Run]] = {
    "traced": in_order,
    "compiled": compiled,
    "graph": replayed,
}

__all__ = ["WAYS", "CannotCapture", "compiled", "graph_of", "in_order", "replayed"]
