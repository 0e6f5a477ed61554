"""The same few rows under several guides: draws of the latents, in coordinates that mean something.

Latents of a linear model are free up to a rotation; they are shown in the identified one, along the
orthogonal loadings of largest variance of the reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.judge.comparison import Comparison, guide_of
from experiments.judge.grid import Cell
from experiments.judge.restarts import rotation
from guides.guide import Guide
from zoo.context import seeded
from zoo.data import Batch, Dataset

DRAWS = 4000
SEED = 0x9077


@dataclass(frozen=True)
class Shown:
    """What the posterior panels show.

    Attributes:
        data: the data set of the rows, test where there is one.
        rows: (R,), which of them have panels.
        identified: whether the coordinates are the identified ones.
        draws: guide -> (S, R, 2) or (S, R, 1), draws of q(z) of those rows.
        cloud: (N, 2) posterior means of all rows under the reference, or None in one dimension.
    """

    data: Dataset
    rows: Tensor
    identified: bool
    draws: dict[Cell, Tensor]
    cloud: Tensor | None


def shown(comparison: Comparison, count: int = 4) -> Shown | None:
    """Draws for a handful of rows; None where the model has no continuous latents of its rows."""
    reference = comparison.reference
    chief = comparison.outcomes[reference][0]
    if not chief.guide.latents.local.dim:
        return None
    data = comparison.split.train if comparison.side == "train" else comparison.split.test
    assert data is not None
    rows = pick(data, count)
    few = data.fixed().batch(rows).unscaled()
    draws, identified = {}, True
    for cell, runs in comparison.outcomes.items():
        turn = rotation(runs[0].model, chief.model)
        identified &= turn is not None
        draws[cell] = locals_of(guide_of(runs[0], comparison.side), few, DRAWS, turn)[..., :2]
    cloud = None
    if chief.guide.latents.local.dim > 1:
        turn = rotation(chief.model, chief.model)
        guide, batches = guide_of(chief, comparison.side), data.batches(512)
        means = [locals_of(guide, b.unscaled(), 100, turn).mean(0)[:, :2] for b in batches]
        cloud = torch.cat(means)
    return Shown(data, rows, identified, draws, cloud)


def pick(data: Dataset, count: int) -> Tensor:
    """(R,): the first row of each class in turn, then the second ones; without classes the first.

    Example:
        >>> pick(Dataset(torch.zeros(5, 2), labels=torch.tensor([1, 1, 0, 1, 0])), 4)
        tensor([2, 0, 4, 1])
    """
    if data.labels is None:
        return torch.arange(min(count, len(data)))
    labels = data.labels.cpu()
    turns = [[(labels[:i] == c).sum().item(), c] for i, c in enumerate(labels.tolist())]
    return torch.tensor(sorted(range(len(turns)), key=turns.__getitem__)[:count])


def locals_of(guide: Guide, batch: Batch, num_draws: int, turn: Tensor | None) -> Tensor:
    """(S, B, d): draws of the continuous local latents, side by side, turned by R (d, d)."""
    batch = batch.to(guide.model.device)
    with seeded(SEED, guide.model.device):  # the same numbers for every guide
        samples = guide.posterior(batch, num_draws).samples
    parts = [samples[name].reshape(num_draws, len(batch), -1) for name in guide.latents.local.names]
    z = torch.cat(parts, -1)
    if turn is not None and turn.shape[0] == z.shape[-1]:
        z = z @ turn.to(z)
    return z.cpu()


def globals_of(guide: Guide, data: Dataset, num_draws: int, limit: int) -> dict[str, Tensor]:
    """name[i] -> (S,): draws of the first entries of the global latents, small sites first."""
    batch = next(data.batches(2)).to(guide.model.device)
    with seeded(SEED, guide.model.device):
        samples = guide.posterior(batch.unscaled(), num_draws).samples
    found: dict[str, Tensor] = {}
    for site in sorted(guide.latents.global_.sites, key=lambda s: s.shape.numel()):
        flat = samples[site.name].reshape(num_draws, -1).cpu()  # (S, entries)
        for i in range(min(flat.shape[1], 4)):
            name = site.name if flat.shape[1] == 1 else f"{site.name}[{i}]"
            found[name] = flat[:, i]
    return dict(list(found.items())[:limit])
