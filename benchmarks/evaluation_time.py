"""IWAE with K = 5000 on MNIST test rows: ``importance_ladder`` beside a loop over images.

    ZOO_DATA=… OMP_NUM_THREADS=1 python -m benchmarks.evaluation_time

A VAE 784 – 400 – 50 – 400 – 784 (softplus) after two passes over ``static_mnist``; every contender
gets the same weights and rows in a process of its own. The loop is that of many scripts: for each
image 5000 draws of q at once, their log weights, log-mean-exp; it gives one bound, the ladder all
from the ELBO up. Times are without imports, the first call with compilation and the second without;
memory is what a process holds at most during the calls (Linux), and before them. The bounds are
compared with the error of their difference, from the draws of both.
"""

from __future__ import annotations

import argparse
import inspect
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.end_to_end_runs import BATCH, HIDDEN, LATENT, LR, images
from benchmarks.report import save
from guides import Guide
from zoo import fit
from zoo.importance import importance_ladder
from zoo.models.vae import VAE

ROWS, DRAWS = 100, 5000
SHAPE: dict[str, Any] = {"hidden": (HIDDEN,), "activation": "softplus"}

Call = Callable[[], tuple[Tensor, Tensor]]  # the bound of every row (N,), and its errors (N,)


def pair(x: Tensor) -> tuple[VAE, Guide]:
    """The model and the guide, untrained."""
    model = VAE(784, LATENT, likelihood="bernoulli", **SHAPE)
    return model, Guide(model, x, "mean_field", "amortized", inference_options=SHAPE)


def train(path: Path, rows: int, epochs: int) -> None:
    """Weights and test rows, as a file."""
    torch.manual_seed(0)
    x = images("train")
    model, guide = pair(x)
    fit(model, guide, x, epochs=epochs, batch_size=BATCH, lr=LR, progress=False)
    parts = {"model": model.state_dict(), "guide": guide.state_dict()}
    torch.save({**parts, "x": images("test")[:rows]}, path)


def ours(held: Mapping[str, Any], **run: Any) -> Call:
    """The zoo."""
    x = held["x"]
    model, guide = pair(x)
    model.load_state_dict(held["model"])
    guide.load_state_dict(held["guide"])

    def call() -> tuple[Tensor, Tensor]:
        bound = importance_ladder(model, guide, x, num_particles=DRAWS, **run).iwae
        return bound.rows, bound.error

    return call


def network(weights: Mapping[str, Tensor], prefix: str) -> nn.Sequential:
    """An MLP of one hidden layer from weights that have names."""
    own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    first, last = own["0.weight"], own["2.weight"]
    (hidden, inputs), outputs = first.shape, len(last)
    made = nn.Sequential(nn.Linear(inputs, hidden), nn.Softplus(), nn.Linear(hidden, outputs))
    made.load_state_dict(own)
    return made


def per_image(held: Mapping[str, Any]) -> Call:
    """Plain PyTorch, an image at a time."""
    x, q = held["x"], held["guide"]
    encoder, decoder = network(q, "source.encoder."), network(held["model"], "decoder.")
    center, spread, start = (q[f"source.{name}"] for name in ("center", "spread", "start"))

    @torch.no_grad()
    def call() -> tuple[Tensor, Tensor]:
        bounds, errors = [], []
        for image in x:
            loc, raw = (start + encoder((image - center) / spread)).chunk(2)
            scale = functional.softplus(raw)
            noise = torch.randn(DRAWS, LATENT)
            z = loc + scale * noise
            logits, wide = decoder(z), image.expand(DRAWS, -1)
            log_x = functional.binary_cross_entropy_with_logits(logits, wide, reduction="none")
            log_w = (0.5 * (noise**2 - z**2) + scale.log()).sum(-1) - log_x.sum(-1)
            bound = log_w.logsumexp(0) - math.log(DRAWS)
            bounds.append(bound)
            errors.append((log_w - bound).exp().std() / math.sqrt(DRAWS))
        return torch.stack(bounds), torch.stack(errors)

    return call


def contenders() -> dict[str, Callable[[Mapping[str, Any]], Call]]:
    """Who takes part: the compiled evaluation where this version has one."""
    found: dict[str, Callable[[Mapping[str, Any]], Call]] = {"per_image": per_image, "ours": ours}
    if "run" in inspect.signature(importance_ladder).parameters:
        found["ours"] = lambda held: ours(held, run="eager")
        found["ours_compiled"] = lambda held: ours(held, run="compiled")
    return found


def largest(reset: bool = False) -> int:
    """The most memory that this process has held since the last reset, in MB."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 2**10


def measure(name: str, path: Path) -> dict[str, Any]:
    """Two calls, in this process."""
    held = torch.load(path)
    call = contenders()[name](held)
    before, seconds = largest(reset=True), []
    torch.manual_seed(1)
    for _ in range(2):
        start = time.perf_counter()
        rows, errors = call()
        seconds.append(time.perf_counter() - start)
    memory = {"peak_mb": largest(), "mb_before": before}
    return {"seconds": seconds, **memory, "rows": rows.tolist(), "errors": errors.tolist()}


def compared(found: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Milliseconds a row, and every bound beside that of the loop."""
    result, loop = {}, found["per_image"]
    for name, run in found.items():
        rows, errors = (torch.tensor(run[key], dtype=torch.float64) for key in ("rows", "errors"))
        others, theirs = (
            torch.tensor(loop[key], dtype=torch.float64) for key in ("rows", "errors")
        )
        first, again = (1000 * value / len(rows) for value in run["seconds"])
        difference = {
            "mean": float((rows - others).mean()),
            "se": float((errors**2 + theirs**2).sum().sqrt()) / len(rows),
        }
        result[name] = {
            "milliseconds_a_row": round(again, 1),
            "milliseconds_a_row_at_first": round(first, 1),
            "loop_over_this": round(loop["seconds"][1] / run["seconds"][1], 2),
            "peak_mb": run["peak_mb"],
            "mb_before": run["mb_before"],
            "bound": {"mean": float(rows.mean()), "se": float(errors.norm()) / len(rows)},
            "minus_the_loop": None if run is loop else difference,
        }
    return result


def main() -> None:
    """Trains, then measures every contender in a process of its own; or one, in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=ROWS, help="test rows")
    parser.add_argument("--epochs", type=int, default=2, help="of the training")
    parser.add_argument("--dry", action="store_true", help="print, and write no file")
    parser.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        name, path = options.contender
        print(json.dumps(measure(name, Path(path))))
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        train(path, options.rows, options.epochs)
        for name in contenders():
            command = [sys.executable, "-m", "benchmarks.evaluation_time", "--contender", name]
            done = subprocess.run(
                [*command, str(path)], check=True, stdout=subprocess.PIPE, text=True
            )
            found[name] = json.loads(done.stdout.splitlines()[-1])
    result = {"data": "static_mnist", "rows": options.rows, "draws": DRAWS}
    result |= {"threads": torch.get_num_threads(), "runs": compared(found)}
    if options.dry:
        print(json.dumps(result, indent=2))
        return
    save("evaluation_time", result)


if __name__ == "__main__":
    main()
