"""The part of a guide that is of the rows: a family, where its κ comes from, and a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from guides.bits import Drawer, check_bits
from guides.classifier import Classifier
from guides.draws import made
from guides.estimators import Estimator
from guides.family import Family
from guides.inference import PerDatapoint, SemiAmortized
from guides.layers import Structured
from guides.relaxations import Gumbel, Rebar
from guides.shared import make_source
from guides.source import Source
from zoo.data import Dataset
from zoo.exact import knows
from zoo.model import Model
from zoo.registry import build, resolve
from zoo.sites import Latents


class Local(NamedTuple):
    """Ψ, its source of κ and q(y | x), None where there is none or Ψ brings its own; the word of
    the gradient's estimator, and what reads x for the baseline of continuous latents."""

    family: Family | None
    source: Source | None
    classifier: Classifier | None
    gradient: str
    reader: Drawer | None = None


def build_local(
    model: Model,
    data: Dataset,
    latents: Latents,
    words: Mapping[str, Any],
) -> Local:
    """Builds the three from the words and options that ``Guide`` was given.

    Raises:
        ValueError: words that do not go together, by name.
    """
    family, inference, estimator = (words[axis] for axis in ("family", "inference", "estimator"))
    find = resolve("inference", inference) if isinstance(inference, str) else inference
    how = asked = _estimator(estimator, words["estimator_options"])
    if asked.of_paths and latents.discrete:
        how = _estimator(model.estimator, {})
    labels = latents.classes if how.classifies else {}
    classify = None
    if labels:
        classify = partial(Classifier, labels=labels, estimator=how, **words["classifier_options"])
    sites = latents.vectors
    if not sites.dim:
        own = classify(data, latents=latents.names) if classify else None
        return Local(None, None, own, asked.gradient)
    drawer = None
    if latents.bits.dim:
        family = check_bits(latents, asked, words, find)
        drawer = Drawer(asked, data, latents)
    scored = asked.gradient == "score" and not (labels or latents.bits.dim)
    reader = Drawer(asked, data, latents) if scored else None
    chosen = made(family, sites.dim, words["family_options"])
    chosen.bind(latents)
    if not chosen.uses_kappa and not knows(model, "posterior"):
        raise ValueError(
            f"{type(model).__name__} does not know its posterior; use the family "
            "mean_field, full_rank or low_rank"
        )
    if classify and not (chosen.uses_kappa and chosen.scores):
        raise ValueError(
            f"{type(chosen).__name__} follows the model itself and cannot be given labels, which "
            f"q(z | x, y) is; use mean_field, full_rank or a flow, or the estimator collapse"
        )
    if not chosen.uses_kappa:
        return Local(chosen, None, None, asked.gradient, reader)
    if chosen.is_state and (find is not PerDatapoint or classify):
        raise ValueError(
            f"the family {family} is the state of a Markov chain for each row, a row of a table: "
            "use the inference per_datapoint, and for discrete latents the estimator collapse"
        )
    if issubclass(find, Structured):
        make = partial(made, family, options=words["family_options"])
        options = dict(words["inference_options"])
        if find.classifies:
            options["classify"] = classify
        elif classify:
            raise ValueError(
                f"the inference {inference} has no q(y | x); use amortized, per_datapoint or "
                "semi_amortized, or the estimator collapse"
            )
        chosen = find(model, data, latents, make, **options)
        chosen.drawer = drawer
        return Local(chosen, None, None, asked.gradient, reader)
    if classify and isinstance(how, (Gumbel, Rebar)) and issubclass(find, SemiAmortized):
        raise ValueError(
            "semi_amortized takes steps on the bound of a label, which a relaxed one (gumbel, "
            "rebar) is not; use the estimator enumerate or score, or the inference amortized"
        )
    chosen.drawer = drawer
    options = words["inference_options"]
    source = make_source(find, model, chosen, data, latents.names, options, labels)
    if chosen.is_state:
        source.requires_grad_(False)
    own = classify(data, latents=latents.names) if classify else None
    return Local(chosen, source, own, asked.gradient, reader)


def estimator_for(
    model: Model, data: Dataset, latents: Latents, word: str | Estimator | None
) -> Any:
    """The estimator of a guide: what was asked for, else the model's own.

    Raises:
        ValueError: a word that acts on discrete latents alone for a model without any of its rows;
            rows with labels of which the model has none.
    """
    if lost := [name for name in data.given if name not in latents.discrete]:
        raise ValueError(
            f"some rows of {data.name} have the labels {lost}, which are no discrete latents of "
            f"{type(model).__name__} where they are not given ({list(latents.discrete)} are); "
            "leave the labels out, or take a model with them, such as m2"
        )
    if latents.discrete or latents.bits.dim:
        return model.estimator if word is None else word
    kind: Any = resolve("estimators", word) if isinstance(word, str) else type(word)
    if word not in (None, "collapse") and not kind.of_any:
        raise ValueError(
            f"{type(model).__name__} has no discrete latents of its rows, so there is nothing for "
            f"the estimator {word!r} to act on; leave it out, or use pathwise, stl, dreg, score or "
            "vimco, which act on continuous ones"
        )
    return word or "collapse"


def _estimator(word: str | Estimator, options: Mapping[str, Any]) -> Estimator:
    return word if isinstance(word, Estimator) else build("estimators", word, **options)
