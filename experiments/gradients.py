"""What the choice of an estimator costs: bias, variance and signal of gradients, against K."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import output as _output
from experiments.judge.gradients import Gradients, guides_of, of_the_bound
from experiments.judge.grid import options_for, words
from experiments.runs import Spec, build_guide, build_model, complete, split_of
from experiments.show.card_files import strict
from experiments.show.gradients import gradients_figure, gradients_tables, remarks
from experiments.show.tables import terminal
from experiments.trained import is_run, load_trained
from zoo.diagnostics.gradient_noise import gradient_noise
from zoo.fitting import fit, pick_device
from zoo.registry import names, resolve


def gradients(
    model: str,
    data: str | None = None,
    family: str | None = None,
    inference: str | None = None,
    estimator: str | None = None,
    objective: str = "elbo,iwae",
    *,
    estimators: str | None = None,
    num_particles: Sequence[int] = (1, 10, 100),
    num_gradients: int = 200,
    num_rows: int = 100,
    minibatch_noise: bool = False,
    steps: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | None = None,
    overwrite: bool = False,
    model_options: Mapping[str, Any] | None = None,
    family_options: Mapping[str, Any] | None = None,
    inference_options: Mapping[str, Any] | None = None,
    objective_options: Mapping[str, Any] | None = None,
    estimator_options: Mapping[str, Any] | None = None,
    classifier_options: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Gradients:
    """Bias, variance and signal-to-noise of the gradient, by estimator, against the particles K.

    At the parameters of a run, or of a fresh pair, trained for --steps steps or not at all: of θ,
    the model's, and φ, the guide's, over draws of the guide for the same rows. SNR is
    mean_j |E g_j|/sd(g_j) over entries j; the spread is √tr Cov; the bias is ‖E g − g*‖, g* the
    mean of the other estimators that are unbiased, and is said to be there only where noise does
    not explain it. Under iwae the SNR of φ falls with K as 1/√K and that of θ rises as √K; that of
    dreg does not fall.

    Args:
        model: the folder of a run of ``zoo fit --out``, whose words and options are then its own;
            or a word of ``zoo list models``, or my_model.py.
        data: for a fresh pair, a word of ``zoo list data`` or a file; digits by default.
        family: of a fresh guide; mean_field by default.
        inference: of a fresh guide; by default the model's own word.
        estimator: of a fresh guide, as it is trained; by default the model's own word.
        objective: what is differentiated, a comma list; renyi:0.5 with its α.
        estimators: a comma list of words of ``zoo list estimators``; all by default. Those that do
            not go with the pair are listed with the reason.
        num_particles: K, draws for each datapoint, several.
        num_gradients: G, gradients that each figure is from, at least 10.
        num_rows: rows that each gradient is of.
        minibatch_noise: each gradient is of rows of its own, so that their noise counts too.
        steps: steps that train a fresh pair first, by the first objective; 0 by default.
        lr: their learning rate, 0.01 by default.
        seed: of starts, rows and draws.
        device: auto (CUDA where there is one), cpu or cuda.
        out: a folder for gradients.json, gradients.csv and gradients.png.
        overwrite: whether earlier results in that folder may be replaced.
        model_options: keyword arguments of the model.
        family_options: keyword arguments of the family.
        inference_options: keyword arguments of the inference.
        objective_options: keyword arguments of the objectives, each given to those that take it.
        estimator_options: keyword arguments of the estimators, likewise.
        classifier_options: keyword arguments of q(y | x), where there is one.
        data_options: keyword arguments of ``load_data``.
        console: where to print.

    Raises:
        ValueError: words that are not there; settings of a fresh pair beside a run; counts out of
            range; no estimator that gives a gradient.
    """
    console = console or terminal()
    place = None if out is None else _output.claim(out, "gradients", overwrite)
    if min(num_particles, default=0) < 1 or num_rows < 1:
        raise ValueError(
            f"num_particles and num_rows count from 1, got {list(num_particles)} and {num_rows}"
        )
    aims = {word: _bound(word) for word in words(objective, "objective")}
    wanted = words(estimators, "estimators") if estimators else list(names("estimators"))
    kinds = {word: resolve("estimators", word) for word in wanted}
    shares = options_for(kinds, estimator_options or {})
    given = {"data": data, "family": family, "inference": inference, "estimator": estimator}
    own = {"model_options": model_options, "family_options": family_options}
    own |= {"inference_options": inference_options, "classifier_options": classifier_options}
    fresh = {k: v for k, v in {**given, **own, "data_options": data_options}.items() if v}
    run = Path(model) if is_run(model) else None
    if run is not None:
        said = [*fresh, *(name for name, v in (("steps", steps), ("lr", lr)) if v is not None)]
        if said:
            flags = ", ".join(f"--{name.removesuffix('_options')}" for name in said)
            raise ValueError(f"{run} is a run, with words of its own: leave out {flags}")
        trained = load_trained(run, device)
        spec, part, guide, rows = trained.spec, trained.model, trained.guide, trained.split.train
    else:
        spec = Spec(model, objective=next(iter(aims)), **fresh, seed=seed, device=device)
        part, guide, rows = _fresh(complete(spec), steps or 0, lr or 0.01)
    options = _options(aims, spec, objective_options or {})
    if not estimators and not guide.latents.discrete:
        shares.pop("collapse", None)  # which is pathwise where nothing is summed out
    guides, refused = guides_of(guide, rows, shares)
    if not guides:
        raise ValueError(
            f"none of the estimators goes with the guide: {'; '.join(refused.values())}"
        )
    cells, failed = {}, {}
    for word in aims:
        for k in sorted(set(num_particles)):
            ways, apart = of_the_bound(word, k, guides)
            try:
                found = gradient_noise(
                    part,
                    ways,
                    rows,
                    word,
                    {**options[word], "num_particles": k},
                    num_rows=num_rows,
                    num_gradients=num_gradients,
                    minibatch_noise=minibatch_noise,
                    seed=seed,
                )
            except ValueError as error:
                failed[f"{word}, K = {k}"] = str(error)
                continue
            cells[word, k] = replace(found, refused={**found.refused, **apart})
    if not cells:
        raise ValueError("; ".join(dict.fromkeys(failed.values())))
    about = {
        **{key: getattr(spec, key) for key in ("model", "data", "family", "inference")},
        "run": None if run is None else str(run),
        "steps": steps or 0,
        "num_gradients": num_gradients,
        "num_rows": next(iter(cells.values())).num_rows,
        "minibatch_noise": minibatch_noise,
        "seed": seed,
    }
    own_names = {name for name, _ in guide.named_parameters()}
    untrained = [w for w, g in guides.items() if {n for n, _ in g.named_parameters()} - own_names]
    result = Gradients(about, cells, refused | failed, tuple(untrained))
    for table in gradients_tables(result):
        console.print(table, highlight=False)
    for line in remarks(result):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if place is None:
        console.print("Nothing was written; --out DIR keeps table and picture.", highlight=False)
    else:
        figure = gradients_figure(result)
        _output.write(place, "gradients", strict(result.as_dict()), result.as_rows(), figure)
        console.print(f"The picture is {place / 'gradients.png'}", highlight=False, soft_wrap=True)
    return result


def _bound(word: str) -> Any:
    """The objective, which has a number of particles."""
    target = resolve("objectives", word.partition(":")[0])
    if "num_particles" not in inspect.signature(target).parameters:
        raise ValueError(f"{word} has no particles to draw; take bounds, such as elbo and iwae")
    return target


def _fresh(spec: Spec, steps: int, lr: float) -> tuple[Any, Any, Any]:
    """A model, its guide and the rows, trained for some steps."""
    split = split_of(spec)
    model = build_model(spec, split).to(pick_device(spec.device))
    guide = build_guide(spec, model, split)
    if steps:
        chosen = {"seed": spec.seed, "device": spec.device}
        fit(model, guide, split.train, spec.objective, steps=steps, lr=lr, **chosen)
    return model, guide, split.train


def _options(
    aims: Mapping[str, Any], spec: Spec, given: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Of each objective: those of the run, if it is its own, and those that were given."""
    found = options_for(aims, given)
    kept = {k: v for k, v in spec.objective_options.items() if k != "estimator"}
    return {w: {**(kept if w == spec.objective else {}), **found[w]} for w in aims}
