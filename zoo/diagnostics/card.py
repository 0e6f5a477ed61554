"""What a card is made of: checks with intervals, bands and tests, and the verdict over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

Status = Literal["green", "amber", "red", "undecided", "told", "not checked"]
About = Literal["posterior", "optimisation", "latents", "model"]

LEVEL = 0.05  # of false alarms, for the whole card
Z95 = 1.959963984540054
WORST_FIRST: tuple[Status, ...] = ("red", "amber", "undecided", "green", "told", "not checked")


@dataclass(frozen=True)
class Band:
    """Where a number is good and where it is bad.

    Attributes:
        green: up to here it is good.
        amber: beyond here it is bad.
        falling: whether it is the small values that are bad.
    """

    green: float
    amber: float
    falling: bool = False


BANDS = {
    "iterates": Band(1.01, 1.1),  # R̂
    "restarts": Band(0.5, 2.0),  # nats, the spread of the ELBO over restarts
    "certified gap": Band(0.1, 1.0),  # nats per datapoint
    "k̂ of rows": Band(0.01, 0.1),  # the share of rows above the threshold
    "ESS": Band(0.5, 0.1, falling=True),  # fraction of the draws
    "shift": Band(0.1, 0.3),  # posterior sds
    "spread": Band(0.1, 0.3),  # |log sd ratio|
    "SBC": Band(0.05, 0.1),  # distance of the ranks' distribution from uniform
    "VSBC": Band(0.03, 0.1),  # |mean rank − ½|
    "coverage": Band(0.03, 0.1),  # |coverage − level|
    "TARP": Band(0.05, 0.1),  # distance, as for SBC
    "Jeffreys": Band(0.1, 1.0),  # nats per datapoint
    "approximation gap": Band(0.1, 1.0),
    "amortization gap": Band(0.1, 1.0),
    "model": Band(0.05, 0.1),  # distance of predictive ranks from uniform
}


@dataclass(frozen=True)
class Check:
    """One line of evidence.

    Attributes:
        row: the line of the table that it stands in.
        name: what is checked.
        about: whether q is the posterior, the optimisation has ended, how latents are used, or
            whether the model fits the data.
        text: what was measured, for a person.
        value: the number, None where there is none.
        low, high: its 95 % interval.
        band: where it is good and bad.
        p: of "it lies in the green", or of a test's null hypothesis.
        adjusted: that p after Holm's correction over all tests of the card.
        status: the colour; see ``judged``.
        action: what to do where it is not green.
        why: of what was not checked.
    """

    row: str
    name: str
    about: About
    text: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    band: Band | None = None
    p: float | None = None
    adjusted: float | None = None
    status: Status = "told"
    action: str = ""
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {k: v for k, v in asdict(self).items() if v is not None and v != ""}


@dataclass(frozen=True)
class Verdict:
    """What the card says as a whole.

    Attributes:
        posterior: of q, with the checks that raised an alarm.
        model: of p against the data.
        tests: how many tests Holm's correction was over.
    """

    posterior: str
    model: str
    tests: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measured(
    row: str,
    name: str,
    value: float,
    se: float,
    text: str,
    action: str,
    about: About = "posterior",
    band: Band | None = None,
) -> Check:
    """A number with a normal error, tested against the edge of the green.

    p = P(N(0, 1) > (value − green)/se), for a band that small values are good in.

    Args:
        row, name, text, action, about: as in ``Check``.
        value: the estimate.
        se: its standard error; 0 for a number that is exact.
        band: by default that of the name.
    """
    band = band or BANDS[name]
    if not math.isfinite(value) or not math.isfinite(se):
        bad = math.isinf(value) and (value > 0) != band.falling
        p = 0.0 if bad else None
        edge = value if bad else None
        return Check(row, name, about, text, value, edge, edge, band, p, action=action)
    away = band.green - value if band.falling else value - band.green
    p = NormalDist().cdf(-away / se) if se > 0 else float(away <= 0)
    low, high = value - Z95 * se, value + Z95 * se
    return Check(row, name, about, text, value, low, high, band, p, action=action)


def tested(
    row: str,
    name: str,
    value: float,
    interval: tuple[float, float],
    p: float,
    text: str,
    action: str,
    about: About = "posterior",
    band: Band | None = None,
) -> Check:
    """A test of a null hypothesis, with the size of the departure from it and its interval."""
    low, high = interval
    return Check(
        row, name, about, text, value, low, high, band or BANDS.get(name), p, action=action
    )


def told(row: str, name: str, text: str, about: About = "posterior") -> Check:
    """Something to know that no band judges."""
    return Check(row, name, about, text)


def unchecked(row: str, name: str, why: str, about: About = "posterior") -> Check:
    """What was not run, and why."""
    return Check(row, name, about, status="not checked", why=why)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p values: the i-th smallest of m times m − i + 1, made monotone.

    Those below α are an alarm, and in all a false one comes with probability at most α, however
    the tests depend on each other.

    Reference: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p)), key=p.__getitem__)
    adjusted, running = [0.0] * len(p), 0.0
    for rank, place in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = running
    return adjusted


def judged(checks: Sequence[Check]) -> tuple[Check, ...]:
    """The checks with their colours.

    A check is green where its 95 % interval lies in the green. Else it is an alarm where its p, by
    Holm over all tests of the card, is below 5 %: red where the interval lies beyond the amber
    edge, amber where it does not. Otherwise it is undecided.
    """
    tests = [i for i, check in enumerate(checks) if check.p is not None]
    adjusted = holm([checks[i].p for i in tests])  # type: ignore[misc]
    result = list(checks)
    for place, p in zip(tests, adjusted, strict=True):
        result[place] = replace(checks[place], adjusted=p, status=_colour(checks[place], p))
    for i, check in enumerate(result):
        if check.band is not None and check.p is None and check.status == "told":
            result[i] = replace(check, status="undecided")
    return tuple(result)


def _colour(check: Check, adjusted: float) -> Status:
    band, low, high = check.band, check.low, check.high
    if band is None or low is None or high is None:
        return "red" if adjusted < LEVEL else "green"
    beyond = high < band.amber if band.falling else low > band.amber
    inside = low >= band.green if band.falling else high <= band.green
    if inside:
        return "green"
    if adjusted < LEVEL:
        return "red" if beyond else "amber"
    return "undecided"


def verdict(checks: Sequence[Check]) -> Verdict:
    """The verdict over judged checks; the best one is that no failure was found."""
    tests = sum(check.p is not None for check in checks)
    of_model = [check for check in checks if check.about == "model"]
    of_q = [check for check in checks if check.about != "model"]
    model = _sentence(of_model, "the model does not fit", "the model's fit is imperfect")
    return Verdict(_sentence(of_q, "failure found", "weakness found"), model, tests)


def _sentence(checks: Sequence[Check], red: str, amber: str) -> str:
    found = {status: [c.name for c in checks if c.status == status] for status in WORST_FIRST}
    if found["red"]:
        return f"{red}: {', '.join(found['red'] + found['amber'])}"
    if found["amber"]:
        return f"{amber}: {', '.join(found['amber'])}"
    if not (found["green"] or found["undecided"]):
        return "not checked"
    if found["undecided"]:
        return f"no failure found; undecided: {', '.join(found['undecided'])}"
    return "no failure found"


def worst(checks: Sequence[Check]) -> Check:
    """The one that a line of the table takes its colour from."""
    return min(checks, key=lambda check: WORST_FIRST.index(check.status))
