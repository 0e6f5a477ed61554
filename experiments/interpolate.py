"""The way from one row to another through the latent space of a trained run."""

from __future__ import annotations

import numpy as np
import torch

from experiments.show.latent import lines
from experiments.show.pictures import image_figure
from experiments.trained import load_trained
from experiments.use import SITE, Side, chosen, limits_of, place_of, title_of, write
from zoo.latent_space import interpolate as between


def interpolate(
    run: str,
    *,
    num_pairs: int = 6,
    steps: int = 10,
    spherical: bool = False,
    rows: Side = "test",
    infer_steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | None = None,
) -> dict[str, np.ndarray]:
    """E[x | z] on the line between the posterior means of two rows, for some pairs of rows.

    Args:
        run: the folder of a run.
        num_pairs: pairs of rows, chosen at random.
        steps: points on the way, both ends with them.
        spherical: along a great circle about the origin in place of the line.
        rows: test, or train for the rows that were trained on.
        infer_steps: steps that fit a table's row to each test row; by default those of the run.
        seed: of the choice of rows.
        device: auto (CUDA where there is one), cpu or cuda.
        out: a folder for interpolate.npz and interpolate.png; the run's own by default.

    Returns:
        What ``interpolate.npz`` holds: ``mean`` (num_pairs, steps, …), ``a`` and ``b``, the rows
        themselves, and ``rows`` (2, num_pairs), their places.

    Raises:
        ValueError: no run there; fewer than two rows; no continuous latents; counts out of range.
    """
    if num_pairs < 1:
        raise ValueError(f"num_pairs counts from 1, got {num_pairs}")
    trained = load_trained(run, device)
    place = place_of(trained, out)
    part = chosen(trained, rows, 2 * num_pairs, seed, infer_steps)
    pairs = len(part.data) // 2
    if pairs < 1:
        raise ValueError("a way between rows takes two rows, and there is one")
    mixed = torch.from_numpy(np.random.RandomState(seed % 2**32).permutation(2 * pairs))
    a, b = (part.data.only(index) for index in mixed.view(2, pairs))
    mean = between(trained.model, part.guide, a, b, steps=steps, spherical=spherical)
    how = "great circles" if spherical else "lines"
    title = title_of(trained, f"E[x | z] on {how} between {part.side} rows")
    values = {"mean": mean, "a": a[SITE], "b": b[SITE], "rows": part.index[mixed.view(2, pairs)]}
    print(f"{pairs} {how} of {steps} points between the posterior means of {part.side} rows")
    if (shape := a.image_shape) is not None:
        first, last = (end[SITE].unsqueeze(1).cpu() for end in (a, b))
        whole = torch.cat([first, mean.cpu(), last], 1)  # the rows themselves at both ends
        panels = {f"pair {i + 1}": path for i, path in enumerate(whole)}
        figure = image_figure(panels, shape, title, limits_of(trained.split.train))
    else:
        figure = lines(mean.flatten(2), a.feature_names, title)
    return write(place, "interpolate", values, figure)
