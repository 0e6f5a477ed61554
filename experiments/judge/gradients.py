"""Gradients of one pair by every estimator: guides that share their weights, and the figures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from experiments.output import flat
from guides.estimators import Enumerate
from guides.guide import Guide
from guides.labels import classifier_of
from guides.relaxations import Gumbel
from zoo.context import seeded
from zoo.data import Dataset
from zoo.diagnostics._moments_of_gradients import Value, slope
from zoo.diagnostics.gradient_noise import GradientNoise
from zoo.registry import resolve

OWN = {"estimator", "reader", "drawer"}  # modules of a guide that no draw of its latents depends on
OTHER_BOUND = (
    "it sums over y outside the log-mean-exp, which is another bound than that of draws of y; its "
    "gradient is compared under elbo, or with K = 1"
)


@dataclass(frozen=True)
class Gradients:
    """Gradients of every objective, number of particles and estimator, at the same parameters.

    Attributes:
        about: model, guide, data and settings.
        cells: (objective, K) -> what was found.
        refused: estimator -> why there is no such guide.
        untrained: estimators with parameters of their own, such as a baseline, that are as at
            their start.
    """

    about: dict[str, Any]
    cells: dict[tuple[str, int], GradientNoise]
    refused: dict[str, str]
    untrained: tuple[str, ...] = ()

    @property
    def estimators(self) -> list[str]:
        """Those of which there is a gradient, in order."""
        return list(dict.fromkeys(name for cell in self.cells.values() for name in cell.ways))

    def slopes(self) -> dict[tuple[str, str, str], Value]:
        """(side, objective, estimator) -> b of SNR ∝ K^b, where it can be told from the floor."""
        found: dict[tuple[str, str, str], dict[int, Value]] = {}
        floors = {cell.floor for cell in self.cells.values()}
        for (objective, k), cell in self.cells.items():
            for name, sides in cell.ways.items():
                for side, noise in sides.items():
                    if noise.snr is not None:
                        snr = Value(noise.snr.value, noise.snr.se)
                        found.setdefault((side, objective, name), {})[k] = snr
        fitted = {key: slope(values, max(floors)) for key, values in found.items()}
        return {key: value for key, value in fitted.items() if value is not None}

    def as_rows(self) -> list[dict[str, Any]]:
        """A row for each objective, K, estimator and side, for CSV."""
        return [
            {"objective": objective, "num_particles": k, "estimator": name, "side": side}
            | flat(noise.as_dict())
            for (objective, k), cell in self.cells.items()
            for name, sides in cell.ways.items()
            for side, noise in sides.items()
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        slopes = [
            {"side": side, "objective": objective, "estimator": name, **value._asdict()}
            for (side, objective, name), value in self.slopes().items()
        ]
        cells = [
            {
                "objective": objective,
                "num_particles": k,
                "floor": cell.floor,
                "ways": {
                    name: {side: noise.as_dict() for side, noise in sides.items()}
                    for name, sides in cell.ways.items()
                },
                "refused": cell.refused,
            }
            for (objective, k), cell in self.cells.items()
        ]
        said = {"refused": self.refused, "untrained": self.untrained}
        return {**self.about, **said, "slopes": slopes, "cells": cells}


def guides_of(
    guide: Guide, data: Dataset, options: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Guide], dict[str, str]]:
    """The guide with each estimator in turn, and why some of them do not go with it.

    Args:
        guide: as it was trained; it stands for its own word, unless that has options here.
        data: the rows that it is for.
        options: estimator -> keyword arguments.

    Returns:
        word -> guide, with the weights of ``guide`` (an estimator's own, such as a baseline, are as
        at their start); word -> the reason that there is none.
    """
    found, refused = {}, {}
    for word, given in options.items():
        try:
            same = word == guide.spec["estimator"] and not given
            found[word] = guide if same else _with_estimator(guide, data, word, given)
        except ValueError as error:
            refused[word] = str(error)
    return found, refused


def _with_estimator(guide: Guide, data: Dataset, word: str, options: Mapping[str, Any]) -> Guide:
    spec = {**guide.spec, "estimator": word, "estimator_options": dict(options)}
    with seeded(0):
        other = Guide(guide.model, data, **deepcopy(spec))
    held, own = guide.state_dict(), other.state_dict()
    kept = {name: value for name, value in held.items() if name in own}
    apart = [name for name in held.keys() ^ own.keys() if not OWN & set(name.split("."))]
    apart += [name for name, value in kept.items() if value.shape != own[name].shape]
    if apart:
        raise ValueError(
            f"the guide was made with the estimator {guide.spec['estimator']}, and one with {word} "
            f"has other weights ({min(apart)}); fit it with --estimator {word}"
        )
    other.load_state_dict(kept, strict=False)
    return other


def of_the_bound(
    objective: str, k: int, guides: Mapping[str, Guide]
) -> tuple[dict[str, Guide], dict[str, str]]:
    """Those whose gradient is of the same bound as that of draws of y, and why others are not.

    Of an objective with a gradient of its own, such as wake_sleep, one guide for each way in which
    discrete latents are drawn or summed out.
    """
    function = resolve("objectives", objective.partition(":")[0])
    if "estimator" not in inspect.signature(function).parameters:
        kept: dict[str, Guide] = {}
        for word, guide in guides.items():
            known = [_discrete(other) for other in kept.values()]
            if guide.gradient not in ("stl", "dreg") and _discrete(guide) not in known:
                kept[word] = guide
        why = f"{objective} has a gradient of its own, which is that of another word here"
        return kept, {word: why for word in guides if word not in kept}
    alike = objective == "elbo" or k == 1 or len(guides) == 1
    apart = [] if alike else [word for word, guide in guides.items() if _sums(guide)]
    if len(apart) == len(guides):
        apart = []
    return {w: g for w, g in guides.items() if w not in apart}, dict.fromkeys(apart, OTHER_BOUND)


def _discrete(guide: Guide) -> tuple[bool, bool]:
    """Whether discrete latents are summed out, and whether they are relaxed."""
    holder = classifier_of(guide) or getattr(guide.family, "drawer", None)
    return _sums(guide), isinstance(getattr(holder, "estimator", None), Gumbel)


def _sums(guide: Guide) -> bool:
    """Whether y is summed out, with its weights by q(y | x) or without."""
    classifier = classifier_of(guide)
    summed = classifier is None or type(classifier.estimator) is Enumerate
    return bool(guide.latents.discrete) and summed
