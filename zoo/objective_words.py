"""An objective from its word, with its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from zoo.registry import resolve


def bind_objective(
    objective: Any, options: Mapping[str, Any] | None = None
) -> tuple[str, Callable[..., Tensor]]:
    """(name, loss) of a word, such as ``renyi:0.5``, a callable, or one of Pyro's instances.

    Raises: ValueError for an unknown word or option.
    """
    given = dict(options or {})
    if isinstance(objective, str):
        word, colon, value = objective.partition(":")
        function = resolve("objectives", word)
        known = inspect.signature(function).parameters
        if colon:
            option = getattr(function, "shorthand", None)
            if option is None:
                raise ValueError(f"{word!r} takes no value after a colon, as renyi:0.5 does")
            if option in given:
                raise ValueError(f"{objective} says {option} already; leave {option}=… out")
            given[option] = _value(word, option, known[option].default, value)
        if lost := sorted(set(given) - set(known)):
            raise ValueError(f"the objective {word!r} takes no {lost}; it takes {list(known)[3:]}")
        return objective, partial(function, **given)
    if hasattr(objective, "loss_of"):  # ours, in Pyro's clothes
        if given:
            raise ValueError(f"give {sorted(given)} to PyroLoss, which has options of its own")
        return objective.name, objective.loss_of
    if hasattr(objective, "loss_and_grads"):
        from zoo.objectives.stock import stock

        objective = stock(objective)
    return getattr(objective, "__name__", type(objective).__name__), partial(objective, **given)


def _value(word: str, option: str, usual: Any, text: str) -> Any:
    """What stands after the colon, of the type of the option's default."""
    try:
        if text != text.strip() or "_" in text:
            raise ValueError
        return type(usual)(text)
    except ValueError:
        what = "a number" if isinstance(usual, float) else "a whole number"
        raise ValueError(
            f"{word} takes its {option} as {what}, such as {word}:{usual}, got {text!r}"
        ) from None
