"""The report card: every diagnostic that can be had of a pair, and the verdict over them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from zoo.context import evaluating, seeded, stream
from zoo.data import Batch
from zoo.diagnostics.card import Band, Check, Verdict, judged, tested, unchecked, verdict
from zoo.diagnostics.parts.case import Case, Settings
from zoo.diagnostics.parts.latents import of_latents
from zoo.diagnostics.parts.model import of_model
from zoo.diagnostics.parts.reference import of_reference
from zoo.diagnostics.parts.run import of_restarts, of_run
from zoo.diagnostics.parts.search import of_chains, of_gaps
from zoo.diagnostics.parts.simulation import of_simulation
from zoo.diagnostics.parts.weights import of_globals, of_rows
from zoo.model import Model, as_model
from zoo.store import versions


@dataclass(frozen=True)
class Report:
    """What was checked, what came of it, and what the numbers are.

    Attributes:
        checks: judged, in the order of the table.
        results: the typed result of each diagnostic that was run, by name.
        about: what was judged: model, family, inference, data, rows, draws, seed, versions,
            seconds.
        notes: what else a reader should know.
    """

    checks: tuple[Check, ...]
    results: Mapping[str, Any]
    about: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict over all checks."""
        return verdict(self.checks)

    @property
    def rows(self) -> dict[str, list[Check]]:
        """The lines of the table: its name -> the checks in it that were run."""
        found: dict[str, list[Check]] = {}
        for check in self.checks:
            if check.status != "not checked":
                found.setdefault(check.row, []).append(check)
        return found

    @property
    def not_checked(self) -> list[Check]:
        """What was not run."""
        return [check for check in self.checks if check.status == "not checked"]

    def __getitem__(self, name: str) -> Check:
        """The check of a name."""
        return next(check for check in self.checks if check.name == name)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what ``report.json`` holds."""
        return {
            "about": dict(self.about),
            "verdict": self.verdict.as_dict(),
            "checks": [check.as_dict() for check in self.checks],
            "results": {
                name: result.as_dict()
                for name, result in self.results.items()
                if hasattr(result, "as_dict")
            },
            "notes": list(self.notes),
        }


def diagnose(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    *,
    simulate: bool = False,
    thorough: bool = False,
    run: Any = None,
    restarts: Sequence[Any] = (),
    reference: Any = None,
    statistics: Mapping[str, Callable[..., Any]] | None = None,
    num_rows: int | None = 500,
    num_draws: int = 4000,
    num_global_draws: int = 25_000,
    num_simulations: int | None = None,
    infer_steps: int = 2000,
    search_steps: int | None = None,
    seed: int = 0,
    progress: bool | None = False,
) -> Report:
    """How far q(z | x) can be trusted, and p too: every diagnostic that can be had, on one card.

    From weights, always: the ladder ELBO ≤ IWAE_S ≤ log p(x), the gap that is certain, k̂ of every
    row and of the global latents, the effective sample size, and how far means and standard
    deviations move under Pareto-smoothed weights. From the run, where it is given: iterates, loss,
    gradients, restarts. The gaps of family and encoder. What the latents are used for. The model
    against the data. With ``simulate``: calibration on data drawn from the model. With
    ``thorough``: Markov chains. Each number has a 95 % interval, the colours follow bands, and
    alarms hold at 5 % for the whole card (Holm).

    "No failure found" is the best that it says: weights and chains that start from q do not see a
    mode that q has none of; simulations do, where the model draws it.

    Args:
        model: p, a ``Model`` or a plain Pyro function.
        guide: q for the rows of ``data``.
        data: N rows: those of a table, and those that global latents were fitted to.
        simulate: whether to draw data from the model and look at q there.
        thorough: whether to run annealed importance sampling, short chains and, for global latents
            and small data, NUTS.
        run: the ``FitResult`` of the fit, or a run read back: iterates, losses and the objective.
        restarts: other runs of the same model and data, from other seeds.
        reference: draws of the posterior, site -> (R, *shape), or a file that ``read_draws`` reads.
        statistics: name -> T, a function (N, *event) -> () of the data, to look at besides.
        num_rows: rows that are given S draws each, chosen by the seed; None for all.
        num_draws: S of a row.
        num_global_draws: draws of global latents.
        num_simulations: by default 4000 where q applies to new rows as it is, 300 rows for a table,
            50 data sets for global latents.
        infer_steps: steps that fit a table's row, or q of global latents, to simulated data.
        search_steps: of the search for the best q of each row, from which the gaps are told apart;
            by default 600, and 2000 where it is thorough.
        seed: of all rows and draws: two guides of one model are given the same.
        progress: bars; None shows them on a terminal.

    Raises:
        ValueError: a model without latents for these data; counts out of range.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> card = diagnose(model, Guide(model, data, "exact"), data, num_draws=500)
        >>> card.verdict.posterior.startswith("no failure found")
        True
    """
    settings = Settings(
        simulate,
        thorough,
        num_rows,
        num_draws,
        num_global_draws,
        num_simulations,
        infer_steps,
        search_steps,
        seed,
        progress,
    )
    model = as_model(model)
    with seeded(stream(seed, "card"), model.device), evaluating(model, guide):
        case = Case.of(model, guide, data, settings)
        return _card(case, run, restarts, reference, statistics)


def _card(
    case: Case,
    run: Any,
    restarts: Sequence[Any],
    reference: Any,
    statistics: Mapping[str, Callable[..., Any]] | None,
) -> Report:
    """Every part in turn; what cannot be had is said, and Ctrl-C leaves what there is."""
    guide = case.guide
    density = getattr(guide, "has_density", True)
    of_q: dict[str, Callable[[], list[Check]]] = {
        "weights": lambda: of_rows(case),
        "weights of globals": lambda: of_globals(case),
        "gaps": lambda: of_gaps(case),
        "simulation": lambda: of_simulation(case),
        "chains": lambda: of_chains(case),
        "latents": lambda: of_latents(case),
    }
    parts = {
        **(of_q if density else {"family": lambda: [POINT]}),
        "reference": lambda: of_reference(case, reference),
        "optimisation": lambda: of_run(case, run),
        "restarts": lambda: of_restarts(case, run, restarts),
        "model": lambda: of_model(case, statistics),
    }
    checks: list[Check] = []
    stopped, clock = False, {}
    for row, part in parts.items():
        if stopped:
            checks.append(unchecked(row, row, "interrupted"))
            continue
        begun = time.perf_counter()
        try:
            checks += case.attempt(row, row, part)
        except KeyboardInterrupt:
            stopped = True
            checks.append(unchecked(row, row, "interrupted"))
        clock[row] = round(time.perf_counter() - begun, 3)
    about = {**_about(case), "seconds": round(sum(clock.values()), 3), "seconds_by_part": clock}
    return Report(judged(checks), case.results, about, tuple(case.notes))


POINT = tested(
    "family",
    "point mass",
    1.0,
    (1.0, 1.0),
    0.0,
    "q is a point mass: it has no width, no weights and no bound",
    "take another family: zoo fit MODEL --model-from RUN --freeze model --family mean_field",
    band=Band(0.5, 0.5),
)


def _about(case: Case) -> dict[str, Any]:
    """What was judged."""
    spec = getattr(case.guide, "spec", {})
    words = {k: spec.get(k) for k in ("family", "inference", "estimator", "global_family")}
    words = {k: v if isinstance(v, str | None) else v.__name__ for k, v in words.items()}
    if (
        not case.latents.vectors.dim
    ):  # nothing for a family of the rows, or its inference, to act on
        words |= {"family": None, "inference": None}
    weights = case.results.get("global_weights")
    return {
        "model": type(case.model).__name__,
        **words,
        "data": case.data.name,
        "num_rows": len(case.few),
        "of_rows": len(case.data),
        "num_draws": case.settings.num_draws,
        "num_global_draws": None if weights is None else weights.num_draws,
        "seed": case.settings.seed,
        "device": str(case.model.device),
        "versions": versions(),
    }
