"""Draws of a posterior from a file: posteriordb's JSON, columns of a CSV, an ArviZ netCDF file."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.diagnostics.mixing import bulk_ess

MOST_BYTES = 2**31  # of what a compressed file may hold
CHAIN = ("chain", ".chain", "chain__")
SKIPPED = ("draw", ".draw", ".iteration", "iteration")


def read_draws(path: str | Path) -> dict[str, np.ndarray]:
    """Draws by name, (chains, S, *shape), in float64.

    - ``.json``, ``.json.zip``: as posteriordb publishes them, a list of chains, each a mapping from
      a parameter, such as ``mu`` or ``theta[1]`` (counted from 1), to its draws.
    - ``.csv``: a header with such names (``theta.1`` too, as of CmdStan), a line
      a draw; a column ``chain`` cuts the lines into chains, ``draw``, ``iteration`` and names that
      end in two underscores are left out, and so are lines that start with #.
    - ``.nc``: the group ``posterior`` of an ArviZ file.

    Nothing in a file is executed.

    Raises:
        ValueError: no such file; any other kind; a damaged one; chains of different parameters or
            lengths; an array with entries missing; no draws.

    Reference: Magnusson et al., "posteriordb: Testing, Benchmarking and Developing Bayesian
    Inference Algorithms", 2024.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "draws.json"
        >>> _ = file.write_text('[{"mu": [1, 2], "theta[1]": [3, 4], "theta[2]": [5, 6]}]')
        >>> {name: draws.shape for name, draws in read_draws(file).items()}
        {'mu': (1, 2), 'theta': (1, 2, 2)}
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is no file of draws; give one ending in .json, .zip, .csv or .nc")
    kind = path.suffix.lower()
    if kind == ".nc":
        from zoo.diagnostics.arviz import read_posterior

        return read_posterior(path)
    if kind not in (".json", ".zip", ".csv"):
        raise ValueError(
            f"{path.name}: draws are read from .json and .json.zip (posteriordb), .csv and .nc "
            f"(ArviZ) files, not from {kind or 'one without an ending'!r}"
        )
    try:
        chains = _csv(path) if kind == ".csv" else _json(path, kind)
    except (OSError, UnicodeDecodeError, zipfile.BadZipFile, json.JSONDecodeError, EOFError) as bad:
        raise ValueError(f"{path} cannot be read: {bad}") from None
    return _assembled(path, chains)


def pooled(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """(chains · S, *shape) by name: the chains of ``read_draws`` one after the other."""
    return {name: value.reshape(-1, *value.shape[2:]) for name, value in draws.items()}


def thinned(draws: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Draws (C, S, *shape) of Markov chains as next to independent ones, (R, *shape).

    Every k-th draw of each chain is kept, k = ⌈C S / ESS⌉ with the smallest bulk effective sample
    size of all units.
    """
    least = np.inf
    for value in draws.values():
        chains, length = value.shape[:2]
        if length >= 4:
            ess = bulk_ess(torch.from_numpy(np.array(value, float).reshape(chains, length, -1)))
            least = min(least, float(ess[ess.isfinite()].min()) if ess.isfinite().any() else least)
    chains, length = next(iter(draws.values())).shape[:2]
    step = max(1, int(np.ceil(chains * length / least))) if np.isfinite(least) else 1
    return {name: value[:, ::step].reshape(-1, *value.shape[2:]) for name, value in draws.items()}


def _json(path: Path, kind: str) -> list[dict[str, np.ndarray]]:
    if kind == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.lower().endswith(".json")]
            if len(members) != 1 or members[0].file_size > MOST_BYTES:
                raise ValueError(
                    f"{path} holds {[m.filename for m in archive.infolist()][:5]}; expected one "
                    "JSON file of at most 2 GiB"
                )
            content = json.loads(archive.read(members[0]))
    else:
        content = json.loads(path.read_text())
    content = [content] if isinstance(content, Mapping) else content
    if not isinstance(content, list) or not all(isinstance(c, Mapping) and c for c in content):
        raise ValueError(
            f"{path} is no list of chains, each a mapping from a parameter's name to its draws"
        )
    return [{name: _column(path, name, v) for name, v in chain.items()} for chain in content]


def _csv(path: Path) -> list[dict[str, np.ndarray]]:
    with path.open(newline="") as file:
        lines = [row for row in csv.reader(line for line in file if line[:1] != "#") if row]
    if len(lines) < 2:
        raise ValueError(f"{path} has no draws: expected a header of names and a line a draw")
    header = [name.strip() for name in lines[0]]
    if len(set(header)) < len(header) or any(len(row) != len(header) for row in lines):
        raise ValueError(f"{path}: a name stands twice, or a line has not {len(header)} columns")
    columns = {
        name: _column(path, name, [row[i] for row in lines[1:]]) for i, name in enumerate(header)
    }
    chain = next((columns.pop(name) for name in CHAIN if name in columns), None)
    kept = {n: v for n, v in columns.items() if n not in SKIPPED and not n.endswith("__")}
    if chain is None:
        return [kept]
    return [{name: value[chain == c] for name, value in kept.items()} for c in np.unique(chain)]


def _column(path: Path, name: Any, values: Any) -> np.ndarray:
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        column = np.empty(0)
    if column.ndim != 1 or not column.size:
        raise ValueError(f"{path}: {name!r} is no row of numbers, one a draw")
    return column


def _assembled(path: Path, chains: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Entries ``theta[1]``, ``theta[2]`` put together."""
    if not chains or not chains[0]:
        raise ValueError(f"{path} has no draws")
    names = list(chains[0])
    lengths = {len(value) for chain in chains for value in chain.values()}
    if any(set(chain) != set(names) for chain in chains) or len(lengths) != 1:
        raise ValueError(f"{path}: the chains have other parameters or other numbers of draws")
    entries: dict[str, dict[tuple[int, ...], np.ndarray]] = {}
    for name in names:
        base, place = _place(name)
        values = np.stack([chain[name] for chain in chains])  # (chains, S)
        if place in entries.setdefault(base, {}):
            raise ValueError(f"{path}: {name!r} stands twice")
        entries[base][place] = values
    found = {}
    for base, parts in entries.items():
        if len({len(place) for place in parts}) > 1:
            raise ValueError(f"{path}: {base!r} has entries with different numbers of indices")
        places = np.array(list(parts))  # (entries, dimensions)
        low = places.min(0) if places.size else places.sum(0)
        shape = tuple(int(size) for size in places.max(0) - low + 1) if places.size else ()
        if int(np.prod(shape)) != len(parts) or (places.size and not set(low) <= {0, 1}):
            raise ValueError(
                f"{path}: {base!r} has {len(parts)} entries, which fill no array of shape {shape}"
            )
        array = np.empty((*next(iter(parts.values())).shape, *shape))
        for place, values in parts.items():
            array[(..., *(np.array(place, dtype=int) - low))] = values
        found[base] = array
    return found


def _place(name: str) -> tuple[str, tuple[int, ...]]:
    """theta[1,2] or theta.1.2 -> theta and (1, 2)."""
    match = re.fullmatch(r"(.+?)\[([\d,\s]+)\]", name) or re.fullmatch(r"(.+?)((?:\.\d+)+)", name)
    if match is None:
        return name, ()
    return match[1], tuple(int(number) for number in re.findall(r"\d+", match[2]))
