"""Types in words, for the help and for errors."""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from typing import Any


def type_name(kind: Any) -> str:
    """A type in words.

    Example:
        >>> type_name(int | None), type_name(tuple[int, ...]), type_name(float)
        ('int or nothing', 'ints, a,b', 'float')
    """
    if typing.get_origin(kind) in (tuple, list, Sequence):
        return f"{' and '.join(type_name(k) for k in typing.get_args(kind) if k is not ...)}s, a,b"
    if isinstance(kind, type) and not hasattr(kind, "__origin__"):
        return kind.__name__
    text = str(kind).replace("typing.", "").replace("NoneType", "None")
    text = re.sub(r"(?:Literal)\[(.*?)\]", lambda m: m[1].replace(", ", " or "), text)
    text = re.sub(r"(?:Optional)\[(.*)\]$", r"\1 | None", text)
    return (
        re.sub(r"Union\[(.*)\]", lambda m: m[1].replace(", ", " | "), text)
        .replace(" | None", " or nothing")
        .replace(" | ", " or ")
    )


def expected(kind: Any) -> str:
    """A type as an error names it.

    Example:
        >>> from typing import Literal
        >>> expected(int | None), expected(bool | Literal["train"] | None), expected(float)
        ('a whole number', "true, false or 'train'", 'a finite number')
    """
    text = type_name(kind).removesuffix(" or nothing")
    parts = text.split(" or ")
    if "bool" in parts:
        others = [part for part in parts if part != "bool"]
        return "true, false or " + " or ".join(others) if others else "true or false"
    known = {"int": "a whole number", "float": "a finite number"}
    return " or ".join(known.get(part, part) for part in parts)
