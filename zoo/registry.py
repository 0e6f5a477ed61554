"""What there is, by one word: models, families, inference, objectives, data sets and parts.

A file is its own registration. The files are read as text (``ast``), so that listing imports
nothing heavy; ``resolve`` imports only the one file that holds the word.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
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
        kind: ``models``, ``families``, ``inference``, ``estimators``, ``objectives``,
            ``likelihoods``, ``priors``, ``recipes`` or ``data``.

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
        from zoo._user_file import model_in_file

        return model_in_file(Path(match[1]), match[2])
    if kind == "families" and "+" in name:
        return importlib.import_module("guides.stacked").stacked(name)
    word, _, value = name.partition(":")
    if word not in found:
        raise unknown(_KINDS[kind].singular, name, found)
    entry = found[word]
    target = getattr(importlib.import_module(entry.module), entry.attribute)
    if value and kind != "objectives" and getattr(target, "shorthand", None) is None:
        raise ValueError(f"{word!r} takes no value after a colon, got {name!r}")
    return partial(target, name) if kind == "data" else target


def build(kind: str, name: str, *args: Any, **options: Any) -> Any:
    """What a word stands for, made: ``planar:16`` is ``Planar(*args, length=16)``.

    The value after the colon is the option that the class names by its attribute ``shorthand``.

    Raises:
        ValueError: as ``resolve``; a value of the wrong type; the same option given twice.

    Example:
        >>> build("families", "low_rank:3", 5).rank
        3
    """
    target = resolve(kind, name)
    word, _, value = name.partition(":")
    if not value or "+" in name:  # planar:4+iaf:2 says its lengths itself
        return target(*args, **options)
    option = target.shorthand
    if option in options and str(options[option]) != value:
        raise ValueError(f"{name!r} says {option} already; leave {option}={options[option]!r} out")
    hint = inspect.signature(target).parameters[option].annotation
    try:
        kept = {"int": int, "float": float}.get(str(getattr(hint, "__name__", hint)), str)(value)
    except ValueError:
        raise ValueError(f"{word} takes its {option} after the colon, got {value!r}") from None
    return target(*args, **{**options, option: kept})


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


def _classes_of(package: str, *files: str) -> Iterator[tuple[str, Entry]]:
    """Files whose public classes are each a word."""
    for file in files:
        for module, tree in _modules(package, only=file):
            for node in _public(tree, ast.ClassDef):
                yield snake_case(node.name), _entry(module, node, tree)


def _objectives() -> Iterator[tuple[str, Entry]]:
    for module, tree in _modules("zoo.objectives"):
        for node in _public(tree, ast.FunctionDef):
            yield node.name, _entry(module, node, tree)


def _recipes() -> Iterator[tuple[str, Entry]]:
    for module, tree in _modules("experiments.recipes"):
        for node in _public(tree, ast.FunctionDef):
            if module.endswith(f".{node.name}"):  # the other functions are its parts
                yield node.name, _entry(module, node, tree)


def _data() -> Iterator[tuple[str, Entry]]:
    for module, tree in _modules("zoo", only="sources"):
        for word, line in (_literal(tree, "SOURCES") or {}).items():
            yield word, Entry(module, "load_data", line)


def _one_class_a_file(package: str, *bases: str) -> Iterator[tuple[str, Entry]]:
    """A public file is named after the one public class in it that has one of the bases."""
    for module, tree in _modules(package):
        classes = [
            node
            for node in _public(tree, ast.ClassDef)
            if not set(bases).isdisjoint(map(_last_name, node.bases))
        ]
        if len(classes) > 1:
            raise ValueError(
                f"{module} holds {len(classes)} public classes with base {bases[0]} "
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


class _Kind(NamedTuple):
    singular: str
    find: Callable[[], Iterator[tuple[str, Entry]]]


_INFERENCE = ("table", "inference", "structured", "recurrent", "codes")  # files of guides/
_KINDS = {
    "models": _Kind("model", partial(_one_class_a_file, "zoo.models", "Model", "VAE")),
    "families": _Kind("family", partial(_one_class_a_file, "guides.families", "Family", "Flow")),
    "inference": _Kind("inference", partial(_classes_of, "guides", *_INFERENCE)),
    "estimators": _Kind("estimator", partial(_classes_of, "guides", "estimators", "relaxations")),
    "objectives": _Kind("objective", _objectives),
    "likelihoods": _Kind("likelihood", partial(_classes_of, "zoo.likelihoods", "*")),
    "priors": _Kind("prior", partial(_classes_of, "zoo", "priors")),
    "recipes": _Kind("recipe", _recipes),
    "data": _Kind("data set", _data),
}
KINDS = tuple(_KINDS)
