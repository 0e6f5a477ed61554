"""The ladder ELBO ≤ IWAE_10 ≤ IWAE_100 ≤ … ≤ log p(x), estimated in one pass over the draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.chunks import plan
from zoo.context import seeded, stream, validation
from zoo.data import Batch, Dataset, as_dataset
from zoo.engine import RunName
from zoo.estimate import Estimate
from zoo.ladder import Ladder
from zoo.model import Model, as_model
from zoo.particles import simulate
from zoo.piecewise import Piecewise
from zoo.progress import counting
from zoo.sums import Sums
from zoo.weights import log_weights

__all__ = ["EVALUATION", "Ladder", "importance_ladder", "rungs", "sweep"]

EVALUATION = "evaluation"  # the stream of ``evaluate``


def importance_ladder(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    *,
    num_particles: int = 5000,
    levels: Sequence[int] | None = None,
    num_outer: int = 32,
    seed: int = 0,
    predictive: bool = False,
    max_elements: int | None = None,
    run: RunName = "auto",
    progress: bool | None = False,
) -> Ladder:
    """IWAE_k for several k, by importance sampling with q as the proposal.

    Formula: the K draws of a row are cut into ⌊K/k⌋ groups of k; the bound at level k is the mean
    over the groups of log (1/k) Σ exp h, h = log p(x, z) − log q(z | x). Its error is the standard
    deviation of the groups over √⌊K/k⌋; at k = K, where there is one group, that of the delta
    method, which is too small where a few draws carry the weight.

    Rows and draws go through in pieces, of which only sums are kept: for levels that divide one
    another memory depends neither on N nor on K. How the rows are cut decides which random numbers
    each draw gets: other ``max_elements`` give other draws, and estimates that agree within their
    errors.

    Args:
        model: p.
        guide: q for the rows of ``data`` (``guide.infer(data)`` where it was fitted to others);
            it needs a density. Discrete latents that it leaves out are summed out.
        data: N rows; under dynamic binarization their fixed, evaluated version.
        num_particles: K.
        levels: k, between 1 and K/2 (1 and K are added); by default powers of ten.
        num_outer: S, draws of the global latents; their error is shared by all rows.
        seed: of the draws.
        predictive: for rows that global latents were not fitted to, as in ``evaluate``.
        max_elements: how many numbers the largest tensor may have; by default 2²¹ on a CPU and 2²⁶
            on a GPU.
        run: how the pieces are drawn, with the same draws: ``eager``, through Pyro; ``compiled``,
            captured once and compiled by inductor; ``graph``, captured and replayed as a CUDA
            graph; ``auto`` captures where eager draws would take minutes. What cannot be captured
            runs eager and says why.
        progress: a bar; None shows one on a terminal.

    Raises:
        ValueError: a point mass as the guide; a level outside 1 … K/2; a value outside the support
            of its likelihood; as ``log_weights``.

    Reference: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2016.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> ladder = importance_ladder(model, Guide(model, data), data, num_particles=100)
        >>> ladder.levels
        (1, 10, 100)
        >>> ladder.elbo.mean < ladder.iwae.mean < model.log_evidence(data["x"]).mean().item() + 0.1
        True
    """
    if not getattr(guide, "has_density", True):
        raise ValueError(
            "the guide is a point mass (delta): it has no density, so there are no importance "
            "weights and no bound; use another family, such as mean_field"
        )
    if min(num_particles, num_outer) < 2:
        raise ValueError(
            "an error needs two draws or more, got "
            f"num_particles={num_particles}, num_outer={num_outer}"
        )
    model, data = as_model(model), as_dataset(data)
    if max_elements is None:
        max_elements = 2**21 if model.device.type == "cpu" else 2**26
    return sweep(
        model,
        guide,
        data,
        rungs(num_particles, levels),
        num_outer=num_outer,
        seed=seed,
        purpose="importance",
        predictive=predictive,
        max_elements=max_elements,
        run=run,
        progress=progress,
    )


def rungs(num_particles: int, levels: Sequence[int] | None = None) -> tuple[int, ...]:
    """The levels of a ladder up to K: those given, or powers of ten, with 1 and K.

    Raises:
        ValueError: a level outside 1 … K/2.

    Example:
        >>> rungs(5000), rungs(300, [7, 100])
        ((1, 10, 100, 1000, 5000), (1, 7, 100, 300))
    """
    powers = [10**i for i in range(20) if 2 * 10**i <= num_particles]
    chosen = powers if levels is None else [k for k in levels if k != num_particles]
    if bad := [k for k in chosen if not 1 <= k <= num_particles // 2]:
        raise ValueError(
            f"levels lie between 1 and half of num_particles={num_particles}, so that there are "
            f"two groups of draws or more; got {bad}"
        )
    return tuple(sorted({1, *chosen, num_particles}))


@torch.no_grad()
def sweep(
    model: Model,
    guide: Callable[[Batch], Any],
    data: Dataset,
    levels: tuple[int, ...],
    *,
    num_outer: int,
    seed: int,
    purpose: str,
    predictive: bool,
    max_elements: int,
    run: RunName = "auto",
    progress: bool | None = False,
) -> Ladder:
    """The ladder of any pair, a point mass too (whose figures are no bounds).

    Args:
        purpose: which stream of random numbers of ``seed`` is drawn from; in that of
            ``EVALUATION`` all guides of a model get the same pieces.
    """
    top, start, places = levels[-1], 0, []
    with seeded(stream(seed, purpose), model.device), validation(False):
        for batch in data.batches(min(64, 1 + max_elements // 4096)):
            _check(model, guide, batch.to(model.device))
        paired = purpose == EVALUATION
        cut = plan(model, guide, data, top, num_outer, max_elements, of_model=paired)
        draws = Piecewise(model, guide, len(data), top, cut, run)
        torch.manual_seed(stream(seed, purpose))
        # One block for all that is kept: small tensors among large ones would split the heap.
        shape = (2, len(levels), 2, cut.outer, len(data))
        kept = torch.empty(shape, dtype=torch.float64, device=model.device)
        with counting("draws", len(data) * top, progress) as advance:
            for batch in data.batches(cut.rows):
                batch, sums = batch.to(model.device), Sums(levels)
                for drawn in draws(batch):
                    sums.add(drawn)
                    advance(len(batch) * drawn.h.shape[-2])
                place = slice(start, start + len(batch))
                size = None if predictive else batch.total
                for figures, row in zip(kept, sums.result(size), strict=True):
                    for figure, (value, variance) in zip(figures, row, strict=True):
                        figure[0, :, place], figure[1, :, place] = value, variance
                places.append(place)
                start = place.stop
    bounds, gaps = (
        tuple(gather([(v[:, p], s[:, p]) for p in places], cut.outer) for v, s in figures)
        for figures in kept
    )
    ran = {"way": draws.way, "why": draws.why}
    return Ladder(levels, bounds, gaps, cut.outer, predictive, seed, ran)


def _check(model: Model, guide: Callable[[Batch], Any], batch: Batch) -> None:
    """ValueError for rows outside the support of their likelihood, which would score all the same.

    Only the data are looked at: one draw of the latents is given to the model.
    """
    drawn = log_weights(model, guide, batch).values
    with validation(True):
        simulate(model, batch, given={name: {"value": value} for name, value in drawn.items()})


def gather(parts: Sequence[tuple[Tensor, Tensor]], outer: int) -> Estimate:
    """All rows of one figure, averaged over the draws of g, from (S, B) values and variances."""
    rows = torch.cat([value.mean(0) for value, _ in parts])
    if outer == 1:
        return Estimate(rows, torch.cat([variance[0] for _, variance in parts]).sqrt())
    # Every batch has draws of g of its own, and each moves all rows of the batch together.
    shared = sum(value.sum(-1).var(0) / outer for value, _ in parts)
    return Estimate(rows, torch.zeros_like(rows), math.sqrt(float(shared)) / len(rows))
