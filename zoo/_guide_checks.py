"""Parts of the conformance kit that look at a guide; ``zoo.testing`` puts them together."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from zoo._model_checks import close, ensure, explained
from zoo.context import seeded
from zoo.data import Batch
from zoo.exact import knows, log_evidence
from zoo.handlers import Enumerate, Particles, Record
from zoo.model import Model
from zoo.objectives.bounds import elbo
from zoo.particles import drawn, one_particle, simulate
from zoo.weights import LogWeights, _weigh, log_weights

NUM_PARTICLES = 2000


def weigh(model: Model, guide: Any, batch: Batch) -> LogWeights:
    """Log weights at one seeded draw."""
    with torch.no_grad(), seeded(1, model.device):
        return log_weights(model, guide, batch)


def check_construction(model: Model, guide: Any, batch: Batch) -> None:
    """Every parameter is there before the first call, so that a saved guide can be loaded."""
    before = {name: p.shape for name, p in guide.named_parameters()}
    with explained("the guide does not run on a batch of its data"):
        weigh(model, guide, batch)
    after = {name: p.shape for name, p in guide.named_parameters()}
    late = sorted(set(after.items()) - set(before.items()))
    ensure(not late, f"{late} appear at the first call; make every parameter in __init__")


@torch.no_grad()
def check_particles(model: Model, guide: Any, batch: Batch) -> None:
    """Log weights are finite, of shape (S, K, B), and those of each particle alone."""
    rows, plate = len(batch), model.plate
    for outer, inner in ((1, 1), (3, 4), (rows, rows)):
        words = f"with (S, K) = ({outer}, {inner}) particles the log weights"
        with explained(f"{words} cannot be computed"):
            outer_now = outer if weigh(model, guide, batch).has_globals else 1
            weights = log_weights(model, guide, batch, inner, outer_now)
        shape = tuple(weights.local.shape[-3:])
        ensure(shape == (outer_now, inner, rows), f"{words} have shape {shape}")
        ensure(weights.global_.shape == (outer_now,), f"{words} have a wrong global part")
        ensure(weights.local.isfinite().all(), f"{words} are not finite")
    with Record() as record, Particles(3, 4, plate), Enumerate(plate, marked_only=True):
        guide(batch.unscaled())
    # Point masses follow from the sites before them; κ may be random, so it is seeded as well.
    sites = {n: s for n, s in drawn(record.sites).items() if not hasattr(s["fn"], "log_density")}
    together = _seeded_weigh(model, guide, batch, 4, 3, sites)
    for s, k in itertools.product(range(3), range(4)):
        given = {name: one_particle(site, plate, s, k) for name, site in sites.items()}
        alone = _seeded_weigh(model, guide, batch, 1, 1, given)
        for part in ("local", "log_q"):
            got, expected = (
                getattr(together, part)[..., s, k, :],
                getattr(alone, part)[..., 0, 0, :],
            )
            close(got, expected, f"{part} of many particles is not that of each alone")
        for part in ("global_", "log_q_global"):
            got, expected = getattr(together, part)[s], getattr(alone, part)[0]
            close(got, expected, f"{part} of many draws of the globals is not that of each alone")


def _seeded_weigh(model: Model, guide: Any, batch: Batch, k: int, s: int, given: Any) -> LogWeights:
    with seeded(2, model.device):
        return _weigh(model, guide, batch, k, s, given=given)


def check_gradients(model: Model, guide: Any, batch: Batch) -> None:
    """The gradient of the ELBO reaches every parameter of the guide and is finite."""
    if getattr(getattr(guide, "family", None), "is_state", False):
        return  # of a Markov chain, which takes none
    guide.zero_grad()
    loss = elbo(model, guide, batch, num_particles=4)
    if loss.requires_grad:
        loss.backward()
    for name, parameter in guide.named_parameters():
        slope = parameter.grad
        slope = None if slope is None else slope.to_dense()
        reached = slope is not None and bool(slope.any())
        ensure(reached or not parameter.requires_grad, f"no gradient reaches parameter {name!r}")
        ensure(slope is None or slope.isfinite().all(), f"the gradient of {name!r} is not finite")
    guide.zero_grad()
    model.zero_grad()


@torch.no_grad()
def check_densities(model: Model, guide: Any, batch: Batch) -> None:
    """``log_prob`` of the guide's own draws is the log q that they were drawn with."""
    if not hasattr(guide, "log_prob"):
        return
    weights = weigh(model, guide, batch)
    local = {n: v for n, v in weights.values.items() if n not in weights.globals}
    if not getattr(guide, "scores", True):
        try:
            guide.log_prob(batch, local)
        except ValueError as error:
            ensure("cannot score a given z" in str(error), f"log_prob is refused by {error}")
            return
        raise AssertionError("a guide that does not score a given z has to refuse log_prob")
    if not local or weights.log_q_enum is not None:
        return
    got = []
    for seed in (1, 2):
        with seeded(seed, model.device):
            got.append(guide.log_prob(batch, local))
    density = getattr(guide, "has_density", True)
    if weights.has_globals and not (density and torch.equal(*got)):
        return  # κ may be random, and the draw of the globals came before it
    log_q = weights.log_q.reshape(-1, len(batch))[0]
    close(got[0], log_q, "log_prob of a draw is not the log q it was drawn with")


@torch.no_grad()
def check_bound(model: Model, guide: Any, batch: Batch) -> None:
    """mean_k log w_k ≤ log p(x) to 6 standard errors; equality where q is the exact posterior."""
    if not knows(model, "log_evidence") or not getattr(guide, "has_density", True):
        return
    h = log_weights(model, guide, batch, NUM_PARTICLES).expected[0]  # (K, B)
    evidence = log_evidence(model, batch)
    se = h.std(0) / NUM_PARTICLES**0.5
    above = h.mean(0) - evidence - 6 * se
    ensure((above < 1e-6).all(), f"the ELBO is above log p(x) by {above.max():.3g} and 6 se")
    if not list(guide.parameters()):
        close(h, evidence.expand_as(h), "log weights of the exact posterior are not log p(x)")


@torch.no_grad()
def check_posterior(model: Model, guide: Any, batch: Batch) -> None:
    """``posterior`` names every latent, with shapes (S, B, *event) and (S, *event)."""
    if not hasattr(guide, "posterior"):
        return
    q = guide.posterior(batch, 7)
    weights = weigh(model, guide, batch)
    latents = {n for n, site in simulate(model, batch).items() if not site["is_observed"]}
    ensure(latents == set(q.samples), f"draws of {sorted(q.samples)} for {sorted(latents)}")
    for name, value in q.samples.items():
        lead = (7,) if name in weights.globals else (7, len(batch))
        ensure(tuple(value.shape[: len(lead)]) == lead, f"draws of {name!r}: {tuple(value.shape)}")
    ensure(q.log_q.shape == (7, len(batch)), f"log_q has shape {tuple(q.log_q.shape)}")
