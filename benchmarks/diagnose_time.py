"""How long the default report card takes on the CPU, part by part.

    python -m benchmarks.diagnose_time

PPCA on the digits, and a VAE (784-200-200-20) on 10 000 static MNIST images after 2000 steps.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.report import save
from guides import Guide
from zoo import Model, diagnose, fit, load_data
from zoo.data import Dataset
from zoo.models.ppca import PPCA
from zoo.models.vae import VAE


def timed(model: Model, guide: Guide, data: Dataset, run: Any, **options: Any) -> dict[str, Any]:
    """Seconds of a card, and what it says."""
    started = time.perf_counter()
    card = diagnose(model, guide, data, run=run, **options)
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "parts": card.about["seconds_by_part"],
        "rows": f"{card.about['num_rows']} of {card.about['of_rows']}",
        "verdict": card.verdict.posterior,
    }


def main() -> None:
    """Both models, without and with simulation."""
    digits = load_data("digits").train
    ppca = PPCA.for_data(digits, latent_dim=10, init="ml")
    small = Guide(ppca, digits, "mean_field", "amortized")
    how = {"freeze": "model", "progress": False}
    first = fit(ppca, small, digits, steps=3000, lr=0.005, schedule="cosine", **how)
    images = load_data("static_mnist").train.subset(torch.arange(10_000))
    torch.manual_seed(0)
    vae = VAE.for_data(images, latent_dim=20, hidden=(200, 200))
    large = Guide(vae, images, "mean_field", "amortized", inference_options={"hidden": [200, 200]})
    second = fit(vae, large, images, steps=2000, batch_size=200, lr=2e-3, progress=False)
    diagnose(ppca, small, digits.subset(range(20)), num_draws=100)  # what is imported once
    result = {}
    for name, pair in (
        ("PPCA, digits", (ppca, small, digits, first)),
        ("VAE, 10 000 MNIST images", (vae, large, images, second)),
    ):
        result[name] = timed(*pair)
        result[f"{name}, --simulate"] = timed(*pair, simulate=True)
    save("diagnose_time", result)


if __name__ == "__main__":
    main()
