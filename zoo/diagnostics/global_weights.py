"""Importance weights of draws of the global latents, over all rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.chunks import holding, plan
from zoo.context import seeded, stream, validation
from zoo.data import Batch, Dataset, as_dataset
from zoo.diagnostics.draws import MOST_VALUES, WeightedDraws, room, unit_names
from zoo.model import Model, as_model
from zoo.particles import vectorizes
from zoo.progress import counting
from zoo.sites import Latents, Sites
from zoo.surgery import needs_density
from zoo.weights import log_weights

LEAST = 100  # draws that a bound on the cost leaves
SIDE_BY_SIDE = 64  # draws of g for which an encoder is run once


@dataclass(frozen=True)
class GlobalWeights:
    """S draws g_s ~ q(g) and their log weights.

    Attributes:
        log_weight: (S,) float64, an estimate of log p(x_1 … x_N, g_s)/q(g_s) in nats.
        names: of the U units of g, by site.
        values: (S, U) in the model's type, the draws in the sites' own space; None where they are
            too many to keep.
        no_values: why ``values`` is None, else empty.
        num_inner: K, draws of the local latents for each g and row.
        num_rows: N.
        asked: how many draws were asked for; more than ``num_draws`` where the cost was bounded.
        inner_variance: of log_weight given g, in nats²: the noise of the inner means, averaged over
            draws; 0 without local latents.
        has_locals: whether local latents are drawn: then the weights have their noise, too.
        seed: of the draws.
    """

    log_weight: Tensor
    names: tuple[str, ...]
    values: Tensor | None
    no_values: str
    num_inner: int
    num_rows: int
    asked: int
    inner_variance: float
    has_locals: bool
    seed: int

    @property
    def num_draws(self) -> int:
        """S."""
        return len(self.log_weight)

    def as_draws(self) -> WeightedDraws:
        """The same as weighted draws of one row, (S, 1) and (S, 1, U), for other diagnostics."""
        weight = self.log_weight.unsqueeze(1)
        values = None if self.values is None else self.values.unsqueeze(1)
        return WeightedDraws(
            weight, weight, self.names, values, self.no_values, False, {}, self.seed
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "num_draws": self.num_draws,
            "asked": self.asked,
            "num_inner": self.num_inner,
            "num_rows": self.num_rows,
            "inner_variance": self.inner_variance,
            "has_locals": self.has_locals,
            "names": list(self.names),
            "seed": self.seed,
        }


@torch.no_grad()
def global_weights(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    num_draws: int = 25_000,
    *,
    num_inner: int = 1,
    seed: int = 0,
    max_elements: int | None = None,
    max_cost: float | None = None,
    progress: bool | None = False,
) -> GlobalWeights | None:
    """log w_s = log p(g_s)/q(g_s) + Σ_n log (1/K) Σ_k p(x_n, z_nks | g_s)/q(z_nks | x_n, g_s).

    The sum is over all N rows, each with the same g_s, and is scaled by nothing. Where rows have
    latents of their own the inner means are unbiased estimates of p(x_n | g_s), so that w_s is an
    unbiased estimate of the weight of g_s (a pseudo-marginal weight): means under the weights are
    those of p(g | x), but their tail has the noise of N inner means, too, and k̂ judges both. More
    inner draws leave less of it.

    Args:
        model: p.
        guide: q for the rows of ``data``; it needs a density. Discrete latents of the rows are
            summed out.
        data: N rows: those that q(g) was fitted to.
        num_draws: S, at least 100.
        num_inner: K.
        seed: of the draws.
        max_elements: how many numbers the largest tensor may have, what is returned apart; by
            default 2²¹ on a CPU and 2²⁶ on a GPU.
        max_cost: S is halved, not below 100, until S N K times the numbers that a draw of a row
            takes is within it.
        progress: a bar; None shows one on a terminal.

    Returns:
        None where the model has no global latents.

    Raises:
        ValueError: a point mass as the guide; fewer than 100 draws or one inner draw; as
            ``log_weights``.

    Reference: Yao, Vehtari, Simpson and Gelman, "Yes, but did it work?", 2018; Andrieu and Roberts,
    "The pseudo-marginal approach for efficient Monte Carlo computations", 2009.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.bayesian_ppca import BayesianPPCA
        >>> model, data = BayesianPPCA.example()
        >>> found = global_weights(model, Guide(model, data), data, 100, num_inner=2)
        >>> found.log_weight.shape, found.values.shape, found.names[:3]
        (torch.Size([100]), torch.Size([100, 15]), ('alpha[0]', 'alpha[1]', 'weight[0]'))
    """
    needs_density(guide)
    if num_draws < LEAST or num_inner < 1:
        raise ValueError(
            f"num_draws counts from {LEAST} and num_inner from 1, got {num_draws} and {num_inner}"
        )
    model, data = as_model(model), as_dataset(data)
    max_elements, asked = max_elements or room(model), num_draws
    purpose = stream(seed, "global weights")
    with seeded(purpose, model.device), validation(False):
        cut = plan(model, guide, data, num_inner, 2, max_elements)
        if not cut.has_globals:
            return None
        cost = cut.width * num_inner
        while max_cost and num_draws // 2 >= LEAST and num_draws * len(data) * cost > max_cost:
            num_draws //= 2
        head = next(data.batches(min(len(data), 97))).to(model.device)
        latents = Latents.find(model, head)
        sites = latents.global_
        names, reason = unit_names(sites), ""
        if num_draws * len(names) > MOST_VALUES:
            reason = f"{num_draws} draws of {len(names)} numbers are more than 2**27"
        shape = num_draws, len(names) if not reason else 0
        values = torch.empty(shape, dtype=model.dtype, device=model.device)
        total = torch.empty(num_draws, dtype=torch.float64, device=model.device)
        noise = torch.zeros_like(total)
        together = min(num_draws, SIDE_BY_SIDE)
        rows = max(1, min(len(data), max_elements // (cost * together)))
        size = max(1, min(num_draws, max_elements // (cost * rows)))
        if not vectorizes(model, head):
            size = 1  # a record of draws taken one by one holds the first of them
        torch.manual_seed(purpose)
        with counting("draws", num_draws, progress) as advance:
            for start in range(0, num_draws, size):
                here = slice(start, min(start + size, num_draws))
                count = here.stop - start
                total[here], g, noise[here] = _weigh(
                    model, guide, data, rows, num_inner, count, sites
                )
                values[here] = g[:, : shape[1]].to(values.dtype)
                advance(count)
    return GlobalWeights(
        total,
        names,
        None if reason else values,
        reason,
        num_inner,
        len(data),
        asked,
        noise.mean().item(),
        bool(latents.local.dim),
        seed,
    )


def _weigh(
    model: Model,
    guide: Callable[[Batch], Any],
    data: Dataset,
    rows: int,
    inner: int,
    outer: int,
    sites: Sites,
) -> tuple[Tensor, Tensor, Tensor]:
    """The log weights (S,) of S draws of g over all rows, g itself (S, U), and their variance
    given g by the delta method."""
    held, total, g = guide, torch.zeros((), dtype=torch.float64), torch.empty(0)
    noise = torch.zeros((), dtype=torch.float64)
    for batch in data.batches(rows):
        weights = log_weights(model, held, batch.to(model.device), inner, outer)
        if held is guide:
            held = holding(guide, {n: s["value"] for n, s in weights.globals.items()})
            total = weights.global_.double()
            g = torch.cat([weights.values[s.name].reshape(outer, -1) for s in sites.sites], -1)
        h = weights.summed.double()  # (S, K, B)
        summed = h.logsumexp(-2) - math.log(inner)  # (S, B)
        total = total + summed.sum(-1)
        if inner > 1:
            ratio = (h - summed.unsqueeze(-2)).exp()
            noise = noise + (ratio.var(-2) / inner).sum(-1)
    return total, g, noise
