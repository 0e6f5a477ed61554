"""One training step of ours beside stock Pyro SVI and hand-written PyTorch, in one process.

    python -m benchmarks.step_time

The same PPCA (digits, batch 100, d = 10) with the same Gaussian encoder (64-64), K = 1 and 50;
rounds take turns, and the ratios are medians over rounds.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn

from benchmarks.report import save
from guides import Guide
from zoo import load_data
from zoo.context import validation
from zoo.models.ppca import PPCA
from zoo.objectives.bounds import elbo

BATCH, LATENT, STEPS, ROUNDS = 100, 10, 60, 9


def ours(data, particles: int) -> Callable[[torch.Tensor], None]:
    """The zoo's objective, as ``fit`` runs it."""
    model = PPCA(64, LATENT)
    guide = Guide(model, data)
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=1e-3)

    def step(index: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        elbo(model, guide, data.batch(index), num_particles=particles).backward()
        optimizer.step()

    return step


class Encoder(nn.Module):
    """x -> (m, s) of q(z | x)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2 * LATENT)
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loc, raw = self.net(x).chunk(2, -1)
        return loc, nn.functional.softplus(raw)


def stock(data, particles: int) -> Callable[[torch.Tensor], None]:
    """What a Pyro tutorial writes: pyro.module, subsampled plates, SVI with Trace_ELBO."""
    decoder, encoder = PPCA(64, LATENT), Encoder()
    rows = len(data)

    def model(x: torch.Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", rows, subsample_size=len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            loc = z @ decoder.weight.mT + decoder.mean
            pyro.sample("x", dist.Normal(loc, decoder.log_scale.exp()).to_event(1), obs=x)

    def guide(x: torch.Tensor) -> None:
        pyro.module("encoder", encoder)
        loc, scale = encoder(x)
        with pyro.plate("data", rows, subsample_size=len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    loss = Trace_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss)
    return lambda index: svi.step(data["x"][index])


def by_hand(data, particles: int) -> Callable[[torch.Tensor], None]:
    """The same loss written out in PyTorch."""
    decoder, encoder = PPCA(64, LATENT), Encoder()
    optimizer = torch.optim.Adam([*decoder.parameters(), *encoder.parameters()], lr=1e-3)
    half = 0.5 * math.log(2 * math.pi)

    def step(index: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        x = data["x"][index]
        loc, scale = encoder(x)
        noise = torch.randn(particles, *loc.shape)
        z = loc + scale * noise
        sigma = decoder.log_scale.exp()
        error = (x - (z @ decoder.weight.mT + decoder.mean)) / sigma
        log_x = (-0.5 * error.square() - decoder.log_scale - half).sum(-1)
        log_z = (-0.5 * z.square() + 0.5 * noise.square() + scale.log()).sum(-1)
        (-(log_x + log_z).mean()).backward()
        optimizer.step()

    return step


def main() -> None:
    """Prints and saves milliseconds a step and the ratios."""
    data = load_data("digits").train
    result = {}
    for particles in (1, 50):
        pyro.clear_param_store()
        steps = {f.__name__: f(data, particles) for f in (ours, stock, by_hand)}
        times: dict[str, list[float]] = {name: [] for name in steps}
        with validation(False):
            for _ in range(ROUNDS):
                indices = [torch.randint(len(data), (BATCH,)) for _ in range(STEPS)]
                for name, step in steps.items():
                    start = time.perf_counter()
                    for index in indices:
                        step(index)
                    times[name].append(1000 * (time.perf_counter() - start) / STEPS)
        kept = {name: values[2:] for name, values in times.items()}  # two rounds to warm up
        result[f"K={particles}"] = {
            "milliseconds": {name: statistics.median(v) for name, v in kept.items()},
            "stock/ours": statistics.median(
                s / o for s, o in zip(kept["stock"], kept["ours"], strict=True)
            ),
            "ours/by_hand": statistics.median(
                o / h for o, h in zip(kept["ours"], kept["by_hand"], strict=True)
            ),
        }
    pyro.clear_param_store()
    save("step_time", result)


if __name__ == "__main__":
    main()
