"""The distribution of a sequence whose every step follows from those before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.distributions import constraints

Pick = Callable[[TorchDistribution], Tensor]


class Rollout(TorchDistribution):
    """p(x_1, …, x_T | ε) = Π_t p(x_t | x_<t, ε_≤t): drawn step by step, scored in one pass.

    ``mean`` is the sequence that comes about where every step is given the means of those before:
    a picture of x, and not E[x | ε] unless the steps are linear.

    Args:
        model: what knows a step: ``roll(eps, x)`` and ``roll(eps, pick=)``, ``score(codes, x)``,
            ``step_support``, ``step_dim``, ``flat``.
        eps: (..., T, d), the noise of the latents.
        present: (B, T) bool, False for steps after the end of a sequence; None where all have T.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, model: Any, eps: Tensor, present: Tensor | None = None):
        self.model, self.eps, self.present = model, eps, present
        steps = (eps.shape[-2], model.step_dim)
        event = (steps[0] * steps[1],) if model.flat else steps
        super().__init__(eps.shape[:-2], torch.Size(event), validate_args=False)

    @property
    def support(self) -> Any:  # type: ignore[override]
        """That of the likelihood, entry by entry."""
        return constraints.independent(self.model.step_support, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Rollout:
        """The same distribution over more dimensions."""
        shape = torch.Size(batch_shape) + self.eps.shape[-2:]
        return Rollout(self.model, self.eps.expand(shape), self.present)

    def log_prob(self, value: Tensor) -> Tensor:
        """(...) in nats, of x (..., T, D), or (..., T D) where it is flat."""
        x = self.steps(value)
        scores = self.model.score(self.model.roll(self.eps, x)[0], x)  # (..., T)
        if self.present is not None:
            scores = torch.where(self.present, scores, 0.0)
        return scores.sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample_shape, *batch_shape, *event_shape)."""
        eps = self.eps.expand(torch.Size(sample_shape) + self.eps.shape)
        return self._joined(self.model.roll(eps, pick=lambda p: p.sample())[1])

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """Every step's mean, given the means before it."""
        return self._joined(self.model.roll(self.eps, pick=lambda p: p.mean)[1])

    def marginal(self, mask: Tensor) -> Rollout:
        """x without the steps after each sequence's end; ValueError for other missing entries.

        What is missing inside a sequence changes all that follows, which no closed form sums out.
        """
        entries = self.steps(mask)
        present = entries.all(-1)  # (B, T)
        if is_validation_enabled():
            whole = bool((entries.any(-1) == present).all())
            ends = bool((present[..., 1:] <= present[..., :-1]).all())
            if not (whole and ends):
                raise ValueError(
                    "a sequence may lack its last steps (it is shorter), but 'x' has entries "
                    "missing before others; fill them, or drop those rows"
                )
        return Rollout(self.model, self.eps, present)

    def steps(self, x: Tensor) -> Tensor:
        """(..., T, D) of x as it stands in the data."""
        return x.unflatten(-1, (self.eps.shape[-2], self.model.step_dim)) if self.model.flat else x

    def _joined(self, x: Tensor) -> Tensor:
        return x.flatten(-2) if self.model.flat else x
