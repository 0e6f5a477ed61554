"""q(z | x): any family, with κ from any source, for any model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from guides.anew import anew
from guides.auto import auto_guide, has_density
from guides.density import distribution, log_prob
from guides.draws import made, sample, sample_local
from guides.family import Family
from guides.infer import infer
from guides.labels import baseline, classify, no_bound
from guides.layers import Structured
from guides.local import build_local, estimator_for
from guides.optimal import optimal
from guides.posterior import Posterior, posterior
from guides.source import Kappa, Source
from zoo.context import factory
from zoo.data import Batch, Dataset, as_dataset
from zoo.model import Model, as_model
from zoo.objectives.bounds import mean
from zoo.shares import divided
from zoo.sites import Latents, given_labels
from zoo.weights import log_weights


class Guide(nn.Module):
    """q(g) Π_n Ψ(z_n; κ_n): one family for the local latents, one for the global ones.

    The latents are found by one run of the model on the data. Discrete locals y are summed out
    exactly given z, or have a classifier: q(y | x) Ψ(z; κ(x, y)), see ``estimator``. Supports other
    than R^d are reached by ``biject_to`` with its Jacobian.

    Args:
        model: p, a ``Model`` or a plain Pyro function.
        data: the data set that q is for.
        family: Ψ, a word (``mean_field``, ``full_rank``, ``exact``, …) or a ``Family`` class.
        inference: where κ_n comes from, a word (``per_datapoint``, ``amortized``,
            ``semi_amortized``; ``bottom_up`` and ``top_down`` for several layers of latents) or a
            class; by default the one that the model names in ``inference``, else ``amortized``.
        estimator: how the gradient reaches q, a word of ``zoo list estimators``: of continuous
            latents such as ``pathwise``, ``stl``, ``dreg``; of discrete ones of the rows
            ``collapse``, no q(y | x), or with one such as ``enumerate``, ``vimco``, ``gumbel``; by
            default what the model names in ``estimator``, else ``collapse``.
        global_family: Ψ of the global latents, or the name of a Pyro AutoGuide
            (``AutoMultivariateNormal``).
        family_options, inference_options, estimator_options, classifier_options, global_options:
            keyword arguments of each; of the classifier, see ``guides.classifier``.

    Raises:
        ValueError: an unknown word (the nearest ones are named), ``exact`` for a model without a
            posterior, nested plates, a discrete global.

    Example:
        >>> from zoo.models.ppca import PPCA
        >>> x = torch.randn(20, 4)
        >>> model = PPCA(data_dim=4)
        >>> guide = Guide(model, x, family="full_rank", inference="per_datapoint")
        >>> guide.posterior(as_dataset(x).batch(), 5).samples["z"].shape
        torch.Size([5, 20, 2])
    """

    model: Model

    def __init__(
        self,
        model: Model | Callable[..., Any],
        data: Any,
        family: str | type[Family] = "mean_field",
        inference: str | type[Source | Structured] | None = None,
        *,
        estimator: str | None = None,
        global_family: str | type[Family] = "mean_field",
        family_options: Mapping[str, Any] | None = None,
        inference_options: Mapping[str, Any] | None = None,
        estimator_options: Mapping[str, Any] | None = None,
        classifier_options: Mapping[str, Any] | None = None,
        global_options: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        model, data = as_model(model), as_dataset(data)
        inference = inference or getattr(model, "inference", "amortized")
        self.__dict__["model"] = model  # p is not a part of q: no shared parameters in q's state
        head = next(data.batches(min(len(data), 97))).to(model.device)
        model.resolve(head)
        head = head.without(*(name for name in given_labels(model, data) if name in head))
        self.latents = Latents.find(model, head)
        estimator = estimator_for(model, data, self.latents, estimator)
        self.spec = {
            "family": family,
            "inference": inference,
            "estimator": estimator,
            "global_family": global_family,
            "family_options": dict(family_options or {}),
            "inference_options": dict(inference_options or {}),
            "estimator_options": dict(estimator_options or {}),
            "classifier_options": dict(classifier_options or {}),
            "global_options": dict(global_options or {}),
        }  # what a run on disk remembers of q
        with factory(model.device, model.dtype):
            parts = build_local(model, data, self.latents, self.spec)
            self.family, self.source, self.classifier, self.gradient, self.reader = parts
            self._build_global(head, global_family, global_options)
        self.to(device=model.device, dtype=model.dtype)

    def _build_global(self, batch, family, options) -> None:
        sites = self.latents.global_
        self.global_family: Family | None = None
        self.global_kappa: nn.Parameter | None = None
        self.auto: nn.Module | None = None
        self.auto_density = True
        if not sites.dim:
            return
        if isinstance(family, str) and family.startswith("Auto"):
            self.auto = auto_guide(self.model, family, sites.names, batch, options or {})
            self.auto_density = has_density(self.auto, batch)
            return
        options = {"init_scale": 0.1, **(options or {})}
        self.global_family = chosen = made(family, sites.dim, options)
        if not chosen.uses_kappa:
            raise ValueError("no model knows the exact posterior of its globals; use another")
        if not chosen.scores:
            raise ValueError(f"the family {family} is for local latents alone; use mean_field")
        start = chosen.initial()
        start[: sites.dim] += 0.1 * torch.randn(sites.dim)  # off the saddle points at zero
        self.global_kappa = nn.Parameter(start)  # (P,)

    @property
    def has_density(self) -> bool:
        """False where some part of q is a point mass: then no objective is a bound on log p(x)."""
        parts = [f for f in (self.family, self.global_family) if f is not None]
        return all(f.has_density for f in parts) and self.auto_density

    @property
    def scores(self) -> bool:
        """Whether ``log_prob`` of given local latents can be had."""
        return self.family is None or self.family.scores

    @property
    def amortized(self) -> bool:
        """Whether unseen rows need no optimisation."""
        return self.source is None or self.source.amortized

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Draws the latents that the batch lacks; returns them by name."""
        with factory(self.model.device, self.model.dtype):
            return self.draw(batch, self._source(batch))

    def _source(self, batch: Batch) -> Callable[..., Tensor]:
        source = self.source
        return (lambda _: torch.empty(0)) if source is None else Kappa(source, self._score)

    def _score(self, batch: Batch, kappa: Tensor) -> Tensor:
        """(B,): one noisy ELBO a datapoint at κ, hidden from every handler outside."""
        particles = getattr(self.source, "num_particles", 1)
        with poutine.block(), divided(batch, self.model):
            q = partial(self.draw, source=lambda _: kappa)
            weights = log_weights(self.model, q, batch, particles)
        return weights.bound(mean)[0]

    @property
    def refines(self) -> bool:
        """Whether ``refined`` draws from more than q: from a Markov chain that starts there."""
        return self.family is not None and self.family.refines

    def refined(self, batch: Batch) -> dict[str, Tensor]:
        """Draws as ``forward`` does, the local ones moved on where the family has a chain."""
        with factory(self.model.device, self.model.dtype):
            return self.draw(batch, self._source(batch), refined=True)

    def draw(
        self, batch: Batch, source: Callable[..., Tensor], refined: bool = False
    ) -> dict[str, Tensor]:
        """Samples every latent, with κ of the local ones from ``source``."""
        values: dict[str, Tensor] = {}
        if self.auto is not None:
            with pyro.settings.context(module_local_params=True):
                values |= self.auto(batch)
        elif self.global_family is not None:
            q = self.global_family(self.global_kappa)
            values |= sample("_global", q, self.latents.global_, self.global_family)
        if self.family is not None or self.classifier is not None:
            local = self.latents.vectors, self.family
            values |= sample_local(*local, self.model, batch, source, refined, self.classifier)
        return values

    def distribution(self, batch: Batch) -> dist.TorchDistribution:
        """q over the packed, unconstrained local latents. See ``guides.density``."""
        return distribution(self, batch)

    def log_prob(self, batch: Batch, latents: Mapping[str, Tensor]) -> Tensor:
        """log q(z | x) of given local latents (..., B, *event) -> (..., B), in nats."""
        return log_prob(self, batch, latents)

    def log_prob_global(self, latents: Mapping[str, Tensor]) -> Tensor:
        """log q(g) of given global latents (..., *event) -> (...), in nats."""
        if self.global_family is None or self.global_kappa is None:
            raise ValueError("no global latents with a density of ours (an AutoGuide has its own)")
        raw, log_jacobian = self.latents.global_.pack(latents)
        q, density = self.global_family(self.global_kappa), self.global_family.has_density
        return q.log_prob(raw) - (log_jacobian if density else 0)

    def classify(self, batch: Batch) -> dict[str, Tensor]:
        """q(y = c | x) of every discrete latent of the rows, (B, C). See ``guides.labels``."""
        return classify(self, batch)

    def no_bound(self, data: Dataset) -> str:
        """What in q makes a training loss no bound on log p(x); empty where nothing does."""
        return no_bound(self, data)

    def baseline(self, h: Tensor, batch: Batch) -> tuple[Any, Any]:
        """What ``score`` subtracts from log weights h (S, K, B), and the loss that trains it."""
        return baseline(self, h, batch)

    def posterior(self, batch: Batch, num_samples: int = 1000) -> Posterior:
        """Named draws of q for the rows of a batch. See ``guides.posterior``."""
        return posterior(self, batch, num_samples)

    def infer(self, data: Any, **options: Any) -> Guide:
        """A guide for unseen rows, the model and everything trained left as they are.

        An encoder is applied as it is; a table is optimised with the model frozen. See
        ``guides.infer``.
        """
        return infer(self, as_dataset(data), **options)

    def optimal(self, data: Any, **options: Any) -> Guide:
        """A guide with the best q of the family for each row. See ``guides.optimal``."""
        return optimal(self, as_dataset(data), **options)

    def anew(self, data: Any) -> Guide:
        """An untrained guide of the same kind, for other data. See ``guides.anew``."""
        return anew(self, as_dataset(data))

    def with_source(self, source: Source) -> Self:
        """The same guide, sharing everything but where κ comes from."""
        other = type(self).__new__(type(self))
        nn.Module.__init__(other)
        other.__dict__.update({k: v for k, v in self.__dict__.items() if k != "_modules"})
        other._modules = {**self._modules, "source": source}
        return other
