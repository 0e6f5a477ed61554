"""The cases of `step_time`: data, minibatches and starting values, as NumPy arrays.

Every contender of a case gets the same arrays, so that all compute the same loss from the same
weights. Names and layouts are those of torch: ``decoder.0.weight`` is (out, in). What a model has
beside networks is under ``decoder``, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

Array = np.ndarray
LR = 1e-3  # Adam's, of every contender
FOLDS = 8  # of the planar flow
WINE = 142  # training rows
SOFTPLUS_ONE = math.log(math.e - 1)  # softplus of it is 1


@dataclass(frozen=True)
class Case:
    """A model, a guide, an objective and a batch size.

    Attributes:
        name: its word.
        what: a line on it.
        model: ppca (z ~ N(0, I), x ~ N(W z + μ, σ²)), vae (tanh decoder, Bernoulli) or gmm (full
            covariances).
        guide: encoder (a ReLU network to the means and scales), planar (one to those and to the
            folds of a flow), table (a row for each datapoint) or none (latents are summed out).
        features: D.
        latent: d, or the number of components.
        hidden: width of the one hidden layer of the decoder, and of the encoder.
        batch: B.
        rows: N.
        particles: K; above 1 the bound is the importance-weighted one.
        encoder: widths of the encoder's hidden layers, where they are others.
        steps: how many one call takes; fewer where a step is long.
        device: cpu or cuda.
        data: (N, D), float32.
        order: (steps, B), the rows of each step of a call.
        start: the weights to start from.
    """

    name: str
    what: str
    model: Literal["ppca", "vae", "gmm"]
    guide: Literal["encoder", "planar", "table", "none"]
    features: int
    latent: int
    hidden: int
    batch: int
    rows: int
    particles: int = 1
    encoder: tuple[int, ...] = ()
    steps: int = 100
    device: str = "cpu"
    data: Array = field(default_factory=lambda: np.zeros(0), repr=False)
    order: Array = field(default_factory=lambda: np.zeros(0), repr=False)
    start: dict[str, Array] = field(default_factory=dict, repr=False)

    @property
    def num_kappa(self) -> int:
        """P, the numbers that the guide has for a datapoint."""
        folds = FOLDS * (2 * self.latent + 1) if self.guide == "planar" else 0
        return 2 * self.latent + folds


CASES = {
    case.name: case
    for case in (
        Case("small_vae", "VAE 8-16-2", "vae", "encoder", 8, 2, 16, 150, 1000),
        Case("ppca", "PPCA, d = 2, wine", "ppca", "encoder", 13, 2, 0, 100, WINE, encoder=(64, 64)),
        Case("gmm", "GMM, 3 components, wine", "gmm", "none", 13, 3, 0, 100, WINE),
        Case("planar", "VAE 8-16-2, planar:8", "vae", "planar", 8, 2, 16, 150, 1000),
        Case("table", "PPCA, d = 2, table of 10⁵ rows", "ppca", "table", 10, 2, 0, 100, 100_000),
        Case("vae_200_50", "VAE 784-200-50", "vae", "encoder", 784, 50, 200, 20, 10_000, steps=25),
        Case("vae_400_20", "VAE 784-400-20", "vae", "encoder", 784, 20, 400, 128, 10_000, steps=25),
        Case(
            "iwae",
            "VAE 784-200-50, IWAE, K = 50",
            "vae",
            "encoder",
            784,
            50,
            200,
            20,
            10_000,
            50,
            (),
            25,
        ),
    )
}


def make(name: str, steps: int | None = None, device: str = "cpu") -> Case:
    """A case with its arrays, whose calls take so many steps, by default those of the case.

    Raises:
        ValueError: a case that is not there.
    """
    if name not in CASES:
        raise ValueError(f"there is no case {name!r}; there are {', '.join(CASES)}")
    case, random = CASES[name], np.random.RandomState(0)
    data = _data(case, random)
    calls = range(case.steps if steps is None else steps)
    order = np.stack([random.permutation(case.rows)[: case.batch] for _ in calls])
    start = {**_model(case, data, random), **_guide(case, random)}
    start = {key: np.asarray(value, np.float32) for key, value in start.items()}
    more = {"data": data, "order": order, "start": start}
    return replace(case, steps=len(order), device=device, **more)


def _data(case: Case, random: np.random.RandomState) -> Array:
    """(N, D), float32."""
    if case.rows == WINE:
        from zoo import load_data

        return load_data("wine").train["x"].numpy()
    if case.model == "vae":
        inked = random.uniform(size=(case.rows, case.features)) < random.beta(0.5, 2, case.features)
        return inked.astype(np.float32)
    return random.standard_normal((case.rows, case.features)).astype(np.float32)


def _model(case: Case, data: Array, random: np.random.RandomState) -> dict[str, Array]:
    D, d = case.features, case.latent
    if case.model == "ppca":
        weight = random.standard_normal((D, d)) / math.sqrt(d)
        parts = {"weight": weight, "mean": np.zeros(D), "log_scale": np.zeros(())}
    elif case.model == "gmm":
        centres = data[random.permutation(len(data))[:d]]
        below = 0.1 * random.standard_normal((d, D * (D - 1) // 2))
        parts = {"logits": np.zeros(d), "loc": centres, "log_scale": np.zeros((d, D))}
        parts["lower"] = below
    else:
        return _network("decoder", (d, case.hidden, D), random)
    return {f"decoder.{name}": value for name, value in parts.items()}


def _guide(case: Case, random: np.random.RandomState) -> dict[str, Array]:
    d, P = case.latent, case.num_kappa
    kappa = np.concatenate([np.zeros(d), np.full(d, SOFTPLUS_ONE), np.zeros(P - 2 * d)])
    if case.guide == "planar":  # w, u and b of every fold
        w, u = (random.standard_normal((FOLDS, d)) / math.sqrt(d) for _ in range(2))
        kappa[2 * d :] = np.concatenate([w, 0.1 * u, np.zeros((FOLDS, 1))], -1).ravel()
    if case.guide == "table":
        return {"table.weight": np.tile(kappa, (case.rows, 1))}
    if case.guide == "none":
        return {}
    widths = (case.features, *(case.encoder or (case.hidden,)), P)
    layers = _network("encoder", widths, random)
    last = f"encoder.{2 * (len(widths) - 2)}"
    layers[f"{last}.weight"] *= 0.1
    layers[f"{last}.bias"] = kappa
    return layers


def _network(name: str, widths: Sequence[int], random: np.random.RandomState) -> dict[str, Array]:
    """Layers with torch's own start, named as in a Sequential with an activation after each."""
    layers = {}
    for i, (fan_in, fan_out) in enumerate(zip(widths, widths[1:], strict=False)):
        bound = 1 / math.sqrt(fan_in)
        layers[f"{name}.{2 * i}.weight"] = random.uniform(-bound, bound, (fan_out, fan_in))
        layers[f"{name}.{2 * i}.bias"] = random.uniform(-bound, bound, fan_out)
    return layers
