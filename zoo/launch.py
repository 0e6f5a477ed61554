"""Whether torchrun has started this process, as one of how many; asked without torch."""

from __future__ import annotations

import os


def launched() -> bool:
    """Whether this is a process of torchrun.

    Example:
        >>> launched()
        False
    """
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Which of torchrun's processes this is; 0 without torchrun."""
    return int(os.environ["RANK"]) if launched() else 0


def local_rank() -> int:
    """Which of the processes on this machine: the number of its CUDA device."""
    return int(os.environ["LOCAL_RANK"]) if launched() else 0


def world_size() -> int:
    """How many processes there are; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1
