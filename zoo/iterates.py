"""What a fit keeps of its path: some parameters, every so many steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zoo.context import stream
from zoo.files import RunError, read_tensors
from zoo.optim import sparse_tables

ENTRIES, SNAPSHOTS = 64, 1024  # at most
OF_TABLE = 4  # entries of a table, whose rows rest while others are visited
HOME = "iterates."  # where they stand in a checkpoint


@dataclass(frozen=True)
class Iterates:
    """θ_t of M entries of the trained parameters at T steps.

    Attributes:
        values: (T, M).
        steps: (T,), steps taken before each.
        names: of the entries, such as ``guide.source.table.weight[3,1]``.
    """

    values: Tensor
    steps: Tensor
    names: tuple[str, ...]


class Recorder:
    """Keeps up to 1024 snapshots of up to 64 entries on the device, without waiting for it.

    Entries are chosen by the seed, spread evenly over the parameters to train. A snapshot is taken
    after every k-th step, k = 1 at first; when there is no more room, every second one is dropped
    and k doubles. So what is kept depends on the number of steps alone, not on how often the fit
    was interrupted.

    Args:
        modules: by side, ``model`` and ``guide``.
        seed: of the choice.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> recorder = Recorder({"model": layer}, seed=0)
        >>> for step in range(1, 4):
        ...     _ = layer.weight.data.fill_(step)
        ...     recorder.take(step)
        >>> found = recorder.iterates()
        >>> found.names, found.values[:, 0], found.steps
        (('model.weight[0,0]', 'model.weight[0,1]'), tensor([1., 2., 3.]), tensor([1, 2, 3]))
    """

    def __init__(self, modules: Mapping[str, nn.Module], seed: int):
        tables = sparse_tables(modules.values())
        named: dict[nn.Parameter, str] = {}
        for side, part in modules.items():
            for name, parameter in part.named_parameters():
                if parameter.requires_grad and parameter.numel() and parameter.is_floating_point():
                    named.setdefault(parameter, f"{side}.{name}")
        room = [min(p.numel(), OF_TABLE if p in tables else ENTRIES) for p in named]
        generator = np.random.default_rng(stream(seed, "iterates"))
        counts = shares(room, ENTRIES, generator)
        names: list[str] = []
        self.places: list[tuple[nn.Parameter, Tensor]] = []
        for (parameter, name), count in zip(named.items(), counts, strict=True):
            if count:
                chosen = np.sort(generator.choice(parameter.numel(), count, replace=False))
                self.places.append((parameter, torch.from_numpy(chosen).to(parameter.device)))
                names += [name + _at(place, parameter.shape) for place in chosen]
        self.names, self.every, self.steps = tuple(names), 1, list[int]()
        self.merged: Callable[[Tensor], Tensor] = lambda rows: rows  # where processes have parts
        self.rows: Tensor | None = None  # (1024, M)
        if self.places:
            self.rows = torch.empty(SNAPSHOTS, len(names)).to(self.places[0][0])

    def now(self) -> Tensor | None:
        """(M,): the entries as they are; None where nothing is trained."""
        if not self.places:
            return None
        return torch.cat([p.detach().take(index) for p, index in self.places])

    def take(self, step: int) -> None:
        """After a step, counted from 1."""
        if self.rows is not None and step % self.every == 0:
            self.rows[len(self.steps)] = self.now()  # type: ignore[assignment]
            self.steps.append(step)
            self._thin()

    def take_many(self, first: int, recent: Tensor) -> None:
        """After the steps ``first``, first + 1, …, after which the entries were ``recent``, (T, M).

        Example:
            >>> recorder = Recorder({"model": nn.Linear(1, 1, bias=False)}, seed=0)
            >>> recorder.every = 2
            >>> recorder.take_many(7, torch.arange(5.0)[:, None])
            >>> recorder.steps, recorder.rows[:2, 0]
            ([8, 10], tensor([1., 3.]))
        """
        step, last = first, first + len(recent) - 1
        while self.rows is not None and step <= last:
            begin, room = -(-step // self.every) * self.every, SNAPSHOTS - len(self.steps)
            taken = range(begin, last + 1, self.every)[:room]
            if not taken:
                return
            rows = recent[begin - first : taken[-1] - first + 1 : self.every]
            self.rows[len(self.steps) : len(self.steps) + len(taken)] = rows
            self.steps += taken
            step = taken[-1] + 1
            self._thin()

    def _thin(self) -> None:
        if self.rows is not None and len(self.steps) == SNAPSHOTS:
            self.every *= 2
            first = 0 if self.steps[0] % self.every == 0 else 1
            self.steps = self.steps[first::2]
            self.rows[: len(self.steps)] = self.rows[first::2].clone()

    def iterates(self) -> Iterates | None:
        """What has been kept, on the CPU; None where nothing is trained."""
        if self.rows is None or not self.steps:
            return None
        rows = self.merged(self.rows[: len(self.steps)]).cpu()
        return Iterates(rows.clone(), torch.tensor(self.steps), self.names)

    def state(self) -> tuple[dict[str, Tensor], list[str]]:
        """What a checkpoint keeps of it: tensors, and the names of the entries."""
        if self.rows is None:
            return {}, []
        rows = self.merged(self.rows[: len(self.steps)])
        kept = {f"{HOME}values": rows, f"{HOME}steps": torch.tensor(self.steps, dtype=torch.long)}
        return kept, list(self.names)

    def restore(self, tensors: Mapping[str, Tensor], names: list[str] | None) -> None:
        """The reverse of ``state``; of an older run, which kept none, it begins at the step."""
        if self.rows is None or f"{HOME}steps" not in tensors or tuple(names or ()) != self.names:
            return
        self.steps = tensors[f"{HOME}steps"].tolist()
        self.rows[: len(self.steps)] = tensors[f"{HOME}values"].to(self.rows)
        gaps = {b - a for a, b in zip(self.steps, self.steps[1:], strict=False)}
        self.every = max(gaps, default=1)


def read(path: Path) -> Iterates | None:
    """The iterates in the checkpoint of a run; None of an older run, or without a checkpoint."""
    try:
        tensors, meta = read_tensors(path, HOME)
    except RunError:
        return None
    if not tensors:
        return None
    return Iterates(tensors[f"{HOME}values"], tensors[f"{HOME}steps"], tuple(meta["iterates"]))


def shares(room: list[int], total: int, generator: np.random.Generator) -> list[int]:
    """How many of ``total`` each gets: the same for all, but no more than it has room for.

    Example:
        >>> shares([1, 100, 100], 9, np.random.default_rng(0))
        [1, 4, 4]
    """
    counts = [0] * len(room)
    left = min(total, sum(room))
    while left:
        open_ = [i for i, most in enumerate(room) if counts[i] < most]
        if len(open_) > left:
            open_ = sorted(generator.choice(open_, left, replace=False).tolist())
        for i in open_:
            counts[i] += 1
        left -= len(open_)
    return counts


def _at(place: int, shape: torch.Size) -> str:
    """[3,1] of a place in the flattened parameter; nothing for a single number."""
    if math.prod(shape) == 1 and not len(shape):
        return ""
    return f"[{','.join(str(int(i)) for i in np.unravel_index(place, tuple(shape)))}]"
