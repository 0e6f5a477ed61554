"""A guide asked again for the density of its draws, and what is found out about it, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from pyro import poutine
from torch import nn

from zoo.context import frozen, seeded, validation
from zoo.data import Batch
from zoo.handlers import Enumerate, Record, Replay, in_plate, log_prob
from zoo.local_params import at_home
from zoo.particles import drawn
from zoo.paths import Memory, Paths, lacks_path

Known = WeakKeyDictionary[Any, dict[Any, bool]]
_pathless: Known = WeakKeyDictionary()
_given_globals: Known = WeakKeyDictionary()
_checked: Known = WeakKeyDictionary()


def held(
    guide: Callable[[Batch], Any],
    model: Any,
    batch: Batch,
    sites: Mapping[str, Any],
    memory: Memory,
) -> tuple[dict[str, Any], Paths]:
    """The sites of the same draws with the parameters of q held: log q depends on z alone.

    Args:
        guide: q.
        model: p, of whose parameters q may be made (``exact``, ``top_down``).
        batch: the rows, unscaled.
        sites: of the guide's run.
        memory: of that run.

    Raises:
        ValueError: parameters that do not belong to guide or model and so cannot be held; a guide
            that is random beside its draws.
    """
    paths = Paths()
    free = drawn(sites)
    given = {
        name: {"value": paths.alias(site) if in_plate(site, model.plate) else site["value"]}
        for name, site in free.items()
    }
    # What is given, and what is summed over, has a log q that is no estimate.
    exact = {name: site for name, site in sites.items() if name not in free}
    found = {**_again(guide, model, batch, given, memory), **exact}
    if (key := tuple(batch.values)) not in (known := _checked.setdefault(guide, {})):
        _check(guide, model, batch, free, memory)
        known[key] = True
    paths.given_globals = given_globals(guide, model, batch)
    return found, paths


def _check(guide: Any, model: Any, batch: Batch, free: Mapping[str, Any], memory: Memory) -> None:
    """Refuses a guide whose log q is another when it is asked again, or cannot be held."""
    still = {name: {"value": site["value"].detach()} for name, site in free.items()}
    found = _again(guide, model, batch, still, memory)
    if moved := [n for n in free if not _same(free[n], found[n])]:
        raise ValueError(
            f"the guide gives the draws of {moved} another density when it is asked again, as "
            "with dropout; stl and dreg need q to be one distribution: use pathwise"
        )
    if leaks := [n for n in free if found[n]["held"].requires_grad]:
        raise ValueError(
            f"stl and dreg hold the parameters of q, and those of {leaks} belong neither to "
            "guide nor model; make the guide an nn.Module that has them, or use pathwise"
        )


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


def _same(site: Any, again: Any) -> bool:
    """Whether a draw has the log q that it was drawn with."""
    with torch.no_grad():
        return torch.allclose(log_prob(site), again["held"], rtol=1e-3, atol=1e-3)


def pathless(guide: Callable[[Batch], Any], plate: str, batch: Batch) -> bool:
    """Whether a guide draws something of the rows without a path; looked at once for each guide."""
    known, key = _pathless.setdefault(guide, {}), tuple(batch.values)
    if key not in known:
        sites = _run(guide, plate, batch, Memory())
        known[key] = any(in_plate(site, plate) and lacks_path(site) for site in sites.values())
    return known[key]


def given_globals(guide: Callable[[Batch], Any], model: Any, batch: Batch) -> bool:
    """Whether q of the rows is given the draws of global latents; looked at once for each guide."""
    known, key = _given_globals.setdefault(guide, {}), tuple(batch.values)
    if key not in known:
        plate, memory = model.plate, Memory()
        free = drawn(_run(guide, plate, batch, memory))
        shared = [n for n, s in free.items() if not in_plate(s, plate)]
        given = {n: {"value": s["value"].detach()} for n, s in free.items()}
        for name in shared:
            given[name]["value"].requires_grad_()
        found: dict[str, Any] = {}
        if shared:
            with seeded(0, batch.index.device), poutine.block(), torch.enable_grad():
                found = _again(guide, model, batch, given, memory)
        rows = [n for n in given if n not in shared]
        known[key] = any(found[n]["held"].requires_grad for n in rows if n in found)
    return known[key]


def _run(guide: Any, plate: str, batch: Batch, memory: Memory) -> dict[str, Any]:
    """The sites of one run apart from everything else, gradients being taken."""
    with (
        seeded(0, batch.index.device),
        poutine.block(),
        validation(False),
        torch.enable_grad(),
        memory.open(),
        Record() as q,
        Enumerate(plate, marked_only=True),
        at_home(guide),
    ):
        guide(batch)
    return q.sites
