"""How q treats discrete latents of the rows, and how their gradient is estimated."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from zoo.handlers import MAX_STATES
from zoo.nets import MLP

__all__ = ["Collapse", "Enumerate", "Score"]


class Estimator(nn.Module):
    """How a guide with q(y | x) draws y, and what becomes of the gradient.

    Attributes:
        classifies: whether there is a q(y | x) at all.
    """

    classifies: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()

    def draw(self, name: str, logits: Tensor) -> Tensor:
        """Samples the site ``name`` from q(y | x), logits (..., B, C), in the data plate."""
        raise NotImplementedError

    states: int = 1  # of all labels together

    def bind(self, width: int, states: int) -> None:
        """Told once how many numbers the classifier reads of a row, and how many joint states."""
        self.states = states

    def baseline(self, h: Tensor, features: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """b, broadcast to h (S, K, B), and the loss that trains it; x is read as features."""
        return 0.0, 0.0


class Drawn(dist.Categorical):
    """A categorical distribution drawn as argmax(log q + Gumbel noise).

    torch.multinomial, which ``Categorical`` draws with, waits for the device to check its weights.
    """

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """(*sample_shape, *batch_shape), whole numbers."""
        shape = self._extended_shape(torch.Size(sample_shape)) + self.logits.shape[-1:]
        noise = -torch.empty(shape, dtype=self.logits.dtype, device=self.logits.device)
        noise = -(-noise).exponential_().log()
        return (self.logits.detach() + noise).argmax(-1)


class Collapse(Estimator):
    """No q(y | x): y is summed out of p(x, y, z) for every z that q(z | x) draws.

    The exact p(y | x, z) needs no training; q(z | x) cannot depend on y.
    """

    classifies: ClassVar[bool] = False


class Enumerate(Estimator):
    """q(y | x), every value of y in turn: the expectation over y and its gradient are exact."""

    def draw(self, name: str, logits: Tensor) -> Tensor:
        y = dist.Categorical(logits=logits)
        return pyro.sample(name, y, infer={"enumerate": "parallel"})


class Score(Enumerate):
    """q(y | x), one draw of y each particle; ∇ E_q(y)[h] = E_q(y)[∇h + (h − b) ∇ log q(y | x)].

    Unbiased for every baseline b that does not depend on the draw. Where no gradient of
    q(y | x) is taken, as in evaluation, y is enumerated, if it has at most 1024 values.

    Args:
        baseline: none; mean, the running mean of h over steps (decay 0.9); leave_one_out, the mean
            of the other particles' h of the same row, for num_particles from 2; network, learned
            b(x), of two hidden layers of 64, by least squares.

    Reference: Williams, "Simple statistical gradient-following algorithms", 1992; Mnih and Gregor,
    "Neural Variational Inference and Learning in Belief Networks", 2014.
    """

    level: Tensor  # ()
    started: Tensor  # ()

    def __init__(
        self, baseline: Literal["none", "mean", "leave_one_out", "network"] = "network"
    ) -> None:
        super().__init__()
        if baseline not in ("none", "mean", "leave_one_out", "network"):
            raise ValueError(f"baseline is none, mean, leave_one_out or network, got {baseline!r}")
        self.kind = baseline
        self.net: nn.Module | None = None
        if baseline == "mean":
            self.register_buffer("level", torch.zeros(()))
            self.register_buffer("started", torch.zeros(()))  # 0 before the first step

    def bind(self, width: int, states: int) -> None:
        super().bind(width, states)
        if self.kind == "network":
            self.net = MLP(width, (64, 64), 1, "relu")

    def draw(self, name: str, logits: Tensor) -> Tensor:
        if not logits.requires_grad and self.states <= MAX_STATES:
            return super().draw(name, logits)
        return pyro.sample(name, Drawn(logits=logits), infer={"score": True})

    def baseline(self, h: Tensor, features: Tensor) -> tuple[Tensor | float, Tensor | float]:
        if self.kind == "mean":
            before = self.level.clone()
            with torch.no_grad():
                keep = 0.9 * self.started
                self.level.copy_(keep * self.level + (1 - keep) * h.mean())
                self.started.fill_(1.0)
            return before, 0.0
        if self.kind == "leave_one_out":
            count = h.shape[-2]
            if count < 2:
                raise ValueError("the baseline leave_one_out needs num_particles from 2")
            return (h.sum(-2, keepdim=True) - h) / (count - 1), 0.0
        if self.net is not None:
            b = self.net(features).squeeze(-1)  # (B,)
            return b.detach(), (h - b).square().mean()
        return 0.0, 0.0
