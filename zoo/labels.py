"""Labelled and unlabelled rows: values that are known for some rows of a data set only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from zoo._arrays import as_tensor, clean, row_numbers, whole_batch
from zoo.batch import Batch

if TYPE_CHECKING:
    from zoo.data import Dataset


class Rows(ABC):
    """N rows, of which the first M may have values that the others lack, and batches of them.

    Formula: (1/N) Σ over all rows f(row) = Σ_kind (N_kind/N) · mean over the rows of the kind, and
    a batch estimates the mean over the rows of one kind, labelled or unlabelled.
    """

    name: str
    labels: Tensor | None
    _values: dict[str, Tensor]
    _observed: dict[str, Tensor]
    _known: dict[str, Tensor]  # name -> (M, *event), of the first M rows; all of them where M = N
    _places: Tensor | None = None  # (N,), of the rows in the data that they are rows of; see `only`

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def names(self) -> list[str]: ...

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @property
    @abstractmethod
    def fingerprint(self) -> int: ...

    @abstractmethod
    def fixed(self) -> Self: ...

    @abstractmethod
    def subset(self, index: Any) -> Dataset: ...

    @abstractmethod
    def _taken(self, index: Tensor | None = None) -> Batch:
        """The rows `index` without the values that only some rows have."""

    @abstractmethod
    def _same(self, **attributes: Any) -> Self: ...

    @abstractmethod
    def _with(self, **attributes: Any) -> Self: ...

    @property
    def _count(self) -> int:
        """M, which is N where all rows have the values."""
        return len(next(iter(self._known.values()))) if self._known else 0

    @property
    def partial(self) -> tuple[str, ...]:
        """The names whose values are known for some rows only; () for ordinary data."""
        return tuple(self._known) if self._count < len(self) else ()

    @property
    def given(self) -> tuple[str, ...]:
        """The names that `labelled` has added, to some rows or to all: latent in new rows."""
        return tuple(self._known)

    @property
    def num_labelled(self) -> int:
        """M: the first so many rows have the values of `partial`; 0 for ordinary data."""
        return self._count if self.partial else 0

    def labelled(self, rows: Any, y: Any = None, name: str = "y") -> Dataset:
        """The same rows, of which `rows` have the value `name`: they come first, the others after.

        Args:
            rows: (M,) places in 0 … N − 1, or an (N,) boolean mask; they come first in this order.
            y: (M,) their values; by default their `labels`.
            name: the site.

        Raises: ValueError for no rows, one twice, a label that is missing (negative), other than M
        values, or a name that the data have already.

        >>> from zoo.data import Dataset
        >>> data = Dataset(torch.arange(4.0), labels=[0, 1, 0, 1]).labelled([2, 1])
        >>> print(data.describe())
        data: 4 rows; x () float32, y () int64 of 2 rows; 2 classes; cpu
        >>> data["x"].tolist(), data["y"].tolist(), data.batch(torch.tensor([3, 2])).share
        ([2.0, 1.0, 0.0, 3.0], [0, 1], 0.5)
        """
        if name in self.names or self._known:
            raise ValueError(f"{self.name} has {self.names} already, so no rows get a new {name!r}")
        index = torch.as_tensor(rows)
        if not index.numel() or (index.dtype == torch.bool and not index.any()):
            raise ValueError("no row is labelled; leave the call out, the data are unlabelled")
        index = row_numbers(index, len(self)).to(self.device)
        if len(index.unique()) < len(index):
            raise ValueError("a row is labelled twice; give every row number once")
        if y is None:
            if self.labels is None:
                raise ValueError(f"{self.name} has no labels; give the values of {name!r} as y")
            y = self.labels[index.to(self.labels.device)]
        value = as_tensor(name, y if isinstance(y, Tensor) else np.asarray(y))
        if not value.is_floating_point() and (value < 0).any():
            raise ValueError("some of these rows have no class (a negative label)")
        if value.dim() == 0 or len(value) != len(index):
            raise ValueError(
                f"expected a value of {name!r} for each of {len(index)} rows, got "
                f"{tuple(value.shape)}"
            )
        others = torch.ones(len(self), dtype=torch.bool, device=self.device)
        others[index] = False
        data = self.subset(torch.cat([index, others.nonzero().flatten()]))
        return data._with(_known={name: clean(name, value, False)[0].to(self.device)})

    def _known_of(self, index: Tensor) -> dict[str, Tensor]:
        """The partial values of the rows `index`, on the device."""
        first = index < self._count
        count = int(first.sum())
        if not first[:count].all():
            raise ValueError(
                f"rows with {', '.join(self._known)} come before those without, and this index has "
                "them mixed; sort it"
            )
        return {key: value[index[:count]] for key, value in self._known.items()} if count else {}

    def without(self, *names: str) -> Self:
        """The same data with `names` dropped for all rows, which makes those sites latent.

        Raises: ValueError for a name that is not there, or where none is left.
        """
        if unknown := [name for name in names if name not in self.names]:
            raise ValueError(f"cannot drop {unknown}: {self.name} has {self.names}")
        held = (self._values, self._observed, self._known)
        values, observed, known = ({k: v for k, v in d.items() if k not in names} for d in held)
        if not values:
            raise ValueError(f"{self.name} without {list(names)} would have no values left")
        mark = self.fingerprint  # the rows are the same ones
        return self._same(_values=values, _observed=observed, _known=known, fingerprint=mark)

    @property
    def chosen(self) -> bool:
        """Whether the rows are some of other data, to which they still belong; see `only`."""
        return self._places is not None

    def only(self, index: Any) -> Dataset:
        """The rows `index` as evaluation sees them, still as rows of these data.

        Their batches carry the places and the fingerprint that they have here, so that a guide with
        a table for these data goes on knowing them; `subset` makes other data.

        Args:
            index: as for `subset`.

        Raises: ValueError as `subset`.

        >>> from zoo.data import Dataset
        >>> data = Dataset(torch.arange(4.0))
        >>> few = data.only([1, 3])
        >>> few.batch().index.tolist(), few.fingerprint == data.fingerprint
        ([1, 3], True)
        """
        rows = self.fixed().subset(index)
        places = row_numbers(index, len(self)).to(self.device)
        if self._places is not None:
            places = self._places[places]
        return rows._same(_places=places, fingerprint=self.fingerprint)

    def batch(self, index: Tensor | None = None) -> Batch:
        """The rows `index`, (B,) long and not empty, as training sees them (a fresh draw where
        dynamic); None: all rows, without a copy.

        Raises: ValueError for rows of which only some have the values of `partial`.
        """
        if not self.partial:
            found = self._of_kind(index, True) if self._known else self._taken(index)
            if self._places is None:
                return found
            return replace(found, index=self._places[found.index], fingerprint=self.fingerprint)
        rows = len(self) if index is None else len(index)
        count = self._count if index is None else int((index < self._count).sum())
        if 0 < count < rows:
            names = ", ".join(self.partial)
            raise ValueError(
                f"{names} is observed for {count} of these {rows} rows only; split the rows into "
                f"two batches (parts and batches do), or drop it by without({names!r})"
            )
        return self._of_kind(index, count > 0)

    def _of_kind(self, index: Tensor | None, labelled: bool) -> Batch:
        """Rows that all have the partial values, or all lack them; never waits for the device."""
        rows, size = self._taken(index), self._count if labelled else len(self) - self._count
        more = {
            key: value if index is None else value.index_select(0, rows.index)
            for key, value in (self._known if labelled else {}).items()
        }
        return replace(rows, values={**rows.values, **more}, size=size, share=size / len(self))

    def batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        """All rows in order, for evaluation, so as `fixed`; first the labelled ones, then the
        others, and the last batch of each may be smaller."""
        rows, size = torch.arange(len(self), device=self.device), whole_batch(batch_size, len(self))
        data = self.fixed()
        if not self.partial:
            return map(data.batch, rows.split(size))
        first, rest = rows[: self._count].split(size), rows[self._count :].split(size)
        of_kind = data._of_kind
        return chain((of_kind(i, True) for i in first), (of_kind(i, False) for i in rest))
