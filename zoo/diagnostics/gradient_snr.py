"""How much of a gradient is signal: its mean against its spread, parameter by parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.backward import Backward
from zoo.context import stream
from zoo.data import as_dataset
from zoo.diagnostics._gradients import draws, entries, visits
from zoo.fitting import WHOLE, bind_objective
from zoo.model import Model, as_model

STILL = 1e-4  # a smaller spread, relative to the size of the gradient, is rounding


@dataclass(frozen=True)
class SNR:
    """mean_j |E g_j| / sd(g_j) over the entries j of the parameters of one side.

    Attributes:
        value: from ``num_gradients`` gradients; at least about ``GradientSNR.floor``.
        se: its standard error, by the jackknife over gradients.
        entries: how many were looked at; those whose gradient never varies are left out.
    """

    value: float
    se: float
    entries: int


@dataclass(frozen=True)
class GradientSNR:
    """The signal-to-noise ratio of the gradients at the parameters as they are.

    Attributes:
        model, guide: of each side; None where it has nothing to train, or no gradient.
        num_gradients: G.
        batch_size: rows of each.
        objective: its word.
        seed: of rows and draws.
    """

    model: SNR | None
    guide: SNR | None
    num_gradients: int
    batch_size: int
    objective: str
    seed: int

    @property
    def floor(self) -> float:
        """√(2/(π G)), what G gradients show of pure noise: nothing can be seen below it."""
        return math.sqrt(2 / (math.pi * self.num_gradients))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "floor": self.floor}


def gradient_snr(
    model: Model | Callable[..., Any],
    guide: Any,
    data: Any,
    objective: Any = "elbo",
    objective_options: Mapping[str, Any] | None = None,
    *,
    batch_size: int | None = None,
    num_gradients: int = 30,
    seed: int = 0,
) -> GradientSNR:
    """|mean|/sd of each parameter's gradient over minibatches and draws, averaged over parameters.

    At an optimum the mean is 0 and so is the ratio, as it is where noise drowns the signal: low
    says that no progress is made, not why. The ratio of the guide falls with the number of
    particles of IWAE, 1/√K, while that of the model rises, √K; elsewhere compare it between
    objectives at the same parameters.

    Args:
        model: p.
        guide: q; None where the objective needs none.
        data: N rows.
        objective, objective_options: as for ``fit``.
        batch_size: rows of a gradient; by default as in ``fit``.
        num_gradients: G, at least 3, each of rows and draws of its own.
        seed: of rows and draws.

    Tables are left out where a step has some of the rows alone. Nothing is changed: gradients and
    buffers are put back.

    Raises:
        ValueError: fewer than three gradients; an objective without any.

    Reference: Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, "Tighter Variational Bounds are
    Not Necessarily Better", 2018.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> found = gradient_snr(model, Guide(model, data), data, num_gradients=5)
        >>> found.model.value > found.floor
        True
    """
    if num_gradients < 3:
        raise ValueError(f"a spread with an error needs three gradients, got {num_gradients}")
    model, data = as_model(model), as_dataset(data).to(as_model(model).device)
    name, loss_of = bind_objective(objective, objective_options)
    size = min(batch_size or (len(data) if len(data) <= WHOLE else 128), len(data))
    sides = {k: v for k, v in (("model", model), ("guide", guide)) if isinstance(v, nn.Module)}
    whole, own = size == len(data), data.labels_per_step(size) if data.partial else None
    places = entries(sides, seed, torch.arange(len(data)) if whole else None)
    key = stream(seed, "gradient snr")
    backward = Backward(loss_of, data, whole, labelled_rows=own)
    steps = visits(data, size, key, own)
    found = draws(model, guide, sides, places, backward, steps, num_gradients, key)
    ratios = {side: signal_to_noise(g) for side, g in found.items()}
    if not any(ratios.values()):
        raise ValueError(f"the objective {name} gives no parameter a gradient that varies")
    return GradientSNR(ratios.get("model"), ratios.get("guide"), num_gradients, size, name, seed)


def signal_to_noise(g: Tensor) -> SNR | None:
    """Of gradients (G, P); None where none of their entries varies."""
    size = g.square().mean(0).sqrt()
    varies = g.isfinite().all(0) & (g.std(0) > STILL * size)
    g = g[:, varies] / size[varies]  # so that digits are kept when squares are subtracted
    count, varying = g.shape
    if not varying:
        return None

    def ratio(total: Tensor, squares: Tensor, n: int) -> Tensor:
        mean = total / n
        variance = (squares - n * mean.square()) / (n - 1)
        return (mean.abs() / variance.clamp_min(1e-300).sqrt()).mean(-1)

    total, squares = g.sum(0), g.square().sum(0)
    value = ratio(total, squares, count)
    left = ratio(total - g, squares - g.square(), count - 1)  # (G,), each without one gradient
    se = ((count - 1) / count * (left - left.mean()).square().sum()).sqrt()
    return SNR(float(value), float(se), varying)
