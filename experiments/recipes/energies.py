"""A learned mean-field posterior against planar flows on four two-dimensional energies."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.recipe import Recipe, Scale
from guides import Guide
from guides.inference import PerDatapoint
from zoo.context import seeded
from zoo.data import Dataset
from zoo.evaluation import evaluate
from zoo.fitting import fit
from zoo.model import Model

SIDE = 4.0  # the square [-4, 4]² that the energies are drawn on
STEPS = {"smoke": 10, "cpu": 1500, "gpu": 10_000}
GUIDES = ("mean_field", "full_rank", "planar:2", "planar:8", "planar:32")


def energy(which: int, z: Tensor) -> Tensor:
    """U_i(z), (...), of z (..., 2): the four of table 1 of Rezende and Mohamed (2015).

    Example:
        >>> energy(1, torch.tensor([2.0, 0.0]))
        tensor(0.0000)
    """
    a, b = z.unbind(-1)
    wave = torch.sin(0.5 * math.pi * a)
    bump = 3 * torch.exp(-0.5 * ((a - 1) / 0.6) ** 2)
    step = 3 * torch.sigmoid((a - 1) / 0.3)

    def ridge(away: Tensor, width: float) -> Tensor:
        return -0.5 * (away / width) ** 2

    if which == 1:
        ring = 0.5 * ((z.square().sum(-1) + 1e-12).sqrt().sub(2) / 0.4) ** 2
        return ring - torch.logaddexp(ridge(a - 2, 0.6), ridge(a + 2, 0.6))
    if which == 2:
        return -ridge(b - wave, 0.4)
    if which == 3:
        return -torch.logaddexp(ridge(b - wave, 0.35), ridge(b - wave + bump, 0.35))
    return -torch.logaddexp(ridge(b - wave, 0.4), ridge(b - wave + step, 0.35))


class Energy(Model):
    """p(z) ∝ exp(-U_i(z)) on the square [-4, 4]², as a posterior: z ~ Uniform, a factor exp(-U)."""

    inputs: ClassVar[tuple[str, ...]] = ("row",)

    def __init__(self, which: int) -> None:
        super().__init__()
        self.which = which

    def forward(self, n: int, row: Tensor | None = None) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            square = dist.Uniform(-SIDE, SIDE).expand_by([2]).to_event(1)
            z = pyro.sample("z", square)
            pyro.factor("energy", -energy(self.which, z))
            return z

    def log_normalizer(self, points: int = 1001) -> float:
        """log ∫ exp(-U(z)) dz / 64 over the square, by the trapezoid rule."""
        axis = torch.linspace(-SIDE, SIDE, points, dtype=torch.float64)
        weight = torch.ones(points, dtype=torch.float64)
        weight[[0, -1]] = 0.5
        grid = torch.cartesian_prod(axis, axis)
        mass = (torch.outer(weight, weight).flatten().log() - energy(self.which, grid)).logsumexp(0)
        return float(mass) - 2 * math.log(points - 1)


def energies(scale: Scale = "cpu", seed: int = 0) -> Recipe:
    """Learned posteriors on the four energies of Rezende and Mohamed (2015), figure 3.

    KL(q ‖ p) = log Z - ELBO, with log Z by quadrature over the square [-4, 4]².
    """
    rows: list[dict[str, Any]] = []
    pictures: list[list[Tensor]] = []
    data = Dataset({"row": torch.zeros(1)}, name="one row")
    for which in (1, 2, 3, 4) if scale != "smoke" else (1, 4):
        model = Energy(which)
        evidence = model.log_normalizer()
        row: dict[str, Any] = {"energy": f"U{which}", "log Z": evidence}
        drawn = [_density(which)]
        for word in GUIDES if scale != "smoke" else GUIDES[:3]:
            with seeded(seed):
                guide = Guide(model, data, word, "per_datapoint")
                _start(guide)
            fit(
                model,
                guide,
                data,
                steps=STEPS[scale],
                lr=0.02,
                schedule="cosine",
                seed=seed,
                objective_options={"num_particles": 64},
                progress=False,
            )
            found = evaluate(
                model, guide, data, num_particles=20_000 if scale != "smoke" else 2000, seed=seed
            )
            assert found.elbo is not None
            row[f"KL {word}"] = (evidence - found.elbo.mean, found.elbo.se)
            with seeded(seed + 1):
                samples = guide.posterior(data.batch(), 20_000).samples["z"][:, 0]
            drawn.append(_histogram(samples))
        rows.append(row)
        pictures.append(drawn)
    return Recipe(
        "KL(q ‖ p) to four energies, nats",
        rows,
        _figure(
            pictures,
            [row["energy"] for row in rows],
            [name.removeprefix("KL ") for name in rows[0] if "KL" in name],
        ),
        {"steps": STEPS[scale], "num_particles": 64, "lr": 0.02, "schedule": "cosine"},
        ["KL(q ‖ p) = log Z − ELBO; log Z by quadrature on [-4, 4]², ± the Monte-Carlo error."],
    )


@torch.no_grad()
def _start(guide: Guide) -> None:
    """A base of sd ½ in the unconstrained coordinates, so that flows start inside the square."""
    assert isinstance(guide.source, PerDatapoint)
    guide.source.table.weight[:, 2:4] = math.log(math.expm1(0.5))  # softplus of it is ½


def _density(which: int, points: int = 120) -> Tensor:
    axis = torch.linspace(-SIDE, SIDE, points)
    a, b = torch.meshgrid(axis, axis, indexing="xy")
    return torch.exp(-energy(which, torch.stack([a, b], -1)))


def _histogram(z: Tensor, bins: int = 80) -> Tensor:
    counts, _ = torch.histogramdd(z.flip(-1), [bins, bins], range=[-SIDE, SIDE, -SIDE, SIDE])
    return counts


def _figure(pictures: list[list[Tensor]], names: list[str], guides: list[str]) -> Figure:
    """A row an energy, a column a guide; the first is the density itself."""
    figure = Figure(figsize=(2.1 * (1 + len(guides)), 2.1 * len(pictures)), dpi=120)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(pictures), 1 + len(guides), squeeze=False)
    for i, drawn in enumerate(pictures):
        for j, image in enumerate(drawn):
            axes[i, j].imshow(image.numpy(), origin="lower", cmap="magma", extent=[-SIDE, SIDE] * 2)
            axes[i, j].set_xticks([])
            axes[i, j].set_yticks([])
            if i == 0:
                axes[i, j].set_title(["exp(−U)", *guides][j], fontsize=10)
        axes[i, 0].set_ylabel(names[i])
    return figure
