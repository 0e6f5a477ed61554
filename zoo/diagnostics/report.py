"""The report card: every diagnostic that can be had of a pair, and the verdict over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from zoo.diagnostics.card import Check, Verdict, verdict


@dataclass(frozen=True)
class Report:
    """What was checked, what came of it, and what the numbers are.

    Attributes:
        checks: judged, in the order of the table.
        results: the typed result of each diagnostic that was run, by name.
        about: what was judged: model, family, inference, data, rows, draws, seed, versions,
            seconds.
        notes: what else a reader should know.
    """

    checks: tuple[Check, ...]
    results: Mapping[str, Any]
    about: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict over all checks."""
        return verdict(self.checks)

    @property
    def rows(self) -> dict[str, list[Check]]:
        """The lines of the table: its name -> the checks in it that were run."""
        found: dict[str, list[Check]] = {}
        for check in self.checks:
            if check.status != "not checked":
                found.setdefault(check.row, []).append(check)
        return found

    @property
    def not_checked(self) -> list[Check]:
        """What was not run."""
        return [check for check in self.checks if check.status == "not checked"]

    def __getitem__(self, name: str) -> Check:
        """The check of a name."""
        return next(check for check in self.checks if check.name == name)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what ``report.json`` holds."""
        return {
            "about": dict(self.about),
            "verdict": self.verdict.as_dict(),
            "checks": [check.as_dict() for check in self.checks],
            "results": {
                name: result.as_dict()
                for name, result in self.results.items()
                if hasattr(result, "as_dict")
            },
            "notes": list(self.notes),
        }
