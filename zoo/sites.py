"""The latents of a model: found by one run, packed into one vector and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from pyro import poutine
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import MixtureSameFamilyConstraint
from torch.distributions.transforms import CorrCholeskyTransform
from torch.nn.functional import softplus

from zoo.data import Batch, Dataset
from zoo.handlers import Record, in_plate
from zoo.model import Model, observe


@dataclass(frozen=True)
class Site:
    """One continuous latent: its shape per draw, its support, and its size as a real vector."""

    name: str
    shape: torch.Size  # the event shape; for a global in a plate, the plate's size before it
    event_dim: int
    support: Any
    raw_shape: torch.Size  # the shape after the map to the whole real space

    @property
    def size(self) -> int:
        """How many real numbers a draw takes."""
        return self.raw_shape.numel()

    @property
    def plated(self) -> bool:
        """Whether the site stands in a plate of its own (global latents of plain functions)."""
        return len(self.shape) > self.event_dim

    @classmethod
    def of(cls, site: Any, local: bool) -> Site:
        """From a recorded sample site. ValueError for a local one with bounds for each row."""
        fn, support = site["fn"], site["fn"].support
        if isinstance(support, MixtureSameFamilyConstraint):
            support = support.base_constraint  # the same for every component
        batch = torch.Size() if local or not site["cond_indep_stack"] else fn.batch_shape
        shape = batch + fn.event_shape
        if local and _bounds_by_row(support, fn.event_dim):
            raise ValueError(
                f"latent {site['name']!r} has a support of its own in each row; draw it on a fixed "
                "one, such as u ~ Uniform(0, 1), and scale it in the model"
            )
        transform = biject_to(support)
        return cls(site["name"], shape, fn.event_dim, support, transform.inverse_shape(shape))


class Sites:
    """Continuous latents side by side in one vector of ``dim`` real numbers."""

    def __init__(self, sites: list[Site]):
        self.sites = tuple(sites)
        self.dim = sum(site.size for site in sites)
        only = sites[0] if len(sites) == 1 else None
        real = only is not None and _is_real(only.support)
        self.identity = real and only.event_dim == 1 and not only.plated  # type: ignore[union-attr]

    @property
    def names(self) -> tuple[str, ...]:
        """The sites' names, in the order of the packed vector."""
        return tuple(site.name for site in self.sites)

    def unpack(self, raw: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Values by site, and each site's log |dz/du|, from u (..., dim)."""
        values, log_jacobians, start = {}, {}, 0
        for site in self.sites:
            part = raw[..., start : start + site.size]
            part = part.reshape(raw.shape[:-1] + site.raw_shape)
            start += site.size
            transform = biject_to(site.support)
            value = transform(part)
            log_jacobian = log_abs_det(transform, part, value)
            extra = log_jacobian.dim() - (raw.dim() - 1)
            log_jacobians[site.name] = sum_rightmost(log_jacobian, extra)
            if site.plated and raw.dim() > 1:  # the plate takes the place of the data dimension
                value = value.squeeze(raw.dim() - 2)
            values[site.name] = value
        return values, log_jacobians

    def pack(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """u (..., dim) and the summed log |dz/du| (...) from values by site."""
        parts: list[Tensor] = []
        total: Any = 0.0
        for site in self.sites:
            if site.name not in values:
                raise ValueError(f"no value for the latent {site.name!r}; need {self.names}")
            value = values[site.name]
            transform = biject_to(site.support)
            lead = value.shape[: value.dim() - len(site.shape)]
            raw = transform.inv(value)
            log_jacobian = log_abs_det(transform, raw, value)
            total = total + sum_rightmost(log_jacobian, log_jacobian.dim() - len(lead))
            parts.append(raw.reshape(*lead, site.size))
        return torch.cat(parts, -1), total

    def only(self, site: Site) -> Self:
        """One of the sites by itself."""
        return type(self)([site])


class BitSites(Sites):
    """Binary vectors side by side in one of ``dim`` zeros and ones; there is no map, z = u."""

    def unpack(self, raw: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        parts = raw.split([site.size for site in self.sites], -1)
        values = dict(zip(self.names, parts, strict=True))
        return values, {name: raw.new_zeros(raw.shape[:-1]) for name in self.names}

    def pack(self, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        if lost := [name for name in self.names if name not in values]:
            raise ValueError(f"no value for the latents {lost}; need {self.names}")
        raw = torch.cat([values[name] for name in self.names], -1)
        return raw, raw.new_zeros(raw.shape[:-1])


@dataclass(frozen=True)
class Latents:
    """What is hidden in a model, given a batch.

    Attributes:
        local: continuous latents of the rows.
        global_: those of all rows together.
        discrete: latents of the rows with a few values each, such as labels.
        classes: by discrete latent, how many values it has.
        bits: binary vectors of the rows.
    """

    local: Sites
    global_: Sites
    discrete: tuple[str, ...]
    classes: Mapping[str, int]
    bits: Sites

    @property
    def names(self) -> tuple[str, ...]:
        """Every latent, which no encoder reads."""
        return (*self.local.names, *self.bits.names, *self.discrete, *self.global_.names)

    @property
    def vectors(self) -> Sites:
        """The latents of the rows that a family is of: continuous ones, or bits."""
        return self.local if self.local.dim else self.bits

    @classmethod
    def find(cls, model: Model, batch: Batch) -> Latents:
        """One run of the model, conditioned on the batch; every site that stays free is a latent.

        Raises:
            ValueError: a discrete latent outside the data plate, or without a finite support; bits
                beside continuous latents or labels of the rows; a nested plate; each by name.
        """
        with poutine.block(), Record() as record, torch.no_grad():
            observe(model)(batch)
        local, global_, bits, discrete = [], [], [], {}
        for name, site in record.sites.items():
            if site["is_observed"]:
                continue
            inside = in_plate(site, model.plate)
            if inside and len(site["cond_indep_stack"]) > 1:
                plates = [frame.name for frame in site["cond_indep_stack"]]
                raise ValueError(
                    f"latent {name!r} stands in the nested plates {plates}; only the data plate is "
                    "supported: write the other dimensions with .to_event(...)"
                )
            if inside and is_bits(site["fn"]):
                shape = site["fn"].event_shape
                bits.append(Site(name, shape, len(shape), site["fn"].support, shape))
            elif site["fn"].support.is_discrete:
                if not inside or not site["fn"].has_enumerate_support:
                    where = "outside the data plate" if not inside else "without a finite support"
                    raise ValueError(
                        f"discrete latent {name!r} {where} cannot be enumerated; sum it out in the "
                        "model or make it continuous"
                    )
                discrete[name] = len(site["fn"].enumerate_support(expand=False))
            else:
                (local if inside else global_).append(Site.of(site, inside))
        found = cls(Sites(local), Sites(global_), tuple(discrete), discrete, BitSites(bits))
        if bits and (others := [*found.local.names, *discrete]):
            raise ValueError(
                f"the binary vectors {list(found.bits.names)} stand beside {others} of each row; q "
                "is of rows whose latents are all binary vectors, or none; write a few bits as "
                "Bernoulli sites of their own, without .to_event: then they are labels"
            )
        return found


def is_bits(fn: Any) -> bool:
    """Whether a distribution is of vectors of zeros and ones, drawn as one: event shape (d,)."""
    support = getattr(fn.support, "base_constraint", fn.support)
    return support is constraints.boolean and fn.event_dim == 1


def given_labels(model: Model, data: Dataset) -> list[str]:
    """The labels that rows of these data come with, some or all, and that new rows will lack."""
    return [name for name in dict.fromkeys((*model.labels, *data.given)) if name in data.names]


def log_abs_det(transform: Any, raw: Tensor, value: Tensor) -> Tensor:
    """log |dz/du|, also where a correlation nears ±1.

    torch takes 1 - Σ_j L_ij² of a Cholesky factor, which rounds to 0. From u itself, with
    z = tanh u: Σ_ij (1 + (i-1-j)/2) log(1 - z_ij²), and log(1 - z²) = 2 (log 2 - |u| - log(1 +
    exp(-2|u|))) for every u.
    """
    base = getattr(transform, "base_transform", transform)
    if not isinstance(base, CorrCholeskyTransform):
        return transform.log_abs_det_jacobian(raw, value)
    size = value.shape[-1]
    row, column = torch.tril_indices(size, size, -1, device=raw.device)
    log_rest = 2 * (math.log(2) - raw.abs() - softplus(-2 * raw.abs()))
    log_det = (log_rest * (1 + (row - 1 - column) / 2)).sum(-1)
    extra: int = transform.domain.event_dim - base.domain.event_dim
    return torch.as_tensor(sum_rightmost(log_det, extra))


def _is_real(support: Any) -> bool:
    """Whether a support is the whole of R^d."""
    base = getattr(support, "base_constraint", support)
    return base is constraints.real or support is constraints.real_vector


def _bounds_by_row(support: Any, event_dim: int) -> bool:
    """Whether a constraint holds tensors with a dimension for the rows."""
    support = getattr(support, "base_constraint", support)
    held = [v for v in vars(support).values() if isinstance(v, Tensor)]
    return any(v.dim() > event_dim and v.shape[-1 - event_dim] > 1 for v in held)
