"""Effect handlers that put conditioning, scales, particles and enumeration on a model from outside.

A model says only how data come about. Everything else is added here, and acts on the sites inside
the data plate alone, so that a global latent is never scaled, tempered or copied per datapoint.
Dimensions are counted from the right: data -1, inner particles -2, outer particles -3,
enumeration from -4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import scale_and_mask
from pyro.infer.util import is_validation_enabled
from pyro.poutine.messenger import Messenger
from torch import Tensor

MAX_STATES = 1024


def in_plate(message: Any, plate: str) -> bool:
    """Whether a site stands inside the plate of that name."""
    return any(frame.name == plate for frame in message["cond_indep_stack"])


def is_site(message: Any) -> bool:
    """Whether a message is a random variable (a plate announces itself as a sample, too)."""
    return isinstance(message["fn"], TorchDistributionMixin)


def is_latent(message: Any) -> bool:
    """Whether a message is a random choice that nobody has made yet."""
    return is_site(message) and not message["is_observed"] and message["value"] is None


def is_data(site: Any) -> bool:
    """Whether a recorded site is an observation, and no deterministic site or factor."""
    fixed = (site["infer"] or {}).get("_deterministic", False)
    return site["is_observed"] and not fixed and site["fn"].event_shape.numel() > 0


class Record(Messenger):
    """Keeps every sample site as it ran: the distribution, the value, the plates."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Any] = {}

    def _pyro_post_sample(self, message: Any) -> None:
        if is_site(message):
            if message["name"] in self.sites:
                raise ValueError(
                    f"site {message['name']!r} is sampled twice; give each site its own name"
                )
            self.sites[message["name"]] = dict(message)

    def _pyro_param(self, message: Any) -> None:
        home = getattr(message["fn"], "__self__", None)
        if message["value"] is None and home is pyro.get_param_store():
            where = "would stand in Pyro's global store, where nothing here trains it"
            name = message["name"]
            raise ValueError(f"parameter {name!r} {where}; make it an nn.Parameter of a module")


def log_prob(site: Any) -> Tensor:
    """log p of a recorded site, its own scale and mask applied; shape: the site's batch shape."""
    if "held" in site:  # as it was while q's parameters were held
        return site["held"]
    value = site["fn"].log_prob(site["value"])
    return scale_and_mask(value, site["scale"], site["mask"])


class Observe(Messenger):
    """Conditions sites on the rows of a batch, and integrates out the entries that are missing."""

    def __init__(self, values: Mapping[str, Tensor], masks: Mapping[str, Tensor], rows: int):
        super().__init__()
        self.values, self.masks, self.rows = values, masks, rows
        self.seen: set[str] = set()
        self.sites: list[str] = []

    def _pyro_sample(self, message: Any) -> None:
        if not is_site(message):
            return
        name = message["name"]
        self.sites.append(name)
        if name in self.values:
            if message["is_observed"]:
                raise ValueError(
                    f"site {name!r} already has obs= in the model; wrap the function in "
                    "zoo.plain(...) or drop obs="
                )
            message["value"] = self._fitting(name, self.values[name], message["fn"])
            message["is_observed"] = True
            self.seen.add(name)
        if message["is_observed"] and is_validation_enabled():
            _check_values(name, message["value"], message["fn"])
        if name in self.masks and message["is_observed"]:
            message["fn"] = _masked(name, message["fn"], self.masks[name])
            self.seen.add(name)

    def _fitting(self, name: str, value: Tensor, fn: Any) -> Tensor:
        expected = (self.rows, *fn.event_shape)
        if tuple(value.shape) != expected:
            raise ValueError(
                f"site {name!r} expects values of shape {expected} (rows, then the event shape "
                f"{tuple(fn.event_shape)} of its distribution), but the batch has "
                f"{tuple(value.shape)}; check the model's dimensions (data_dim) or the data"
            )
        return value


def _check_values(name: str, value: Tensor, fn: Any) -> None:
    """Refuses what no distribution could score, by name and row."""
    bad = ~torch.isfinite(value) if value.is_floating_point() else None
    if bad is not None and bool(bad.any()):
        rows = bad.reshape(*value.shape[:1], -1).any(-1).nonzero().flatten()[:5].tolist()
        raise ValueError(
            f"site {name!r} has NaN or Inf in rows {rows} of the batch; drop those rows, "
            "or load the data with missing=True to integrate missing entries out"
        )
    fn = _base(fn)
    support = getattr(fn.support, "base_constraint", fn.support)  # of one number, to name it
    inside = support.check(value)
    if not bool(inside.all()):
        outside = value[~inside] if inside.shape == value.shape else value
        help = "rescale the data or choose a likelihood made for such data"
        raise ValueError(
            f"site {name!r} has values outside the support {support} of its distribution, such as "
            f"{outside.flatten()[0].item():g}; {getattr(fn, 'support_help', help)}"
        )


