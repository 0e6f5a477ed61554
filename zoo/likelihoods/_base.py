"""What every likelihood is: a map from a decoder's outputs to a distribution of the data."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from zoo.models._parts import check_option, check_positive, check_size

EDGE = 1e-3  # how far from its ends a mean is kept
SOURCES = ("fixed", "scalar", "dimension", "decoder")


class Likelihood(nn.Module):
    """p(x | f) where f (..., E) is what a decoder gives and x (..., D) the data.

    Called with outputs of batch shape (...) it is a distribution with that batch shape and event
    (D,). Where P numbers a dimension are asked for, E = P D and they stand one after the other:
    ``outputs.unflatten(-1, (P, D))``, as the channels of a convolution do.

    Args:
        data_dim: D.

    Raises:
        ValueError: data_dim < 1; when called, outputs whose last dimension is not E, or an
            exposure for a likelihood that has none.
    """

    per_dimension: int = 1  # P
    takes_exposure: ClassVar[bool] = False

    def __init__(self, data_dim: int) -> None:
        super().__init__()
        check_size("data_dim", data_dim)
        self.data_dim = data_dim

    @property
    def num_outputs(self) -> int:
        """E, how many numbers the decoder gives."""
        return self.per_dimension * self.data_dim

    def forward(self, outputs: Tensor, exposure: Tensor | None = None) -> TorchDistribution:
        """p(x | outputs): outputs (..., E), exposure (B,) for counts; batch (...), event (D,)."""
        if outputs.shape[-1] != self.num_outputs:
            raise ValueError(
                f"{type(self).__name__} of {self.data_dim} dimensions takes outputs "
                f"(..., {self.num_outputs}), got {tuple(outputs.shape)}; give the decoder "
                "likelihood.num_outputs outputs"
            )
        if exposure is not None and not self.takes_exposure:
            raise ValueError(
                f"{type(self).__name__} takes no exposure, which multiplies the rate of counts; "
                "choose poisson or negative_binomial, or take the exposure out of the data"
            )
        if outputs.dtype in (torch.float16, torch.bfloat16):
            outputs = outputs.float()  # a sum over many dimensions needs the digits
        parts = outputs.unflatten(-1, (self.per_dimension, self.data_dim))  # (..., P, D)
        if exposure is None:
            return self.distribution(parts)
        if is_validation_enabled() and not bool((exposure > 0).all()):
            raise ValueError("exposure must be positive in every row; drop the rows where it is 0")
        return self.distribution(parts, exposure=exposure)

    def distribution(self, parts: Tensor, **options: Any) -> TorchDistribution:
        """p(x | parts) of parts (..., P, D), and for counts of an exposure (B,)."""
        raise NotImplementedError

    def mean(self, outputs: Tensor, exposure: Tensor | None = None) -> Tensor:
        """E[x | outputs] (..., D)."""
        return self(outputs, exposure).mean

    def start(self, x: Tensor, exposure: Tensor | None = None) -> Tensor:
        """Outputs (E,) at which E[x] is the mean of the rows x (N, D), a little inside its range.

        It is meant for the last bias of a decoder. Scales that the likelihood itself learns start
        from the data, too.
        """
        raise NotImplementedError


class Positive(nn.Module):
    """A positive number in a likelihood: a scale, degrees of freedom, a count of failures.

    Notation: v = start if it is fixed; v = floor + exp(`log_value`) if it is learned, one for
    every dimension ("scalar") or one each ("dimension"); v = floor + log(1 + exp(f)) if it is
    made by the decoder, whose outputs f (..., D) it then takes.

    Args:
        name: what it is called in errors.
        source: "fixed", "scalar", "dimension" or "decoder".
        data_dim: D.
        start: its value at first.
        floor: v stays above it.
    """

    value: Tensor

    def __init__(self, name: str, source: str, data_dim: int, start: float, floor: float) -> None:
        super().__init__()
        check_option(name, source, SOURCES)
        if floor < 0:
            raise ValueError(f"the floor of {name} must be at least 0; got {floor}")
        check_positive(f"the start of {name}, less its floor {floor},", start - floor)
        self.source, self.floor = source, floor
        self.shape = (data_dim,) if source in ("dimension", "decoder") else ()
        self.initial = float(start)
        if source == "fixed":
            self.register_buffer("value", torch.tensor(self.initial))  # ()
        elif source != "decoder":
            self.log_value = nn.Parameter(torch.full(self.shape, start - floor).log())  # () or (D,)

    @property
    def per_dimension(self) -> int:
        """How many outputs a dimension it takes."""
        return int(self.source == "decoder")

    def forward(self, outputs: Sequence[Tensor] = ()) -> Tensor:
        """v, () or (D,) or, from [(..., D)], (..., D)."""
        if outputs:
            return self.floor + F.softplus(outputs[0])
        if self.source == "fixed":
            return self.value
        return self.floor + self.log_value.exp()

    @torch.no_grad()
    def start(self, x: Tensor, value: Tensor | None = None) -> list[Tensor]:
        """Starts at value (D,), or as it is; the outputs of the decoder for it, [(D,)] or [].

        New tensors are of the type of x, and where it is.
        """
        if self.source == "decoder":
            value = x.new_full(self.shape, self.initial) if value is None else value
            excess = value - self.floor
            excess = excess.clamp(min=max(self.floor, 1e-4))
            return [excess + (-torch.expm1(-excess)).log()]
        if value is not None and self.source != "fixed":
            value = value if self.source == "dimension" else value.square().mean().sqrt()
            excess = (value - self.floor).clamp(min=max(self.floor, 1e-4))
            self.log_value.copy_(excess.log())
        return []


def inverse(function: Callable[[Tensor], Tensor], target: Tensor, bound: float) -> Tensor:
    """y in (-bound, bound) with function(y) = target, by bisection of an increasing function."""
    low, high = torch.full_like(target, -bound), torch.full_like(target, bound)
    for _ in range(60):
        middle = (low + high) / 2
        below = function(middle) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2
