"""Draws from a fitted model beside the data that it was fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.output import make
from experiments.show.pictures import image_grid, pair_plot
from experiments.trained import load_trained
from guides.guide import Guide
from zoo import predict, prior_predictive
from zoo.context import seeded, validation
from zoo.data import Batch, Dataset
from zoo.decoding import expected
from zoo.handlers import Record, Replay
from zoo.model import Model

DRAWS = 50  # of the latents that all rows share
SITE = "x"  # what the pictures show
MOST = 10  # images in a row of a picture


def sample(
    run: str,
    *,
    num_samples: int = 500,
    num_rows: int = 64,
    num_repeats: int = 4,
    seed: int = 0,
    device: str = "auto",
    out: str | None = None,
) -> dict[str, np.ndarray]:
    """Draws from a run's model, a file of them and a picture.

    Two kinds: new datapoints from the model as it was trained (their own latents from the prior,
    latents that all rows share from the guide), and replicates of training rows, whose latents
    are from the guide's posterior given each row. Where they differ from the data, the model
    misses something.

    Args:
        run: the folder of a run.
        num_samples: new datapoints.
        num_rows: training rows that are replicated.
        num_repeats: replicates of each.
        seed: of the draws.
        device: auto (CUDA where there is one), cpu or cuda.
        out: a folder for samples.npz and samples.png; the run's own by default.

    Returns:
        What ``samples.npz`` holds: ``new.NAME`` (num_samples, …) for every site of a row,
        ``posterior.NAME`` (num_repeats, num_rows, …) for the observed ones, and ``rows``, the
        places of the rows in the training set.

    Raises:
        ValueError: no run there, or counts below 1.
    """
    if min(num_samples, num_rows, num_repeats) < 1:
        raise ValueError("num_samples, num_rows and num_repeats count from 1")
    trained = load_trained(run, device)
    spec, split, where = trained.spec, trained.split, trained.device
    model, guide, data = trained.model, trained.guide, split.train
    rows = torch.from_numpy(np.random.RandomState(seed).permutation(len(data))[:num_rows])
    batch = data.fixed().batch(rows).to(where)
    again = rows[torch.arange(num_samples) % len(rows)]  # inputs of the new datapoints
    inputs = {name: data[name][again].to(where) for name in model.inputs if name in data.names}
    with seeded(seed, where), validation(False):
        new = _new(model, guide, batch, num_samples, inputs)
        replicates = predict(model, guide, batch.unscaled(), num_repeats)
    draws = {
        **{f"new.{name}": value for name, value in new.items()},
        **{f"posterior.{name}": value for name, value in replicates.items()},
        "rows": rows,
    }
    arrays = {name: value.cpu().numpy() for name, value in draws.items()}
    place = Path(out) if out is not None else trained.path
    make(place)
    np.savez(place / "samples.npz", **arrays)
    print(f"{num_samples} new datapoints and {num_repeats} replicates of {len(rows)} rows")
    print(f"  {place / 'samples.npz'}")
    if SITE in new and SITE in replicates:
        units = split.record["transform"]
        title = f"{spec.model} on {data.name}" + ("" if units == "none" else f", x {units}")
        shown = new[SITE].cpu(), replicates[SITE].cpu()
        means = None
        if data.image_shape is not None and not guide.latents.global_.names:
            means = _means(model, new, inputs).cpu()
        picture(data, rows, *shown, place / "samples.png", title, means)
        print(f"  {place / 'samples.png'}")
    return arrays


@torch.no_grad()
def _new(
    model: Model, guide: Guide, batch: Batch, count: int, inputs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """``count`` datapoints, in up to ``DRAWS`` parts that each have shared latents of their own."""
    shared = guide.latents.global_.names
    if not shared:
        return prior_predictive(model, count, **inputs)
    rows = torch.arange(count, device=model.device)
    posterior = guide.posterior(batch, min(DRAWS, count)).samples
    parts = []
    for s, index in enumerate(rows.tensor_split(min(DRAWS, count))):
        held = {name: {"value": posterior[name][s]} for name in shared}
        values = {name: value[index] for name, value in inputs.items()}
        with Record() as record, Replay(held):
            model.run(Batch(values, index, len(index)))
        parts.append({k: v["value"] for k, v in record.sites.items() if k not in held})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@torch.no_grad()
def _means(model: Model, new: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    """E[x | z] of the first new datapoints: x without the noise of its own."""
    latents = {n: v[:MOST].to(model.device) for n, v in new.items() if n != SITE}
    index = torch.arange(len(new[SITE][:MOST]), device=model.device)
    rows = Batch({n: v[:MOST] for n, v in inputs.items()}, index, len(index))
    with seeded(0, model.device), validation(False):
        return expected(model, rows, latents, SITE)


def picture(
    data: Dataset,
    rows: Tensor,
    new: Tensor,
    replicates: Tensor,
    path: Path,
    title: str = "",
    means: Tensor | None = None,
) -> None:
    """A grid of images, or a pair plot of the columns that vary most.

    Args:
        data: the training set.
        rows: (R,), the rows that were replicated.
        new: (M, D), draws from the model.
        replicates: (S, R, D), draws given the rows.
        path: of the picture.
        title: what it shows.
        means: (M, D), E[x | z] of the first new draws, for images.
    """
    given = data.fixed()[SITE][rows].cpu()
    if data.image_shape is not None:
        count = min(MOST, len(rows), len(new))
        panels: Mapping[str, Tensor] = {
            "data": given[:count],
            **{f"replicate {s + 1}": replicates[s, :count] for s in range(len(replicates))},
            "new": new[:count],
            **({} if means is None else {"E[x | z] of new": means[:count]}),
        }
        image_grid(panels, data.image_shape, path, title)
    else:
        everything = {"data": data[SITE].cpu(), "new": new, "replicates": replicates.flatten(0, 1)}
        flat = {name: value.reshape(len(value), -1) for name, value in everything.items()}
        pair_plot(flat, data.feature_names, path, title)
