"""What is known of an objective beside its value: its main option, and whether it is a bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

Objective = TypeVar("Objective", bound=Callable[..., Any])


def said(
    *,
    shorthand: str | None = None,
    no_bound: Callable[[Mapping[str, Any]], str] | str = "",
    fits: Literal["both", "guide", "model"] = "both",
) -> Callable[[Objective], Objective]:
    """Marks an objective.

    Args:
        shorthand: the option that a word gives after a colon, ``renyi:0.5``.
        no_bound: why its value is no bound on log p(x), or how that follows from its options.
        fits: which side takes a gradient.
    """

    def mark(function: Objective) -> Objective:
        function.__dict__.update(shorthand=shorthand, no_bound=no_bound, fits=fits)
        return function

    return mark
