"""A linear Gaussian VAE is PPCA: its likelihood, and its gap under every family.

    python -m benchmarks.linear_vae [FAMILY …]    # all of them, or some anew

wine, d=2, the data of REFERENCE: every family is trained jointly with the VAE from a random start.
log p(x) of the VAE is that of PPCA with its W, μ and σ; the gap log p(x) − ELBO holds the
amortization gap.
"""

from __future__ import annotations

import json
import sys
import time

import torch

from benchmarks.report import RESULTS, save
from guides import Guide
from guides.flow import Flow
from zoo import evaluate, fit, load_data
from zoo.context import seeded
from zoo.models.ppca import PPCA
from zoo.models.vae import VAE
from zoo.registry import names, resolve

REFERENCE = {"train": -16.2531, "test": -16.0075}  # PPCA by eigendecomposition
STEPS = {"mean_field": 6000}  # it has to turn the loadings first; 1500 for the others
SKIP = ("exact", "delta", "hamiltonian")  # the last is no fixed shape, but steps that follow p
LENGTH = {"planar": 4, "radial": 4, "householder": 2, "sylvester": 2}


def as_ppca(model: VAE) -> PPCA:
    """The PPCA with the weights of a linear VAE."""
    (linear,) = (m for m in model.decoder.modules() if isinstance(m, torch.nn.Linear))
    other = PPCA(linear.out_features, linear.in_features).to(model.dtype)
    scale = model.decode(torch.zeros(1, model.latent_dim)).stddev[0, 0]
    with torch.no_grad():
        other.weight.copy_(linear.weight)
        other.mean.copy_(linear.bias)
        other.log_scale.fill_(float(scale.log()))
    return other


def main() -> None:
    """Every family that has parameters."""
    torch.set_default_dtype(torch.float64)
    split = load_data("wine")
    assert split.test is not None
    chosen = sys.argv[1:]
    result = json.loads((RESULTS / "linear_vae.json").read_text())["runs"] if chosen else {}
    for family in chosen or names("families"):
        if family in SKIP or not resolve("families", family).uses_kappa:
            continue
        flow = issubclass(resolve("families", family), Flow)
        word = f"{family}:{LENGTH.get(family, 2)}" if flow else family
        with seeded(0):
            model = VAE.for_data(split.train, latent_dim=2, hidden=(), likelihood="gaussian")
        with seeded(1):
            guide = Guide(model, split.train, word, "amortized", inference_options={"hidden": []})
        clock = time.perf_counter()
        fit(
            model,
            guide,
            split.train,
            steps=STEPS.get(family, 1500),
            lr=0.03,
            schedule="exponential",
            objective_options={"num_particles": 2},
            progress=False,
        )
        seconds = time.perf_counter() - clock
        exact = as_ppca(model)
        row: dict[str, float] = {"seconds": seconds, "steps": STEPS.get(family, 1500)}
        for side, data in (("train", split.train), ("test", split.test)):
            truth = exact.log_evidence(data["x"]).mean().item()
            found = evaluate(model, guide, data, num_particles=2000)
            assert found.elbo is not None
            row[side] = truth
            row[f"{side}_minus_reference"] = truth - REFERENCE[side]
            row[f"gap_{side}"] = truth - found.elbo.mean
            row[f"gap_{side}_se"] = found.elbo.se
        print(word, row, flush=True)
        result[word] = row
    save("linear_vae", {"reference": REFERENCE, "runs": dict(sorted(result.items()))})


if __name__ == "__main__":
    main()
