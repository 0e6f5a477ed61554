"""The contenders of ``benchmarks.end_to_end``, their clock and their judge; one in each process."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH, LR, LATENT, HIDDEN = 256, 1e-3, 50, 400
HELD_OUT, DRAWS = 1000, 16

Encode = Callable[[Tensor], tuple[Tensor, Tensor]]  # x (B, 784) -> m and s (B, 50)
Decode = Callable[[Tensor], Tensor]  # z (B, 50) -> logits (B, 784)


def images(part: str) -> Tensor:
    """The rows of ``static_mnist``, (N, 784) zeros and ones, without any import of the zoo."""
    path = Path(os.environ["ZOO_DATA"]) / "binarized_mnist" / "binarized_mnist.npz"
    return torch.from_numpy(np.unpackbits(np.load(path)[part], axis=1)).float()


@torch.no_grad()
def held_out_elbo(encode: Encode, decode: Decode, x: Tensor) -> float:
    """mean_n (1/S) Σ_s log p(x_n, z_ns) − log q(z_ns | x_n), S = 16 draws, in nats."""
    generator = torch.Generator().manual_seed(0)
    (loc, scale), total = encode(x), torch.zeros(len(x))
    for _ in range(DRAWS):
        noise = torch.randn(loc.shape, generator=generator)
        z = loc + scale * noise
        log_x = -functional.binary_cross_entropy_with_logits(decode(z), x, reduction="none")
        total += log_x.sum(-1) + (0.5 * (noise**2 - z**2) + scale.log()).sum(-1)
    return float(total.mean()) / DRAWS


class Clock:
    """Seconds since the launch, without those of the judge."""

    def __init__(self, launched: float):
        self.launched, self.judged = launched, 0.0
        self.start = 0.0
        self.seconds: list[float] = []
        self.elbo: list[float] = []
        self.x = torch.empty(0)

    def now(self) -> float:
        return time.time() - self.launched - self.judged

    def begin(self) -> None:
        """The data are there and the model is built: training begins."""
        self.start = self.now()
        before = time.time()
        self.x = images("test")[:HELD_OUT]
        self.judged += time.time() - before

    def look(self, encode: Encode, decode: Decode) -> None:
        """The end of a pass."""
        self.seconds.append(self.now())
        before = time.time()
        self.elbo.append(held_out_elbo(encode, decode, self.x))
        self.judged += time.time() - before


class Encoder(nn.Module):
    """x -> (m, s), as in the example of Pyro."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(784, HIDDEN), nn.Softplus())
        self.loc, self.log_scale = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(x)
        return self.loc(hidden), self.log_scale(hidden).exp()


def decoder() -> nn.Sequential:
    """z -> logits."""
    return nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Softplus(), nn.Linear(HIDDEN, 784))


def ours(clock: Clock, options: argparse.Namespace, run: Any) -> None:
    """The zoo: one call of ``fit``, with a callback at the end of every pass.

    Raises:
        RuntimeError: the steps ran another way.
    """
    from guides import Guide
    from zoo import as_dataset, fit, load_data
    from zoo.models.vae import VAE

    data = load_data("static_mnist", num_train=options.rows).train
    torch.manual_seed(options.seed)
    shape = {"hidden": (HIDDEN,), "activation": "softplus"}
    model = VAE.for_data(data, latent_dim=LATENT, **shape)
    guide = Guide(model, data, "mean_field", "amortized", inference_options=shape)
    clock.begin()
    held = as_dataset(clock.x).batch()

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        q = guide.distribution(held)
        return q.mean, q.stddev

    result = fit(
        model,
        guide,
        data,
        epochs=options.epochs,
        batch_size=BATCH,
        lr=LR,
        seed=options.seed,
        log_every=data.steps_per_epoch(BATCH),
        progress=False,
        callbacks=[lambda result: clock.look(encode, model.decoder)],
        run=run,
    )
    if result.run["way"] != run:
        raise RuntimeError(f"was to run {run}: {result.run}")


def batches(rows: int | None, loader: bool) -> Callable[[], Iterator[Tensor]]:
    """A pass over the data: through a DataLoader over (image, label), or by index."""
    x = images("train")[:rows]
    if not loader:
        return lambda: (x[index] for index in torch.randperm(len(x)).split(BATCH))
    from torch.utils.data import DataLoader, TensorDataset

    pairs = DataLoader(TensorDataset(x, torch.zeros(len(x))), BATCH, shuffle=True)
    return lambda: (image for image, _ in pairs)


def pyro(clock: Clock, options: argparse.Namespace, loader: bool = True, jit: bool = False) -> None:
    """The model, the guide and the loop of Pyro's example."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import SVI, JitTrace_ELBO, Trace_ELBO
    from pyro.optim import Adam

    torch.manual_seed(options.seed)
    passes, encoder, decode = batches(options.rows, loader), Encoder(), decoder()

    def model(x: Tensor) -> None:
        pyro.module("decoder", decode)
        with pyro.plate("data", x.shape[0]):
            loc = torch.zeros(x.shape[0], LATENT, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            probs = torch.sigmoid(decode(z))
            pyro.sample("obs", dist.Bernoulli(probs, validate_args=False).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("latent", dist.Normal(*encoder(x)).to_event(1))

    elbo = JitTrace_ELBO() if jit else Trace_ELBO()
    svi = SVI(model, guide, Adam({"lr": LR}), loss=elbo)
    clock.begin()
    for _ in range(options.epochs):
        total: Any = 0.0
        for x in passes():
            total += svi.step(x)
        clock.look(encoder, decode)


def plain(
    clock: Clock, options: argparse.Namespace, loader: bool = False, compiled: bool = False
) -> None:
    """What a script without a library does: binary cross-entropy and the closed-form KL."""
    torch.manual_seed(options.seed)
    passes, encoder, decode = batches(options.rows, loader), Encoder(), decoder()
    adam = torch.optim.Adam([*encoder.parameters(), *decode.parameters()], lr=LR)

    def loss_of(x: Tensor) -> Tensor:
        loc, scale = encoder(x)
        logits = decode(loc + scale * torch.randn_like(loc))
        log_x = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = 0.5 * (loc**2 + scale**2 - 1 - 2 * scale.log()).sum()
        return (log_x + kl) / len(x)

    loss = torch.compile(loss_of) if compiled else loss_of
    clock.begin()
    for _ in range(options.epochs):
        for x in passes():
            adam.zero_grad()
            loss(x).backward()
            adam.step()
        clock.look(encoder, decode)


CONTENDERS: dict[str, Callable[[Clock, argparse.Namespace], None]] = {
    "ours_eager": lambda clock, options: ours(clock, options, "eager"),
    "ours_compiled": lambda clock, options: ours(clock, options, "compiled"),
    "ours_compiled_again": lambda clock, options: ours(clock, options, "compiled"),
    "pyro": pyro,
    "pyro_jit": lambda clock, options: pyro(clock, options, jit=True),
    "pyro_resident": lambda clock, options: pyro(clock, options, loader=False),
    "torch_dataloader": lambda clock, options: plain(clock, options, loader=True),
    "torch_resident": plain,
    "torch_compile": lambda clock, options: plain(clock, options, compiled=True),
}


def main() -> None:
    """The contender that this process is for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--launched", type=float, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    clock = Clock(options.launched)
    CONTENDERS[options.name](clock, options)
    print(json.dumps({"start": clock.start, "seconds": clock.seconds, "elbo": clock.elbo}))


if __name__ == "__main__":
    main()
