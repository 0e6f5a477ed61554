"""Bias, variance and signal of several estimators of one gradient, at the same parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.backward import Backward
from zoo.context import stream
from zoo.data import as_dataset
from zoo.diagnostics._gradients import draws, entries, visits
from zoo.diagnostics._moments_of_gradients import STILL, Value, distance, norm, variance
from zoo.diagnostics.gradient_snr import SNR, signal_to_noise
from zoo.fitting import bind_objective
from zoo.model import Model, as_model

UNBIASED = ("pathwise", "enumerate", "score", "vimco")  # of every bound that they are an option of
SEEN = 1e-4  # a chance below which a distance is no chance, in a table of many


class Way(NamedTuple):
    """One way to the gradient: a guide, and keyword arguments of the objective beside the common.

    Attributes:
        guide: q; its parameters are those of the other ways' guides, by name.
        options: of the objective, such as ``{"estimator": "dreg"}``.
    """

    guide: Any
    options: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Bias:
    """‖E g − g*‖, g* the gradient that the estimator should have on average.

    Attributes:
        value, se: with the noise of g and of g* taken off; 0 where no more than that is seen.
        below: the greatest that three standard errors leave room for.
        chance: of a distance of this size without any bias.
        against: the ways that g* is from.
        exact: whether g* has no noise.
    """

    value: float
    se: float
    below: float
    chance: float
    against: tuple[str, ...]
    exact: bool

    @property
    def seen(self) -> bool:
        """Whether it is beyond three of its standard errors, and no chance of one in 10 000."""
        return self.chance < SEEN and self.value > 3 * self.se


@dataclass(frozen=True)
class Noise:
    """One estimator's gradients of the parameters of one side.

    Attributes:
        entries: P, how many were looked at.
        norm: ‖E g‖, without the noise of ‖mean g‖.
        variance: tr Cov g; of one entry on average it is 1/P of that.
        snr: mean_j |E g_j| / sd(g_j), as in ``gradient_snr``; None where nothing varies.
        bias: None where no other way is known to be unbiased.
    """

    entries: int
    norm: Value
    variance: Value
    snr: SNR | None
    bias: Bias | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {"entries": self.entries, "snr": self.snr and asdict(self.snr)}
        found |= {name: getattr(self, name)._asdict() for name in ("norm", "variance")}
        found["variance"]["mean"] = self.variance.value / self.entries
        bias = self.bias
        return {**found, "bias": bias and {**asdict(bias), "seen": bias.seen}}


@dataclass(frozen=True)
class GradientNoise:
    """What ``gradient_noise`` finds.

    Attributes:
        ways: name -> side (``model``, θ; ``guide``, φ) -> figures.
        refused: name -> why there is no such gradient.
        num_gradients: G.
        num_rows: of each gradient.
    """

    ways: dict[str, dict[str, Noise]]
    refused: dict[str, str]
    num_gradients: int
    num_rows: int

    @property
    def floor(self) -> float:
        """√(2/(π G)), the SNR that G gradients show of pure noise."""
        return math.sqrt(2 / (math.pi * self.num_gradients))


def gradient_noise(
    model: Model | Callable[..., Any],
    ways: Mapping[str, Way | Any],
    data: Any,
    objective: Any = "elbo",
    objective_options: Mapping[str, Any] | None = None,
    *,
    unbiased: Sequence[str] = UNBIASED,
    num_rows: int | None = None,
    num_gradients: int = 200,
    minibatch_noise: bool = False,
    seed: int = 0,
) -> GradientNoise:
    """Bias, variance and SNR of the gradient, by estimator and side.

    Of G draws g_i of the gradient of one loss (nats per datapoint) at the same rows and parameters:
    the mean, tr Cov, SNR = mean_j |E g_j|/sd(g_j), and the bias ‖E g − g*‖. g* is the mean of the
    other ways that are unbiased, weighted by 1/tr Cov, or of one whose gradient does not vary
    alone, which is exact. With d_i = g_i − g*_i, draw by draw from the same random numbers,
    U = Σ_{i≠j} d_i·d_j/(G (G − 1)) estimates the square of the bias without the noise of either;
    errors are the jackknife's over draws. A bias is *seen* where √U is above three times its error
    and the chance of ‖mean d‖² without a bias is below 1e-4.

    Args:
        model: p.
        ways: name -> q, or ``Way`` with q and options of the objective.
        data: N rows.
        objective, objective_options: as for ``fit``.
        unbiased: names of ways that have the right mean, if they are there.
        num_rows: B, a random choice; by default all of up to 128.
        num_gradients: G, at least 10; tests of the bias hold from about 50.
        minibatch_noise: each gradient is of rows of its own, not of the same ones.
        seed: of rows and draws.

    At most 20 000 entries of each side are looked at, a random choice, and the figures are of
    these. Parameters that some guide lacks (baselines) are left out. Nothing is changed.

    Raises:
        ValueError: fewer than ten gradients; no way that gives a gradient.

    Reference: Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, "Tighter Variational Bounds are
    Not Necessarily Better", 2018; Tucker, Lawson, Gu and Maddison, "Doubly Reparameterized
    Gradient Estimators for Monte Carlo Objectives", 2019.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> found = gradient_noise(model, {"pathwise": Guide(model, data)}, data, num_gradients=10)
        >>> sorted(found.ways["pathwise"])
        ['guide', 'model']
    """
    if num_gradients < 10:
        raise ValueError(f"a variance with an error needs ten gradients, got {num_gradients}")
    model = as_model(model)
    data = as_dataset(data).to(model.device)
    data = data if minibatch_noise else data.fixed()
    each = {name: way if isinstance(way, Way) else Way(way) for name, way in ways.items()}
    size = min(num_rows or 128, len(data))
    whole, own = size == len(data), data.labels_per_step(size) if data.partial else None
    key = stream(seed, "gradient noise")
    index = next(visits(data, size, key, own))
    looked_at = torch.arange(len(data)) if whole else None if minibatch_noise else index
    shared = _shared([way.guide for way in each.values()])
    found, refused = dict[str, dict[str, Tensor]](), dict[str, str]()
    for name, (guide, options) in each.items():
        sides = _sides(model, guide)
        steps: Iterator[Tensor] = visits(data, size, key, own) if minibatch_noise else repeat(index)
        try:
            bound = bind_objective(objective, {**(objective_options or {}), **options})[1]
            backward = Backward(bound, data, whole, labelled_rows=own)
            names = {"model": {n for n, _ in model.named_parameters()}, "guide": shared}
            places = entries(sides, seed, looked_at, names)
            parts = draws(model, guide, sides, places, backward, steps, num_gradients, key)
        except ValueError as error:
            refused[name] = str(error)
            continue
        if not any(bool(g.any()) for g in parts.values()):
            refused[name] = "it gives no parameter a gradient"
            continue
        found[name] = parts
    if not found:
        raise ValueError(f"no way gives a gradient: {'; '.join(refused.values())}")
    moved = {side for parts in found.values() for side, g in parts.items() if g.any()}
    judged = {
        name: {side: _noise(name, side, found, unbiased) for side in parts if side in moved}
        for name, parts in found.items()
    }
    return GradientNoise(judged, refused, num_gradients, size)


def _sides(model: Model, guide: Any) -> dict[str, nn.Module]:
    return {k: v for k, v in (("model", model), ("guide", guide)) if isinstance(v, nn.Module)}


def _shared(guides: Sequence[Any]) -> set[str]:
    """The names of the parameters that all guides have, of the same shape."""
    named = [
        {(name, p.shape) for name, p in guide.named_parameters()}
        for guide in guides
        if isinstance(guide, nn.Module)
    ]
    return {name for name, _ in set.intersection(*named)} if named else set()


def _noise(
    name: str, side: str, found: Mapping[str, Mapping[str, Tensor]], unbiased: Sequence[str]
) -> Noise:
    g = found[name][side]
    others = {n: found[n][side] for n in unbiased if n in found and n != name}
    if name in unbiased:  # the same draws by another name tell nothing
        others = {n: r for n, r in others.items() if not torch.equal(r, g)}
    spread = {n: variance(r).value for n, r in others.items()}
    size = max(float(r.square().mean(0).sum().sqrt()) for r in (g, *others.values()))
    still = [n for n in others if spread[n] <= (STILL * size) ** 2]
    bias = None
    if others:
        exact = bool(still)
        against = tuple(still[:1] or others)
        weights = [1.0] if exact else [1 / spread[n] for n in against]
        parts = zip(weights, against, strict=True)
        reference = sum((w * others[n] for w, n in parts), torch.zeros_like(g)) / sum(weights)
        bias = Bias(*distance(g - reference, size), against, exact)
    return Noise(g.shape[1], norm(g), variance(g), signal_to_noise(g), bias)
