"""Parts of the conformance kit that look at what goes into a model: state, types, bad data."""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent

from zoo._model_checks import close, ensure, explained
from zoo.context import seeded
from zoo.data import Batch
from zoo.functions import PlainModel
from zoo.handlers import log_prob
from zoo.model import Model
from zoo.particles import drawn, log_joint, simulate

CANDIDATES = (-1.5, 0.5, 1e6)  # at least one is outside any support but the real line


def check_state(module: nn.Module, score: Callable[[Any], Tensor]) -> None:
    """``state_dict`` holds everything: saved, zeroed and loaded again, a module scores the same."""
    for name, tensor in _loose(module):
        raise AssertionError(
            f"{name} is a tensor {tuple(tensor.shape)} that save, load and device moves would miss;"
            " make it an nn.Parameter or call register_buffer"
        )
    expected = score(module)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    other = copy.deepcopy(module)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.copy_(torch.zeros_like(value))
    file.seek(0)
    with explained("the saved state does not load"):
        other.load_state_dict(torch.load(file, weights_only=True))
    close(score(other), expected, "values differ after state_dict was saved and loaded", 0.0)


def _loose(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that are neither parameters nor buffers, by the name of the attribute."""
    for prefix, part in module.named_modules():
        for name in vars(part).keys() - {"_parameters", "_buffers", "_modules"}:
            value = vars(part)[name]
            held = value.values() if isinstance(value, dict) else value
            for each in held if isinstance(value, dict | list | tuple) else [value]:
                if isinstance(each, Tensor):
                    yield f"{prefix}.{name}".lstrip("."), each


def joint(model: Model, batch: Batch) -> Tensor:
    """log p(x, z) (B,) at one seeded draw of the latents."""
    with torch.no_grad(), seeded(1, model.device):
        return log_joint(simulate(model, batch), model.plate, 1, 1, len(batch))[0, 0]


def check_types(model: Model, batch: Batch) -> None:
    """A model in float32 samples and scores in float32, and nearly the same values."""
    single = copy.deepcopy(model).float()
    with explained("in float32 the model fails; make new tensors inside forward, without a dtype"):
        sites = simulate(model, batch)
        given = {name: {"value": _single(site["value"])} for name, site in drawn(sites).items()}
        again = simulate(single, batch.to(torch.float32), given=given)
        for name, site in again.items():
            kind = log_prob(site).dtype
            ensure(kind == torch.float32, f"a float32 model scores site {name!r} in {kind}")
        parts = (log_joint(s, model.plate, 1, 1, len(batch)) for s in (again, sites))
        got, expected = (part.detach().double() for part in parts)
    close(got, expected, "log p(x, z) in float32 is not that in float64", 1e-2)


def _single(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def check_inputs(model: Model, batch: Batch) -> None:
    """Unknown names, wrong shapes, NaN, values outside the support, missing inputs: ValueErrors."""
    extra = torch.zeros(len(batch), device=model.device)
    _refused(model, _with(batch, nonesuch=extra), "nonesuch", "an unknown name")
    if isinstance(model, PlainModel):
        return  # the function itself decides what it does with its arguments
    wanted = inspect.signature(model.forward).parameters
    for name in set(model.inputs) & set(batch.values):
        if wanted[name].default is inspect.Parameter.empty:
            _refused(model, batch.without(name), name, "a missing input")
    for name, site in simulate(model, batch).items():
        if not site["is_observed"]:
            continue
        value = batch[name]
        wrong = torch.cat([value, value], -1) if value.dim() > 1 else value[:, None]
        _refused(model, _with(batch, **{name: wrong}), name, "a wrong event shape")
        if value.is_floating_point():
            bad = value.clone()
            bad.view(-1)[0] = torch.nan
            _refused(model, _with(batch, **{name: bad}), name, "NaN")
        for candidate in CANDIDATES:
            outside = torch.full_like(value, candidate)
            if not bool(site["fn"].support.check(outside).all()):
                _refused(model, _with(batch, **{name: outside}), name, f"the value {candidate}")
                break


def _with(batch: Batch, **values: Tensor) -> Batch:
    return replace(batch, values={**batch.values, **values})


def _refused(model: Model, batch: Batch, name: str, what: str) -> None:
    try:
        simulate(model, batch)
    except ValueError as error:
        ensure(name in str(error), f"the error for {what} does not name {name!r}: {error}")
    except Exception as error:
        raise AssertionError(
            f"{what} for {name!r} raises {type(error).__name__}: {error}"
        ) from error
    else:
        raise AssertionError(f"{what} for {name!r} is accepted")


@torch.no_grad()
def check_missing(model: Model, batch: Batch) -> list[Batch]:
    """Entries marked as missing are integrated out, or the site is refused by name.

    Returns the batches with missing entries that the model can score.
    """
    scored = []
    whole = simulate(model, batch)
    given = {n: s for n, s in whole.items() if not s["is_observed"]}
    for name, site in whole.items():
        if not site["is_observed"] or not site["fn"].event_shape:
            continue
        mask = torch.rand(batch[name].shape, device=model.device) < 0.6
        masked = replace(batch, observed={name: mask})
        fn = site["fn"]
        if not isinstance(fn, Independent):
            if not hasattr(fn, "marginal"):
                _refused(model, masked, name, "a mask on a likelihood that does not factorise")
            continue
        values = fn.base_dist.log_prob(batch[name])
        expected = torch.where(mask, values, 0.0).flatten(-len(fn.event_shape)).sum(-1)
        filler = torch.where(mask, batch[name], batch[name].roll(1, 0))
        for entries in (batch[name], filler):
            again = simulate(model, _with(masked, **{name: entries}), given=given)
            close(log_prob(again[name]), expected, f"missing entries of site {name!r} count")
        scored.append(masked)
    return scored
