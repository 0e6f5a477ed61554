"""How far apart the models of several restarts are, once what is free in them is aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo import identify
from zoo.model import Model


@torch.no_grad()
def apart(models: Sequence[Model]) -> float | None:
    """The largest distance of a restart to the first one, once aligned to it.

    Formula: loadings, aligned by Procrustes: ‖W_s R − W_1‖ / ‖W_1‖; components, aligned by the
    Hungarian method: √(Σ_c ‖μ_sc − μ_1c‖² / Σ_c tr Σ_1c).

    Args:
        models: restarts of one model.

    Returns:
        None for a single model, or one that has neither loadings nor components.

    Example:
        >>> from zoo.models.ppca import PPCA
        >>> a, b = PPCA(3, latent_dim=2), PPCA(3, latent_dim=2)
        >>> _ = b.weight.data.copy_(a.weight.flip(1))
        >>> round(apart([a, b]), 5)
        0.0
    """
    first, *others = models
    found = [distance(other, first) for other in others]
    known = [value for value in found if value is not None]
    return max(known) if known else None


def distance(model: Model, reference: Model) -> float | None:
    """From the parameters of a restart, aligned, to those of the reference."""
    target = loadings(reference)
    if target is not None:
        mine, _ = identify.procrustes(loadings(model), target)  # type: ignore[arg-type]
        return ((mine - target).norm() / target.norm()).item()
    if callable(getattr(model, "components", None)):
        _, mine, _ = model.components()  # type: ignore[operator]
        _, target, covariances = reference.components()  # type: ignore[operator]
        mine = mine[identify.match_components(mine, target)]
        spread = covariances.diagonal(dim1=-2, dim2=-1).sum()
        return ((mine - target).square().sum() / spread).sqrt().item()
    return None


def loadings(model: Model) -> Tensor | None:
    """Identified loadings (D, d), where the model has them."""
    known: Any = getattr(model, "loadings", None)
    weight = getattr(model, "weight", None)
    if known is None or (isinstance(weight, Tensor) and not identifiable(weight)):
        return None
    return known().detach()


def identifiable(weight: Tensor) -> bool:
    """Whether loadings are one matrix (D, d) with d <= D, which has an identified form."""
    return weight.dim() == 2 and weight.shape[1] <= weight.shape[0]


def rotation(model: Model, reference: Model) -> Tensor | None:
    """R (d, d) with z ↦ z R from the model's latents to the identified ones of the reference."""
    target, weight = loadings(reference), getattr(model, "weight", None)
    if target is None or not isinstance(weight, Tensor) or weight.shape != target.shape:
        return None
    return identify.procrustes(weight.detach(), target)[1]
