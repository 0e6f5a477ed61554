"""Rows made again in every class by a trained run, in their own style."""

from __future__ import annotations

import numpy as np
import torch

from experiments.judge.classified import class_names
from experiments.judge.labels import predictions
from experiments.show.styles import analogies_figure
from experiments.trained import load_trained
from experiments.use import SITE, Side, chosen, limits_of, place_of, title_of, write
from zoo.context import seeded, stream
from zoo.styles import analogies as in_every_class
from zoo.styles import parts_of


def analogies(
    run: str,
    *,
    rows: Side = "test",
    num_rows: int = 10,
    latent: str | None = None,
    num_draws: int | None = None,
    num_samples: int = 100,
    infer_steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | None = None,
) -> dict[str, np.ndarray]:
    """E[x | y = c, z] for every class c, in the style z of rows: z = E[z | x, y*].

    y* is the class that q(y | x) takes a row for, framed in the picture; the style are the latents
    that do not depend on the class (z of m2, z2 of m1m2, whose z1 follows at its mean).

    Args:
        run: the folder of a run of a model with one discrete latent, on images.
        rows: test, or train for the rows that were trained on.
        num_rows: how many, chosen at random.
        latent: the one latent that is taken from the row, by name; by default all of the style.
        num_draws: draws of z that E[x | y, z] is averaged over; by default none: the mean of z.
        num_samples: draws for means of q that are not known.
        infer_steps: steps that fit a table's row to each test row; by default those of the run.
        seed: of the choice of rows and of the draws.
        device: auto (CUDA where there is one), cpu or cuda.
        out: a folder for analogies.npz and analogies.png; the run's own by default.

    Returns:
        What ``analogies.npz`` holds: ``x`` (N, …), ``mean`` (N, C, …), ``guess`` (N,) the classes
        y*, and ``rows``, the places of the rows.

    Raises:
        ValueError: no run there; data that are no images; a model without classes, or all of whose
            latents depend on the class; counts out of range.

    Reference: Kingma, Rezende, Mohamed and Welling, "Semi-supervised Learning with Deep Generative
    Models", 2014.
    """
    trained = load_trained(run, device)
    shape = trained.split.train.image_shape
    if shape is None:
        raise ValueError(
            f"analogies are a picture of images, and the rows of {trained.split.train.name} are "
            "none; zoo.styles.analogies(model, guide, batch) gives the numbers"
        )
    model, head = trained.model, next(trained.split.train.batches(1)).to(trained.device)
    parts = parts_of(model, head, SITE)
    style = parts.chosen(latent)
    place = place_of(trained, out)
    part = chosen(trained, rows, num_rows, seed, infer_steps)
    with seeded(stream(seed, "classify"), trained.device):
        guess = predictions(part.guide, part.data).argmax(-1)
    batch = part.data.batch(torch.arange(len(part.data)))
    options = {"num_draws": num_draws, "num_samples": num_samples, "seed": seed}
    mean = in_every_class(model, part.guide, batch, y=guess, latent=latent, **options).cpu()
    x = part.data[SITE].cpu()
    z, y = ", ".join(style), parts.label
    print(f"{part.words} in {parts.count} classes {y}, in their own {z}; framed: argmax q({y} | x)")
    if part.data.labels is not None:
        wrong = int((part.data.labels.cpu() != guess).sum())
        print(f"{wrong} of them are taken for another class than their label")
    title = title_of(trained, f"E[x | {y}, {z}] in every class, {z} that of the row")
    names, limits = class_names(trained, parts.count), limits_of(trained.split.train)
    figure = analogies_figure(x.flatten(1), mean.flatten(2), guess, names, shape, limits, title)
    values = {"x": x, "mean": mean, "guess": guess, "rows": part.index}
    return write(place, "analogies", values, figure)
