"""Static MNIST in ten minutes on a CPU: training, test log-likelihood, its cost, and the guides.

    ZOO_DATA=… python -m benchmarks.mnist runs/mnist

Every part is a command of its own, in a process of its own; a part whose folder is there already
is read and not run again. Published for the first ten minutes: log p(x) −97.10 with a mean-field
guide, −95.33 with IAF (altosaar/variational-autoencoder).
"""

from __future__ import annotations

import json
import subprocess
import sys
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


ROWS = 300  # that the cost of an evaluation is measured on


def command(line: str, *more: str) -> dict[str, float]:
    """Runs one command; its wall-clock time and its largest memory."""
    measure = (
        "import json, resource, subprocess, sys, time; t = time.perf_counter(); "
        "subprocess.run([sys.executable, '-m', 'experiments', *sys.argv[1:]], check=True); "
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10; "
        "print(json.dumps({'seconds': time.perf_counter() - t, 'peak_mb': peak}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", measure, *line.split(), *more],
        check=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stderr.strip().splitlines()[-1])


def evaluated(run: Path, particles: int) -> dict[str, Any]:
    """``zoo evaluate`` on all test rows."""
    place = run.with_name(f"{run.name}-evaluated-{particles}")
    if not (place / "evaluation.json").exists():
        command(f"evaluate {run} --num-particles {particles} --out {place}")
    found = json.loads((place / "evaluation.json").read_text())
    keep = ("num_rows", "num_particles", "ladder", "nll", "active_units", "binarization", "seconds")
    return {k: found[k] for k in keep if k in found}


def cost(run: Path, particles: int) -> dict[str, float]:
    """Time and memory of an evaluation of some rows, the start of the program included."""
    place = run.with_name(f"{run.name}-cost-{particles}")
    line = f"evaluate {run} --num-particles {particles} --num-rows {ROWS} --out {place}"
    return {"rows": ROWS, **command(line)}


def main() -> None:
    """Fit, evaluate with K = 50 and K = 5000, compare."""
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
        result[f"cost_{particles}"] = cost(run, particles)
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
