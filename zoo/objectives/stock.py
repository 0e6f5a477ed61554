"""Pyro's own objectives, by name or by instance, where they are right for the pair at hand.

Two roads lead to them. ``fit`` runs them as losses of plain modules with a torch optimizer, the
global parameter store untouched. ``pyro_svi`` runs ``pyro.infer.SVI`` and puts the store back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import pyro.infer as infer
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import constraints

from zoo.context import seeded
from zoo.data import Batch
from zoo.decoding import Drawn
from zoo.handlers import Record, in_plate
from zoo.local_params import LocalParams, at_home
from zoo.model import Model, as_model, observe
from zoo.relaxed import Relaxed

__all__ = ["renyi_elbo", "trace_elbo", "trace_mean_field_elbo", "traceenum_elbo"]

Guide = Callable[[Batch], Any]
_REFUSED = ("ReweightedWakeSleep", "TraceTailAdaptive_ELBO", "EnergyDistance", "Trace_MMD")
_checked: WeakKeyDictionary[Model, WeakKeyDictionary[Any, set[Any]]] = WeakKeyDictionary()


def trace_elbo(model: Model, guide: Guide, batch: Batch, *, num_particles: int = 1) -> Tensor:
    """Pyro's ``Trace_ELBO``: the ELBO, path-wise where it can be, score function elsewhere.

    Args:
        model: p.
        guide: q.
        batch: B rows.
        num_particles: K, run one after the other.

    Raises:
        ValueError: a discrete latent that the guide leaves out (``elbo`` sums it out).
    """
    return stock(infer.Trace_ELBO(num_particles))(model, guide, batch)


def trace_mean_field_elbo(
    model: Model, guide: Guide, batch: Batch, *, num_particles: int = 1
) -> Tensor:
    """Pyro's ``TraceMeanField_ELBO``: the ELBO with the KL in closed form where Pyro has one.

    Args:
        model: p.
        guide: q.
        batch: B rows.
        num_particles: K, run one after the other.

    Raises:
        ValueError: latents in another order than the model's, or on a constrained support, where
            its value would be wrong (``elbo`` is right).
    """
    return stock(infer.TraceMeanField_ELBO(num_particles))(model, guide, batch)


def traceenum_elbo(model: Model, guide: Guide, batch: Batch, *, num_particles: int = 1) -> Tensor:
    """Pyro's ``TraceEnum_ELBO``: the ELBO, discrete latents of the data plate summed out.

    Args:
        model: p.
        guide: q.
        batch: B rows.
        num_particles: K, run one after the other.
    """
    loss = infer.TraceEnum_ELBO(
        num_particles, max_plate_nesting=1, strict_enumeration_warning=False
    )
    return stock(loss)(model, guide, batch)


def renyi_elbo(
    model: Model, guide: Guide, batch: Batch, *, alpha: float = 0.5, num_particles: int = 2
) -> Tensor:
    """Pyro's ``RenyiELBO``, its gradient left on the parameters (the loss has no graph).

    Args:
        model: p.
        guide: q.
        batch: all N rows.
        alpha: α, not 1.
        num_particles: K.

    Raises:
        ValueError: a minibatch, a global or a discrete latent, where it is no bound (``renyi`` is).
    """
    return stock(infer.RenyiELBO(alpha=alpha, num_particles=num_particles))(model, guide, batch)


class stock:
    """A stock Pyro objective as ``(model, guide, batch) -> loss``, in nats per datapoint.

    Each pair gets a copy of the instance, since Pyro's remember the plates of the first pair.

    Raises:
        ValueError: where the class would be wrong for the pair, with ours that is right.
        TypeError: not a Pyro ELBO.
    """

    def __init__(self, loss: Any):
        if not isinstance(loss, infer.ELBO):
            raise TypeError(f"expected a pyro.infer.ELBO instance, got {type(loss).__name__}")
        if type(loss).__name__ in _REFUSED:
            raise ValueError(
                f"{type(loss).__name__} mixes the datapoints of a batch in one weight; use elbo, "
                "iwae or renyi"
            )
        self.loss = loss
        self.__name__ = type(loss).__name__

    def __call__(self, model: Model, guide: Guide, batch: Batch) -> Tensor:
        model = as_model(model)
        model.resolve(batch)
        self.check(model, guide, batch)
        loss: Any = copy.copy(self.loss)
        p = self.prepared(model)
        q = guide if isinstance(loss, infer.TraceEnum_ELBO) else Drawn()(guide)
        with at_home(guide):
            if hasattr(loss, "differentiable_loss"):
                return loss.differentiable_loss(p, q, batch) / batch.size
            value = loss.loss_and_grads(_announce(p), q, batch)  # adds to .grad
        parameters = [w for part in (model, guide) for w in _parameters(part)]
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = parameter.grad / batch.size
        return torch.as_tensor(value, device=model.device) / batch.size

    def prepared(self, model: Model) -> Callable[[Batch], Any]:
        """The conditioned model, marked for enumeration where this class enumerates."""
        p = observe(model)
        enum = isinstance(self.loss, infer.TraceEnum_ELBO)
        return infer.config_enumerate(p) if enum else p

    @property
    def scores(self) -> bool:
        """Whether the class has a score function for draws without a path."""
        path_only = isinstance(self.loss, infer.TraceMeanField_ELBO)
        return isinstance(self.loss, infer.Trace_ELBO | infer.TraceGraph_ELBO) and not path_only

    def check(self, model: Model, guide: Guide, batch: Batch) -> None:
        """Refuses the pair where this class would be wrong for it.

        Looked at once for each guide, model and set of names in the batch.
        """
        kind, renyi = type(self.loss).__name__, isinstance(self.loss, infer.RenyiELBO)
        if renyi and batch.scale != 1:
            raise ValueError(
                "RenyiELBO puts N/B inside its log-sum-exp, which is no bound on a minibatch; use "
                "the objective renyi, or the whole data set as the batch"
            )
        shared = getattr(getattr(guide, "latents", None), "global_", None)
        if batch.share != 1 and shared is not None and shared.dim:
            raise ValueError(
                f"{kind} would count the latents {list(shared.names)}, which all rows share, once "
                "for rows with labels and once for those without; use elbo"
            )
        pairs = _checked.setdefault(model, WeakKeyDictionary())
        done = pairs.setdefault(guide, set()) if isinstance(guide, nn.Module) else set()
        case = kind, *batch.values, *batch.observed
        if case in done:
            return
        with poutine.block(), seeded(0, model.device):  # with gradients, as it will be run
            with Record() as q, at_home(guide):
                guide(batch)
            with Record() as p:
                observe(model)(batch)
        if relaxed := [n for n, s in q.sites.items() if isinstance(s["fn"], Relaxed)]:
            raise ValueError(f"{kind} cannot score the relaxed {relaxed}; use the objective elbo")
        latent = {n: s for n, s in p.sites.items() if not s["is_observed"]}
        discrete = [n for n, s in latent.items() if s["fn"].support.is_discrete]
        if lost := [n for n in latent if n not in q.sites and n not in discrete]:
            raise ValueError(f"the guide does not sample {lost}, and {kind} would not say so")
        if self.scores:
            discrete = [n for n in discrete if n not in q.sites]
        outside = [n for n, s in (p.sites | q.sites).items() if not in_plate(s, model.plate)]
        if discrete and not isinstance(self.loss, infer.TraceEnum_ELBO):
            better = "renyi" if renyi else "elbo or traceenum_elbo"
            raise ValueError(f"{kind} cannot sum out the discrete latents {discrete}; use {better}")
        if renyi and outside:
            raise ValueError(
                f"RenyiELBO takes one weight over all datapoints where sites such as {outside} "
                "stand outside the data plate, which is another objective; use the objective renyi"
            )
        if isinstance(self.loss, infer.TraceMeanField_ELBO):
            shared = [n for n in q.sites if n in latent]
            moved = [n for n in shared if _jacobian(q.sites[n])]
            if moved or shared != [n for n in latent if n in q.sites]:
                raise ValueError(
                    f"TraceMeanField_ELBO drops the Jacobian of {moved or shared}, or needs them "
                    "in the model's order; use elbo"
                )
        done.add(case)


def _jacobian(site: Any) -> bool:
    """Whether a point-mass site carries a density that a closed-form KL would lose."""
    density = getattr(site["fn"], "log_density", None)
    return density is not None and bool((density != 0).any())


def _parameters(part: Any) -> list[nn.Parameter]:
    return list(part.parameters()) if isinstance(part, nn.Module) else []


def _announce(p: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
    """Tells a stock class that there are parameters, which it otherwise asks the store about."""

    def run(batch: Batch) -> Any:
        with LocalParams(nn.ParameterDict({"any": nn.Parameter(torch.zeros(()))}), {"any": REAL}):
            pyro.param("any")
        return p(batch)

    return run


REAL = constraints.real
