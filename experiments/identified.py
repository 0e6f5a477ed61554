"""What a model has learned, in a form that another run can be held against.

Loadings are free up to a rotation and components up to their order, so both are reported
identified: columns orthogonal by falling variance with their signs fixed (or rotated by varimax),
components by falling weight. A model brings them by a method ``loadings(rotate)``, (D, d) or
(C, D, d), or ``components()``; where they are latent, by ``posterior_loadings(samples, rotate)`` or
``posterior_components(samples)``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from guides.guide import Guide
from zoo.context import seeded
from zoo.data import Dataset
from zoo.model import Model

Rotation = Literal["none", "varimax"]
DRAWS, SEED = 500, 0x1DE27  # of the posterior of latents that all rows share


@dataclass(frozen=True)
class Loadings:
    """Loadings W (D, d), or (C, D, d) of a mixture whose components stand by falling weight.

    Attributes:
        values: W, in units of x as the model is given it.
        rotate: none (orthogonal columns by falling variance) or varimax.
        features: names of the D columns of x.
        latent: whether W is a posterior mean.
    """

    values: Tensor
    rotate: Rotation
    features: Sequence[str]
    latent: bool = False

    @property
    def variance(self) -> Tensor:
        """Σ_i W_ij² (d,), or (C, d): the variance of x that a column accounts for."""
        return self.values.square().sum(-2)

    def as_dict(self) -> dict[str, Any]:
        """What ``summary.json`` says of them."""
        return {
            "rotate": self.rotate,
            "sum_of_squares": self.variance.tolist(),
            "posterior_mean": self.latent,
        }

    def as_rows(self) -> list[dict[str, Any]]:
        """What ``loadings.csv`` holds: a line a feature (of a component)."""
        rows = []
        stack = self.values if self.values.dim() == 3 else self.values[None]
        for c, matrix in enumerate(stack.tolist(), 1):
            start = {"component": c} if self.values.dim() == 3 else {}
            for feature, line in zip(self.features, matrix, strict=True):
                columns = {f"z{j}": value for j, value in enumerate(line, 1)}
                rows.append({**start, "feature": feature, **columns})
        return rows


@dataclass(frozen=True)
class Components:
    """Components of a mixture by falling weight.

    Attributes:
        weights: π (C,).
        means: μ (C, D), in units of x as the model is given it.
        sds: √diag Σ_c (C, D), likewise.
        features: names of the D columns of x.
        latent: whether they are posterior means.
    """

    weights: Tensor
    means: Tensor
    sds: Tensor
    features: Sequence[str]
    latent: bool = False

    def as_dict(self) -> dict[str, Any]:
        """What ``summary.json`` says of them."""
        return {"weights": self.weights.tolist(), "posterior_mean": self.latent}

    def as_rows(self) -> list[dict[str, Any]]:
        """What ``components.csv`` holds: a line a feature of a component."""
        return [
            {"component": c, "weight": weight, "feature": feature, "mean": mean, "sd": sd}
            for c, (weight, means, sds) in enumerate(
                zip(self.weights.tolist(), self.means.tolist(), self.sds.tolist(), strict=True), 1
            )
            for feature, mean, sd in zip(self.features, means, sds, strict=True)
        ]


@torch.no_grad()
def identified(
    model: Model, guide: Guide, data: Dataset, rotate: Rotation = "none"
) -> dict[str, Loadings | Components]:
    """The loadings and the components of a fitted model, as far as it has them.

    Args:
        model, guide: as fitted.
        data: what they were fitted to, for the names of its columns.
        rotate: of the loadings.

    Returns:
        ``loadings`` and ``components``, or less. Loadings of more columns than rows (d > D) have
        no identified form and are left out.

    Example:
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> found = identified(model, Guide(model, data, "exact"), data)
        >>> list(found), found["loadings"].values.shape
        (['loadings'], torch.Size([4, 2]))
    """
    found: dict[str, Loadings | Components] = {}
    known: Any = model
    hooks = ("posterior_loadings", "posterior_components")
    shared = _draws(guide, data) if any(hasattr(model, name) for name in hooks) else {}
    W, latent = None, hasattr(model, "posterior_loadings")
    turn = () if rotate == "none" else (rotate,)
    with contextlib.suppress(ValueError):  # d > D
        if latent:
            W = known.posterior_loadings(shared, *turn)
        elif callable(getattr(model, "loadings", None)):
            W = known.loadings(*turn)
    if W is not None:
        W = W.detach().cpu()
        found["loadings"] = Loadings(W, rotate, names_of(data, W.shape[-2]), latent)
    parts, latent = None, hasattr(model, "posterior_components")
    if latent:
        parts = known.posterior_components(shared)
    elif callable(getattr(model, "components", None)):
        parts = known.components()
    if parts is not None:
        weights, means, covariances = (part.detach().cpu() for part in parts)
        sds = covariances.diagonal(dim1=-2, dim2=-1).sqrt()
        names = names_of(data, means.shape[-1])
        found["components"] = Components(weights, means, sds, names, latent)
    return found


def _draws(guide: Guide, data: Dataset) -> Mapping[str, Tensor]:
    """Draws of the latents that all rows share, always the same ones."""
    batch = next(data.batches(2)).to(guide.model.device)
    with seeded(SEED, guide.model.device):
        return guide.posterior(batch.unscaled(), DRAWS).samples


def names_of(data: Dataset, size: int) -> Sequence[str]:
    """Names of the columns of x, ``x1``, ``x2``, … where they have none."""
    names = data.feature_names
    if names is not None and len(names) == size:
        return names
    return [f"x{i}" for i in range(1, size + 1)]
