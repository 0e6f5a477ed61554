"""How the draws of a guide carry a gradient: along their path, with q held, or cut off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from zoo.context import frozen, seeded, validation
from zoo.data import Batch
from zoo.handlers import Enumerate, Record, Replay, in_plate, is_site, log_prob
from zoo.local_params import at_home
from zoo.relaxed import Relaxed

Draws = Literal["path", "held", "cut", "score"]
_pathless: WeakKeyDictionary[Any, dict[Any, bool]] = WeakKeyDictionary()
_given_globals: WeakKeyDictionary[Any, dict[Any, bool]] = WeakKeyDictionary()


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


def held(
    guide: Callable[[Batch], Any],
    model: Any,
    batch: Batch,
    drawn: Mapping[str, Any],
    memory: Memory,
) -> tuple[dict[str, Any], Paths]:
    """The sites of the same draws with the parameters of q held: log q depends on z alone.

    Args:
        guide: q.
        model: p, of whose parameters q may be made (``exact``, ``top_down``).
        batch: the rows, unscaled.
        drawn: sites of the guide's run.
        memory: of that run.

    Raises:
        ValueError: parameters that do not belong to guide or model and so cannot be held; a guide
            that is random beside its draws.
    """
    paths = Paths()
    exact = {  # whose log q is no estimate: what is given, and what is summed over
        name: site
        for name, site in drawn.items()
        if site["is_observed"] or "_enumerated" in (site["infer"] or {})
    }
    given = {
        name: {"value": paths.alias(site) if in_plate(site, model.plate) else site["value"]}
        for name, site in drawn.items()
        if name not in exact
    }
    sites = {**_again(guide, model, batch, given, memory), **exact}
    known = _given_globals.setdefault(guide, {})
    if (key := tuple(batch.values)) not in known:
        still = {name: {"value": site["value"].detach()} for name, site in given.items()}
        free = _again(guide, model, batch, still, memory)
        if moved := [n for n in given if not _same(drawn[n], free[n])]:
            raise ValueError(
                f"the guide gives the draws of {moved} another density when it is asked again, as "
                "with dropout; stl and dreg need q to be one distribution: use pathwise"
            )
        if leaks := [n for n, s in free.items() if n in given and s["held"].requires_grad]:
            raise ValueError(
                f"stl and dreg hold the parameters of q, and those of {leaks} belong neither to "
                "guide nor model; make the guide an nn.Module that has them, or use pathwise"
            )
        shared = {n for n in given if not in_plate(drawn[n], model.plate)}
        for name in shared:
            still[name]["value"].requires_grad_(still[name]["value"].is_floating_point())
        free = _again(guide, model, batch, still, memory) if shared else {}
        local = [n for n in given if n not in shared]
        known[key] = bool(free) and any(free[n]["held"].requires_grad for n in local)
    paths.given_globals = known[key]
    return sites, paths


def _again(
    guide: Any, model: Any, batch: Batch, given: Mapping[str, Any], memory: Memory
) -> dict[str, Any]:
    parts = [part for part in (guide, model) if isinstance(part, nn.Module)]
    with (
        frozen(*parts),
        memory.open(again=True),
        Record() as q,
        Enumerate(model.plate, marked_only=True),
        Replay(given),
        at_home(guide),
    ):
        guide(batch)
        for site in q.sites.values():
            site["held"] = log_prob(site)
    return q.sites


def _same(drawn: Any, again: Any) -> bool:
    """Whether a draw has the log q that it was drawn with."""
    with torch.no_grad():
        return torch.allclose(log_prob(drawn), again["held"], rtol=1e-3, atol=1e-3)


def pathless(guide: Callable[[Batch], Any], plate: str, batch: Batch) -> bool:
    """Whether a guide draws something of the rows without a path; looked at once for each guide."""
    known = _pathless.setdefault(guide, {})
    key = tuple(batch.values)
    if key not in known:
        with (
            seeded(0, batch.index.device),
            poutine.block(),
            validation(False),
            Record() as q,
            Enumerate(plate, marked_only=True),
            at_home(guide),
        ):
            guide(batch)
        known[key] = any(in_plate(site, plate) and lacks_path(site) for site in q.sites.values())
    return known[key]


def lacks_path(site: Any) -> bool:
    """Whether a site is drawn, and the gradient of its draw is that of its log q."""
    infer = site["infer"] or {}
    if site["is_observed"] or "_enumerated" in infer or infer.get("exact"):
        return False
    return not site["fn"].has_rsample or bool(infer.get("score"))
