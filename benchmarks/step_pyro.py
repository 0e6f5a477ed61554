"""The rival of `step_time` that is written in stock Pyro, as its tutorials write it.

``pyro.module``, a subsampled plate, ``SVI`` with ``Trace_ELBO`` and ``pyro.optim.Adam``. A mixture
takes ``TraceEnum_ELBO`` with an enumerated site. ``RenyiELBO`` has the minibatch scale inside its
log-mean-exp, so its plate is of the batch alone. A table takes two optimizers, which ``SVI`` does
not, so that case has the loop of Pyro's ``svi_torch`` example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.transforms.planar import ConditionedPlanar
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO
from torch import Tensor
from torch.nn import functional as F

from benchmarks.step_cases import LR, Case
from benchmarks.step_torch import ByHand, wait


class Programs:
    """The model, the guide and the bound of a case; the programs take the rows ``index``."""

    def __init__(self, case: Case):
        self.case = case
        self.parts = ByHand(case)  # of which only weights and data are used
        if case.model == "gmm":
            self.elbo: Any = TraceEnum_ELBO(max_plate_nesting=1)
        elif case.particles == 1:
            self.elbo = Trace_ELBO(max_plate_nesting=1)
        else:
            how = {"num_particles": case.particles, "vectorize_particles": True}
            self.elbo = RenyiELBO(alpha=0, max_plate_nesting=1, **how)

    def rows(self, index: Tensor) -> Any:
        """The plate of the rows of a step."""
        if self.case.particles > 1:
            return pyro.plate("data", len(index), dim=-1)
        return pyro.plate("data", self.case.rows, subsample=index, dim=-1)

    def model(self, index: Tensor) -> None:
        """p(x, z)."""
        case, p, x = self.case, self.parts.decoder, self.parts.data[index]
        pyro.module("decoder", p)
        if case.model == "gmm":
            self.mixture(index, x)
            return
        with self.rows(index):
            z = pyro.sample("z", dist.Normal(x.new_zeros(case.latent), 1.0).to_event(1))
            if case.model == "ppca":
                loc = z @ p.weight.mT + p.mean
                pyro.sample("x", dist.Normal(loc, p.log_scale.exp()).to_event(1), obs=x)
            else:
                pyro.sample("x", dist.Bernoulli(logits=p(z)).to_event(1), obs=x)

    def mixture(self, index: Tensor, x: Tensor) -> None:
        """p(x, y)."""
        p, L = self.parts.decoder, self.parts.scale_tril()
        with self.rows(index):
            y = pyro.sample("y", dist.Categorical(logits=p.logits), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.MultivariateNormal(p.loc[y], scale_tril=L[y]), obs=x)

    def guide(self, index: Tensor) -> None:
        """q(z | x)."""
        case, parts = self.case, self.parts
        if case.guide == "none":
            return
        if case.guide != "table":
            pyro.module("encoder", parts.encoder)
        kappa = parts.kappa(parts.data[index], index)
        loc, raw = kappa[:, : 2 * case.latent].chunk(2, -1)
        q: Any = dist.Normal(loc, F.softplus(raw)).to_event(1)
        if case.guide == "planar":
            folds = [ConditionedPlanar((b, u, w)) for w, u, b in parts.folds(kappa)]
            q = dist.TransformedDistribution(q, folds)
        with self.rows(index):
            pyro.sample("z", q)

    def loss(self, index: Tensor) -> Tensor:
        """Nats per datapoint of the rows ``index``, to be differentiated."""
        return self.elbo.differentiable_loss(self.model, self.guide, index) / self.case.rows


def stock(case: Case, validate: bool) -> Callable[[], None]:
    """A call that takes the steps of ``case.order``, with Pyro's checks on or off.

    Its parameters are kept apart from those of other cases.
    """
    programs, order = Programs(case), torch.from_numpy(case.order).to(case.device)
    adam = pyro.optim.Adam({"lr": LR})  # type: ignore[attr-defined]
    svi = SVI(programs.model, programs.guide, adam, programs.elbo)
    optimizers = programs.parts.optimizers() if case.guide == "table" else []
    store, kept = pyro.get_param_store(), {"params": {}, "constraints": {}}

    def by_two(index: Tensor) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        programs.loss(index).backward()
        for optimizer in optimizers:
            optimizer.step()

    step = by_two if optimizers else svi.step

    def run() -> None:
        nonlocal kept
        with pyro.validation_enabled(validate), store.scope(kept) as kept:
            for index in order:
                step(index)
            wait(case.device)

    return run
