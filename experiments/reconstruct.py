"""Rows of data beside what a trained run makes of their latents."""

from __future__ import annotations

import numpy as np
import torch

from experiments.show.pictures import image_figure, pair_figure
from experiments.trained import load_trained
from experiments.use import SITE, Side, chosen, limits_of, place_of, title_of, write
from zoo.hiding import entry_error
from zoo.imputation import column_means
from zoo.latent_space import reconstruct as reconstructions

SHOWN = 10


def reconstruct(
    run: str,
    *,
    rows: Side = "test",
    num_rows: int | None = 1000,
    num_draws: int | None = None,
    infer_steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | None = None,
) -> dict[str, np.ndarray]:
    """E[x | z] of rows, z their posterior mean, beside the rows and with the error.

    Args:
        run: the folder of a run.
        rows: test, or train for the rows that were trained on.
        num_rows: rows that are reconstructed, chosen at random.
        num_draws: draws of z that E[x | z] is averaged over; by default none: the posterior mean.
        infer_steps: steps that fit a table's row to each test row; by default those of the run.
        seed: of the choice of rows and of the draws.
        device: auto (CUDA where there is one), cpu or cuda.
        out: a folder for reconstruct.npz and reconstruct.png; the run's own by default.

    Returns:
        What ``reconstruct.npz`` holds: ``x`` and ``mean`` (N, …), and ``rows``, their places.

    Raises:
        ValueError: no run there; counts out of range.
    """
    trained = load_trained(run, device)
    place = place_of(trained, out)
    part = chosen(trained, rows, num_rows, seed, infer_steps)
    options = {"num_draws": num_draws, "seed": seed}
    mean = reconstructions(trained.model, part.guide, part.data, **options).cpu()
    x = part.data[SITE].cpu()
    seen = part.data.observed.get(SITE, torch.ones_like(x, dtype=torch.bool)).cpu()
    error = entry_error(x, mean, seen)
    flat = column_means(trained.split.train).cpu().expand(x.shape)
    print(f"{part.words}: {error}; the mean of each column gives {entry_error(x, flat, seen)}")
    title, shape = title_of(trained, f"{part.side} rows and E[x | z]"), part.data.image_shape
    if shape is not None:
        panels = {"data": x[:SHOWN], "E[x | z]": mean[:SHOWN]}
        figure = image_figure(panels, shape, title, limits_of(trained.split.train))
    else:
        pairs = {"data": x.flatten(1), "E[x | z]": mean.flatten(1)}
        figure = pair_figure(pairs, part.data.feature_names, title)
    return write(place, "reconstruct", {"x": x, "mean": mean, "rows": part.index}, figure)
