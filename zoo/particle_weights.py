"""The record of log importance weights that every bound and diagnostic is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.paths import ManyPaths, Paths


@dataclass(frozen=True)
class LogWeights:
    """Log weights of S outer and K inner particles on B rows, unscaled, masks applied, in nats.

    Attributes:
        local: (S, K, B), log p(x, z | g) - log q(z | x, g); with enumerated sites (C, S, K, B).
        global_: (S,), log p(g) - log q(g); zero without global latents.
        log_q: (S, K, B) or (C, S, K, B), log q(z | x, g), for score-function gradients.
        log_q_global: (S,), log q(g).
        log_q_enum: (C, B), log q(y | x), or (C, S, K, B) where the guide has it given a draw that
            came before, log q(y | x, z_1); None where the guide leaves y to be summed out.
        log_likelihood: (S, K, B) or (C, S, K, B), log p(x | z, g), the observed sites' part of
            ``local``; the rest of it is log p(z | g) - log q(z | x, g).
        size: N, the rows of the whole data set.
        has_globals: whether any latent is outside the data plate.
        score_sites: sites the guide drew without a path-wise gradient.
        values: the guide's draws by site name.
        globals: the guide's recorded global sites.
        observed: the model's observed sites, without deterministic ones and factors.
        enumerated: values of each enumerated site, the first the fastest in C.
        local_sites: p's local latents and q's local sites as they were recorded; None where the
            particles were run one by one.
        reward: (B,), what the guide adds to the objective beside the bound, such as a classifier's
            α log q(y | x) of given labels; None where there is nothing.
        log_q_score: (S, K, B), log q of the sites whose gradient the guide wants estimated by the
            score function; None where there are none.
        paths: takes the factor of the draws' gradient where q is held; None elsewhere.
        relaxed: discrete sites that the guide relaxes; with any the weights are those of no bound.
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
    reward: Tensor | None = None
    log_q_score: Tensor | None = None
    relaxed: tuple[str, ...] = ()
    paths: Paths | ManyPaths | None = None

    @property
    def log_weight(self) -> Tensor:
        """(K, B), where there are neither global latents nor enumerated sites of the guide's."""
        if self.has_globals or self.log_q_enum is not None:
            raise ValueError(
                "one weight a datapoint exists only without global latents and without q(y|x); "
                "use .local, .global_ and .log_q_enum"
            )
        return self.summed[0]

    @property
    def summed(self) -> Tensor:
        """(S, K, B): log Σ_y p(x, y, z_yk)/q(z_yk | x, y), every enumerated site summed out.

        Its exponential has the mean p(x): a log weight, whether or not the guide has q(y | x).
        """
        return self.local if self.local.dim() == 3 else self.local.logsumexp(0)

    @property
    def expected(self) -> Tensor:
        """(S, K, B): Σ_y q(y | x) [log p(x, y, z_yk)/q(z_yk | x, y) - log q(y | x)].

        Its mean over particles is the ELBO of q(y | x) q(z | x, y). ``summed`` where the guide has
        no q(y | x).
        """
        log_q = self.log_q_states
        return self.summed if log_q is None else (log_q.exp() * (self.local - log_q)).sum(0)

    @property
    def log_q_states(self) -> Tensor | None:
        """``log_q_enum`` as it stands beside ``local``: (C, 1, 1, B) or (C, S, K, B)."""
        log_q = self.log_q_enum
        return log_q[:, None, None] if log_q is not None and log_q.dim() == 2 else log_q

    def discrete(self) -> tuple[Tensor, dict[str, Tensor]]:
        """p(y | x, z) over the joint states, (C, S, K, B), and a draw (S, K, B) of each site.

        Where the guide has q(y | x) the draws are still the model's, given the guide's z.
        """
        joint = self.local.softmax(0)
        return joint, self.by_site(torch.distributions.Categorical(joint.movedim(0, -1)).sample())

    def by_site(self, state: Tensor) -> dict[str, Tensor]:
        """The value of each enumerated site in joint states (...) from 0 to C - 1."""
        draws, stride = {}, 1
        for name, size in self.enumerated.items():
            draws[name] = (state // stride) % size
            stride *= size
        return draws

    def bound(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """(S, B): ``reduce`` takes the particles (dimension -2) away.

        Where the guide has q(y | x): Σ_y q(y|x) [I(x, y) - log q(y|x)], I(x, y) being ``reduce``
        of log p(x, y, z_k)/q(z_k | x, y). Where it has q(y | x, z_1k): ``reduce`` of ``expected``,
        which is a bound for the mean alone.
        """
        log_q = self.log_q_enum
        if log_q is None or log_q.dim() > 2:
            return reduce(self.expected)
        inner, log_q = reduce(self.local), log_q.unsqueeze(1)  # (C, S, B), (C, 1, B)
        return (log_q.exp() * (inner - log_q)).sum(0)

    def per_row(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """(S, B): bound_n + global_/N, each row with its share of the global latents."""
        return self.bound(reduce) + self.global_.unsqueeze(-1) / self.size

    def per_datapoint(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        """(S,): [global_ + (N/B) Σ_n bound_n] / N, in nats per datapoint."""
        return self.per_row(reduce).mean(-1)
