"""The two kinds of sweep of simulations: rows side by side, and one data set after the other."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from zoo.chunks import plan
from zoo.context import seeded, stream
from zoo.data import Batch, Dataset
from zoo.diagnostics._scored import Scored, at_truth, drawn, recorded
from zoo.diagnostics._simulated import Truth, simulated
from zoo.diagnostics.simulations import Simulations
from zoo.fitting import fit
from zoo.model import Model
from zoo.progress import counting

APPLIED, INFERRED, REFITTED = 4000, 300, 50  # simulations by default
CHUNK = 512  # rows drawn from the model at a time


class Pairs:
    """Truths and draws as they come in, with the settings that both kinds of sweep need."""

    def __init__(
        self, model: Model, num_draws: int, seed: int, room: int, progress: bool | None
    ) -> None:
        self.model, self.num_draws, self.seed = model, num_draws, seed
        self.room, self.progress = room, progress
        self.sites: tuple[str, ...] = ()  # whose numbers are units
        self.parts: list[tuple[Scored, Scored]] = []

    def add(self, q: Any, batch: Batch, truth: Truth, few: int) -> None:
        """The truth of a batch and S draws of q, ``few`` at a time."""
        key, device, parts = stream(self.seed, f"q {len(self.parts)}"), self.model.device, []
        with seeded(key, device):
            every = recorded(self.model, q, batch, 1, 1)
        self.sites = _of_units(truth, every)
        with seeded(key, device):
            for start in range(0, self.num_draws, few):
                size = min(few, self.num_draws - start)
                parts.append(drawn(self.model, q, batch, size, truth, self.sites))
        with seeded(key, device):  # a κ that is itself drawn comes out the same
            star = at_truth(self.model, q, batch, truth, self.sites, every)
        self.parts.append((star, Scored.joined(parts, 0)))

    def result(self, truth: Truth, rows: int, refits: int) -> Simulations:
        """All of them."""
        star, draws = (Scored.joined([pair[i] for pair in self.parts], 1) for i in range(2))
        names, discrete = [], []
        for site in self.sites:
            countable, shape = site in truth.discrete, truth.shape(site)
            alone = countable and not shape
            names += [site] if alone else [f"{site}[{i}]" for i in range(shape.numel())]
            discrete += [countable] * shape.numel()
        units, values = star.units[0], draws.units
        if not bool(values.isfinite().all()):
            raise ValueError(
                "some draws of the guide are not finite: its posterior of simulated rows has gone "
                "astray; try a smaller learning rate (refit_lr), or another family"
            )
        free = units.amax(0) - units.amin(0) > 1e-6 * units.abs().amax(0)
        for i, name in enumerate(names):
            if free[i] and not discrete[i] and bool((values[1:, :, i] == values[0, :, i]).all()):
                raise ValueError(
                    f"all draws of {name} are one: the guide is a point mass there, and no truth "
                    "could be among them; use a guide with a density"
                )
        keep = [i for i in range(len(names)) if free[i] or discrete[i]]  # no zeros of a triangle
        assert draws.log_q is not None
        return Simulations(
            names=tuple(names[i] for i in keep),
            truth=units[:, keep],
            draws=values[:, :, keep],
            log_joint_truth=star.log_joint[0],
            log_joint_draws=draws.log_joint,
            log_q_truth=None if star.log_q is None else star.log_q[0],
            log_q_draws=draws.log_q,
            log_likelihood_truth=star.log_likelihood[0],
            log_likelihood_draws=draws.log_likelihood,
            rows=rows,
            refits=refits,
            local=not truth.whole,
            seed=self.seed,
        )


def of_rows(pairs: Pairs, guide: Any, data: Dataset, count: int | None, steps: int) -> Simulations:
    """n rows, each with a posterior of its own."""
    model, table = pairs.model, not getattr(guide, "amortized", True)
    count = (INFERRED if table else APPLIED) if count is None else count
    rows, truth = simulated(model, data, torch.randint(len(data), (count,)), CHUNK)
    if table and not callable(getattr(guide, "infer", None)):
        raise ValueError(
            "the guide is not amortized and has no infer(data, steps=..., seed=...), so it has no "
            "posterior of simulated rows; write that method, or use an amortized guide"
        )
    if table:
        guide = guide.infer(rows, steps=steps, seed=stream(pairs.seed, "simulated rows"))
    elif not hasattr(guide, "amortized"):
        _check_plain(model, guide, rows.batch().rows(min(len(data), 8)))
    cut = plan(model, guide, rows, pairs.num_draws, 1, pairs.room)
    start = 0
    with counting("simulations", count, pairs.progress) as advance:
        for batch in rows.batches(cut.rows):
            pairs.add(guide, batch, truth.rows(start, start + len(batch)), pairs.num_draws)
            start += len(batch)
            advance(len(batch))
    return pairs.result(truth, 1, count if table else 0)


def of_data_sets(
    pairs: Pairs, guide: Any, data: Dataset, count: int, steps: int, lr: float
) -> Simulations:
    """n data sets of N rows, a posterior fitted to each."""
    model, size = pairs.model, len(data)
    few, truth = 0, None
    with counting("refits", count, pairs.progress) as advance:
        for turn in range(count):
            rows, truth = simulated(model, data, torch.arange(size), size)
            q = _fresh(guide, rows)
            how = {"steps": steps, "lr": lr, "seed": stream(pairs.seed, f"refit {turn}")}
            with torch.enable_grad():
                fit(
                    model,
                    q,
                    rows,
                    schedule="cosine",
                    freeze="model",
                    device=model.device.type,
                    progress=False,
                    **how,
                )
            few = few or max(1, pairs.room // (plan(model, q, rows, 1, 2, pairs.room).width * size))
            pairs.add(q, rows.batch(), truth, few)
            advance(1)
    assert truth is not None
    return pairs.result(truth, size, count)


def _of_units(truth: Truth, drawn_sites: Any) -> tuple[str, ...]:
    """The latents whose numbers are units: continuous ones first, in the model's order."""
    names = [n for n in truth.values if n in drawn_sites and (n in truth.local) != truth.whole]
    if not names:
        raise ValueError(
            "the guide draws none of the latents that could be compared with a truth "
            f"(the model has {list(truth.values)}): all of them are summed out"
        )
    return tuple(sorted(names, key=lambda name: name in truth.discrete))


