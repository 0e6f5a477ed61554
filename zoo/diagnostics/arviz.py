"""Draws of q as ArviZ InferenceData, and back; the only file that imports arviz."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.context import seeded, stream, validation
from zoo.data import Batch, as_dataset
from zoo.diagnostics.arviz_groups import grouped
from zoo.diagnostics.draws import room
from zoo.diagnostics.posterior_draws import posterior_draws
from zoo.diagnostics.replicates import draw_joint, split_draws
from zoo.files import replacing
from zoo.model import Model, as_model
from zoo.store import versions

with warnings.catch_warnings():  # arviz 0.23 announces its successor once a day
    warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
    import arviz as az


@torch.no_grad()
def to_arviz(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    *,
    num_draws: int = 1000,
    num_inner: int = 100,
    num_rows: int = 500,
    restarts: Sequence[Any] = (),
    vi_diagnostics: Mapping[str, Any] | None = None,
    seed: int = 0,
    max_elements: int | None = None,
) -> Any:
    """Draws of q, their densities and predictions with named dimensions, as ``az.InferenceData``.

    Groups: ``posterior``, latents by (chain, draw) and for those of rows the data plate, chain
    being an independent restart; ``sample_stats``: lp = log p(x, z, g), unscaled, log_q, their
    difference log_weight, and row_log_weight of each row; ``log_likelihood`` of the observed sites
    together, local latents integrated out; ``posterior_predictive``; ``prior`` and
    ``prior_predictive``, of the first restart; ``observed_data``, NaN where an entry is missing;
    ``constant_data``, the inputs; ``vi_diagnostics``: elbo, iwae and Pareto k of each row (without
    global latents), and what is given.

    With one chain r_hat and ess say nothing about q, whose draws are independent by construction:
    ``summary`` leaves them out.

    Args:
        model: p.
        guide: q for the rows of ``data``.
        data: N rows. Of more than ``num_rows`` a random choice is kept; the coordinate of the data
            plate is the row's place. With global latents lp and log_q are over all rows.
        num_draws: S, of each chain.
        num_inner: K of the likelihood; 0 leaves it out.
        num_rows: rows that are kept, at most: memory is S times that.
        restarts: of the same model, the further chains: guides, or pairs (model, guide) where the
            model was trained with each.
        vi_diagnostics: name -> a number, or an array, one value a row, of ``data`` or of the kept
            rows, or of any other shape; added to the group of that name.
        seed: of the rows and draws.
        max_elements: how many numbers the largest tensor may have, what is returned apart.

    Raises:
        ValueError: fewer than two draws; restarts with other latents.

    Reference: Kumar et al., "ArviZ a unified library for exploratory analysis of Bayesian models in
    Python", 2019.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> idata = to_arviz(model, Guide(model, data), data, num_draws=20)
        >>> idata.posterior["z"].dims, idata.posterior["z"].shape
        (('chain', 'draw', 'data', 'z_dim_0'), (1, 20, 50, 2))
    """
    if num_draws < 2:
        raise ValueError(f"num_draws counts from 2, got {num_draws}")
    model, data = as_model(model), as_dataset(data)
    data = data.without(*data.partial).fixed()
    pairs = [(model, guide), *(_pair(model, restart) for restart in restarts)]
    chains = []
    with seeded(stream(seed, "arviz rows")):
        index = torch.randperm(len(data))[:num_rows].sort().values
    for i, (p, q) in enumerate(pairs):
        with seeded(stream(seed, f"arviz chain {i}"), p.device), validation(False):
            most = max_elements or room(p)
            chains.append(posterior_draws(p, q, data, index, num_draws, num_inner, most))
    if len({(*chain.local, *chain.globals) for chain in chains}) > 1:
        raise ValueError("the restarts have other latents than the first; give runs of one model")
    with seeded(stream(seed, "arviz prior"), model.device), validation(False):
        batch = data.batch(index).to(model.device)
        prior = _prior(model, batch, num_draws, max_elements or room(model))
    more = vi_diagnostics or {}
    groups = grouped(model, data, index, batch, chains, prior, num_inner, more)
    return _built(groups, {"seed": seed, "num_rows": len(index), "size": len(data)})


def summary(idata: Any, **options: Any) -> Any:
    """``az.summary``, but with one chain without r_hat and ess, which say nothing about q.

    Instead mcse_mean = sd/√S: draws of q are independent.

    Args:
        idata: from ``to_arviz``.
        options: keyword arguments of ``az.summary``.
    """
    sizes = idata["posterior"].sizes
    if sizes["chain"] > 1:
        return az.summary(idata, **options)
    exact = {**options, "round_to": "none", "kind": "stats"}
    table = az.summary(idata, **exact)
    table["mcse_mean"] = table["sd"] / sizes["draw"] ** 0.5
    return table if options.get("round_to") == "none" else table.round(options.get("round_to", 3))


def save(idata: Any, path: str | Path) -> Path:
    """Writes a netCDF file, whole or not at all.

    Raises:
        ValueError: no folder there, or no library that writes netCDF.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is no folder; make it first")
    try:
        with replacing(path) as temporary:
            idata.to_netcdf(str(temporary))
    except ImportError as error:
        raise ValueError(f"netCDF files need a library: pip install h5netcdf ({error})") from None
    return path


