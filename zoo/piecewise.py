"""Which way the pieces of an evaluation are drawn, and whether the captured one tells the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx

from zoo.agreement import different, plain_values
from zoo.chunks import Plan
from zoo.data import Batch
from zoo.engine import CLOSE, RunName, choose
from zoo.model import Model
from zoo.particles import vectorizes
from zoo.piece import Drawn, Piece, draw
from zoo.tracing import CannotCapture, trace

# Numbers, N K S times those of a draw, from which capturing pays. A core takes 20 ns for one of an
# eager VAE, so two minutes, and 10 ns compiled; tracing and compiling take 15 to 30 seconds.
LONG = {"cpu": 5 * 10**9, "cuda": 2 * 10**11}
COMPILED = 10**12  # from which inductor's code pays on a GPU, too
SHARE = 0.2  # of all work, below which pieces of one shape are not captured

Tensors = Sequence[Tensor]
Call = Callable[[Tensors], Tensors]  # of the arguments that change from piece to piece


def choose_by_work(asked: RunName, device: torch.device, numbers: int) -> tuple[str, str]:
    """(way, why) before the first piece; ``auto`` looks at the device and the work alone.

    Args:
        asked: as for ``fit``.
        device: where the model is.
        numbers: of all draws of all rows, in the largest tensor that a draw takes part in.

    Raises:
        ValueError: as ``zoo.engine.choose``.

    Example:
        >>> choose_by_work("auto", torch.device("cpu"), 100 * 5000 * 784)
        ('eager', '3.9e+08 numbers')
    """
    way, why = choose(asked, device, 0)
    if asked != "auto":
        return way, why
    why = f"{numbers:.2g} numbers"
    if numbers < LONG.get(device.type, float("inf")):
        return "eager", why
    return "graph" if device.type == "cuda" and numbers < COMPILED else "compiled", why


class Piecewise:
    """Draws K particles of every row of a batch, a piece at a time.

    All pieces of a batch have the same draws of the global latents. Pieces of a shape that many
    have are captured at the first of them, which is drawn eagerly, too: both ways must give the
    same figures and leave the random numbers at the same place.

    Args:
        model, guide: p and q.
        rows: N, of all batches.
        num_particles: K.
        cut: the plan.
        run: as for ``fit``.

    Attributes:
        way, why: as they are now; pieces that cannot be captured leave ``eager`` and the reason.
    """

    def __init__(
        self,
        model: Model,
        guide: Callable[[Batch], Any],
        rows: int,
        num_particles: int,
        cut: Plan,
        run: RunName,
    ):
        self.model, self.guide, self.rows, self.cut = model, guide, rows, cut
        whole, rest = divmod(num_particles, cut.particles)
        sizes = [cut.particles] * whole + [rest] * (rest > 0)
        # Particles of each piece, and whether g is given to it.
        self.shapes = [(size, cut.has_globals and j > 0) for j, size in enumerate(sizes)]
        numbers = rows * num_particles * cut.outer * cut.width
        self.way, self.why = choose_by_work(run, model.device, numbers)
        self.made: dict[Any, tuple[Piece, Call]] = {}

    def __call__(self, batch: Batch) -> Iterator[Drawn]:
        """The pieces of a batch, one after the other."""
        held: Mapping[str, Tensor] = {}
        for size, _ in self.shapes:
            found = self._draw(batch, size, held)
            held = held or found.globals
            yield found

    def _draw(self, batch: Batch, size: int, held: Mapping[str, Tensor]) -> Drawn:
        if self.way != "eager" and self._share(batch, size, held) >= SHARE:
            key = len(batch), size, bool(held), batch.size, *batch.values
            try:
                if key not in self.made:
                    self.made[key] = self._capture(batch, size, held)
                piece, call = self.made[key]
                return piece.read(iter(call(piece.inputs(batch, held))))
            except CannotCapture as error:
                self.way, self.why = "eager", f"{self.way} is not possible: {error}"
                self.made = {}
        return draw(self.model, self.guide, batch, size, self.cut.outer, held)

    def _share(self, batch: Batch, size: int, held: Mapping[str, Tensor]) -> float:
        """The part of all work that pieces of this shape are."""
        same = sum(k for k, later in self.shapes if (k, later) == (size, bool(held)))
        last = self.rows % self.cut.rows
        rows = self.rows - last if len(batch) == self.cut.rows else last
        return same / sum(k for k, _ in self.shapes) * rows / self.rows

    def _capture(self, batch: Batch, size: int, held: Mapping[str, Tensor]) -> tuple[Piece, Call]:
        """The function of pieces like this one.

        Raises:
            CannotCapture: also where its figures are not the eager ones on the same random numbers.
        """
        model, guide, outer = self.model, self.guide, self.cut.outer
        if not vectorizes(model, batch):
            raise CannotCapture("the particles of this function run one after the other")
        piece = Piece(model, guide, batch, size, outer, held)
        inputs = piece.inputs(batch, held)
        try:
            with untouched(piece, model.device):
                before = plain_values(piece.modules)
                graph = trace(piece, [*inputs, *piece.weights])
                if changed := different(before, plain_values(piece.modules)):
                    module, name = changed[0]
                    raise CannotCapture(f"every run changes {name!r} of {type(module).__name__}")
                call = WAYS[self.way](graph, inputs, piece.weights)
                call(inputs)
        except CannotCapture:
            raise
        except Exception as error:  # of the compiler, or of what it cannot compile
            raise CannotCapture(f"{type(error).__name__}, {str(error).strip()[:200]}") from error
        with untouched(piece, model.device):
            eager = _figures(draw(model, guide, batch, size, outer, held))
            ended = _random_state(model.device)
        with untouched(piece, model.device):
            captured = _figures(piece.read(iter(call(inputs))))
            same = torch.equal(ended, _random_state(model.device))
        close = CLOSE.get(model.dtype, 1e-4)
        if not torch.allclose(captured, eager, close, close, equal_nan=True):
            far = (captured - eager).abs().nan_to_num(float("inf")).argmax()
            raise CannotCapture(
                f"a captured bound is {float(captured[far]):.7g} and the eager one, on the same "
                f"random numbers, {float(eager[far]):.7g}"
            )
        if not same:
            raise CannotCapture("the captured piece takes other random numbers than the eager one")
        return piece, call


def _figures(drawn: Drawn) -> Tensor:
    """What the bounds are made of: the log-sum-exp and the mean of every row, and of g."""
    terms = drawn.h if drawn.first is None else drawn.first
    return torch.cat([drawn.h.logsumexp(-2).flatten(), terms.mean(-2).flatten(), drawn.global_])


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def untouched(piece: Piece, device: torch.device) -> Iterator[None]:
    """Random numbers, buffers and plain attributes are afterwards as they were."""
    plain = plain_values(piece.modules)
    buffers = [value for module in piece.modules for value in module.buffers()]
    before = [value.clone() for value in buffers]
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    for module, name in different(plain, plain_values(piece.modules)):
        if (module, name) in plain:
            setattr(module, name, plain[module, name])
    for value, old in zip(buffers, before, strict=True):
        value.copy_(old)


# How a captured piece is run ---------------------------------------------------------------------


def in_order(function: Callable[..., Any], inputs: Tensors, weights: Tensors) -> Call:
    """Runs the operations one by one."""
    return lambda inputs: function(*inputs, *weights)


def compiled(graph: fx.GraphModule, inputs: Tensors, weights: Tensors) -> Call:
    """Runs machine code made by inductor, on a GPU as a CUDA graph."""
    from zoo.running import machine_code

    how = replayed if inputs[0].is_cuda else in_order
    return how(machine_code(graph, [*inputs, *weights]), inputs, weights)


def replayed(function: Callable[..., Any], inputs: Tensors, weights: Tensors) -> Call:
    """Records the kernels of a call as a CUDA graph and replays it on copies of the inputs."""
    device, mine = inputs[0].device, [value.clone() for value in inputs]
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):  # libraries make their workspaces
            function(*mine, *weights)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(*mine, *weights)

    def call(inputs: Tensors) -> Tensors:
        for value, new in zip(mine, inputs, strict=True):
            value.copy_(new)
        graph.replay()
        return [value.clone() for value in outputs]

    return call


WAYS = {"traced": in_order, "compiled": compiled, "graph": replayed}
