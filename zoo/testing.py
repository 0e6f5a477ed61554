"""The conformance kit: give it a model, a guide or a family of yours, and it tests the contract.

Every check runs on a copy in float64, with random numbers of its own, and raises an
``AssertionError`` that says what was expected and what to try.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pyro
import torch

from zoo import _capture_checks as captures
from zoo import _family_checks as families
from zoo import _guide_checks as checks
from zoo import _input_checks as inputs
from zoo import _model_checks as models
from zoo._model_checks import ensure, explained
from zoo.context import factory, seeded, validation
from zoo.data import Batch, Dataset, as_dataset
from zoo.exact import knows
from zoo.model import Model, as_model
from zoo.particles import simulate

__all__ = ["check_captured", "check_family", "check_guide", "check_model"]

ROWS = 5


def check_model(model: Any, data: Any = None) -> None:
    """The contract of a model, p(x, z).

    Checked: many particles in one run give what each gives alone, at (S, K) = (1, 1), (3, 4) and
    (B, B); gradients reach every parameter; the model scores what it simulates; ``log_evidence``,
    ``posterior`` and ``responsibilities``, where there are any, against log p(x, z) - log q(z | x)
    at random z, enumeration or importance sampling; ``state_dict``; float32; missing entries; and
    that bad data raise a ``ValueError`` with the name in it.

    Args:
        model: a ``Model``, a subclass with ``example()``, or a plain Pyro function with ``obs=``.
        data: the data to test it on; by default those of ``model.example()``.

    Raises:
        AssertionError: what does not hold, and what to try.

    Example:
        >>> from zoo.models.ppca import PPCA
        >>> check_model(PPCA)
    """
    model, data = _given(model, data)
    store = set(pyro.get_param_store().keys())
    batch = data.batch(torch.arange(min(ROWS, len(data))))
    with factory(model.device, model.dtype), seeded(0, model.device), validation(True):
        with explained("the model does not run on its data"):
            model.resolve(batch)
            simulate(model, batch)
        models.check_particles(model, batch)
        models.check_gradients(model, batch)
        models.check_simulation(model, batch)
        exact = {w for w in ("log_evidence", "posterior") if knows(model, w)}
        if exact:
            models.check_exact(model, batch)
        for masked in inputs.check_missing(model, _square(data)):
            if exact and all(
                "observed" in inspect.signature(getattr(model, w)).parameters for w in exact
            ):
                models.check_exact(model, masked)
        inputs.check_state(model, lambda m: inputs.joint(m, batch))
        inputs.check_types(model, batch)
        inputs.check_inputs(model, batch)
    _check_store(store)


def _square(data: Dataset) -> Batch:
    """As many rows as the event is long: a mask of entries could then pass for one of rows."""
    widths = [shape[-1] for shape in map(data.event_shape, data.names) if shape]
    return data.batch(torch.arange(min([*widths[:1], len(data), 20])))


def check_guide(make: Callable[[Any, Any], Any], model: Any, data: Any = None) -> None:
    """The contract of a guide, q(z | x), on a model.

    Checked: its parameters exist from construction and gradients reach them; log weights are
    finite at (S, K) = (1, 1), (3, 4), (B, B) and the same for each particle alone; draws and
    densities agree; the bound stays below ``log_evidence``, where the model knows it, and equals
    it for the exact posterior; ``posterior``; ``state_dict``, also into a new guide.

    Args:
        make: (model, data) -> guide, such as ``guides.Guide`` or
            ``functools.partial(Guide, family="full_rank")``.
        model: a ``Model``, a subclass with ``example()``, or a plain Pyro function.
        data: by default those of ``model.example()``.

    Raises:
        AssertionError: what does not hold, and what to try.
    """
    model, data = _given(model, data)
    store = set(pyro.get_param_store().keys())
    batch = data.batch(torch.arange(min(ROWS, len(data))))
    with factory(model.device, model.dtype), seeded(0, model.device), validation(True):
        with explained("the guide cannot be made for the model and its data"):
            guide = make(model, data).double()
        checks.check_construction(model, guide, batch)
        checks.check_particles(model, guide, batch)
        checks.check_gradients(model, guide, batch)
        checks.check_densities(model, guide, batch)
        checks.check_bound(model, guide, batch)
        checks.check_posterior(model, guide, batch)
        inputs.check_state(guide, lambda g: checks.weigh(model, g, batch).local)
        with explained("the state of one guide does not load into another, made in the same way"):
            other = make(model, data).double()
            other.load_state_dict(guide.state_dict())
        got, expected = (checks.weigh(model, g, batch).local for g in (other, guide))
        models.close(got, expected, "a new guide that loads a state scores differently", 0.0)
    _check_store(store)


def check_family(kind: Any, **options: Any) -> None:
    """The contract of a family, Ψ(z; κ).

    Checked in 1, 2 and 3 dimensions: shapes; rows do not depend on each other; the gradient
    reaches every entry of κ and every parameter; densities of 1 and 2 dimensions integrate to one
    by quadrature; the draws' means and variances are those of the distribution; ``state_dict``.

    Args:
        kind: a ``Family`` class, kind(dim, **options).
        options: its options.

    Raises:
        AssertionError: what does not hold, and what to try.
    """
    with factory(torch.device("cpu"), torch.float64), seeded(0), validation(True):
        for dim in (1, 2, 3):
            with explained(f"in {dim} dimensions the family fails"):
                families.check(kind(dim, **options))


def check_captured(
    model: Any,
    guide: Any,
    data: Any,
    objective: Any = "elbo",
    *,
    run: str = "traced",
    steps: int = 20,
    tol: float = 1e-6,
    **options: Any,
) -> float:
    """That a fit whose step is captured is the eager fit; the largest relative difference.

    Checked: copies of the pair in float64, fitted captured and eager from the same start and seed,
    have the same losses in every row of metrics and end with the same weights; and the step was
    really captured, to the end.

    Args:
        model: a ``Model`` or a plain Pyro function.
        guide: for it; None where the objective needs none.
        data: what they are fitted to.
        objective: as for ``fit``.
        run: ``compiled``, ``graph``; or ``traced``, the captured operations one by one, which needs
            no compiler.
        steps: how many.
        tol: the largest difference, relative to the larger of 1 and the largest entry.
        options: of ``fit``, such as ``batch_size``; a row of metrics after every step by default.

    Raises:
        AssertionError: what differs, or why the step could not be captured.
        ValueError: as ``fit``.

    Example:
        >>> from guides import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> check_captured(model, Guide(model, data), data, steps=3) < 1e-9
        True
    """
    model, guide = copy.deepcopy((as_model(model), guide))
    if isinstance(guide, torch.nn.Module):
        guide.double()
    data = as_dataset(data).to(model.double().device, torch.float64)
    if (held_out := options.get("held_out")) is not None:
        options["held_out"] = as_dataset(held_out).to(model.device, torch.float64)
    given = {"log_every": 1, "device": str(model.device), "progress": False, **options}
    with factory(torch.device("cpu"), torch.float64):
        return captures.check((model, guide), data, objective, run, tol, steps=steps, **given)


def _given(model: Any, data: Any) -> tuple[Model, Dataset]:
    """A copy of the model in float64, and its data beside it."""
    if data is None:
        ensure(knows(model, "example"), "give data, or the model example() -> (model, data)")
        example, data = model.example()
        model = example if isinstance(model, type) else model
    model = copy.deepcopy(as_model(model)).double()
    return model, as_dataset(data).to(model.device, torch.float64)


def _check_store(before: set[str]) -> None:
    left = set(pyro.get_param_store().keys()) - before
    ensure(not left, f"{sorted(left)} stand in Pyro's global store; use nn.Parameter")
