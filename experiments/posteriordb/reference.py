"""A reference posterior: model, data and the draws that stand for the truth."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from experiments.posteriordb.library import POSTERIORS
from zoo.data import Dataset
from zoo.model import Model
from zoo.sources import data_folder


@dataclass(frozen=True, eq=False)
class Reference:
    """A posterior whose draws are known.

    Attributes:
        name: in posteriordb.
        model: p, without parameters of its own; every latent is global.
        data: what it is conditioned on.
        draws: by site of the model, (C, S, *event): C chains of S draws from p(g | x), thinned
            until no autocorrelation was left.
    """

    name: str
    model: Model
    data: Dataset
    draws: dict[str, Tensor]


def names(data_root: str | Path | None = None) -> list[str]:
    """The posteriors that there are models for and whose data are in the folder for data."""
    folder = data_folder(data_root) / "posteriordb"
    return [name for name in POSTERIORS if (folder / name / "draws.json.zip").is_file()]


def load(name: str, data_root: str | Path | None = None) -> Reference:
    """A reference posterior of posteriordb, in torch's default floating type.

    Args:
        name: one of ``POSTERIORS``.
        data_root: the folder that holds posteriordb/NAME/data.json and draws.json.zip; by default
            the environment's ZOO_DATA.

    Raises:
        ValueError: an unknown name, or no such folder.

    Reference: Magnusson, Torgander, Bürkner, Zhang, Carpenter and Vehtari, "posteriordb: Testing,
    Benchmarking and Developing Bayesian Inference Algorithms", 2025.
    """
    if name not in POSTERIORS:
        raise ValueError(f"no model for the posterior {name!r}; there are {', '.join(POSTERIORS)}")
    folder = data_folder(data_root) / "posteriordb" / name
    if not (folder / "draws.json.zip").is_file():
        raise ValueError(
            f"no reference draws in {folder}; set data_root or ZOO_DATA to the folder that holds "
            "posteriordb/NAME/draws.json.zip"
        )
    raw = json.loads((folder / "data.json").read_text("utf-8"))
    arrays = {k: np.asarray(v) if isinstance(v, list) else v for k, v in raw.items()}
    model, data = POSTERIORS[name](arrays)
    data.name = name
    draws = _parameters(folder / "draws.json.zip")
    if {"alpha", "beta"} <= draws.keys():  # an intercept that is called by a name of its own
        slopes = draws["beta"].reshape(*draws["alpha"].shape, -1)
        draws["beta"] = torch.cat([draws.pop("alpha").unsqueeze(-1), slopes], -1)
    latents_of = getattr(model, "latents_of", dict)
    return Reference(name, model, data, latents_of(draws))


def _parameters(path: Path) -> dict[str, Tensor]:
    """By name, (C, S), or (C, S, d) of a vector whose entries are called name[1], …, name[d]."""
    with zipfile.ZipFile(path) as archive:
        chains = json.loads(archive.read(archive.namelist()[0]))
    columns: dict[str, list[Tensor]] = {}
    for key in chains[0]:
        column = torch.as_tensor(np.array([chain[key] for chain in chains]))  # (C, S)
        columns.setdefault(re.sub(r"\[\d+\]$", "", key), []).append(column)
    vector = {re.sub(r"\[\d+\]$", "", key) for key in chains[0] if key.endswith("]")}
    default = torch.get_default_dtype()
    return {
        name: (torch.stack(parts, -1) if name in vector else parts[0]).to(default)
        for name, parts in columns.items()
    }
