"""The files of a report card: report.json, report.html and the pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.output import make, png
from experiments.show.card_figures import card_figures
from experiments.show.card_html import card_html
from experiments.show.card_words import PICTURES
from zoo import store
from zoo.files import replacing

if TYPE_CHECKING:
    from zoo.diagnostics.report import Report


def write_report(report: Report, place: Path) -> list[str]:
    """Writes a picture for each part, report.html, and last report.json; each whole or not at all.

    Pictures of an earlier report in the same folder that this one does not have are removed.

    Args:
        report: of judged checks.
        place: the folder, which is made where there is none.

    Returns:
        The names of the files.

    Raises:
        ValueError: the folder cannot be made or written to.
    """
    make(place)
    pictures = {name: png(figure) for name, figure in card_figures(report).items()}
    if (place / "report.json").exists():
        for name in PICTURES.keys() - pictures.keys():
            (place / f"{name}.png").unlink(missing_ok=True)
    for name, content in pictures.items():
        _write(place / f"{name}.png", content)
    _write(place / "report.html", card_html(report, pictures).encode())
    store.write_json(place / "report.json", strict(report.as_dict()))
    return ["report.json", "report.html", *(f"{name}.png" for name in pictures)]


def strict(content: Any) -> Any:
    """Content as JSON knows it: NaN becomes null, ∞ a string, tensors lists, the rest words.

    Example:
        >>> strict({"k": [float("nan"), float("-inf"), 1.0], 2: (True, None)})
        {'k': [None, '-inf', 1.0], '2': [True, None]}
    """
    if content is None or isinstance(content, bool | int | str):
        return content
    if isinstance(content, float):
        return content if math.isfinite(content) else None if math.isnan(content) else str(content)
    if isinstance(content, Mapping):
        return {str(key): strict(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return [strict(value) for value in content]
    if hasattr(content, "tolist"):  # a tensor, an array, a number of numpy
        return strict(content.tolist())
    if hasattr(content, "as_dict"):
        return strict(content.as_dict())
    return str(content)


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
