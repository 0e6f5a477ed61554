"""How the gradient of a bound reaches q: along the path of a draw, by its score, or summed out."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from zoo.bits import Bit
from zoo.handlers import MAX_STATES
from zoo.nets import MLP

__all__ = ["Collapse", "Dreg", "Enumerate", "Pathwise", "Score", "Stl", "Vimco"]


class Estimator(nn.Module):
    """How a guide draws, and what becomes of the gradient.

    Attributes:
        gradient: the word by which an objective estimates it: pathwise, stl, dreg, score, vimco or
            rebar, see ``zoo.objectives._gradient``.
        classifies: whether there is a q(y | x) at all, where there are discrete latents.
        of_paths: whether it is of continuous latents, and the model says what becomes of discrete
            ones.
        of_any: whether it is of any latents, also where all are continuous.
        draws_bits: whether the hard draws of ``draw_bits`` get a gradient; a class with draws of
            its own need not say so.
    """

    gradient: str = "pathwise"
    classifies: ClassVar[bool] = True
    of_paths: ClassVar[bool] = False
    of_any: ClassVar[bool] = False
    draws_bits: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()

    def draw(self, name: str, logits: Tensor) -> Tensor:
        """Samples the site ``name`` from q(y | x), logits (..., B, C), in the data plate."""
        raise NotImplementedError

    def draw_bits(self, name: str, logits: Tensor) -> Tensor:
        """Samples the site ``name`` from Π_j Bern(σ(logits_j)), (..., B, d), in the data plate."""
        infer = {"score": True} if logits.requires_grad else {}
        return pyro.sample(name, Bit(logits=logits).to_event(1), infer=infer)

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


class Pathwise(Estimator):
    """∇ L(h(z(ε))), z = z(ε; φ): through the draws of continuous latents.

    Discrete latents of the rows are treated as the model says (``collapse`` or ``enumerate``).

    Reference: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014.
    """

    classifies: ClassVar[bool] = False
    of_paths: ClassVar[bool] = True
    of_any: ClassVar[bool] = True


class Stl(Pathwise):
    """Sticking the landing: ∇_z [log p(x, z) - log q(z)] ∇_φ z, q's parameters held in log q.

    Unbiased for the ELBO, whose score has mean 0; its variance vanishes as q nears the posterior.
    For other bounds see ``dreg``. Of a q that is made of p's parameters (``exact``) it is Fisher's
    identity: unbiased too, but noisy where the path-wise gradient is not.

    Reference: Roeder, Wu and Duvenaud, "Sticking the Landing", 2017.
    """

    gradient = "stl"


class Dreg(Pathwise):
    """Doubly reparameterized: φ: Σ_k r_k ∂L/∂h_k ∇_z h_k ∇_φ z_k; θ: Σ_k ∂L/∂h_k ∇_θ h_k.

    q's parameters are held in h. For ``iwae`` ∂L/∂h_k is w̃_k and so is r_k; for ``renyi`` r_k is
    α + (1-α) ŵ_k; for ``elbo`` it is ``stl``. Unbiased for the gradient of the K-sample bound, and
    the signal-to-noise ratio of φ's gradient does not fall with K.

    Reference: Tucker, Lawson, Gu and Maddison, "Doubly Reparameterized Gradient Estimators for
    Monte Carlo Objectives", 2019.
    """

    gradient = "dreg"


class Enumerate(Estimator):
    """q(y | x), every value of y in turn: the expectation over y and its gradient are exact."""

    def draw(self, name: str, logits: Tensor) -> Tensor:
        y = dist.Categorical(logits=logits)
        return pyro.sample(name, y, infer={"enumerate": "parallel"})


class Score(Enumerate):
    """∇ E_q[L] = E_q[∇L + (L − b) ∇ log q(z)], by the score function of the draws.

    Of draws without a path, such as y ~ q(y | x), or of all where every one has a path. Unbiased
    for every baseline b that does not depend on the draw. Where no gradient of q(y | x) is taken,
    as in evaluation, y is enumerated, if it has at most 1024 values.

    Args:
        baseline: none; mean, the running mean of L over steps (decay 0.9); leave_one_out, from the
            other particles of the same row, for num_particles from 2, see ``vimco``; network,
            learned b(x), of two hidden layers of 64, by least squares.

    Reference: Williams, "Simple statistical gradient-following algorithms", 1992; Mnih and Gregor,
    "Neural Variational Inference and Learning in Belief Networks", 2014.
    """

    draws_bits: ClassVar[bool] = True
    of_any: ClassVar[bool] = True

    level: Tensor  # ()
    started: Tensor  # ()

    def __init__(
        self, baseline: Literal["none", "mean", "leave_one_out", "network"] = "network"
    ) -> None:
        super().__init__()
        if baseline not in ("none", "mean", "leave_one_out", "network"):
            raise ValueError(f"baseline is none, mean, leave_one_out or network, got {baseline!r}")
        self.kind = baseline
        self.gradient = "vimco" if baseline == "leave_one_out" else "score"
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
        if self.net is not None:
            b = self.net(features).squeeze(-1)  # (B,)
            return b.detach(), (h - b).square().mean()
        return 0.0, 0.0


class Vimco(Score):
    """Σ_k (L − L₋ₖ) ∇ log q(z_k) + ∇L: what a draw adds to the bound of the others is its reward.

    L₋ₖ has the geometric mean of the other weights in the place of w_k. For ``elbo`` it is the
    baseline leave_one_out. Draws as for ``score``; num_particles is at least 2.

    Reference: Mnih and Rezende, "Variational Inference for Monte Carlo Objectives", 2016.
    """

    def __init__(self) -> None:
        super().__init__("leave_one_out")
