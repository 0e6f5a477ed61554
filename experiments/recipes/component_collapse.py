"""Component collapse: latent units that a decoder ignores, against depth, warm-up and free bits."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from experiments.recipe import Recipe, Scale
from guides import Guide
from zoo import load_data
from zoo.context import seeded
from zoo.evaluation import evaluate
from zoo.fitting import fit
from zoo.models.vae import VAE

# scale -> data, rows, steps, hidden units, latents, depths
SIZES: dict[str, tuple[str, int, int, int, int, tuple[int, ...]]] = {
    "smoke": ("digits", 100, 10, 8, 4, (1, 2)),
    "cpu": ("static_mnist", 10_000, 2000, 200, 32, (1, 2, 4)),
    "gpu": ("static_mnist", 50_000, 40_000, 400, 50, (1, 2, 4, 6)),
}
ACTIVE = 0.01  # nats: a unit below carries nothing


def component_collapse(scale: Scale = "cpu", seed: int = 0) -> Recipe:
    """Units whose KL is zero, against the decoder's depth and weights, warm-up and free bits.

    A unit j is collapsed where KL_j = E_x KL(q(z_j|x) ‖ N(0, 1)) is below 0.01 nats; its column in
    the decoder's first layer then shrinks too, ‖W_j‖. After figures by Dinh and Dumoulin.
    """
    source, count, steps, width, latents, depths = SIZES[scale]
    split = load_data(source, binarization=None if source == "static_mnist" else "static")
    train = split.train.subset(torch.arange(min(count, len(split.train))))
    with seeded(seed):  # the file of static MNIST has its test rows by class
        test = split.test.subset(torch.randperm(len(split.test))[:1000])  # type: ignore[arg-type, union-attr]
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "warm-up": {"warm_up": steps // 2},
        "free bits 0.1": {"objective_options": {"free_bits": 0.1}},
    }
    rows, curves = [], []
    for depth in depths:
        for way, options in ways.items():
            with seeded(seed):
                model = VAE.for_data(
                    train, latent_dim=latents, hidden=[width] * depth, likelihood="bernoulli"
                )
                guide = Guide(
                    model,
                    train,
                    inference_options={"hidden": [width] * depth, "activation": "tanh"},
                )
            settings: dict[str, Any] = {"steps": steps, "batch_size": 100, "lr": 1e-3, "seed": seed}
            fit(model, guide, train, progress=False, **settings, **options)
            found = evaluate(model, guide, test, num_particles=50, seed=seed)
            assert found.elbo is not None
            kl, weight = _units(guide, test), _first(model)
            active = kl > ACTIVE
            rows.append(
                {
                    "hidden layers": depth,
                    "trained with": way,
                    "active units": f"{int(active.sum())} of {latents}",
                    "KL, nats": float(kl.sum()),
                    "ELBO test": (found.elbo.mean, found.elbo.se),
                    "‖W_j‖ active": float(weight[active].mean()) if active.any() else None,
                    "‖W_j‖ collapsed": float(weight[~active].mean()) if not active.all() else None,
                }
            )
            curves.append((depth, way, kl, weight))
    return Recipe(
        f"Component collapse of a VAE on {train.name}",
        rows,
        _figure(curves, depths),
        {"rows": len(train), "steps": steps, "width": width, "latent_dim": latents},
        [
            f"A unit is active where its KL is above {ACTIVE} nats; KL and ELBO are of test rows.",
            "Warm-up and free bits change what is trained (not a bound), never what is reported.",
        ],
    )


@torch.no_grad()
def _units(guide: Guide, data: Any) -> Tensor:
    """(d,): the mean over rows of KL(N(m_j, s_j²) ‖ N(0, 1))."""
    q = guide.distribution(data.fixed().batch())
    m, v = q.mean, q.variance
    return (0.5 * (m.square() + v - v.log() - 1)).mean(0)


@torch.no_grad()
def _first(model: VAE) -> Tensor:
    """(d,): ‖W_j‖, the length of each unit's column in the decoder's first layer."""
    first = next(m for m in model.decoder.modules() if isinstance(m, nn.Linear))
    return first.weight.norm(dim=0)


def _figure(curves: list[tuple[int, str, Tensor, Tensor]], depths: tuple[int, ...]) -> Figure:
    """Above the KL of every unit by falling size, below the same units' decoder weights."""
    figure = Figure(figsize=(3.6 * len(depths), 5.6), dpi=120)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(2, len(depths), squeeze=False, sharey="row")
    colours = {"plain": "#000000", "warm-up": "#0072B2", "free bits 0.1": "#D55E00"}
    for depth, way, kl, weight in curves:
        column = depths.index(depth)
        order = kl.argsort(descending=True)
        axes[0, column].plot(kl[order].numpy(), "o-", markersize=3, color=colours[way], label=way)
        axes[1, column].plot(weight[order].numpy(), "o-", markersize=3, color=colours[way])
    for column, depth in enumerate(depths):
        axes[0, column].set_title(f"{depth} hidden layer{'s' if depth > 1 else ''}", fontsize=10)
        axes[0, column].axhline(ACTIVE, color="#999999", linewidth=0.8)
        axes[0, column].set_yscale("symlog", linthresh=0.01)
        axes[1, column].set_xlabel("unit, by falling KL")
        for row in axes[:, column]:
            row.locator_params(axis="x", integer=True)
    axes[0, 0].set_ylabel("KL of the unit, nats")
    axes[1, 0].set_ylabel("‖W_j‖ of the decoder")
    axes[0, 0].legend(fontsize=8)
    return figure
