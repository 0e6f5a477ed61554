"""What a recipe leaves behind: a table, a picture, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scale = Literal["smoke", "cpu", "gpu"]


@dataclass(frozen=True)
class Recipe:
    """The outcome of a recipe.

    Attributes:
        title: of the table.
        rows: one mapping a row, column -> figure; (mean, error) where there is an error.
        figure: the picture.
        settings: whatever the figures depend on, as plain JSON.
        remarks: what the table means, in lines below it.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    figure: Figure
    settings: Mapping[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """What the JSON file holds."""
        return {
            "title": self.title,
            "rows": [dict(row) for row in self.rows],
            "settings": dict(self.settings),
            "remarks": list(self.remarks),
        }
