"""Log densities that Markov chains move on, over latents mapped to the whole real space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from zoo.chunks import Largest
from zoo.context import validation
from zoo.data import Batch, Dataset
from zoo.handlers import Particles, Record, log_prob
from zoo.leapfrog import Target, value_and_slope
from zoo.local_params import at_home
from zoo.model import Model, observe
from zoo.particles import outer_sum, simulate, split, vectorizes
from zoo.sites import Latents, Sites


class Path:
    """log f_β(u) of each row: f₀ a density that can be drawn from, f₁(u) = p(x, z(u)) |dz/du|.

    From the prior f_β = |dz/du| Σ_y p(y, z) p(x | y, z)^β, discrete latents y summed out at every
    β; from a guide f_β = q(u)^(1−β) f₁(u)^β. Chains stand side by side as further rows, so that
    functions which cannot take particle dimensions run at the same speed.

    Args:
        model: p.
        batch: B rows.
        num_chains: K, of each row.
        guide: q, with ``distribution(batch)`` over the packed latents; None starts at the prior.

    Raises:
        ValueError: global latents; no continuous local ones; a guide that cannot score; values
            outside the support of their likelihood.
    """

    def __init__(self, model: Model, batch: Batch, num_chains: int, guide: Any = None):
        self.model, self.rows, self.num_chains = model, len(batch), num_chains
        with validation(True):  # a value outside its support would score all the same
            latents = Latents.find(model, batch)
        if names := latents.global_.names:
            raise ValueError(
                f"these chains move the latents of one row each, and the global latents "
                f"{list(names)} belong to all rows; nuts_posterior takes them all together"
            )
        if not latents.local.dim:
            raise ValueError(
                "the rows have no continuous latents: log p(x) is a finite sum, which "
                "importance_ladder gives exactly"
            )
        self.sites = latents.local
        self.batch = tiled(batch.unscaled(), num_chains)
        self.q = None if guide is None else _start(guide, batch)

    def draws(self) -> Tensor:
        """u ~ f₀, (K, B, d)."""
        if self.q is not None:
            return self.q.sample((self.num_chains,))
        with poutine.block(), Record() as record:
            observe(self.model)(self.batch)
        return self.pack({name: record.sites[name]["value"] for name in self.sites.names})

    def pack(self, values: Mapping[str, Tensor]) -> Tensor:
        """u (K, B, d) from values by site, (K B, *event) each."""
        return self.sites.pack(values)[0].reshape(self.num_chains, self.rows, -1)

    def at(self, beta: Tensor) -> Target:
        """u (K, B, d) -> log f_β(u), (K, B); β is ()."""

        def target(u: Tensor) -> Tensor:
            prior, likelihood, log_jacobian = self.parts(u)
            if self.q is None:
                return _summed(prior + beta * likelihood, u) + log_jacobian
            joint = _summed(prior + likelihood, u) + log_jacobian
            return (1 - beta) * self.q.log_prob(u) + beta * joint

        return target

    def parts(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log p(y, z), log p(x | y, z), (*states, K B) each, and log |dz/du|, (K, B)."""
        values, log_jacobians = self.sites.unpack(u.flatten(0, 1))
        given = {name: {"value": value} for name, value in values.items()}
        with poutine.block(), validation(False):
            recorded = simulate(self.model, self.batch, given=given)
        inside, _ = split(recorded, self.model.plate)
        zero = u.new_zeros(())
        prior = sum((log_prob(s) for s in inside if not s["is_observed"]), zero)
        likelihood = sum((log_prob(s) for s in inside if s["is_observed"]), zero)
        least = torch.finfo(likelihood.dtype).min / 4  # so that 0 · log 0 is 0
        log_jacobian = sum(log_jacobians.values(), zero).reshape(u.shape[:-1])
        return prior, likelihood.clamp_min(least), log_jacobian


def _summed(total: Tensor, u: Tensor) -> Tensor:
    """(*states, K B) -> (K, B), the states summed out."""
    total = total.logsumexp(tuple(range(total.dim() - 1))) if total.dim() > 1 else total
    return total.expand(u.shape[0] * u.shape[1]).reshape(u.shape[:-1])


def _start(guide: Any, batch: Batch) -> Any:
    """q over the packed latents of the rows."""
    ok = all(getattr(guide, name, False) for name in ("distribution", "scores", "has_density"))
    if not ok:
        raise ValueError(
            "a path from q needs its density at any z (a guide with distribution(batch) and a "
            "family that scores, such as mean_field); leave guide out to start at the prior"
        )
    with validation(False):
        return guide.distribution(batch)


def tiled(batch: Batch, copies: int) -> Batch:
    """The rows of a batch, ``copies`` times one after the other."""

    def repeated(value: Tensor) -> Tensor:
        return value.repeat(copies, *(1,) * (value.dim() - 1))

    return replace(
        batch,
        values={name: repeated(value) for name, value in batch.values.items()},
        index=batch.index.repeat(copies),
        observed={name: repeated(mask) for name, mask in batch.observed.items()},
    )


