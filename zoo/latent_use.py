"""What the latents are used for: active units, KL by unit, what z tells of its row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.chunks import pieces, plan
from zoo.context import seeded, stream, validation
from zoo.data import Batch, as_dataset
from zoo.estimate import Estimate
from zoo.latent_sites import Moments, Terms, kl_terms, posterior_means, unit_names
from zoo.model import Model, as_model
from zoo.surgery import MutualInformation, mutual_information, needs_density

__all__ = [
    "ActiveUnits",
    "LatentKL",
    "MutualInformation",
    "active_units",
    "latent_kl",
    "mutual_information",
]

MAX_ELEMENTS = 2**21


@dataclass(frozen=True)
class ActiveUnits:
    """Which latent dimensions move with x.

    Attributes:
        names: of the U units, such as z[0].
        variance: (U,), Var_x E_q[z | x] over the rows.
        error: (U,), its standard error for new rows from the same source.
        threshold: a unit with more variance is active.
        sampled: whether any E_q[z | x] is a mean of draws; their variance is subtracted.
    """

    names: tuple[str, ...]
    variance: Tensor
    error: Tensor
    threshold: float
    sampled: bool

    @property
    def active(self) -> Tensor:
        """(U,), by unit."""
        return self.variance > self.threshold

    @property
    def count(self) -> int:
        """How many units are active."""
        return int(self.active.sum())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "active": self.count,
            "of": len(self.names),
            "threshold": self.threshold,
            "names": list(self.names),
            "variance": self.variance.tolist(),
            "error": self.error.tolist(),
            "sampled_means": self.sampled,
        }


@dataclass(frozen=True)
class LatentKL:
    """KL(q(z | x) ‖ p(z)) of the local latents, averaged over rows, in nats.

    Attributes:
        total: of all of them; discrete latents that are summed out are so in p(z), those of a
            q(y | x) are among them: KL(q(y, z | x) ‖ p(y, z)).
        names: of the U units: z[0], … where q and p are independent over the dimensions of a site,
            else the site as a whole, z; and y of a q(y | x).
        units: (U,), each one's mean over rows and draws; empty where only the total is known. Where
            q or p couples units, as in layers, each is given the ones drawn before it.
        error: (U,), their Monte-Carlo standard errors, 0 where the KL is known in closed form.
        whole: names of the sites that could not be split.
        draws: of each row.
    """

    total: Estimate
    names: tuple[str, ...]
    units: Tensor
    error: Tensor
    whole: tuple[str, ...]
    draws: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "total": self.total.as_dict(),
            "names": list(self.names),
            "units": self.units.tolist(),
            "error": self.error.tolist(),
            "not_by_unit": list(self.whole),
            "draws": self.draws,
        }


@torch.no_grad()
def active_units(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    *,
    threshold: float = 0.01,
    num_samples: int = 100,
    seed: int = 0,
) -> ActiveUnits:
    """The units with Var_x E_q[z | x] > threshold.

    E_q[z | x] is the mean of q where q knows it; else the mean over draws of z, or of E[z | draws
    before it], and the variance of that mean is subtracted: Var_x t̄ − mean_x Var_s(t)/S.

    Args:
        model: p.
        guide: q for the rows of ``data``.
        data: N rows, at least 2.
        threshold: of the variance, in squared units of z.
        num_samples: S, at least 2.
        seed: of the draws.

    Raises:
        ValueError: fewer than two rows or draws; no continuous latents of the rows.

    Reference: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2016.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> active_units(model, Guide(model, data, "exact"), data).count
        2
    """
    model, data = as_model(model), as_dataset(data)
    if min(len(data), num_samples) < 2:
        raise ValueError(
            f"a variance needs two rows and two draws, got {len(data)} rows and {num_samples} draws"
        )
    found: list[dict[str, tuple[Tensor, Tensor]]] = []
    with seeded(stream(seed, "active units"), model.device), validation(False):
        model.resolve(next(data.batches(min(len(data), 97))).to(model.device))
        width = sum(data.event_shape(name).numel() for name in data.names)
        rows = max(1, MAX_ELEMENTS // (num_samples * max(1, width)))
        for batch in data.batches(rows):
            found.append(posterior_means(model, guide, batch.to(model.device), num_samples))
    if not found[0]:
        raise ValueError("the rows have no continuous latents that the guide draws")
    names, means, noise = [], [], []
    for site in found[0]:
        mean, own = _joined([part[site] for part in found])
        names += [f"{site}[{i}]" for i in range(mean.shape[1])]
        means.append(mean)
        noise.append(own)
    mean, own = torch.cat(means, 1), torch.cat(noise, 1)  # (N, U)
    away = (mean - mean.mean(0)).square()
    variance = (away.sum(0) / (len(data) - 1) - own.mean(0)).clamp_min(0)
    error = away.std(0) / math.sqrt(len(data))
    return ActiveUnits(tuple(names), variance, error, threshold, bool((own > 0).any()))


@torch.no_grad()
def latent_kl(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    *,
    num_samples: int = 32,
    seed: int = 0,
) -> LatentKL:
    """KL(q(z | x) ‖ p(z)), in all and by unit.

    In closed form by unit where q and p are products of distributions of one dimension whose KL is
    known; otherwise the mean of log q − log p over draws.

    Args:
        model: p.
        guide: q for the rows of ``data``; it needs a density.
        data: N rows.
        num_samples: draws of each row, at least 2.
        seed: of the draws.

    Raises:
        ValueError: a point mass; fewer than two draws.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> kl = latent_kl(model, Guide(model, data), data)
        >>> kl.names, bool((kl.units > 0).all())
        (('z[0]', 'z[1]'), True)
    """
    needs_density(guide)
    if num_samples < 2:
        raise ValueError(f"an error needs two draws or more, got {num_samples}")
    model, data = as_model(model), as_dataset(data)
    totals: list[tuple[Tensor, Tensor]] = []
    units: dict[str, list[tuple[Tensor, Tensor]]] = {}
    kinds: dict[str, Terms] = {}
    with seeded(stream(seed, "latent kl"), model.device), validation(False):
        cut = plan(model, guide, data, num_samples, 2, MAX_ELEMENTS)
        for batch in data.batches(cut.rows):
            total, each = Moments(), {}
            for weights in pieces(model, guide, batch.to(model.device), num_samples, cut):
                excess, kinds = kl_terms(weights)
                total.add(excess)
                for name, terms in kinds.items():
                    each.setdefault(name, Moments()).add(terms.values)
            totals.append(total.mean_and_error())
            for name, moments in each.items():
                units.setdefault(name, []).append(moments.mean_and_error())
    value, error = _joined(totals)
    found = {name: _joined(parts) for name, parts in units.items()}  # (N, d) each
    return LatentKL(
        Estimate(value, error),
        tuple(unit for name, kind in kinds.items() for unit in unit_names(name, kind)),
        torch.cat([mean.mean(0) for mean, _ in found.values()]),
        torch.cat([own.square().sum(0).sqrt() / len(own) for _, own in found.values()]),
        tuple(name for name, kind in kinds.items() if not (kind.split or kind.single)),
        num_samples,
    )


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Means and errors of all rows."""
    mean, error = zip(*parts, strict=True)
    return torch.cat(mean), torch.cat(error)
