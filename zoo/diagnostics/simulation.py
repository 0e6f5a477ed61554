"""One sweep of simulations, (z*, x*) ~ p and q(z | x*), that calibration diagnostics start from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from zoo.context import seeded, stream, validation
from zoo.data import Batch, as_dataset
from zoo.diagnostics._simulated import simulated
from zoo.diagnostics._sweep import CHUNK, REFITTED, Pairs, of_data_sets, of_rows
from zoo.diagnostics.simulations import Simulations
from zoo.model import Model, as_model
from zoo.sites import given_labels

__all__ = ["Simulations", "simulate_posteriors"]


def simulate_posteriors(
    model: Model | Callable[..., Any],
    guide: Callable[[Batch], Any],
    data: Any,
    *,
    num_simulations: int | None = None,
    num_draws: int = 100,
    seed: int = 0,
    infer_steps: int = 2000,
    refit_steps: int = 2000,
    refit_lr: float = 0.02,
    max_elements: int | None = None,
    progress: bool | None = False,
) -> Simulations:
    """(z*, x*) ~ p(z) p(x | z) and z_1, …, z_S ~ q(z | x*), n times.

    Formula: were q(z | x) = p(z | x), then z*, z_1, …, z_S would be exchangeable given x*, whatever
    x* is: every diagnostic made of this sweep tests a consequence of that. It holds for the model
    as it is now, and says nothing of whether the model fits the data.

    With latents of the rows alone a simulation is one row: ``data`` give inputs and the places of
    missing entries, from rows chosen at random with replacement. An amortized q is applied as it
    is; a table is optimised for the simulated rows by ``guide.infer``; any other callable of the
    batch is applied as it is. With global latents a simulation is a whole data set of N rows, for
    which an untrained q of the same kind is fitted (``guide.anew``), the model as it is: what is
    tested is then q *and* its optimisation. A module without ``anew`` is copied and fitted from
    its present parameters.

    Args:
        model: p.
        guide: q, with a density.
        data: N rows. Labels that q guesses are not looked at.
        num_simulations: n, from 2; by default 4000 where q is applied, 300 for a table, 50 refits.
        num_draws: S, from 2.
        seed: of the rows, the simulations, the optimisations and the draws.
        infer_steps: of the optimisation of a table.
        refit_steps: of each refit.
        refit_lr: the first learning rate of a refit, which falls along a cosine.
        max_elements: how many numbers the largest tensor may have; by default 2²¹ on a CPU and 2²⁶
            on a GPU. All draws of a row, or all rows of a data set, stay together. It decides which
            random numbers a draw gets.
        progress: a bar; None shows one on a terminal.

    Raises:
        ValueError: a point mass; fewer than two simulations or draws; a plain guide that looks at
            the place of a row in its data set, or that cannot be fitted anew where it has to be; a
            model that cannot be simulated from; no latent that q draws; as ``log_weights``.

    Reference: Talts, Betancourt, Simpson, Vehtari and Gelman, "Validating Bayesian inference
    algorithms with simulation-based calibration", 2018.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> found = simulate_posteriors(model, Guide(model, data, "exact"), data, num_draws=20)
        >>> found.names, found.count, found.draws.shape
        (('z[0]', 'z[1]'), 4000, torch.Size([20, 4000, 2]))
    """
    if not getattr(guide, "has_density", True):
        raise ValueError(
            "the guide is a point mass (delta): its draws are all one, so no truth could be among "
            "them; use another family, such as mean_field"
        )
    if num_draws < 2 or (num_simulations is not None and num_simulations < 2):
        raise ValueError(
            "a calibration needs two simulations and two draws or more, got "
            f"num_simulations={num_simulations} and num_draws={num_draws}"
        )
    model, data = as_model(model), as_dataset(data)
    if labels := given_labels(model, data):
        data = data.without(*labels)
    if max_elements is None:
        max_elements = 2**21 if model.device.type == "cpu" else 2**26
    apart = seeded(stream(seed, "simulations"), model.device)
    with torch.no_grad(), apart, validation(False):
        model.resolve(data.batch(torch.arange(min(len(data), 97))).to(model.device))
        _, kinds = simulated(model, data, torch.arange(min(len(data), 2)), CHUNK)
        pairs = Pairs(model, num_draws, seed, max_elements, progress)
        if kinds.whole:
            count = REFITTED if num_simulations is None else num_simulations
            return of_data_sets(pairs, guide, data, count, refit_steps, refit_lr)
        return of_rows(pairs, guide, data, num_simulations, infer_steps)
