"""Diagnostics against what is known exactly: k̂, gaps, the sandwich of annealing.

python -m benchmarks.diagnostics_exact
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from benchmarks.known import mean_field
from benchmarks.mean_field_gap import closed_form
from benchmarks.report import save
from guides import Guide
from zoo import Dataset, evaluate, fit, load_data
from zoo.diagnostics.annealing import annealed
from zoo.diagnostics.draws import weighted_draws
from zoo.diagnostics.gaps import gaps
from zoo.diagnostics.psis import psis
from zoo.diagnostics.sandwich import sandwich
from zoo.models.ppca import PPCA
from zoo.models.vae import VAE

GRID = 4001  # points of the quadrature


def tail_index() -> dict[str, Any]:
    """k̂ of mean-field on two Gaussian latents with precision correlation ρ: its limit is |ρ|."""
    found = {}
    for rho in (0.3, 0.5, 0.7, 0.9):
        model, guide, data = mean_field(0, 40, rho)
        for draws in (4000, 100_000):
            weights = weighted_draws(model, guide, data, draws, seed=1).log_weight
            k = psis(weights).k
            error = k.std().item() / math.sqrt(len(k))
            found[f"ρ = {rho}, S = {draws}"] = {"mean": k.mean().item(), "se": error, "limit": rho}
    return found


def split_of_gaps() -> dict[str, Any]:
    """PPCA on rotated loadings: approximation gap in closed form, amortization gap by log p(x)."""
    data = load_data("wine").train
    model = PPCA.for_data(data, latent_dim=2, init="ml")
    turn = torch.tensor([[math.cos(0.6), math.sin(0.6)], [-math.sin(0.6), math.cos(0.6)]])
    with torch.no_grad():
        model.weight.copy_(model.weight @ turn)
    result: dict[str, Any] = {"closed_form_approximation": closed_form(model)}
    for name, steps in (("encoder, 100 steps", 100), ("encoder, 3000 steps", 3000)):
        guide = Guide(model, data, "mean_field", "amortized", inference_options={"hidden": []})
        how = {"freeze": "model", "schedule": "cosine", "progress": False}
        fit(model, guide, data, steps=steps, lr=0.02, **how)
        found = gaps(model, guide, data, num_rows=len(data))
        judged = evaluate(model, guide, data)
        assert judged.exact is not None and judged.elbo is not None
        total = judged.exact.mean - judged.elbo.mean
        result[name] = {
            "approximation": found.approximation.as_dict(),
            "amortization": found.amortization.as_dict(),
            "amortization_by_log_p": total - closed_form(model),
        }
    return result


def quadrature(model: VAE, x: Tensor) -> Tensor:
    """log ∫ p(x | z) N(z; 0, 1) dz of every row, on a grid."""
    z = torch.linspace(-8, 8, GRID).unsqueeze(-1)
    logits = model.decoder(z)  # (G, D)
    log_p = x @ logits.mT - torch.nn.functional.softplus(logits).sum(-1)
    step = 16 / (GRID - 1)
    prior = -0.5 * z.squeeze(-1).square() - 0.5 * math.log(2 * math.pi)
    return (log_p + prior + math.log(step)).double().logsumexp(-1)


@torch.no_grad()
def sandwiches() -> dict[str, Any]:
    """log p(x) of real rows and of simulated ones between the bounds."""
    result = {}
    wine = load_data("wine").train.subset(range(50))
    ppca = PPCA.for_data(load_data("wine").train, latent_dim=2, init="ml")
    digits = load_data("digits", binarization="static")
    torch.manual_seed(0)
    vae = VAE.for_data(digits.train, latent_dim=1, hidden=(64,))
    guide = Guide(vae, digits.train, "mean_field", "amortized")
    with torch.enable_grad():
        fit(vae, guide, digits.train, steps=1500, lr=2e-3, progress=False)
    some = digits.test.subset(range(50))
    for name, model, data, exact in (
        ("PPCA, wine, d=2", ppca, wine, lambda x: ppca.log_evidence(x).double()),
        ("VAE, binary digits, d=1", vae, some, lambda x: quadrature(vae, x)),
    ):
        forward = annealed(model, data).forward
        found = sandwich(model, data, num_simulations=50)
        simulated = Dataset({"x": found.data["x"]})
        result[name] = {
            "forward_minus_exact": _difference(forward.rows - exact(data["x"])),
            "lower_minus_exact": _difference(found.lower.rows - exact(simulated["x"])),
            "upper_minus_exact": _difference(found.upper.rows - exact(simulated["x"])),
            "width": _difference(found.width.rows),
        }
    return result


def _difference(rows: Tensor) -> dict[str, float]:
    return {"mean": rows.mean().item(), "se": rows.std().item() / math.sqrt(len(rows))}


def main() -> None:
    """All three."""
    save(
        "diagnostics_exact",
        {"tail_index": tail_index(), "gaps": split_of_gaps(), "sandwich": sandwiches()},
    )


if __name__ == "__main__":
    main()
