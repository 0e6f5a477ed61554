"""The groups of an InferenceData as labelled arrays: which dimension is what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from zoo.data import Batch, Dataset
from zoo.diagnostics.posterior_draws import PosteriorDraws
from zoo.diagnostics.psis import psis
from zoo.model import Model

LEAST_FOR_K = 100  # draws
NOTE = (
    "log p(x_n | g), local latents integrated out over num_inner draws. The draws of g are those "
    "of q and not of the posterior, which az.loo does not know: zoo.diagnostics.loo corrects for "
    "it. Without global latents the figure is log p(x_n), the same for every draw."
)


class Labels:
    """Names of dimensions, and their coordinates.

    Args:
        model: p, whose data plate names the dimension of rows.
        data: all rows.
        index: (N,), the places of those that are kept.
        sites: names that the dimension must not have.
    """

    def __init__(self, model: Model, data: Dataset, index: Tensor, sites: Sequence[str]):
        self.rows = f"{model.plate}_row" if model.plate in sites else model.plate
        self.index, self.total = index.cpu().numpy(), len(data)
        self.features = data.feature_names

    def dataset(
        self,
        values: Mapping[str, Any],
        of_rows: Sequence[str] = (),
        lead: Sequence[str] = ("chain", "draw"),
    ) -> xr.Dataset:
        """Arrays (*lead, N, *event) for the names in ``of_rows``, else (*lead, *shape)."""
        variables: dict[str, Any] = {}
        coords: dict[str, Any] = {}
        for name, value in values.items():
            array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
            dims = [*lead, self.rows] if name in of_rows else [*lead]
            own = array.shape[len(dims) :]
            dims += [f"{name}_dim_{i}" for i in range(len(own))]
            variables[name] = dims, array
            for dim, size in zip(dims, array.shape, strict=True):
                coords[dim] = self.index if dim == self.rows else np.arange(size)
            if name == "x" and self.features and own == (len(self.features),):
                coords["x_dim_0"] = np.array(self.features)
        return xr.Dataset(variables, coords)


def grouped(
    model: Model,
    data: Dataset,
    index: Tensor,
    batch: Batch,
    chains: Sequence[PosteriorDraws],
    prior: Mapping[str, Tensor],
    num_inner: int,
    more: Mapping[str, Any],
) -> dict[str, xr.Dataset]:
    """Every group by its name. See ``to_arviz``."""
    first = chains[0]
    observed, local = list(first.predictive), list(first.local)
    labels = Labels(model, data, index, [*prior, *local, *first.globals])
    of_rows = [*local, *observed, "row_log_weight"]

    def stacked(parts: Sequence[Mapping[str, Tensor]]) -> xr.Dataset:
        values = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
        return labels.dataset(values, of_rows)

    one = {name: value.unsqueeze(0) for name, value in prior.items()}
    groups = {
        "posterior": stacked([{**c.local, **c.globals} for c in chains]),
        "posterior_predictive": stacked([c.predictive for c in chains]),
        "sample_stats": stacked([_statistics(c) for c in chains]),
        "prior": labels.dataset(
            {n: v for n, v in one.items() if n in {**first.local, **first.globals}}, of_rows
        ),
        "prior_predictive": labels.dataset({n: one[n] for n in observed}, of_rows),
        "observed_data": labels.dataset({n: _seen(batch, n) for n in observed}, observed, ()),
    }
    inputs = {name: value for name, value in batch.values.items() if name not in observed}
    if inputs:
        groups["constant_data"] = labels.dataset(inputs, list(inputs), ())
    if first.log_likelihood is not None:
        name = "_".join(observed)  # of one site its own
        values = torch.stack([c.log_likelihood for c in chains if c.log_likelihood is not None])
        groups["log_likelihood"] = labels.dataset({name: values}, [name])
        groups["log_likelihood"].attrs.update(num_inner=num_inner, note=NOTE)
    groups["vi_diagnostics"] = _diagnostics(labels, chains, more)
    return {name: group for name, group in groups.items() if group.data_vars}


def _statistics(chain: PosteriorDraws) -> dict[str, Tensor]:
    return {
        "lp": chain.log_joint,
        "log_q": chain.log_q,
        "log_weight": chain.log_joint - chain.log_q,
        "row_log_weight": chain.row_log_weight,
    }


def _seen(batch: Batch, name: str) -> Tensor:
    """The data, NaN where an entry is missing."""
    value, mask = batch[name], batch.observed.get(name)
    if mask is None:
        return value
    return (value if value.is_floating_point() else value.double()).masked_fill(~mask, torch.nan)


def _diagnostics(
    labels: Labels, chains: Sequence[PosteriorDraws], more: Mapping[str, Any]
) -> xr.Dataset:
    """ELBO, IWAE and Pareto k by chain and row, or the ELBO by chain, and what is given."""
    found: dict[str, Any] = {}
    weights = torch.stack([chain.row_log_weight for chain in chains])  # (chains, S, N)
    whole = torch.stack([chain.log_joint - chain.log_q for chain in chains])  # (chains, S)
    draws = weights.shape[1]
    if not bool(weights.isnan().any()):
        if chains[0].globals:
            found["elbo"] = whole.mean(1) / labels.total
        else:
            found["elbo"] = weights.mean(1)
            found["iwae"] = weights.logsumexp(1) - math.log(draws)
            if draws >= LEAST_FOR_K:
                found["pareto_k"] = torch.stack(
                    [psis(chain, tolerance=1e-5).k for chain in weights]
                )
    of_rows = [name for name, value in found.items() if value.dim() == 2]
    result = labels.dataset(found, of_rows, ["chain"])
    for name, value in more.items():
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
            raise ValueError(f"vi_diagnostics holds numbers, but {name!r} is {value!r}")
        if array.ndim and len(array) == labels.total:
            array = array[labels.index]
        row = array.ndim > 0 and len(array) == len(labels.index)
        result = result.merge(labels.dataset({name: array}, [name] * row, ()))
    return result
