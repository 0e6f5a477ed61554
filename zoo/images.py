"""Images: held as bytes on the device, decoded and binarized there, batch by batch."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from zoo._arrays import Device, as_tensor, row_numbers
from zoo.batch import Batch
from zoo.data import Dataset

__all__ = ["BINARIZATIONS", "Binarization", "Images", "as_image_rows"]

Binarization = Literal["static", "dynamic", "none"]
BINARIZATIONS = ("static", "dynamic", "none")
LOWEST, HIGHEST = -(2**63), 2**63 - 1
CHUNK = 512  # rows that the evaluation's draw takes at a time; the draw does not depend on it


class Images(Dataset):
    """N images, resident as they come (bytes take a quarter of the memory) and served in [0, 1].

    Formula: grey x = k / white; binarized b ~ Bernoulli(x), drawn as b = [u + ½ < 2¹⁶ x] with u
    uniform on 0 … 2¹⁶ − 1, so that 0 and 1 stay what they are and any other probability is right
    to 2⁻¹⁷.

    There are two views of the rows. The *training view*, ``batch(index)``, is binarized anew at
    every visit when the binarization is dynamic, by the generator of the device where the images
    live. The *evaluation view*, ``batches(size)`` and ``fixed()``, is one seeded draw, the same for
    every call, chunk size, device and process. Otherwise the two views are one.

    Args:
        values: (N, D), (N, H, W) or (N, C, H, W), taken as the site "x", or name -> array with
            such an "x". Bytes, integers 0 … 255 and booleans are held as bytes, floats as floats.
        white: what counts as 1; 255 for bytes. By default 255 for integers, 1 for the others.
        binarization: ``static``: one draw, here and now; ``dynamic``: one at every visit; ``none``.
        seed: of the static draw, or of the evaluation view.
        more: as for `Dataset`.

    Raises: ValueError for a binarization of values outside [0, 1], and as `Dataset`.

    >>> data = Images(np.full((4, 2, 2), 51, np.uint8), binarization="dynamic", name="dusk")
    >>> print(data.describe())
    dusk: 4 rows; x (4,) float32; images 2×2; dynamic binarization, seed 0; cpu
    >>> data["x"][0].tolist()
    [0.2, 0.2, 0.2, 0.2]
    >>> data.fixed()["x"].equal(next(data.batches())["x"])
    True

    Reference: Importance Weighted Autoencoders (Burda, Grosse and Salakhutdinov, 2016), for dynamic
    binarization; On the Quantitative Analysis of Deep Belief Networks (Salakhutdinov and Murray,
    2008), for a static one.
    """

    def __init__(
        self,
        values: Tensor | np.ndarray | Mapping[str, Any],
        *,
        white: float | None = None,
        binarization: Binarization = "none",
        seed: int = 0,
        **more: Any,
    ) -> None:
        if binarization not in BINARIZATIONS:
            raise ValueError(f"binarization is static, dynamic or none, got {binarization!r}")
        given = dict(values) if isinstance(values, Mapping) else {"x": values}
        x, shape = as_image_rows(given["x"])
        whole = not ("float" in str(x.dtype) or "bool" in str(x.dtype))
        self.white = float((255 if whole else 1) if white is None else white)
        self._dtype = torch.get_default_dtype()
        self._drawn: Tensor | None = None  # (N, D) bytes 0 and 1: the evaluation view, if dynamic
        super().__init__({**given, "x": x}, **{"image_shape": shape, **more})
        binary = self.white == 1 and not self._values["x"].is_floating_point()
        self.binarization: Binarization = binarization
        self.seed = (
            None if binarization == "none" or (binary and binarization == "static") else seed
        )
        if self.seed is None:
            return
        self._in_unit_interval()
        bits = _drawn(self._values["x"], self.white, seed)
        if binarization == "dynamic":
            self._drawn = bits
        else:
            self._values["x"], self.white = bits, 1.0

    @staticmethod
    def _held(name: str, value: Any) -> Tensor:
        if name != "x" or "float" in str(getattr(value, "dtype", "float")):
            return as_tensor(name, value)
        x = torch.from_numpy(np.array(value, order="C")) if isinstance(value, np.ndarray) else value
        if x.dtype not in (torch.uint8, torch.bool) and (x.min() < 0 or x.max() > 255):
            raise ValueError(f"whole-numbered pixels go from 0 to 255, got {x.min()} to {x.max()}")
        return x.view(torch.uint8) if x.dtype == torch.bool else x.detach().to(torch.uint8)

    def _in_unit_interval(self) -> None:
        low, high = (float(self._values["x"].amin()), float(self._values["x"].amax()))
        if low < 0 or high > self.white:
            raise ValueError(
                f"{self.name}: binarization takes values for probabilities, so they lie in [0, 1], "
                f"got {low / self.white:g} to {high / self.white:g}; scale the data, leave "
                "standardize out, or use binarization none"
            )

    @property
    def dynamic(self) -> bool:
        return self._drawn is not None

    @property
    def values(self) -> dict[str, Tensor]:
        """name -> (N, *event); "x" in [0, 1], grey where the binarization is dynamic."""
        return {**super().values, "x": self._decoded(self._values["x"])}

    def __getitem__(self, name: str) -> Tensor:
        """All rows of one name; "x" is the grey levels where the binarization is dynamic."""
        if name in self._values and name != "x":
            return self._values[name]
        return super().__getitem__(name)

    def _type_of(self, name: str) -> torch.dtype:
        return self._dtype if name == "x" else super()._type_of(name)

    def _mark(self) -> str:
        return f" dynamic {self.seed}" if self.dynamic else ""

    def describe(self) -> str:
        """As `Dataset.describe`, with the binarization."""
        line, _, device = super().describe().rpartition("; ")
        seed = "" if self.seed is None else f", seed {self.seed}"
        how = "" if self.binarization == "none" else f"; {self.binarization} binarization{seed}"
        return f"{line}{how}; {device}"

    def _decoded(self, held: Tensor) -> Tensor:
        """Pixels as held -> values in [0, 1], of the data's floating type."""
        x = held.to(self._dtype)
        return x if self.white == 1 else x / self.white

    def _rows_of(self, rows: Tensor) -> dict[str, Tensor]:
        held = super()._rows_of(rows)
        return {**held, "x": self._decoded(held["x"])}

    def _taken(self, index: Tensor | None = None) -> Batch:
        rows = super()._taken(index)
        held = rows.values["x"]
        x = _fresh(held, self.white).to(self._dtype) if self.dynamic else self._decoded(held)
        return replace(rows, values={**rows.values, "x": x})

    def fixed(self) -> Self:
        """The evaluation view as a data set: the same rows, binarized once, for good."""
        if self._drawn is None:
            return self
        held = {**self._values, "x": self._drawn}
        return self._with(_values=held, _drawn=None, white=1.0, fingerprint=self.fingerprint)

    def to(self, device: Device | torch.dtype = None, dtype: torch.dtype | None = None) -> Self:
        dtype = device if isinstance(device, torch.dtype) else dtype
        place = None if isinstance(device, torch.dtype) else device
        drawn = None if self._drawn is None else self._drawn.to(place)
        return super().to(device, dtype)._same(_drawn=drawn, _dtype=dtype or self._dtype)

    def subset(self, index: Any) -> Dataset:
        part = super().subset(index)
        if self._drawn is None:
            return part
        rows = row_numbers(index, len(self)).to(self.device)
        return part._with(_drawn=self._drawn[rows])

    def with_values(self, **values: Tensor | np.ndarray) -> Dataset:
        if "x" in values:
            return super().with_values(**values)
        more = Dataset({"x": self._values["x"][:, 0], **values}, name=self.name)
        known = {key: value for key, value in self._known.items() if key not in values}
        held = {**self._values, **more._values, "x": self._values["x"]}
        return self._with(_values=held, _known=known)

    def without(self, *names: str) -> Self:
        if "x" in names:
            raise ValueError(f"{self.name} are images, so x cannot be dropped")
        return super().without(*names)


