"""What every measurement prints and keeps: the figures, the machine and the versions."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from zoo.store import versions

RESULTS = Path(__file__).parent / "results"


def save(name: str, result: dict[str, Any]) -> None:
    """Prints the figures and writes ``results/NAME.json``."""
    full = {
        "benchmark": name,
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} used",
        "versions": versions(),
        **result,
    }
    print(json.dumps(result, indent=2))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(full, indent=2) + "\n")


def memory() -> float:
    """The process's resident memory, in MB."""
    import psutil  # of the extra `bench`

    return psutil.Process().memory_info().rss / 2**20
