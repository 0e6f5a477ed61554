"""Settings that hold for a block and are put back after it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pyro
import torch
from torch import nn


@contextmanager
def factory(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """New tensors of the block get this device and floating type unless they say otherwise."""
    before = torch.get_default_dtype()
    with ExitStack() as stack:
        if device.type != "cpu":
            stack.enter_context(torch.device(device))
        if dtype != before:
            torch.set_default_dtype(dtype)
            stack.callback(torch.set_default_dtype, before)
        yield


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No parameter of these modules takes a gradient inside the block."""
    parameters = {p for module in modules for p in module.parameters() if p.requires_grad}
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def stream(seed: int, purpose: str) -> int:
    """A seed for one purpose, so that no two purposes ever share random numbers."""
    words = [seed % 2**64, zlib.crc32(purpose.encode())]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """A stream of random numbers of its own; the one outside goes on as if nothing had happened."""
    device = torch.device(device)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


@contextmanager
def validation(on: bool) -> Iterator[None]:
    """Pyro's and torch's checks of parameters, supports and shapes, on or off."""
    with pyro.validation_enabled(on):
        yield
