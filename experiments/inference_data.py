"""A run as ArviZ InferenceData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from experiments.trained import Trained, load_trained

if TYPE_CHECKING:
    from zoo.data import Dataset

ROWS, DRAWS = 100, 1000
NUMBERS = 20_000_000  # of predictions that are kept


def to_arviz(run: str, device: str = "auto", **options: Any) -> Any:
    """What ``zoo.diagnostics.arviz.to_arviz`` makes of a run and the rows that it was fitted to.

    Args:
        run: the folder of a run.
        device: auto (CUDA where there is one), cpu or cuda.
        options: of that function: num_draws, num_rows, seed, ….

    Returns:
        ``az.InferenceData``, for ``az.summary``, ``az.plot_posterior``, ``az.loo``, ``az.compare``.

    Raises:
        ValueError: no run there; data that have changed.
    """
    arviz = import_module("zoo.diagnostics.arviz")
    trained = load_trained(run, device)
    return arviz.to_arviz(trained.model, trained.guide, trained.split.train, **options)


def of_card(
    trained: Trained,
    guide: Any,
    data: Dataset,
    restarts: Sequence[Any],
    found: Mapping[str, Any],
    seed: int,
) -> Any:
    """The draws that go with a report card, of so many that the file stays small.

    Args:
        trained, guide, data: what the card is of.
        restarts: further chains, where q is of the same rows.
        found: numbers of the card, name -> one number.
        seed: of rows and draws.
    """
    arviz = import_module("zoo.diagnostics.arviz")
    rows = min(ROWS, len(data))
    width = sum(data.event_shape(name).numel() for name in data.names)
    draws = max(100, min(DRAWS, NUMBERS // (rows * width)))
    others = [(r.model, r.guide) for r in restarts] if guide is trained.guide else []
    return arviz.to_arviz(
        trained.model,
        guide,
        data,
        num_draws=draws,
        num_rows=rows,
        restarts=others,
        vi_diagnostics=found,
        seed=seed,
    )
