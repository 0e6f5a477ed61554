"""Whether the card tells how wrong q is: its figures against the truth, on posteriors of posteriordb.

    python -m benchmarks.posteriors [--figure]

The global latents of each model get q of three families by the ELBO. The truth is 10 000 reference
draws by Stan. The card knows nothing of them: it has k̂ of 25 000 importance weights, the moments
that they correct, and short Markov chains from draws of q. ``--figure`` only draws docs/posteriors.png
from the results. The data are those that ``ZOO_DATA`` holds.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import save
from experiments.posteriordb import Reference, load, names
from guides import Guide
from guides.family import inverse_softplus
from zoo import fit
from zoo.context import seeded
from zoo.diagnostics.chains import short_chains
from zoo.diagnostics.global_weights import global_weights
from zoo.diagnostics.moments import corrected_moments
from zoo.diagnostics.psis import psis
from zoo.diagnostics.targets import joint_target
from zoo.sites import Latents

FLOW = {"length": 4, "context_dim": 0, "hidden": (32,)}
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # options, and how it is fitted
    "mean_field": ({}, {"steps": 800, "lr": 0.03}),
    "full_rank": ({}, {"steps": 800, "lr": 0.03}),
    "iaf": (FLOW, {"steps": 1500, "lr": 0.005, "clip": 1.0}),
}
HOW = {"schedule": "cosine", "betas": (0.9, 0.99), "progress": False}


def laplace(ref: Reference) -> tuple[Tensor, Tensor]:
    """The mode (d,) of log p(x, u) in the unconstrained space, and minus its Hessian there."""
    batch = ref.data.batch()
    latents = Latents.find(ref.model, batch)
    target = joint_target(ref.model, batch, latents)

    def loss(u: Tensor) -> Tensor:
        return -target(u.unsqueeze(0))[0]

    u = torch.zeros(latents.global_.dim, requires_grad=True)
    search = torch.optim.LBFGS([u], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        value = loss(u)
        value.backward()
        return value

    search.step(closure)
    hessian = torch.autograd.functional.hessian(loss, u.detach())
    assert isinstance(hessian, Tensor)
    return u.detach(), hessian


@torch.no_grad()
def start(guide: Guide, mode: Tensor, hessian: Tensor) -> None:
    """q at the mode, as wide as the curvature says: what follows ends where the family does."""
    kappa, d = guide.global_kappa, len(mode)
    assert kappa is not None
    scale = hessian.diagonal().rsqrt()
    if len(kappa) == 2 * d + d * (d - 1) // 2 and d > 1 and not hasattr(guide.global_family, "net"):
        tril = torch.linalg.cholesky(torch.linalg.inv(hessian))
        scale = tril.diagonal()
        row, column = torch.tril_indices(d, d, -1)
        kappa[2 * d :] = (tril / scale.unsqueeze(-1))[row, column]
    kappa[:d] = mode
    kappa[d : 2 * d] = torch.stack([torch.tensor(inverse_softplus(float(s))) for s in scale])
