"""Which way the steps of a fit are run, and whether the captured step tells the truth."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from zoo.agreement import agreed, ensure_unchanged
from zoo.context import validation
from zoo.tracing import CannotCapture

if TYPE_CHECKING:
    from zoo.capture import Step
    from zoo.loop import Loop
    from zoo.running import Run

RunName = Literal["auto", "eager", "compiled", "graph"]
KNOWN = ("eager", "compiled", "graph", "traced")  # the last, op by op, is for tests
AT_ONCE = 100  # steps in one call, at most
CHECK_EVERY = 1000  # steps between comparisons of the captured loss with the eager one
LONG = {"cpu": 10_000, "cuda": 2_000}  # steps from which capturing pays
COMPILED = 50_000  # steps from which inductor's code pays on a GPU, too
PATIENCE = 0.25  # seconds that one call may take on the CPU, so that Ctrl-C is heard
CLOSE = {torch.float64: 1e-8, torch.float32: 1e-4}  # relative difference of two equal losses


def choose(asked: RunName, device: torch.device, steps: int) -> tuple[str, str]:
    """(way, why) before the first step; ``auto`` looks at the device and the number of steps alone.

    Raises:
        ValueError: an unknown word; ``graph`` without a GPU.

    Example:
        >>> choose("auto", torch.device("cpu"), 500)
        ('eager', '500 steps')
    """
    if asked not in ("auto", *KNOWN):
        raise ValueError(f"run is auto, eager, compiled or graph, got {asked!r}")
    if asked == "graph" and device.type != "cuda":
        raise ValueError(f"run='graph' replays CUDA graphs, and the device is {device}; use auto")
    if asked != "auto":
        return asked, "asked for"
    long = LONG.get(device.type)
    if long is None or steps < long:
        return "eager", f"{steps} steps"
    return "graph" if device.type == "cuda" and steps < COMPILED else "compiled", f"{steps} steps"


class Engine:
    """Takes the steps of a loop: one by one, or many in one call of a captured step.

    Args:
        loop: the fit.
        way: ``eager``, ``compiled`` or ``graph``; or ``traced``, the captured operations one by
            one.
        why: a reason for it.

    Attributes:
        way, why: as they are now; a step that cannot be captured, or that is seen to differ from
            eager, leaves ``eager`` and the reason.
    """

    def __init__(self, loop: Loop, way: str, why: str):
        self.loop = loop
        self._say(way, why)
        self.made: dict[int, tuple[Step, Run]] = {}  # by the rows of a step
        many = loop.device.type == "cuda" or loop.team.divides  # which stop at the same steps
        self.at_once = loop.settings.log_every if many else 1

    def _say(self, way: str, why: str) -> None:
        self.way, self.why = way, why
        self.loop.result.run = {"way": way, "why": why}

    @property
    def room(self) -> int:
        """The steps that one call may take now."""
        done = self.loop.result.steps
        return 1 if self.way == "eager" else min(self.at_once, CHECK_EVERY - done % CHECK_EVERY)

    def advance(self, order: list[Tensor]) -> None:
        """Takes one step on each of these index tensors, which are of one size."""
        loop = self.loop
        while order and self.way != "eager":
            try:
                order = order[self._captured(order) :]
            except CannotCapture as error:
                self.give_up(str(error))
        for index in order:
            with validation(loop.result.steps == 0):
                loop.step(index)
            loop.recorder.take(loop.result.steps)

    def _captured(self, order: list[Tensor]) -> int:
        """Takes some steps in one call; says how many.

        Raises:
            CannotCapture: before the first of them.
        """
        loop, first = self.loop, self.loop.result.steps
        rows = len(order[0])
        new = rows not in self.made
        if new:
            self.made[rows] = self._capture(order[0])
        step, run = self.made[rows]
        ensure_unchanged(step)
        if new or first % CHECK_EVERY == 0:
            self._check(step, run, order[0])
        before = _random_state(loop.device)
        count = min(len(order), step.room)
        clock = time.perf_counter()
        step.fill(order[:count], first)
        run(count)
        if loop.device.type == "cpu":
            each = (time.perf_counter() - clock) / count
            if not loop.team.divides:
                self.at_once = max(1, min(loop.settings.log_every, int(PATIENCE / each)))
            losses = step.state["losses"][:count]
            if bool(step.state["halted"]):
                bad = int((~torch.isfinite(losses)).nonzero()[0])
                self._take_over(step, bad, first)
                kept = {name: step.state[name].clone() for name in step.still}
                failure = self._failure(order[: bad + 1], before, losses[bad])
                for name, value in kept.items():  # drawing again has moved them
                    step.state[name].copy_(value)
                raise failure
        self._take_over(step, count, first)
        return count

    def _take_over(self, step: Step, count: int, first: int) -> None:
        """Losses, snapshots and counters of the steps that were taken."""
        loop = self.loop
        loop.window[loop.filled : loop.filled + count] = step.state["losses"][:count]
        if (recent := step.state.get("recent")) is not None:
            loop.recorder.take_many(first + 1, recent[:count])
        loop.filled += count
        loop.result.steps += count
        step.tell(loop.result.steps)

    def _capture(self, index: Tensor) -> tuple[Step, Run]:
        from zoo.capture import Step
        from zoo.running import WAYS

        if not self.loop.data.resident:
            raise CannotCapture("the rows are read from their source at every step")
        step = Step(self.loop, len(index))
        before = _random_state(self.loop.device)
        graph = agreed(step, index)
        if any(other.traced[0].keys() != step.traced[0].keys() for other, _ in self.made.values()):
            raise CannotCapture("batches of different size give gradients to different parameters")
        run = WAYS[self.way](graph, step)
        self.loop.backward.batch = None  # of the tracer
        _set_random_state(before, self.loop.device)
        return step, run

    def _check(self, step: Step, run: Run, index: Tensor) -> None:
        """Compares the captured loss with the eager one on the same noise; no weight moves.

        Raises:
            CannotCapture: they differ.
        """
        loop, device = self.loop, self.loop.device
        before = _random_state(device)
        kept = {name: step.state[name].clone() for name in step.still}
        with validation(loop.result.steps == 0), step.held():
            eager = loop.backward.loss(
                loop.result.model, loop.result.guide, index, loop.result.steps
            )
        self._put_back(step, kept, before)
        step.fill([index], loop.result.steps)
        step.state["halted"].fill_(True)
        run(1)
        step.state["halted"].fill_(False)
        captured = step.state["losses"][0].clone()
        self._put_back(step, kept, before)
        close = 0.03 if loop.settings.half else CLOSE.get(eager.dtype, 1e-4)
        a, b = float(captured), float(eager)
        if eager.isfinite() and not abs(a - b) <= close * max(1.0, abs(b)):
            raise CannotCapture(
                f"at step {loop.result.steps} the captured loss is {a:.7g} and the eager one, on "
                f"the same random numbers, {b:.7g}"
            )

    def _put_back(self, step: Step, kept: dict[str, Tensor], random_state: Any) -> None:
        for name, value in kept.items():
            step.state[name].copy_(value)
        _set_random_state(random_state, self.loop.device)

    def give_up(self, reason: str) -> None:
        """Goes on step by step."""
        self._say("eager", f"{self.way} is not possible: {reason}")
        self.made = {}
        self.loop.say(f"run: eager; {self.why}")

    def _failure(self, order: list[Tensor], before: Any, loss: Tensor) -> Exception:
        """What to tell about the last of these steps; the draws before it are made once more."""
        loop, pair = self.loop, (self.loop.result.model, self.loop.result.guide)
        _set_random_state(before, loop.device)
        options = loop.backward.options(loop.result.steps)
        with validation(False):
            for index in order[:-1]:
                loop.backward.loss(*pair, index, loop.result.steps)
            for part, _ in loop.backward.losses(*pair, order[-1], options):
                if not part.isfinite():
                    break
        assert loop.backward.batch is not None
        return loop.failure(loop.result.steps, loss, [loop.backward.batch])


class Ahead:
    """The rows of the steps to come, several at a time."""

    def __init__(self, indices: Iterator[Tensor]):
        self.indices = indices
        self.next: Tensor | None = None

    def take(self, most: int) -> list[Tensor]:
        """The rows of the next step, and of those after it that have as many, up to ``most``."""
        first = next(self.indices) if self.next is None else self.next
        taken, self.next = [first], None
        while len(taken) < most:
            self.next = next(self.indices)
            if len(self.next) != len(first):
                break
            taken.append(self.next)
            self.next = None
        return taken


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), cuda


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
