"""Small parts that model files share: checks of options and the data of the examples."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from zoo.data import Batch, Dataset


def check_option(name: str, value: object, allowed: Sequence[object]) -> None:
    """ValueError unless the option is one of the allowed words."""
    if value not in allowed:
        words = ", ".join(map(repr, allowed))
        raise ValueError(f"{name} must be one of {words}; got {value!r}")


def check_size(name: str, value: int, largest: int | None = None) -> None:
    """ValueError unless 1 <= value (<= largest)."""
    if value < 1 or (largest is not None and value > largest):
        bound = "" if largest is None else f" and at most {largest}"
        raise ValueError(f"{name} must be at least 1{bound}; got {value}")


def check_positive(name: str, value: float) -> None:
    """ValueError unless value > 0."""
    if not value > 0:
        raise ValueError(f"{name} must be positive; got {value}")


def complete_rows(data: Dataset, init: str) -> torch.Tensor:
    """data["x"] (N, D), refused where entries are missing."""
    if "x" in data.observed:
        raise ValueError(
            f"init={init!r} needs data without missing entries; use init='random', or drop the "
            "rows with missing entries"
        )
    return data["x"]


def filled_rows(data: Dataset) -> torch.Tensor:
    """data["x"] (N, D) to start from: a missing entry is the mean of its column's other entries."""
    x = data["x"]
    if "x" not in data.observed:
        return x
    seen = data.observed["x"].to(x)
    return torch.where(seen > 0, x, (x * seen).sum(0) / seen.sum(0))


def some_rows(data: Dataset, most: int = 10_000) -> Batch:
    """Up to `most` rows, evenly spaced, as evaluation sees them; missing entries at the mean."""
    data = data.without(*data.partial)
    count = min(len(data), most)
    rows = torch.linspace(0, len(data) - 1, count, device=data.device).long()
    batch = data.fixed().batch(rows)
    if "x" not in batch.observed:
        return batch
    x, seen = batch["x"], batch.observed["x"].to(batch["x"])
    x = torch.where(seen > 0, x, (x * seen).sum(0) / seen.sum(0).clamp_min(1))
    return replace(batch, values={**batch.values, "x": x})


def iris(every: int = 3) -> Dataset:
    """Every third iris flower, standardised; the species are the labels."""
    from sklearn.datasets import load_iris

    x, labels = map(np.asarray, load_iris(return_X_y=True))
    x = (x - x.mean(0)) / x.std(0)
    return Dataset(x[::every], labels=labels[::every], name="iris")


def num_classes_of(data: Dataset) -> dict[str, int]:
    """{"num_classes": C} of data with labels, given or kept for judging; {} of others."""
    known = [data["y"]] if "y" in data.names else []
    known += [] if data.labels is None else [data.labels]
    return {"num_classes": max(int(labels.max()) for labels in known) + 1} if known else {}
