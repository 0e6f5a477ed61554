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
from zoo.engine import AT_ONCE, RunName, choose
from zoo.fitting import bind_objective
from zoo.model import Model, as_model
from zoo.monitor import check_rows
from zoo.optim import OptimizerName, ScheduleName, learning_rate, make_optimizers, sparse_tables
from zoo.settings import FitResult, pick_device
from zoo.tracing import CannotCapture, Gaussian, swapped
from zoo.updates import COLUMNS, betas_of, coefficients, moments, updated

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


class Stacked:
    """One step of R pairs, a function of the tensors in ``state``, as ``zoo.capture.Step``."""

    def __init__(
        self,
        results: list[FitResult],
        data: Dataset,
        loss_of: Callable[..., Tensor],
        rows: int,
        log_every: int,
        clip: float | None,
    ):
        self.results, self.data, self.loss_of, self.clip = results, data, loss_of, clip
        self.room, self.device = min(log_every, AT_ONCE), data.device
        self.whole = rows == len(data)
        every = [_tensors(r) for r in results]
        shapes = [{k: (v.shape, v.dtype) for k, v in own.items()} for own in every]
        if any(other != shapes[0] for other in shapes):
            raise ValueError("the pairs are of different structure; each has parameters of its own")
        first = results[0]
        self.modules = [m for m in (first.model, first.guide) if isinstance(m, nn.Module)]
        if sparse_tables(self.modules):
            raise ValueError("a guide with a table is fitted by fit: its step is small already")
        self.originals = every[0]
        R = len(results)
        stacked = {k: torch.stack([own[k].detach() for own in every]) for k in every[0]}
        self.trained = nn.ParameterDict(
            {_key(k): nn.Parameter(stacked[k]) for k, v in every[0].items() if v.requires_grad}
        )
        self.still = {k: v for k, v in stacked.items() if not every[0][k].requires_grad}
        long = {"dtype": torch.long, "device": self.device}
        self.state: dict[str, Tensor] = {
            "i": torch.zeros(1, **long),
            "order": torch.zeros(self.room, R, 0 if self.whole else rows, **long),
            "numbers": torch.zeros(self.room, COLUMNS, dtype=torch.float64, device=self.device),
            "losses": torch.zeros(self.room, R, device=self.device),
            "halted": torch.zeros(R, dtype=torch.bool, device=self.device),
        }

    def optimize(self, name: OptimizerName, lr: float, weight_decay: float) -> None:
        """Chooses the optimizer, one for all: its arithmetic is element by element."""
        (self.optimizer,) = make_optimizers([self.trained], name, lr, weight_decay=weight_decay)
        self.kept: dict[str, list[str]] = {}
        for key, value in self.trained.items():
            held = {f"{key}/{j}": m for j, m in enumerate(moments(self.optimizer, value))}
            self.state |= {key: value.detach(), **held}
            self.kept[key] = list(held)
        self.state |= self.still
        self.names, self.betas = list(self.state), betas_of([self.optimizer])

    def __call__(self, *tensors: Tensor) -> tuple[()]:
        """Takes step ``i`` of every pair; the state is changed in place."""
        s = dict(zip(self.names, tensors, strict=True))
        numbers = s["numbers"].index_select(0, s["i"])[0]
        index = s["order"].index_select(0, s["i"])[0]
        values = {k: s[_key(k)] if _key(k) in self.kept else s[k] for k in self.originals}
        free = {k: v for k, v in values.items() if _key(k) in self.kept}
        held = {k: v for k, v in values.items() if k not in free}
        with torch.enable_grad(), Gaussian():
            step = torch.func.grad_and_value(self._loss)
            found = torch.vmap(step, randomness="different")(free, held, index)
        gradients: dict[str, Tensor] = found[0]
        loss: Tensor = found[1].detach()  # (R,)
        with torch.no_grad():
            ok = torch.isfinite(loss) & ~s["halted"]
            factor = torch.ones_like(loss)
            if self.clip is not None:
                norm = torch.stack(
                    [g.reshape(len(loss), -1).square().sum(1) for g in gradients.values()]
                )
                factor = (self.clip / (norm.sum(0).sqrt() + 1e-12)).clamp(max=1.0)
            for name, gradient in gradients.items():
                key = _key(name)
                shape = (-1, *[1] * (gradient.dim() - 1))
                kept = [s[k] for k in self.kept[key]]
                shorter = gradient if self.clip is None else gradient * factor.view(shape)
                new, moved = updated(self.optimizer, s[key], shorter, kept, numbers)
                for home, after in zip((s[key], *kept), (new, *moved), strict=True):
                    home.copy_(torch.where(ok.view(shape), after, home))
            s["halted"].copy_(~ok)
            s["losses"].index_copy_(0, s["i"], loss[None].to(s["losses"].dtype))
        return ()

    def _loss(self, free: dict[str, Tensor], held: dict[str, Tensor], index: Tensor) -> Tensor:
        first = self.results[0]
        others = {self.originals[k]: v for k, v in {**free, **held}.items()}
        with swapped(self.modules, others):
            return self.loss_of(
                first.model, first.guide, self.data.batch(None if self.whole else index)
            )

    def fill(self, orders: list[list[Tensor]], rate: Callable[..., float], first: int) -> None:
        """Says which rows the next steps take, and their coefficients."""
        lines = [
            coefficients(rate(step=first + k), first + k + 1, self.betas)
            for k in range(len(orders))
        ]
        self.state["numbers"][: len(orders)].copy_(torch.tensor(lines, dtype=torch.float64))
        if not self.whole:
            self.state["order"][: len(orders)].copy_(torch.stack([torch.stack(o) for o in orders]))
        self.state["i"].zero_()

    @torch.no_grad()
    def give_back(self) -> None:
        """Every pair gets its weights."""
        for r, result in enumerate(self.results):
            for name, home in _tensors(result).items():
                if _key(name) in self.kept:
                    home.copy_(self.state[_key(name)][r])


def _tensors(result: FitResult) -> dict[str, Tensor]:
    """Parameters and buffers by ``model.name`` and ``guide.name``, each once."""
    found: dict[Tensor, str] = {}
    for side, part in (("model", result.model), ("guide", result.guide)):
        if isinstance(part, nn.Module):
            for name, value in (*part.named_parameters(), *part.named_buffers()):
                if value.numel():
                    found.setdefault(value, f"{side}.{name}")
    return {name: value for value, name in found.items()}


def _key(name: str) -> str:
    return name.replace(".", "/")
