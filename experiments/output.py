"""The folder that a comparison or a selection is written to, each file whole or not at all."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import store

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def claim(out: str | Path, name: str, overwrite: bool) -> Path:
    """The folder ``out``, if it is new, empty, or holds an earlier ``name``.json to be replaced.

    A result that lacks runs which failed, or runs that an interrupted command has left, are gone on
    with and need no ``overwrite``.

    Raises:
        ValueError: a file, a folder with something else in it, or with an earlier result and
            ``overwrite`` is not set.
    """
    place = Path(out)
    if place.exists() and not place.is_dir():
        raise ValueError(f"{place} is a file; give a folder for the results")
    there = sorted(p.name for p in place.iterdir()) if place.exists() else []
    if there and not {f"{name}.json", runs_of(place, name).name} & set(there):
        raise ValueError(
            f"{place} holds something else ({', '.join(there[:3])}); give a new folder, or an "
            f"empty one"
        )
    if whole(place, name) and not overwrite:
        raise ValueError(
            f"{place} already holds a {name}; replace it with overwrite (--overwrite), or give "
            "another folder"
        )
    return place


def runs_of(place: Path, name: str) -> Path:
    """Where the runs behind a result are kept, when they are spread over processes."""
    return place / f"{name}-runs"


def whole(place: Path, name: str) -> bool:
    """Whether there is a result in which no run failed."""
    path = place / f"{name}.json"
    return path.exists() and not store.read_json(path).get("failed")


def clear(place: Path, name: str, spread: bool) -> None:
    """Takes a whole result with its runs away, so that what replaces it can be gone on with.

    Where runs are not spread and there are none, the result stays until it is replaced.
    """
    runs = runs_of(place, name)
    if whole(place, name) and (spread or runs.exists()):
        (place / f"{name}.json").unlink()
        shutil.rmtree(runs, ignore_errors=True)


def claim_run(place: Path) -> None:
    """Refuses a folder for a run that holds something already, or cannot be made.

    Raises:
        ValueError: a file, another run, a folder with something else in it, or no permission.
    """
    if place.exists() and not place.is_dir():
        raise ValueError(f"{place} is a file; give a folder for the run")
    there = sorted(p.name for p in place.iterdir()) if place.exists() else []
    if "run.json" in there:
        raise ValueError(f"{place} already holds a run; go on with --resume, or give another --out")
    others = [name for name in there if name != "config.yaml" and not name.startswith(".")]
    if others:
        raise ValueError(
            f"{place} holds something else ({', '.join(others[:3])}); give a new folder, or an "
            "empty one"
        )
    make(place)


def go_on(place: Path) -> bool:
    """Whether a run in a folder has a checkpoint to go on from; what is less is taken away."""
    if (place / store.STATE).exists():
        return True
    for name in ("run.json", "metrics.jsonl"):
        (place / name).unlink(missing_ok=True)
    return False


def slug(name: str) -> str:
    """A name as that of a folder.

    Example:
        >>> slug("full_rank / amortized / renyi:0.5, seed 1")
        'full_rank-amortized-renyi-0.5-seed-1'
    """
    return re.sub(r"[^\w.+]+", "-", name).strip("-.")


def make(place: Path) -> None:
    """Makes a folder.

    Raises:
        ValueError: it cannot be made or written to.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"the folder {place} cannot be made: {error.strerror}") from None
    if not os.access(place, os.W_OK):
        raise ValueError(f"the folder {place} cannot be written to")


def write(
    place: Path,
    name: str,
    content: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    figure: Figure,
) -> None:
    """Writes ``name``.csv, ``name``.png and last ``name``.json, which vouches for the others."""
    place.mkdir(parents=True, exist_ok=True)
    write_table(place / f"{name}.csv", rows)
    write_picture(place / f"{name}.png", figure)
    store.write_json(place / f"{name}.json", content)


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a CSV file, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)))
    writer.writeheader()
    writer.writerows(rows)
    _replace(path, text.getvalue().encode())


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz file of named arrays, or an .npy file of one, whole or not at all."""
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        (array,) = arrays.values()
        np.save(buffer, array)
    else:
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
    _replace(path, buffer.getvalue())


def write_picture(path: Path, figure: Figure) -> None:
    """Writes a PNG file, whole or not at all."""
    _replace(path, png(figure))


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file; no window, no global state of matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _replace(path: Path, content: bytes) -> None:
    """Writes a file beside ``path`` and lets it take its place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested figures as columns of a table.

    Example:
        >>> flat({"test": {"elbo": {"mean": -1.0}}, "seed": 0})
        {'test.elbo.mean': -1.0, 'seed': 0}
    """
    result: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result