def _fresh(guide: Any, rows: Dataset) -> Any:
    """A guide to be fitted to a simulated data set."""
    if callable(getattr(guide, "anew", None)):
        return guide.anew(rows)
    if isinstance(guide, nn.Module) and any(p.requires_grad for p in guide.parameters()):
        return copy.deepcopy(guide)
    raise ValueError(
        "the model has global latents, so q has to be fitted anew to each simulated data set, and "
        "this guide has no parameters to fit; write it as an nn.Module, or give it a method "
        "anew(data) that makes an untrained one"
    )


def _check_plain(model: Model, guide: Any, batch: Batch) -> None:
    """ValueError for a guide that goes by the place of a row, which simulated rows do not have."""
    moved = replace(batch, index=batch.index.flip(0))
    found = []
    try:
        for rows in (batch, moved):
            with seeded(0, model.device):
                found.append(recorded(model, guide, rows, 1, 1))
    except (IndexError, RuntimeError, KeyError, ValueError) as error:
        raise ValueError(f"the guide cannot be applied to simulated rows: {error}") from error
    one, other = found
    if any(not torch.equal(one[name]["value"], other[name]["value"]) for name in one):
        raise ValueError(
            "the guide looks at the place of a row in its data set (batch.index), which simulated "
            "rows do not have; diagnostics from simulations need a guide that reads the rows, or "
            "one with a method infer(data, steps=..., seed=...) and amortized = False"
        )
