"""How well a model and a guide do on data: bounds and, where known, the evidence, with errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from zoo.context import validation
from zoo.data import Batch, Dataset, as_dataset
from zoo.engine import RunName
from zoo.estimate import Estimate
from zoo.exact import knows, log_evidence
from zoo.importance import EVALUATION, sweep
from zoo.model import Model, as_model

__all__ = ["Estimate", "Evaluation", "evaluate", "exact_evidence"]


@dataclass(frozen=True)
class Evaluation:
    """Estimates in nats per datapoint; None where there is none.

    Attributes:
        elbo: the evidence lower bound; None for a point mass.
        iwae: the importance-weighted bound at ``num_particles``; None for a point mass.
        exact: log p(x), where the model knows it.
        log_joint: log p(x, ẑ) of a point mass, which is no bound.
        num_particles: K.
    """

    elbo: Estimate | None
    iwae: Estimate | None
    exact: Estimate | None
    log_joint: Estimate | None
    num_particles: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the object behind ``train`` and ``test`` of a summary."""
        parts = {"elbo": self.elbo, "iwae": self.iwae, "exact": self.exact}
        result: dict[str, Any] = {k: v.as_dict() if v else None for k, v in parts.items()}
        if self.log_joint:
            result["log_joint"] = self.log_joint.as_dict()
        return result


def evaluate(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    *,
    num_particles: int = 1000,
    num_outer: int = 32,
    seed: int = 0,
    exact: bool = True,
    predictive: bool = False,
    max_elements: int = 4_000_000,
    run: RunName = "auto",
) -> Evaluation:
    """ELBO, IWAE_K and log p(x) of every row.

    Two guides evaluated with the same seed see the same random numbers where they draw in the same
    order. Rows go through in pieces, and the particles of a row too where one row has no room for
    them, so that memory does not grow with N K.

    Args:
        model: p.
        guide: q for the rows of ``data`` (``guide.infer(data)`` where it was fitted to others).
        data: N rows.
        num_particles: K.
        num_outer: S, draws of the global latents; the error over them is shared by all rows.
        seed: of the evaluation's own random numbers, apart from those of training.
        exact: whether to ask the model for log p(x).
        predictive: for rows that global latents were not fitted to: E_{q(g)} Σ_n bound_n(g), with
            no log p(g)/q(g); a lower bound on the log density of the rows under ∫ p(x|g) q(g) dg.
        max_elements: how many numbers the largest tensor may have.
        run: as for ``importance_ladder``.

    Returns:
        For global latents the figures are [log p(g)/q(g) + Σ_n …]/N, averaged over g.

    Raises:
        ValueError: as ``log_weights``.
    """
    if min(num_particles, num_outer) < 2:
        raise ValueError(
            "an error needs two draws or more, got "
            f"num_particles={num_particles}, num_outer={num_outer}"
        )
    model, data = as_model(model), as_dataset(data)
    density = getattr(guide, "has_density", True)
    ladder = sweep(
        model,
        guide,
        data,
        (1, num_particles),
        num_outer=num_outer,
        seed=seed,
        purpose=EVALUATION,
        predictive=predictive,
        max_elements=max_elements,
        run=run,
    )
    elbo, iwae = (
        Estimate(bound.rows.to(model.dtype), bound.error.to(model.dtype), bound.shared)
        for bound in ladder.bounds
    )
    return Evaluation(
        elbo=elbo if density else None,
        iwae=iwae if density else None,
        exact=exact_evidence(model, data) if exact else None,
        log_joint=None if density else elbo,
        num_particles=num_particles,
    )


@torch.no_grad()
def exact_evidence(model: Model, data: Dataset) -> Estimate | None:
    """log p(x) of every row, where the model knows it."""
    if not knows(model, "log_evidence"):
        return None
    with validation(False):
        parts = [log_evidence(model, batch.to(model.device)) for batch in data.batches(65536)]
    rows = torch.cat(parts)
    return Estimate(rows, torch.zeros_like(rows))
