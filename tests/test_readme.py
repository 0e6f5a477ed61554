"""The README says what was measured, no more and no less."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_measured_section_is_that_of_the_results(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, "benchmarks", raising=False)
    from benchmarks.table import section

    assert section() in (ROOT / "README.md").read_text(), "run: python -m benchmarks.table --write"


def test_the_picture_is_there() -> None:
    assert (ROOT / "docs" / "compare.png").stat().st_size > 10_000
