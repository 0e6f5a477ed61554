"""Error and calibration of a classifier, against numbers by hand and simulated classifiers."""

import math

import pytest
import torch

from zoo.calibration import DRAWS, calibration, classification_error

BAND = 5.5  # standard errors: a right program leaves the band once in 26 million times


def two_classes(*first: float) -> torch.Tensor:
    """(N, 2) of the probabilities of class 0."""
    q = torch.tensor(first, dtype=torch.float64)
    return torch.stack([q, 1 - q], -1)


def test_the_error_by_hand() -> None:
    q = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8], [0.4, 0.35, 0.25]])
    found = classification_error(q, torch.tensor([1, 2, 2, 1]))
    assert found.mean == 0.5 and found.se == 0.25  # √(½ ½ / 4)
    assert found.as_dict() == {"mean": 0.5, "se": 0.25}
    assert classification_error(q, torch.tensor([1, 0, 2, 0])).as_dict() == {"mean": 0, "se": 0}


def test_bins_scores_and_the_calibration_error_by_hand() -> None:
    """Confidences 0.6, 0.7, 0.95, 0.95; right, wrong, right, right; bins of width 1/4."""
    q = two_classes(0.6, 0.3, 0.95, 0.05)
    found = calibration(q, torch.tensor([0, 0, 0, 1]), bins=4)
    assert found.count.tolist() == [0, 0, 2, 2]
    assert found.confidence[2:].tolist() == pytest.approx([0.65, 0.95])
    assert found.accuracy[2:].tolist() == [0.5, 1.0]
    assert found.confidence[:2].isnan().all() and found.accuracy[:2].isnan().all()
    assert found.ece == pytest.approx(0.5 * 0.15 + 0.5 * 0.05)
    losses = [-math.log(v) for v in (0.6, 0.3, 0.95, 0.95)]
    mean = sum(losses) / 4
    se = math.sqrt(sum((v - mean) ** 2 for v in losses) / 3 / 4)
    assert found.log_loss.as_dict() == pytest.approx({"mean": mean, "se": se})
    briers = [2 * 0.4**2, 2 * 0.7**2, 2 * 0.05**2, 2 * 0.05**2]
    assert found.brier.mean == pytest.approx(sum(briers) / 4)
    content = found.as_dict()
    assert content["bins"]["accuracy"] == [None, None, 0.5, 1.0]
    assert content["bins"]["count"] == [0, 0, 2, 2] and content["ece"]["mean"] == found.ece


def test_bins_are_closed_above() -> None:
    """A confidence of 1/2 is of the bin up to 1/2, one of 1 of the last."""
    found = calibration(two_classes(0.5, 1.0, 0.75), torch.tensor([0, 0, 0]), bins=4)
    assert found.count.tolist() == [0, 1, 1, 1]


def test_a_probability_of_zero_has_a_finite_logarithm() -> None:
    found = calibration(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert found.log_loss.mean == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))
    assert found.brier.mean == 2 and found.ece == 1 and found.log_loss.se == 0


def test_draws_are_seeded_and_leave_the_generator_alone() -> None:
    q, y = torch.rand(50, 3).softmax(-1), torch.randint(3, (50,))
    state = torch.get_rng_state()
    one, other = (calibration(q, y, seed=seed) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert calibration(q, y).as_dict() == one.as_dict()
    assert one.ece == other.ece and one.ece_if_calibrated != other.ece_if_calibrated
    assert one.ece_se != other.ece_se


def test_what_chance_makes_of_a_calibrated_classifier() -> None:
    """The simulated ECE is that of 2000 data sets whose labels follow q, in mean and spread."""
    q = torch.rand(60, 3, dtype=torch.float64).mul(4).softmax(-1)
    sets = [calibration_only(q, torch.multinomial(q, 1).squeeze(1)) for _ in range(2000)]
    truth = torch.tensor(sets)
    mean, sd = calibration(q, torch.zeros(60, dtype=torch.long)).ece_if_calibrated
    assert abs(mean - truth.mean()) < BAND * truth.std() * math.sqrt(1 / DRAWS + 1 / 2000)
    assert 0.7 < sd / truth.std() < 1.4  # 400 draws: the ratio has a standard error of 4%
    assert mean > 0.05  # far from zero on 60 rows, though nothing is wrong


def calibration_only(q: torch.Tensor, y: torch.Tensor) -> float:
    """The ECE from its formula, bin by bin."""
    confidence, guess = q.max(-1)
    right, total = (guess == y).double(), 0.0
    for b in range(15):
        rows = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if rows.any():
            total += float(
                rows.double().mean() * (right[rows].mean() - confidence[rows].mean()).abs()
            )
    return total


def test_the_error_of_the_calibration_error() -> None:
    """Confidence 0.9, right in 60% of rows: ECE 0.3, whose error is that of a mean of 400 rows."""
    q = two_classes(*[0.9] * 400)
    y = (torch.arange(400) % 5 >= 3).long()
    found = calibration(q, y)
    assert found.ece == pytest.approx(0.3) == calibration_only(q, y)
    assert found.ece_se == pytest.approx(math.sqrt(0.24 / 400), rel=0.25)  # 400 draws: rel. se 4%


@pytest.mark.parametrize(
    ("q", "y", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), "one at least"),
        (torch.ones(3, 1), torch.zeros(2, dtype=torch.long), "of the same rows"),
        (torch.tensor([0.5, 0.5]), torch.tensor([0, 1]), r"\(N, C\)"),
        (two_classes(0.5), torch.tensor([2]), "from 0 to 1"),
        (two_classes(0.5), torch.tensor([-1]), "leave out rows"),
        (two_classes(0.5), torch.tensor([0.0]), "whole numbers"),
        (torch.tensor([[0.5, 0.6]]), torch.tensor([0]), "sum to 1"),
        (torch.tensor([[1.5, -0.5]]), torch.tensor([0]), "sum to 1"),
        (torch.tensor([[math.nan, 1.0]]), torch.tensor([0]), "sum to 1"),
    ],
)
def test_mistakes_are_answered_in_words(q: torch.Tensor, y: torch.Tensor, message: str) -> None:
    for function in (classification_error, calibration):
        with pytest.raises(ValueError, match=message):
            function(q, y)


def test_bins_count_from_one() -> None:
    with pytest.raises(ValueError, match="bins counts from 1"):
        calibration(two_classes(0.5), torch.tensor([0]), bins=0)
