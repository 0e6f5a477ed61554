"""Our objectives as losses of ``pyro.infer.SVI``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import infer
from torch import Tensor, nn

from zoo.data import Batch
from zoo.model import Model, Observed, as_model, observe
from zoo.objective_words import bind_objective


class PyroLoss(infer.ELBO):
    """An objective by its word, with the interface of Pyro's ELBOs: N times its value, in nats.

    The pair is ``(observe(model), guide)``, callables of a batch. What the two modules have for
    parameters is announced to the SVI that asks, and changed in place.

    Args:
        objective: a word (``iwae``, ``renyi:0.5``), or ``(model, guide, batch) -> loss``.
        options: keyword arguments of the objective, such as ``num_particles`` and ``estimator``.

    Raises:
        ValueError: as ``bind_objective``.
        TypeError: a model that is neither a ``Model`` nor ``observe(model)``.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> guide, loss = Guide(model, data), PyroLoss("iwae", num_particles=5)
        >>> with pyro.get_param_store().scope():
        ...     adam = pyro.optim.Adam({"lr": 0.01})
        ...     svi = infer.SVI(observe(model), guide, adam, loss)
        ...     losses = [svi.step(data.batch()) for _ in range(100)]
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(self, objective: str | Callable[..., Tensor] = "elbo", **options: Any):
        self.name, self.loss_of = bind_objective(objective, options)
        super().__init__(num_particles=int(options.get("num_particles", 1)))

    def prepared(self, model: Model) -> Callable[[Batch], Any]:
        """The model as SVI is given it."""
        return observe(model)

    def check(self, model: Model, guide: Any, batch: Batch) -> None:
        """Nothing: an objective refuses by itself what it cannot do."""

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """(): N times the objective, with its graph."""
        (batch,) = args
        return self.loss_of(_model_of(model), guide, batch) * batch.size

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError("the objectives of this library are made of log weights")

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The value alone."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, *args))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The value; the gradients are added to ``.grad`` of the parameters of both modules."""
        for name, part in (("model", _model_of(model)), ("guide", guide)):
            if isinstance(part, nn.Module) and any(p.requires_grad for p in part.parameters()):
                pyro.module(name, part)
        loss = self.differentiable_loss(model, guide, *args)
        if loss.requires_grad:
            loss.backward()
        return float(loss.detach())


def _model_of(model: Any) -> Model:
    model = model.model if isinstance(model, Observed) else model
    if not isinstance(model, Model):
        raise TypeError(
            f"this loss conditions the model itself: give SVI observe(model) (or a Model), not "
            f"{type(model).__name__}; a plain Pyro function goes through zoo.plain(function)"
        )
    return as_model(model)
