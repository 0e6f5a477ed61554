"""Every class of a trained run in many styles."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from experiments.judge.classified import class_names
from experiments.show.styles import styles_figure
from experiments.trained import load_trained
from experiments.use import SITE, limits_of, place_of, title_of, write
from zoo.latent_space import global_means
from zoo.styles import parts_of
from zoo.styles import styles as in_many_styles


def styles(
    run: str,
    *,
    size: int = 12,
    classes: tuple[int, ...] | None = None,
    latent: str | None = None,
    dims: tuple[int, ...] | None = None,
    quantiles: tuple[float, ...] = (0.05, 0.95),
    row: int = 0,
    num_samples: int = 100,
    device: str = "auto",
    out: str | None = None,
) -> dict[str, np.ndarray]:
    """E[x | y = c, z] on a grid of z, a panel for every class c.

    The grid is that of zoo manifold: equal steps of the unit square through the inverse
    Gaussian cdf. z is the style, a latent that does not depend on the class (z of m2, z2 of m1m2,
    whose z1 follows at its mean).

    Args:
        run: the folder of a run of a model with one discrete latent, on images.
        size: points along each side.
        classes: which, counted from 0; by default all.
        latent: the one that is varied, by name; by default the first of the style.
        dims: the dimensions that are varied, two or one, counted from 0; the others stay at the
            mean of the prior. By default those of a latent that has no more.
        quantiles: where the grid begins and ends, two numbers inside (0, 1).
        row: the training row whose inputs (exposures) all points get, if the model has any.
        num_samples: draws for the means of latents that all rows share, if there are any.
        device: auto (CUDA where there is one), cpu or cuda.
        out: a folder for styles.npz and styles.png; the run's own by default.

    Returns:
        What ``styles.npz`` holds: ``mean`` (C, size, size, …), (C, 1, size, …) for one dimension,
        and ``classes`` (C,).

    Raises:
        ValueError: no run there; data that are no images; a model without classes, or all of whose
            latents depend on the class; a latent of more than two dimensions and no ``dims``.

    Reference: Kingma, Rezende, Mohamed and Welling, "Semi-supervised Learning with Deep Generative
    Models", 2014.
    """
    if len(quantiles) != 2:
        raise ValueError(f"quantiles are two numbers, the first and the last, got {quantiles}")
    trained = load_trained(run, device)
    model, data = trained.model, trained.split.train
    if data.image_shape is None:
        raise ValueError(
            f"styles are a picture of images, and the rows of {data.name} are none; "
            "zoo.styles.styles(model) gives the numbers"
        )
    if not 0 <= row < len(data):
        raise ValueError(f"row counts the {len(data)} training rows from 0, got {row}")
    batch = data.fixed().batch(torch.tensor([row])).to(trained.device)
    parts = parts_of(model, batch, SITE)
    name = next(iter(parts.chosen(latent)))
    inputs: dict[str, Any] = {n: batch[n][0] for n in model.inputs if n in batch.values}
    held = global_means(model, trained.guide, batch, num_samples)
    low, high = quantiles
    options: dict[str, Any] = {"dims": dims, "quantiles": (low, high), "inputs": inputs}
    every = list(range(parts.count)) if classes is None else list(classes)
    mean = in_many_styles(model, size, classes=every, latent=latent, held=held, **options).cpu()
    place = place_of(trained, out)
    points, y = mean.shape[1] * mean.shape[2], parts.label
    print(
        f"E[x | {y}, {name}] of {len(every)} classes at {points} points, u from {low:g} to {high:g}"
    )
    names = class_names(trained, parts.count)
    words = [f"{y} = {names[c]}" for c in every]
    title = title_of(trained, f"E[x | {y}, {name}] on a grid of {name}")
    limits = limits_of(data)
    figure = styles_figure(mean.flatten(3), words, data.image_shape, limits, title)
    return write(place, "styles", {"mean": mean, "classes": torch.tensor(every)}, figure)
