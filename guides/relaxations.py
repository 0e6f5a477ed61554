"""Estimators that go through a relaxed draw of a discrete site, in its place or beside it."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro
import torch
from torch import Tensor

from guides.estimators import Drawn, Enumerate
from zoo.bits import Bit
from zoo.handlers import MAX_STATES
from zoo.relaxed import Relaxed, RelaxedBits

__all__ = ["Gumbel", "Rebar", "StraightThrough"]


class Gumbel(Enumerate):
    """q(y | x), one relaxed draw each particle (Gumbel-softmax); the gradient is path-wise, biased.

    Which density is used: log p(y) − log q(y | x) in expectation over q(y | x), exactly; the
    relaxed draw stands for y in the rest (``zoo.relaxed``). Layers of bits are relaxed to binary
    Concrete variables, their two terms in expectation over the layer's own q given the relaxed
    layer before it. The loss is no bound. Where no gradient of q is taken, as in evaluation, y is
    enumerated and bits are drawn, and what is reported is a bound.

    τ is constant, or falls geometrically: τ_n = τ_0 (τ_N/τ_0)^(min(n, N)/N) after n training draws,
    each of one site for all rows and particles. n is kept with the run.

    Args:
        temperature: τ, or τ_0; a small one has little bias and much variance.
        final_temperature: τ_N; None for a constant one.
        anneal_steps: N, training draws until τ_N; 0 for a constant one.

    Raises:
        ValueError: a temperature that is not above 0; one of the last two without the other.

    Reference: Jang, Gu and Poole, "Categorical Reparameterization with Gumbel-Softmax", 2017;
    Maddison, Mnih and Teh, "The Concrete Distribution", 2017.
    """

    hard: ClassVar[bool] = False
    drawn: Tensor  # ()

    def __init__(
        self,
        temperature: float = 0.5,
        final_temperature: float | None = None,
        anneal_steps: int = 0,
    ) -> None:
        super().__init__()
        final = temperature if final_temperature is None else final_temperature
        if not (temperature > 0 and final > 0):
            raise ValueError(f"temperatures are above 0, got {temperature} and {final_temperature}")
        if (final_temperature is None) != (anneal_steps == 0) or anneal_steps < 0:
            raise ValueError(
                "a falling temperature takes both final_temperature and anneal_steps, a number of "
                f"draws from 1, got {final_temperature} and {anneal_steps}; a constant one neither"
            )
        self.start, self.ratio, self.anneal_steps = temperature, final / temperature, anneal_steps
        if anneal_steps:
            self.register_buffer("drawn", torch.zeros(()))  # n

    @property
    def temperature(self) -> float | Tensor:
        """τ of the next training draw; a tensor () where it falls."""
        if not self.anneal_steps:
            return self.start
        share = self.drawn.clamp_max(self.anneal_steps) / self.anneal_steps
        return self.start * self.ratio**share

    def draw(self, name: str, logits: Tensor) -> Tensor:
        if not logits.requires_grad:
            return super().draw(name, logits)
        return self._relax(name, logits, Relaxed)

    def draw_bits(self, name: str, logits: Tensor) -> Tensor:
        if not logits.requires_grad:
            return super().draw_bits(name, logits)
        return self._relax(name, logits, RelaxedBits)

    def _relax(self, name: str, logits: Tensor, kind: type[Relaxed]) -> Tensor:
        y: Any = kind(logits, self.temperature, self.hard)
        if self.anneal_steps:
            self.drawn.add_(1)
        return pyro.sample(name, y)


class StraightThrough(Gumbel):
    """As ``gumbel``, but the draw is one-hot (bits are 0 or 1), with the relaxed draw's gradient.

    Which density is used, the temperature and its schedule: as for ``gumbel``. The value of the
    loss is unbiased for the evidence lower bound, for models with one discrete site a row; its
    gradient is biased, and of more variance than that of ``gumbel``.

    Args:
        temperature, final_temperature, anneal_steps: as for ``gumbel``.

    Reference: Bengio, Léonard and Courville, "Estimating or Propagating Gradients Through
    Stochastic Neurons for Conditional Computation", 2013; Jang, Gu and Poole, "Categorical
    Reparameterization with Gumbel-Softmax", 2017.
    """

    hard: ClassVar[bool] = True


class Rebar(Enumerate):
    """q(b | x), one hard draw each particle; ∇ E_q[h] by the score function less a relaxed control.

    ∇h(b) + [h(b) − η h(s̃)] ∇log q(b) + η ∇[h(s) − h(s̃)], s = σ(z/τ) with b = H(z), s̃ = σ(z̃/τ)
    with z̃ ~ z | b (softmax for classes). Unbiased for every η and τ: ∇ E h(s) is what the other
    three terms of h(s), h(s̃) add up to. For the bound ``elbo`` and one discrete site a row, y or
    one layer of bits. Where no gradient of q is taken y is enumerated, if it has at most 1024
    values, and bits are drawn. See ``zoo.objectives._rebar``.

    Args:
        temperature: τ.
        scale: η, how much of the control is used; with 0 it is ``score`` without a baseline.

    Raises:
        ValueError: a temperature that is not above 0.

    Reference: Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein, "REBAR: Low-variance, unbiased
    gradient estimates for discrete latent variable models", 2017.
    """

    gradient: ClassVar[str] = "rebar"

    def __init__(self, temperature: float = 0.5, scale: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is above 0, got {temperature}")
        self.marks: Any = {"score": True, "rebar": {"temperature": temperature, "scale": scale}}

    def draw(self, name: str, logits: Tensor) -> Tensor:
        if not logits.requires_grad and self.states <= MAX_STATES:
            return super().draw(name, logits)
        return pyro.sample(name, Drawn(logits=logits), infer=self.marks.copy())

    def draw_bits(self, name: str, logits: Tensor) -> Tensor:
        if not logits.requires_grad:
            return super().draw_bits(name, logits)
        q = Bit(logits=logits).to_event(1)
        return pyro.sample(name, q, infer=self.marks.copy())
