"""A flow of autoregressive splines."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

from guides.autoregressive import Autoregressive
from guides.flow import Flow

_LEAST = 1e-2  # the smallest width and height of a bin, in shares of the whole, and slope


class Spline(Autoregressive, Flow):
    """z_i = a monotone rational-quadratic spline of u_i on [-b, b], the identity outside.

    Widths and heights of the bins and the slopes at the knots come from u_1 … u_{i-1} and a
    context. The inverse of an entry is a quadratic equation. Every second layer takes the entries
    in the reversed order.

    Args:
        length: L, the number of layers.
        flow: shared (networks of the family, κ_n holds their context) or kappa (κ_n holds the
            weights of its own networks).
        context_dim: numbers in κ_n that shared networks read.
        hidden: widths of the hidden layers of each network.
        num_bins: bins of a spline.
        bound: b, in the units of z.

    Reference: Durkan, Bekasov, Murray and Papamakarios, "Neural Spline Flows", 2019.
    """

    def __init__(
        self,
        dim: int,
        init_scale: float = 1.0,
        length: int = 2,
        flow: Literal["kappa", "shared"] = "shared",
        context_dim: int = 16,
        hidden: tuple[int, ...] = (64,),
        num_bins: int = 8,
        bound: float = 4.0,
    ):
        if not 2 <= num_bins < 1 / _LEAST or bound <= 0:
            raise ValueError(
                f"a spline has 2 to {round(1 / _LEAST) - 1} bins, each of a share of {_LEAST} or "
                f"more, and bound > 0; got {num_bins}, {bound}"
            )
        start = torch.zeros(3 * num_bins - 1)
        super().__init__(dim, init_scale, length, flow, context_dim, hidden, start)
        self.num_bins, self.bound = num_bins, bound

    def transform(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        inside = u.abs() < self.bound
        x, y, w, h, low, high = self._bin(torch.where(inside, u, 0.0), c, back=False)
        t = (torch.where(inside, u, 0.0) - x) / w
        slope = h / w
        bottom = slope + (low + high - 2 * slope) * t * (1 - t)
        z = y + h * (slope * t * t + low * t * (1 - t)) / bottom
        log_slope = self._log_slope(t, slope, low, high, bottom)
        return torch.where(inside, z, u), torch.where(inside, log_slope, 0.0)

    def inverse(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        inside = z.abs() < self.bound
        x, y, w, h, low, high = self._bin(torch.where(inside, z, 0.0), c, back=True)
        slope = h / w
        away = torch.where(inside, z, 0.0) - y
        bend = low + high - 2 * slope
        first = h * (slope - low) + away * bend
        second = h * low - away * bend
        root = torch.sqrt((second.square() + 4 * first * slope * away).clamp_min(0.0))
        plus = second >= 0  # the form of the root in which nothing cancels
        t = torch.where(plus, 2 * slope * away, root - second)
        t = t / torch.where(plus, second + root, 2 * first)
        bottom = slope + bend * t * (1 - t)
        log_slope = self._log_slope(t, slope, low, high, bottom)
        return torch.where(inside, x + w * t, z), torch.where(inside, log_slope, 0.0)

    @staticmethod
    def _log_slope(t: Tensor, slope: Tensor, low: Tensor, high: Tensor, bottom: Tensor) -> Tensor:
        top = high * t * t + 2 * slope * t * (1 - t) + low * (1 - t) * (1 - t)
        return 2 * slope.log() + top.log() - 2 * bottom.log()

    def _bin(self, value: Tensor, c: Tensor, back: bool) -> list[Tensor]:
        """Left end, bottom, width, height and both slopes of the bin that holds each value."""
        K, b = self.num_bins, self.bound
        shares = c[..., : 2 * K].unflatten(-1, (2, K)).softmax(-1)
        sizes = 2 * b * (_LEAST + (1 - _LEAST * K) * shares)  # (..., 2, K)
        ends = pad(sizes.cumsum(-1)[..., :-1], (1, 0)) - b  # (..., 2, K)
        raw = c[..., 2 * K :] + math.log(math.expm1(1 - _LEAST))
        slopes = pad(_LEAST + softplus(raw), (1, 1), value=1.0)  # (..., K + 1)
        knots = ends[..., int(back), 1:]
        at = (value.unsqueeze(-1) >= knots).sum(-1, keepdim=True)  # (..., 1), 0 to K - 1
        parts = (ends[..., 0, :], ends[..., 1, :], sizes[..., 0, :], sizes[..., 1, :])
        parts += (slopes[..., :-1], slopes[..., 1:])
        return [p.expand(*at.shape[:-1], K).gather(-1, at).squeeze(-1) for p in parts]
