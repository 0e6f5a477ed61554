"""The model's own posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
from torch import Tensor

from guides.family import Family
from zoo.data import Batch
from zoo.exact import posterior
from zoo.model import Model


class Exact(Family):
    """q(z) = p(z | x), as the model knows it: no parameters, no source of κ, no gap.

    Every log weight is log p(x), so that the path-wise gradient of any bound is ∇ log p(x) with
    zero variance.
    """

    uses_kappa: ClassVar[bool] = False
    infer: ClassVar[dict[str, Any]] = {"exact": True}

    @property
    def num_params(self) -> int:
        return 0

    def distribution(
        self, model: Model, batch: Batch, source: Callable[[Batch], Tensor]
    ) -> dist.TorchDistribution:
        return posterior(model, batch)
