"""The captured step on a GPU: replayed and compiled as eager, without waiting for the device."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from guides.guide import Guide
from zoo import fit
from zoo.data import Dataset
from zoo.fitting import bind_objective
from zoo.loop import FitResult, Loop, Settings
from zoo.models.vae import VAE

pytestmark = pytest.mark.cuda


def pair(inference: str = "amortized") -> tuple[Any, Any, Dataset]:
    torch.manual_seed(0)
    x = (torch.rand(300, 12) > 0.5).float()
    data = Dataset(x)
    model = VAE(12, 3, hidden=[16], likelihood="bernoulli")
    return model, Guide(model, data, "mean_field", inference), data


def fitted(run: str, start: tuple[Any, Any, Dataset], **options: Any) -> FitResult:
    model, guide = copy.deepcopy(start[:2])
    guide.__dict__["model"] = model
    settings = {"steps": 100, "batch_size": 70, "log_every": 10, "progress": False, **options}
    return fit(model, guide, start[2], device="cuda", run=run, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["traced", "graph", "compiled"])
@pytest.mark.parametrize("inference", ["amortized", "per_datapoint"])
def test_a_captured_fit_is_the_eager_one(way: str, inference: str) -> None:
    """100 steps on the same draws, a smaller last batch in each epoch, average and clipping."""
    start = pair(inference)
    options = {"ema": 0.9, "clip": 1.0, "objective_options": {"num_particles": 3}}
    eager, captured = (fitted(run, start, **options) for run in ("eager", way))
    assert captured.run["way"] == way, captured.run["why"]
    a, b = ([row["loss"] for row in r.metrics] for r in (eager, captured))
    assert a == pytest.approx(b, rel=1e-4)
    for mine, other in zip(
        [*eager.model.parameters(), *eager.guide.parameters()],
        [*captured.model.parameters(), *captured.guide.parameters()],
        strict=True,
    ):
        assert torch.allclose(mine, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("way", ["graph", "compiled"])
def test_a_hundred_steps_without_a_wait(way: str) -> None:
    model, guide, data = pair()
    data = data.to("cuda")
    settings = Settings(
        steps=10**6,
        batch_size=50,
        per_epoch=6,
        rate=lambda step: 1e-3,
        clip=None,
        seed=0,
        eval_every=10**6,
        log_every=200,
        checkpoint_every=1e9,
        patience=1,
        progress=False,
        callbacks=(),
        out=None,
        run=way,  # type: ignore[arg-type]
    )
    objective = bind_objective("elbo")[1]
    result = FitResult(model.cuda(), guide.cuda(), "elbo")
    loop = Loop(result, data, objective, settings, "adam", 1e-3, None)
    order = list(torch.randint(len(data), (100, 50), device="cuda"))
    loop.engine.advance(order)  # captures, and compares with eager
    loop.flush()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loop.engine.advance(order)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert loop.engine.way == way, loop.engine.why
    assert result.steps == 200


def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_were() -> None:
    model, guide, data = pair()
    with torch.no_grad():
        model.decoder[0].weight.fill_(float("inf"))
    before = [p.detach().clone() for p in guide.parameters()]
    with pytest.raises(RuntimeError, match="step 0"):
        fit(model, guide, data, steps=40, device="cuda", run="graph", progress=False)
    for mine, other in zip(guide.parameters(), before, strict=True):
        assert torch.equal(mine.cpu(), other)
