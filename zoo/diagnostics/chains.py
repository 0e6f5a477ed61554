"""Short Markov chains from draws of q: how far q's means and widths are off, at least."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.context import frozen, seeded, stream, validation
from zoo.data import Batch, Dataset, as_dataset
from zoo.diagnostics.draws import room, unit_names
from zoo.diagnostics.drift import Drift, Drifts
from zoo.diagnostics.steps import jittered, tuned_at
from zoo.diagnostics.targets import (
    Path,
    chains_at_once,
    joint_target,
    natural,
    packed_draws,
    rows_at_once,
)
from zoo.leapfrog import Target, transition
from zoo.model import Model, as_model
from zoo.progress import counting
from zoo.sites import Latents, Sites
from zoo.surgery import needs_density

TUNING = 64  # chains that the step is found with
MOVED = 0.25  # of the squared distance of independent draws


@dataclass(frozen=True)
class ShortChains:
    """What short chains that started at draws of q have to say about it.

    Attributes:
        local: of the latents of the rows, pooled over rows; None where there are none.
        global_: of the global latents; None where there are none.
        acceptance: mean probability of acceptance.
        num_chains: of each row, or of all latents together where some are global.
        num_transitions: of each chain.
        num_leapfrog: of each transition.
        seed: of draws and chains.
    """

    local: Drift | None
    global_: Drift | None
    acceptance: float
    num_chains: int
    num_transitions: int
    num_leapfrog: int
    seed: int

    @property
    def parts(self) -> tuple[Drift, ...]:
        """Those of ``local`` and ``global_`` that there are."""
        return tuple(part for part in (self.local, self.global_) if part is not None)

    @property
    def p_value(self) -> float:
        """Of q = p, by Bonferroni over all units."""
        p = torch.cat([part.p_values for part in self.parts])
        return min(1.0, len(p) * p.min().item())

    @property
    def moved(self) -> bool:
        """Whether every unit has a mean squared jump of a quarter of that of independent draws.

        Where not, chains that stay where q put them are no evidence for q.
        """
        return min(part.jump.min().item() for part in self.parts) >= MOVED

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "local": self.local.as_dict() if self.local else None,
            "global": self.global_.as_dict() if self.global_ else None,
            "p_value": self.p_value,
            "moved": self.moved,
            "acceptance": self.acceptance,
            "num_chains": self.num_chains,
            "num_transitions": self.num_transitions,
            "num_leapfrog": self.num_leapfrog,
            "seed": self.seed,
        }


@torch.no_grad()
def short_chains(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    *,
    num_chains: int = 400,
    num_transitions: int = 50,
    num_leapfrog: int = 10,
    target_acceptance: float = 0.65,
    seed: int = 0,
    max_rows: int = 1000,
    max_elements: int | None = None,
    progress: bool | None = False,
) -> ShortChains:
    """|E_q f − E_p f| ≥ |E f(u_T) − E f(u_0)|, u_0 ~ q and u_T after T transitions that keep p.

    The kernel, Hamiltonian Monte Carlo with fresh velocities, is its own reverse. So, if φ_i are
    its eigenfunctions with eigenvalues λ_i, E f(u_T) − E_p f = Σ_i λ_i^T a_i b_i for
    f = Σ a_i φ_i and q/p = Σ b_i φ_i. For an even T every factor is in [0, 1], and the bound
    holds **where the terms a_i b_i have one sign**: q errs to one side. Where they have not, the
    mean may move past that of p on the way, and the bound is none. It is none for the width either
    where some chains have moved to where p is and others not. More transitions help, but a
    mode that no chain reaches is never seen. f is each unit and, for the
    logarithm of its sd, its square about the mean; see ``Drift``.

    The step comes from a first pass with other draws, then it is frozen. Without global latents
    each row has chains of its own; with them the chains move all latents at once over all rows,
    which is for small data.

    Args:
        model: p, discrete latents summed out.
        guide: q for the rows of ``data``; it needs no density that can be scored.
        data: N rows.
        num_chains: K, at least 20.
        num_transitions: T, even.
        num_leapfrog: steps of a transition.
        target_acceptance: what the step size is tuned to.
        seed: of draws and chains.
        max_rows: the most rows where there are global latents.
        max_elements: how many numbers the largest tensor may have; by default 2²¹ on a CPU and 2²⁶
            on a GPU.
        progress: a bar; None shows one on a terminal.

    Raises:
        ValueError: a point mass; numbers out of range; an odd T; more than ``max_rows`` rows with
            global latents; no continuous latents; rows of which only some have labels.

    Reference: Wang, Kasprzak and Huggins, "A Targeted Accuracy Diagnostic for Variational
    Approximations", 2023.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> options = {"num_chains": 50, "num_transitions": 4, "num_leapfrog": 3}
        >>> exact = short_chains(model, Guide(model, data, "exact"), data, **options)
        >>> wrong = short_chains(model, Guide(model, data), data, **options)
        >>> exact.p_value > 1e-6, wrong.p_value < 1e-6
        (True, True)
    """
    needs_density(guide)
    how = _How(num_chains, num_transitions, num_leapfrog, target_acceptance)
    even, counted = num_transitions % 2 == 0, min(num_transitions, num_leapfrog) > 0
    if num_chains < 20 or not (even and counted and 0 < target_acceptance < 1):
        raise ValueError(
            "short chains are 20 or more, of an even number of transitions (an odd one may leave "
            "them on the far side of p), of 1 leapfrog step or more, with a target acceptance in "
            f"(0, 1); got {how}"
        )
    model, data = as_model(model), as_dataset(data).fixed()
    if data.partial:
        raise ValueError(f"only some rows have {list(data.partial)}: take rows of one kind")
    elements = max_elements or room(model)
    with seeded(stream(seed, "short chains"), model.device), validation(False), frozen(model):
        model.resolve(head := next(data.batches(min(len(data), 97))).to(model.device))
        latents = Latents.find(model, head)
        if not latents.global_.dim + latents.local.dim:
            raise ValueError("the model has no continuous latents for these rows")
        if latents.global_.dim and len(data) > max_rows:
            raise ValueError(
                f"with global latents every step goes over all {len(data)} rows, more than "
                f"max_rows={max_rows}; raise it, or fit q to fewer rows"
            )
        run = _together if latents.global_.dim else _by_row
        local, global_, rate = run(model, guide, data, how, elements, progress)
    return ShortChains(local, global_, rate.item(), num_chains, num_transitions, num_leapfrog, seed)


@dataclass(frozen=True)
class _How:
    chains: int
    transitions: int
    leapfrog: int
    acceptance: float

    def run(self, target: Target, u: Tensor, step: Tensor, advance: Any) -> tuple[Tensor, Tensor]:
        """The ends of chains from u (K, B, d), and their mean probability of acceptance."""
        rate = u.new_zeros(())
        for _ in range(self.transitions):
            u, _, _, chance = transition(target, u, jittered(step, u), self.leapfrog)
            rate = rate + chance.mean() / self.transitions
            advance(u.shape[0] * u.shape[1])
        return u, rate


def _by_row(
    model: Model, guide: Any, data: Dataset, how: _How, elements: int, progress: bool | None
) -> tuple[Drift, None, Tensor]:
    """Chains of each row on its own."""
    drifts, rate = Drifts(how.chains, independent=True), torch.zeros((), device=model.device)
    size, total = rows_at_once(model, data, how.chains, elements), len(data) * how.chains
    with counting("transitions", total * how.transitions, progress) as advance:
        for batch in data.batches(size):
            batch = batch.to(model.device)
            few, path = (Path(model, batch, k) for k in (min(how.chains, TUNING), how.chains))
            one, latents = rate.new_ones(()), Latents.find(model, batch)
            _, u = packed_draws(model, guide, batch, latents, few.num_chains)
            step, _ = tuned_at(few.at(one), u, how.leapfrog, how.acceptance)
            _, u = packed_draws(model, guide, batch, latents, how.chains)
            end, accepted = how.run(path.at(one), u, step, advance)
            drifts.add(*(natural(path.sites, x) for x in (u, end)))
            rate = rate + accepted * len(batch) / len(data)
    return drifts.result(unit_names(path.sites)), None, rate


def _together(
    model: Model, guide: Any, data: Dataset, how: _How, elements: int, progress: bool | None
) -> tuple[Drift | None, Drift, Tensor]:
    """Chains of all latents at once; as many side by side as there is room for."""
    batch = data.batch().to(model.device)
    latents = Latents.find(model, batch)
    joint, first = joint_target(model, batch, latents), latents.global_.dim

    def target(u: Tensor) -> Tensor:  # (K, 1, d): one row that holds everything
        return joint(u[:, 0]).unsqueeze(-1)

    def draws(num: int) -> Tensor:
        g, z = packed_draws(model, guide, batch, latents, num)
        return torch.cat([g, z.flatten(1)], 1).unsqueeze(1)

    few = draws(min(how.chains, TUNING))
    size = chains_at_once(target, few[:2], elements)
    step, _ = tuned_at(target, few, how.leapfrog, how.acceptance)
    start = draws(how.chains)
    with counting("transitions", how.chains * how.transitions, progress) as advance:
        parts = [how.run(target, u, step, advance) for u in start.split(size)]
    end = torch.cat([u for u, _ in parts])
    rate = sum((r * len(u) / how.chains for u, r in parts), end.new_zeros(()))

    def drift(sites: Sites, values: list[Tensor]) -> Drift:
        found = Drifts(how.chains)
        found.add(*(natural(sites, u) for u in values))
        return found.result(unit_names(sites))

    ends = [start[:, 0], end[:, 0]]
    global_, dim = drift(latents.global_, [u[:, None, :first] for u in ends]), latents.local.dim
    rows = [u[:, first:].reshape(len(u), len(batch), dim) for u in ends]
    return drift(latents.local, rows) if dim else None, global_, rate
