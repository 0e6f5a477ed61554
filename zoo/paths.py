"""How the draws of a guide carry a gradient: along their path, with q held, or cut off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from pyro.poutine.messenger import Messenger
from torch import Tensor

from zoo.handlers import in_plate, is_site
from zoo.relaxed import Relaxed

Draws = Literal["path", "held", "cut", "score"]


class Cut(Messenger):
    """Draws of the data plate lose their path: log q(z) is all that is left to differentiate."""

    def __init__(self, plate: str):
        super().__init__()
        self.plate = plate

    def _pyro_post_sample(self, message: Any) -> None:
        if not is_site(message) or message["is_observed"] or not in_plate(message, self.plate):
            return
        if not isinstance(message["fn"], Relaxed):
            message["value"] = message["value"].detach()


class Paths:
    """Draws z, and what their gradient is multiplied by on its way to the parameters of q.

    The factor is said after the log weights are known and before their gradient is taken.
    """

    def __init__(self) -> None:
        self.factor: Tensor | None = None  # (S, K, B), or (C_m, …, C_1, S, K, B)
        self.least = 99  # dimensions before the event of the smallest draw
        self.given_globals = False  # whether q of the rows is given the draws of global latents

    def alias(self, site: Any) -> Tensor:
        """The draw once more; what is made of the alias has the gradient that is multiplied."""
        value = site["value"]
        if not value.requires_grad:
            return value
        lead = value.dim() - site["fn"].event_dim
        self.least = min(self.least, lead)
        again = value.view_as(value)
        again.register_hook(lambda slope: self._scaled(slope, lead))
        return again

    def put(self, factor: Tensor) -> None:
        """Says the factor; ValueError where it would not be right for every draw."""
        if self.given_globals:
            raise ValueError(
                "dreg weighs the draws of rows alone, and this guide's q(z | x, g) is given those "
                "of global latents; use the estimator pathwise"
            )
        if factor.dim() > max(3, self.least):
            raise ValueError(
                "dreg weighs each draw of z by its value of y, and the guide draws z once for all "
                "of them; use the estimator pathwise, or a guide with q(z | x, y)"
            )
        self.factor = factor

    def _scaled(self, slope: Tensor, lead: int) -> Tensor:
        factor = self.factor
        if factor is None:
            return slope
        while factor.dim() > lead:  # particles are not there where S = K = 1
            factor = factor.squeeze(0)
        return slope * factor.reshape(factor.shape + (1,) * (slope.dim() - lead))


class ManyPaths:
    """The paths of particles that were run one by one, (S, K) of them."""

    def __init__(self, grid: Sequence[Sequence[Paths]]):
        self.grid = grid

    def put(self, factor: Tensor) -> None:
        """As ``Paths.put``."""
        for s, row in enumerate(self.grid):
            for k, paths in enumerate(row):
                paths.put(factor[..., s : s + 1, k : k + 1, :])


class Memory:
    """What a guide computes of x alone, so that its density is that of its draws when asked again.

    A κ may be the end of an inner optimisation with noise of its own; it is also dear.
    """

    current: Memory | None = None

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self.again = False

    @contextmanager
    def open(self, again: bool = False) -> Any:
        """Keeps what is computed inside or, the second time, gives it back without gradient."""
        before, Memory.current = Memory.current, self
        self.again, self.place = again, 0
        try:
            yield self
        finally:
            Memory.current = before


def remembered(compute: Callable[[], Tensor]) -> Tensor:
    """``compute()``; where a guide is asked again for the density of its draws, as it was then."""
    memory = Memory.current
    if memory is None:
        return compute()
    if memory.again:
        memory.place += 1
        return memory.values[memory.place - 1].detach()
    Memory.current = None
    try:
        value = compute()
    finally:
        Memory.current = memory
    memory.values.append(value)
    return value


def lacks_path(site: Any) -> bool:
    """Whether a site is drawn, and the gradient of its draw is that of its log q."""
    infer = site["infer"] or {}
    if site["is_observed"] or "_enumerated" in infer or infer.get("exact"):
        return False
    return not site["fn"].has_rsample or bool(infer.get("score"))
