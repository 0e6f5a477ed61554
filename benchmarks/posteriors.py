"""Whether the card tells how wrong q is: its figures against the truth, on posteriors of Stan.

    python -m benchmarks.posteriors
    python -m benchmarks.posteriors_figure   # docs/posteriors.png, from its results

The global latents of models of posteriordb get a q of three families, by the ELBO. The truth is
10 000 reference draws by long runs of Stan. The card knows nothing of them: it has k̂ of 25 000
importance weights, the moments that they correct, and 400 short Markov chains from draws of q (100
for 500 rows or more). The data are those that ``ZOO_DATA`` holds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import save
from experiments.posteriordb import Reference, load
from guides import Guide
from guides.families.full_rank import FullRank
from guides.family import inverse_softplus
from zoo import fit
from zoo.context import seeded
from zoo.diagnostics.chains import short_chains
from zoo.diagnostics.global_weights import global_weights
from zoo.diagnostics.moments import corrected_moments
from zoo.diagnostics.psis import psis
from zoo.diagnostics.reference import against_reference
from zoo.diagnostics.targets import joint_target
from zoo.sites import Latents

POSTERIORS = (
    "arK-arK",
    "eight_schools-eight_schools_noncentered",
    "gp_pois_regr-gp_regr",
    "kidiq-kidscore_interaction",
    "kidiq-kidscore_momiq",
    "kilpisjarvi_mod-kilpisjarvi",
    "low_dim_gauss_mix-low_dim_gauss_mix",
    "mesquite-logmesquite_logvas",
    "nes2000-nes",
    "sblrc-blr",
)
FLOW = {"length": 4, "context_dim": 0, "hidden": (32,)}
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # options, and how it is fitted
    "mean_field": ({}, {"steps": 800, "lr": 0.03}),
    "full_rank": ({}, {"steps": 800, "lr": 0.03}),
    "iaf": (FLOW, {"steps": 1200, "lr": 0.005, "clip": 1.0}),
}
HOW = {"schedule": "cosine", "betas": (0.9, 0.99), "progress": False}
PARTICLES = {"num_outer": 16}
DRAWS = 25_000
KINDS = ("shift", "log_sd_ratio")
GREEN, AMBER = 0.1, 0.3  # the card's bands for both kinds of error


def laplace(ref: Reference) -> tuple[Tensor, Tensor]:
    """The mode (d,) of log p(x, u) in the unconstrained space, and minus its Hessian there."""
    batch = ref.data.batch()
    latents = Latents.find(ref.model, batch)
    target = joint_target(ref.model, batch, latents)

    def loss(u: Tensor) -> Tensor:
        return -target(u.unsqueeze(0))[0]

    u = torch.zeros(latents.global_.dim, requires_grad=True)
    search = torch.optim.LBFGS([u], max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        value = loss(u)
        value.backward()
        return value

    search.step(closure)
    hessian = torch.autograd.functional.hessian(loss, u.detach())
    assert isinstance(hessian, Tensor)
    return u.detach(), hessian


@torch.no_grad()
def start(guide: Guide, mode: Tensor, hessian: Tensor) -> None:
    """q at the mode, as wide as the curvature says: what follows ends where the family does."""
    kappa, d = guide.global_kappa, len(mode)
    assert kappa is not None
    scale = hessian.diagonal().rsqrt()
    if isinstance(guide.global_family, FullRank):
        tril = torch.linalg.cholesky(torch.linalg.inv(hessian))
        scale = tril.diagonal()
        row, column = torch.tril_indices(d, d, -1)
        kappa[2 * d :] = (tril / scale.unsqueeze(-1))[row, column]
    kappa[:d] = mode
    kappa[d : 2 * d] = torch.stack([torch.tensor(inverse_softplus(float(s))) for s in scale])


def fitted(ref: Reference, family: str, at: tuple[Tensor, Tensor]) -> tuple[Guide, float]:
    """q of a family, and -ELBO in nats, averaged over the last hundred steps."""
    options, how = FAMILIES[family]
    with seeded(0):
        guide = Guide(ref.model, ref.data, global_family=family, global_options=options)
    start(guide, *at)
    run = fit(ref.model, guide, ref.data, objective_options=PARTICLES, **how, **HOW)
    return guide, run.metrics[-1]["loss"] * len(ref.data)


def largest(values: Tensor, errors: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """The parameter with the largest |value|, and the error there."""
    at = int(values.abs().argmax())
    return {"unit": names[at], "value": values[at].item(), "se": errors[at].item()}


def measured(ref: Reference, guide: Guide) -> dict[str, Any]:
    """What the card sees, and the truth. Everything is the largest over the parameters."""
    clock = time.process_time()
    weights = global_weights(ref.model, guide, ref.data, DRAWS)
    assert weights is not None and weights.values is not None
    smoothed = psis(weights.log_weight)
    moments = corrected_moments(weights.as_draws(), smoothed)
    by_weights = time.process_time() - clock
    few_rows = len(ref.data) < 500
    chains = short_chains(ref.model, guide, ref.data, num_chains=400 if few_rows else 100)
    by_chains = time.process_time() - clock - by_weights
    moved = chains.global_
    assert moved is not None
    sites = Latents.find(ref.model, ref.data.batch()).global_.sites
    parts = [ref.draws[site.name].flatten(0, 1) for site in sites]
    truth = torch.cat([part.reshape(len(part), -1) for part in parts], 1)  # (R, U)
    few = {"most": 100, "halves": 2, "permutations": 2}  # of the distances, which are not used
    q = against_reference(weights.values, truth, names=weights.names, **few)
    sd = truth.std(0)
    return {
        "units": len(q.names),
        "k": smoothed.k.item(),
        "k_se": smoothed.se.item(),
        "threshold": smoothed.threshold,
        "ess_fraction": smoothed.ess_fraction.item(),
        "true": {
            "shift": largest(q.bias, q.bias_error, q.names),
            "log_sd_ratio": largest(q.log_sd_ratio, q.log_sd_ratio_error, q.names),
        },
        "predicted": {
            "shift": largest(moments.shift[0], moments.shift_error[0], q.names),
            "log_sd_ratio": largest(
                moments.log_sd_ratio[0], moments.log_sd_ratio_error[0], q.names
            ),
        },
        "corrected": {  # what is left of the error under the smoothed weights
            "shift": ((moments.corrected_mean[0] - truth.mean(0)) / sd).abs().max().item(),
            "log_sd_ratio": (moments.corrected_sd[0] / sd).log().abs().max().item(),
        },
        "chains": {
            "shift": largest(moved.shift, moved.shift_error, moved.names),
            "log_sd_ratio": largest(moved.log_sd_ratio, moved.log_sd_ratio_error, moved.names),
            "shift_above_true": above(moved.rms_shift_lower, q.bias, q.bias_error),
            "log_sd_ratio_above_true": above(
                moved.rms_log_sd_ratio_lower, q.log_sd_ratio, q.log_sd_ratio_error
            ),
            "p_value": chains.p_value,
            "moved": chains.moved,
            "acceptance": chains.acceptance,
        },
        "seconds": {"weights": by_weights, "chains": by_chains},
    }


def above(lower: Tensor, true: Tensor, error: Tensor) -> int:
    """Parameters whose 95 % lower bound is above the truth and two standard errors of it."""
    return int((lower > true.abs() + 2 * error).sum())


def summary(runs: Mapping[str, Any]) -> dict[str, Any]:
    """How often the card was right, over all fits and both kinds of error."""
    usable = {name: run for name, run in runs.items() if run["k"] < run["threshold"]}
    off = {
        f"{name}, {kind}": abs(size(run, "predicted", kind) - size(run, "true", kind))
        for name, run in usable.items()
        for kind in KINDS
    }
    place = max(off, key=off.__getitem__)
    lost = [run for name, run in runs.items() if name not in usable]
    wrong = [run for run in runs.values() if worst(run, "true") > AMBER]
    right = [run for run in runs.values() if worst(run, "true") < GREEN]
    alarm = [run for run in wrong if run["k"] >= run["threshold"] or worst(run) > GREEN]
    quiet = [run for run in right if run["k"] < run["threshold"] and worst(run) < GREEN]
    return {
        "fits": len(runs),
        "usable": {
            "fits": len(usable),
            "figures": len(off),
            "median_difference": median(off.values()),
            "within_0.05": sum(value < 0.05 for value in off.values()),
            "largest_difference": {"of": place, "value": off[place]},
        },
        "not_usable": {
            "fits": len(lost),
            "median_true_log_sd_ratio": median(size(run, "true", KINDS[1]) for run in lost),
            **{
                f"median_share_seen_by_{what}": median(
                    size(run, what, KINDS[1]) / size(run, "true", KINDS[1]) for run in lost
                )
                for what in ("predicted", "chains")
            },
        },
        "true_error_above_0.3": {
            "fits": len(wrong),
            "seen_by_weights": len(alarm),
            "seen_by_chains": sum(seen(run) for run in wrong),
        },
        "true_error_below_0.1": {
            "fits": len(right),
            "passed_by_weights": len(quiet),
            "passed_by_chains": sum(not seen(run) for run in right),
        },
        "chain_bounds_above_truth": {
            "parameters": 2 * sum(run["units"] for run in runs.values()),
            "count": sum(run["chains"][f"{k}_above_true"] for run in runs.values() for k in KINDS),
        },
    }


def seen(run: Mapping[str, Any]) -> bool:
    """Whether chains that moved say that q is wrong, at 5 %."""
    return run["chains"]["moved"] and run["chains"]["p_value"] < 0.05


def size(run: Mapping[str, Any], what: str, kind: str) -> float:
    """The largest |error| of a kind, as somebody says."""
    return abs(run[what][kind]["value"])


def worst(run: Mapping[str, Any], what: str = "predicted") -> float:
    """The larger of both kinds of error."""
    return max(size(run, what, kind) for kind in KINDS)


def main() -> None:
    """Fits, predictions and the truth."""
    torch.set_default_dtype(torch.float64)
    clock, runs = time.perf_counter(), {}
    for name in POSTERIORS:
        ref = load(name)
        at = laplace(ref)
        for family in FAMILIES:
            begun = time.process_time()
            guide, loss = fitted(ref, family, at)
            seconds = time.process_time() - begun
            found = measured(ref, guide)
            found["seconds"] = {"fit": seconds, **found["seconds"]}
            runs[f"{name}, {family}"] = {"loss": loss, **found}
            print(name, family, json.dumps(found), flush=True)
    settings = {
        "start": "Laplace",
        "draws": DRAWS,
        "particles": PARTICLES["num_outer"],
        **{family: {**options, **how} for family, (options, how) in FAMILIES.items()},
    }
    spent = {"minutes": (time.perf_counter() - clock) / 60, "cpu_minutes": time.process_time() / 60}
    save("posteriors", {"settings": settings, **spent, "summary": summary(runs), "runs": runs})


if __name__ == "__main__":
    main()
