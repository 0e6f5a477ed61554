"""Missing entries filled in by a trained run, against what they were."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from experiments.show.pictures import image_figure, pair_figure
from experiments.trained import load_trained
from experiments.use import SITE, Side, chosen, fitted, limits_of, place_of, title_of, write
from zoo.hiding import entry_error, hide
from zoo.imputation import column_means
from zoo.imputation import impute as filled_in

SHOWN = 10
FEW = 10  # effective draws, below which the importance weights are not to be trusted
METHODS = {"importance": "importance", "pseudo_gibbs": "pseudo-Gibbs"}


def impute(
    run: str,
    *,
    method: Literal["both", "importance", "pseudo_gibbs"] = "both",
    region: Literal["random", "top", "bottom", "left", "right", "centre"] = "random",
    fraction: float = 0.5,
    num_particles: int = 1000,
    num_samples: int = 10,
    burn_in: int = 50,
    rows: Side = "test",
    num_rows: int | None = 100,
    infer_steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | None = None,
) -> dict[str, np.ndarray]:
    """Hides entries of rows, fills them in, and says how far from the truth, by method.

    Importance resampling is right as K grows, whatever q is; pseudo-Gibbs only where q is the
    posterior. The baseline is the mean of each column of the training rows.

    Args:
        run: the folder of a run.
        method: importance, pseudo_gibbs or both.
        region: what is hidden: each entry by chance, or a part of the image.
        fraction: how much of a row is hidden.
        num_particles: K, proposals of each row, or sweeps.
        num_samples: draws of each row's missing entries that are kept.
        burn_in: sweeps of pseudo-Gibbs before the first one that counts.
        rows: test, or train for the rows that were trained on.
        num_rows: rows, chosen at random.
        infer_steps: steps that fit a table's row to what is left of each row; by default those of
            the run.
        seed: of the choice of rows, of what is hidden and of the draws.
        device: auto (CUDA where there is one), cpu or cuda.
        out: a folder for impute.npz and impute.png; the run's own by default.

    Returns:
        What ``impute.npz`` holds: ``x`` (N, …), ``observed`` (N, …), ``rows``, and by method
        ``METHOD.mean`` (N, …), ``METHOD.samples`` (num_samples, N, …).

    Raises:
        ValueError: no run there; a region of what is no image; entries that are not independent
            given z; counts out of range.
    """
    trained = load_trained(run, device)
    place = place_of(trained, out)
    part = chosen(trained, rows, num_rows, seed, infer_steps, infer=False)
    holes = hide(part.data, region, fraction, seed=seed)
    guide = fitted(trained, trained.guide, holes, infer_steps)
    x, mask = part.data[SITE].cpu(), holes.observed[SITE].cpu()
    known = part.data.observed.get(SITE, torch.ones_like(mask)).cpu()
    hidden, fill = known & ~mask, column_means(trained.split.train)
    where = "each by chance" if region == "random" else f"the {region}"
    print(f"{part.words}, {float((~mask).float().mean()):.0%} of the entries missing ({where})")
    values = {"x": x, "observed": mask, "rows": part.index}
    flat = torch.where(mask, x, fill.cpu().to(x.dtype))
    _line("column means", entry_error(x, flat, hidden))
    means, draws, few = {}, {}, False
    for name in METHODS if method == "both" else [method]:
        counts = {"num_particles": num_particles, "num_samples": num_samples, "burn_in": burn_in}
        options: dict[str, Any] = {"method": name, "fill": fill, "seed": seed, **counts}
        found = filled_in(trained.model, guide, holes, **options)
        means[METHODS[name]], draws[METHODS[name]] = found.mean.cpu(), found.samples.cpu()
        values |= {f"{name}.mean": found.mean, f"{name}.samples": found.samples}
        note = ""
        if found.ess is not None:
            values["ess"] = found.ess
            effective = float(found.ess.median())
            note = f"; {effective:.1f} effective of {num_particles} draws (median)"
            few = effective < FEW
        _line(METHODS[name], entry_error(x, found.mean.cpu(), hidden), note)
    if few:
        print("  importance: too few draws for this q; more --num-particles brings it nearer")
    title, shape = title_of(trained, f"{part.side} rows, {region} missing"), part.data.image_shape
    if shape is not None:
        panels = {"data": x, "observed": torch.where(mask, x.float(), torch.nan), **means}
        for name, some in draws.items():
            panels |= {f"{name}, draw {s + 1}": value for s, value in enumerate(some[:2])}
        shown = {name: value[:SHOWN].float() for name, value in panels.items()}
        figure = image_figure(shown, shape, title, limits_of(trained.split.train))
    else:
        every = {"data": x, **{f"{name}, draw": some[0] for name, some in draws.items()}}
        flatter = {name: value.flatten(1) for name, value in every.items()}
        figure = pair_figure(flatter, part.data.feature_names, title)
    return write(place, "impute", values, figure)


def _line(name: str, error: Any, note: str = "") -> None:
    print(f"  {name:<14}{error}{note}")
