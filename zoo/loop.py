"""The loop of a fit, and everything that a checkpoint of it holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo import checkpoint, store
from zoo.context import validation
from zoo.data import Batch, Dataset
from zoo.model import Model
from zoo.monitor import EarlyStopping, blame, held_out_bound
from zoo.optim import clip_gradients, make_optimizers
from zoo.progress import Interrupt, progress_bar


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the step, the site and the value."""


@dataclass
class FitResult:
    """What a fit leaves behind; ``model`` and ``guide`` are trained in place.

    Attributes:
        objective: its word.
        steps: steps taken.
        seconds: wall-clock time of the steps, looks at held-out rows included.
        interrupted: whether Ctrl-C ended it.
        stopped_early: whether held-out patience ended it.
        best_step: the step whose weights were kept, where there are held-out rows.
        metrics: a row every ``log_every`` steps: step, loss (nats per datapoint, averaged since the
            row before), lr, seconds; held_out at each look.
    """

    model: Model
    guide: Any
    objective: str
    steps: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    stopped_early: bool = False
    best_step: int | None = None
    metrics: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Settings:
    """How a fit runs; the arguments of ``fit``."""

    steps: int
    batch_size: int
    per_epoch: int
    rate: Callable[..., float]
    clip: float | None
    seed: int
    eval_every: int
    log_every: int
    checkpoint_every: float
    patience: int
    progress: bool | None
    callbacks: tuple[Callable[[FitResult], Any], ...]
    out: Path | None
    recipe: dict[str, Any] = field(default_factory=dict)  # what a resumed fit must share

    def __post_init__(self) -> None:
        if self.steps < 0 or min(self.log_every, self.eval_every, self.patience) < 1:
            raise ValueError("steps count from 0; log_every, eval_every and patience from 1")


