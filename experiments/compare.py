"""Several guides for one model: how far each is from the evidence, and what its posteriors are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from rich.console import Console

from experiments import output as _output
from experiments.jobs import Jobs
from experiments.judge.cards import cards_of
from experiments.judge.comparison import Comparison
from experiments.judge.grid import Cell, grid, specs_of
from experiments.judge.modes import check_source, free, mode_of, source_of
from experiments.outcomes import Fixed, outcomes_of, what_failed
from experiments.runs import Outcome, Spec, build_guide, build_model, split_of
from experiments.show.card_files import strict
from experiments.show.cards import cards_tables
from experiments.show.figures import comparison_figure
from experiments.show.tables import comparison_table, terminal
from experiments.spec import check, sums_labels
from guides.guide import Guide
from zoo.exact import knows
from zoo.fitting import fit, pick_device

WITH_EXACT = "exact,mean_field/per_datapoint,full_rank/per_datapoint,full_rank/amortized"
OF_BITS = "mean_field/amortized,mean_field/per_datapoint"
WITHOUT_EXACT = "mean_field/per_datapoint,full_rank/per_datapoint,full_rank/amortized"


def compare(
    model: str,
    data: str = "digits",
    family: str | None = None,
    inference: str = "per_datapoint,amortized",
    objective: str = "elbo",
    estimator: str | None = None,
    *,
    on: Literal["fixed", "joint"] | None = None,
    seeds: int = 1,
    jobs: int | str = 1,
    out: str | None = None,
    overwrite: bool = False,
    model_from: str | None = None,
    steps: int | None = None,
    model_steps: int | None = None,
    lr: float = 0.01,
    schedule: str = "cosine",
    infer_steps: int = 600,
    num_particles: int | None = None,
    eval_particles: int | None = None,
    eval_rows: int = 2000,
    diagnose: bool = False,
    simulate: bool = False,
    seed: int = 0,
    device: str = "auto",
    global_family: str = "mean_field",
    model_options: Mapping[str, Any] | None = None,
    family_options: Mapping[str, Any] | None = None,
    inference_options: Mapping[str, Any] | None = None,
    objective_options: Mapping[str, Any] | None = None,
    estimator_options: Mapping[str, Any] | None = None,
    classifier_options: Mapping[str, Any] | None = None,
    global_options: Mapping[str, Any] | None = None,
    data_options: Mapping[str, Any] | None = None,
    fit_options: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Comparison:
    """Compares guides for one model on the same data and the same random numbers.

    Two modes, named in the table. On a fixed model (the default where exact is among the families
    or --model-from gives the model) the model is fitted once, by the exact guide, then frozen, and
    every guide is refitted to it: log p(x) is the same for all and the differences are inference
    gaps. With --on joint each guide trains a model of its own from the same start: differences mix
    the model's quality with the guide's.

    A family stands alone, to be combined with every --inference, or with one of its own:
    --family exact,mean_field/per_datapoint,full_rank/amortized.

    On a fixed model a table that maximises elbo is fitted to train and test rows alike, row by row,
    with the low-noise gradient of guide.infer and --infer-steps steps; everything else is trained
    for --steps steps.

    Args:
        model: a word of ``zoo list models``, or my_model.py, or my_model.py:Class.
        data: a word of ``zoo list data``, or a .npy, .npz, .csv or .pt file.
        family: shapes of q(z), a comma list; each takes every inference, or its own after a slash
            (full_rank/amortized). By default exact where the model knows its posterior, then
            mean_field/per_datapoint, full_rank/per_datapoint and full_rank/amortized.
        inference: where the parameters of the families without a slash come from, a comma list.
        objective: what is maximised, a comma list; renyi:0.5 with its α.
        estimator: how the gradient reaches q, a comma list (pathwise, stl, dreg; enumerate, score,
            gumbel); by default the model's own word.
        on: fixed or joint; by default fixed where exact or --model-from supplies the model.
        seeds: how many seeds; the table then has means and spreads.
        jobs: so many runs at a time, each in a process of its own with its share of the cores and
            a CUDA device; auto is one a device, or one a core where there is none; slurm:8 sends
            them to Slurm, 8 at a time (extra ``cluster``; sbatch reads SBATCH_PARTITION,
            SBATCH_TIMELIMIT, SBATCH_GPUS and the like). One that fails costs its row alone. In a
            folder ``out`` runs are kept, and the same command again makes those that are missing.
        out: a folder for compare.json, compare.csv and compare.png.
        overwrite: whether an earlier comparison in that folder may be replaced.
        model_from: the folder of a run whose model, as trained, is the one compared on.
        steps: steps of a guide, or of guide and model together; 1500 unless --epochs is given.
        model_steps: steps that fit the fixed model; as many as --steps by default.
        lr: the learning rate at step 0.
        schedule: constant, cosine, linear or exponential.
        infer_steps: steps that fit a table's rows on a frozen model.
        num_particles: draws for each datapoint and step; by default the objective's own number.
        eval_particles: K of the importance-weighted bounds that are reported; by default as for
            ``fit``.
        eval_rows: how many rows of each side are judged, a seeded choice where there are more; 0
            judges all.
        diagnose: whether to put the report cards of the guides side by side, of the same rows and
            random numbers, with what they differ by, row by row.
        simulate: whether those cards look at simulated data too.
        seed: the first seed.
        device: auto (CUDA where there is one), cpu or cuda.
        global_family: the family of latents shared by all rows, or a Pyro AutoGuide by its name.
        model_options: keyword arguments of the model.
        family_options: keyword arguments of the families, each given to those that take it.
        inference_options: keyword arguments of the inferences, likewise.
        objective_options: keyword arguments of the objectives, likewise.
        estimator_options: keyword arguments of the estimators, likewise.
        classifier_options: keyword arguments of q(y | x), where there is one.
        global_options: keyword arguments of the global family.
        data_options: keyword arguments of ``load_data``.
        fit_options: further keyword arguments of ``fit``.
        console: where to print.

    Raises:
        ValueError: words or options that are not there; a fixed model without anything to fit it
            with; a run in ``model_from`` on other data; a folder in use.
    """
    console, how = console or terminal(), Jobs.read(jobs)
    place = None if out is None else _output.claim(out, "compare", overwrite)
    if seeds < 1:
        raise ValueError(f"seeds counts from 1, got {seeds}")
    fitting = {"lr": lr, "schedule": schedule, **(fit_options or {})}
    if steps is not None or fitting.get("epochs") is None:
        fitting["steps"] = 1500 if steps is None else steps
    base = Spec(
        model=model,
        data=data,
        num_particles=num_particles,
        global_family=global_family,
        model_options=dict(model_options or {}),
        classifier_options=dict(classifier_options or {}),
        global_options=dict(global_options or {}),
        data_options=dict(data_options or {}),
        fit_options=fitting,
        seed=seed,
        device=device,
        model_from=model_from,
        eval_particles=eval_particles,
        eval_rows=eval_rows,
        infer_steps=infer_steps,
    )
    check(base)
    split = split_of(base)
    if model_from is not None:
        check_source(model_from, split)
    start = build_model(base, split)
    latents = Guide(start, split.train).latents
    local, shared = latents.vectors.dim > 0, latents.global_.dim > 0
    knowing = knows(start, "posterior")
    usual = OF_BITS if latents.bits.dim else WITHOUT_EXACT
    family = family or (WITH_EXACT if knowing and local else usual)
    mode = mode_of(on, family, start, model_from, local)
    cells = grid(family, inference, objective, estimator, local=local, fixed=mode == "fixed")
    if local and not knowing and any(cell.exact for cell in cells):
        raise ValueError(f"{model} does not know its posterior; leave exact out of the families")
    own = start.estimator
    summed = any(sums_labels(cell.estimator or own, own) for cell in cells)
    base = replace(base, eval_particles=eval_particles or (100 if summed else 1000))
    options = (family_options, inference_options, objective_options, estimator_options)
    specs = specs_of(base, cells, *options)
    if not local:
        text = f"{model} has no continuous latents of its rows: families and inferences have "
        console.print(
            f"{text}nothing to act on, so there is one row an objective.", highlight=False
        )

    def say(what: str, seconds: float | str) -> None:
        took = seconds if isinstance(seconds, str) else f"{seconds:6.1f} s"
        console.print(f"  {what:<44} {took}", highlight=False, markup=False)

    runs_at = None if place is None else _output.runs_of(place, "compare")
    if place is not None:
        _output.clear(place, "compare", not how.here)
    source = still = None
    if mode == "fixed":
        source = source_of(model_from, start, knowing)
        start.to(pick_device(device))
        own = fitting | ({"steps": model_steps, "epochs": None} if model_steps else {})
        still = Fixed(base, start, shared, own)
        fits = model_from is None and knowing and free(start)
        if fits and still.load(runs_at):
            say("the model, by its exact guide", "there already")
        elif fits:
            guide = build_guide(replace(base, family="exact"), start, split)
            fitted = fit(start, guide, split.train, seed=seed, device=device, **own)
            say("the model, by its exact guide", fitted.seconds)
            if fitted.interrupted and not how.here:
                raise KeyboardInterrupt
    runs: dict[str, tuple[Cell, Spec]] = {}
    for cell in cells:
        once = mode == "fixed" and cell.exact
        for shift in range(1 if once else seeds):
            number = f", seed {seed + shift}" if seeds > 1 and not once else ""
            runs[cell.label + number] = cell, replace(specs[cell], seed=seed + shift)
    asked = {name: spec for name, (_, spec) in runs.items()}
    found, failed = outcomes_of(asked, split, say, how, runs_at, overwrite, still)
    outcomes: dict[Cell, list[Outcome]] = {}
    for name, outcome in found.items():
        outcomes.setdefault(runs[name][0], []).append(outcome)
    shown = next(iter(outcomes.values()))[0].judged.split
    result = Comparison(model, mode, source, shown, outcomes, failed)
    console.print(comparison_table(result, console.width))
    for line in [*result.remarks(), *what_failed(failed, runs_at)]:
        console.print(line, highlight=False)
    content = result.as_dict()
    if diagnose or simulate:
        cards = cards_of(result, simulate, seed)
        content |= cards.as_dict()
        for table in cards_tables(cards):
            console.print(table, highlight=False)
    if place is None:
        console.print("Nothing was written; --out DIR keeps table and picture.", highlight=False)
    else:
        rows, figure = result.as_rows(), comparison_figure(result)
        _output.write(place, "compare", strict(content), rows, figure)
        console.print(f"The picture is {place / 'compare.png'}", highlight=False, soft_wrap=True)
    return result
