"""The ladder ELBO ≤ IWAE_K ≤ log p(x) against exact evidence and against integration over a grid.

    python -m benchmarks.evidence

PPCA on wine knows log p(x); VAEs of digits (static binarization) with one and two latents have it
by the trapezoid rule. A q that is fitted by the ELBO is narrow and may miss a mode of the
posterior: then 5000 draws are too few, which the error of the bound does not show; fitted by IWAE
it is wide enough.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from benchmarks.report import save
from guides import Guide
from zoo import fit, load_data
from zoo.context import seeded
from zoo.importance import importance_ladder
from zoo.models.ppca import PPCA
from zoo.models.vae import VAE

ROWS = 50


@torch.no_grad()
def on_a_grid(model: VAE, x: Tensor, half: float = 8.0, points: int = 801) -> Tensor:
    """log ∫ N(z; 0, I) p(x | z) dz, (N,), by the trapezoid rule on [-8, 8]^d."""
    d = model.latent_dim
    axis = torch.linspace(-half, half, points)
    grid = torch.tensor(list(itertools.product(axis.tolist(), repeat=d)))
    prior = torch.distributions.Normal(0.0, 1.0).log_prob(grid).sum(-1)
    total = torch.full((len(x),), -math.inf)
    for z, weight in zip(grid.split(4000), prior.split(4000), strict=True):
        inside = model.decode(z.unsqueeze(1)).log_prob(x) + weight.unsqueeze(1)  # (M, N)
        total = torch.logaddexp(total, inside.logsumexp(0))
    return total + d * math.log(2 * half / (points - 1))


def row(ladder, exact: Tensor) -> dict[str, object]:
    """The ladder beside the evidence, and the difference row by row at the largest K."""
    apart = ladder.iwae.rows - exact
    return {
        "log_p": exact.mean().item(),
        "ladder": ladder.as_dict(),
        "iwae_minus_log_p": apart.mean().item(),
        "se": ladder.iwae.se,
        "largest_row": apart.abs().max().item(),
    }


def main() -> None:
    """PPCA, then VAEs."""
    torch.set_default_dtype(torch.float64)
    result: dict[str, object] = {}
    wine = load_data("wine")
    assert wine.test is not None
    model = PPCA.for_data(wine.train, latent_dim=2, init="ml")
    guide = Guide(model, wine.train, "mean_field", "amortized")
    fit(model, guide, wine.train, steps=2000, freeze="model", progress=False)
    exact = model.log_evidence(wine.test["x"]).detach()
    result["PPCA, wine, d=2"] = row(importance_ladder(model, guide, wine.test), exact)
    digits = load_data("digits", binarization="static")
    assert digits.test is not None
    test = digits.test.subset(torch.arange(ROWS))
    for d, points in ((1, 4001), (2, 601)):
        with seeded(0):
            vae = VAE.for_data(digits.train, latent_dim=d, hidden=(50,), likelihood="bernoulli")
            q = Guide(vae, digits.train, "mean_field", "amortized")
        how = {"batch_size": 200, "lr": 3e-3, "schedule": "cosine", "progress": False}
        fit(vae, q, digits.train, steps=3000, **how)
        truth = on_a_grid(vae, test["x"], points=points)
        result[f"VAE, digits, d={d}, q by elbo"] = row(importance_ladder(vae, q, test), truth)
        wide = {"objective_options": {"num_particles": 50}, "freeze": "model"}
        fit(vae, q, digits.train, "iwae", steps=2000, **wide, **how)
        result[f"VAE, digits, d={d}, q by iwae"] = row(importance_ladder(vae, q, test), truth)
    save("evidence", result)


if __name__ == "__main__":
    main()
