"""`Batch`: some rows of a data set, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from zoo._arrays import Device, moved, only_device


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Batch(Mapping[str, Tensor]):
    """B of the N rows of a data set; a mapping from names to tensors.

    Formula: sum over all rows ≈ scale · sum over the batch, with scale = N / B. Where values are
    known for some rows only, a batch has rows of one kind, labelled or unlabelled: N_kind takes
    the place of N, and the mean over all rows is Σ_kind share · mean over the rows of the kind.

    Args:
        values: name -> (B, *event), observed sites and inputs; no NaN inside.
        index: (B,) long, the rows' places in the data set.
        size: N, the number of rows that the batch stands for; of its kind, where there are two.
        observed: name -> (B, *event) bool, False where the entry is missing (`values` holds a
            filler there); only for names with missing entries.
        fingerprint: tells the data sets that rows come from apart.
        scaled: False where the rows stand for themselves, though `size` is still N.
        share: N_kind / N, the part of all rows that `size` is.

    `len(batch)` is B, while iteration runs over the names.

    >>> from zoo.data import Dataset
    >>> batch = Dataset(torch.zeros(10, 3)).batch(torch.tensor([4, 7]))
    >>> len(batch), batch.scale, list(batch), batch.unscaled().scale
    (2, 5.0, ['x'], 1.0)
    """

    values: dict[str, Tensor] = field()  # type: ignore[assignment]  # shadows Mapping.values
    index: Tensor  # (B,)
    size: int
    observed: dict[str, Tensor] = field(default_factory=dict)
    fingerprint: int = 0
    scaled: bool = True
    share: float = 1.0

    __eq__ = object.__eq__  # a Mapping would compare its tensors
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {tuple(v.shape)}" for name, v in self.values.items())
        return f"Batch({len(self)} of {self.size} rows; {shapes})"

    @property
    def scale(self) -> float:
        """N / B, or 1 for rows that stand for themselves."""
        return self.size / len(self) if self.scaled else 1.0

    @property
    def total(self) -> int:
        """N, the rows of the data set, of both kinds where there are two."""
        return round(self.size / self.share)

    def unscaled(self) -> Batch:
        """The same rows, each counted once."""
        return replace(self, scaled=False)

    def rows(self, count: int) -> Batch:
        """The first `count` rows, or all where there are fewer."""
        return replace(
            self,
            values={name: value[:count] for name, value in self.values.items()},
            index=self.index[:count],
            observed={name: mask[:count] for name, mask in self.observed.items()},
        )

    def without(self, *names: str) -> Batch:
        """The same rows with `names` dropped (those sites become latent).

        Raises: ValueError for a name that is not in the batch.
        """
        if unknown := [name for name in names if name not in self.values]:
            raise ValueError(f"cannot drop {unknown}: the batch has {list(self.values)}")
        kept = {name: v for name, v in self.values.items() if name not in names}
        observed = {name: m for name, m in self.observed.items() if name not in names}
        return replace(self, values=kept, observed=observed)

    def to(self, device: Device | torch.dtype = None, dtype: torch.dtype | None = None) -> Batch:
        """Moved to a device; `dtype` acts on floating values only. `to(torch.float64)` works."""
        return replace(
            self,
            values=moved(self.values, device, dtype),
            index=self.index.to(only_device(device)),
            observed=moved(self.observed, device),
        )
