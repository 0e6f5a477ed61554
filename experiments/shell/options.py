"""The command line's options, read from signatures and docstrings: a new class brings its own."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union

from zoo.registry import resolve

# parameter that holds keyword arguments -> (prefix on the command line, kind, whose word decides)
CLASSES = {
    "model_options": ("model", "models", "model"),
    "family_options": ("family", "families", "family"),
    "inference_options": ("inference", "inference", "inference"),
    "estimator_options": ("estimator", "estimators", "estimator"),
    "objective_options": ("objective", "objectives", "objective"),
    "global_options": ("global", "families", "global_family"),
}
PARTS = {"likelihood": "likelihoods", "prior": "priors"}  # what a model has by a word of its own
CLASSIFIER = "classifier_options"  # of q(y | x), where there is one
FUNCTIONS = {"fit_options": "zoo.fitting:fit", "data_options": "zoo.sources:load_data"}
# Parameters that come from elsewhere: the data, the guide, or an option of the command itself.
GLOBAL_START = {"init_scale": 0.1}  # what Guide starts global latents with, unless told
GIVEN = {
    "models": {"data_dim"},
    "families": {"dim"},
    "inference": {"data", "initial", "latents"},
    "estimators": set(),
    "objectives": {"model", "guide", "batch", "num_particles", "estimator"},
    "likelihoods": {"data_dim"},
    "priors": {"latent_dim", "data_dim"},
}
OF_SPEC = {"objective", "seed", "device", "freeze", "out", "resume", "objective_options", "name"}


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        flag: as shown, ``--model.latent_dim``.
        dest: where its value goes, ``model_options.latent_dim``.
        type, default: from the signature.
        help: from the docstring.
        group: the heading that it stands under in the help.
    """

    flag: str
    dest: str
    type: Any
    default: Any
    help: str
    group: str

    @property
    def is_bool(self) -> bool:
        """Whether the flag alone means true."""
        return self.type in (bool, bool | None)

    @property
    def is_sequence(self) -> bool:
        """Whether ``a,b`` is a list."""
        every = (self.type, *typing.get_args(self.type))
        return any((typing.get_origin(t) or t) in (list, tuple, Sequence) for t in every)


def collect(
    function: Callable[..., Any], words: Mapping[str, Sequence[str]], skip: Sequence[str] = ()
) -> list[Option]:
    """The options of a command, with those of the classes that its words name.

    Args:
        function: its signature has the axes' words, and ``model_options`` and the like for the
            keyword arguments of what the words name.
        words: by parameter, the words that were given (or are the default).
        skip: parameters that are no options.

    Raises:
        ValueError: a word that is not there.
    """
    found: dict[str, Option] = {}
    for option in _walk(function, words, skip):
        found.setdefault(option.flag, option)
    return list(found.values())


def _walk(
    function: Callable[..., Any], words: Mapping[str, Sequence[str]], skip: Sequence[str]
) -> Iterator[Option]:
    names = [n for n in inspect.signature(function).parameters if n not in skip]
    plain = [n for n in names if n not in CLASSES and n not in FUNCTIONS and n != CLASSIFIER]
    yield from of(function, "--{}", "{}", "run", plain)
    for holder in names:
        if holder in FUNCTIONS:
            module, _, attribute = FUNCTIONS[holder].partition(":")
            target = getattr(__import__(module, fromlist=[attribute]), attribute)
            title = "fit" if holder == "fit_options" else "data"
            yield from of(target, "--{}", f"{holder}.{{}}", title, skip=OF_SPEC)
        elif holder == CLASSIFIER and _classifies(words):
            from guides.classifier import Classifier

            given = {"data", "labels", "latents", "estimator"}
            yield from of(
                Classifier, "--classifier.{}", f"{CLASSIFIER}.{{}}", "classifier", skip=given
            )
        elif holder in CLASSES:
            prefix, kind, axis = CLASSES[holder]
            for word in words.get(axis, ()):
                if axis == "global_family" and word.startswith("Auto"):
                    continue
                target = resolve(kind, word.partition(":")[0] if kind == "objectives" else word)
                flag, dest = f"--{prefix}.{{}}", f"{holder}.{{}}"
                start = GLOBAL_START if prefix == "global" else {}
                for option in of(target, flag, dest, f"{prefix} {word}", skip=GIVEN[kind]):
                    name = option.dest.partition(".")[2]
                    yield replace(option, default=start.get(name, option.default))
                yield from _parts(target, holder, prefix, words)


