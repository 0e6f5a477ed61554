"""Watching a fit: early stopping by a test on held-out rows, and the site where a NaN came from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from zoo.context import seeded, stream, validation
from zoo.data import Batch, Dataset
from zoo.handlers import is_site
from zoo.model import Model, observe
from zoo.objectives.bounds import mean
from zoo.objectives.likelihood import log_likelihood
from zoo.shares import divided
from zoo.weights import log_weights


@dataclass
class EarlyStopping:
    """Stops when the held-out bound has not risen by more than its noise for a while.

    After each evaluation the bound of every held-out row is compared with that of the best
    evaluation so far, on the same random numbers. A rise counts where its mean over the rows is
    above two of its paired standard errors; ``patience`` evaluations in a row without one end the
    fit. The best evaluation's weights are kept.

    Attributes:
        patience: evaluations without a rise before the end.
        since: evaluations since the last rise that counted.
        best: the best mean so far, in nats per datapoint.
        best_step: its step.
    """

    patience: int
    since: int = 0
    best: float = -float("inf")
    best_step: int = 0
    reference: Tensor | None = None

    def update(self, rows: Tensor, step: int) -> bool:
        """Takes the held-out bound of each row, (M,); returns whether it is the best so far."""
        mean = rows.mean().item()
        rose = self.reference is None
        if self.reference is not None:
            gain = rows - self.reference
            error = gain.std().item() / len(gain) ** 0.5 if len(gain) > 1 else 0.0
            rose = gain.mean().item() > 2 * error
        if rose:
            self.since, self.reference = 0, rows
        else:
            self.since += 1
        better = mean > self.best
        if better:
            self.best, self.best_step = mean, step
        return better

    @property
    def done(self) -> bool:
        """Whether patience has run out."""
        return self.since >= self.patience


@torch.no_grad()
def held_out_bound(model: Model, guide: Any, data: Dataset, particles: int, seed: int) -> Tensor:
    """(M,), the ELBO of every held-out row on random numbers that are the same each time.

    Without a guide: log p(x), the latents summed out.
    """
    if guide is None:
        with validation(False):
            return torch.cat([log_likelihood(model, batch) for batch in data.batches(4096)])
    if hasattr(guide, "infer"):
        guide = guide.infer(data)
    with seeded(stream(seed, "held out"), model.device), validation(False):
        return torch.cat(
            [
                log_weights(model, guide, batch, particles).bound(mean).mean(0)
                for batch in data.batches(4096)
            ]
        )


@torch.no_grad()
def check_rows(model: Model, data: Dataset, chunk: int = 8192) -> None:
    """One pass over all rows with every check on, before the loop turns them off."""
    with seeded(0, model.device), validation(True):
        for batch in data.batches(chunk):
            observe(model)(batch)


def blame(model: Model, guide: Any, loss_of: Callable[..., Tensor], batch: Batch) -> str:
    """Where a loss that is not finite comes from: the first parameter or site, and its value."""
    for side, part in (("model", model), ("guide", guide)):
        for name, parameter in part.named_parameters() if isinstance(part, nn.Module) else ():
            bad = ~torch.isfinite(parameter.detach())
            if bool(bad.any()):
                value = parameter.detach()[bad][0].item()
                return f"parameter {name!r} of the {side} has become {value}"
    quiet = contextlib.suppress(Exception)
    drawn = divided(batch, model)  # as it was
    with poutine.block(), drawn, torch.no_grad(), validation(False), Suspect() as suspect, quiet:
        loss_of(model, guide, batch)
    return suspect.found or "every site is finite at a second look, so the gradient overflowed"


class Suspect(Messenger):
    """Remembers the first site whose value or log-probability is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.found = ""

    def _pyro_post_sample(self, message: Any) -> None:
        if self.found or not is_site(message):
            return
        score = message["fn"].log_prob(message["value"])
        for what, value in (("value", message["value"]), ("log-probability", score)):
            bad = ~torch.isfinite(value) if value.is_floating_point() else None
            if bad is not None and bool(bad.any()):
                number = value[bad][0].item()
                self.found = f"the {what} of site {message['name']!r} is {number}"
                return
