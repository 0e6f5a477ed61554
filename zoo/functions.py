"""Any ordinary Pyro function with ``obs=``, where a model is expected."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from torch import nn

from zoo.data import Batch
from zoo.handlers import Observe, Record
from zoo.local_params import LocalParams
from zoo.model import Model


class Uncondition(UnconditionMessenger):
    """Frees observed sites, but for deterministic ones, which say what they are by themselves."""

    def _pyro_sample(self, message: Any) -> None:
        if not (message["infer"] or {}).get("_deterministic"):
            super()._pyro_sample(message)


class PlainModel(Model):
    """An ordinary Pyro function with ``obs=``, made to obey the contract. See ``plain``."""

    def __init__(self, fn: Callable[..., Any], plate: str | None = None):
        super().__init__()
        if not callable(fn):
            raise TypeError(f"plain expects a Pyro function, got {type(fn).__name__}")
        self.fn = fn
        self.parts = nn.ModuleList(_captured(fn))
        self.params = nn.ParameterDict()
        self.constraint_of: dict[str, Any] = {}
        self._plate = plate
        self.resolved = False
        # By the names in a batch; found out at the first use of several particles.
        self.vectorized: dict[frozenset[str], bool] = {}
        arguments = inspect.signature(getattr(fn, "forward", fn)).parameters
        self._takes = list(arguments)
        self._needs = {n for n, a in arguments.items() if a.default is inspect.Parameter.empty}

    @property
    def plate(self) -> str:  # type: ignore[override]
        """The data plate: given, or found at the first run."""
        if self._plate is None:
            raise RuntimeError("the data plate is not known before the first run on data")
        return self._plate

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with LocalParams(self.params, self.constraint_of):
            return self.fn(*args, **kwargs)

    def run(self, batch: Batch) -> Any:
        """The function on the batch's values, its observed sites free again."""
        with Uncondition():
            return self._call(batch)

    def _call(self, batch: Batch) -> Any:
        unknown = sorted(set(batch.values) - set(self._takes))
        if unknown:
            raise ValueError(
                f"{unknown} in the data match no argument of the function; it takes "
                f"{self._takes}; rename one or the other"
            )
        if missing := sorted(self._needs - set(batch.values)):
            raise ValueError(
                f"the function needs {missing}, but the batch has {sorted(batch.values)}; add them "
                "to the data set, or give the arguments a default"
            )
        return self(**batch.values)

    def conditioned(self, batch: Batch) -> Any:
        self.resolve(batch)
        with Observe({}, batch.observed, len(batch)) as observed:
            result = self._call(batch)
        if unmasked := sorted(set(batch.observed) - observed.seen):
            raise ValueError(
                f"{unmasked} have missing entries; name the observed site like the argument"
            )
        return result

    def resolve(self, batch: Batch) -> None:
        """Finds the data plate: the one with as many rows as the batch."""
        if self.resolved:
            return
        with poutine.block(), Record() as record, torch.no_grad():
            self._call(batch)
        frames = {f.name: f for s in record.sites.values() for f in s["cond_indep_stack"]}
        sizes = {name: frame.size for name, frame in frames.items()}
        fit = [n for n, f in frames.items() if f.size == len(batch) and f.dim is not None]
        if self._plate is None:
            if len(fit) != 1:
                raise ValueError(
                    f"the batch has {len(batch)} rows and {len(fit)} plates have that size (the "
                    f"plates: {sizes}); say which holds the data with plain(function, plate=…)"
                )
            self._plate = fit[0]
        elif self._plate not in frames:
            raise ValueError(f"no plate is called {self._plate!r}; the plates are {sizes}")
        frame = frames[self._plate]
        if frame.size != len(batch) or (frame.full_size or frame.size) != frame.size:
            raise ValueError(
                f"plate {self._plate!r} has size {frame.full_size or frame.size} for a batch of "
                f"{len(batch)} rows; write it as pyro.plate({self._plate!r}, len(x)), without "
                "subsampling: minibatches and their scale come from fit"
            )
        for name, site in record.sites.items():
            stack = [f.name for f in site["cond_indep_stack"]]
            if self._plate in stack and (len(stack) > 1 or frame.dim != -1):
                raise ValueError(
                    f"site {name!r} stands in the nested plates {stack}; only the data plate at "
                    "dim=-1 is supported: write the other dimensions with .to_event(...)"
                )
        self.resolved = True


def _captured(fn: Any) -> list[nn.Module]:
    """The PyroModules that a function reads from around it."""
    if not inspect.isfunction(fn):
        return []
    around = inspect.getclosurevars(fn)
    values = {**around.globals, **around.nonlocals}.values()
    return [value for value in values if isinstance(value, PyroModule)]


def model_of(fn: Callable[..., Any]) -> Model:
    """The model of a function that is given as it is: the same each time, and so its parameters."""
    home = None if inspect.ismethod(fn) else getattr(fn, "__dict__", None)
    if home is None:
        return PlainModel(fn)
    if "_zoo_model" not in home:
        home["_zoo_model"] = PlainModel(fn)
    return home["_zoo_model"]


def plain(fn: Callable[..., Any], plate: str | None = None) -> Model:
    """An ordinary Pyro function with ``obs=`` as a model.

    Arguments are taken from the batch by name. The data plate is the one as long as the batch;
    where several or none are, ``plate`` says which. Parameters (``pyro.param``, ``pyro.module``,
    ``PyroModule``) are kept in the model, never in Pyro's global store. A function that is given
    elsewhere without ``plain`` stands for one model, always the same.

    Example:
        >>> import pyro, pyro.distributions as dist, torch, zoo
        >>> def rates(x):
        ...     with pyro.plate("rows", len(x)):
        ...         rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        ...         pyro.sample("x", dist.Poisson(rate), obs=x)
        >>> model = plain(rates)
        >>> data = zoo.as_dataset(torch.tensor([1.0, 4.0]))
        >>> _ = zoo.observe(model)(data.batch())
        >>> model.plate
        'rows'
    """
    return PlainModel(fn, plate)
