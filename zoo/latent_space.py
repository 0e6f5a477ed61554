"""Where data lie in the latent space of a trained model, and what the model makes of its points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.context import seeded, stream, validation
from zoo.data import Batch, as_dataset
from zoo.decoding import draw, expected, latent_shapes, tiled
from zoo.latent_grid import manifold
from zoo.latent_sites import posterior_means
from zoo.model import Model, as_model
from zoo.weights import log_weights

__all__ = ["encode", "global_means", "interpolate", "manifold", "reconstruct"]


@torch.no_grad()
def encode(
    model: Model | Callable[..., Any],
    guide: Any,
    data: Any,
    *,
    num_samples: int = 100,
    seed: int = 0,
    batch_size: int = 256,
) -> Tensor:
    """E_q[z | x] of every row, (N, d): features for a classifier, a plot, or a search.

    The continuous latents or bits of a row stand side by side, in the order in which p samples them
    (the top layer first). The mean is exact where q knows it, else that of ``num_samples`` draws.

    Args:
        model: p.
        guide: q; for rows that a table was not fitted to, ``guide.infer(data)``.
        data: N rows.
        num_samples: S.
        seed: of the draws.
        batch_size: rows at a time.

    Raises:
        ValueError: no continuous latents of rows; num_samples below 1.

    Example:
        >>> from guides import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> z = encode(model, Guide(model, data, "exact"), data)
        >>> bool(torch.allclose(z, model.posterior(data["x"]).mean))
        True
    """
    model, data = as_model(model), as_dataset(data)
    parts = []
    with seeded(stream(seed, "encode"), model.device), validation(False):
        for batch in data.batches(batch_size):
            means = _means(model, guide, batch.to(model.device), num_samples)
            parts.append(torch.cat([z.reshape(len(batch), -1) for z in means.values()], -1))
    return torch.cat(parts)


@torch.no_grad()
def reconstruct(
    model: Model | Callable[..., Any],
    guide: Any,
    data: Any,
    *,
    num_draws: int | None = None,
    num_samples: int = 100,
    site: str = "x",
    seed: int = 0,
    batch_size: int = 256,
) -> Tensor:
    """E[x | z] at z = E_q[z | x] of every row, (N, *event), or averaged over draws z ~ q(z | x).

    Discrete latents are summed out with p(y | x, z); latents that all rows share stand at their
    means under q. ``zoo.hiding.entry_error`` says how far it is from the data.

    Args:
        model: p.
        guide: q; for rows that a table was not fitted to, ``guide.infer(data)``.
        data: N rows.
        num_draws: draws of z that E[x | z] is averaged over; by default none: the mean of z.
        num_samples: draws for means of q that are not known.
        site: x.
        seed: of the draws.
        batch_size: rows at a time.

    Raises:
        ValueError: counts below 1; no such site.

    Reference: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014.

    Example:
        >>> from guides import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> reconstruct(model, Guide(model, data, "exact"), data).shape
        torch.Size([50, 4])
    """
    if num_draws is not None and num_draws < 1:
        raise ValueError(f"num_draws counts draws from 1, got {num_draws}")
    model, data = as_model(model), as_dataset(data)
    parts = []
    with seeded(stream(seed, "reconstruct"), model.device), validation(False):
        shared = global_means(model, guide, next(data.batches(1)), num_samples)
        for batch in data.batches(batch_size):
            batch = batch.to(model.device)
            if num_draws is None:
                z = _means(model, guide, batch, num_samples, needed=False)
                parts.append(expected(model, batch, {**z, **shared}, site, seen=True))
                continue
            total = torch.zeros((), device=model.device)
            for _ in range(num_draws):
                total = total + expected(model, batch, draw(guide, batch), site, seen=True)
            parts.append(total / num_draws)
    return torch.cat(parts)


@torch.no_grad()
def interpolate(
    model: Model | Callable[..., Any],
    guide: Any,
    a: Any,
    b: Any,
    *,
    steps: int = 10,
    spherical: bool = False,
    num_samples: int = 100,
    site: str = "x",
    seed: int = 0,
) -> Tensor:
    """E[x | z_t] on the way from the posterior mean of a row of ``a`` to that of one of ``b``.

    z_t = (1 − t) z_a + t z_b, or on the great circle z_t = (sin((1 − t) ω) z_a + sin(t ω) z_b) /
    sin ω, ω the angle between z_a and z_b; t = 0, …, 1 in equal steps. All layers of latents move
    together, each on a line or a circle of its own. Inputs (labels, exposures) are those of ``a``.

    Args:
        model: p.
        guide: q for the rows of both, or a pair (q_a, q_b): a table is of the rows of one side.
        a, b: P rows each.
        steps: T, both ends with them.
        spherical: along a great circle.
        num_samples: draws for means of q that are not known.
        site: x.
        seed: of the draws.

    Returns:
        (P, T, *event).

    Raises:
        ValueError: other numbers of rows; fewer than 2 steps; no continuous latents of rows.

    Example:
        >>> from guides import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> guide, one, two = Guide(model, data, "exact"), data.subset([0, 1]), data.subset([2, 3])
        >>> interpolate(model, guide, one, two, steps=5).shape
        torch.Size([2, 5, 4])
    """
    model, (a, b) = as_model(model), (as_dataset(part) for part in (a, b))
    if len(a) != len(b) or steps < 2:
        raise ValueError(
            f"interpolate takes as many rows on both sides, and steps from 2; got {len(a)} and "
            f"{len(b)} rows, {steps} steps"
        )
    with seeded(stream(seed, "interpolate"), model.device), validation(False):
        ends = [part.fixed().batch().to(model.device) for part in (a, b)]
        guides = guide if isinstance(guide, tuple) else (guide, guide)
        shared = global_means(model, guides[0], ends[0].rows(1), num_samples)
        one, two = (_means(model, q, end, num_samples) for q, end in zip(guides, ends, strict=True))
        t = torch.linspace(0, 1, steps, dtype=model.dtype, device=model.device)
        between = great_circle if spherical else lambda u, v, t: torch.lerp(u, v, t)
        path = {
            name: between(one[name].flatten(1), two[name].flatten(1), t[:, None, None]).reshape(
                -1, *one[name].shape[1:]
            )
            for name in one
        }  # (T P, *event)
        x = expected(model, tiled(ends[0], steps), {**path, **shared}, site)
    return x.unflatten(0, (steps, len(a))).transpose(0, 1)


def great_circle(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Between a and b, both (..., d), at t in [0, 1]; the line where they have one direction.

    Example:
        >>> great_circle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor(0.5))
        tensor([0.7071, 0.7071])
    """
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).unsqueeze(-1)
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    curved = (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / sine
    return torch.where(sine > 1e-4, curved, a + t * (b - a))


def global_means(
    model: Model | Callable[..., Any], guide: Any, batch: Any, num_samples: int = 100
) -> dict[str, Tensor]:
    """E_q[g] of the latents that all rows share, name -> (*event), from S draws; {} without any."""
    model = as_model(model)
    batch = batch if isinstance(batch, Batch) else as_dataset(batch).batch()
    batch = batch.to(model.device)
    with torch.no_grad(), validation(False):
        weights = log_weights(model, guide, batch)
        if not weights.has_globals:
            return {}
        weights = log_weights(model, guide, batch, 1, num_samples)
    return {
        name: weights.values[name].reshape(num_samples, *found["fn"].event_shape).mean(0)
        for name, found in weights.globals.items()
        if not (found["infer"] or {}).get("is_auxiliary") and not found["fn"].support.is_discrete
    }


def _means(
    model: Model, guide: Any, batch: Batch, num_samples: int, needed: bool = True
) -> dict[str, Tensor]:
    """site -> (B, *event) posterior means of the continuous latents and bits, in the order of p."""
    if num_samples < 1:
        raise ValueError(f"num_samples counts draws from 1, got {num_samples}")
    shapes = latent_shapes(model, batch)
    if needed and not shapes:
        raise ValueError(
            "the model has no continuous latents of rows, hence no latent space; its clusters are "
            "what zoo evaluate and guide.posterior(batch).probabilities report"
        )
    found = posterior_means(model, guide, batch, num_samples) if shapes else {}
    return {
        name: found[name][0].to(model.dtype).reshape(len(batch), *shape)
        for name, shape in shapes.items()
    }
