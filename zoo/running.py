"""How a captured step is run: op by op, compiled by inductor, or replayed as a CUDA graph."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from zoo.capture import Step
from zoo.tracing import CannotCapture, Gaussian, trace

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
    try:
        return trace(step, list(step.state.values()))
    finally:
        step.backward.batch = None


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
    """Runs machine code made by inductor: on the CPU a loop of any number of steps in one call."""
    if step.loop.device.type != "cpu":
        return replayed(_inductor(graph), step)
    state = list(step.state.values())
    limit = torch.zeros(1, dtype=torch.long)
    try:
        loop = _inductor(_looped(graph), cpp_wrapper=True)
        with torch.no_grad():
            loop(state[0].clone(), limit, *state[1:])
    except Exception:  # no loops in this torch
        one = _inductor(graph)
        return in_order(one, step)

    def run(count: int) -> None:
        with torch.no_grad():
            loop(state[0], limit.fill_(count), *state[1:])

    return run


def _looped(graph: fx.GraphModule) -> Callable[..., Any]:
    """``(i, limit, *state)``: the step for i, i + 1, … below the limit."""
    from torch._higher_order_ops.while_loop import while_loop

    def loop(i: Tensor, limit: Tensor, *state: Tensor) -> Any:
        def once(i: Tensor) -> tuple[Tensor]:
            graph(i, *state)
            return (i + 1,)

        return while_loop(lambda i: (i < limit).reshape(()), once, (i,))

    return loop


def _inductor(function: Any, **options: Any) -> Any:
    """``torch.compile`` with a cache of its own, compiled at the first call."""
    import torch._dynamo
    import torch._inductor.config as config

    if isinstance(function, fx.GraphModule):
        graph = function

        def function(*state: Tensor) -> Any:
            return graph(*state)

    # Dynamo keeps what it compiles by the code object: one for each step that is captured.
    code = function.__code__.replace(co_name=f"step_{next(_names)}")
    fresh = types.FunctionType(
        code, function.__globals__, code.co_name, function.__defaults__, function.__closure__
    )
    made = torch.compile(fresh, fullgraph=True, dynamic=False)

    def call(*state: Tensor) -> Any:
        with (
            config.patch({**INDUCTOR, **options}),
            torch._dynamo.config.patch(allow_rnn=True, recompile_limit=1),
        ):
            return made(*state)

    return call


def replayed(function: Callable[..., Any], step: Step) -> Run:
    """Records the kernels of one step as a CUDA graph and replays it."""
    state, device = list(step.state.values()), step.loop.device
    before = torch.cuda.get_rng_state(device)
    halted, kept = step.state["halted"], {n: step.state[n].clone() for n in step.still}
    halted.fill_(True)  # steps that leave every weight as it was
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):  # libraries make their workspaces
            function(*state)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        function(*state)
        state[0].add_(1)
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
    "graph": lambda graph, step: replayed(graph, step),
}

__all__ = ["WAYS", "CannotCapture", "Gaussian", "compiled", "graph_of", "in_order", "replayed"]
