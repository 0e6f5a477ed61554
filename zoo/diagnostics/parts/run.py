"""The part of a card about the optimisation: iterates, losses, gradients, restarts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.diagnostics.card import Check, unchecked
from zoo.diagnostics.parts.case import Case


def of_run(case: Case, run: Any) -> list[Check]:
    """Iterates."""
    return [unchecked("optimisation", "iterates", "no run")]


def of_restarts(case: Case, run: Any, restarts: Sequence[Any]) -> list[Check]:
    """Restarts."""
    return [unchecked("restarts", "restarts", "no restarts")]
