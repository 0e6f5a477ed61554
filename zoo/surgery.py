"""The mean KL of q taken apart: what z tells of its row, and how far the average q is from p."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.context import seeded, stream, validation
from zoo.data import Batch, as_dataset
from zoo.estimate import Estimate
from zoo.handlers import Record, Replay, in_plate, log_prob
from zoo.local_params import at_home
from zoo.model import Model, as_model
from zoo.weights import log_weights

MOST_PAIRED, MOST_PAIRED_BY_INVERSION = 2000, 200  # rows: N² densities


@dataclass(frozen=True)
class MutualInformation:
    """mean_n KL(q(z | x_n) ‖ p(z)) = I_q(n; z) + KL(q̄ ‖ p), from one draw a row, in nats.

    Attributes:
        information: I_q(n; z) between z and the number of its row, at most log N.
        marginal_kl: KL(q̄ ‖ p), of q̄ = (1/N) Σ q(z | x_n) from the prior.
        kl: their sum.
        num_rows: N.
    """

    information: Estimate
    marginal_kl: Estimate
    kl: Estimate
    num_rows: int

    @property
    def log_n(self) -> float:
        """log N, which the information cannot exceed, however much z tells."""
        return math.log(self.num_rows)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "information": self.information.as_dict(),
            "marginal_kl": self.marginal_kl.as_dict(),
            "kl": self.kl.as_dict(),
            "num_rows": self.num_rows,
            "log_num_rows": self.log_n,
        }


@torch.no_grad()
def mutual_information(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    *,
    num_rows: int = 2000,
    seed: int = 0,
    max_elements: int = 2**21,
) -> MutualInformation:
    """mean_n KL(q(z | x_n) ‖ p(z)) = I_q(n; z) + KL(q̄ ‖ p), q̄ the average of q over N rows.

    Formula: with one draw z_n ~ q(z | x_n) for each row, I is the mean of
    log q(z_n | x_n) − log (1/N) Σ_m q(z_n | x_m), and KL(q̄ ‖ p) that of the latter logarithm less
    log p(z_n). I is at most log N: near it, more rows would show more.

    Args:
        model: p.
        guide: q for the rows of ``data``; it must score a z that it did not draw.
        data: rows; N² densities are computed.
        num_rows: N, at most: beyond that rows are chosen at random.
        seed: of the rows and draws.
        max_elements: how many numbers of z the largest tensor may have.

    Raises:
        ValueError: a point mass; a family that scores only its own draws; a guide with discrete
            sites; latents outside the data plate; fewer than two rows.

    Reference: Hoffman and Johnson, "ELBO surgery", 2016.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> found = mutual_information(model, Guide(model, data, "exact"), data)
        >>> found.information.mean <= found.log_n
        True
    """
    needs_density(guide)
    if not getattr(getattr(guide, "family", None), "scores", True):
        raise ValueError("the guide scores only its own draws, so the average of q is not known")
    model, data = as_model(model), as_dataset(data)
    if min(len(data), num_rows) < 2:
        raise ValueError("mutual information needs two rows or more")
    with seeded(stream(seed, "mutual information"), model.device), validation(False):
        count, data = min(len(data), num_rows), data.without(*data.partial).fixed()
        order = torch.randperm(len(data))[:count].sort().values
        model.resolve(data.batch(order[:97]).to(model.device))
        parts = (data.batch(part).to(model.device) for part in order.split(4096))
        draws, log_ratio = _draws(model, guide, parts)
        numbers = sum(value[0].numel() for value in draws.values())
        own, mixed = [], log_ratio.new_full((count,), -torch.inf)
        size = max(1, max_elements // (count * numbers))
        for place in torch.arange(count).split(size):
            batch = data.batch(order[place]).to(model.device)
            table = _scores(model, guide, batch, draws)  # (N, B)
            own.append(table[place.to(table.device)].diagonal())
            mixed = torch.logaddexp(mixed, table.logsumexp(-1))
    own_, mixed = torch.cat(own), mixed - math.log(count)
    return MutualInformation(
        information=_mean(own_ - mixed),
        marginal_kl=_mean(log_ratio - (own_ - mixed)),
        kl=_mean(log_ratio),
        num_rows=count,
    )


def paired_rows(guide: Any) -> int:
    """Rows that N² densities are of: 2000, or 200 where each takes the inversion of a flow."""
    cheap = getattr(getattr(guide, "family", None), "scores_cheaply", True)
    return MOST_PAIRED if cheap else MOST_PAIRED_BY_INVERSION


def needs_density(guide: Any) -> None:
    """Refuses a point mass."""
    if not getattr(guide, "has_density", True):
        raise ValueError(
            "the guide is a point mass (delta): it has no density, and KL(q ‖ p) is infinite; use "
            "another family, such as mean_field"
        )


def _draws(model: Model, guide: Any, batches: Iterable[Batch]) -> tuple[dict[str, Tensor], Tensor]:
    """One draw of every row, by the site that the guide draws, (N, 1, *event); log q − log p."""
    parts, ratios = [], []
    for batch in batches:
        weights = log_weights(model, guide, batch)
        if weights.log_q_enum is not None:
            raise ValueError(
                "the guide has q(y | x), and what (y, z) together tell of their row is not computed"
            )
        if weights.has_globals or weights.local_sites is None:
            raise ValueError(
                "mutual information needs latents of the rows alone, which the guide draws from "
                "continuous distributions"
            )
        _, q = weights.local_sites
        excess = (weights.log_likelihood - weights.local).double()
        excess = excess if excess.dim() == 3 else -(-excess).logsumexp(0)
        ratios.append(excess[0, 0])
        shaped = {}
        for name, site in q.items():
            event = site["fn"].event_shape
            if type(site["fn"]).__name__ != "Delta":  # those follow from the others
                shaped[name] = site["value"].reshape(len(batch), 1, *event)
        parts.append(shaped)
    if not parts[0]:
        raise ValueError("the rows have no continuous latents that the guide draws")
    names = parts[0]
    return {name: torch.cat([part[name] for part in parts]) for name in names}, torch.cat(ratios)


def _scores(model: Model, guide: Any, batch: Batch, draws: dict[str, Tensor]) -> Tensor:
    """(N, B): log q(z_n | x_m) of every draw under every row of a batch, in float64."""
    given = {name: {"value": value} for name, value in draws.items()}
    with Record() as q, at_home(guide), Replay(given):
        guide(batch.unscaled())
    terms = [log_prob(site) for site in q.sites.values() if in_plate(site, model.plate)]
    count = len(next(iter(draws.values())))
    return sum((t.double() for t in terms), torch.zeros(())).expand(count, len(batch))


def _mean(rows: Tensor) -> Estimate:
    """The mean of independent rows; with one draw each, their spread is the error of each."""
    return Estimate(rows, rows.std().expand_as(rows))
