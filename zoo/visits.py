"""The order in which the rows of a data set are visited, and the batches of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from zoo._arrays import shuffles, visits, whole_batch
from zoo.batch import Batch
from zoo.labels import Rows


class Visits(Rows):
    """Rows in a seeded order, step by step; each step has rows of every kind that there is."""

    def labels_per_step(self, batch_size: int | None, labelled_rows: int | None = None) -> int:
        """The labelled rows of a step of B rows: as given, by default min(M, max(1, B // 2)); M
        where a step takes all rows, whatever is given; 0 for ordinary data.

        Raises: ValueError for more than there are, none, or a step without an unlabelled row.
        """
        if not self.partial:
            if labelled_rows is not None:
                raise ValueError(
                    f"labelled_rows={labelled_rows}, but {self.name} has no values that only some "
                    "rows have; leave it out, or name the rows by labelled"
                )
            return 0
        size, count = whole_batch(batch_size, len(self)), self._count
        if size == len(self):
            return count
        rows = min(count, max(1, size // 2)) if labelled_rows is None else labelled_rows
        if not 1 <= rows <= count:
            raise ValueError(f"labelled_rows={rows}, but there are 1 to {count} labelled rows")
        if rows >= size:
            raise ValueError(
                f"a step of {size} rows, {rows} of them labelled, has no unlabelled row; take a "
                "larger batch_size or fewer labelled_rows"
            )
        return rows

    def steps_per_epoch(self, batch_size: int | None, labelled_rows: int | None = None) -> int:
        """The steps of an `epoch`."""
        size = whole_batch(batch_size, len(self))
        own = self.labels_per_step(batch_size, labelled_rows)
        return -(-(len(self) - self.num_labelled) // (size - own))

    def epoch(
        self, batch_size: int | None, seed: int, epoch: int, labelled_rows: int | None = None
    ) -> Iterator[Tensor]:
        """Index tensors (B,) that visit every row once, in an order that depends on (seed, epoch)
        alone and is the same on every device; the last may be smaller. With `batch_size` None or
        ≥ N there is one, of all rows in order.

        Where only some rows have labels, a step is `labels_per_step` labelled rows, then unlabelled
        ones. An epoch visits the unlabelled rows once; the labelled ones go round in fresh orders.
        """
        size, count = whole_batch(batch_size, len(self)), self.num_labelled
        own = self.labels_per_step(batch_size, labelled_rows)
        rest = count + visits(len(self) - count, size - own, seed, epoch)
        if not count:
            return iter(rest.to(self.device).split(size))
        steps = rest.split(size - own)
        if own == count:
            first = torch.arange(count).repeat(len(steps))
        else:
            first = shuffles(count, own * len(steps), seed, epoch)
        pieces = [torch.cat(pair) for pair in zip(first.split(own), steps, strict=True)]
        return iter(torch.cat(pieces).to(self.device).split([len(piece) for piece in pieces]))

    def parts(
        self, index: Tensor | None, count: int = 1, labelled_rows: int | None = None
    ) -> Iterator[tuple[Batch, float]]:
        """The batches of a step, each with its weight in the mean over the rows that it stands for.

        Formula: Σ_m weight_m · mean_m f, with weight B_m/B; of labelled and of unlabelled rows
        (N_kind/N) · B_m/B_kind. The weights sum to 1.

        Args:
            index: a step of `epoch`; None: all rows.
            count: pieces that the rows are cut in, those of each kind where there are two.
            labelled_rows: how many of the rows are labelled; by default they are counted, for which
                the host waits for the device.

        Raises: ValueError for rows of one kind only, or labelled rows that do not come first.
        """
        if count == 1 and not self.partial:
            yield self.batch(index), 1.0
            return
        index = torch.arange(len(self), device=self.device) if index is None else index
        rows = len(index)
        if not self.partial:
            for part in _cut(index, count):
                yield self.batch(part), len(part) / rows
            return
        own = self._count if rows == len(self) else labelled_rows
        if own is None:
            known = index < self._count
            own = int(known.sum())
            if own in (0, rows) or not known[:own].all():
                raise ValueError("a step has labelled rows, which come first, and unlabelled ones")
        for piece, labelled in ((index[:own], True), (index[own:], False)):
            for part in _cut(piece, count):
                batch = self._of_kind(part, labelled)
                yield batch, batch.share * (len(part) / len(piece))


def _cut(index: Tensor, count: int) -> Sequence[Tensor]:
    return index.tensor_split(min(count, len(index)))
