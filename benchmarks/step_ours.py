"""The zoo's own step in `step_time`: the loop that ``fit`` runs, on given minibatches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.step_cases import FOLDS, LR, Case
from benchmarks.step_torch import wait
from guides import Guide
from zoo.data import Dataset
from zoo.fitting import bind_objective, check_rows
from zoo.loop import FitResult, Loop, Settings
from zoo.models.gmm import GMM
from zoo.models.ppca import PPCA
from zoo.models.vae import VAE


def pair(case: Case) -> tuple[Any, Any, Dataset, Callable[..., Any]]:
    """The model, the guide, the data and the objective of a case, with its starting values."""
    data = Dataset(case.data)
    if case.model == "ppca":
        model: Any = PPCA(case.features, case.latent)
    elif case.model == "gmm":
        model = GMM(case.features, case.latent)
    else:
        sizes = case.features, case.latent, (case.hidden,)
        model = VAE(*sizes, likelihood="bernoulli")
    _load(model.decoder if case.model == "vae" else model, case, "decoder")
    if case.guide == "none":
        return model.to(case.device), None, data.to(case.device), bind_objective("mle")[1]
    family = f"planar:{FOLDS}" if case.guide == "planar" else "mean_field"
    if case.guide == "table":
        guide: Any = Guide(model, data, family, "per_datapoint")
        _load(guide.source.table, case, "table")
    else:
        hidden = list(case.encoder or (case.hidden,))
        guide = Guide(model, data, family, "amortized", inference_options={"hidden": hidden})
        source = guide.source
        _load(source.encoder, case, "encoder")
        with torch.no_grad():  # the others' encoders read x itself, and hold κ_0 in the last bias
            source.center.zero_(), source.spread.fill_(1.0), source.start.zero_()
    several = case.particles > 1
    options = {"num_particles": case.particles} if several else None
    objective = bind_objective("iwae" if several else "elbo", options)[1]
    return model.to(case.device), guide.to(case.device), data.to(case.device), objective


def _load(module: nn.Module, case: Case, name: str) -> None:
    """The weights of ``start`` whose names begin so."""
    named = {key.partition(".") for key in case.start}
    state = {rest: torch.from_numpy(case.start[f"{a}.{rest}"]) for a, _, rest in named if a == name}
    module.load_state_dict(state)


def loop_of(case: Case, run: Any, steps: int) -> Loop:
    """The loop of ``fit`` for a case, which reads its losses once in so many steps."""
    model, guide, data, objective = pair(case)
    check_rows(model, data)
    settings = Settings(
        steps=10**9,
        batch_size=case.batch,
        per_epoch=-(-case.rows // case.batch),
        rate=lambda step: LR,
        clip=None,
        seed=0,
        eval_every=10**9,
        log_every=steps,
        checkpoint_every=1e9,
        patience=1,
        progress=False,
        callbacks=(),
        out=None,
        run=run,
    )
    return Loop(FitResult(model, guide, "elbo"), data, objective, settings, "adam", LR, None)


def ours(case: Case, run: str, steps_per_call: int) -> Callable[[], None]:
    """A call that takes so many steps of ``case.order``, as ``fit(..., run=run)`` does.

    Args:
        case: with at least so many minibatches.
        run: eager, compiled or graph.
        steps_per_call: the steps of a call.

    Raises:
        ValueError: another word; graph without CUDA.
        RuntimeError: when called, a step that cannot be captured.
    """
    loop = loop_of(case, run, steps_per_call)
    order = list(torch.from_numpy(case.order[:steps_per_call]).to(case.device))

    def call() -> None:
        loop.engine.advance(order)
        loop.flush()
        loop.result.metrics.clear()
        wait(case.device)
        if loop.engine.way != run:
            raise RuntimeError(loop.engine.why)

    return call
