"""The loop of a fit, and everything that a checkpoint of it holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo import checkpoint, store
from zoo.alone import Alone
from zoo.averaging import Average
from zoo.backward import Backward
from zoo.data import Batch, Dataset
from zoo.engine import Ahead, Engine, choose
from zoo.iterates import Recorder
from zoo.kl_weight import NOT_A_BOUND
from zoo.monitor import EarlyStopping, blame, held_out_bound
from zoo.optim import clip_gradients, make_optimizers
from zoo.progress import Interrupt, progress_bar
from zoo.settings import FitResult, NonFiniteLossError, Settings

__all__ = ["FitResult", "Loop", "NonFiniteLossError", "Settings"]


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
        team: Alone | None = None,
    ):
        self.result, self.data, self.loss_of, self.settings = result, data, loss_of, settings
        self.held_out, self.device = held_out, data.device
        self.team = team = team or Alone()
        if result.objective == "em" and team.divides:
            raise ValueError("em takes an exact step on all rows at once: use one process")
        parts = {"model": result.model, "guide": result.guide}
        self.modules = {k: v for k, v in parts.items() if isinstance(v, nn.Module)}
        self.recorder = Recorder(self.modules, settings.seed)
        team.begin(self.modules, data, self.recorder)
        self.optimizers = make_optimizers(self.modules.values(), optimizer, lr, **settings.adam)
        whole = settings.batch_size == len(data)
        how = settings.accumulate, settings.warm_up, settings.half, settings.labelled_rows, team
        self.backward = Backward(loss_of, data, whole, *how)
        self.average = None if settings.ema is None else Average(self.modules, settings.ema)
        self.stopping = EarlyStopping(settings.patience) if held_out is not None else None
        self.engine = Engine(self, *choose(settings.run, self.device, settings.steps))
        self.best: dict[str, Tensor] = {}
        self.window = torch.zeros(settings.log_every, device=self.device)  # losses not yet read
        self.filled, self.resumed = 0, False

    def run(self) -> None:
        """Takes the steps that are left."""
        result, settings, stop = self.result, self.settings, False
        if settings.out:
            self.team.once(store.begin, settings.out, result, self.data, self.resumed)
        if not self.optimizers and result.objective != "em":
            print("nothing to train: no parameter is free") if self.team.first else None
            if settings.out:
                checkpoint.save(settings.out, self)
            return
        if self.engine.way != "eager":
            self.say(f"run: {self.engine.way} ({self.engine.why})")
        clock = time.perf_counter() - result.seconds
        saved = time.perf_counter()
        bar = progress_bar(settings.progress if self.team.first else False, settings.steps, result)
        with Interrupt(self.team.divides) as interrupt, bar:
            ahead = Ahead(self.indices())
            while result.steps < settings.steps and not (result.stopped_early or stop):
                self.engine.advance(ahead.take(min(self.until_look(), self.engine.room)))
                result.seconds = time.perf_counter() - clock
                if self.filled == settings.log_every:
                    self.flush()
                    bar.update(result)
                if self.stopping and result.steps % settings.eval_every == 0:
                    self.look()
                due = bool(settings.out) and time.perf_counter() - saved > settings.checkpoint_every
                stop, due = self.team.agreed(interrupt.asked, due, self.filled == 0)
                if settings.out and due:
                    checkpoint.save(settings.out, self)
                    saved = time.perf_counter()
            result.interrupted = stop and result.steps < settings.steps
            if settings.out:
                checkpoint.save(settings.out, self)
            self.flush()
            result.iterates = self.recorder.iterates()
            if self.best or self.average:
                self.load_weights(self.best or self.shown())
            self.team.end()
            bar.update(result)

    def until_look(self) -> int:
        """The steps before something must be read, saved or looked at."""
        settings, done = self.settings, self.result.steps
        left = min(settings.steps - done, settings.log_every - self.filled)
        return (
            min(left, settings.eval_every - done % settings.eval_every) if self.stopping else left
        )

    def say(self, line: str) -> None:
        """A line for the user, where there is one to read it."""
        if self.settings.progress is not False and self.team.first:
            print(line)

    def indices(self) -> Iterator[Tensor]:
        """The rows of every step from the present one on."""
        settings = self.settings
        epoch, done = divmod(self.result.steps, settings.per_epoch)
        size, own = settings.batch_size, settings.labelled_rows
        while True:
            order = self.data.epoch(size, settings.seed, epoch, own)
            for i, index in enumerate(order):
                if i >= done:
                    yield index
            epoch, done = epoch + 1, 0

    def step(self, index: Tensor) -> None:
        """One optimizer step on the rows ``index``; the loss stays on the device."""
        result = self.result
        rate = self.settings.rate(step=result.steps)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss = self.backward(result.model, result.guide, index, result.steps)
        if self.device.type == "cpu":
            if not torch.isfinite(loss):
                assert self.backward.batch is not None
                raise self.failure(result.steps, loss, [self.backward.batch])
        else:  # a NaN must not reach the parameters before the window is read
            for part in self.modules.values():
                for parameter in part.parameters():
                    if parameter.grad is not None and not parameter.grad.is_sparse:
                        parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        if self.settings.clip is not None and self.optimizers:
            clip_gradients(self.optimizers, self.settings.clip, self.team.row_norm)
        if self.average:
            self.average.before(result.steps + 1)
        for optimizer in self.optimizers:
            optimizer.step()
        if self.average:
            self.average.after(result.steps + 1)
        self.window[self.filled] = loss
        self.filled += 1
        result.steps += 1

    def failure(self, step: int, loss: Tensor, batches: list[Batch]) -> NonFiniteLossError:
        """What to tell the user about a loss that is not finite."""
        torch.set_rng_state(self.backward.drawn_from)
        self.team.end()
        pair = self.result.model, self.result.guide
        found = self.team.told([blame(*pair, self.loss_of, batch) for batch in batches])
        where = next((place for place in found if not place.startswith("every site")), found[0])
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
            parts = self.backward.parts(next(self.indices()))
            raise self.failure(step, losses[bad[0]], [batch for batch, _ in parts])
        row: dict[str, Any] = {
            "step": self.result.steps,
            "loss": float(losses.mean()),
            "lr": self.settings.rate(step=self.result.steps - 1),
            "seconds": round(self.result.seconds, 3),
        }
        if self.result.no_bound or self.result.steps - self.filled < self.settings.warm_up:
            row["loss_is"] = NOT_A_BOUND
        self.filled = 0
        self.log(row)

    def log(self, row: dict[str, Any]) -> None:
        """Adds a row of metrics and shows it to the callbacks."""
        self.result.metrics.append(row)
        if not self.team.first:
            return
        if self.settings.out:
            store.append_metrics(self.settings.out, row)
        for callback in self.settings.callbacks:
            callback(self.result)

    def look(self) -> None:
        """Compares the held-out bound with the best so far, and keeps the weights that rose."""
        assert self.stopping is not None and self.held_out is not None
        result, seed = self.result, self.settings.seed
        with self.averaged():
            with self.team.looking():
                rows = held_out_bound(result.model, result.guide, self.held_out, 16, seed)
            rows = self.team.same(rows)
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

    def shown(self) -> dict[str, Tensor]:
        """The weights to judge and to keep: averaged where an average is made."""
        return self.average.weights(self.result.steps) if self.average else self.weights()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Model and guide have the weights to judge inside the block."""
        raw = {k: v.clone() for k, v in self.weights().items()} if self.average else {}
        self.load_weights(self.shown()) if raw else None
        try:
            yield
        finally:
            self.load_weights(raw) if raw else None

    def restore(self) -> None:
        """Takes up the checkpoint of the run in ``out``."""
        assert self.settings.out is not None
        checkpoint.load(self.settings.out, self)
        self.resumed = True
