"""Draws of the exact posterior of small data, by the No-U-Turn sampler, to compare q with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import MCMC, NUTS
from torch import Tensor

from zoo.context import frozen, seeded, stream, validation
from zoo.data import as_dataset
from zoo.diagnostics.mixing import bulk_ess, rhat
from zoo.diagnostics.targets import joint_target
from zoo.model import Model, as_model
from zoo.progress import counting
from zoo.sites import Latents

RHAT = 1.01
ESS = 400
TRIES = 100  # starting points


@dataclass(frozen=True)
class ReferenceDraws:
    """Draws of p(g, z | x) by Markov chains, and whether they can be relied on.

    Attributes:
        samples: by continuous site, global ones first: (C, S, *shape), of the rows
            (C, S, N, *event), in the sites' own space.
        names: of the U units: g[0], … of global latents, z[n, 0], … of row n.
        rhat: (U,), rank-normalised split R̂.
        ess: (U,), bulk effective sample size of all chains together.
        divergences: how many transitions after the warm-up diverged.
        acceptance: mean probability of acceptance.
        seed: of the chains.
    """

    samples: dict[str, Tensor]
    names: tuple[str, ...]
    rhat: Tensor
    ess: Tensor
    divergences: int
    acceptance: float
    seed: int

    @property
    def pooled(self) -> dict[str, Tensor]:
        """By site, the draws of all chains one after the other, (C S, *shape)."""
        return {name: value.flatten(0, 1) for name, value in self.samples.items()}

    @property
    def why_not(self) -> str:
        """What speaks against the draws; empty where nothing does."""
        found = []
        worst = self.rhat.nan_to_num(torch.inf)
        if worst.max() >= RHAT:
            found.append(f"R̂ of {self.names[int(worst.argmax())]} is {worst.max():.3f}")
        least = self.ess.nan_to_num(0.0)
        if least.min() <= ESS:
            found.append(f"{self.names[int(least.argmin())]} has {least.min():.0f} effective draws")
        if self.divergences:
            found.append(f"{self.divergences} transitions diverged")
        return "; ".join(found)

    @property
    def ok(self) -> bool:
        """R̂ < 1.01 and more than 400 effective draws of every unit, and no divergence."""
        return not self.why_not

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the worst unit, not the draws."""
        first = next(iter(self.samples.values()))
        return {
            "ok": self.ok,
            "why_not": self.why_not,
            "rhat": self.rhat.max().item(),
            "ess": self.ess.min().item(),
            "units": len(self.names),
            "divergences": self.divergences,
            "acceptance": self.acceptance,
            "num_chains": first.shape[0],
            "num_samples": first.shape[1],
            "seed": self.seed,
        }


