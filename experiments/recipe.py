"""What a recipe is: a published result or a figure of a lecture, made again by one command.

A recipe is one short file ``experiments/recipes/NAME.py`` with a function of the same name,
``NAME(scale: Scale = "cpu", seed: int = 0) -> Recipe``; the file is its registration, and the first
line of the function's docstring stands in ``zoo reproduce --list``. It returns

- ``rows`` and ``figure``: the table and the picture of the result itself;
- ``quantities``: each a figure of ours beside the published one,
  ``Quantity("variance, N = 10", (8.71, 0.12), Published(6.45, "read", "CS 7643, …", se=1.2))``;
- ``settings``: whatever the figures depend on (data, rows, steps, draws), as plain JSON;
- ``remarks``: what the tables mean, a line each.

Of ours, ``(mean, standard error)`` is an estimate, ``(value, 0.0)`` has no Monte-Carlo error, a
bare number is one whose error nobody knows, and ``None`` is what this scale does not measure. A
published value says where it is from, in words, with its mark:

- ``exact``: a closed form, an enumeration or a quadrature, which holds at every scale;
- ``read``: read in the source that is named;
- ``memory``: from memory of the source, unconfirmed.

One that is not exact belongs to settings: ``scales`` names the scales at which the recipe has those
of the source (none, unless told), and at any other the table says "other scale" in place of a
verdict. A figure is within where |ours − published| ≤ 5·√(se² + se′²) + ``error`` + ``rounding``:
``rounding`` is half a unit of the published value's last digit, ``error`` the ± that its source
prints, and se′, ``se``, its own Monte-Carlo error where one knows how many draws it is from.

Quantities have the same names at every scale.

The scale ``smoke`` takes seconds and shows that the recipe runs, ``cpu`` takes minutes, and ``gpu``
is the published scale or as near as there is need to go. ``zoo reproduce NAME --keep`` writes
``experiments/results/NAME.json``, which the README's section of reproductions is made from
(``python -m benchmarks.table --write``). The tests run every recipe at smoke scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scale = Literal["smoke", "cpu", "gpu"]
Mark = Literal["read", "memory", "exact"]
SCALES: tuple[Scale, ...] = get_args(Scale)
MARKS: tuple[Mark, ...] = get_args(Mark)
Ours = float | tuple[float, float] | None


@dataclass(frozen=True)
class Published:
    """A value as others have published it, or as mathematics has it.

    Attributes:
        value: the figure.
        mark: read, memory or exact.
        source: where it stands, in words: authors, title, year, table; or the closed form.
        rounding: half a unit of its last digit.
        error: the ± that its source prints.
        se: its own Monte-Carlo error.
        scales: of the recipe, those with the settings of the source; an exact value needs none.

    Raises:
        ValueError: another mark or scale, no source, a value or an error that is no number.

    Example:
        >>> Published(89.9, "memory", "Rezende and Mohamed (2015)", rounding=0.05).of("cpu")
        False
    """

    value: float
    mark: Mark
    source: str
    rounding: float = 0.0
    error: float = 0.0
    se: float = 0.0
    scales: Sequence[Scale] = ()

    def __post_init__(self) -> None:
        if self.mark not in MARKS:
            raise ValueError(f"a published value is marked {', '.join(MARKS)}, got {self.mark!r}")
        if not self.source.strip():
            raise ValueError(f"the published value {self.value} needs a source, in words")
        errors = (self.rounding, self.error, self.se)
        if not all(map(math.isfinite, (self.value, *errors))) or min(errors) < 0:
            raise ValueError(
                f"a published value and its errors are numbers, and none of these is negative, got "
                f"{self.value} with {errors}"
            )
        if set(self.scales) - set(SCALES):
            raise ValueError(f"scales are some of {', '.join(SCALES)}, got {self.scales}")

    def of(self, scale: Scale) -> bool:
        """Whether a result at this scale is to be held against it."""
        return self.mark == "exact" or scale in self.scales


@dataclass(frozen=True)
class Quantity:
    """A figure of ours, beside the published one where there is one.

    Attributes:
        name: what it is, with its unit.
        ours: (mean, standard error), a bare number, or None where it was not measured.
        published: the value that it is held against.

    Example:
        >>> exact = Published(2.0, "exact", "a closed form")
        >>> Quantity("a", (2.1, 0.03), exact).within("cpu"), Quantity("a", 2.1, exact).within("cpu")
        (True, None)
    """

    name: str
    ours: Ours
    published: Published | None = None

    def within(self, scale: Scale) -> bool | None:
        """|ours − published| ≤ 5·√(se² + se′²) + error + rounding; None: nobody can say."""
        if self.published is None or not isinstance(self.ours, tuple | list):
            return None
        if not self.published.of(scale):
            return None
        mean, se = self.ours
        known = self.published
        band = 5 * math.hypot(se, known.se) + known.error + known.rounding
        return abs(mean - known.value) <= band

    def as_dict(self, scale: Scale) -> dict[str, Any]:
        """A row of the JSON file; ``comparable``: whether the published settings are those."""
        known = self.published
        mean, se = self.ours if isinstance(self.ours, tuple | list) else (self.ours, None)
        return {
            "quantity": self.name,
            "ours": mean,
            "se": se,
            "published": None if known is None else asdict(known) | {"scales": list(known.scales)},
            "comparable": known is not None and known.of(scale),
            "within": self.within(scale),
        }


@dataclass(frozen=True)
class Recipe:
    """The outcome of a recipe.

    Attributes:
        title: of the table.
        rows: one mapping a row, column -> figure; (mean, error) where there is an error.
        figure: the picture.
        settings: whatever the figures depend on, as plain JSON.
        remarks: what the table means, in lines below it.
        quantities: ours beside what is published.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    figure: Figure
    settings: Mapping[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    quantities: Sequence[Quantity] = ()

    def as_dict(self, scale: Scale) -> dict[str, Any]:
        """What the JSON file holds."""
        return {
            "title": self.title,
            "scale": scale,
            "quantities": [quantity.as_dict(scale) for quantity in self.quantities],
            "rows": [dict(row) for row in self.rows],
            "settings": dict(self.settings),
            "remarks": list(self.remarks),
        }


def figures(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """(published, ours, within) of a row of the JSON file, as the tables write them.

    Example:
        >>> exact = Published(8.7, "exact", "87/N")
        >>> figures(Quantity("variance", (8.651, 0.123), exact).as_dict("cpu"))
        ('8.7 [exact]', '8.65 ± 0.12', 'yes')
    """
    known = row["published"]
    published = "–"
    if known is not None:
        value, error, se = (known[name] for name in ("value", "error", "se"))
        spread = _rounded(se, value, se) if se else f"{error:.6g}" if error else ""
        published = f"{value:.6g}{' ± ' * bool(spread)}{spread} [{known['mark']}]"
    ours = "–" if row["ours"] is None else written(row["ours"], row["se"] or 0.0)
    verdict = {True: "yes", False: "no", None: "–"}[row["within"]]
    if known is not None and not row["comparable"]:
        verdict = "other scale"
    return published, ours, verdict


def written(value: float, error: float = 0.0) -> str:
    """A figure to two digits of its error; without one, or with a tiny one, to six digits.

    Example:
        >>> written(8.651, 0.123), written(4.6534e-05), written(4.65e-5, 8e-6), written(2041.4, 12)
        ('8.65 ± 0.12', '4.6534e-05', '4.65e-05 ± 8.0e-06', '2041 ± 12')
        >>> written(-16.285419, 5.6e-5)
        '-16.285419 ± 0.000056'
    """
    if not (math.isfinite(value) and math.isfinite(error)) or error < 1e-6 * abs(value):
        return f"{value:.6g}"
    return f"{_rounded(value, value, error)} ± {_rounded(error, value, error)}"


def _rounded(number: float, value: float, error: float) -> str:
    """A number to the digits of an error, in the notation of a value."""
    places = 1 - math.floor(math.log10(error))
    if abs(value) >= 1e-4 or places <= 5:
        return f"{number:.{max(0, places)}f}"
    return f"{number:.{max(0, places + math.floor(math.log10(abs(number) or error)))}e}"
