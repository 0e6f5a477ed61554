"""How well a model and a guide do on data: bounds and, where known, the evidence, with errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.context import seeded, stream, validation
from zoo.data import Batch, as_dataset
from zoo.exact import knows, log_evidence
from zoo.model import Model, as_model
from zoo.objectives.bounds import log_mean_exp, mean
from zoo.weights import LogWeights, log_weights


@dataclass(frozen=True)
class Estimate:
    """A mean over datapoints in nats, and the two errors that it has.

    Attributes:
        rows: (N,), the value of each datapoint.
        error: (N,), the Monte-Carlo standard error of each.
        shared: the Monte-Carlo standard error that all rows share (draws of global latents).
    """

    rows: Tensor
    error: Tensor
    shared: float = 0.0

    @property
    def mean(self) -> float:
        """Nats per datapoint."""
        return self.rows.mean().item()

    @property
    def se(self) -> float:
        """Monte-Carlo standard error of the mean on these data."""
        own = self.error.square().sum().sqrt().item() / len(self.rows)
        return math.hypot(own, self.shared)

    @property
    def se_data(self) -> float:
        """Standard error of the mean as an estimate for new data from the same source."""
        return self.rows.std().item() / math.sqrt(len(self.rows)) if len(self.rows) > 1 else 0.0

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"mean": self.mean, "se": self.se, "se_data": self.se_data}


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


@torch.no_grad()
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
) -> Evaluation:
    """ELBO, IWAE_K and log p(x) of every row.

    Two guides evaluated with the same seed see the same random numbers where they draw in the same
    order. Rows go through in chunks, so that memory does not grow with N K.

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
        max_elements: how many numbers one chunk may take.

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
    width = max(1, sum(data.event_shape(name).numel() for name in data.names))
    density = getattr(guide, "has_density", True)
    head = data.batch(torch.arange(min(len(data), 97), device=data.device)).to(model.device)
    model.resolve(head)
    chosen = stream(seed, "evaluation")
    with seeded(chosen, model.device), validation(False):
        first = log_weights(model, guide, head)
        outer = num_outer if first.has_globals else 1
        states = torch.Size(first.enumerated.values()).numel() if first.enumerated else 1
        chunk = max(1, max_elements // (num_particles * outer * states * width))
        torch.manual_seed(chosen)
        parts = [
            _rows(
                log_weights(model, guide, batch.to(model.device), num_particles, outer), predictive
            )
            for batch in data.batches(chunk)
        ]
        known = exact and knows(model, "log_evidence")
        values = (
            [log_evidence(model, batch.to(model.device)) for batch in data.batches(65536)]
            if known
            else []
        )
    elbo, iwae = _gather(parts, 0, outer), _gather(parts, 1, outer)
    truth = torch.cat(values) if known else None
    return Evaluation(
        elbo=elbo if density else None,
        iwae=iwae if density else None,
        exact=Estimate(truth, torch.zeros_like(truth)) if truth is not None else None,
        log_joint=None if density else elbo,
        num_particles=num_particles,
    )


def _rows(weights: LogWeights, predictive: bool) -> list[tuple[Tensor, Tensor]]:
    """For ELBO and IWAE: (S, B) values, each row with its share of g, and (S, B) variances."""
    h = weights.marginal
    ratio = (h - h.max(-2, keepdim=True).values).exp()  # relative weights, for the delta method
    terms = [h, ratio / ratio.mean(-2, keepdim=True)]  # what each particle adds to either bound
    if weights.log_q_enum is not None:  # states may share a particle's draws, so they are summed
        share = weights.log_q_enum.exp()[:, None, None]  # (C, 1, 1, B)
        terms = [(share * term).sum(0) for term in terms]
    value = weights.bound if predictive else weights.per_row
    reduces = (mean, log_mean_exp)
    return [(value(r), t.var(-2) / h.shape[-2]) for r, t in zip(reduces, terms, strict=True)]


def _gather(parts: list[Any], which: int, outer: int) -> Estimate:
    """All rows of one bound, averaged over the outer draws, with its errors."""
    rows = torch.cat([part[which][0].mean(0) for part in parts])
    if outer == 1:
        return Estimate(rows, torch.cat([part[which][1][0] for part in parts]).sqrt())
    # Every chunk has draws of g of its own, and each moves all rows of the chunk together.
    shared = sum(part[which][0].sum(-1).var(0) / outer for part in parts)
    return Estimate(rows, torch.zeros_like(rows), math.sqrt(float(shared)) / len(rows))
