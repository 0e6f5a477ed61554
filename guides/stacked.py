"""Flows one after the other, from a word such as ``planar:4+iaf:2``."""

from __future__ import annotations

import inspect
import typing
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from guides.flow import Flow, Layer
from zoo.registry import build, resolve


class Stacked(Flow):
    """The layers of several flows on one base: q = T'_{L'} ∘ … ∘ T'_1 ∘ T_L ∘ … ∘ T_1 (N(m, s²)).

    κ_n is (m, softplus⁻¹ s), then what each part needs. An option goes to every part that takes
    it; None leaves each part its own.
    """

    words: tuple[str, ...] = ()
    shorthand = None

    def __init__(self, dim: int, init_scale: float = 1.0, **options: Any):
        super().__init__(dim, init_scale, len(self.words))
        given = {name: value for name, value in options.items() if value is not None}
        known = inspect.signature(type(self)).parameters
        if unknown := sorted(set(given) - set(known)):
            raise TypeError(f"none of {' + '.join(self.words)} takes {unknown}")
        parts = []
        for word in self.words:
            takes = inspect.signature(resolve("families", word)).parameters
            own = {name: value for name, value in given.items() if name in takes}
            parts.append(build("families", word, dim, init_scale=init_scale, **own))
        self.parts = nn.ModuleList(parts)
        self.scores_cheaply = all(part.scores_cheaply for part in parts)

    @property
    def _flows(self) -> list[Flow]:
        return typing.cast(list[Flow], list(self.parts))

    @property
    def num_extra(self) -> int:
        return sum(part.num_extra for part in self._flows)

    def initial_extra(self) -> Tensor:
        return torch.cat([part.initial_extra() for part in self._flows])

    def layers(self, extra: Tensor) -> list[Layer]:
        pieces = extra.split([part.num_extra for part in self._flows], -1)
        each = zip(self._flows, pieces, strict=True)
        return [layer for part, piece in each for layer in part.layers(piece)]


@cache
def stacked(name: str) -> type[Stacked]:
    """The class behind a word such as ``planar:4+iaf:2``, with the options of its parts.

    Raises:
        ValueError: a part that is missing, no word, or no flow.

    Example:
        >>> stacked("planar:4+iaf:2")(3, context_dim=5).num_params
        39
    """
    words = tuple(word.strip() for word in name.split("+"))
    options: dict[str, Any] = {}
    for word in words:
        if not word:
            raise ValueError(f"{name!r} lacks a flow beside a plus; try planar:4+iaf:2")
        target = resolve("families", word)
        if not issubclass(target, Flow):
            raise ValueError(f"{name!r} stacks flows, and {word!r} is none")
        hints = typing.get_type_hints(target.__init__)
        for option in list(inspect.signature(target).parameters)[2:]:
            fixed = option == target.shorthand  # said by the word
            if not fixed:
                options.setdefault(option, hints[option] | None)
    own = list(inspect.signature(Stacked).parameters.values())[:2]
    extra = [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        for option, hint in options.items()
    ]

    def init(self: Stacked, dim: int, init_scale: float = 1.0, **given: Any) -> None:
        Stacked.__init__(self, dim, init_scale, **given)

    init.__annotations__ = {"dim": int, "init_scale": float, **options}
    title = "+".join(words)
    return type(
        title,
        (Stacked,),
        {
            "__init__": init,
            "__signature__": inspect.Signature([*own, *extra]),
            "__doc__": f"{title}: flows one after the other.",
            "words": words,
        },
    )
