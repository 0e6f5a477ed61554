"""``pyro.infer.SVI`` itself on a model and a guide, Pyro's global state left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import infer, poutine
from pyro.optim import PyroOptim
from torch import nn

from zoo.context import seeded
from zoo.data import Batch, as_dataset
from zoo.local_params import at_home
from zoo.model import Model, as_model
from zoo.objectives.stock import stock
from zoo.pyro_loss import PyroLoss


@contextmanager
def dense_tables(module: nn.Module) -> Iterator[None]:
    """Tables give dense gradients inside the block: Pyro's optimizers take no sparse ones."""
    tables = [m for m in module.modules() if isinstance(m, nn.Embedding) and m.sparse]
    for table in tables:
        table.sparse = False
    try:
        yield
    finally:
        for table in tables:
            table.sparse = True


def pyro_svi(
    model: Model | Callable[..., Any],
    guide: nn.Module,
    data: Any,
    *,
    loss: Any = None,
    optim: Any = None,
    steps: int = 1000,
    batch_size: int | None = None,
    seed: int = 0,
) -> list[float]:
    """Trains with ``pyro.infer.SVI`` itself; the global parameter store is put back on exit.

    Args:
        model: p.
        guide: q, an ``nn.Module``.
        data: the data set.
        loss: a Pyro ELBO, ``Trace_ELBO()`` by default, or one of ours, ``PyroLoss("iwae")``.
        optim: a Pyro optimizer; ``PyroOptim(torch.optim.Adam, {"lr": 0.01}, None)`` by default.
        steps: SVI steps.
        batch_size: rows a step; all by default.
        seed: of the draws and of the order of the rows.

    Returns:
        The loss of each step, in nats per datapoint.

    Raises:
        ValueError: where the loss would be wrong for the pair, or data of which only some rows have
            labels.
    """
    model, data = as_model(model), as_dataset(data)
    if data.partial:
        raise ValueError(
            f"{', '.join(data.partial)} is known for some rows only, and an SVI step takes rows of "
            "one kind, so it would weigh them wrongly; use fit with objective=Trace_ELBO()"
        )
    ours = isinstance(loss, PyroLoss)
    judge: Any = loss if ours else stock(infer.Trace_ELBO() if loss is None else loss)
    model.resolve(next(data.batches()))
    p = judge.prepared(model)

    def model_last(batch: Batch) -> Any:
        with poutine.block(hide_types=["param"]):  # PyroModules name theirs by themselves
            result = p(batch)
        # Named only now: a PyroModule that ends takes the marks off all parameters of the store.
        pyro.module("model", model)
        pyro.module("guide", guide)
        return result

    def guide_first(batch: Batch) -> Any:
        with poutine.block(hide_types=["param"]), at_home(guide):
            return guide(batch)

    losses: list[float] = []
    with pyro.get_param_store().scope(), seeded(seed, model.device), dense_tables(guide):
        optim = optim or PyroOptim(torch.optim.Adam, {"lr": 0.01})
        if ours:
            svi = infer.SVI(p, guide, optim, loss)
        else:
            svi = infer.SVI(model_last, guide_first, optim, copy.copy(judge.loss))
        epoch = 0
        while len(losses) < steps:
            for index in data.epoch(batch_size, seed, epoch):
                batch = data.batch(index)
                judge.check(model, guide, batch)
                losses.append(float(svi.step(batch)) / batch.size)
                if len(losses) == steps:
                    break
            epoch += 1
    return losses
