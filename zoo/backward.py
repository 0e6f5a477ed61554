"""The gradient of one step of a fit: in parts, in which precision, with which KL weight."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from zoo.alone import Alone
from zoo.context import half_layers
from zoo.data import Batch, Dataset


class Backward:
    """Leaves the gradient of a step's loss in ``.grad``, and gives the loss, on the device.

    The rows are split in M parts of nearly the same size. The gradient is that of the undivided
    batch, Σ_m (B_m/B) ∇ loss_m, for every loss that is a mean over rows, with the memory of one
    part. Where only some rows have labels, those with and those without are split apart, each loss
    in nats per row of its kind: Σ_kind (N_kind/N) Σ_m (B_m/B_kind) ∇ loss_m. During a warm-up of W
    steps the KL weight of step t = 0, 1, … is β t/W, a tensor.

    Args:
        loss_of: ``(model, guide, batch) -> loss``, in nats per datapoint.
        data: where the rows come from.
        whole: whether a step takes all of them.
        accumulate: M.
        warm_up: W.
        half: whether layers compute in bfloat16.
        labelled_rows: the labelled rows of a step, where only some rows have labels.
        team: the processes that share the rows of a step.

    Attributes:
        batch: the part that was last looked at.
        drawn_from: the state of the CPU's random numbers before it, so that a failure can be looked
            at again.

    Raises:
        ValueError: a warm-up for an objective without a KL weight.
    """

    def __init__(
        self,
        loss_of: Callable[..., Tensor],
        data: Dataset,
        whole: bool,
        accumulate: int = 1,
        warm_up: int = 0,
        half: bool = False,
        labelled_rows: int | None = None,
        team: Alone | None = None,
    ):
        self.loss_of, self.data, self.whole = loss_of, data, whole
        self.accumulate, self.warm_up, self.half = accumulate, warm_up, half
        self.labelled_rows, self.team = labelled_rows, team or Alone()
        self.beta = kl_weight_of(loss_of) if warm_up else 1.0
        kept = whole and accumulate == 1 and not data.dynamic
        self.everything = list(data.parts(None)) if kept else None
        self.batch: Batch | None = None
        self.drawn_from = torch.get_rng_state()

    def __call__(self, model: Any, guide: Any, index: Tensor, step: int) -> Tensor:
        """The loss of the rows ``index``, (); stops at a part whose loss is not finite (CPU)."""
        total = torch.zeros((), device=self.data.device)
        for loss, weight in self.losses(model, guide, index, self.options(step)):
            cut = self.accumulate > 1 or self.team.divides
            if cut and not loss.requires_grad and not self.data.partial:
                raise ValueError(
                    "accumulate and several processes need a loss that can be differentiated, and "
                    "this objective has none (or no free parameter); leave them out"
                )
            if loss.requires_grad:
                loss.backward()
            total = loss.detach() if weight == 1 else total + loss.detach()
            known = self.data.device.type == "cpu" and not self.team.divides
            if known and not torch.isfinite(total):
                break
        return self.team.summed(total, (model, guide))

    def losses(
        self, model: Any, guide: Any, index: Tensor, options: Mapping[str, Tensor]
    ) -> Iterator[tuple[Tensor, float]]:
        """The loss of each part of a step times its weight, and the weight."""
        for batch, weight in self.parts(index):
            self.batch, self.drawn_from = batch, torch.get_rng_state()
            half = half_layers(self.data.device) if self.half else nullcontext()
            with half, self.team.drawing(batch, model, guide):
                loss = self.loss_of(model, guide, batch, **options)
            yield (loss if weight == 1 else loss * weight), weight

    def loss(self, model: Any, guide: Any, index: Tensor, step: int) -> Tensor:
        """The loss of the rows ``index``, (), without its gradient."""
        found = self.losses(model, guide, index, self.options(step))
        return self.team.sum([torch.stack([loss.detach() for loss, _ in found]).sum()])[0]

    def parts(self, index: Tensor) -> Iterable[tuple[Batch, float]]:
        """The batches of a step, with their weights in its loss."""
        if self.everything is not None:
            return self.team.parts(self.everything)
        rows = None if self.whole else index
        return self.team.parts(self.data.parts(rows, self.accumulate, self.labelled_rows))

    def options(self, step: int) -> dict[str, Tensor]:
        """The KL weight of a step within the warm-up, filled in on the device."""
        if step >= self.warm_up:
            return {}
        value = self.beta * step / self.warm_up
        return {"beta": torch.full((), value, device=self.data.device)}


def kl_weight_of(loss_of: Callable[..., Tensor]) -> float:
    """The β that an objective was given, or has by default.

    Raises:
        ValueError: an objective without one.
    """
    known = inspect.signature(loss_of).parameters
    if "beta" not in known:
        name = getattr(getattr(loss_of, "func", loss_of), "__name__", "this one")
        raise ValueError(
            f"warm_up raises the KL weight β of an objective, and {name} has none; elbo, iwae and "
            "renyi have"
        )
    default = known["beta"].default
    return 1.0 if default is inspect.Parameter.empty else float(default)
