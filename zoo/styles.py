"""Class apart from style: rows made again in every class, and every class in many styles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.context import seeded, stream, validation
from zoo.data import Batch, as_dataset
from zoo.decoding import EnumerateLatents, draw, expected, tiled
from zoo.handlers import Record, in_plate
from zoo.latent_grid import manifold
from zoo.latent_sites import posterior_means
from zoo.latent_space import global_means
from zoo.model import Model, as_model

__all__ = ["Parts", "analogies", "parts_of", "styles"]


@dataclass(frozen=True)
class Parts:
    """What a model is made of, as far as class and style go.

    Attributes:
        label: the site of the class.
        count: C, how many classes there are.
        style: name -> event shape of the continuous latents of a row whose prior does not depend on
            the class, in the order of p.
        rest: names of the others, which follow from class and style.
    """

    label: str
    count: int
    style: dict[str, torch.Size]
    rest: tuple[str, ...]

    def chosen(self, latent: str | None) -> dict[str, torch.Size]:
        """The latent of that name, or all of the style.

        Raises:
            ValueError: no such latent; a model whose latents all depend on the class.
        """
        if latent is not None and latent in self.style:
            return {latent: self.style[latent]}
        names = [*self.style, *self.rest]
        if latent is not None:
            after = f"; {latent} depends on the class" if latent in self.rest else ""
            raise ValueError(
                f"the style is a latent that does not depend on the class {self.label}, which "
                f"{latent!r} is not: of the latents {names} those are {list(self.style)}{after}"
            )
        if not self.style:
            what = f"all of {names} depend on it" if names else "there are no continuous ones"
            raise ValueError(
                f"no latent of the rows is free of the class {self.label} ({what}), so the model "
                "has no style apart from it; m2 and m1m2 have"
            )
        return self.style


@torch.no_grad()
def parts_of(model: Model, batch: Batch, site: str = "x") -> Parts:
    """The class and the style of a model, found by one run through all classes.

    Args:
        model: p.
        batch: rows, for the inputs that the model conditions on; nothing else is looked at.
        site: x.

    Raises:
        ValueError: no discrete latent of the rows, or more than one.

    >>> from zoo.models.m1m2 import M1M2
    >>> model, data = M1M2.example()
    >>> parts_of(model, data.batch())
    Parts(label='y', count=3, style={'z2': torch.Size([2])}, rest=('z1',))
    """
    handlers = Record(), EnumerateLatents(model.plate, site)
    with seeded(0, model.device), validation(False), handlers[0] as p, handlers[1] as classes:
        model.run(batch)
    found = list(classes.sizes)
    if len(found) != 1:
        raise ValueError(
            f"class and style take a model with one discrete latent of its rows, the class; "
            f"{type(model).__name__} has {found or 'none'}"
        )
    style, rest = {}, []
    for name, latent in p.sites.items():
        fn = latent["fn"]
        if name == site or latent["is_observed"] or not in_plate(latent, model.plate):
            continue
        if fn.support.is_discrete:
            continue
        if len(fn.batch_shape) > 3:  # one for every class
            rest.append(name)
        else:
            style[name] = fn.event_shape
    return Parts(found[0], classes.sizes[found[0]], style, tuple(rest))


@torch.no_grad()
def analogies(
    model: Model | Callable[..., Any],
    guide: Any,
    batch: Any,
    *,
    y: Tensor | None = None,
    latent: str | None = None,
    num_draws: int | None = None,
    num_samples: int = 100,
    site: str = "x",
    seed: int = 0,
) -> Tensor:
    """E[x | y = c, z] of every class c, in the style z = E_q[z | x, y*] of each row.

    y* = argmax q(y | x). z are the latents whose prior does not depend on the class; latents that
    do, such as z1 of `M1M2`, stand at the mean of p given y = c and z. Latents that all rows share
    stand at their means under q.

    Args:
        model: p, with one discrete latent of its rows.
        guide: q for the rows.
        batch: B rows. Labels that they have are not looked at.
        y: (B,), the classes of the rows in place of y*.
        latent: the one latent that is taken from the row, the others then at the mean of p; by
            default all that do not depend on the class.
        num_draws: draws z ~ q(z | x, y*) that E[x | y = c, z] is averaged over; by default none:
            the mean of z.
        num_samples: draws for means of q that are not known.
        site: x.
        seed: of the draws.

    Returns:
        (B, C, *event).

    Raises:
        ValueError: no or several discrete latents; no latent free of the class; counts below 1.

    Reference: Kingma, Rezende, Mohamed & Welling, Semi-supervised learning with deep generative
    models, 2014.

    >>> from guides import Guide
    >>> from zoo.models.m2 import M2
    >>> model, data = M2.example()
    >>> analogies(model, Guide(model, data), data.subset([0, 1])).shape
    torch.Size([2, 3, 6])
    """
    if min(num_samples, num_samples if num_draws is None else num_draws) < 1:
        raise ValueError(f"draws count from 1, got {num_draws} and {num_samples}")
    model = as_model(model)
    if not isinstance(batch, Batch):
        data = as_dataset(batch)
        batch = data.without(*data.partial).fixed().batch()
    batch = batch.to(model.device)
    with seeded(stream(seed, "analogies"), model.device), validation(False):
        parts = parts_of(model, batch, site)
        style = parts.chosen(latent)
        batch = batch.without(*{parts.label}.intersection(batch))
        own = guide.classify(batch)[parts.label].argmax(-1) if y is None else y.to(model.device)
        known = replace(batch, values={**batch.values, parts.label: own})
        shared = global_means(model, guide, batch.rows(1), num_samples)
        if num_draws is None:
            means = posterior_means(model, guide, known, num_samples)
            draws = [{name: means[name][0].to(model.dtype) for name in style}]
        else:
            draws = [draw(guide, known) for _ in range(num_draws)]
        rows = tiled(batch, parts.count)  # class by class
        label = torch.arange(parts.count, device=model.device).repeat_interleave(len(batch))
        total = torch.zeros((), device=model.device)
        for values in draws:
            z = {
                name: values[name].reshape(-1, *shape).repeat(parts.count, *[1] * len(shape))
                for name, shape in style.items()
            }
            total = total + expected(model, rows, {**z, **shared, parts.label: label}, site)
    return (total / len(draws)).unflatten(0, (parts.count, len(batch))).transpose(0, 1)


@torch.no_grad()
def styles(
    model: Model | Callable[..., Any],
    size: int = 20,
    *,
    classes: Sequence[int] | None = None,
    latent: str | None = None,
    dims: Sequence[int] | None = None,
    quantiles: tuple[float, float] = (0.05, 0.95),
    inputs: Mapping[str, Any] | None = None,
    held: Mapping[str, Tensor] | None = None,
    site: str = "x",
) -> Tensor:
    """E[x | y = c, z] on the grid of ``zoo.manifold``, z the style, for every class c.

    Args:
        model: p, with one discrete latent of its rows.
        size: points along each side.
        classes: c; by default all of them.
        latent: the one that is varied; by default the first whose prior does not depend on the
            class.
        dims: the two dimensions that are varied, or one; by default those of a latent that has no
            more. The others stay at the mean of the prior, which for N(0, I) is 0.
        quantiles, inputs, held: as for ``zoo.manifold``.
        site: x.

    Returns:
        (C, size, size, *event), with one dimension (C, 1, size, *event).

    Raises:
        ValueError: a class that is not there; as ``analogies`` and ``zoo.manifold``.

    Reference: Kingma, Rezende, Mohamed & Welling, Semi-supervised learning with deep generative
    models, 2014.

    >>> from zoo.models.m2 import M2
    >>> styles(M2.example()[0], 4, classes=[2, 0]).shape
    torch.Size([2, 4, 4, 6])
    """
    model = as_model(model)
    given = {k: torch.as_tensor(v, device=model.device) for k, v in (inputs or {}).items()}
    row = {name: value.unsqueeze(0) for name, value in given.items()}
    start = torch.zeros(1, dtype=torch.long, device=model.device)
    parts = parts_of(model, Batch(row, start, 1), site)
    name = next(iter(parts.chosen(latent)))
    chosen = range(parts.count) if classes is None else list(classes)
    if not chosen or not all(0 <= c < parts.count for c in chosen):
        raise ValueError(
            f"classes names some of the {parts.count} classes {parts.label}, from 0 to "
            f"{parts.count - 1}; got {list(chosen)}"
        )
    options: Any = {"dims": dims, "quantiles": quantiles, "inputs": given, "site": site}
    panels = []
    for c in chosen:
        fixed = {**(held or {}), parts.label: start[0] + c}
        panels.append(manifold(model, size, latent=name, held=fixed, **options))
    return torch.stack(panels).unflatten(1, (-1, size))
