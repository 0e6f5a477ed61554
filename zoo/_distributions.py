"""Distributions of one number that likelihoods are made of, written for speed and for the edges."""

import pyro.distributions as dist
import torch.nn.functional as F
from torch import Tensor


class Binary(dist.Bernoulli):
    """Bernoulli by its logits, x in {0, 1}: log p(x) = log σ((2x - 1) l).

    One pass over the logits and exact in both tails; it asks for values that are 0 or 1.
    """

    has_enumerate_support = False  # as data it is drawn, and never enumerated
    support_help = (
        "Bernoulli scores zeros and ones: binarize grey levels (--binarization dynamic, or "
        "load_data(..., binarization='dynamic')) or choose the likelihood continuous_bernoulli"
    )

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return F.logsigmoid((2 * value.to(self.logits.dtype) - 1) * self.logits)