def _base(fn: Any) -> Any:
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return fn


def _masked(name: str, fn: Any, mask: Tensor) -> Any:
    """The distribution of the observed entries: the others are integrated out."""
    if tuple(mask.shape[1:]) != tuple(fn.event_shape):
        raise ValueError(
            f"the mask of site {name!r} has event shape {tuple(mask.shape[1:])}, "
            f"the site has {tuple(fn.event_shape)}"
        )
    if not (base := _base(fn)).event_shape:
        return base.mask(mask).to_event(fn.event_dim)  # type: ignore[attr-defined]
    if hasattr(fn, "marginal"):
        return fn.marginal(mask)
    raise ValueError(
        f"site {name!r} has missing entries, but its {type(fn).__name__} does not factorise over "
        "them and has no marginal(mask); use a likelihood written with .to_event(...), such as a "
        "diagonal covariance, or drop the rows with missing entries"
    )


class InPlateScale(Messenger):
    """Multiplies log-probabilities inside the data plate (N/B of a minibatch), and only those."""

    def __init__(self, scale: float, plate: str, observed_only: bool = False):
        super().__init__()
        self.scale, self.plate, self.observed_only = scale, plate, observed_only

    def _pyro_sample(self, message: Any) -> None:
        if in_plate(message, self.plate) and (message["is_observed"] or not self.observed_only):
            message["scale"] = message["scale"] * self.scale


class Temper(InPlateScale):
    """p(x, z)^β: the likelihood inside the data plate raised to a power, the prior untouched."""

    def __init__(self, beta: float, plate: str = "data"):
        super().__init__(beta, plate, observed_only=True)


class Particles(Messenger):
    """Draws (S, K) particles of every local latent and S of every global one, in one run.

    A local site of batch shape (B,) becomes (S, K, B), a global one of shape G becomes (S, 1, G)
    with G padded to one dimension; nothing is added where S = K = 1.
    """

    def __init__(self, outer: int, inner: int, plate: str):
        super().__init__()
        self.outer, self.inner, self.plate = outer, inner, plate

    def _pyro_sample(self, message: Any) -> None:
        if not is_latent(message) or self.outer == self.inner == 1:
            return
        fn = message["fn"]
        if in_plate(message, self.plate):
            shape = (self.inner, fn.batch_shape[-1])
            shape = (self.outer, *shape) if self.outer > 1 else shape
        elif self.outer > 1:
            shape = (self.outer, 1, *(fn.batch_shape[-1:] or (1,)))
        else:
            return
        message["fn"] = fn.expand(torch.broadcast_shapes(shape, fn.batch_shape))


class Replay(Messenger):
    """Gives latents the values a guide has drawn, or relaxed, or functions of the distribution."""

    def __init__(self, sites: Mapping[str, Any]):
        self.sites = sites

    def _pyro_sample(self, message: Any) -> None:
        if is_latent(message) and (site := self.sites.get(message["name"])):
            value, fn = site["value"], site.get("fn")
            message["value"] = value(message["fn"]) if callable(value) else value
            message["fn"] = fn.against(message["fn"]) if hasattr(fn, "against") else message["fn"]
            message["infer"] = {**(message["infer"] or {}), "_replayed": True}


class Enumerate(Messenger):
    """Runs through every value of the discrete latents inside the data plate.

    Each takes a dimension of its own, from -4 to the left. In a guide only sites marked
    ``infer={"enumerate": "parallel"}`` are enumerated; in a model every one that is left over.
    """

    def __init__(self, plate: str, marked_only: bool = False, used: int = 0):
        super().__init__()
        self.plate, self.marked_only, self.used = plate, marked_only, used
        self.sizes: dict[str, int] = {}

    def _pyro_sample(self, message: Any) -> None:
        if not is_latent(message) or not in_plate(message, self.plate):
            return
        fn = message["fn"]
        marked = (message["infer"] or {}).get("enumerate") == "parallel"
        if not getattr(fn, "has_enumerate_support", False) or (self.marked_only and not marked):
            return
        support = fn.enumerate_support(expand=False)
        value = support.reshape((len(support),) + (1,) * (3 + self.used) + tuple(fn.event_shape))
        self.used += 1
        self.sizes[message["name"]] = len(support)
        states = torch.Size(self.sizes.values()).numel()
        if states > MAX_STATES:
            raise ValueError(
                f"enumeration of {self.sizes} takes {states} joint states a datapoint, more than "
                f"{MAX_STATES}; make fewer sites discrete or give the guide a distribution for them"
            )
        message["value"] = value
        message["infer"] = {**(message["infer"] or {}), "_enumerated": True}
