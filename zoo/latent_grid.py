"""What a model makes of a grid of points in its latent space."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.context import seeded, validation
from zoo.data import Batch
from zoo.decoding import expected
from zoo.functions import PlainModel
from zoo.handlers import Record, Replay, in_plate
from zoo.model import Model, as_model

PRIOR_DRAWS = 10_000  # where a prior does not know its mean or its variance


@torch.no_grad()
def manifold(
    model: Model | Callable[..., Any],
    size: int = 20,
    *,
    dims: Sequence[int] | None = None,
    quantiles: tuple[float, float] = (0.05, 0.95),
    inputs: Mapping[str, Any] | None = None,
    held: Mapping[str, Tensor] | None = None,
    latent: str | None = None,
    site: str = "x",
    batch_size: int = 256,
) -> Tensor:
    """E[x | z] on a grid of z: the inverse Gaussian cdf of the unit square, (size², *event).

    z_i = m_i + s_i Φ⁻¹(u), m and s the prior's mean and standard deviation (0 and 1 for N(0, I)),
    u in equal steps over ``quantiles``. Along the rows of the picture the first dimension rises,
    down its columns the second falls. Other dimensions stay at m; of several layers of latents
    the top one moves, and those below it follow at their means given it.

    Args:
        model: p.
        size: points along each side.
        dims: the two dimensions that are varied, or one for a row of ``size`` points; by default
            those of a latent that has no more.
        quantiles: the first and the last u, inside (0, 1).
        inputs: name -> one value (*event), for all points, of what the model conditions on.
        held: name -> (*event), values of latents that all points have in common: of those that all
            rows share, such as ``global_means``, or of a class.
        latent: the one that is varied; by default the first that the model samples.
        site: x.
        batch_size: points at a time.

    Raises:
        ValueError: more than two dimensions and no ``dims``; a dimension or a latent that is not
            there; a plain function, whose rows come from data; a missing input.

    Reference: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014.

    Example:
        >>> from zoo.models.toy_dlvm import ToyDLVM
        >>> manifold(ToyDLVM(6), 5).shape
        torch.Size([25, 6])
    """
    model = as_model(model)
    low, high = quantiles
    if size < 2 or not 0 < low < high < 1:
        raise ValueError(f"size counts from 2 and 0 < low < high < 1, got {size}, {quantiles}")
    if isinstance(model, PlainModel):
        raise ValueError("a plain function takes its rows from data; write it as a Model")
    given = {
        name: torch.as_tensor(value, device=model.device) for name, value in (inputs or {}).items()
    }
    held = dict(held or {})
    with seeded(0, model.device), validation(False):
        name, shape, mean, spread = _top(model, given, held, latent, site)
        chosen = _dims(name, shape.numel(), dims)
        u = torch.linspace(low, high, size, dtype=mean.dtype, device=mean.device)
        steps = math.sqrt(2) * torch.erfinv(2 * u - 1)  # Φ⁻¹
        grid = torch.cartesian_prod(*[steps] * len(chosen)).reshape(-1, len(chosen)).flip(-1)
        z = mean.flatten().repeat(len(grid), 1)
        for place, dim in enumerate(chosen):
            sign = 1 if place == 0 else -1
            z[:, dim] += sign * spread.flatten()[dim] * grid[:, place]
        parts = [
            expected(
                model,
                _points(given, len(part), model),
                {name: part.reshape(-1, *shape), **held},
                site,
            )
            for part in z.split(batch_size)
        ]
    return torch.cat(parts)


def _points(inputs: Mapping[str, Tensor], count: int, model: Model) -> Batch:
    """So many rows, the inputs of each the same."""
    values = {name: value.expand(count, *value.shape) for name, value in inputs.items()}
    return Batch(values, torch.arange(count, device=model.device), count)


def _run(model: Model, rows: Batch, held: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sites of one run."""
    with Record() as p, Replay({name: {"value": value} for name, value in held.items()}):
        model.run(rows)
    return p.sites


def _top(
    model: Model,
    inputs: Mapping[str, Tensor],
    held: Mapping[str, Tensor],
    latent: str | None,
    site: str,
) -> tuple[str, torch.Size, Tensor, Tensor]:
    """The first continuous latent of a row: its name, event shape, prior mean and deviation."""
    p = _run(model, _points(inputs, 1, model), held)
    free = {n: s for n, s in p.items() if not s["is_observed"] and n not in (*held, site)}
    if lost := sorted(n for n, s in free.items() if not in_plate(s, model.plate)):
        raise ValueError(
            f"all rows share {lost}: hold them at values, held=global_means(model, guide, data)"
        )
    smooth = {n: s["fn"] for n, s in free.items() if not s["fn"].support.is_discrete}
    if not smooth:
        raise ValueError("the model has no continuous latents of rows, hence no latent space")
    if latent is not None and latent not in smooth:
        raise ValueError(f"no continuous latent of rows is called {latent!r}, only {list(smooth)}")
    name = latent or next(iter(smooth))
    fn = smooth[name]
    if len(free) == len(smooth):
        try:
            return name, fn.event_shape, fn.mean[0], fn.variance[0].sqrt()
        except NotImplementedError:
            draws = fn.sample((PRIOR_DRAWS,))[:, 0]
    else:  # its prior depends on the values of discrete latents
        draws = _run(model, _points(inputs, PRIOR_DRAWS, model), held)[name]["value"]
    return name, fn.event_shape, draws.mean(0), draws.std(0)


def _dims(name: str, count: int, dims: Sequence[int] | None) -> tuple[int, ...]:
    """The one or two dimensions that are varied."""
    if dims is None:
        if count > 2:
            raise ValueError(
                f"a manifold is drawn on a plane of the latents, and {name} has {count} "
                "dimensions; name two by dims (--dims 0,1), the others stay at the prior's mean"
            )
        return tuple(range(count))
    chosen = tuple(dims)
    if not 1 <= len(set(chosen)) == len(chosen) <= 2 or not all(0 <= d < count for d in chosen):
        raise ValueError(
            f"dims names one or two of the {count} dimensions of {name}, from 0 to {count - 1}; "
            f"got {list(chosen)}"
        )
    return chosen
