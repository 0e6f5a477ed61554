"""Several fits of one small model at once: starts or seeds side by side in one step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.context import seeded, stream, validation
from zoo.data import Dataset, as_dataset
from zoo.engine import RunName, choose
from zoo.fitting import bind_objective
from zoo.model import Model, as_model
from zoo.monitor import check_rows
from zoo.optim import OptimizerName, ScheduleName, learning_rate
from zoo.settings import FitResult, pick_device
from zoo.stacked import Stacked
from zoo.tracing import CannotCapture

__all__ = ["fit_together"]


def fit_together(
    pairs: Sequence[tuple[Model | Callable[..., Any], Any]],
    data: Any,
    objective: str | Callable[..., Tensor] = "elbo",
    *,
    steps: int = 1000,
    batch_size: int | None = None,
    lr: float = 0.01,
    optimizer: OptimizerName = "adam",
    schedule: ScheduleName = "constant",
    clip: float | None = None,
    weight_decay: float = 0.0,
    seed: int = 0,
    device: str = "auto",
    run: RunName = "auto",
    log_every: int = 100,
    objective_options: Mapping[str, Any] | None = None,
) -> list[FitResult]:
    """Fits R pairs of one structure at once, in place: their weights are stacked, (R, …), and
    ``torch.vmap`` takes one step of all.

    Each pair minimises the objective as ``fit`` would, with noise and an order of the rows of its
    own (that of seed, seed + 1, …). A GPU that a small model leaves idle takes R of them in nearly
    the time of one; so does a CPU while Python is what takes the time. The draws are not those of R
    calls of ``fit``, which have a stream each. A pair whose loss is not finite stops there with its
    weights as they were, and the others go on.

    Args:
        pairs: (model, guide), equal but for the values of their weights.
        data: what ``as_dataset`` takes.
        objective: a word or a callable, as for ``fit``.
        steps: optimizer steps of each.
        batch_size: rows a step of each; by default all. The last, smaller step of an epoch is left
            out.
        lr, optimizer, schedule, clip, weight_decay, log_every, objective_options: as for ``fit``.
        seed: of the draws, and of the order of the rows.
        device: ``auto``, ``cpu`` or ``cuda``.
        run: as for ``fit``; eager here is one vmapped step after the other.

    Returns:
        A result for each pair.

    Raises:
        ValueError: no pairs, pairs of different structure, tables of a row a datapoint.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> x = torch.randn(50, 3)
        >>> models = [PPCA(data_dim=3, latent_dim=1) for _ in range(4)]
        >>> results = fit_together([(m, Guide(m, x, "exact")) for m in models], x, steps=20)
        >>> len(results), results[3].steps
        (4, 20)
    """
    where, data = pick_device(device), as_dataset(data)
    name, loss_of = bind_objective(objective, objective_options)
    couples = [(as_model(model), guide) for model, guide in pairs]
    if not couples or steps < 0:
        raise ValueError(f"expected pairs and steps from 0, got {len(couples)} and {steps}")
    if min(log_every, 1 if batch_size is None else batch_size, 1 if clip is None else clip) <= 0:
        raise ValueError(
            f"log_every, batch_size and clip are above 0, got {log_every}, {batch_size}, {clip}"
        )
    if data.partial or not data.resident:
        raise ValueError("rows that are read on demand, or labelled in part, are fitted by fit")
    for part in (p for couple in couples for p in couple if isinstance(p, nn.Module)):
        part.to(where)
    data = data.to(where)
    rows = min(batch_size or len(data), len(data))
    results = [FitResult(model, guide, name) for model, guide in couples]
    check_rows(couples[0][0], data)
    way, why = choose(run, where, steps)
    with seeded(stream(seed, "together"), where), validation(False):
        step = Stacked(results, data, loss_of, rows, log_every, clip)
        step.optimize(optimizer, lr, weight_decay)
        move, way, why = _mover(step, way, why)
        rate = partial(learning_rate, schedule, lr, steps=steps)
        orders = [_indices(data, rows, seed + r) for r in range(len(results))]
        clock, done, window = time.perf_counter(), 0, list[Tensor]()
        while done < steps:
            count = min(step.room, steps - done, log_every - done % log_every)
            step.fill([[next(o) for o in orders] for _ in range(count)], rate, done)
            move(count)
            done += count
            window.append(step.state["losses"][:count].clone())
            if done % log_every == 0 or done == steps:
                _log(results, torch.cat(window), done, rate(step=done - 1), clock)
                window.clear()
        step.give_back()
    for result in results:
        result.run = {"way": way, "why": result.run.get("why", why)}
    return results


def _indices(data: Dataset, rows: int, seed: int) -> Any:
    epoch = 0
    while True:
        yield from (i for i in data.epoch(rows, seed, epoch) if len(i) == rows)
        epoch += 1


def _log(results: list[FitResult], losses: Tensor, done: int, rate: float, clock: float) -> None:
    """A row of metrics for each that is still going, (M, R) losses since the last."""
    seconds = time.perf_counter() - clock
    for result, mine in zip(results, losses.T.tolist(), strict=True):
        if "why" in result.run:
            continue
        good = next((k for k, v in enumerate(mine) if v != v or abs(v) == float("inf")), len(mine))
        if good < len(mine):
            result.run["why"] = f"the loss is {mine[good]} at step {done - len(mine) + good}"
        result.steps, result.seconds = done - len(mine) + good, seconds
        if good:
            loss = sum(mine[:good]) / good
            row = {"step": result.steps, "loss": loss, "lr": rate, "seconds": round(seconds, 3)}
            result.metrics.append(row)


def _mover(step: Stacked, way: str, why: str) -> tuple[Callable[[int], None], str, str]:
    from zoo.running import WAYS, graph_of, in_order

    if way != "eager":
        try:
            return WAYS[way](graph_of(step), step), way, why
        except CannotCapture as error:
            way, why = "eager", f"{way} is not possible: {error}"
    return in_order(step, step), way, why
