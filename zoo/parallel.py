"""Training by several processes: one step of all, each with a part of its rows.

Started by torchrun, ``fit`` takes the same steps as in one process, to rounding. Every process
walks through the same rows in the same order, computes the gradient of its part of each step
(``zoo.shares``), and the sum over the processes, one all-reduce of one flat vector, moves the same
weights everywhere. Tables are divided by row (``zoo.tables``). The all-reduce is that of
``torch.distributed`` as an operation, which a captured step holds like any other. Its module
wrapper, ``DistributedDataParallel``, does not fit: it hooks on to the forward of one module, and
the loss is one of two modules run under Pyro's handlers.

What is not that of one process, or refused: free bits, which are counted over the rows of a process
(as over the parts of ``accumulate``), and batch normalisation, of the rows of a process, too; draws
that are no element-wise normal, uniform or exponential ones, and dropout; ``em``. Every process
holds the data, and reads all rows of a step. Files are written and callbacks called by the first
process alone; all read the folder of a run that is resumed, by any number of processes.

Example, of a script that ``torchrun --nproc-per-node 2 script.py`` runs::

    result = zoo.fit(model, Guide(model, data), data, batch_size=256, out="runs/two")
    if zoo.launch.rank() == 0:
        print(result.metrics[-1])
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zoo.alone import Alone
from zoo.batch import Batch
from zoo.launch import launched
from zoo.shares import Watch, divided, part_of
from zoo.tables import Tables

_joins = itertools.count()
_inside = False


class Team(Alone):
    """The processes of torchrun.

    Ctrl-C, and torchrun's own SIGTERM, end the fit of all at the next row of metrics.

    Args:
        device: of this process.

    Attributes:
        rank, size: which process this is, of how many.
    """

    def __init__(self, device: torch.device):
        self.device, self.rank, self.size = device, dist.get_rank(), dist.get_world_size()
        self.first, self.divides = self.rank == 0, self.size > 1
        self.group = dist.group.WORLD.group_name  # type: ignore[union-attr]
        self.tables = Tables(self.rank, self.size, lambda t: self.sum([t])[0], self._from)
        self.watch, self.share = self.divides, 1.0  # of the rows of the present batch

    # The processes as one ---------------------------------------------------------------------

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        result: list[Tensor] = list(tensors)
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            places = [i for i, t in enumerate(tensors) if t.dtype == dtype]
            flat = torch.cat([tensors[i].reshape(-1) for i in places])
            total = torch.ops._c10d_functional.wait_tensor(
                torch.ops._c10d_functional.all_reduce(flat, "sum", self.group)
            )
            for i, piece in zip(
                places, total.split([tensors[i].numel() for i in places]), strict=True
            ):
                result[i] = piece.view(tensors[i].shape)
        return result

    def _from(self, tensor: Tensor, rank: int) -> Tensor:
        """As that process has it."""
        kept = tensor.detach().contiguous().clone()
        dist.broadcast(kept, rank)
        return kept

    def same(self, tensor: Tensor) -> Tensor:
        return self._from(tensor, 0)

    def once(self, act: Callable[..., Any], *arguments: Any) -> None:
        said: list[Any] = [None]
        if self.first:
            try:
                act(*arguments)
            except ValueError as error:
                said = [error]
        dist.broadcast_object_list(said, 0)
        if said[0] is not None:
            raise said[0]

    def told(self, found: list[str]) -> list[str]:
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, found)
        return [text for texts in every for text in texts]

    def agreed(self, stop: bool, save: bool, now: bool) -> tuple[bool, bool]:
        if not now:
            return False, False
        asked = torch.tensor([stop, save and self.first], device=self.device, dtype=torch.long)
        stop, save = (bool(n) for n in self.sum([asked])[0])
        return stop, save

    # Begin and end ----------------------------------------------------------------------------

    def begin(self, modules: Mapping[str, nn.Module], data: Any, recorder: Any) -> None:
        mark = torch.tensor([data.fingerprint, len(data)], device=self.device)
        other = (self.same(mark) != mark).any().long()
        if bool(self.sum([other])[0]):
            raise ValueError("the processes have other data; load the same in all of them")
        for part in modules.values():
            for value in (*part.parameters(), *part.buffers()):
                if value.numel():
                    value.data.copy_(self.same(value.data))
        self.tables.begin(modules, recorder)

    def end(self) -> None:
        self.tables.end()

    @contextmanager
    def looking(self) -> Iterator[None]:
        with self.tables.looking():
            yield

    def whole(self, tensors: dict[str, Tensor], last: int = 0) -> dict[str, Tensor]:
        return self.tables.whole(tensors, last)

    def cut(self, tensors: dict[str, Tensor], last: int = 0) -> dict[str, Tensor]:
        return self.tables.cut(tensors, last)

    # A step -----------------------------------------------------------------------------------

    def parts(self, found: Iterable[tuple[Batch, float]]) -> Iterator[tuple[Batch, float]]:
        if not self.divides:
            yield from found
            return
        for batch, weight in found:
            part, self.share = part_of(batch, self.rank, self.size)
            self.tables.part = part
            yield part, weight * self.share
        self.tables.part = None

    @contextmanager
    def drawing(self, batch: Batch, model: Any, guide: Any) -> Iterator[None]:
        modules = [part for part in (model, guide) if isinstance(part, nn.Module)]
        before = [(b, b._version) for m in modules for b in m.buffers()]
        watch, self.watch = Watch() if self.watch else nullcontext(), False
        with divided(batch, model), watch:
            yield
        after = [b for m in modules for b in m.buffers()]
        moved = [
            new
            for new, (old, version) in zip(after, before, strict=True)
            if (new is not old or new._version != version) and new.is_floating_point()
        ]
        with torch.no_grad():
            for buffer, mean in zip(moved, self.sum([b * self.share for b in moved]), strict=True):
                buffer.copy_(mean)

    @torch.no_grad()
    def summed(self, loss: Tensor, parts: Iterable[Any]) -> Tensor:
        modules = [part for part in parts if isinstance(part, nn.Module)]
        every = dict.fromkeys(p for m in modules for p in m.parameters())
        grads = [p.grad for p in every if p.grad is not None and not p.grad.is_sparse]
        loss, *found = self.sum([loss, *grads])
        for old, new in zip(grads, found, strict=True):
            old.copy_(new)
        return loss

    def row_norm(self, gradient: Tensor) -> Tensor:
        return self.sum([gradient.square().sum()])[0].sqrt()


def leave() -> None:
    """Later fits of this process are its own, whatever the others do."""
    global _inside
    _inside = True


@contextmanager
def joined(device: torch.device) -> Iterator[Alone]:
    """The processes that torchrun has started, for one fit; ``Alone`` without it.

    The group (NCCL on CUDA, Gloo elsewhere) is set up from torchrun's environment and destroyed
    after the fit; one that is there already is used and left. A fit inside another is of its own
    process.
    """
    global _inside
    if not launched() or _inside:
        yield Alone()
        return
    own = not dist.is_initialized()
    if own:
        store, rank, size = next(iter(dist.rendezvous("env://")))
        store = dist.PrefixStore(f"fit{next(_joins)}", store)
        cuda = device.type == "cuda"
        if cuda:
            torch.cuda.set_device(device)
        backend = "nccl" if cuda else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    _inside = True
    try:
        yield Team(device)
    finally:
        _inside = False
        if own:
            dist.destroy_process_group()
