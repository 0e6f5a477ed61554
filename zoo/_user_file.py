"""A user's own model, from a Python file."""

from __future__ import annotations

import importlib.util
import sys
import zlib
from pathlib import Path
from types import ModuleType

from zoo.registry import unknown


def model_in_file(path: Path, wanted: str | None) -> type:
    """The ``Model`` subclass in a user's file, which is imported once."""
    from zoo.model import Model

    path = path.expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give the path of a Python file with a Model")
    module = _imported(path)
    models = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Model) and value is not Model
    }
    if wanted is not None:
        if wanted not in models:
            raise unknown(f"Model subclass in {path.name} called", wanted, models)
        return models[wanted]
    own = [
        name
        for name, value in models.items()
        if value.__module__ == module.__name__ and not name.startswith("_")
    ]
    if not own:
        raise ValueError(
            f"{path} defines no subclass of Model; write `class MyModel(zoo.Model)` with a "
            "forward(self, n) that samples the joint (a plain Pyro function works from Python, by "
            "zoo.plain)"
        )
    if len(own) > 1:
        choices = " or ".join(f"{path.name}:{name}" for name in own)
        raise ValueError(f"{path} defines several models; name one: {choices}")
    return models[own[0]]


def _imported(path: Path) -> ModuleType:
    """The module of a file, under a name that no installed module can have."""
    name = f"zoo_file_{zlib.crc32(str(path).encode()):08x}_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ValueError(f"{path} is not a Python file that can be imported")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            what = type(error).__name__
            raise ValueError(f"{path} cannot be imported: {what}: {error}") from error
    return sys.modules[name]
