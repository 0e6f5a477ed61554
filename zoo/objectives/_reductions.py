"""L(h_1 … h_K): what a bound makes of the log weights of K particles, and how it depends on each.

Every bound is a symmetric function L of the K log weights h_k of a row, and an estimator of its
gradient needs three things of it: its value; r_k, by which the path of a draw counts in the doubly
reparameterized gradient; and L - L₋ₖ, what the draw k has added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


class Reduction:
    """L over the particles: (…, K, B) -> (…, B).

    Attributes:
        upper: whether its limit at K = ∞ is above log p(x).
    """

    upper: bool = False

    def __call__(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def ratio(self, h: Tensor) -> Tensor | None:
        """r_k = 1 - (∂²L/∂h_k²) / (∂L/∂h_k), (…, K, B); None where it is 1 for every draw.

        E[∂L/∂h_k ∇_φ log q(z_k)] = E[∂²L/∂h_k² ∇_z h_k ∇_φ z_k], by reparameterizing a second time.
        """
        raise ValueError(
            "dreg is known for elbo, iwae, renyi, cubo, miwae and ciwae; use pathwise for this one"
        )

    def signals(self, h: Tensor) -> Tensor:
        """L - L₋ₖ, (…, K, B): L₋ₖ has the mean of the others' h in the place of h_k."""
        count = h.shape[-2]
        if count < 2:
            raise ValueError("vimco and the baseline leave_one_out need num_particles from 2")
        others = (h.sum(-2, keepdim=True) - h) / (count - 1)  # (…, K, B)
        own = torch.eye(count, dtype=torch.bool, device=h.device)[..., None]  # (K, K, 1)
        without = torch.where(own, others.unsqueeze(-2), h.unsqueeze(-3))  # (…, K, K, B)
        return self(h).unsqueeze(-2) - self(without)


@dataclass(frozen=True)
class Power(Reduction):
    """L = (1/(1-α)) log (1/K) Σ_k exp((1-α) h_k); the mean of h at α = 1, its limit.

    r_k = α + (1-α) ŵ_k, ŵ the weights w^(1-α) normalised: 1 for the ELBO, w̃_k for α = 0.
    """

    alpha: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.alpha):
            raise ValueError(f"α must be finite, got {self.alpha}")

    @property
    def upper(self) -> bool:  # type: ignore[override]
        """α < 0."""
        return self.alpha < 0

    def __call__(self, h: Tensor) -> Tensor:
        if self.alpha == 1:
            return h.mean(-2)
        if self.alpha == 0:
            return h.logsumexp(-2) - math.log(h.shape[-2])
        power = 1 - self.alpha  # near 0 the quotient loses digits, hence float64
        return (log_mean_exp(power * h.double()) / power).to(h.dtype)

    def ratio(self, h: Tensor) -> Tensor | None:
        if self.alpha == 1:
            return None
        return self.alpha + (1 - self.alpha) * ((1 - self.alpha) * h).softmax(-2)

    def signals(self, h: Tensor) -> Tensor:
        if self.alpha != 1 or h.shape[-2] < 2:  # which has an error
            return super().signals(h)
        return (h - h.mean(-2, keepdim=True)) / (h.shape[-2] - 1)


mean = Power(1.0)
log_mean_exp = Power(0.0)


@dataclass(frozen=True)
class Groups(Reduction):
    """L = (1/M) Σ_m log (1/K) Σ_k w_mk: the mean of M importance-weighted bounds, M K draws.

    r_mk = w̃_mk, normalised within the group.
    """

    groups: int

    def _split(self, h: Tensor) -> Tensor:
        """(…, M, K, B)"""
        if h.shape[-2] % self.groups:
            raise ValueError(
                f"{h.shape[-2]} particles cannot be split in {self.groups} groups of one size"
            )
        return h.unflatten(-2, (self.groups, -1))

    def __call__(self, h: Tensor) -> Tensor:
        return log_mean_exp(self._split(h)).mean(-2)

    def ratio(self, h: Tensor) -> Tensor | None:
        return self._split(h).softmax(-2).flatten(-3, -2)


@dataclass(frozen=True)
class Blend(Reduction):
    """L = β mean_k h_k + (1-β) log mean_k w_k.

    r_k = (β/K + (1-β) w̃_k²) / (β/K + (1-β) w̃_k).
    """

    beta: float

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"the share of the ELBO is from 0 to 1, got {self.beta}")

    def __call__(self, h: Tensor) -> Tensor:
        return self.beta * mean(h) + (1 - self.beta) * log_mean_exp(h)

    def ratio(self, h: Tensor) -> Tensor | None:
        w = h.softmax(-2)
        if self.beta == 0:
            return w
        own = self.beta / h.shape[-2]
        return (own + (1 - self.beta) * w.square()) / (own + (1 - self.beta) * w)


@dataclass(frozen=True)
class Thermodynamic(Reduction):
    """L = Σ_j c_j Σ_k w̃_k(β_j) h_k, w̃(β) = softmax(β h): a sum for ∫ E_{π_β}[h] dβ.

    Args:
        points: β_j.
        weights: c_j, which sum to 1.
    """

    points: tuple[float, ...]
    weights: tuple[float, ...]

    def __call__(self, h: Tensor) -> Tensor:
        total = torch.zeros_like(h[..., 0, :])
        for beta, c in zip(self.points, self.weights, strict=True):
            total = total + c * ((beta * h).softmax(-2) * h).sum(-2)
        return total
