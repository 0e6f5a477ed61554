"""Static MNIST in ten minutes on a CPU: training, test log-likelihood, its cost, and the guides.

    ZOO_DATA=… python -m benchmarks.mnist runs/mnist

Every part is a command of its own, in a process of its own; a part whose folder is there already
is read and not run again. Published for the first ten minutes: log p(x) −97.10 with a mean-field
guide, −95.33 with IAF (altosaar/variational-autoencoder).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.report import save

FIT = (
    "fit vae --data static_mnist --model.latent_dim 40 --inference.hidden 200,200 "
    "--inference.activation tanh --steps 21000 --batch-size 200 --lr 2e-3 --schedule cosine "
    "--eval-rows 500 --eval-particles 200"
)
GUIDES = (
    "compare vae --data static_mnist --inference.hidden 200,200 --inference.activation tanh "
    "--family mean_field/per_datapoint,full_rank/per_datapoint,planar:8/per_datapoint,"
    "mean_field/amortized,full_rank/amortized,iaf:2/amortized --steps 3000 --lr 2e-3 "
    "--batch-size 100 --infer-steps 1200 --eval-rows 48 --eval-particles 500"
)
PUBLISHED = {"mean_field": -97.10, "iaf": -95.33}


def command(line: str, *more: str) -> dict[str, float]:
    """Runs one command; its wall-clock time and the largest memory of any command so far."""
    clock = time.perf_counter()
    subprocess.run([sys.executable, "-m", "experiments", *line.split(), *more], check=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    return {"seconds": time.perf_counter() - clock, "peak_mb": peak}


def evaluated(run: Path, particles: int) -> dict[str, Any]:
    """``zoo evaluate`` on all test rows, with its cost."""
    place = run.with_name(f"{run.name}-evaluated-{particles}")
    if not (place / "cost.json").exists():
        line = f"evaluate {run} --num-particles {particles} --out {place}"
        (place / "cost.json").write_text(json.dumps(command(line)))
    found = json.loads((place / "evaluation.json").read_text())
    keep = ("num_rows", "num_particles", "ladder", "nll", "active_units", "binarization")
    return {k: found[k] for k in keep if k in found} | json.loads((place / "cost.json").read_text())


def main() -> None:
    """Fit, evaluate with K = 50 and then K = 5000 (memory only grows), compare."""
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/mnist")
    if not run.exists():
        command(FIT, "--out", str(run))
    summary = json.loads((run / "summary.json").read_text())
    result: dict[str, Any] = {
        "published_first_ten_minutes": PUBLISHED,
        "fit": {k: summary[k] for k in ("steps", "seconds", "num_train", "model_options")},
        "commands": {"fit": FIT, "compare": GUIDES},
    }
    for particles in (50, 5000):
        result[f"evaluate_{particles}"] = evaluated(run, particles)
    guides = run.with_name(f"{run.name}-guides")
    if not guides.exists():
        command(GUIDES, "--model-from", str(run), "--out", str(guides))
    found = json.loads((guides / "compare.json").read_text())
    result["guides"] = [
        {"guide": r["guide"], "seconds": r["seconds"], "test": r["test"], "gap": r["gap"]["test"]}
        for r in found["runs"]
    ]
    save("mnist", result)


if __name__ == "__main__":
    main()
