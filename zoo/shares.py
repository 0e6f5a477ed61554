"""The rows of a step divided over processes, each drawing the random numbers of all rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from zoo import context
from zoo.batch import Batch
from zoo.handlers import in_plate, is_latent


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Part(Batch):
    """The rows of one process, a contiguous part of a step's.

    Attributes:
        whole: B, the rows of all processes.
        start, count: where the part begins among them, and its rows. A process for which no row is
            left has the first one, with the weight 0.
    """

    whole: int = 0
    start: int = 0
    count: int = 0


def part_of(batch: Batch, rank: int, size: int) -> tuple[Part, float]:
    """The part of a batch that a process has, and its weight B_local/B.

    As ``tensor_split`` cuts: sizes differ by one at most, the larger ones come first.

    Example:
        >>> from zoo.data import Dataset
        >>> part, weight = part_of(Dataset(torch.arange(5.0)).batch(), 1, 2)
        >>> part["x"], weight
        (tensor([3., 4.]), 0.4)
    """
    each, more = divmod(len(batch), size)
    start, count = rank * each + min(rank, more), each + (rank < more)
    weight = count / len(batch)
    start, count = (start, count) if count else (0, 1)
    own = {f.name: getattr(batch, f.name) for f in fields(Batch)}
    for name in ("values", "observed"):
        own[name] = {key: value.narrow(0, start, count) for key, value in own[name].items()}
    own["index"] = batch.index.narrow(0, start, count)
    return Part(**own, whole=len(batch), start=start, count=count), weight


class Divided(Messenger):
    """Draws the latents inside the data plate as the part of one draw for all rows.

    Args:
        part: the rows.
        model: whose data plate it is.
    """

    def __init__(self, part: Part, model: Any):
        super().__init__()
        self.part, self.model = part, model

    def _pyro_sample(self, message: Any) -> None:
        if not is_latent(message):
            return
        fn = message["fn"]
        inside = in_plate(message, self.model.plate)
        with widened(self.part, fn.batch_shape, message["name"]) if inside else allowed():
            message["value"] = fn(*message["args"], **message["kwargs"])


@contextmanager
def divided(batch: Batch, model: Any) -> Iterator[None]:
    """Draws of the block are ``Divided`` where the batch is the part of a process."""
    if isinstance(batch, Part):
        with Divided(batch, model):
            yield
    else:
        yield


@contextmanager
def widened(batch: Batch, shape: torch.Size, name: str = "") -> Iterator[None]:
    """Random numbers of the block whose shape begins with ``shape`` are those of all rows.

    They are drawn with B in the place of the rows of the part, and the others' are dropped: all
    processes draw the same numbers and keep their own. The rows are the last dimension of
    ``shape``; where it is L times as long as the part, they are L times the rows.

    Raises:
        ValueError: a draw that is no element-wise standard one, such as Gamma's.
    """
    if isinstance(batch, Part):
        with allowed(), Wide(batch, shape, name):
            yield
    else:
        yield


_open = 0  # blocks in which a draw is where it should be


@contextmanager
def allowed() -> Iterator[None]:
    """Draws of the block are the same on all processes, or have been seen to."""
    global _open
    _open += 1
    try:
        yield
    finally:
        _open -= 1


_FACTORIES = {torch.randn, torch.rand}
_LIKE = {torch.randn_like: torch.randn, torch.rand_like: torch.rand}
_IN_PLACE = {
    getattr(Tensor, f"{name}_")
    for name in ("normal", "uniform", "exponential", "cauchy", "log_normal", "geometric", "random")
}
_OTHERS = {
    *(getattr(torch, name) for name in ("_standard_gamma", "_sample_dirichlet", "bernoulli")),
    *(getattr(torch, name) for name in ("poisson", "binomial", "multinomial", "randint")),
    *(Tensor.bernoulli, Tensor.bernoulli_, Tensor.multinomial),
}


class Wide(TorchFunctionMode):
    """See ``widened``."""

    def __init__(self, part: Part, shape: torch.Size, name: str):
        super().__init__()
        self.part, self.shape, self.name = part, tuple(shape), name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:
            size = args[0] if args and not isinstance(args[0], int) else args
            return self._cut(func(self._wide(size or kwargs.pop("size")), **kwargs))
        if func in _LIKE:
            like = {"dtype": args[0].dtype, "device": args[0].device, **kwargs}
            return self._cut(_LIKE[func](self._wide(args[0].shape), **like))
        if func in _IN_PLACE:
            to = args[0]
            wide = torch.empty(self._wide(to.shape), dtype=to.dtype, device=to.device)
            return to.copy_(self._cut(func(wide, *args[1:], **kwargs)))
        if func is torch.normal and len(args) == 2 and isinstance(args[0], Tensor) and not kwargs:
            shape = torch.broadcast_shapes(args[0].shape, getattr(args[1], "shape", ()))
            noise = torch.randn(self._wide(shape), dtype=args[0].dtype, device=args[0].device)
            return self._cut(noise) * args[1] + args[0]
        if func in _OTHERS or func is torch.normal:
            raise self._refused(func.__name__.strip("_"))
        return func(*args, **kwargs)

    def _wide(self, size: Any) -> tuple[int, ...]:
        size, at, part = tuple(size), len(self.shape) - 1, self.part
        if at < 0 or size[: at + 1] != self.shape or size[at] % part.count:
            raise self._refused(f"a draw of shape {size}")
        return (*size[:at], size[at] // part.count * part.whole, *size[at + 1 :])

    def _cut(self, wide: Tensor) -> Tensor:
        at, part = len(self.shape) - 1, self.part
        times = math.prod(wide.shape[at : at + 1]) // part.whole
        rows = wide.unflatten(at, (times, part.whole)).narrow(at + 1, part.start, part.count)
        return rows.flatten(at, at + 1)

    def _refused(self, what: str) -> ValueError:
        where = f"site {self.name!r}" if self.name else "a draw of the rows"
        return ValueError(
            f"{where} cannot be drawn by several processes ({what}): only normal, uniform and "
            "exponential numbers, one for each entry of the batch shape, can be divided over the "
            "rows; train in one process, or draw the latent as a function of such noise"
        )


class Watch(TorchDispatchMode):
    """Refuses random numbers that no sample site draws, such as those of dropout.

    The processes would draw other ones than one process does, and could come apart.
    """

    def __init__(self) -> None:
        super().__init__()
        self.depth = context.streams

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, seconds of it, at the first operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        drawn = torch.Tag.nondeterministic_seeded in func.tags
        if drawn and not _open and context.streams == self.depth:
            raise ValueError(
                f"random numbers are drawn outside of any sample site ({func}), as by dropout, and "
                "several processes would not draw those of one; leave it out, or train in one "
                "process"
            )
        return func(*args, **(kwargs or {}))
