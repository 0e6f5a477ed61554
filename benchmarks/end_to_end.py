"""Seconds from the command to a held-out bound: the zoo, Pyro's VAE example, hand-written PyTorch.

    ZOO_DATA=… OMP_NUM_THREADS=1 python -m benchmarks.end_to_end
    python -m benchmarks.end_to_end --only ours_eager,pyro --rows 5000 --epochs 2 --dry

The VAE of Pyro's ``examples/vae/vae.py`` for everybody: x 784 – 400 softplus – z 50 – 400 softplus
– 784, Adam with lr 0.001, batches of 256, here on MNIST binarized once (``static_mnist``, 50 000
rows). Every contender has a process of its own. The clock runs from before the process starts, with
imports, reading of the data and compilation, and stands still while the judge looks: at the end of
every pass one function, the same for all, takes the ELBO of the first 1000 test rows by 16 draws,
always the same noise. Apart are shown the start (until training begins), a pass (the median from
the second on) and what the first takes more: compilation, and what torch imports at a first step.

- ``ours_eager``, ``ours_compiled``: ``zoo.fit``, with the start of the weights, standardised input
  and softplus scale that are its defaults; ``ours_compiled_again`` finds the compiler's cache of
  the run before, the others that compile begin with an empty one.
- ``pyro``: the example: its modules, SVI with Trace_ELBO, a DataLoader over rows held as floats;
  ``pyro_jit`` its ``--jit``; ``pyro_resident`` takes batches from a tensor by index.
- ``torch_dataloader``, ``torch_resident``: the same modules, the closed-form KL;
  ``torch_compile``: ``torch_resident`` with the loss under ``torch.compile``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.end_to_end_runs import BATCH, CONTENDERS, DRAWS, HELD_OUT, LR
from benchmarks.report import save

EPOCHS, THRESHOLDS = 9, (-135.0, -125.0, -120.0)


def contend(name: str, options: argparse.Namespace, cache: Path) -> dict[str, Any]:
    """One contender in a process of its own, and what its clock says."""
    again = name.removesuffix("_again")
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache / again)}
    words = [name, f"--epochs={options.epochs}", f"--seed={options.seed}"]
    words += [f"--rows={options.rows}"] if options.rows else []
    command = [sys.executable, "-m", "benchmarks.end_to_end_runs", *words]
    command.append(f"--launched={time.time()}")
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    seconds, elbo = ([round(value, 2) for value in found[key]] for key in ("seconds", "elbo"))
    passes = np.diff([found["start"], *seconds])
    usual = median(passes[1:]) if len(passes) > 1 else None
    reached = {}
    for threshold in THRESHOLDS:
        first = next((i for i, bound in enumerate(elbo) if bound > threshold), None)
        here = None if first is None else {"seconds": seconds[first], "passes": first + 1}
        reached[f"{threshold:g}"] = here
    return {
        "start": round(found["start"], 2),
        "first_pass_more": None if usual is None else round(passes[0] - usual, 2),
        "a_pass": None if usual is None else round(usual, 2),
        "reached": reached,
        "held_out_elbo": elbo,
        "seconds": seconds,
    }


def main() -> None:
    """Every contender in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, with commas")
    parser.add_argument("--rows", type=int, help="training rows; all by default")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="print, and write no file")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "data": "static_mnist",
        "rows": options.rows or 50_000,
        "epochs": options.epochs,
        "batch": BATCH,
        "lr": LR,
        "held_out": {"rows": HELD_OUT, "draws": DRAWS},
        "threads": torch.get_num_threads(),
        "runs": {},
    }
    with tempfile.TemporaryDirectory() as cache:
        for name in options.only.split(","):
            result["runs"][name] = contend(name, options, Path(cache))
            print(name, json.dumps(result["runs"][name]["reached"]), file=sys.stderr)
    if options.dry:
        print(json.dumps(result, indent=2))
        return
    save("end_to_end", result)


if __name__ == "__main__":
    main()
