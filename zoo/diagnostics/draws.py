"""Draws of q for every row, each with its importance weight: what most diagnostics are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.chunks import Plan, holding, pieces, plan
from zoo.context import seeded, stream, validation
from zoo.data import Batch, Dataset, as_dataset
from zoo.model import Model, as_model
from zoo.progress import counting
from zoo.sites import Latents, Sites
from zoo.surgery import needs_density
from zoo.weights import LogWeights, log_weights

MOST_VALUES = 2**27  # numbers of draws that are kept


@dataclass(frozen=True)
class WeightedDraws:
    """S independent draws z_ns ~ q(z | x_n) of N rows, and their log weights.

    Attributes:
        log_weight: (S, N) float64, log p(x_n, z_ns | g) − log q(z_ns | x_n, g) in nats, enumerated
            sites summed out; its exponential has the mean p(x_n | g).
        elbo_terms: (S, N) float64, whose mean over draws is the ELBO of the row; the same tensor as
            ``log_weight`` unless the guide has q(y | x).
        names: of the U units, z[0], z[1], …; () where there are no ``values``.
        values: (S, N, U) in the model's type, the draws in the sites' own space; None where there
            are none or too many.
        no_values: why ``values`` is None, else empty.
        given_globals: whether g is one draw of the global latents that all rows and draws share, so
            that every figure is given g.
        globals: by site, that draw.
        seed: of the draws.
    """

    log_weight: Tensor
    elbo_terms: Tensor
    names: tuple[str, ...]
    values: Tensor | None
    no_values: str
    given_globals: bool
    globals: Mapping[str, Tensor]
    seed: int

    @property
    def num_draws(self) -> int:
        """S."""
        return self.log_weight.shape[0]

    @property
    def num_rows(self) -> int:
        """N."""
        return self.log_weight.shape[1]

    def needs_values(self) -> Tensor:
        """``values``. ValueError with the reason where there are none."""
        if self.values is None:
            raise ValueError(f"the draws have no values: {self.no_values}")
        return self.values

    def hold(self, guide: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
        """The guide with its global latents held at ``globals``; the guide where there are none."""
        return holding(guide, self.globals) if self.given_globals else guide

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "num_draws": self.num_draws,
            "num_rows": self.num_rows,
            "names": list(self.names),
            "no_values": self.no_values,
            "given_globals": self.given_globals,
            "seed": self.seed,
        }


@torch.no_grad()
def weighted_draws(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    num_draws: int = 4000,
    *,
    seed: int = 0,
    max_elements: int | None = None,
    progress: bool | None = False,
) -> WeightedDraws:
    """z_ns ~ q(z | x_n) with log w_ns = log p(x_n, z_ns) − log q(z_ns | x_n), in one sweep.

    Where the model has global latents one draw g ~ q(g) is made and held for all rows, and every
    figure is given g: it judges q(z | x, g), and q(g) not at all (see ``global_weights``).

    Args:
        model: p.
        guide: q for the rows of ``data``; it needs a density. Discrete latents that it leaves out
            are summed out.
        data: N rows; under dynamic binarization their fixed, evaluated version.
        num_draws: S, at least 100; PSIS wants 4000.
        seed: of the draws.
        max_elements: how many numbers the largest tensor may have, what is returned apart; by
            default 2²¹ on a CPU and 2²⁶ on a GPU.
        progress: a bar; None shows one on a terminal.

    Raises:
        ValueError: a point mass as the guide; fewer than 100 draws; as ``log_weights``.

    Reference: Yao, Vehtari, Simpson and Gelman, "Yes, but did it work?", 2018.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> draws = weighted_draws(model, Guide(model, data), data, num_draws=100)
        >>> draws.log_weight.shape, draws.values.shape, draws.names
        (torch.Size([100, 50]), torch.Size([100, 50, 2]), ('z[0]', 'z[1]'))
    """
    needs_density(guide)
    if num_draws < 100:
        raise ValueError(f"num_draws counts from 100 (4000 for a tail that is fitted): {num_draws}")
    model, data = as_model(model), as_dataset(data)
    max_elements = max_elements or room(model)
    purpose = stream(seed, "weighted draws")
    with seeded(purpose, model.device), validation(False):
        cut = plan(model, guide, data, num_draws, 1, max_elements)
        head = next(data.batches(1)).to(model.device)
        sites, reason = local_sites(model, head)
        torch.manual_seed(purpose)
        first = log_weights(model, guide, head)
        held = {name: site["value"] for name, site in first.globals.items()}
        kept = _Kept(num_draws, len(data), sites, reason, model)
        q = holding(guide, held) if first.has_globals else guide
        _sweep(model, q, data, num_draws, cut, kept, progress)
    elbo_terms = kept.log_weight if kept.elbo_terms is None else kept.elbo_terms
    return WeightedDraws(
        kept.log_weight,
        elbo_terms,
        unit_names(sites) if kept.values is not None and sites is not None else (),
        kept.values,
        kept.reason,
        first.has_globals,
        held,
        seed,
    )


def room(model: Model) -> int:
    """How many numbers a tensor may have where nobody says so."""
    return 2**21 if model.device.type == "cpu" else 2**26


def local_sites(model: Model, batch: Batch) -> tuple[Sites | None, str]:
    """The continuous latents of the rows, or why their draws cannot be kept."""
    try:
        sites = Latents.find(model, batch).local
    except ValueError as error:
        return None, str(error)
    return (sites, "") if sites.sites else (None, "the rows have no continuous latents")


def unit_names(sites: Sites) -> tuple[str, ...]:
    """z[0], z[1], … of every site in order."""
    return tuple(f"{site.name}[{i}]" for site in sites.sites for i in range(site.shape.numel()))


class _Kept:
    """What is kept of the pieces."""

    def __init__(self, draws: int, rows: int, sites: Sites | None, reason: str, model: Model):
        like = {"dtype": torch.float64, "device": model.device}
        self.log_weight = torch.empty(draws, rows, **like)
        self.elbo_terms: Tensor | None = None
        self.sites, self.reason = sites, reason
        self.values: Tensor | None = None
        if sites is not None:
            shape = (draws, rows, len(unit_names(sites)))
            count = torch.Size(shape).numel()
            if count > MOST_VALUES:
                self.reason = f"{count} numbers are more than 2**27: take fewer rows or draws"
            else:
                self.values = torch.empty(shape, dtype=model.dtype, device=model.device)

    def add(self, weights: LogWeights, start: int, place: slice) -> None:
        """Takes in k draws of the rows ``place``, from draw number ``start``."""
        summed = weights.summed[0]  # (k, B)
        here = slice(start, start + len(summed)), place
        self.log_weight[here] = summed.double()
        if weights.log_q_enum is not None:
            if self.elbo_terms is None:
                self.elbo_terms = self.log_weight.clone()  # labelled rows, which come first
            self.values, self.reason = None, "the guide has q(y | x), and z depends on y"
        if self.elbo_terms is not None:
            self.elbo_terms[here] = weights.expected[0].double()
        if self.values is None or self.sites is None:
            return
        parts = [weights.values[site.name].reshape(*summed.shape, -1) for site in self.sites.sites]
        self.values[here] = torch.cat([part.to(self.values.dtype) for part in parts], -1)


def _sweep(
    model: Model,
    guide: Callable[[Batch], Any],
    data: Dataset,
    num_draws: int,
    cut: Plan,
    kept: _Kept,
    progress: bool | None,
) -> None:
    """All rows and draws, a piece at a time."""
    first = 0
    with counting("draws", len(data) * num_draws, progress) as advance:
        for batch in data.batches(cut.rows):
            place, start = slice(first, first + len(batch)), 0
            for weights in pieces(model, guide, batch.to(model.device), num_draws, cut):
                kept.add(weights, start, place)
                count = weights.local.shape[-2]
                start += count
                advance(len(batch) * count)
            first = place.stop