def rows_at_once(
    model: Model, data: Dataset, num_chains: int, max_elements: int, guide: Any = None
) -> int:
    """How many rows may stand side by side so that no tensor has more than ``max_elements``."""
    head = next(data.batches(min(len(data), 97))).to(model.device)
    model.resolve(head)
    path = Path(model, head.rows(4), 8, guide)
    u = path.draws()
    with Largest() as seen:
        value_and_slope(path.at(u.new_ones(())), u, keep=False)
    return max(1, max_elements * u[..., 0].numel() // (seen.numel * num_chains))


def chains_at_once(target: Target, u: Tensor, max_elements: int) -> int:
    """How many chains may stand side by side, from a few of them, (few, B, d)."""
    with Largest() as seen:
        value_and_slope(target, u, keep=False)
    return max(1, max_elements * len(u) // max(1, seen.numel))


def joint_target(model: Model, batch: Batch, latents: Latents) -> Target:
    """u (C, d) -> log p(x, g, z) + log |d(g, z)/du|, (C,), discrete latents summed out.

    u has the global latents first, then the local ones row by row: d = d_g + N d_z. Functions that
    cannot take particle dimensions are run once for each chain.

    Args:
        model: p.
        batch: all N rows.
        latents: of the batch.
    """
    rows, plate, first = len(batch), model.plate, latents.global_.dim

    def together(u: Tensor) -> Tensor:
        chains = len(u)
        lead = (chains, 1) if chains > 1 else ()  # the outer particles; none for a single one
        g = u[:, :first].reshape(*lead, *lead[1:], first)
        z = u[:, first:].reshape(*lead, rows, latents.local.dim)
        values, log_jacobians = latents.global_.unpack(g)
        local, local_jacobians = latents.local.unpack(z)
        given = {name: {"value": value} for name, value in {**values, **local}.items()}
        with poutine.block(), validation(False):
            recorded = simulate(model, batch, chains, 1, given)
        inside, outside = split(recorded, plate)
        total = torch.as_tensor(sum(log_prob(site) for site in inside))
        total = total.logsumexp(tuple(range(total.dim() - 3))) if total.dim() > 3 else total
        total = total.expand(chains, 1, rows) + sum(local_jacobians.values())
        joint = total.sum((1, 2)) + outer_sum(outside, chains, u.new_zeros(()))
        return joint + sum(j.reshape(-1) for j in log_jacobians.values())

    def one_by_one(u: Tensor) -> Tensor:
        return torch.cat([together(part) for part in u.split(1)])

    return together if vectorizes(model, batch) else one_by_one


@torch.no_grad()
def packed_draws(
    model: Model, guide: Callable[[Batch], Any], batch: Batch, latents: Latents, num: int
) -> tuple[Tensor, Tensor]:
    """S draws of q: the global latents (S, d_g) and the local ones (S, B, d_z), unconstrained.

    Discrete latents that q has are drawn with them. Where there are global latents, each draw of
    them goes with one of the local ones.

    Raises:
        ValueError: a continuous latent that the guide does not draw.
    """
    together, sites = vectorizes(model, batch), (latents.global_, latents.local)
    size = (num, 1) if latents.global_.dim else (1, num)
    found: list[tuple[Tensor, Tensor]] = []
    for _ in range(1 if together else num):
        outer, inner = size if together else (1, 1)
        with (
            poutine.block(),
            validation(False),
            Record() as q,
            Particles(outer, inner, model.plate),
            at_home(guide),
        ):
            guide(batch.unscaled())
        drawn = {name: site["value"] for name, site in q.sites.items()}
        count, values = outer * inner, {}
        for kind, rows in zip(sites, ((), (len(batch),)), strict=True):
            for site in kind.sites:
                if site.name not in drawn:
                    raise ValueError(f"the guide does not draw the latent {site.name!r}")
                values[site.name] = drawn[site.name].reshape(count, *rows, *site.shape)
        like = torch.zeros(count, len(batch), 0, device=model.device, dtype=model.dtype)
        g = latents.global_.pack(values)[0] if latents.global_.dim else like[:, 0]
        z = latents.local.pack(values)[0] if latents.local.dim else like
        found.append((g, z))
    return torch.cat([g for g, _ in found]), torch.cat([z for _, z in found])


def natural(sites: Sites, u: Tensor) -> Tensor:
    """(..., U): the values of packed latents (..., d), in the sites' own space, flattened."""
    values, _ = sites.unpack(u)
    parts = [values[site.name].reshape(*u.shape[:-1], -1) for site in sites.sites]
    return torch.cat(parts, -1).double()