def _classifies(words: Mapping[str, Sequence[str]]) -> bool:
    """Whether a guide may have a q(y | x), by its estimator or, beside one of paths, the model."""
    kinds = [resolve("estimators", word) for word in words.get("estimator", ())]
    if any(kind.of_paths for kind in kinds):
        models = [resolve("models", word) for word in words.get("model", ())]
        kinds += [resolve("estimators", model.estimator) for model in models]
    return any(kind.classifies for kind in kinds)


def _parts(
    target: Callable[..., Any], holder: str, prefix: str, words: Mapping[str, Sequence[str]]
) -> Iterator[Option]:
    """Options of what an option names: a model with ``likelihood`` and ``likelihood_options``."""
    parameters = inspect.signature(target).parameters
    for name in parameters:
        kind = PARTS.get(name)
        if kind is None or f"{name}_options" not in parameters:
            continue
        for word in words.get(f"{prefix}.{name}", ()) or [parameters[name].default]:
            if isinstance(word, str):
                dest = f"{holder}.{name}_options.{{}}"
                part = resolve(kind, word)
                yield from of(part, f"--{name}.{{}}", dest, f"{name} {word}", skip=GIVEN[kind])


def of(
    target: Callable[..., Any],
    flag: str,
    dest: str,
    group: str,
    only: Sequence[str] | None = None,
    skip: Sequence[str] | set[str] = (),
) -> Iterator[Option]:
    """The options of one function or class: those of its parameters that words can give."""
    texts = argument_texts(target)
    hints = typing.get_type_hints(target.__init__ if isinstance(target, type) else target)
    for name, parameter in inspect.signature(target).parameters.items():
        hint = hints.get(name, str)
        if name in skip or (only is not None and name not in only) or not simple(hint):
            continue
        shown = name.rstrip("_")  # of a word that is taken, as `run_`
        top = "." not in flag
        yield Option(
            flag.format(shown.replace("_", "-") if top else shown),
            dest.format(name),
            hint,
            None if parameter.default is parameter.empty else parameter.default,
            texts.get(name, ""),
            group,
        )


def simple(hint: Any) -> bool:
    """Whether a value of this type can be written in words."""
    if hint in (int, float, str, bool, Path, type(None), ...):
        return True
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return True
    if origin in (Union, types.UnionType, tuple, list, Sequence):
        return all(map(simple, parts))
    return False


def argument_texts(target: Callable[..., Any]) -> dict[str, str]:
    """name -> text of the ``Args:`` in a docstring; a class adds to those of its bases.

    Example:
        >>> def area(r):
        ...     '''Area.
        ...
        ...     Args:
        ...         r: the radius,
        ...             in metres.
        ...     '''
        >>> argument_texts(area)
        {'r': 'the radius, in metres.'}
    """
    texts: dict[str, str] = {}
    for part in reversed(target.__mro__) if isinstance(target, type) else [target]:
        block = re.search(r"\nArgs:\n(.*?)(?=\n\S|\Z)", inspect.getdoc(part) or "", re.DOTALL)
        entries = re.split(r"\n    (?=\S)", "\n" + block[1]) if block else []
        for entry in entries:
            names, colon, text = entry.partition(":")
            if colon:
                texts |= {n.strip(): " ".join(text.split()) for n in names.split(",")}
    return texts


def summary_of(target: Any) -> str:
    """What a docstring says before its ``Args:``."""
    text = inspect.getdoc(target) or ""
    return re.split(r"\n(?:Args|Raises|Returns|Example|Reference|Attributes|>>>)", text)[0].strip()
