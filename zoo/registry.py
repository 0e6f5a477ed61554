"""What there is, by one word: models, families, inference, objectives and data sets.

A file is its own registration. The files are read as text (``ast``), so that listing imports
nothing heavy; ``resolve`` imports only the one file that holds the word.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

Definition = TypeVar("Definition", ast.ClassDef, ast.FunctionDef)


class Entry(NamedTuple):
    """Where a word is defined: the module, the attribute in it, and the first docstring line."""

    module: str
    attribute: str
    line: str


def names(kind: str) -> dict[str, str]:
    """word -> one line on it, sorted by word; without importing what it names.

    Args:
        kind: ``models``, ``families``, ``inference``, ``objectives`` or ``data``.

    Raises:
        ValueError: an unknown kind, or a file that holds two public classes where the file's name
            stands for one.

    Example:
        >>> "ppca" in names("models")
        True
    """
    return {word: entry.line for word, entry in sorted(entries(kind).items())}


def resolve(kind: str, name: str) -> Any:
    """The class or function behind a word; a user's own model by ``file.py`` or ``file.py:Class``.

    Args:
        kind: as for ``names``.
        name: a word of ``names(kind)``; for models also the path of a Python file. For data the
            answer is ``load_data`` with the name filled in.

    Raises:
        ValueError: a word that is not there, with the nearest that are; a file that does not
            exist, has no ``Model`` in it, or several of which none is named.

    Example:
        >>> resolve("models", "pcca")
        Traceback (most recent call last):
        ValueError: there is no model 'pcca'. Did you mean 'ppca'? ...
    """
    found = entries(kind)
    if kind == "models" and (match := re.fullmatch(r"(.+\.py)(?::(\w+))?", name)):
        return _model_in_file(Path(match[1]), match[2])
    if name not in found:
        raise unknown(_KINDS[kind].singular, name, found)
    entry = found[name]
    value = getattr(importlib.import_module(entry.module), entry.attribute)
    return partial(value, name) if kind == "data" else value


def unknown(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a word that is not there, with the nearest words that are.

    Example:
        >>> unknown("family", "mean-feild", ["full_rank", "mean_field"])
        ValueError("there is no family 'mean-feild'. Did you mean 'mean_field'? Known: ...")
    """
    known = sorted(known)
    wanted = name.lower().replace("-", "_")
    nearest = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
    return ValueError(f"there is no {what} {name!r}.{hint} Known: {', '.join(known) or 'none'}")


def snake_case(name: str) -> str:
    """A class name as a word.

    Example:
        >>> snake_case("PerDatapoint"), snake_case("IWAEBound"), snake_case("PPCA")
        ('per_datapoint', 'iwae_bound', 'ppca')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def entries(kind: str) -> dict[str, Entry]:
    """word -> where it is defined. Raises ``ValueError`` for an unknown kind."""
    if kind not in _KINDS:
        raise unknown("kind", kind, _KINDS)
    return dict(_KINDS[kind].find())


def _inference() -> Iterator[tuple[str, Entry]]:
    for module, tree in _modules("guides", only="inference"):
        for node in _public(tree, ast.ClassDef):
            yield snake_case(node.name), _entry(module, node, tree)


def _objectives() -> Iterator[tuple[str, Entry]]:
    for module, tree in _modules("zoo.objectives"):
        for node in _public(tree, ast.FunctionDef):
            yield node.name, _entry(module, node, tree)


def _data() -> Iterator[tuple[str, Entry]]:
    for module, tree in _modules("zoo", only="sources"):
        for word, line in (_literal(tree, "SOURCES") or {}).items():
            yield word, Entry(module, "load_data", line)


def _one_class_a_file(package: str, base: str) -> Iterator[tuple[str, Entry]]:
    """A public file is named after the one public class in it that has the base."""
    for module, tree in _modules(package):
        classes = [n for n in _public(tree, ast.ClassDef) if base in map(_last_name, n.bases)]
        if len(classes) > 1:
            raise ValueError(
                f"{module} holds {len(classes)} public classes with base {base} "
                f"({', '.join(n.name for n in classes)}), but a file is known by its name: give "
                "each a file, or the others a leading underscore"
            )
        if classes:
            yield module.rpartition(".")[2], _entry(module, classes[0], tree)


def _modules(package: str, only: str = "*") -> Iterator[tuple[str, ast.Module]]:
    """The public files of a package, parsed; none where the package is not installed."""
    root, *rest = package.split(".")
    spec = importlib.util.find_spec(root)
    for place in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(place, *rest).glob(f"{only}.py")):
            if not path.name.startswith("_"):
                yield f"{package}.{path.stem}", _parsed(path, path.stat().st_mtime_ns)


@cache
def _parsed(path: Path, modified: int) -> ast.Module:
    return ast.parse(path.read_bytes(), str(path))


def _public(tree: ast.Module, kind: type[Definition]) -> list[Definition]:
    """The top-level definitions of a kind that ``__all__`` lists, or that have a public name."""
    listed = _literal(tree, "__all__")
    return [
        node
        for node in tree.body
        if isinstance(node, kind)
        and (node.name in listed if listed is not None else not node.name.startswith("_"))
    ]


def _literal(tree: ast.Module, name: str) -> Any:
    """The value of a module-level ``name = literal``, or None."""
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return ast.literal_eval(node.value)
    return None


def _last_name(base: ast.expr) -> str:
    """``Model`` of ``Model``, ``zoo.Model`` and ``Model[T]``."""
    return ast.unparse(base).partition("[")[0].rpartition(".")[2]


def _entry(module: str, node: ast.ClassDef | ast.FunctionDef, tree: ast.Module) -> Entry:
    text = ast.get_docstring(node) or ast.get_docstring(tree) or ""
    return Entry(module, node.name, text.partition("\n")[0])


def _model_in_file(path: Path, wanted: str | None) -> type:
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


class _Kind(NamedTuple):
    singular: str
    find: Callable[[], Iterator[tuple[str, Entry]]]


_KINDS = {
    "models": _Kind("model", partial(_one_class_a_file, "zoo.models", "Model")),
    "families": _Kind("family", partial(_one_class_a_file, "guides.families", "Family")),
    "inference": _Kind("inference", _inference),
    "objectives": _Kind("objective", _objectives),
    "data": _Kind("data set", _data),
}
KINDS = tuple(_KINDS)
