"""How far apart the models of several restarts are, once what is free in them is aligned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo import identify
from zoo.model import Model


@torch.no_grad()
def apart(models: Sequence[Model]) -> float | None:
    """max_s ‖A(θ_s) − θ_1‖ / ‖θ_1‖ with A the alignment of restart s to the first.

    Loadings (D, d) are aligned by Procrustes; components by the Hungarian method, and θ is then
    their means less the mean of the means.

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
    found = [aligned(other, first) for other in others]
    if not found or any(pair is None for pair in found):
        return None
    return max(((a - b).norm() / b.norm()).item() for a, b in found if a is not None)


def aligned(model: Model, reference: Model) -> tuple[Tensor, Tensor] | None:
    """The parameters of a restart, aligned to those of the reference; and those."""
    if loadings(model) is not None:
        target = loadings(reference)
        return identify.procrustes(loadings(model), target)[0], target
    if callable(getattr(model, "components", None)):
        mine, its = model.components().means, reference.components().means  # type: ignore
        mine = mine[identify.match_components(mine, its)]
        return mine - its.mean(0), its - its.mean(0)
    return None


def loadings(model: Model) -> Tensor | None:
    """Identified loadings (D, d), where the model has them."""
    return model.loadings().detach() if callable(getattr(model, "loadings", None)) else None


def rotation(model: Model, reference: Model) -> Tensor | None:
    """R (d, d) with z ↦ z R from the model's latents to the identified ones of the reference."""
    target = loadings(reference)
    if target is None:
        return None
    return identify.procrustes(model.weight.detach(), target)[1]  # type: ignore[arg-type]