def nuts_posterior(
    model: Model | Callable[..., Any],
    data: Any,
    *,
    num_samples: int = 1000,
    num_warmup: int = 500,
    num_chains: int = 2,
    target_acceptance: float = 0.8,
    seed: int = 0,
    max_rows: int = 500,
    progress: bool | None = False,
) -> ReferenceDraws:
    """(g, z_1, …, z_N) ~ p(g, z | x): every continuous latent at once, discrete ones summed out.

    The chains move in the unconstrained space of all latents, the log Jacobian added, with step
    size and a diagonal mass matrix adapted in the warm-up, and start at U(−2, 2)^d. They run one
    after the other, and every step of theirs takes the gradient over all rows.

    That they agree is a necessary sign only: a mode that no chain has found leaves no trace.

    Args:
        model: p, its parameters held.
        data: all N rows.
        num_samples: S of each chain, at least 4.
        num_warmup: transitions before them.
        num_chains: C, at least 2, without which R̂ says little.
        target_acceptance: what the step size is adapted to.
        seed: of the chains.
        max_rows: the most rows that are taken.
        progress: a bar; None shows one on a terminal.

    Raises:
        ValueError: more than ``max_rows`` rows; rows of which only some have labels; no continuous
            latents; fewer than 2 chains or 4 draws; no start with a finite density.

    Reference: Hoffman and Gelman, "The No-U-Turn Sampler", 2014.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def coin(x):
        ...     p = pyro.sample("p", dist.Beta(1.0, 1.0))
        ...     with pyro.plate("rows", len(x)):
        ...         pyro.sample("x", dist.Bernoulli(p), obs=x)
        >>> x = torch.tensor([1.0, 1.0, 0.0, 1.0])
        >>> found = nuts_posterior(coin, x, num_samples=100, num_warmup=50)
        >>> found.names, found.samples["p"].shape, abs(found.samples["p"].mean() - 4 / 6) < 0.1
        (('p[0]',), torch.Size([2, 100]), tensor(True))
    """
    if num_chains < 2 or num_samples < 4 or num_warmup < 1:
        raise ValueError(
            "a reference takes two chains, four draws and one transition of warm-up or more; got "
            f"num_chains={num_chains}, num_samples={num_samples}, num_warmup={num_warmup}"
        )
    model, data = as_model(model), as_dataset(data).fixed()
    if data.partial:
        raise ValueError(f"only some rows have {list(data.partial)}: take rows of one kind")
    if len(data) > max_rows:
        raise ValueError(
            f"each of some thousand steps goes over all {len(data)} rows, more than "
            f"max_rows={max_rows}; raise it, or take fewer rows (and then q for those alone)"
        )
    batch = data.batch().to(model.device)
    with seeded(stream(seed, "nuts"), model.device), validation(True):
        model.resolve(batch)
        latents = Latents.find(model, batch)
    dim = latents.global_.dim + len(batch) * latents.local.dim
    if not dim:
        raise ValueError("the model has no continuous latents for these rows")
    target, chains, rates, diverged = joint_target(model, batch, latents), [], [], 0

    def potential(values: dict[str, Tensor]) -> Tensor:
        return -target(values["u"].unsqueeze(0))[0]

    total = num_chains * (num_warmup + num_samples)
    with frozen(model), counting("transitions", total, progress) as advance:
        for chain in range(num_chains):
            with seeded(stream(seed, f"nuts {chain}"), model.device), validation(False):
                start = _start(potential, dim, model)
                kernel = NUTS(potential_fn=potential, target_accept_prob=target_acceptance)
                mcmc = MCMC(
                    kernel,
                    num_samples,
                    num_warmup,
                    initial_params={"u": start},
                    disable_progbar=True,
                    hook_fn=(watch := _Watch(num_samples, advance)),
                )
                mcmc.run()
            chains.append(mcmc.get_samples()["u"].detach())
            rates.append(watch.acceptance)
            diverged += watch.divergences
    samples, names = _unpacked(torch.stack(chains), latents, len(batch))
    units = torch.cat([v.reshape(num_chains, num_samples, -1) for v in samples.values()], -1)
    acceptance = sum(rates) / num_chains
    return ReferenceDraws(samples, names, rhat(units), bulk_ess(units), diverged, acceptance, seed)


class _Watch:
    """Counts transitions, and reads off a kernel what it forgets once it has run."""

    def __init__(self, num_samples: int, advance: Callable[[int], None]):
        self.num_samples, self.advance = num_samples, advance
        self.acceptance, self.divergences = math.nan, 0

    def __call__(self, kernel: NUTS, _: Any, stage: str, number: int) -> None:
        self.advance(1)
        if stage.startswith("Sample") and number == self.num_samples - 1:
            self.acceptance = float(kernel.logging()["acc. prob"])
            self.divergences = len(kernel.diagnostics()["divergences"])


@torch.no_grad()
def _start(potential: Callable[..., Tensor], dim: int, model: Model) -> Tensor:
    """A point of U(−2, 2)^d where the density is finite."""
    for _ in range(TRIES):
        u = 4 * torch.rand(dim, device=model.device, dtype=model.dtype) - 2
        if bool(potential({"u": u}).isfinite()):
            return u
    raise ValueError(f"none of {TRIES} points in (−2, 2)^{dim} has a finite density to start from")


@torch.no_grad()
def _unpacked(u: Tensor, latents: Latents, rows: int) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Draws (C, S, d) by site, and the names of the units in the same order."""
    lead, first = u.shape[:2], latents.global_.dim
    samples: dict[str, Tensor] = {}
    names: list[str] = []
    flat = u.flatten(0, 1)
    values, _ = latents.global_.unpack(flat[:, :first])
    for site in latents.global_.sites:
        samples[site.name] = values[site.name].reshape(*lead, *site.shape)
        names += [f"{site.name}[{i}]" for i in range(site.shape.numel())]
    values, _ = latents.local.unpack(flat[:, first:].reshape(len(flat), rows, latents.local.dim))
    for site in latents.local.sites:
        samples[site.name] = values[site.name].reshape(*lead, rows, *site.shape)
        numbers = range(site.shape.numel())
        names += [f"{site.name}[{n}, {i}]" for n in range(rows) for i in numbers]
    return samples, tuple(names)
