"""q: what we believe of the hidden part. ``Guide`` puts a family and a source of its κ together.

Example:
    >>> import guides
    >>> guides.Guide.__name__
    'Guide'
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guides.guide import Guide

__all__ = ["Guide"]


def __getattr__(name: str) -> Any:
    """Imports torch only when the guide is asked for, so that ``zoo list`` stays quick."""
    if name == "Guide":
        from guides.guide import Guide

        return Guide
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
