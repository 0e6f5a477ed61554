"""Parts of the conformance kit that look at a model; ``zoo.testing`` puts them together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.data import Batch
from zoo.exact import knows, log_evidence, posterior, responsibilities
from zoo.handlers import Record, in_plate, log_prob
from zoo.model import Model
from zoo.particles import drawn, log_joint, one_particle, simulate

SAFE = "write products with zoo.nets.affine(z, W) and look-ups with zoo.nets.select(table, y)"


def ensure(truth: Any, words: str) -> None:
    """An AssertionError in words where something does not hold."""
    if not bool(truth):
        raise AssertionError(words)


def close(got: Tensor, expected: Tensor, words: str, tol: float = 1e-6) -> None:
    """Equal shapes and values, to ``tol`` absolute and relative."""
    got, expected = got.detach(), expected.detach()
    torch.testing.assert_close(
        got, expected, rtol=tol, atol=tol, check_dtype=False, msg=lambda m: f"{words}\n{m}"
    )


@contextmanager
def explained(words: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes an AssertionError that says what was tried."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise AssertionError(f"{words}: {type(error).__name__}: {error}") from error


def check_particles(model: Model, batch: Batch) -> None:
    """Many particles in one run give what each gives alone."""
    rows, plate = len(batch), model.plate
    order = list(simulate(model, batch))
    for outer, inner in ((1, 1), (3, 4), (rows, rows)):
        words = f"with (S, K) = ({outer}, {inner}) particles the model"
        with Record() as seen:
            try:
                sites = simulate(model, batch, outer, inner)
            except (RuntimeError, ValueError, IndexError) as error:
                at = next((name for name in order if name not in seen.sites), order[-1])
                raise AssertionError(
                    f"{words} fails before site {at!r}; {SAFE}: {error}"
                ) from error
        for s, k in itertools.product(range(outer), range(inner)) if outer > 1 else ():
            given = {name: one_particle(site, plate, s, k) for name, site in drawn(sites).items()}
            alone = simulate(model, batch, given=given)
            for name, site in sites.items():
                told = f"{words} is wrong at site {name!r}; {SAFE}"
                with explained(told):
                    together, once = log_prob(site), log_prob(alone[name])
                    if in_plate(site, plate):
                        shape = (*together.shape[:-3], outer, inner, rows)
                        together = together.expand(shape)[..., s, k, :]
                        shape = (*together.shape[:-1], rows)
                        once = once.reshape(*once.shape[:-3], rows).expand(shape)
                    elif together.dim() > 2:
                        together = together.reshape(outer, -1).sum(-1)[s]
                        once = once.sum()
                    close(together, once, told)


def check_gradients(model: Model, batch: Batch) -> None:
    """The gradient of log p(x, z) reaches every parameter and is finite."""
    model.zero_grad()
    total = log_joint(simulate(model, batch), model.plate, 1, 1, len(batch)).sum()
    if total.requires_grad:
        total.backward()
    for name, parameter in model.named_parameters():
        slope = parameter.grad
        reached = slope is not None and bool(slope.any())
        ensure(reached or not parameter.requires_grad, f"no gradient reaches parameter {name!r}")
        ensure(slope is None or slope.isfinite().all(), f"the gradient of {name!r} is not finite")
    model.zero_grad()


@torch.no_grad()
def check_simulation(model: Model, batch: Batch) -> None:
    """What the model simulates has the data's shapes, and the model can score it."""
    with Record() as record:
        model.run(batch)
    sites = record.sites
    for name in set(batch.values) & set(sites):
        got, expected = tuple(sites[name]["value"].shape), tuple(batch[name].shape)
        ensure(got == expected, f"site {name!r} simulates shape {got}, the data have {expected}")
    simulated = {n: sites[n]["value"] if n in sites else v for n, v in batch.values.items()}
    again = simulate(model, replace(batch, values=simulated, observed={}))
    ensure(set(again) == set(sites), f"sites {sorted(sites)} simulated, {sorted(again)} scored")
    for name, site in again.items():
        ensure(log_prob(site).isfinite().all(), f"site {name!r} cannot score its own simulations")


@torch.no_grad()
def check_exact(model: Model, batch: Batch, num_particles: int = 4000) -> None:
    """log p(x, z) - log p(z | x) = log p(x) at any z; without a posterior, importance sampling."""
    shape = (1, num_particles, len(batch))
    evidence = log_evidence(model, batch) if knows(model, "log_evidence") else None
    latents = drawn(simulate(model, batch))
    outside = [name for name, site in latents.items() if not in_plate(site, model.plate)]
    ensure(not outside, f"p(x) of a row is not defined beside the global latents {outside}")
    told = "log_evidence(x) differs from"
    if not latents:
        sites = simulate(model, batch)
        h = log_joint(sites, model.plate, 1, 1, len(batch))[0]
    elif knows(model, "posterior"):
        q = posterior(model, batch)
        ensure(q.batch_shape == (len(batch),), f"posterior has batch shape {tuple(q.batch_shape)}")
        if not all(_is_real(site["fn"].support) for site in latents.values()):
            return  # then the posterior is that of mapped latents, and checked with a guide
        z = q.sample((num_particles,))  # (K, B, d)
        sites = simulate(model, batch, 1, num_particles, _unpacked(z, latents))
        h = log_joint(sites, model.plate, *shape)[0] - q.log_prob(z)
        close(h, h[:1].expand_as(h), "log p(x, z) - log posterior(x).log_prob(z) depends on z")
    elif evidence is not None:
        sites = simulate(model, batch, 1, num_particles)
        prior = torch.as_tensor(sum(log_prob(latent) for latent in drawn(sites).values()))
        h = log_joint(sites, model.plate, *shape)[0] - prior
        ratio = (h - evidence).exp()  # mean 1
        band = 6 * ratio.std(0) / num_particles**0.5 + 1e-6
        words = f"{told} {num_particles} draws from the prior by more than 6 standard errors"
        ensure(((ratio.mean(0) - 1).abs() < band).all(), f"{words}: {ratio.mean(0)} ± {band}")
        return
    if evidence is not None:
        close(evidence, h[0], f"{told} log p(x, z) - log p(z | x)")
    if knows(model, "responsibilities"):
        _check_responsibilities(model, batch, sites)


def _unpacked(z: Tensor, latents: Mapping[str, Any]) -> dict[str, Any]:
    """Values by site from latents side by side in (K, B, d)."""
    sizes = [site["fn"].event_shape.numel() for site in latents.values()]
    parts = zip(latents.items(), z.split(sizes, -1), strict=True)
    return {n: {"value": v.reshape(*v.shape[:-1], *s["fn"].event_shape)} for (n, s), v in parts}


def _check_responsibilities(model: Any, batch: Batch, sites: dict[str, Any]) -> None:
    """p(y | x) = E[p(y | x, z)] over draws of p(z | x), to 6 standard errors."""
    inside = torch.as_tensor(sum(log_prob(s) for s in sites.values()))  # (C, S, K, B)
    each = inside.reshape(inside.shape[0], -1, len(batch)).softmax(0)  # (C, K, B)
    got = responsibilities(model, batch).T
    band = 6 * each.std(1, correction=0) / each.shape[1] ** 0.5 + 1e-6
    ensure(got.shape == band.shape, f"responsibilities have shape {tuple(got.T.shape)}")
    told = "responsibilities(x) are not p(y | x) by enumeration"
    ensure(((got - each.mean(1)).abs() < band).all(), f"{told}: {got} against {each.mean(1)}")


def _is_real(support: Any) -> bool:
    """Whether a support is the whole of R^d."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is constraints.real
