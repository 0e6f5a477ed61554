"""Bias and variance of the gradient of q(y | x): enumeration, score function, Gumbel-softmax.

    python -m benchmarks.estimators

M2 on digits with 50 labels, after 500 steps; the gradient of the ELBO of 100 rows without labels
with respect to the classifier, against the mean over many draws of the enumerated one.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import save
from guides import Guide
from zoo import fit, load_data
from zoo.context import seeded, validation
from zoo.data import Batch
from zoo.model import Model
from zoo.models.m2 import M2
from zoo.objectives.bounds import elbo

ESTIMATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "enumerate": ("enumerate", {}),
    "score, no baseline": ("score", {"baseline": "none"}),
    "score, running mean": ("score", {"baseline": "mean"}),
    "score, leave one out": ("score", {"baseline": "leave_one_out"}),
    "score, network": ("score", {"baseline": "network"}),
    "gumbel, τ = 1": ("gumbel", {"temperature": 1.0}),
    "gumbel, τ = 0.5": ("gumbel", {"temperature": 0.5}),
    "gumbel, τ = 0.1": ("gumbel", {"temperature": 0.1}),
    "gumbel, τ = 0.5, straight through": ("straight_through", {"temperature": 0.5}),
}
PARTICLES, DRAWS, WARM = 4, 600, 300


def gradients(model: Model, guide: Guide, batch: Batch, draws: int) -> tuple[Tensor, float]:
    """(draws, P) in float64, and milliseconds each; the baseline learns on the way."""
    assert guide.classifier is not None
    own = list(guide.classifier.net.parameters())
    others = list(guide.classifier.estimator.parameters())
    optimizer = torch.optim.Adam(others, lr=1e-2) if others else None
    found, started = [], 0.0
    for i in range(WARM + draws):
        if i == WARM:
            started = time.perf_counter()
        loss = elbo(model, guide, batch, num_particles=PARTICLES)
        slopes = torch.autograd.grad(loss, own + others)
        if optimizer is not None:
            for parameter, slope in zip(others, slopes[len(own) :], strict=True):
                parameter.grad = slope
            optimizer.step()
        if i >= WARM:
            found.append(torch.cat([s.flatten() for s in slopes[: len(own)]]).double())
    return torch.stack(found), (time.perf_counter() - started) / draws * 1e3


def figures(found: Tensor, target: Tensor) -> dict[str, float]:
    """Bias and standard deviation over the length of the exact gradient, squared noise removed."""
    length = target.mean(0).norm()
    noise = found.var(0).sum() / len(found) + target.var(0).sum() / len(target)
    away = (found.mean(0) - target.mean(0)).square().sum()
    return {
        "relative_bias": ((away - noise).clamp_min(0).sqrt() / length).item(),
        "bias_resolved_from": (2 * noise.sqrt() / length).item(),
        "relative_sd": (found.var(0).sum().sqrt() / length).item(),
    }


def main() -> None:
    """One table."""
    torch.set_num_threads(1)
    split = load_data("digits", labels=50)
    torch.manual_seed(0)
    sizes = {"latent_dim": 10, "hidden": (100,), "likelihood": "gaussian"}
    model = M2.for_data(split.train, **sizes)
    options = {"hidden": (100,), "alpha": 1.0}
    start = Guide(model, split.train, classifier_options=options)
    fit(model, start, split.train, steps=500, batch_size=200, lr=2e-3, progress=False)
    batch = split.train.batch(torch.arange(50, 150))
    runs, target = {}, None
    with validation(False):
        for name, (word, given) in ESTIMATORS.items():
            guide = Guide(
                model,
                split.train,
                estimator=word,
                estimator_options=given,
                classifier_options=options,
            )
            guide.load_state_dict(start.state_dict(), strict=False)
            with seeded(len(runs)):
                found, cost = gradients(model, guide, batch, DRAWS)
            target = found if target is None else target
            runs[name] = {**figures(found, target), "milliseconds": cost}
    save("estimators", {"particles": PARTICLES, "draws": DRAWS, "rows": len(batch), "runs": runs})


if __name__ == "__main__":
    main()
