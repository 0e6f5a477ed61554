"""What a person sees and does while a fit runs: a bar, and Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Bar:
    """A progress bar with the bound and the rate, or nothing where there is no terminal."""

    def __init__(self, show: bool, total: int, done: int):
        self.show, self.start = show, done
        self.rich = RichProgress(
            TextColumn("[bold]fit"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} steps"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            disable=not show,
            transient=False,
        )
        self.task = self.rich.add_task("fit", total=total, completed=done, note="")

    def __enter__(self) -> Self:
        self.rich.start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.rich.stop()

    def update(self, result: Any) -> None:
        """Shows the last row of metrics."""
        rows = [row for row in result.metrics if "loss" in row]
        bound = f"objective {-rows[-1]['loss']:.4f} nats/datapoint" if rows else ""
        if rows and "loss_is" in rows[-1]:
            bound += f" ({rows[-1]['loss_is']})"
        rate = result.steps / result.seconds if result.seconds else 0.0
        note = f"{bound}, {rate:.0f} steps/s"
        self.rich.update(self.task, completed=result.steps, note=note)


def progress_bar(show: bool | None, total: int, result: Any) -> Bar:
    """A bar for a fit; by default only on a terminal."""
    return Bar(sys.stderr.isatty() if show is None else show, total, result.steps)


class Interrupt:
    """Turns the first Ctrl-C into a question asked between two steps; the second one interrupts.

    Args:
        ended: whether SIGTERM, which torchrun sends, asks too.

    Attributes:
        asked: whether Ctrl-C has been pressed.
    """

    def __init__(self, ended: bool = False) -> None:
        self.asked = False
        self.signals = [signal.SIGINT, signal.SIGTERM] if ended else [signal.SIGINT]

    def __enter__(self) -> Self:
        self.mine = threading.current_thread() is threading.main_thread()
        if self.mine:
            self.before = [(which, signal.signal(which, self._ask)) for which in self.signals]
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.mine:
            for which, before in self.before:
                signal.signal(which, before)

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def counting(what: str, total: int, show: bool | None = None) -> Iterator[Callable[[int], None]]:
    """A bar for work that is counted; the function that it gives takes how much more is done.

    Args:
        what: is counted.
        total: how much there is.
        show: whether to; by default on a terminal.
    """
    with RichProgress(
        TextColumn("[bold]evaluate"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}% of {task.total:,} " + what),
        TimeRemainingColumn(),
        disable=not (sys.stderr.isatty() if show is None else show),
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.update(task, advance=more)
