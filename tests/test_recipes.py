"""Every recipe runs at the smallest scale, and what it says of its figures holds."""

import json
from pathlib import Path

import pytest
import torch

from experiments.recipes.energies import Energy, energies, energy
from experiments.reproduce import reproduce
from zoo.registry import names


@pytest.mark.parametrize("name", names("recipes"))
def test_recipes_run_and_write_their_results(name: str, tmp_path: Path) -> None:
    result = reproduce(name.replace("_", "-"), scale="smoke", out=str(tmp_path / "out"))
    kept = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert kept["recipe"] == name and len(kept["rows"]) == len(result.rows) > 0
    assert (tmp_path / "out" / f"{name}.png").stat().st_size > 5000
    lines = (tmp_path / "out" / f"{name}.csv").read_text().splitlines()
    assert len(lines) == 1 + len(result.rows)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="no recipe 'energys'. Did you mean 'energies'"):
        reproduce("energys")


@pytest.mark.parametrize("which", [1, 2, 3, 4])
def test_normalizers_by_another_rule(which: int) -> None:
    """The trapezoid rule against a sum over the midpoints of another grid."""
    width = 8 / 1500
    axis = -4 + width * (torch.arange(1500, dtype=torch.float64) + 0.5)
    grid = torch.cartesian_prod(axis, axis)
    mass = (-energy(which, grid)).exp().sum() * width**2 / 64
    assert abs(float(mass.log()) - Energy(which).log_normalizer()) < 2e-4


def test_no_bound_is_above_the_normalizer() -> None:
    for row in energies("smoke").rows:
        for name, value in row.items():
            if name.startswith("KL"):
                assert value[0] > -6 * value[1], f"{name} of {row['energy']}"
