"""What a fit is told, and what it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from zoo.engine import RunName
from zoo.iterates import Iterates
from zoo.launch import launched, local_rank
from zoo.model import Model


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the step, the site and the value."""


@dataclass
class FitResult:
    """What a fit leaves behind; ``model`` and ``guide`` are trained in place.

    Attributes:
        objective: its word.
        objective_options: its keyword arguments, as plain values.
        steps: steps taken.
        seconds: wall-clock time of the steps, looks at held-out rows included.
        interrupted: whether Ctrl-C ended it.
        stopped_early: whether held-out patience ended it.
        best_step: the step whose weights were kept, where there are held-out rows.
        metrics: a row every ``log_every`` steps: step, loss (nats per datapoint, averaged since the
            row before), lr, seconds; held_out at each look. Where the loss is no bound,
            ``loss_is`` says so.
        no_bound: what makes the loss no bound on log p(x) in every step; empty where it is one.
        run: ``way``, how the steps were run at the end, and ``why``.
        iterates: some parameters at up to 1024 of the steps; None where nothing is trained.
    """

    model: Model
    guide: Any
    objective: str
    steps: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    stopped_early: bool = False
    best_step: int | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list)
    no_bound: str = ""
    iterates: Iterates | None = None
    run: dict[str, str] = field(default_factory=dict)
    objective_options: dict[str, Any] = field(default_factory=dict)


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
    warm_up: int = 0
    ema: float | None = None
    accumulate: int = 1
    half: bool = False
    adam: dict[str, Any] = field(default_factory=dict)  # eps, betas and weight_decay
    run: RunName = "auto"
    labelled_rows: int | None = None  # of each step, where only some rows have labels

    def __post_init__(self) -> None:
        if self.steps < 0 or min(self.log_every, self.eval_every, self.patience) < 1:
            raise ValueError("steps count from 0; log_every, eval_every and patience from 1")
        if self.warm_up < 0 or self.accumulate < 1:
            raise ValueError(
                f"warm_up counts steps from 0 and accumulate parts from 1, got {self.warm_up} and "
                f"{self.accumulate}"
            )


def pick_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is one; each process of torchrun has a device of its own.

    Raises:
        ValueError: CUDA where there is none, or another word.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("no CUDA device here; use device='auto' or 'cpu'")
    if device == "cuda" and launched():
        device = f"cuda:{local_rank()}"
    try:
        return torch.device(device)
    except RuntimeError:
        raise ValueError(f"device is auto, cpu or cuda, got {device!r}") from None
