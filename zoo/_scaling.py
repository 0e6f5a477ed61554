"""From what a source holds to a data set: scaled, standardised or binarized."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo._readers import Raw
from zoo.data import Dataset
from zoo.images import Binarization, Images


def scaled(
    raw: Raw,
    name: str,
    standardize: bool | Literal["train"] | None,
    split: Callable[[int], tuple[dict[str, np.ndarray], str]],
    missing: bool,
    binarization: Binarization,
    seed: int,
) -> tuple[Dataset, dict[str, Any]]:
    """All rows as they are served, and what the record says about it.

    Raises: ValueError for values that are no probabilities where they are to be binarized.
    """
    about: dict[str, Any] = {
        "labels": raw.labels,
        "name": name,
        "feature_names": raw.feature_names,
        "image_shape": raw.image_shape,
    }
    x, how = raw.values["x"], "none"
    kind = str(x.dtype).removeprefix("torch.")
    mean, scale = torch.zeros(()), torch.ones(())
    if raw.image_shape is not None and kind in ("uint8", "bool") and standardize is None:
        if kind == "uint8" and x.max() > 1:
            scale, how = torch.tensor(255.0), "divided by 255"
        white = scale.item()
        data = Images(raw.values, white=white, binarization=binarization, seed=seed, **about)
    else:
        values = {key: _double(v) if key == "x" else v for key, v in raw.values.items()}
        data = Dataset(values, missing=missing, **about)
        if standardize is None and raw.divisor is None:
            standardize = raw.continuous and binarization == "none"
        if standardize:
            train = standardize == "train"
            rows = data.subset(split(len(data))[0]["train"]) if train else data
            mean, scale = _moments(rows["x"], rows.observed.get("x"))
            which = "training" if train else "all"
            how = f"standardised by mean and population sd of {which} rows"
        elif standardize is None and raw.divisor is not None:
            scale, how = torch.tensor(raw.divisor), f"divided by {raw.divisor:g}"
        data = data.with_values(x=(data["x"] - mean) / scale).to(dtype=torch.get_default_dtype())
        if binarization != "none":
            masks = data.observed
            data = Images(data.values, binarization=binarization, seed=seed, **about)
            data = data._with(_observed=masks)
    drawn = data.seed if isinstance(data, Images) else None
    if drawn is not None:
        how = ("" if how == "none" else f"{how}, ") + f"{binarization} binarization, seed {drawn}"
    record = {
        "standardize": standardize,
        "transform": how,
        "mean": mean.tolist(),
        "scale": scale.tolist(),
        "binarization": binarization,
        "binarization_seed": drawn,
    }
    return data, record


def _double(x: Any) -> Any:
    """The site "x" in double precision, so that scaling rounds once; other types are left."""
    if isinstance(x, np.ndarray) and x.dtype.kind in "biuf":
        x = torch.from_numpy(x.astype(np.float64))
    return x.double() if isinstance(x, Tensor) and not x.is_complex() else x


def _moments(x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and population sd (*event) over the observed rows of x (n, *event); a constant column
    has its value and 1."""
    mask = torch.ones_like(x, dtype=torch.bool) if observed is None else observed
    count = mask.sum(0).clamp(min=1)
    low = x.masked_fill(~mask, torch.inf).amin(0)
    constant = low >= x.masked_fill(~mask, -torch.inf).amax(0)
    mean = (x * mask).sum(0) / count
    sd = (((x - mean) ** 2 * mask).sum(0) / count).sqrt()
    mean = torch.where(constant & mask.any(0), low, mean)
    return mean, torch.where(constant, 1.0, sd)
