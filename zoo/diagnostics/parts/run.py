"""The part of a card about the optimisation: iterates, losses, gradients, restarts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.diagnostics.card import BANDS, Check, measured, tested, told, unchecked
from zoo.diagnostics.gradient_snr import gradient_snr
from zoo.diagnostics.optimisation import Optimisation, optimisation
from zoo.diagnostics.parts.case import Case
from zoo.diagnostics.restarts import restarts as compared
from zoo.evaluation import evaluate

ROW, OTHERS = "optimisation", "restarts"
LONGER = "train for more steps, or let the learning rate fall (--schedule cosine)"
EVALUATED, SPREAD_FROM = 100, 3  # draws of each row; restarts that a band is for


def of_run(case: Case, run: Any) -> list[Check]:
    """R̂ of iterates and the trend of the loss; signal and noise of the gradients."""
    if run is None:
        why = "the run of the fit was not given"
        return [unchecked(ROW, "iterates", why, "optimisation")]
    case.results["metrics"] = list(run.metrics)
    case.results["iterates"] = run.iterates
    return [
        *case.attempt(ROW, "iterates", lambda: _iterates(case, run)),
        *case.attempt(ROW, "gradients", lambda: _gradients(case, run)),
    ]


def _iterates(case: Case, run: Any) -> list[Check]:
    if run.iterates is None and not run.metrics:
        return [unchecked(ROW, "iterates", "nothing was trained", "optimisation")]
    found = case.results["optimisation"] = optimisation(run.iterates, run.metrics)
    amortized = getattr(case.guide, "amortized", False)
    if run.iterates is None:
        why = "the run kept no iterates: it is of an older version, or its state is damaged"
        checks = [unchecked(ROW, "iterates", why, "optimisation")]
    else:
        checks = [_rhat(found, amortized)] if found.names else []
    if found.trend is not None:
        checks.append(told(ROW, "loss", f"loss {found.trend}", "optimisation"))
    return checks


def _rhat(found: Optimisation, amortized: bool) -> Check:
    """Of the parameters that mean something: weights of an encoder drift without any effect."""
    judged = found.only("model.") if amortized else found
    if not judged.names:
        name, value = found.worst
        text = f"R̂ {value:.2f} of {name}, which may drift without effect"
        return told(ROW, "iterates", text, "optimisation")
    name, value = judged.worst
    text = f"R̂ {value:.3f} of {name} over the last {judged.num_snapshots} snapshots"
    if found.falling_rate:  # which moves iterates and then stills them
        text += ", while the rate fell: no sign of trouble by itself"
        return told(ROW, "iterates", text, "optimisation")
    p = judged.p_value(BANDS["iterates"].green)
    return tested(ROW, "iterates", value, judged.interval, p, text, LONGER, "optimisation")


def _gradients(case: Case, run: Any) -> list[Check]:
    spec = getattr(run, "spec", {})
    objective = getattr(run, "objective", None) or spec["objective"]
    options = getattr(run, "objective_options", None) or spec.get("objective_options")
    given = case.model, run.guide, case.data, objective, options
    found = gradient_snr(*given, seed=case.settings.seed)
    case.results["gradient_snr"] = found
    sides = (("model", found.model), ("guide", found.guide))
    shown = [f"{side} {snr.value:.2f} ± {snr.se:.2f}" for side, snr in sides if snr is not None]
    if not shown:
        return [unchecked(ROW, "gradients", "no parameter is free", "optimisation")]
    text = f"signal/noise of gradients: {', '.join(shown)} (noise alone {found.floor:.2f})"
    return [told(ROW, "gradients", text, "optimisation")]


def of_restarts(case: Case, run: Any, others: Sequence[Any]) -> list[Check]:
    """What several fits agree on: bounds and functionals that no symmetry moves."""
    if not others:
        why = "one run: fit with --seeds 3 and give the folder of the series"
        return [unchecked(OTHERS, "restarts", why, "optimisation")]
    runs = [*others]
    models, guides = [case.model, *(r.model for r in runs)], [case.guide, *(r.guide for r in runs)]
    seed = case.settings.seed
    bounds = []
    for model, guide in zip(models, guides, strict=True):
        rows = case.few.to(model.device)
        judged = evaluate(model, guide, rows, num_particles=EVALUATED, seed=seed, exact=False)
        if judged.elbo is None:
            raise ValueError("a restart is a point mass, which has no bound")
        bounds.append(judged.elbo)
    losses = [r.metrics for r in (run, *runs)] if run is not None else None
    found = compared(models, bounds, case.few, guides=guides, losses=losses, seed=seed)
    case.results["restarts"] = found
    checks = []
    assert found.spread is not None
    value, se = found.spread.range, found.spread.se
    text = f"ELBO of {found.num_restarts} restarts within {value:.3f} ± {se:.3f} nats"
    if found.num_restarts < SPREAD_FROM:
        checks.append(told(OTHERS, "restarts", text, "optimisation"))
    else:
        action = "the fit ends in different places: more steps, another start, keep the best"
        checks.append(measured(OTHERS, "restarts", value, se, text, action, "optimisation"))
    if found.functionals:
        apart = [f"{f.name} {f.distance[0]:.1%}" for f in found.functionals]
        text = f"apart in {', '.join(apart)} of their size"
        checks.append(told(OTHERS, "functionals", text, "optimisation"))
    return checks
