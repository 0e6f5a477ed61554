"""A bit whose draw can be shared out."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


class Bit(dist.Bernoulli):
    """Bernoulli, drawn as b = [u < p] with u uniform: one number for each entry.

    Several processes can each draw their own rows of it (``zoo.shares``), which torch's own draw
    does not allow.

    Example:
        >>> Bit(logits=torch.full((1000,), -50.0)).sample().sum()
        tensor(0.)
    """

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample_shape, *batch_shape), zeros and ones."""
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=self._param.dtype, device=self._param.device)
        return (u < self.probs).to(u.dtype)
