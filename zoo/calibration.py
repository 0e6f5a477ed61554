"""How often a classifier is wrong, and how far its probabilities can be taken at their word."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.context import seeded, stream

DRAWS = 400  # of the bootstrap and of the simulated labels
ROOM = 2**22  # numbers that such draws may take at a time
TOLERANCE = 1e-3  # how far probabilities may be from a sum of 1


@dataclass(frozen=True)
class Score:
    """A mean over rows.

    Attributes:
        mean: of the N rows.
        se: its standard error as an estimate for new rows from the same source.
    """

    mean: float
    se: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"mean": self.mean, "se": self.se}


@dataclass(frozen=True)
class Calibration:
    """Whether of the rows with confidence c a share c is right.

    Attributes:
        ece: Σ_b n_b/N |acc_b − conf_b|, the expected calibration error.
        ece_se: its standard deviation over bootstrap samples of the rows.
        ece_if_calibrated: mean and standard deviation of the same sum, were the row n right with
            probability exactly conf_n: what chance alone makes of it. An ECE near the mean is no
            sign of a bad calibration.
        log_loss: −log q(y_n | x_n), in nats per row.
        brier: Σ_c (q(c | x_n) − [y_n = c])², from 0 to 2.
        confidence: (bins,), the mean confidence of the rows of a bin; NaN where there are none.
        accuracy: (bins,), the share of them that is right; NaN where there are none.
        count: (bins,), n_b.
        seed: of the bootstrap and of the simulated labels.
    """

    ece: float
    ece_se: float
    ece_if_calibrated: tuple[float, float]
    log_loss: Score
    brier: Score
    confidence: Tensor
    accuracy: Tensor
    count: Tensor
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON; bins without rows have None."""
        mean, sd = self.ece_if_calibrated
        return {
            "ece": {"mean": self.ece, "se": self.ece_se},
            "ece_if_calibrated": {"mean": mean, "sd": sd},
            "log_loss": self.log_loss.as_dict(),
            "brier": self.brier.as_dict(),
            "bins": {
                "confidence": [None if math.isnan(v) else v for v in self.confidence.tolist()],
                "accuracy": [None if math.isnan(v) else v for v in self.accuracy.tolist()],
                "count": self.count.tolist(),
            },
            "draws": DRAWS,
            "seed": self.seed,
        }


def classification_error(probabilities: Tensor, labels: Tensor) -> Score:
    """p = 1/N Σ_n [argmax_c q(c | x_n) ≠ y_n], and √(p (1 − p)/N).

    Args:
        probabilities: (N, C), q(c | x_n).
        labels: (N,), y_n in 0 … C − 1.

    Raises:
        ValueError: no rows; shapes that do not fit; labels outside 0 … C − 1; rows that are no
            probabilities.

    >>> q = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    >>> classification_error(q, torch.tensor([0, 1, 1, 1]))
    Score(mean=0.25, se=0.2165...)
    """
    q, y = _checked(probabilities, labels)
    p = (q.argmax(-1) != y).double().mean().item()
    return Score(p, math.sqrt(p * (1 - p) / len(y)))


