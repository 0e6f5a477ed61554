"""SVI from a random start against the maximum-likelihood values, through the command line.

    python -m benchmarks.linear_gaussian            # all
    python -m benchmarks.linear_gaussian iris wine  # these data sets

Reference values: eigendecomposition of the 1/n covariance for PPCA, scikit-learn 1.9.1 for factor
analysis; standardised by all rows (digits / 16), first 80 % of ``RandomState(0)`` for training.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import RESULTS, save

# (model, data, d): train, test in nats per datapoint
REFERENCE = {
    ("ppca", "iris", 2): (-3.6258, -3.9644),
    ("ppca", "wine", 2): (-16.2531, -16.0075),
    ("ppca", "wine", 5): (-15.3075, -15.1841),
    ("ppca", "digits", 10): (17.4973, 17.0235),
    ("factor_analysis", "wine", 2): (-15.5791, -15.1023),
}
COMMON = "--lr 0.02 --schedule exponential --seed 0 --device cpu --progress false"
GUIDES = {
    "exact": "--family exact --steps 6000",
    "full-rank table": "--family full_rank --inference per_datapoint "
    "--num-particles 10 --steps 20000",
    "linear encoder": "--family full_rank --inference amortized --inference.hidden [] "
    "--num-particles 10 --steps 20000",
}


def fit(model: str, data: str, d: int, options: str) -> dict:
    """One run of ``zoo fit``; its summary."""
    with tempfile.TemporaryDirectory() as folder:
        words = f"fit {model} --data {data} --model.latent_dim {d} {options} {COMMON}"
        command = [sys.executable, "-m", "experiments", *words.split(), "--out", f"{folder}/run"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"zoo {words}\n{done.stderr}")
        return {
            "command": f"zoo {words}",
            **json.loads((Path(folder) / "run" / "summary.json").read_text()),
        }


def main() -> None:
    """Prints and saves what each run is away from the reference."""
    wanted = sys.argv[1:]
    file = RESULTS / "linear_gaussian.json"
    result = json.loads(file.read_text())["runs"] if wanted and file.exists() else {}
    for (model, data, d), (train, test) in REFERENCE.items():
        if wanted and data not in wanted:
            continue
        for name, options in GUIDES.items():
            if data == "digits" and "per_datapoint" in options:  # 65 numbers for each of 1437 rows
                options = options.replace("--num-particles 10", "--num-particles 8")
            found = fit(model, data, d, options)
            exact = {side: found[side]["exact"]["mean"] for side in ("train", "test")}
            result[f"{model}, {data}, d={d}, {name}"] = {
                "train_minus_reference": exact["train"] - train,
                "test_minus_reference": exact["test"] - test,
                "gap_train": exact["train"] - found["train"]["elbo"]["mean"],
                "gap_train_se": found["train"]["elbo"]["se"],
                "gap_test": exact["test"] - found["test"]["elbo"]["mean"],
                "gap_test_se": found["test"]["elbo"]["se"],
                "steps": found["steps"],
                "seconds": found["seconds"],
                "command": found["command"],
            }
            save("linear_gaussian", {"runs": result})


if __name__ == "__main__":
    main()
