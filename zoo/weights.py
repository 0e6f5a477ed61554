"""The one primitive: log importance weights of a guide against a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.data import Batch
from zoo.handlers import Enumerate, Particles, Record, Replay, is_data, log_prob
from zoo.local_params import at_home
from zoo.model import Model, as_model, observe
from zoo.particles import one_by_one, outer_sum, split, vectorizes


@dataclass(frozen=True)
class LogWeights:
    """Log weights of S outer and K inner particles on B rows, unscaled, masks applied, in nats.

    Attributes:
        local: (S, K, B), log p(x, z | g) - log q(z | x, g); with enumerated sites (C, S, K, B).
        global_: (S,), log p(g) - log q(g); zero without global latents.
        log_q: (S, K, B) or (C, S, K, B), log q(z | x, g), for score-function gradients.
        log_q_global: (S,), log q(g).
        log_q_enum: (C, B), log q(y | x); None where the guide leaves y to be summed out.
        log_likelihood: (S, K, B) or (C, S, K, B), log p(x | z, g), the observed sites' part of
            ``local``; the rest of it is log p(z | g) - log q(z | x, g).
        size: N, the rows of the data set that the batch stands for.
        has_globals: whether any latent is outside the data plate.
        score_sites: sites the guide drew without a path-wise gradient.
        values: the guide's draws by site name.
        globals: the guide's recorded global sites.
        observed: the model's observed sites, without deterministic ones and factors.
        enumerated: values of each enumerated site, the first the fastest in C.
        local_sites: p's local latents and q's local sites as they were recorded; None where the
            particles were run one by one.
    """

    local: Tensor
    global_: Tensor
    log_q: Tensor
    log_q_global: Tensor
    log_q_enum: Tensor | None
    log_likelihood: Tensor
    size: int
    has_globals: bool
    score_sites: tuple[str, ...] = ()
    values: Mapping[str, Tensor] = field(default_factory=dict)
    globals: Mapping[str, Any] = field(default_factory=dict)
    observed: tuple[str, ...] = ()
    enumerated: Mapping[str, int] = field(default_factory=dict)
    local_sites: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None

    @property
    def log_weight(self) -> Tensor:
        """(K, B), where there are neither global latents nor enumerated sites of the guide's."""
        if self.has_globals or self.log_q_enum is not None:
            raise ValueError(
                "one weight a datapoint exists only without global latents and without q(y|x); "
                "use .local, .global_ and .log_q_enum"
            )
        return self.marginal[0]

    @property
    def marginal(self) -> Tensor:
        """(S, K, B): sites enumerated in the model alone are summed out, particle by particle."""
        if self.local.dim() == 3 or self.log_q_enum is not None:
            return self.local
        return self.local.logsumexp(0)

    def discrete(self) -> tuple[Tensor, dict[str, Tensor]]:
        """p(y | x, z) over the joint states, (C, S, K, B), and a draw (S, K, B) of each site.

        Where the guide has q(y | x) the draws are still the model's, given the guide's z.
        """
        joint = self.local.softmax(0)
        state = torch.distributions.Categorical(joint.movedim(0, -1)).sample()
        draws, stride = {}, 1
        for name, size in self.enumerated.items():
            draws[name] = (state // stride) % size
            stride *= size
        return joint, draws

    def bound(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """(S, B): ``reduce`` takes the particles (dimension -2) away.

        Where the guide has q(y | x): Σ_y q(y|x) [I(x, y) - log q(y|x)], I(x, y) being ``reduce``
        of log p(x, y, z_k)/q(z_k | x, y).
        """
        inner = reduce(self.marginal)
        if self.log_q_enum is None:
            return inner
        log_q = self.log_q_enum.unsqueeze(1)  # (C, 1, B)
        return (log_q.exp() * (inner - log_q)).sum(0)

    def per_row(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """(S, B): bound_n + global_/N, each row with its share of the global latents."""
        return self.bound(reduce) + self.global_.unsqueeze(-1) / self.size

    def per_datapoint(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """(S,): [global_ + (N/B) Σ_n bound_n] / N, in nats per datapoint."""
        return self.per_row(reduce).mean(-1)


def log_weights(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    batch: Batch,
    num_particles: int = 1,
    num_outer: int = 1,
) -> LogWeights:
    """log w = log p(x, z) - log q(z | x), per datapoint and particle, vectorised.

    Inner particles are drawn for the sites inside the data plate only, so that a log-mean-exp over
    them never mixes two values of a global latent.

    Args:
        model: p, a ``Model`` or a plain Pyro function with ``obs=``.
        guide: q, a callable of the batch that samples the latents which the batch lacks.
            Discrete local latents that it leaves out are enumerated.
        batch: B rows.
        num_particles: K, inner particles.
        num_outer: S, draws of the global latents; without any S must be 1.

    Raises:
        ValueError: a latent that the guide does not sample and that cannot be enumerated; a site of
            the guide that the model lacks; more than 1024 joint states to enumerate.

    Reference: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2016.
    """
    model = as_model(model)
    if num_particles < 1 or num_outer < 1:
        raise ValueError(
            f"num_particles and num_outer count draws from 1, got {num_particles}, {num_outer}"
        )
    model.resolve(batch)
    if num_particles * num_outer == 1 or vectorizes(model, batch):
        weights = _weigh(model, guide, batch, num_particles, num_outer)
    else:
        weights = one_by_one(
            lambda given: _weigh(model, guide, batch, 1, 1, given), num_particles, num_outer
        )
    if num_outer > 1 and not weights.has_globals:
        raise ValueError("num_outer counts draws of global latents, and there are none; use 1")
    return weights


def _weigh(
    model: Model,
    guide: Callable[[Batch], Any],
    batch: Batch,
    inner: int,
    outer: int,
    given: Mapping[str, Any] | None = None,
) -> LogWeights:
    """One vectorised run of the guide and the model; ``given`` fixes latents beforehand."""
    plate, rows = model.plate, batch.unscaled()
    with (
        Record() as q,
        Replay(given or {}),
        Particles(outer, inner, plate),
        Enumerate(plate, marked_only=True) as by_guide,
        at_home(guide),
    ):
        guide(rows)
    with Record() as p, Enumerate(plate, used=by_guide.used) as by_model, Replay(q.sites):
        observe(model)(rows)
    _check_sites(p.sites, q.sites)
    sizes = {**by_guide.sizes, **by_model.sizes}
    if by_guide.sizes and by_model.sizes:
        raise ValueError(
            f"the guide enumerates {list(by_guide.sizes)} but leaves {list(by_model.sizes)} out; "
            "let it sample all discrete sites of the data plate, or none"
        )

    base = (outer, inner, len(batch))
    states = (torch.Size(sizes.values()).numel(),) if sizes else ()
    like = batch.index.new_zeros((), dtype=model.dtype)

    def total(terms: Iterable[Tensor]) -> Tensor:  # (S, K, B) or (C, S, K, B)
        summed = sum(terms, like)
        return summed.expand(*reversed(sizes.values()), *base).reshape(*states, *base)

    q_in, q_out = split(q.sites, plate)
    p_in, p_out = split(p.sites, plate)
    if not p_in:
        raise ValueError(f"the model samples nothing inside its data plate {plate!r}")
    q_enum = [s for s in q_in if s["name"] in by_guide.sizes]
    if given_draw := [s["name"] for s in q_enum if set(log_prob(s).shape[-3:-1]) - {1}]:
        raise ValueError(
            f"the guide enumerates {given_draw} given a draw of another latent; let it sample them "
            "before the others, given the data alone"
        )
    log_q = total(log_prob(s) for s in q_in if s["name"] not in by_guide.sizes)
    log_q_global = outer_sum(q_out, outer, like)
    scores = [log_prob(s) for s in p_in]
    return LogWeights(
        local=total(scores) - log_q,
        global_=outer_sum(p_out, outer, like) - log_q_global,
        log_q=log_q,
        log_q_global=log_q_global,
        log_q_enum=total(map(log_prob, q_enum))[:, 0, 0] if q_enum else None,
        log_likelihood=total(t for t, s in zip(scores, p_in, strict=True) if s["is_observed"]),
        size=batch.size,
        has_globals=bool(q_out),
        score_sites=tuple(s["name"] for s in q_in + q_out if _needs_score(s)),
        values={name: site["value"] for name, site in q.sites.items()},
        globals={site["name"]: site for site in q_out},
        observed=tuple(n for n, s in p.sites.items() if is_data(s)),
        enumerated=sizes,
        local_sites=(
            {s["name"]: s for s in p_in if not s["is_observed"]},
            {s["name"]: s for s in q_in},
        ),
    )


def _needs_score(site: Any) -> bool:
    """Whether the draw loses a gradient that parameters want."""
    infer = site["infer"] or {}
    if site["fn"].has_rsample or infer.get("_enumerated") or infer.get("exact"):
        return False
    return torch.is_grad_enabled() and log_prob(site).requires_grad


def _check_sites(p: Mapping[str, Any], q: Mapping[str, Any]) -> None:
    """The guide must have drawn just the latents that were not enumerated."""
    latent = {n for n, s in p.items() if not s["is_observed"]}
    handled = {n for n in latent if {"_replayed", "_enumerated"} & set(p[n]["infer"] or {})}
    if missing := sorted(latent - handled):
        raise ValueError(
            f"the guide does not sample {missing}; continuous and global latents need a "
            "distribution in the guide (only discrete sites of the data plate are enumerated)"
        )
    proposed = {n for n, s in q.items() if not (s["infer"] or {}).get("is_auxiliary")}
    if extra := sorted(proposed - latent):
        raise ValueError(
            f"the guide samples {extra}, which the model does not have as latents for this batch; "
            f"its latents are {sorted(latent)}"
        )
