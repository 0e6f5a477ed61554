"""The gap log p(x) − ELBO taken apart: what the family lacks, and what its inference loses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from zoo.context import stream
from zoo.data import Batch, Dataset, as_dataset
from zoo.estimate import Estimate
from zoo.evaluation import exact_evidence
from zoo.importance import Ladder, importance_ladder
from zoo.model import Model, as_model


@dataclass(frozen=True)
class Gaps:
    """log p(x) − L[q] = (log p(x) − L[q*]) + (L[q*] − L[q]), row by row, in nats.

    Attributes:
        approximation: log p̂(x) − L[q*], q* being the best member of the family for each row.
        amortization: L[q*] − L[q]; below 0 by more than its error where the search for q* failed.
        total: log p̂(x) − L[q].
        evidence: log p̂(x).
        evidence_is: what it is: ``exact``, ``given``, or the larger of two lower bounds,
            ``IWAE_5000 under q*``.
        is_lower_bound: whether log p̂ is a lower bound on log p(x), and with it the approximation
            gap and the total, up to their errors.
        shared_weights: whether q* shares weights between rows that q shares: then what better ones
            would gain counts as approximation.
        index: (M,), the places of the rows in the data.
        best: the guide that draws from q*, for the rows ``data.only(index)``.
        num_draws: K, of each row, for each bound.
        seed: of the draws.
    """

    approximation: Estimate
    amortization: Estimate
    total: Estimate
    evidence: Estimate
    evidence_is: str
    is_lower_bound: bool
    shared_weights: bool
    index: torch.Tensor
    best: Callable[[Batch], Any]
    num_draws: int
    seed: int

    @property
    def amortization_is(self) -> str:
        """What the amortization gap is called, so that nothing is left unsaid."""
        what = "classifier" if getattr(self.best, "classifier", None) else "flow weights"
        return "amortization gap" + (f", {what} shared" if self.shared_weights else "")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "approximation": self.approximation.as_dict(),
            "amortization": self.amortization.as_dict(),
            "amortization_is": self.amortization_is,
            "total": self.total.as_dict(),
            "evidence": self.evidence.as_dict(),
            "evidence_is": self.evidence_is,
            "is_lower_bound": self.is_lower_bound,
            "num_rows": len(self.index),
            "num_draws": self.num_draws,
            "seed": self.seed,
        }


def gaps(
    model: Model | Callable[..., Any],
    guide: Any,
    data: Any,
    *,
    num_draws: int = 5000,
    num_rows: int = 100,
    seed: int = 0,
    evidence: Estimate | None = None,
    progress: bool | None = False,
    **options: Any,
) -> Gaps:
    """The approximation gap log p(x) − L[q*] and the amortization gap L[q*] − L[q].

    L is the ELBO; q*_n is the member of q's family with the largest L for row n, found by
    optimising all of its parameters for that row alone (``guide.optimal``). Both bounds are
    estimated with draws that had no part in finding q*, so that L[q*] is not flattered; a search
    that stops short makes the approximation gap too large and the amortization gap too small.

    log p̂(x) is exact where the model knows it; else ``evidence``; else the larger of IWAE_K under q
    and under q*, by their means, a lower bound. Where log p̂ and L come from the same draws, the
    error is that of their difference.

    Args:
        model: p.
        guide: q for the rows of ``data``, with a method ``optimal``.
        data: the rows.
        num_draws: K, for each bound.
        num_rows: M, at most: beyond that rows are chosen at random.
        seed: of rows, search and draws.
        evidence: log p̂ of the rows, such as that of annealed importance sampling; of all rows of
            ``data``. It is believed where the model knows no better.
        progress: bars; None shows them on a terminal.
        options: of ``guide.optimal``: steps, lr, schedule, num_particles, batch_size.

    Raises:
        ValueError: a guide without ``optimal``, such as a plain function; one without continuous
            latents of the rows, or a point mass; an evidence of another number of rows.

    Reference: Cremer, Li and Duvenaud, "Inference Suboptimality in Variational Autoencoders", 2018.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> found = gaps(model, Guide(model, data), data, num_draws=100, num_rows=10, steps=100)
        >>> found.evidence_is, found.amortization.mean > 0, found.amortization_is
        ('exact', True, 'amortization gap')
    """
    model, data = as_model(model), as_dataset(data)
    if not callable(getattr(guide, "optimal", None)):
        raise ValueError(
            "the gaps need the best q of a family for each row, which this guide cannot look for: "
            "it is a plain function; use guides.Guide, or give yours a method optimal(data)"
        )
    if num_rows < 1:
        raise ValueError(f"num_rows counts rows from 1, got {num_rows}")
    if evidence is not None and len(evidence.rows) != len(data):
        raise ValueError(
            f"the evidence is of {len(evidence.rows)} rows and the data have {len(data)}"
        )
    index = _chosen(len(data), num_rows, seed)
    if len(index) < len(data):
        data = data.only(index)
        if evidence is not None:
            at = index.to(evidence.rows.device)
            evidence = replace(evidence, rows=evidence.rows[at], error=evidence.error[at])
    best = guide.optimal(data, seed=stream(seed, "gaps"), progress=progress, **options)
    q, star = (
        importance_ladder(
            model,
            one,
            data,
            num_particles=num_draws,
            levels=[],
            seed=stream(seed, f"gaps, {name}"),
            progress=progress,
        )
        for name, one in (("q", guide), ("q*", best))
    )
    value, what, source = _evidence(model, data, evidence, q, star)
    return Gaps(
        approximation=star.kl if source is star else difference(value, star.elbo),
        amortization=difference(star.elbo, q.elbo),
        total=q.kl if source is q else difference(value, q.elbo),
        evidence=value,
        evidence_is=what,
        is_lower_bound=source is not None,
        shared_weights=bool(getattr(best, "shared_weights", True)),
        index=index,
        best=best,
        num_draws=num_draws,
        seed=seed,
    )


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a − b of the same rows, estimated from independent draws."""
    rows = a.rows.double() - b.rows.double()
    error = torch.hypot(a.error.double(), b.error.double())
    return Estimate(rows, error, math.hypot(a.shared, b.shared))


def _evidence(
    model: Model, data: Dataset, given: Estimate | None, q: Ladder, star: Ladder
) -> tuple[Estimate, str, Ladder | None]:
    """log p̂, what it is, and the ladder that it is the top of, if any."""
    try:
        known = exact_evidence(model, data)
    except ValueError:  # of other sites than those of the data
        known = None
    if known is not None:
        return known, "exact", None
    if given is not None:
        return given, "given", None
    source = star if star.iwae.mean >= q.iwae.mean else q
    name = "q*" if source is star else "q"
    return source.iwae, f"IWAE_{source.num_particles} under {name}", source


def _chosen(count: int, num_rows: int, seed: int) -> torch.Tensor:
    """(M,) places in order, chosen on the CPU by a stream of their own."""
    if count <= num_rows:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(stream(seed, "rows of gaps"))
    return torch.randperm(count, generator=generator)[:num_rows].sort().values
