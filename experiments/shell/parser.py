"""From words on the command line to settings: jsonargparse does the types, signatures the rest."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonargparse

from experiments.shell.options import Option
from experiments.shell.types import expected, type_name
from zoo.registry import unknown

ALONE = "\0"  # in the place of a value
BOOLEANS = ("true", "false", "yes", "no")


class UsageError(ValueError):
    """A command line that does not say what to do."""


class Formatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Types and defaults after each option; texts above and below them as they were written."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{**kwargs, "max_help_position": 30})

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help  # with type and default already, in our words


@dataclass
class Line:
    """A command line taken apart.

    Attributes:
        values: the options, by flag with underscores, in the order given.
        positional: what stands there without a flag.
        help: whether ``--help`` is among them.
    """

    values: dict[str, str] = field(default_factory=dict)
    positional: list[str] = field(default_factory=list)
    help: bool = False

    @classmethod
    def read(cls, argv: Sequence[str], known: Sequence[Option]) -> Line:
        """Takes a command line apart; options that are not known are taken to have a value.

        One of a class (``--model.gated``) may stand alone, until `parse` knows its type.

        Raises:
            UsageError: an option without its value.

        Example:
            >>> Line.read(["ppca", "--model.latent-dim", "5", "--seed=1"], [])
            Line(values={'--model.latent_dim': '5', '--seed': '1'}, positional=['ppca'], help=False)
        """
        booleans = {canonical(o.flag) for o in known if o.is_bool}
        line, rest = cls(), list(argv)
        while rest:
            word = rest.pop(0)
            if word in ("-h", "--help"):
                line.help = True
                continue
            if not word.startswith("--"):
                line.positional.append(word)
                continue
            flag, equals, value = word.partition("=")
            flag = canonical(flag)
            if not equals:
                follows = bool(rest) and not rest[0].startswith("--") and rest[0] != "-h"
                if flag in booleans and not (follows and rest[0].lower() in BOOLEANS):
                    value = "true"
                elif follows:
                    value = rest.pop(0)
                elif "." in flag:
                    value = ALONE
                elif not (line.help or (rest and rest[0] in ("-h", "--help"))):
                    raise UsageError(f"{word} needs a value")
            line.values[flag] = value
        return line


def canonical(flag: str) -> str:
    """Dashes and underscores are the same."""
    return "--" + flag[2:].replace("-", "_")


def build(
    prog: str, usage: str, description: str, epilog: str, options: Sequence[Option]
) -> jsonargparse.ArgumentParser:
    """The parser of one command, its options under their headings."""
    parser = jsonargparse.ArgumentParser(
        prog=prog,
        usage=usage,
        description=description.replace("%", "%%"),
        epilog=epilog.replace("%", "%%"),
        formatter_class=Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {}
    for option in options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        groups[option.group].add_argument(
            option.flag,
            dest=option.dest,
            type=option.type,
            default=list(option.default) if isinstance(option.default, tuple) else option.default,
            metavar=option.flag.lstrip("-").rpartition(".")[2].replace("-", "_").upper(),
            help=_help(option).replace("%", "%%"),
        )
    return parser


def _help(option: Option) -> str:
    text, kind = option.help.replace("``", "").rstrip("."), type_name(option.type)
    default = option.default
    if default is None:
        return f"{text} ({kind.removesuffix(' or nothing')})"
    if isinstance(default, tuple | list):
        default = ",".join(map(str, default))
    if isinstance(default, bool):
        default = str(default).lower()
    return f"{text} ({kind}; default {default})"


def parse(
    parser: jsonargparse.ArgumentParser, options: Sequence[Option], line: Line
) -> dict[str, Any]:
    """The settings that were given, and only those, nested by their ``dest``.

    Raises:
        UsageError: an unknown option (the nearest is named), or a value of another type.
    """
    by_flag = {canonical(option.flag): option for option in options}
    arguments = []
    for flag, value in line.values.items():
        if flag not in by_flag:
            raise UsageError(_unknown(flag, options))
        option = by_flag[flag]
        if value == ALONE:
            if not option.is_bool:
                raise UsageError(f"{option.flag} needs a value")
            value = "true"
        listed = option.is_sequence and not value.startswith("[")
        arguments.append((option, value, f"[{value}]" if listed else value))
    result: dict[str, Any] = {}
    for option, value, text in arguments:
        try:
            parsed = parser.parse_args([f"{option.flag}={text}"], defaults=False)
        except (argparse.ArgumentError, TypeError, ValueError):
            raise UsageError(
                f"{option.flag}: expected {expected(option.type)}, got {value!r}"
            ) from None
        merge(result, plain(parsed))
    return result


def validate(
    parser: jsonargparse.ArgumentParser, options: Sequence[Option], content: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a configuration file, checked one by one like those of a command line.

    Raises:
        UsageError: a setting that is not there, or a value of another type.
    """
    by_dest = {option.dest: option for option in options}
    result: dict[str, Any] = {}
    sections = {dest.rpartition(".")[0] for dest in by_dest}
    sections |= {section.partition(".")[0] for section in sections}
    for dest, value in _leaves(content, sections):
        if dest not in by_dest:
            raise UsageError(str(unknown("setting", dest, by_dest)))
        nested: Any = value
        for name in reversed(dest.split(".")):
            nested = {name: nested}
        try:
            merge(result, plain(parser.parse_object(nested, defaults=False)))
        except (argparse.ArgumentError, TypeError, ValueError):
            raise UsageError(
                f"{dest}: expected {expected(by_dest[dest].type)}, got {value!r}"
            ) from None
    return result


def _leaves(
    content: Mapping[str, Any], sections: set[str], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """(dest, value) of every setting in a configuration."""
    for key, value in content.items():
        name = prefix + key
        if name.endswith("_options") and not value:  # of a class that takes none
            continue
        if name in sections and isinstance(value, Mapping):
            yield from _leaves(value, sections, f"{name}.")
        else:
            yield name, value


def merge(into: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Adds nested settings, the later ones winning."""
    for name, value in other.items():
        if isinstance(value, Mapping) and isinstance(into.get(name), dict):
            merge(into[name], value)
        else:
            into[name] = dict(value) if isinstance(value, Mapping) else value
    return into


def plain(value: Any) -> Any:
    """A jsonargparse result as JSON would have it."""
    if isinstance(value, jsonargparse.Namespace):
        return {k: plain(v) for k, v in vars(value).items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def _unknown(flag: str, options: Sequence[Option]) -> str:
    """What to say of an option that is not there."""
    import difflib

    flags = {canonical(option.flag): option.flag for option in options}
    prefix, dot, _ = flag.partition(".")
    if dot:
        flags = {name: shown for name, shown in flags.items() if name.startswith(prefix + dot)}
    near = difflib.get_close_matches(flag, flags, n=3, cutoff=0.6)
    if near:
        return f"there is no option {flag}. Did you mean {' or '.join(flags[n] for n in near)}?"
    if dot and flags:
        return f"there is no option {flag}; there are {', '.join(flags.values())}"
    return f"there is no option {flag}; --help lists what there is"
