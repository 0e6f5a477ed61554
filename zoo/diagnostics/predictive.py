"""Whether the data look like draws of the model: PIT of every entry, chosen statistics of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.context import seeded, stream, validation
from zoo.data import Batch, Dataset, as_dataset
from zoo.diagnostics.data_pit import PIT, Counts
from zoo.diagnostics.data_statistics import (
    Statistic,
    StatisticCheck,
    apply,
    compare,
    default_statistics,
)
from zoo.diagnostics.draws import room
from zoo.diagnostics.replicates import Pair, draw_globals, draw_joint, split_draws
from zoo.model import Model, as_model
from zoo.predictive import predict

__all__ = ["PIT", "PredictiveChecks", "StatisticCheck", "predictive_checks"]

MOST = 10**8  # numbers that are drawn where nobody says how many rows


@dataclass(frozen=True)
class PredictiveChecks:
    """Data against draws of the model, for one observed site.

    Attributes:
        site: its name.
        pit_prior: among draws x̃ ~ p(x), z from the prior: a test of the model.
        pit_posterior: among draws x̃ ~ ∫ p(x̃ | z) q(z | x) dz: a description, with no p; None where
            it was not asked for.
        statistics: T(x) among T(x̃), x̃ whole data sets from p(x).
        has_globals: whether p(x) is ∫ p(x | g) q(g) dg, q fitted to some rows.
        num_rows: N, the rows that were looked at.
        num_draws: R.
        seed: of the rows and draws.
    """

    site: str
    pit_prior: PIT
    pit_posterior: PIT | None
    statistics: tuple[StatisticCheck, ...]
    has_globals: bool
    num_rows: int
    num_draws: int
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "site": self.site,
            "pit_prior": self.pit_prior.as_dict(),
            "pit_posterior": self.pit_posterior.as_dict() if self.pit_posterior else None,
            "statistics": [found.as_dict() for found in self.statistics],
            "has_globals": self.has_globals,
            "num_rows": self.num_rows,
            "num_draws": self.num_draws,
            "seed": self.seed,
        }


@torch.no_grad()
def predictive_checks(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    *,
    num_draws: int = 200,
    statistics: Mapping[str, Statistic] | None = None,
    site: str | None = None,
    posterior: bool = True,
    num_rows: int | None = None,
    seed: int = 0,
    max_elements: int | None = None,
) -> PredictiveChecks:
    """u_ne = P(x̃_ne ≤ x_ne) of every entry, and P(T(x̃) ≥ T(x)) of statistics T of all rows.

    Formula: R data sets x̃ of N rows are drawn from p(x) = ∫ p(x | z) p(z) dz, inputs as in the
    data; with global latents from ∫ p(x | g) q(g) dg. u_ne is the randomised rank of x_ne among its
    R draws, uniform for every R where p(x) is where the rows come from, for counts too; each
    entry's u are tested by Kolmogorov–Smirnov. T(x) is ranked among T(x̃).

    What it says: a small p means that the *model* does not fit. Whether q is the posterior is not
    judged: local latents come from the prior, and q enters through q(g) alone. On rows that the
    parameters, or q(g), were not fitted to, the p-values of local models are exact; on the rows of
    the fit, and with global latents, p is larger than it should be (the data were used twice), so
    that a small one still counts. ``pit_posterior`` draws z from q(z | x) of the very row it is
    compared with: its u crowd around ½ however good model and q are, and more so the more z says of
    x. It has no p; a mean off ½, or a ``spread`` above 1, is what it can show.

    Args:
        model: p.
        guide: q for the rows of ``data``.
        data: N rows; under dynamic binarization their fixed version. Missing entries are left out.
        num_draws: R, at least 20; no two-sided p is below 2/(R + 1).
        statistics: name -> T, a function (N, *event) -> () of one data set, with NaN at missing
            entries; by default those of ``default_statistics``.
        site: the observed site; by default x, or the only one.
        posterior: whether to draw from q(z | x) too.
        num_rows: N, at most: beyond that rows are chosen at random. By default 2000, or fewer, but
            not below 200, where the R data sets would have more than 10⁸ numbers.
        seed: of the rows and draws.
        max_elements: how many numbers the largest tensor may have; by default 2²¹ on a CPU and 2²⁶
            on a GPU.

    Raises:
        ValueError: fewer than 20 draws; fewer than two rows; a site that is not observed; a
            statistic that gives no finite number.

    Reference: Gelman, Meng and Stern, "Posterior Predictive Assessment of Model Fitness via
    Realized Discrepancies", 1996; Czado, Gneiting and Held, "Predictive Model Assessment for Count
    Data", 2009.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> model = PPCA.for_data(data, init="ml")
        >>> found = predictive_checks(model, Guide(model, data, "exact"), data, num_draws=50)
        >>> found.pit_prior.p_adjusted > 0.01, found.pit_posterior.spread < 1
        (True, True)
        >>> [check.name for check in found.statistics][:3]
        ['mean', 'sd', 'min']
    """
    if num_draws < 20:
        raise ValueError(f"num_draws counts replicated data sets from 20, got {num_draws}")
    model, data = as_model(model), as_dataset(data)
    data = data.without(*data.partial).fixed()
    if min(len(data), num_rows or 2) < 2:
        raise ValueError(f"checks of a model need two rows or more, got {len(data)}")
    most = max_elements or room(model)
    with seeded(stream(seed, "predictive checks"), model.device), validation(False):
        order = torch.randperm(len(data))
        pair = Pair.of(model, guide, data)
        site = _site(site, pair.observed)
        few = min(2000, max(200, MOST // (num_draws * data.event_shape(site).numel())))
        index = order[: num_rows or few].sort().values
        every = data.batch(index).to(model.device)
        x = every[site].to(_type(model, every[site]))  # (N, *event)
        mask = every.observed.get(site)
        chosen = default_statistics(_hidden(x, mask)) if statistics is None else statistics
        counts, replicated = Counts(_flat(x, 1)), []
        for drawn in _replicated(model, guide, data, index, pair, site, num_draws, most):
            counts.add(_flat(drawn, 2))
            replicated.append(apply(chosen, _hidden(drawn, mask), statistics is None))
        missing = None if mask is None else ~_flat(mask, 1)
        names = _names(data, site, x)
        pit_prior = counts.pit(missing, names, tested=True)
        pit_posterior = None
        if posterior:
            counts = _posterior(model, guide, data, index, pair, site, num_draws, most, x)
            pit_posterior = counts.pit(missing, names, tested=False)
    observed = apply(chosen, _hidden(x, mask).unsqueeze(0), statistics is None)
    checks = (
        compare(name, observed[name], torch.cat([part[name] for part in replicated]))
        for name in chosen
    )
    return PredictiveChecks(
        site=site,
        pit_prior=pit_prior,
        pit_posterior=pit_posterior,
        statistics=tuple(checks),
        has_globals=pair.has_globals,
        num_rows=len(index),
        num_draws=num_draws,
        seed=seed,
    )


def _replicated(
    model: Model,
    guide: Callable[[Batch], Any],
    data: Dataset,
    index: Tensor,
    pair: Pair,
    site: str,
    num_draws: int,
    most: int,
) -> Iterator[Tensor]:
    """(c, N, *event): whole data sets, a few at a time; one draw of g for all rows of each."""
    rows, size = pair.cut(len(index), num_draws, 1, most)
    size = min(size, max(1, most // (len(index) * data.event_shape(site).numel())))
    for count in split_draws(num_draws, size):
        given = draw_globals(model, guide, pair.head, count) if pair.has_globals else {}
        batches = (data.batch(part).to(model.device) for part in index.split(rows))
        yield torch.cat([draw_joint(model, b, count, given)[site] for b in batches], 1)


def _posterior(
    model: Model,
    guide: Callable[[Batch], Any],
    data: Dataset,
    index: Tensor,
    pair: Pair,
    site: str,
    num_draws: int,
    most: int,
    x: Tensor,
) -> Counts:
    """Counts of draws given each row."""
    counts, start = Counts(_flat(x, 1)), 0
    for part in index.split(max(1, most // (pair.width * num_draws))):
        batch = data.batch(part).to(model.device)
        drawn = predict(model, guide, batch, num_draws)[site]
        counts.add(_flat(drawn, 2), slice(start, start + len(part)))
        start += len(part)
    return counts


def _site(site: str | None, observed: tuple[str, ...]) -> str:
    if site is None and len(observed) > 1 and "x" not in observed:
        raise ValueError(f"the data give several sites, {list(observed)}; say which by site=…")
    site = site or ("x" if "x" in observed or not observed else observed[0])
    if site not in observed:
        raise ValueError(f"{site!r} is no observed site of the model; those are {list(observed)}")
    return site


def _type(model: Model, x: Tensor) -> torch.dtype:
    return model.dtype if x.is_floating_point() else x.dtype


def _hidden(x: Tensor, mask: Tensor | None) -> Tensor:
    """(..., N, *event) in float64, NaN where the mask (N, *event) is False."""
    return x.double() if mask is None else x.double().masked_fill(~mask, torch.nan)


def _flat(x: Tensor, lead: int) -> Tensor:
    """Entries in one dimension after ``lead`` others, also where a row is one number."""
    return x.reshape(*x.shape[:lead], -1)


def _names(data: Dataset, site: str, x: Tensor) -> tuple[str, ...]:
    """Of the entries of a row: the columns' names where they have any."""
    count = x[0].numel()
    known = data.feature_names if site == "x" and data.feature_names else []
    return tuple(known) if len(known) == count else tuple(f"{site}[{i}]" for i in range(count))