def calibration(
    probabilities: Tensor, labels: Tensor, bins: int = 15, seed: int = 0
) -> Calibration:
    """ECE = Σ_b n_b/N |acc_b − conf_b|, over bins of equal width of conf_n = max_c q(c | x_n).

    Bin b holds the n_b rows with conf_n in ((b − 1)/bins, b/bins]; conf_b is their mean confidence,
    acc_b the share of them whose most probable class is theirs. The ECE is biased upwards: it is
    above 0 on finitely many rows also where conf_n is the probability of being right, the more so
    the fewer the rows; ``ece_if_calibrated`` says how far. A probability of 0 counts in the
    logarithm as the smallest normal number of its floating-point type.

    Args:
        probabilities: (N, C), q(c | x_n).
        labels: (N,), y_n in 0 … C − 1.
        bins: how many.
        seed: of the bootstrap and of the simulated labels.

    Raises:
        ValueError: bins < 1; as ``classification_error``.

    Reference: Guo, Pleiss, Sun & Weinberger, On calibration of modern neural networks, 2017.

    >>> q = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    >>> found = calibration(q, torch.tensor([0, 1, 1, 1]), bins=2)
    >>> found.count.tolist(), round(found.ece, 6), round(found.brier.mean, 6)
    ([0, 4], 0.0, 0.45)
    """
    if bins < 1:
        raise ValueError(f"bins counts from 1, got {bins}")
    tiny = torch.finfo(probabilities.dtype).tiny if probabilities.is_floating_point() else 0
    q, y = _checked(probabilities, labels)
    confidence, guess = q.max(-1)
    right = (guess == y).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=q.dtype)[1:-1]
    place = torch.bucketize(confidence, edges)  # (N,)
    count = place.bincount(minlength=bins)
    excess = right - confidence  # n_b (acc_b − conf_b) is its sum over a bin
    chosen = q.gather(1, y[:, None]).squeeze(1)
    with seeded(stream(seed, "calibration")):
        again = _resampled(place, excess, bins)
        by_chance = _simulated(place, confidence, bins)
    return Calibration(
        ece=float(_sums(place, excess, bins).abs().sum() / len(y)),
        ece_se=float(again.std()),
        ece_if_calibrated=(float(by_chance.mean()), float(by_chance.std())),
        log_loss=_mean(-chosen.clamp_min(tiny).log()),
        brier=_mean(q.square().sum(-1) - 2 * chosen + 1),
        confidence=_sums(place, confidence, bins) / count,
        accuracy=_sums(place, right, bins) / count,
        count=count,
        seed=seed,
    )


def _checked(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Both on the CPU, in doubles and whole numbers."""
    q, y = probabilities.detach().cpu().double(), labels.detach().cpu()
    if q.dim() != 2 or not q.numel() or y.shape != q.shape[:1]:
        raise ValueError(
            "expected probabilities (N, C) and labels (N,) of the same rows, one at least; got "
            f"shapes {tuple(probabilities.shape)} and {tuple(labels.shape)}"
        )
    if y.is_floating_point() or y.is_complex() or bool(((y < 0) | (y >= q.shape[1])).any()):
        raise ValueError(
            f"labels are whole numbers from 0 to {q.shape[1] - 1}; leave out rows that have none"
        )
    if not bool((q >= 0).all() and ((q.sum(-1) - 1).abs() <= TOLERANCE).all()):
        raise ValueError("probabilities are from 0 and sum to 1 in every row; these do not")
    return q, y.long()


def _mean(rows: Tensor) -> Score:
    """Of independent rows."""
    se = rows.std().item() / math.sqrt(len(rows)) if len(rows) > 1 else 0.0
    return Score(rows.mean().item(), se)


def _sums(place: Tensor, values: Tensor, bins: int) -> Tensor:
    """(..., bins): sums of values (..., N) over the rows of each bin."""
    sums = values.new_zeros(*values.shape[:-1], bins)
    return sums.scatter_add_(-1, place.expand(values.shape), values)


def _pieces(rows: int) -> list[int]:
    """Draws at a time."""
    size = max(1, ROOM // rows)
    return [min(size, DRAWS - start) for start in range(0, DRAWS, size)]


def _resampled(place: Tensor, excess: Tensor, bins: int) -> Tensor:
    """(DRAWS,): the ECE of N rows drawn with replacement."""
    rows, found = len(place), []
    for size in _pieces(rows):
        index = torch.randint(rows, (size, rows))
        sums = excess.new_zeros(size, bins).scatter_add_(-1, place[index], excess[index])
        found.append(sums.abs().sum(-1) / rows)
    return torch.cat(found)


def _simulated(place: Tensor, confidence: Tensor, bins: int) -> Tensor:
    """(DRAWS,): the ECE where each row is right with the probability that is said."""
    rows, found = len(place), []
    for size in _pieces(rows):
        right = (torch.rand(size, rows, dtype=confidence.dtype) < confidence).to(confidence)
        found.append(_sums(place, right - confidence, bins).abs().sum(-1) / rows)
    return torch.cat(found)
