"""Parameters of Pyro programs without Pyro's global parameter store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to


class LocalParams(Messenger):
    """Keeps ``pyro.param`` values in a module of their own: the global store stays empty."""

    def __init__(self, store: nn.ParameterDict, constraint_of: dict[str, Any]):
        super().__init__()
        self.store, self.constraint_of = store, constraint_of

    def _pyro_param(self, message: Any) -> None:
        if getattr(message["fn"], "__self__", None) is not pyro.get_param_store():
            return  # a PyroModule that keeps its own parameters
        name, *initial = message["args"]
        key = name.replace(".", "__")
        if key not in self.store:
            if not initial or initial[0] is None:
                raise ValueError(f"parameter {name!r} has no initial value")
            self.constraint_of[key] = message["kwargs"].get("constraint", constraints.real)
            value = initial[0] if isinstance(initial[0], Tensor) else initial[0]()
            if not isinstance(value, nn.Parameter):
                transform = transform_to(self.constraint_of[key])
                value = nn.Parameter(transform.inv(value.detach()).clone())
            self.store[key] = value
        message["value"] = transform_to(self.constraint_of[key])(self.store[key])


@contextmanager
def at_home(part: Any) -> Iterator[None]:
    """The PyroModules in ``part`` keep their parameters to themselves inside the block.

    In the global store two modules of one class would share them, the second losing its own.
    """
    for module in part.modules() if isinstance(part, nn.Module) else ():
        if isinstance(module, PyroModule):  # as if it had been made with local parameters
            state: dict[str, dict[str, Any]] = {"params": {}, "constraints": {}}
            module._pyro_context.__dict__.setdefault("param_state", state)
    with pyro.settings.context(module_local_params=True):
        yield
