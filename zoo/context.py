"""Settings that hold for a block and are put back after it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

streams = 0  # how many streams of their own (``seeded``) are inside one another now


@contextmanager
def factory(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """New tensors of the block get this device and floating type unless they say otherwise."""
    before = torch.get_default_dtype()
    with ExitStack() as stack:
        if device.type != "cpu":
            stack.enter_context(torch.device(device))
            stack.enter_context(_Filled(device))
        if dtype != before:
            torch.set_default_dtype(dtype)
            stack.callback(torch.set_default_dtype, before)
        yield


class _Filled(TorchFunctionMode):
    """Numbers become tensors by a fill on the device: a copy from the host would wait for it."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and isinstance(args[0], int | float) and "device" not in kwargs:
            whole = torch.int64 if isinstance(args[0], int) else torch.get_default_dtype()
            chosen = torch.bool if isinstance(args[0], bool) else whole
            return torch.full((), args[0], **{"dtype": chosen, "device": self.device, **kwargs})
        return func(*args, **kwargs)


@contextmanager
def half_layers(device: torch.device) -> Iterator[None]:
    """Linear and convolutional layers compute in bfloat16 by autocast, and give the type they got.

    Everything else, log-densities and draws above all, stays in the type of the model: log weights
    are differences of large numbers, of which bfloat16 keeps three digits.
    """
    with _HalfLayers(device):
        yield


class _HalfLayers(TorchFunctionMode):
    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _LAYERS:
            return func(*args, **kwargs)
        with torch.autocast(self.device.type, torch.bfloat16):
            return func(*args, **kwargs).to(args[0].dtype)


_LAYERS = {
    nn.functional.linear,
    *(getattr(nn.functional, f"conv{d}d") for d in (1, 2, 3)),
    *(getattr(nn.functional, f"conv_transpose{d}d") for d in (1, 2, 3)),
}


@contextmanager
def frozen(*parts: nn.Module | Tensor) -> Iterator[None]:
    """None of these parameters, or of the parameters of these modules, takes a gradient inside."""
    each = (part.parameters() if isinstance(part, nn.Module) else [part] for part in parts)
    parameters = {p for some in each for p in some if p.requires_grad}
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
    global streams
    device = torch.device(device)
    cuda = [device] if device.type == "cuda" else []
    streams += 1
    try:
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            yield
    finally:
        streams -= 1


@contextmanager
def evaluating(*parts: Any) -> Iterator[None]:
    """Modules in evaluation mode (dropout off, running statistics at rest), and as before again."""
    modules = [m for part in parts if isinstance(part, nn.Module) for m in part.modules()]
    training = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, training, strict=True):
            module.training = mode


@contextmanager
def validation(on: bool) -> Iterator[None]:
    """Pyro's and torch's checks of parameters, supports and shapes, on or off."""
    with pyro.validation_enabled(on):
        yield
