"""Training: one function, from a model, a guide and data to a fitted pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from zoo.context import frozen, seeded
from zoo.data import Dataset, as_dataset
from zoo.engine import RunName
from zoo.kl_weight import why_no_bound
from zoo.loop import FitResult, Loop, NonFiniteLossError, Settings
from zoo.model import Model, as_model
from zoo.monitor import check_rows
from zoo.objective_words import bind_objective
from zoo.optim import BETAS, EPS, OptimizerName, ScheduleName, learning_rate
from zoo.parallel import joined
from zoo.settings import pick_device

__all__ = ["FitResult", "NonFiniteLossError", "bind_objective", "fit", "pick_device"]

WHOLE = 5000  # rows that a step takes together where nothing is said


def fit(
    model: Model | Callable[..., Any],
    guide: Any,
    data: Any,
    objective: str | Callable[..., Tensor] | Any = "elbo",
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float = 0.01,
    optimizer: OptimizerName = "adam",
    schedule: ScheduleName = "constant",
    clip: float | None = None,
    eps: float = EPS,
    betas: Sequence[float] = BETAS,
    weight_decay: float = 0.0,
    labelled_rows: int | None = None,
    warm_up: int = 0,
    ema: float | None = None,
    accumulate: int = 1,
    precision: Literal["float32", "bf16"] = "float32",
    seed: int = 0,
    device: str = "auto",
    run: RunName = "auto",
    freeze: Literal["model", "guide"] | None = None,
    held_out: Any = None,
    eval_every: int = 500,
    patience: int = 10,
    log_every: int = 100,
    checkpoint_every: float = 60.0,
    progress: bool | None = None,
    callbacks: Sequence[Callable[[FitResult], Any]] = (),
    objective_options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
) -> FitResult:
    """Minimises the objective over the parameters of model and guide, in place.

    Nothing in the loop waits for the device: losses are read every ``log_every`` steps. On the CPU
    a resumed fit ends with the same bits as one that was never interrupted. Ctrl-C ends the fit and
    leaves a usable run; a second one ends it at once. For several processes see ``zoo.parallel``.

    Args:
        model: p, a ``Model`` or a plain Pyro function.
        guide: q; None where the objective needs none (``mle``, ``em``).
        data: what ``as_dataset`` takes; it is moved to the device once.
        objective: a word (``elbo``, ``iwae``, ``renyi:0.5``), a callable
            ``(model, guide, batch) -> loss``, or an instance of Pyro's (``Trace_ELBO()``).
        steps: optimizer steps; or give ``epochs``. 1000 steps by default.
        epochs: passes over the data.
        batch_size: rows a step, of all processes; by default all of up to 5000, and 128 of more.
        lr: the learning rate at step 0, for losses in nats per datapoint.
        optimizer: ``adam``, ``adamw``, ``sgd`` or ``rmsprop``.
        schedule: ``constant``, ``cosine``, ``linear`` or ``exponential``, to lr/1000 at the end;
            ``burda``, lr times 1, 0.72, 0.52, 0.37, 0.27, 0.19, 0.14 and 0.1, each for three times
            as many steps as the one before (Burda et al. 2016: lr 0.001, 3280 epochs, eps 1e-4).
        clip: the longest gradient; no limit by default.
        eps: Adam's and RMSprop's ε.
        betas: Adam's two decays.
        weight_decay: λ; adds λ/2 ‖θ‖² to the loss, in nats per datapoint, over all weights that are
            not in tables (the loss in the metrics is without it). λ = 1/N is a prior N(0, 1) on
            every weight. ``adamw`` takes lr λ θ off the weights instead, λ = 0.01 where it is 0.
        labelled_rows: rows with labels in each step, where only some rows have them (a step of all
            rows has all); by default half of the batch, or all of them where they are fewer.
        warm_up: steps over which the weight of the KL term rises in a line from 0 to the
            objective's beta; the loss of these steps is not a bound. Held-out rows are looked at
            with the bound itself.
        ema: a decay such as 0.999: model and guide end with an exponential moving average of their
            weights, started anew (bias-corrected), tables included; held-out rows are looked at
            with it, and what is kept on disk is the average. A resumed fit goes on from the weights
            themselves.
        accumulate: parts that a step's batch is split in, one after the other, for the memory of
            one; the gradient is that of the whole (free bits are counted part by part).
        precision: ``bf16`` runs linear and convolutional layers in bfloat16 by autocast, which is
            fast on CUDA; weights, draws and densities stay as they are.
        seed: of the draws and of the order of the rows.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``.
        run: how the steps are run, with the same mathematics and the same draws: ``eager``, one
            after the other through Pyro; ``compiled``, captured once and compiled by inductor,
            many steps in one call; ``graph``, captured and replayed as a CUDA graph; ``auto``
            chooses before the first step: captured from 10 000 steps on a CPU and 2000 on a GPU.
            A step that cannot be captured runs eager and says why; a resumed fit goes on as it was.
        freeze: ``model`` or ``guide``: that side takes no step.
        held_out: rows whose bound decides when to stop; the best weights are kept.
        eval_every: steps between looks at them.
        patience: looks without a significant rise before stopping.
        log_every: steps between rows of metrics.
        checkpoint_every: seconds between checkpoints in ``out``.
        progress: a bar on the terminal; by default where there is one.
        callbacks: called with the result so far at every row of metrics.
        objective_options: keyword arguments of the objective (``num_particles``).
        out: a folder to keep the run in.
        resume: go on from the checkpoint in ``out``.

    Raises:
        ValueError: settings that contradict each other, data that do not fit the model.
        NonFiniteLossError: a NaN or infinite loss, with its step, site and value.

    Example:
        >>> import torch
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> x = torch.randn(50, 3)
        >>> model = PPCA(data_dim=3, latent_dim=1)
        >>> result = fit(model, Guide(model, x, "exact"), x, steps=20, progress=False)
        >>> result.steps
        20
    """
    model, data, where = as_model(model), as_dataset(data), pick_device(device)
    name, loss_of = bind_objective(objective, objective_options)
    options = dict(getattr(loss_of, "keywords", {}))
    if steps is not None and epochs is not None:
        raise ValueError("give steps or epochs, not both")
    if freeze not in (None, "model", "guide"):
        raise ValueError(f"freeze is 'model', 'guide' or nothing, got {freeze!r}")
    if precision not in ("float32", "bf16"):
        raise ValueError(f"precision is 'float32' or 'bf16', got {precision!r}")
    if resume and out is None:
        raise ValueError("resume needs out=, the folder of the run to go on with")
    if (fits := getattr(getattr(loss_of, "func", loss_of), "fits", "both")) == freeze:
        raise ValueError(f"{name} fits the {fits} alone, and freeze holds it: nothing to train")
    if held_out is not None and getattr(getattr(guide, "family", None), "is_state", False):
        raise ValueError("chains of the rows at hand say nothing of others: no held_out with mcem")
    learning_rate(schedule, lr, 0, 1)
    if min(1 if batch_size is None else batch_size, 1 if clip is None else clip) <= 0:
        raise ValueError(f"batch_size and clip are positive, got {batch_size} and {clip}")
    whole = len(data) <= WHOLE or name == "em"  # which has no minibatches
    rows = min(batch_size or (len(data) if whole else 128), len(data))
    if name == "em" and data.partial:
        raise ValueError(
            "em takes an exact step on all rows at once, and rows with labels and those without "
            "are separate batches; use the objective elbo or mle"
        )
    if labelled_rows is not None or data.partial:
        labelled_rows = data.labels_per_step(rows, labelled_rows)
    per_epoch = data.steps_per_epoch(rows, labelled_rows)
    total = steps if steps is not None else epochs * per_epoch if epochs is not None else 1000
    settings = Settings(
        steps=total,
        batch_size=rows,
        per_epoch=per_epoch,
        rate=partial(learning_rate, schedule, lr, steps=total),
        clip=clip,
        seed=seed,
        eval_every=eval_every,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        patience=patience,
        progress=progress,
        callbacks=tuple(callbacks),
        out=None if out is None else Path(out),
        warm_up=warm_up,
        ema=ema,
        accumulate=accumulate,
        half=precision == "bf16",
        adam={"eps": eps, "betas": list(betas), "weight_decay": weight_decay},
        labelled_rows=labelled_rows,
        run=run,
        recipe={
            "optimizer": optimizer,
            "lr": lr,
            "schedule": schedule,
            "batch_size": rows,
            "eps": eps,
            "betas": list(betas),
            "weight_decay": weight_decay,
            "labelled_rows": labelled_rows,
            "warm_up": warm_up,
            "ema": ema,
            "accumulate": accumulate,
            "precision": precision,
            "objective_options": (plain := {k: v for k, v in options.items() if _plain(v)}),
        },
    )
    sides = {"model": model, "guide": guide}
    modules = {k: v for k, v in sides.items() if isinstance(v, nn.Module)}
    for module in modules.values():
        module.to(where)
    data = data.to(where)
    check_rows(model, data)
    keep = None if held_out is None else as_dataset(held_out).to(where)
    still = frozen(*(m for side, m in modules.items() if side == freeze))
    with still, seeded(seed, where), joined(where) as team:
        result = FitResult(model, guide, name, objective_options=plain)
        result.no_bound = _no_bound(guide, data, loss_of, options)
        loop = Loop(result, data, loss_of, settings, optimizer, lr, keep, team)
        loop.restore() if resume else None
        loop.run()
    return loop.result


def _no_bound(guide: Any, data: Dataset, loss_of: Any, options: Mapping[str, Any]) -> str:
    """What makes the loss no bound: the objective, its options, or what the guide adds to it."""
    told = getattr(guide, "no_bound", lambda data: "")(data)
    return " and ".join(filter(None, (why_no_bound(loss_of, options), told)))


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str | None)
