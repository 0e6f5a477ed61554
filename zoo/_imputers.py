"""The two ways to fill missing entries in, for rows that fit into memory side by side."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zoo.data import Batch
from zoo.decoding import Drawn, draw, mean_of, outcome, tiled
from zoo.local_params import at_home
from zoo.model import Model
from zoo.weights import LogWeights, log_weights


def importance(
    model: Model, guide: Any, batch: Batch, site: str, count: int, draws: int, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (B, *event), draws (S B, *event) and ess (B,), at most so many particles at a time."""
    size, device = len(batch), batch.index.device
    rows, mean, chosen = torch.arange(size, device=device), torch.zeros((), device=device), {}
    total = square = torch.full((size,), -math.inf, device=device, dtype=model.dtype)
    for done in range(0, count, most):
        now = min(most, count - done)
        with _Keep(site) as seen:
            weights = log_weights(model, guide, batch, now)
        log_w = weights.summed[0]  # (K, B)
        before, total = total, torch.logaddexp(total, log_w.logsumexp(0))
        square = torch.logaddexp(square, (2 * log_w).logsumexp(0))
        share = (log_w - total).exp().nan_to_num(0)
        kept = (before - total).exp().nan_to_num(0)  # (B,), the share of the pieces before
        latents = _latents(weights)
        # p(x | z) as it was scored; where y was summed out, that of the y drawn.
        scored = outcome(model, batch, latents, site) if weights.enumerated else seen.fn
        p = _entrywise(scored)
        each = mean_of(p).expand(now, size, *p.event_shape).reshape(now, size, -1)
        piece = torch.einsum("kb,kbd->bd", share.to(each), each).reshape(size, *p.event_shape)
        mean = piece + mean * _wide(kept, piece)
        pick = torch.multinomial(log_w.softmax(0).nan_to_num(1 / now).T, draws, True).T  # (S, B)
        swap = torch.rand(pick.shape, device=device) >= kept
        for name, value in latents.items():
            event = weights.local_sites[0][name]["fn"].event_shape  # type: ignore[index]
            new = value.expand(now, size, *event)[pick, rows]  # (S, B, *event)
            chosen[name] = torch.where(_wide(swap, new), new, chosen.get(name, new))
    if not bool(total.isfinite().all()):
        lost = batch.index[~total.isfinite()][:5].tolist()
        raise ValueError(f"no proposal gives the observed entries of rows {lost} any probability")
    drawn = {name: value.flatten(0, 1) for name, value in chosen.items()}
    samples = outcome(model, tiled(batch, draws), drawn, site).sample()
    return mean, samples, (2 * total - square).exp()


def pseudo_gibbs(
    model: Model, guide: Any, chains: Batch, site: str, sweeps: int, wait: int
) -> tuple[Tensor, Tensor, None]:
    """Means over the sweeps and last states of chains that start at the values of their rows."""
    mask, start = chains.observed[site], chains[site]
    q = getattr(guide, "refined", guide) if getattr(guide, "refines", False) else guide
    rows, x, total = replace(chains, observed={}), start, torch.zeros((), device=start.device)
    first = log_weights(model, drawing(q, guide), rows)  # says what the latents are
    names = set(first.local_sites[0])  # type: ignore[index]
    for sweep in range(wait + sweeps):
        rows = replace(rows, values={**rows.values, site: x})
        if first.enumerated:  # p(y | x, z) is had from the weights
            latents = _latents(log_weights(model, drawing(q, guide), rows))
        else:
            with at_home(guide):
                latents = {n: v for n, v in draw(q, rows).items() if n in names}
        p = _entrywise(outcome(model, rows, latents, site))
        if sweep >= wait:
            total = total + mean_of(p)
        x = torch.where(mask, start, p.sample().to(start))
    return total / sweeps, x, None


class _Keep(Messenger):
    """Remembers the distribution of one site."""

    fn: Any = None

    def __init__(self, site: str):
        super().__init__()
        self.site = site

    def _pyro_post_sample(self, message: Any) -> None:
        if message["name"] == self.site:
            self.fn = message["fn"]


def _latents(weights: LogWeights) -> dict[str, Tensor]:
    """The local latents of each particle, a draw from p(y | x, z) of those that were enumerated."""
    assert weights.local_sites is not None
    drawn = weights.discrete()[1] if weights.enumerated else {}
    found = {n: weights.values[n] for n in weights.local_sites[0] if n not in weights.enumerated}
    return found | {n: v[0, 0] if v.shape[1] == 1 else v[0] for n, v in drawn.items()}


def _entrywise(p: Any) -> Any:
    """p(x | z), if x_mis and x_obs are independent given z."""
    inner = p
    while isinstance(inner, torch.distributions.Independent):
        inner = inner.base_dist
    if inner.event_shape:
        raise ValueError(
            f"imputation draws missing entries from p(x | z) entry by entry, and those of "
            f"{type(inner).__name__} depend on each other; use a likelihood or a covariance under "
            "which entries are independent given z, such as a diagonal one"
        )
    return p


def _wide(value: Tensor, like: Tensor) -> Tensor:
    """Dimensions of one at the end, up to those of another tensor."""
    return value.reshape(*value.shape, *(1,) * (like.dim() - value.dim()))


def drawing(q: Callable[[Batch], Any], guide: Any) -> Callable[[Batch], Any]:
    """q with its discrete sites drawn."""

    def drawing(batch: Batch) -> Any:
        with at_home(guide), Drawn():
            return q(batch)

    return drawing