def as_image_rows(x: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Images as rows (N, D), and their shape (H, W) or (C, H, W); None for rows that are no images.

    Colours that come last, (N, H, W, 3) or (N, H, W, 4), are put first.

    >>> as_image_rows(np.zeros((5, 8, 8, 3)))[1]
    (3, 8, 8)
    """
    if getattr(x, "ndim", 0) < 3:
        return x, None
    if x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x = x.permute(0, 3, 1, 2) if isinstance(x, Tensor) else x.transpose(0, 3, 1, 2)
    shape = tuple(int(size) for size in x.shape[1:])
    return x.reshape(len(x), math.prod(shape)), shape


def _lit(pixels: Tensor, white: float, noise: Tensor) -> Tensor:
    """b = [u + ½ < 2¹⁶ pixels / white] as floats, with u − 2¹⁵ given as `noise`, int16."""
    level = (pixels * (65536 / white)).sub_(32768.5)
    return torch.gt(level, noise.to(level.dtype), out=level)


def _fresh(pixels: Tensor, white: float) -> Tensor:
    """A Bernoulli draw of every pixel, by the generator of the device. Four pixels share one random
    number of 64 bits, which costs a fourth of `torch.bernoulli`."""
    count = pixels.numel()
    shape = (-(-count // 4),)
    noise = torch.randint(LOWEST, HIGHEST, shape, dtype=torch.int64, device=pixels.device)
    noise = (noise ^ LOWEST).view(torch.int16)[:count]
    return _lit(pixels, white, noise.view(pixels.shape))


def _drawn(pixels: Tensor, white: float, seed: int) -> Tensor:
    """The draw (N, D) of a seed, as bytes, on every machine the same: raw bits of PCG64."""
    words = [seed % 2**64, zlib.crc32(b"binarization")]
    generator = np.random.PCG64(np.random.SeedSequence(words))
    width = pixels.shape[1:].numel()
    parts = []
    for rows in pixels.cpu().split(CHUNK):
        raw = generator.random_raw((len(rows), -(-width // 4))).astype("<u8", copy=False)
        noise = torch.from_numpy(raw.view(np.int16)[:, :width].reshape(rows.shape))
        parts.append(_lit(rows, white, noise).to(torch.uint8))
    return torch.cat(parts).to(pixels.device)