def read(path: str | Path) -> Any:
    """A netCDF file as InferenceData, in memory.

    Raises:
        ValueError: no such file, or no ArviZ file.
    """
    try:
        found: Any = az.from_netcdf(str(path))
        for group in groups_of(found):
            found[group].load()
        found.close()
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(f"{path} cannot be read as an ArviZ netCDF file: {error}") from None
    return found


def read_posterior(path: str | Path) -> dict[str, np.ndarray]:
    """The group ``posterior`` of a netCDF file: name -> (chains, S, *shape).

    Raises:
        ValueError: as ``read``; a file without that group or without chains and draws.
    """
    found = read(path)
    if "posterior" not in groups_of(found):
        raise ValueError(f"{path} has no group posterior, only {groups_of(found)}")
    variables = found["posterior"].data_vars
    lacking = [name for name, v in variables.items() if v.dims[:2] != ("chain", "draw")]
    if lacking or not variables:
        raise ValueError(f"{path}: {lacking or 'nothing'} has chains and draws as dimensions")
    return {str(name): np.asarray(v, dtype=np.float64) for name, v in variables.items()}


def groups_of(idata: Any) -> list[str]:
    """The names of its groups, also of the DataTree of arviz 1."""
    found = idata.groups
    return list(found()) if callable(found) else [name.strip("/") for name in found if name != "/"]


def _pair(model: Model, restart: Any) -> tuple[Model, Any]:
    if isinstance(restart, Sequence):
        other, guide = restart
        return as_model(other), guide
    return getattr(restart, "model", None) or model, restart


def _prior(model: Model, batch: Batch, count: int, most: int) -> dict[str, Tensor]:
    """(S, B, *event) or (S, *shape) of every site, from p alone."""
    numbers = sum(v.numel() for v in draw_joint(model, batch, 1).values())
    pieces = [draw_joint(model, batch, c) for c in split_draws(count, max(1, most // numbers))]
    return {name: torch.cat([piece[name] for piece in pieces]).cpu() for name in pieces[0]}


def _built(groups: Mapping[str, Any], attrs: Mapping[str, Any]) -> Any:
    """InferenceData, or from arviz 1 on the DataTree that took its place."""
    software = {f"version_{name.replace('-', '_')}": v for name, v in versions().items()}
    attrs = {"inference_library": "latent-zoo", **attrs, **software}
    if not hasattr(az, "InferenceData"):
        import xarray as xr

        tree = xr.DataTree.from_dict(dict(groups))
        tree.attrs.update(attrs)
        return tree
    own = {name: group for name, group in groups.items() if name != "vi_diagnostics"}
    idata = az.InferenceData(attrs=attrs, **own)
    if "vi_diagnostics" in groups:  # a group of ours
        idata.add_groups({"vi_diagnostics": groups["vi_diagnostics"]}, warn_on_custom_groups=False)
    return idata
