"""Gradients of a loss at the parameters as they are: the same entries, draw after draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.backward import Backward
from zoo.context import seeded, stream, validation
from zoo.optim import sparse_tables

ENTRIES = 20_000  # of the parameters of one side, at most

Places = Mapping[str, Sequence[tuple[str, Tensor]]]  # side -> (parameter, entries of it)


def entries(
    sides: Mapping[str, nn.Module],
    seed: int,
    rows: Tensor | None = None,
    names: Mapping[str, set[str]] | None = None,
) -> dict[str, list[tuple[str, Tensor]]]:
    """Places in the parameters of each side, all or as many as there is room for, at random.

    Args:
        sides: by name; a parameter that two share is of the first.
        seed: of the choice.
        rows: (M,), the rows of tables that are looked at; None leaves tables out.
        names: side -> the parameters that are looked at; by default all that are trained.
    """
    generator = torch.Generator().manual_seed(stream(seed, "entries of gradients"))
    tables, seen = sparse_tables(sides.values()), set[Tensor]()
    found: dict[str, list[tuple[str, Tensor]]] = {}
    for side, part in sides.items():
        free: dict[str, Tensor] = {}  # name -> the entries that there are
        for name, p in part.named_parameters():
            wanted = names is None or name in names[side]
            if not p.requires_grad or p in seen or not wanted or (p in tables and rows is None):
                continue
            seen.add(p)
            every = torch.arange(p.numel())
            if p in tables and rows is not None:
                every = every.reshape(len(p), -1)[rows.to("cpu")].flatten()
            free[name] = every
        found[side] = _some(free, generator)
    return found


def draws(
    model: Any,
    guide: Any,
    sides: Mapping[str, nn.Module],
    places: Places,
    backward: Backward,
    steps: Iterator[Tensor],
    count: int,
    key: int,
) -> dict[str, Tensor]:
    """Side -> (G, P), float64: ``count`` gradients at ``places``, of rows that ``steps`` gives.

    Nothing is changed: gradients, buffers, parameters that are not trained and the random numbers
    outside are put back.

    Raises:
        ValueError: a loss that is not finite, or without a gradient.
    """
    rows: dict[str, list[Tensor]] = {side: [] for side, chosen in places.items() if chosen}
    device = backward.data.device
    with _as_they_were(sides), seeded(key, device), validation(False), torch.enable_grad():
        for _ in range(count):
            for part in sides.values():
                part.zero_grad(set_to_none=True)
            if not backward(model, guide, next(steps), 0).isfinite():
                raise ValueError("the loss is not finite, so there is no gradient to look at")
            for side in rows:
                named = dict(sides[side].named_parameters())
                chosen = [_gradient(named[name], at.to(device)) for name, at in places[side]]
                rows[side].append(torch.cat(chosen))
    return {side: torch.stack(parts) for side, parts in rows.items()}


def visits(data: Any, size: int, seed: int, own: int | None) -> Iterator[Tensor]:
    """Rows of step after step, (B,) each, as in a fit."""
    epoch = 0
    while True:
        yield from data.epoch(size, seed, epoch, own)
        epoch += 1


def _some(free: Mapping[str, Tensor], generator: torch.Generator) -> list[tuple[str, Tensor]]:
    total = sum(map(len, free.values()))
    chosen = torch.arange(total)
    if total > ENTRIES:
        chosen = torch.randint(total, (ENTRIES,), generator=generator).unique()
    found, start = [], 0
    for name, every in free.items():
        inside = chosen[(chosen >= start) & (chosen < start + len(every))] - start
        if len(inside):
            found.append((name, every[inside]))
        start += len(every)
    return found


def _gradient(parameter: Tensor, at: Tensor) -> Tensor:
    slope = parameter.grad
    if slope is None:
        return torch.zeros(len(at), dtype=torch.float64, device=at.device)
    return (slope.to_dense() if slope.is_sparse else slope).take(at).double()


@contextmanager
def _as_they_were(sides: Mapping[str, nn.Module]) -> Iterator[None]:
    """Gradients, and what a loss may write, are put back after the block."""
    grads = [(p, p.grad) for part in sides.values() for p in part.parameters()]
    still = [p for p, _ in grads if not p.requires_grad]  # such as the states of chains
    still += [b for part in sides.values() for b in part.buffers()]
    written = [(value, value.clone()) for value in still]
    try:
        yield
    finally:
        for parameter, grad in grads:
            parameter.grad = grad
        with torch.no_grad():
            for value, before in written:
                value.copy_(before)
