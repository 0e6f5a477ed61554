"""Whether restarts agree, by what does not depend on how latents are turned or labels numbered."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.context import stream, validation
from zoo.data import as_dataset
from zoo.diagnostics.invariants import Functional, compared, values_of
from zoo.diagnostics.mixing import rhat
from zoo.estimate import Estimate
from zoo.model import Model, as_model


@dataclass(frozen=True)
class Spread:
    """The bound of each restart, in nats per datapoint.

    Attributes:
        means, errors: (R,), with Monte-Carlo standard errors.
    """

    means: Tensor
    errors: Tensor

    @property
    def range(self) -> float:
        """The largest less the smallest."""
        return float(self.means.max() - self.means.min())

    @property
    def se(self) -> float:
        """Of ``range``: the Monte-Carlo error of the difference of its two ends."""
        ends = self.errors[[int(self.means.argmax()), int(self.means.argmin())]]
        return float(ends.square().sum().sqrt())

    @property
    def sd(self) -> float:
        """Over restarts, what Monte-Carlo noise adds taken off."""
        variance = self.means.var() - self.errors.square().mean()
        return float(variance.clamp_min(0).sqrt())


@dataclass(frozen=True)
class Restarts:
    """What R restarts agree on.

    Attributes:
        spread: of the bound; None where no bounds are given.
        functionals: those that the model knows.
        loss_rhat: R̂ of the last halves of the losses over all restarts; None without losses.
        left_out: name of a functional -> why it is not known.
        num_restarts: R.
    """

    spread: Spread | None
    functionals: tuple[Functional, ...]
    loss_rhat: float | None
    left_out: Mapping[str, str]
    num_restarts: int

    def __getitem__(self, name: str) -> Functional:
        return next(found for found in self.functionals if found.name == name)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        spread = self.spread
        return {
            "num_restarts": self.num_restarts,
            "bounds": spread and spread.means.tolist(),
            "range": spread and spread.range,
            "range_se": spread and spread.se,
            "sd": spread and spread.sd,
            "distances": {f.name: f.distance[0] for f in self.functionals},
            "distance_errors": {f.name: f.distance[1] for f in self.functionals},
            "rhat": {f.name: f.rhat for f in self.functionals if f.rhat is not None},
            "loss_rhat": self.loss_rhat,
            "left_out": dict(self.left_out),
        }


@torch.no_grad()
def restarts(
    models: Sequence[Model | Callable[..., Any]],
    bounds: Sequence[Estimate] | None,
    data: Any,
    *,
    guides: Sequence[Any] | None = None,
    losses: Sequence[Sequence[Mapping[str, Any]]] | None = None,
    num_samples: int = 200,
    seed: int = 0,
) -> Restarts:
    """How far apart R restarts of one model are: functionals that latents' symmetries leave alone.

    Raw weights of two fits at the same optimum may differ by a rotation or by the order of
    components, and have an R̂ of 3; these do not: the bound, log p(x), WWᵀ of loadings W (D, d), the
    co-assignment Σ_c p(y_n = c | x_n) p(y_m = c | x_m), the predictive mean E[x̃ | x].

    Formula: ‖F_r − F_s‖ / s. For WWᵀ and the co-assignment s is the mean ‖F‖ of all restarts, for
    functionals of rows that of F less its mean over rows. Of means of S draws with variance v/S
    the noise is taken off: ‖F_r − F_s‖² − Σ (v_r + v_s)/S, at least 0. R̂² is 1 + the mean, over
    entries, of the variance between restarts (less noise) over that of v.

    Args:
        models: of R ≥ 2 restarts.
        bounds: of each, on the same rows (``evaluate``); held-out rows are better.
        data: rows to compare on.
        guides: q of each restart for ``data``, for predictive means and for co-assignments that
            the model does not know.
        losses: ``metrics`` of each fit.
        num_samples: S.
        seed: of the draws.

    Raises:
        ValueError: fewer than two restarts; restarts of different models; another number of
            bounds, guides or losses.

    Example:
        >>> from zoo.models.ppca import PPCA
        >>> one, data = PPCA.example()
        >>> two = PPCA(4)
        >>> two.load_state_dict({**one.state_dict(), "weight": one.weight.flip(1)})
        <All keys matched successfully>
        >>> round(restarts([one, two], None, data)["WWᵀ"].distance[0], 6)
        0.0
    """
    found = [as_model(model) for model in models]
    if len(found) < 2:
        raise ValueError(f"restarts are compared from two, got {len(found)}")
    if len({type(model) for model in found}) > 1:
        kinds = sorted({type(model).__name__ for model in found})
        raise ValueError(f"restarts are of one model, got {kinds}")
    for what, given in (("bounds", bounds), ("guides", guides), ("losses", losses)):
        if given is not None and len(given) != len(found):
            raise ValueError(f"{len(found)} restarts have {len(given)} {what}")
    rows = as_dataset(data)
    pairs = list(zip(found, guides or [None] * len(found), strict=True))
    functionals, left_out = [], {}
    with validation(False):
        for name, values in values_of(pairs, rows, num_samples, stream(seed, "restarts")):
            if isinstance(values, str):
                left_out[name] = values
            else:
                functionals.append(compared(name, values))
    spread = None
    if bounds is not None:
        means = torch.tensor([bound.mean for bound in bounds], dtype=torch.float64)
        spread = Spread(means, torch.tensor([bound.se for bound in bounds], dtype=torch.float64))
    return Restarts(spread, tuple(functionals), _of_losses(losses), left_out, len(found))


def _of_losses(losses: Sequence[Sequence[Mapping[str, Any]]] | None) -> float | None:
    """R̂ of the last halves; of losses of different length as many as the shortest has."""
    traces = [[row["loss"] for row in rows if "loss" in row] for rows in losses or ()]
    count = min([-(-len(trace) // 2) for trace in traces], default=0)
    if count < 4:
        return None
    tails = torch.tensor([trace[-count:] for trace in traces], dtype=torch.float64)
    value = float(rhat(tails.unsqueeze(-1)))
    return None if math.isnan(value) else value
