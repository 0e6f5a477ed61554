"""The part of the conformance kit that looks at a family; see ``zoo.testing.check_family``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo._input_checks import check_state
from zoo._model_checks import close, ensure

NUM_DRAWS = 20_000
LATTICES = {1: (10_946, 1), 2: (46_368, 1, 28_657)}  # points, and the step along each axis
CHUNK = 5000  # points of a grid that are scored side by side


def check(family: Any) -> None:
    """The contract of a family of one size."""
    if not family.uses_kappa:
        ensure(family.num_params == 0, "a family that uses no κ has num_params = 0")
        return
    start, P, d = family.initial(), family.num_params, family.dim
    ensure(start.shape == (P,), f"initial() has shape {tuple(start.shape)}, num_params is {P}")
    away = min(0.3, 3 / P**0.5)  # not so far that many weights of a network explode together
    kappa = (start + away * torch.randn(5, P)).requires_grad_()
    q = family(kappa)
    shapes = tuple(q.batch_shape), tuple(q.event_shape)
    ensure(shapes == ((5,), (d,)), f"κ (5, {P}) gives batch and event shapes {shapes}")
    _check_rows(family, kappa)
    if not getattr(family, "is_state", False):
        _check_gradients(family, kappa)
    with torch.no_grad():
        _check_moments(family(kappa.detach()))
        if family.has_density and d in LATTICES:
            _check_normalised(family(kappa.detach()), d)
    z = torch.randn(5, d)
    if family.has_density:
        check_state(family, lambda f: f(kappa.detach()).log_prob(z))


def _check_rows(family: Any, kappa: Tensor) -> None:
    """Each row, and each of (3, 4) particles, is what κ of that row alone gives."""
    q = family(kappa)
    z = q.expand((3, 4, 5)).rsample()
    ensure(z.shape == (3, 4, 5, family.dim), f"draws have shape {tuple(z.shape)}")
    z = z.detach()
    alone = torch.stack([family(row).log_prob(z[..., n, :]) for n, row in enumerate(kappa)], -1)
    close(q.log_prob(z), alone, "the density of a row depends on other rows")


def _check_gradients(family: Any, kappa: Tensor) -> None:
    """A path-wise gradient reaches every entry of κ and every parameter."""
    q = family(kappa)
    z = q.rsample((100,))  # so many that a spline's outer bins are reached, too
    slope = torch.randn_like(z)
    (z * slope + z.square()).sum().sub(q.log_prob(z).sum()).backward()
    lost = [i for i in range(kappa.shape[-1]) if kappa.grad is None or not kappa.grad[:, i].any()]
    ensure(not lost, f"no gradient reaches the entries {lost} of κ; sample by rsample")
    for name, parameter in family.named_parameters() if family.scores else ():
        ensure(parameter.grad is not None, f"no gradient reaches the parameter {name!r}")


def _check_moments(q: Any) -> None:
    """Means and variances of the draws, to 6 standard errors, where q knows its own."""
    z = q.sample((NUM_DRAWS,))
    try:
        mean, variance = q.mean, q.variance
    except NotImplementedError:
        return
    close(z.mean(0), mean, "the draws' means are not q.mean", _band(z))
    close(z.var(0), variance, "the draws' variances are not q.variance", _band((z - mean).square()))


def _band(values: Tensor) -> float:
    """Six standard errors of the least certain mean."""
    return 6 * float(values.std(0).max()) / NUM_DRAWS**0.5 + 1e-9


def _check_normalised(q: Any, dim: int) -> None:
    """∫ exp log_prob = 1 by a lattice over twice the box that each row's draws fill.

    The Fibonacci lattice of the plane has no two points above each other, so that a density with
    kinks along the axes is summed as well as a smooth one.
    """
    count, *steps = LATTICES[dim]
    low, high = torch.aminmax(q.sample((NUM_DRAWS,)), dim=0)  # (5, d)
    low, width = low - (high - low) / 2, 2 * (high - low)
    unit = torch.arange(count)[:, None] * torch.tensor(steps) % count / count
    parts = (q.log_prob(low + width * u).exp().sum(0) for u in unit.unsqueeze(1).split(CHUNK))
    total = sum(parts, torch.zeros(5)) * width.prod(-1) / count
    close(total, torch.ones(5), "the density does not integrate to one", 1e-4)
