"""What of a fitted model stays the same when its latents are turned or its labels renumbered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.context import seeded
from zoo.data import Dataset
from zoo.evaluation import exact_evidence
from zoo.exact import knows, responsibilities
from zoo.model import Model
from zoo.predictive import predict

ROWS = 200  # at most, that draws and co-assignments are of


@dataclass(frozen=True)
class Functional:
    """Something of a fitted model that is the same however its parameters are turned.

    Attributes:
        name: log p(x), WWᵀ, co-assignment, or predictive mean of a site.
        distances: (R, R), ‖F_r − F_s‖ relative to the size of F, Monte-Carlo noise taken off.
        errors: (R, R), Monte-Carlo standard errors; 0 for what is exact.
        rhat: √(1 + between/within), between restarts over the variance of one draw within a
            restart; None for what is not a mean of draws.
    """

    name: str
    distances: Tensor
    errors: Tensor
    rhat: float | None

    @property
    def distance(self) -> tuple[float, float]:
        """The largest over pairs of restarts, and its Monte-Carlo standard error."""
        place = int(self.distances.argmax())
        return float(self.distances.flatten()[place]), float(self.errors.flatten()[place])


class Value(NamedTuple):
    """F of one restart.

    Attributes:
        mean: (F,).
        size: what a distance is relative to.
        variance: (F,), of one draw, where F is a mean of S draws.
        samples: S.
    """

    mean: Tensor
    size: float
    variance: Tensor | None = None
    samples: int = 1


Pairs = Sequence[tuple[Model, Any]]


def values_of(
    pairs: Pairs, data: Dataset, samples: int, seed: int
) -> Iterator[tuple[str, list[Value] | str]]:
    """Every functional by name: its values, or why there are none."""
    few = data if len(data) <= ROWS else data.only(torch.arange(ROWS))
    makers: dict[str, Callable[[Model, Any], Value | str]] = {
        "log p(x)": lambda model, _: _evidence(model, data),
        "WWᵀ": lambda model, _: _loadings(model),
        "co-assignment": lambda model, guide: _together(model, guide, few),
    }
    for name, make in makers.items():
        try:
            values = [make(model, guide) for model, guide in pairs]
        except ValueError as error:
            values = [str(error)]
        why = next((value for value in values if isinstance(value, str)), None)
        yield name, why or [value for value in values if isinstance(value, Value)]
    if pairs[0][1] is None:
        yield "predictive mean", "no guides are given"
        return
    try:
        means = [_predicted(*pair, few, samples, seed + r) for r, pair in enumerate(pairs)]
    except ValueError as error:
        yield "predictive mean", str(error)
        return
    for site in means[0]:
        yield f"predictive mean of {site}", [mean[site] for mean in means]


def _evidence(model: Model, data: Dataset) -> Value | str:
    found = exact_evidence(model, data)
    return "the model does not know it" if found is None else _of_rows(found.rows)


def _loadings(model: Model) -> Value | str:
    weight = getattr(model, "weight", None)
    known = callable(getattr(model, "loadings", None)) and isinstance(weight, Tensor)
    if not known or weight.dim() != 2:  # type: ignore[union-attr]
        return "the model has no loadings"
    product = (weight.double() @ weight.double().mT).flatten()  # type: ignore[union-attr]
    return Value(product.cpu(), float(product.norm()))


def _together(model: Model, guide: Any, data: Dataset) -> Value | str:
    """Σ_c r_nc r_mc, (M M,)."""
    exact = knows(model, "responsibilities")
    if not exact and not (callable(getattr(guide, "classify", None)) and guide.latents.discrete):
        return "no latent of the rows is discrete, or no guide is given"
    parts = []
    for batch in data.batches(1024):
        batch = batch.to(model.device)
        shares = [responsibilities(model, batch)] if exact else list(guide.classify(batch).values())
        parts.append(torch.cat(shares, -1).double())
    r = torch.cat(parts)
    product = (r @ r.mT).flatten()
    return Value(product.cpu(), float(product.norm()))


def _predicted(
    model: Model, guide: Any, data: Dataset, samples: int, seed: int
) -> dict[str, Value]:
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    with seeded(seed, model.device):
        for batch in data.batches(50):
            for site, draws in predict(model, guide, batch.to(model.device), samples).items():
                draws = draws.double().flatten(2) if draws.dim() > 2 else draws.double()
                parts.setdefault(site, []).append((draws.mean(0).cpu(), draws.var(0).cpu()))
    found = {}
    for site, each in parts.items():
        mean, variance = (torch.cat(column) for column in zip(*each, strict=True))
        found[site] = _of_rows(mean, variance, samples)
    return found


def _of_rows(mean: Tensor, variance: Tensor | None = None, samples: int = 1) -> Value:
    """A functional of rows (N, ...), whose size is that of its deviations from its mean row."""
    mean = mean.double().cpu()
    size = float((mean - mean.mean(0)).norm()) or float(mean.norm())
    return Value(mean.flatten(), size, None if variance is None else variance.flatten(), samples)


def compared(name: str, values: Sequence[Value]) -> Functional:
    """The distances between the values of all restarts."""
    mean = torch.stack([value.mean for value in values])  # (R, F)
    size = sum(value.size for value in values) / len(values) or 1.0
    squares = (mean.unsqueeze(1) - mean).square()  # (R, R, F)
    if values[0].variance is None:
        apart = squares.sum(-1).sqrt() / size
        return Functional(name, apart, torch.zeros_like(apart), None)
    own = torch.stack([value.variance for value in values])  # type: ignore[arg-type]  # (R, F)
    noise = own / values[0].samples
    both = (noise.unsqueeze(1) + noise) * (1 - torch.eye(len(values)).unsqueeze(-1))
    apart = (squares.sum(-1) - both.sum(-1)).clamp_min(0).sqrt()
    spread = (4 * squares * both + 2 * both.square()).sum(-1).sqrt()  # of the square of apart
    error = spread / (2 * torch.maximum(apart, spread.sqrt())).clamp_min(1e-300)
    between = (mean.var(0) - noise.mean(0)).mean().clamp_min(0)
    ratio = (1 + between / own.mean().clamp_min(1e-300)).sqrt()
    return Functional(name, apart / size, error / size, float(ratio))
