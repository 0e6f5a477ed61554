"""What a training step costs as one size grows and all others stay: eager and compiled.

    OMP_NUM_THREADS=1 python -m benchmarks.scaling         # compiled at every second size
    OMP_NUM_THREADS=1 python -m benchmarks.scaling --all   # at every size
    python -m benchmarks.scaling --quick --only batch --dry

A VAE on random bits, in memory. A fit logs a row of metrics at the end of each of five windows of
equal length; the first, with compilation and the permutation of the rows, is left out, and the
median of the others is what a step takes. The number of rows is a multiple of the batch. A slope is
that of log milliseconds on log size by least squares over the upper half of the range: 0 is a cost
that does not grow, 1 one that grows in proportion.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from benchmarks.report import save
from benchmarks.scaling_figure import PICTURE, figure
from experiments.output import write_picture
from guides import Guide
from zoo import Dataset, fit
from zoo.models.vae import VAE
from zoo.settings import FitResult

WINDOWS, SECONDS = 5, 0.3
WAYS = ("eager", "compiled")


@dataclass(frozen=True)
class Sizes:
    """One fit."""

    rows: int = 16_384
    batch: int = 128
    particles: int = 1
    latent: int = 8
    length: int = 0  # of a planar flow; 0 is mean-field
    data_dim: int = 64
    hidden: int = 128
    inference: str = "amortized"


SMALL = Sizes(latent=2, data_dim=8, hidden=16)
TABLE = replace(SMALL, inference="per_datapoint")
MANY = tuple(round(10**power / 128) * 128 for power in (4, 4.75, 5.5, 6.25, 7))
SWEEPS: dict[str, tuple[str, str, tuple[int, ...], Sizes]] = {
    "rows": ("N rows, an encoder", "rows", MANY, SMALL),
    "table": ("N rows, a table", "rows", MANY, TABLE),
    "batch": ("batch", "batch", (32, 128, 512, 2048, 8192), Sizes()),
    "particles": ("draws K of the IWAE", "particles", (1, 4, 16, 64, 256), Sizes()),
    "latent": ("latent dimension d", "latent", (2, 8, 32, 128, 512), Sizes()),
    "length": ("length L of a planar flow", "length", (2, 4, 8, 16, 32), Sizes()),
}


def run(sizes: Sizes, way: Any, steps: int) -> FitResult:
    """A fit of five windows of so many steps."""
    torch.manual_seed(0)
    data = Dataset(torch.randint(2, (sizes.rows, sizes.data_dim), dtype=torch.float32))
    hidden: dict[str, Any] = {"hidden": (sizes.hidden,)}
    model = VAE(sizes.data_dim, sizes.latent, likelihood="bernoulli", **hidden)
    family = "planar" if sizes.length else "mean_field"
    more: dict[str, Any] = {"family_options": {"length": sizes.length}} if sizes.length else {}
    more |= {"inference_options": hidden} if sizes.inference == "amortized" else {}
    guide = Guide(model, data, family, sizes.inference, **more)
    return fit(
        model,
        guide,
        data,
        "elbo" if sizes.particles == 1 else "iwae",
        objective_options={"num_particles": sizes.particles},
        steps=WINDOWS * steps,
        batch_size=sizes.batch,
        lr=1e-3,
        log_every=steps,
        progress=False,
        run=way,
    )


def milliseconds(sizes: Sizes, way: str, steps: int) -> float:
    """What a step takes.

    Raises:
        RuntimeError: it ran another way.
    """
    result = run(sizes, way, steps)
    if result.run["way"] != way:
        raise RuntimeError(f"{sizes} was to run {way}: {result.run}")
    seconds = [row["seconds"] for row in result.metrics]
    return 1000 * statistics.median(b - a for a, b in pairwise(seconds)) / steps


def slope(x: list[int], y: list[float]) -> float:
    """Of log y on log x, over the upper half of the range."""
    a, b = np.log(x), np.log(y)
    upper = a >= min(a[-2], (a[0] + a[-1]) / 2 - 0.01)
    return float(np.polyfit(a[upper], b[upper], 1)[0])


def sweep(word: str, points: tuple[int, ...], stride: int) -> dict[str, Any]:
    """One size grows: eager at every point, compiled at one in ``stride``."""
    title, name, _, base = SWEEPS[word]
    fixed = {key: value for key, value in asdict(base).items() if key != name}
    found: dict[str, dict[int, float]] = {way: {} for way in WAYS}
    for place, point in enumerate(points):
        sizes = replace(base, **{name: point})
        few = replace(sizes, rows=max(sizes.batch, min(sizes.rows, Sizes.rows)))
        guess = milliseconds(few, "eager", 5)
        steps = min(1000, max(5, round(1000 * SECONDS / guess)))
        for way in WAYS[: 1 if place % stride else 2]:
            # Faster steps need longer windows: seconds are kept to the millisecond.
            taken = milliseconds(sizes, way, steps if way == "eager" else 3 * steps)
            found[way][point] = taken
            print(f"{title} = {point}, {way}: {taken:.3f} ms", file=sys.stderr)
    result: dict[str, Any] = {"title": title, "fixed": fixed}
    for way, times in found.items():
        rows = {p: p if name == "batch" else base.batch for p in times}
        result[way] = {
            "points": list(times),
            "milliseconds": [round(t, 4) for t in times.values()],
            "rows_a_second": [round(1000 * rows[p] / t) for p, t in times.items()],
            "slope": round(slope(list(times), list(times.values())), 2),
        }
    return result


def main() -> None:
    """All sweeps, the figures and the picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(SWEEPS), help="sweeps, with commas")
    parser.add_argument("--all", action="store_true", help="compiled at every size")
    parser.add_argument("--quick", action="store_true", help="the three smallest sizes")
    parser.add_argument("--dry", action="store_true", help="print, and write no file")
    options = parser.parse_args()
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "sweeps": {}}
    for word in options.only.split(","):
        points = SWEEPS[word][2]
        points = points[:3] if options.quick else points
        result["sweeps"][word] = sweep(word, points, 1 if options.all else 2)
    if options.dry:
        print(json.dumps(result, indent=2))
        return
    save("scaling", result)
    write_picture(PICTURE, figure(result["sweeps"]))


if __name__ == "__main__":
    main()
