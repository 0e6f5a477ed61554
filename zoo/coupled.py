"""Two relaxed draws that belong to one discrete draw, of the same noise: the control of REBAR."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from zoo.relaxed import base_of, kind_of, logistic, uniform


def coupled(fn: Any, value: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """s and s̃, the relaxed draws of REBAR for a discrete draw: equal, with two paths to the logits.

    With b = H(z) the value, z the logits plus noise: z̃ ~ z | b, a function of the logits, b and
    noise of its own, gives s̃ = σ(z̃/τ) or softmax(z̃/τ). s has the same value, but z is the
    logits plus the noise ε = z̃ − logits that belongs to it, held: dz/dlogits = 1. Over b and the
    noise, ε has its own law (logistic, or Gumbel), independent of the logits.

    z̃ of bits is ±softplus(ℓ + softplus(±λ)), + for b = 1, ℓ logistic; of a Categorical with the
    class k, −log E_k there and −log(E_c/q_c + E_k) elsewhere, E exponential.

    Args:
        fn: q, a Categorical or bits.
        value: b, a draw of it.
        temperature: τ > 0.

    Returns:
        s, s̃: (..., C), or the shape of b.

    Raises:
        ValueError: any other distribution.

    Reference: Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein, "REBAR: Low-variance, unbiased
    gradient estimates for discrete latent variable models", 2017, with the noise of z and z̃
    coupled as there.

    Example:
        >>> logits = torch.tensor([0.5, -1.0], requires_grad=True)
        >>> q = torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits), 1)
        >>> s, conditional = coupled(q, b := torch.tensor([0.0, 1.0]), temperature=0.5)
        >>> torch.allclose(s, conditional), bool(((s > 0.5) == (b == 1)).all())
        (True, True)
    """
    if kind_of(fn) is torch.distributions.Categorical:
        logits, to_unit = fn.logits, torch.softmax
        chosen = value.unsqueeze(-1) == torch.arange(logits.shape[-1], device=value.device)
        noise = (-uniform(chosen.shape, logits).log()).log()
        least = torch.where(chosen, noise, torch.zeros_like(noise)).sum(-1, keepdim=True)
        z = -torch.where(chosen, noise, torch.logaddexp(noise - logits, least))
    else:
        logits, sign = base_of(fn).logits, 2 * value - 1
        noise = logistic(uniform(value.shape, logits))
        z = sign * softplus(noise + softplus(sign * logits))
        to_unit = lambda t, _: t.sigmoid()  # noqa: E731
    held = logits + (z - logits).detach()
    return to_unit(held / temperature, -1), to_unit(z / temperature, -1)
