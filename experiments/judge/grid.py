"""Which guides a comparison is of: family × inference × objective, from comma lists of words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.runs import Spec
from zoo.registry import resolve, unknown


@dataclass(frozen=True)
class Cell:
    """One guide of a comparison.

    Attributes:
        family, inference, objective: its words.
        local: False where the model has no continuous latents of its rows, so that family and
            inference have nothing to act on.
        many: whether other objectives are compared too, so that the label has to name this one.
        estimator: its word for discrete latents; None for the model's own.
        estimators: whether others are compared too.
    """

    family: str
    inference: str
    objective: str
    local: bool = True
    many: bool = False
    estimator: str | None = None
    estimators: bool = False

    @property
    def exact(self) -> bool:
        """Whether q is the model's own posterior, which ignores the inference axis."""
        return self.family == "exact"

    @property
    def label(self) -> str:
        """What the guide is called in tables and figures.

        Example:
            >>> Cell("full_rank", "amortized", "iwae", many=True).label
            'full_rank / amortized / iwae'
        """
        words = [self.family] if self.exact else [self.family, self.inference]
        parts = [*(words if self.local else ()), *([self.objective] if self.many else ())]
        parts += [self.estimator] if self.estimators and self.estimator else []
        return " / ".join(parts) or self.objective


def grid(
    family: str,
    inference: str,
    objective: str,
    estimator: str | None = None,
    *,
    local: bool,
    fixed: bool,
) -> list[Cell]:
    """All combinations, ``exact`` once, in the order in which they were named.

    Args:
        family: words, each alone (with every ``inference``) or with one of its own,
            ``full_rank/amortized``.
        inference: words.
        objective: words; ``renyi:0.5`` with its α.
        estimator: words for discrete latents; None for the model's own.
        local: whether the model has continuous latents of its rows.
        fixed: whether the model is frozen, so that ``exact`` has nothing to maximise and is there
            once for all objectives.

    Raises:
        ValueError: an unknown or an empty word; ``exact`` with an inference.

    Example:
        >>> cells = grid(
        ...     "exact,mean_field,full_rank/amortized",
        ...     "per_datapoint",
        ...     "elbo",
        ...     local=True,
        ...     fixed=True,
        ... )
        >>> [cell.label for cell in cells]
        ['exact', 'mean_field / per_datapoint', 'full_rank / amortized']
    """
    objectives = words(objective, "objective")
    inferences = words(inference, "inference")
    for word in objectives:
        resolve("objectives", word.partition(":")[0])
    found: dict[Cell, None] = {}  # a set that keeps its order
    for pair in words(family, "family"):
        shape, _, own = pair.partition("/")
        resolve("families", shape)
        if own and shape == "exact":
            raise ValueError(f"exact is the model's own posterior, which has no {own}: write exact")
        for source in [own] if own else inferences:
            resolve("inference", source)
            for i, aim in enumerate(objectives):
                if shape == "exact":
                    source = "amortized"  # of no effect
                    if fixed and i:
                        continue
                many = len(objectives) > 1 and not (fixed and shape == "exact")
                cell = Cell(shape, source, aim, local, many)
                if not local:
                    cell = Cell("mean_field", "amortized", aim, local, many)
                found[cell] = None
    return with_estimators(list(found), estimator)


def with_estimators(cells: list[Cell], estimator: str | None) -> list[Cell]:
    """Every cell with every estimator of a comma list.

    Raises:
        ValueError: an unknown or an empty word.

    Example:
        >>> cells = with_estimators([Cell("mean_field", "amortized", "elbo")], "enumerate,score")
        >>> [cell.label for cell in cells]
        ['mean_field / amortized / enumerate', 'mean_field / amortized / score']
    """
    if estimator is None:
        return cells
    chosen = words(estimator, "estimator")
    for word in chosen:
        resolve("estimators", word)
    many = len(chosen) > 1
    return [replace(cell, estimator=word, estimators=many) for cell in cells for word in chosen]


def words(text: str, what: str) -> list[str]:
    """The words of a comma list.

    Raises:
        ValueError: an empty word.

    Example:
        >>> words("mean_field, full_rank", "family")
        ['mean_field', 'full_rank']
    """
    found = [word.strip() for word in text.split(",")]
    if not all(found):
        raise ValueError(f"{what} is a comma list of words, got {text!r}")
    return list(dict.fromkeys(found))


def options_for(
    targets: Mapping[str, Callable[..., Any]], options: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Options shared out to those that take them: word -> the keyword arguments of its class.

    Raises:
        ValueError: an option that none of them takes.

    Example:
        >>> options_for({"a": lambda rank: 0, "b": lambda: 0}, {"rank": 3})
        {'a': {'rank': 3}, 'b': {}}
    """
    taken = {word: set(inspect.signature(target).parameters) for word, target in targets.items()}
    known: Iterable[str] = set().union(*taken.values())
    for name in options:
        if name not in known:
            raise unknown(f"option of {', '.join(targets)} called", name, known)
    return {
        word: {name: value for name, value in options.items() if name in takes}
        for word, takes in taken.items()
    }


def specs_of(
    base: Spec, cells: list[Cell], family: Any, inference: Any, objective: Any, estimator: Any
) -> Any:
    """What to run for every cell, each with the options that its words take."""
    options_for({base.model: resolve("models", base.model)}, base.model_options)
    kinds = (("families", "family"), ("inference", "inference"), ("objectives", "objective"))
    kinds += (("estimators", "estimator"),) if cells[0].estimator else ()
    given = (family, inference, objective, estimator)[: len(kinds)]
    shared: list[dict[str, dict[str, Any]]] = []
    for (kind, axis), options in zip(kinds, given, strict=True):
        targets = {
            word: resolve(kind, word.partition(":")[0])
            for word in (getattr(cell, axis) for cell in cells)
        }
        shared.append(options_for(targets, options or {}))
    return {
        cell: replace(
            base,
            family=cell.family,
            inference=cell.inference,
            objective=cell.objective,
            family_options=shared[0][cell.family],
            inference_options=shared[1][cell.inference],
            objective_options=shared[2][cell.objective],
            estimator=cell.estimator,
            estimator_options=shared[3][cell.estimator] if cell.estimator else {},
        )
        for cell in cells
    }
