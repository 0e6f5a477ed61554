"""What a trained run makes of a grid of points in its latent space."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from experiments.show.latent import mosaic
from experiments.show.pictures import pair_figure
from experiments.trained import load_trained
from experiments.use import SITE, limits_of, place_of, title_of, write
from zoo.latent_space import global_means
from zoo.latent_space import manifold as points


def manifold(
    run: str,
    *,
    size: int = 20,
    dims: tuple[int, ...] | None = None,
    quantiles: tuple[float, ...] = (0.05, 0.95),
    row: int = 0,
    num_samples: int = 100,
    device: str = "auto",
    out: str | None = None,
) -> dict[str, np.ndarray]:
    """E[x | z] on a grid of z: equal steps of the unit square through the inverse Gaussian cdf.

    Of several layers of latents the top one is varied, those below it follow at their means.

    Args:
        run: the folder of a run.
        size: points along each side.
        dims: the dimensions that are varied, two or one, counted from 0; the others stay at the
            mean of the prior. By default those of a latent that has no more.
        quantiles: where the grid begins and ends, two numbers inside (0, 1).
        row: the training row whose inputs (labels, exposures) all points get, if the model has
            any.
        num_samples: draws for the means of latents that all rows share, if there are any.
        device: auto (CUDA where there is one), cpu or cuda.
        out: a folder for manifold.npz and manifold.png; the run's own by default.

    Returns:
        What ``manifold.npz`` holds: ``mean``, (size², …), or (size, …) for one dimension.

    Raises:
        ValueError: no run there; a latent of more than two dimensions and no ``dims``.
    """
    if len(quantiles) != 2:
        raise ValueError(f"quantiles are two numbers, the first and the last, got {quantiles}")
    trained = load_trained(run, device)
    model, data = trained.model, trained.split.train
    if not 0 <= row < len(data):
        raise ValueError(f"row counts the {len(data)} training rows from 0, got {row}")
    place = place_of(trained, out)
    batch = data.fixed().batch(torch.tensor([row])).to(trained.device)
    inputs: dict[str, Any] = {n: batch[n][0] for n in model.inputs if n in batch.values}
    held = global_means(model, trained.guide, batch, num_samples)
    low, high = quantiles
    x = points(model, size, dims=dims, quantiles=(low, high), inputs=inputs, held=held)
    same = "".join(f", {name} that of training row {row}" for name in inputs)
    print(f"E[x | z] at {len(x)} points, u from {low:g} to {high:g}{same}")
    title, shape = title_of(trained, "E[x | z] on a grid of z"), data.image_shape
    if shape is not None:
        figure = mosaic(x, size, shape, limits_of(data), title)
    else:
        shown = {"data": data[SITE].flatten(1).cpu(), "E[x | z]": x.flatten(1).cpu()}
        figure = pair_figure(shown, data.feature_names, title)
    return write(place, "manifold", {"mean": x}, figure)
