"""What a loop asks of the processes that fit together, where there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from zoo.batch import Batch


class Alone:
    """One process, which has all rows: what a loop asks of its team, answered in the simplest way.

    Attributes:
        first: whether this process writes files, prints and calls back.
        size: how many processes there are.
        divides: whether rows are divided.
    """

    first = True
    size = 1
    divides = False

    def begin(self, modules: Mapping[str, nn.Module], data: Any, recorder: Any) -> None:
        """Before the optimizers are made: the same weights everywhere, tables cut."""

    def end(self) -> None:
        """After the last step: tables whole again."""

    def parts(self, found: Iterable[tuple[Batch, float]]) -> Iterable[tuple[Batch, float]]:
        """The own part of each batch of a step, with its weight in the loss."""
        return found

    def drawing(self, batch: Batch, model: Any, guide: Any) -> Any:
        """A block in which the loss of a batch of ``parts`` is computed.

        Draws are those of all rows. Buffers that change, such as running means, become the mean of
        the processes', weighted by their rows.
        """
        return nullcontext()

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Summed over the processes, elsewhere than in place."""
        return list(tensors)

    def summed(self, loss: Tensor, parts: Iterable[Any]) -> Tensor:
        """The loss of all rows; the gradients left on the parameters of parts become theirs."""
        return loss

    def row_norm(self, gradient: Tensor) -> Tensor:
        """(): the length of the gradient of a table, of which this process may have some rows."""
        return gradient.norm()

    def agreed(self, stop: bool, save: bool, now: bool) -> tuple[bool, bool]:
        """Whether to stop, and to save, as all processes see it."""
        return stop, save

    def same(self, tensor: Tensor) -> Tensor:
        """As the first process has it."""
        return tensor

    def once(self, act: Callable[..., Any], *arguments: Any) -> None:
        """Done by the first process; where it fails, all fail."""
        act(*arguments)

    def told(self, found: list[str]) -> list[str]:
        """What all processes have found."""
        return found

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Tables are whole inside the block, for a look at held-out rows."""
        yield

    def whole(self, tensors: dict[str, Tensor], last: int = 0) -> dict[str, Tensor]:
        """What a checkpoint keeps: tables and their moments whole. ``last``: the optimizers."""
        return tensors

    def cut(self, tensors: dict[str, Tensor], last: int = 0) -> dict[str, Tensor]:
        """The reverse of ``whole``."""
        return tensors
