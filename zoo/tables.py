"""Tables divided over processes: each has 1/W of the rows, and of what optimizers keep of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from zoo.optim import sparse_tables
from zoo.shares import Part


class Summed(torch.autograd.Function):
    """Σ over the processes; so is the gradient, of which each process has its own part."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, total: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.total = total
        return total(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.total(gradients[0]), None


class Tables:
    """The tables of a fit, rows r M … (r+1) M - 1 with process r, M = ⌈N/W⌉.

    In a look-up all processes say which rows they ask for, each gives those that it has, and the
    sum over the processes is what was asked for; the gradient goes the same way back, so that a row
    is moved where it lives. Shapes do not depend on where the rows live: one more row at the end of
    each part stands in for all rows that are elsewhere.

    Args:
        rank, size: which process this is, of W.
        total: the sum of a tensor over the processes.
        sent: a tensor as a process has it.

    Attributes:
        part: the rows that the process is computing with; None between steps.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        total: Callable[[Tensor], Tensor],
        sent: Callable[[Tensor, int], Tensor],
    ):
        self.rank, self.size, self.total, self.sent = rank, size, total, sent
        self.part: Part | None = None
        self.names: dict[str, nn.Parameter] = {}  # the whole tables
        self.homes: dict[nn.Embedding, nn.Parameter] = {}
        self.cuts: dict[nn.Parameter, tuple[nn.Parameter, int]] = {}  # own rows, and N

    def begin(self, modules: Mapping[str, nn.Module], recorder: Any) -> None:
        """Cuts every table; what is recorded of it is recorded where the rows live."""
        tables = sparse_tables(modules.values()) if self.size > 1 else set()
        for side, part in modules.items():
            for name, module in part.named_modules():
                if isinstance(module, nn.Embedding) and module.weight in tables:
                    whole = module.weight
                    self.homes[module] = self.names[f"{side}.{name}.weight"] = whole
                    if whole not in self.cuts:
                        own = nn.Parameter(self._cut(whole.detach()))
                        self.cuts[whole] = own, len(whole)
        if not self.cuts:
            return
        owned = []
        for i, (parameter, at) in enumerate(recorder.places):
            mine = torch.full_like(at, self.rank == 0, dtype=torch.bool)
            if parameter in self.cuts:
                own, width = self.cuts[parameter][0], parameter.shape[1]
                row, mine = self._local(at // width, len(own) - 1)
                recorder.places[i] = own, row * width + at % width
            owned.append(mine)
        mask = torch.cat(owned)
        recorder.merged = lambda rows: self.total(torch.where(mask, rows, 0.0))
        self._divide()

    def end(self) -> None:
        """Makes every table whole again, in every process; then nothing is divided."""
        for whole, (own, rows) in self.cuts.items():
            whole.data = self._gathered(own.detach(), rows, everywhere=True)
        for module, whole in self.homes.items():
            module.weight = whole
            module.__dict__.pop("forward", None)
        self.names, self.homes, self.cuts = {}, {}, {}

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Tables are whole inside the block."""
        before = self.names, self.homes, self.cuts
        self.end()
        try:
            yield
        finally:
            self.names, self.homes, self.cuts = before
            self._divide()

    def _divide(self) -> None:
        for module, whole in self.homes.items():
            module.weight = self.cuts[whole][0]
            module.__dict__["forward"] = partial(self.look_up, module)
        for whole in self.cuts:
            whole.data = whole.data.new_empty(0, whole.shape[1])  # its memory is free

    def look_up(self, module: nn.Embedding, index: Tensor) -> Tensor:
        """(..., P): rows of a table, wherever they live."""
        if self.part is None:
            raise ValueError(
                "the table's rows are divided over the processes while they train; look at it "
                "after the fit"
            )
        own, part = self.cuts[self.homes[module]][0], self.part
        each = index.numel() // part.count  # look-ups for a row
        room = each * -(-part.whole // self.size)
        asked = pad(index.reshape(-1) + 1, (0, room - index.numel()))  # 0 is no row
        before, after = self.rank * room, (self.size - 1 - self.rank) * room
        every = self.total(pad(asked, (before, after))) - 1  # (W room,)
        row, mine = self._local(every, len(own) - 1)
        given = embedding(row, module.weight, sparse=True)
        given = torch.where(mine[:, None], given, 0.0)
        found: Tensor = Summed.apply(given, self.total)  # type: ignore[assignment]
        return found[before : before + index.numel()].view(*index.shape, -1)

    def _local(self, row: Tensor, held: int) -> tuple[Tensor, Tensor]:
        """The place of rows in the own part, and whether they live here; -1 is no row."""
        local = row - self.rank * held
        mine = (row >= 0) & (local >= 0) & (local < held)
        return torch.where(mine, local, held), mine

    # On disk ----------------------------------------------------------------------------------

    def whole(self, tensors: dict[str, Tensor], last: int = 0) -> dict[str, Tensor]:
        """Tensors of a checkpoint, those of tables gathered by the first process."""
        counted = {name: self._rows(name, value, last) for name, value in tensors.items()}
        return {
            name: self._gathered(value, counted[name]) if counted[name] else value
            for name, value in tensors.items()
        }

    def cut(self, tensors: dict[str, Tensor], last: int = 0) -> dict[str, Tensor]:
        """Tensors of a checkpoint, the own rows of tables."""
        return {
            name: self._cut(value) if self._rows(name, value, last) else value
            for name, value in tensors.items()
        }

    def _rows(self, name: str, value: Tensor, last: int) -> int:
        """N of a tensor with a row for each row of a table; 0 for another."""
        for kind in ("best.", "average.sum.", "average.seen."):
            name = name.removeprefix(kind)
        if name in self.names:
            return self.cuts[self.names[name]][1]
        if not self.cuts or not name.startswith(f"optimizer.{last}.") or not value.dim():
            return 0
        return [rows for _, rows in self.cuts.values()][int(name.split(".")[2])]

    def _cut(self, whole: Tensor) -> Tensor:
        held = -(-len(whole) // self.size)
        rows = whole[self.rank * held : (self.rank + 1) * held]
        return torch.cat([rows, rows.new_zeros(held + 1 - len(rows), *rows.shape[1:])])

    def _gathered(self, own: Tensor, rows: int, everywhere: bool = False) -> Tensor:
        pieces = []
        for rank in range(self.size):
            piece = self.sent(own[:-1], rank)
            if everywhere or self.rank == 0:
                pieces.append(piece)
        return torch.cat(pieces)[:rows] if pieces else own
