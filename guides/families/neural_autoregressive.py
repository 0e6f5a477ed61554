"""A flow of autoregressive sigmoidal networks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from guides.autoregressive import Autoregressive, positive
from guides.flow import Flow
from guides.monotone import monotone_root


class NeuralAutoregressive(Autoregressive, Flow):
    """z_i = logit Σ_j w_j σ(a_j u_i + b_j), Σ w = 1, a > 0: a deep sigmoidal flow.

    (w, a, b) come from u_1 … u_{i-1} and a context. Slope and value are sums in logarithms, without
    a clamp. z_i lies between the least and the largest a_j u_i + b_j, which
    brackets the inverse. Every second layer takes the entries in the reversed order.

    Args:
        length: L, the number of layers.
        flow: shared (networks of the family, κ_n holds their context) or kappa (κ_n holds the
            weights of its own networks).
        context_dim: numbers in κ_n that shared networks read.
        hidden: widths of the hidden layers of each network.
        num_sigmoids: sigmoids in the map of one entry.

    Reference: Huang, Krueger, Lacoste and Courville, "Neural Autoregressive Flows", 2018.
    """

    def __init__(
        self,
        dim: int,
        init_scale: float = 1.0,
        length: int = 2,
        flow: Literal["kappa", "shared"] = "shared",
        context_dim: int = 16,
        hidden: tuple[int, ...] = (64,),
        num_sigmoids: int = 8,
    ):
        if num_sigmoids < 1:
            raise ValueError(f"num_sigmoids counts from 1, got {num_sigmoids}")
        spread = torch.linspace(-1, 1, num_sigmoids) if num_sigmoids > 1 else torch.zeros(1)
        start = torch.cat([torch.zeros(2 * num_sigmoids), spread])
        super().__init__(dim, init_scale, length, flow, context_dim, hidden, start)

    def transform(self, u: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return _logit_of_mixture(u, *_parameters(c))

    def inverse(self, z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        log_w, a, b = _parameters(c)

        def f(u: Tensor) -> tuple[Tensor, Tensor]:
            value, log_slope = _logit_of_mixture(u, log_w, a, b)
            return value, log_slope.exp()

        each = (z.unsqueeze(-1) - b) / a
        u = monotone_root(f, z, each.amin(-1), each.amax(-1), halvings=20, steps=6)
        return u, _logit_of_mixture(u, log_w, a, b)[1]


def _parameters(c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log w, a and b (..., J) from (..., 3 J); the first two stay within e⁸ of where they start."""
    weight, a, b = c.chunk(3, -1)
    log_w, _ = _normalized(8 * torch.tanh(weight / 8))
    return log_w, positive(8 * torch.tanh(a / 8)), b


def _logit_of_mixture(u: Tensor, log_w: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """logit S, S = Σ_j w_j σ(t_j) with t_j = a_j u + b_j, and log of its slope, of u (...).

    The slope is Σ_j a_j p_j q_j / w_j, p_j = w_j σ(t_j)/S and q_j = w_j σ(-t_j)/(1 - S): bounded
    in both tails, where p or q is w.
    """
    t = a * u.unsqueeze(-1) + b
    on = -softplus(-t, threshold=40)  # log σ(t); log σ(-t) is t less
    log_p, log_s = _normalized(log_w + on)
    log_q, log_rest = _normalized(log_w + on - t)
    return log_s - log_rest, (a.log() + log_p + log_q - log_w).logsumexp(-1)


def _normalized(x: Tensor) -> tuple[Tensor, Tensor]:
    """x - log Σ exp x and log Σ exp x: digits are kept where all of x is far from 0."""
    top = x.detach().amax(-1, keepdim=True)
    x = x - top
    total = x.exp().sum(-1, keepdim=True).log()
    return x - total, (top + total).squeeze(-1)
