"""Entries taken out of complete rows, and how far from the truth they were filled in."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data import Dataset

__all__ = ["REGIONS", "EntryError", "entry_error", "hide"]

REGIONS = ("random", "top", "bottom", "left", "right", "centre")


def hide(
    data: Dataset,
    region: str = "random",
    fraction: float = 0.5,
    image_shape: Sequence[int] | None = None,
    seed: int = 0,
) -> Dataset:
    """The same rows with entries of "x" missing; nothing of what is taken out stays behind.

    Entries that were missing before stay so. The rows count as other data than the complete ones: a
    table of q that was fitted to those, and has seen what is now missing, refuses them.

    Args:
        data: rows.
        region: random (each entry by itself), or a part of the image: top, bottom, left, right,
            centre.
        fraction: the part of the entries that is taken out, in (0, 1).
        image_shape: (H, W) or (C, H, W); that of the data by default.
        seed: of random entries.

    Raises:
        ValueError: an unknown region, a fraction outside (0, 1), a region of what is no image, or
            one without a pixel.

    Example:
        >>> rows = Dataset(torch.arange(12.0).reshape(3, 4), image_shape=(2, 2))
        >>> hide(rows, "top").observed["x"][0]
        tensor([False, False,  True,  True])
    """
    if region not in REGIONS:
        raise ValueError(f"region is one of {', '.join(REGIONS)}, got {region!r}")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is the part that is taken out, between 0 and 1, got {fraction}")
    batch = data.without(*data.partial).fixed().batch()
    x = batch["x"]
    if region == "random":
        generator = torch.Generator().manual_seed(seed)
        mask = torch.rand(x.shape, generator=generator) >= fraction
    else:
        shape = image_shape or data.image_shape
        if shape is None:
            raise ValueError(f"the {region} of rows that are no images; use region random")
        mask = _kept(region, fraction, shape).reshape(x.shape[1:]).expand(x.shape)
    mask = mask.to(x.device)
    if "x" in batch.observed:
        mask = mask & batch.observed["x"]
    if mask.all() or not mask.any():
        which = "no entry" if mask.all() else "every entry"
        raise ValueError(f"{region} with fraction {fraction} takes out {which}; try another")
    first = mask.to(torch.uint8).argmax(0, keepdim=True)  # the first row that has each column
    filler = torch.where(mask.any(0), x.gather(0, first)[0], x[mask][0])
    values = {**batch.values, "x": torch.where(mask, x, filler)}
    plain = Dataset(
        values,
        labels=data.labels,
        name=data.name,
        feature_names=data.feature_names,
        image_shape=data.image_shape,
    )
    mark = zlib.crc32(mask.cpu().numpy().tobytes(), plain.fingerprint)
    return plain.replaced(plain.values, {**batch.observed, "x": mask}, mark)


def _kept(region: str, fraction: float, shape: Sequence[int]) -> Tensor:
    """(C, H, W) or (H, W) bool: False in the part that is taken out."""
    height, width = shape[-2:]
    row, column = torch.arange(height)[:, None], torch.arange(width)[None]
    inner = fraction**0.5 / 2
    gone = {
        "top": (row < round(fraction * height)) & (column >= 0),
        "bottom": (row >= height - round(fraction * height)) & (column >= 0),
        "left": (column < round(fraction * width)) & (row >= 0),
        "right": (column >= width - round(fraction * width)) & (row >= 0),
        "centre": ((row + 0.5) / height - 0.5).abs().lt(inner)
        & ((column + 0.5) / width - 0.5).abs().lt(inner),
    }[region]
    return ~gone.expand(*shape)


@dataclass(frozen=True)
class EntryError:
    """How far entries are from the truth; standard errors are over rows, taken as independent.

    Attributes:
        rmse, rmse_se: the root mean square of x̂ − x over the entries, in units of x.
        wrong, wrong_se: the share of entries where [x̂ > ½] ≠ x, of zeros and ones; else None.
        count: of the entries.
    """

    rmse: float
    rmse_se: float
    wrong: float | None
    wrong_se: float | None
    count: int

    def __str__(self) -> str:
        text = f"RMSE {self.rmse:.4f} (se {self.rmse_se:.4f})"
        if self.wrong is None:
            return text
        return f"{text}, {self.wrong:.2%} wrong (se {self.wrong_se:.2%})"

    def as_dict(self) -> dict[str, float | int | None]:
        """For JSON."""
        return dict(vars(self))


def entry_error(truth: Tensor, guess: Tensor, where: Tensor | None = None) -> EntryError:
    """√(Σ (x̂ − x)² / M) over M entries, and its standard error by the delta method.

    Args:
        truth: x, (N, *event).
        guess: x̂, (N, *event).
        where: (N, *event) bool, the entries that count; all by default.

    Raises:
        ValueError: other shapes; no entry that counts.

    Example:
        >>> print(entry_error(torch.tensor([[0.0, 1.0]] * 2), torch.tensor([[0.2, 0.4], [0.1, 1]])))
        RMSE 0.3202 (se 0.1523), 25.00% wrong (se 25.00%)
    """
    where = torch.ones_like(truth, dtype=torch.bool) if where is None else where
    if not truth.shape == guess.shape == where.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (truth, guess, where))
        raise ValueError(f"truth, guess and the entries that count have one shape, got {shapes}")
    if not where.any():
        raise ValueError("there is no entry to compare")
    where, truth = where.to(guess.device), truth.to(guess.device)
    away = torch.where(where, guess - truth, 0).double()
    mse, se = _ratio(away.square(), where)
    rmse = math.sqrt(mse)
    known = truth[where]
    if not bool(((known == 0) | (known == 1)).all()):
        return EntryError(rmse, se / (2 * rmse) if rmse else 0.0, None, None, int(where.sum()))
    wrong = _ratio((((guess > 0.5) != (truth > 0.5)) & where).double(), where)
    return EntryError(rmse, se / (2 * rmse) if rmse else 0.0, *wrong, int(where.sum()))


def _ratio(terms: Tensor, where: Tensor) -> tuple[float, float]:
    """Σ terms / Σ where and its standard error, rows being independent; NaN for a single row."""
    above, below = terms.flatten(1).sum(1), where.flatten(1).sum(1).double()
    ratio = above.sum() / below.sum()
    spread = (above - ratio * below).square().sum() * len(above) / (len(above) - 1 or math.nan)
    return float(ratio), float(spread.sqrt() / below.sum())