class Loop:
    """One fit: ``run`` takes its steps, ``save`` and ``restore`` keep its whole state."""

    def __init__(
        self,
        result: FitResult,
        data: Dataset,
        loss_of: Callable[..., Tensor],
        settings: Settings,
        optimizer: str,
        lr: float,
        held_out: Dataset | None,
    ):
        self.result, self.data, self.loss_of, self.settings = result, data, loss_of, settings
        self.held_out, self.device = held_out, data.device
        parts = {"model": result.model, "guide": result.guide}
        self.modules = {k: v for k, v in parts.items() if isinstance(v, nn.Module)}
        self.optimizers = make_optimizers(self.modules.values(), optimizer, lr)
        self.stopping = EarlyStopping(settings.patience) if held_out is not None else None
        self.best: dict[str, Tensor] = {}
        self.window = torch.zeros(settings.log_every, device=self.device)  # losses not yet read
        self.filled, self.resumed = 0, False
        self.everything = data.batch() if settings.batch_size == len(data) else None

    def run(self) -> None:
        """Takes the steps that are left."""
        result, settings = self.result, self.settings
        if settings.out:
            store.begin(settings.out, result, self.data, self.resumed)
        if not self.optimizers and result.objective != "em":
            print("nothing to train: no parameter is free")
            if settings.out:
                checkpoint.save(settings.out, self)
            return
        clock = time.perf_counter() - result.seconds
        saved = time.perf_counter()
        bar = progress_bar(settings.progress, settings.steps, result)
        with Interrupt() as interrupt, bar:
            for index in self.indices():
                if result.steps >= settings.steps or result.stopped_early or interrupt.asked:
                    break
                with validation(result.steps == 0):
                    self.step(index)
                result.seconds = time.perf_counter() - clock
                if self.filled == settings.log_every:
                    self.flush()
                    bar.update(result)
                if self.stopping and result.steps % settings.eval_every == 0:
                    self.look()
                if settings.out and time.perf_counter() - saved > settings.checkpoint_every:
                    checkpoint.save(settings.out, self)
                    saved = time.perf_counter()
            result.interrupted = interrupt.asked and result.steps < settings.steps
            if settings.out:
                checkpoint.save(settings.out, self)
            self.flush()
            if self.best:
                self.load_weights(self.best)
            bar.update(result)

    def indices(self) -> Iterator[Tensor]:
        """The rows of every step from the present one on."""
        epoch, done = divmod(self.result.steps, self.settings.per_epoch)
        while True:
            order = self.data.epoch(self.settings.batch_size, self.settings.seed, epoch)
            for i, index in enumerate(order):
                if i >= done:
                    yield index
            epoch, done = epoch + 1, 0

    def step(self, index: Tensor) -> None:
        """One optimizer step on the rows ``index``; the loss stays on the device."""
        result = self.result
        batch = self.everything or self.data.batch(index)
        rate = self.settings.rate(step=result.steps)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate
        self.drawn_from = torch.get_rng_state()  # so that a failure can be looked at again
        loss = self.loss_of(result.model, result.guide, batch)
        if loss.requires_grad:
            loss.backward()
        loss = loss.detach()
        if self.device.type == "cpu":
            if not torch.isfinite(loss):
                raise self.failure(result.steps, loss, batch)
        else:  # a NaN must not reach the parameters before the window is read
            for part in self.modules.values():
                for parameter in part.parameters():
                    if parameter.grad is not None and not parameter.grad.is_sparse:
                        parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        if self.settings.clip is not None and self.optimizers:
            clip_gradients(self.optimizers, self.settings.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self.window[self.filled] = loss
        self.filled += 1
        result.steps += 1

    def failure(self, step: int, loss: Tensor, batch: Batch) -> NonFiniteLossError:
        """What to tell the user about a loss that is not finite."""
        torch.set_rng_state(self.drawn_from)
        where = blame(self.result.model, self.result.guide, self.loss_of, batch)
        kept = f"; the last checkpoint is in {self.settings.out}" if self.settings.out else ""
        return NonFiniteLossError(
            f"the loss is {loss} at step {step}: {where}; try a smaller lr, clip=, or check the "
            f"data's scale{kept}"
        )

    def flush(self) -> None:
        """Reads the losses since the last row of metrics: the one place where the host waits."""
        if not self.filled:
            return
        losses = self.window[: self.filled]
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            step = self.result.steps - self.filled + int(bad[0])
            raise self.failure(step, losses[bad[0]], self.data.batch(next(self.indices())))
        row = {
            "step": self.result.steps,
            "loss": float(losses.mean()),
            "lr": self.settings.rate(step=self.result.steps - 1),
            "seconds": round(self.result.seconds, 3),
        }
        self.filled = 0
        self.log(row)

    def log(self, row: dict[str, float]) -> None:
        """Adds a row of metrics and shows it to the callbacks."""
        self.result.metrics.append(row)
        if self.settings.out:
            store.append_metrics(self.settings.out, row)
        for callback in self.settings.callbacks:
            callback(self.result)

    def look(self) -> None:
        """Compares the held-out bound with the best so far, and keeps the weights that rose."""
        assert self.stopping is not None and self.held_out is not None
        result = self.result
        rows = held_out_bound(result.model, result.guide, self.held_out, 16, self.settings.seed)
        if self.stopping.update(rows, result.steps):
            self.best = {k: v.clone() for k, v in self.weights().items()}
            result.best_step = result.steps
        result.stopped_early = self.stopping.done
        self.log({"step": result.steps, "held_out": rows.mean().item()})

    def weights(self) -> dict[str, Tensor]:
        """Every parameter and buffer, by ``model.name`` and ``guide.name``."""
        return {
            f"{side}.{name}": value.detach()
            for side, part in self.modules.items()
            for name, value in part.state_dict().items()
        }

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """The reverse of ``weights``."""
        for side, part in self.modules.items():
            start = f"{side}."
            part.load_state_dict(
                {k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)}
            )

    def restore(self) -> None:
        """Takes up the checkpoint of the run in ``out``."""
        assert self.settings.out is not None
        checkpoint.load(self.settings.out, self)
        self.resumed = True
