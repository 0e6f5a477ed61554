"""Draws of q against draws of the posterior that are known to be right."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.context import seeded, stream
from zoo.diagnostics.against_exact import AgainstExact, against_exact
from zoo.diagnostics.c2st import Accuracy, c2st
from zoo.diagnostics.distances import Distance, distances

__all__ = ["Against", "AgainstExact", "against_exact", "against_reference"]

LEVELS = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Against:
    """q against a reference, unit by unit and as a whole.

    Attributes:
        names: of the U units, such as z[0].
        bias: (U,), (E_q − E_ref)/sd_ref.
        bias_error: (U,), its Monte-Carlo standard error, of both sets of draws.
        log_sd_ratio: (U,), log sd_q/sd_ref: below 0 where q is too narrow.
        log_sd_ratio_error: (U,).
        levels: of the quantiles.
        quantile_errors: (L, U), the share of q's draws at or below the reference's quantile, less
            the level.
        quantile_error: (L,), √(p (1 − p)(1/S + 1/R)), the standard error of each.
        wasserstein: sliced, on units divided by sd_ref.
        mmd: MMD², likewise.
        c2st: accuracy of classifiers.
        num_draws: S.
        num_reference: R.
        left_out: sites that only one side has.
        seed: of the halves, directions and folds.
    """

    names: tuple[str, ...]
    bias: Tensor
    bias_error: Tensor
    log_sd_ratio: Tensor
    log_sd_ratio_error: Tensor
    levels: tuple[float, ...]
    quantile_errors: Tensor
    quantile_error: Tensor
    wasserstein: Distance
    mmd: Distance
    c2st: tuple[Accuracy, ...]
    num_draws: int
    num_reference: int
    left_out: tuple[str, ...]
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "names": list(self.names),
            "bias": self.bias.tolist(),
            "bias_error": self.bias_error.tolist(),
            "log_sd_ratio": [v if math.isfinite(v) else None for v in self.log_sd_ratio.tolist()],
            "log_sd_ratio_error": self.log_sd_ratio_error.tolist(),
            "levels": list(self.levels),
            "quantile_errors": self.quantile_errors.tolist(),
            "quantile_error": self.quantile_error.tolist(),
            "wasserstein": self.wasserstein.as_dict(),
            "mmd": self.mmd.as_dict(),
            "c2st": [accuracy.as_dict() for accuracy in self.c2st],
            "num_draws": self.num_draws,
            "num_reference": self.num_reference,
            "left_out": list(self.left_out),
            "seed": self.seed,
        }


@torch.no_grad()
def against_reference(
    draws: Mapping[str, Any] | Tensor,
    reference: Mapping[str, Any] | Tensor,
    *,
    names: Sequence[str] | None = None,
    sd_floor: float = 0.0,
    reference_ess: float | None = None,
    most: int = 2000,
    halves: int = 20,
    permutations: int = 200,
    seed: int = 0,
) -> Against:
    """|E_q − E_ref|/sd_ref, log(sd_q/sd_ref), quantiles, two distances over their floor, and C2ST.

    Errors: of the bias √(sd_q²/S + sd_ref²/R)/sd_ref; of the log ratio of standard deviations
    √((κ_q − 1)/4S + (κ_ref − 1)/4R), κ the kurtosis. Every distance is divided by the same between
    two halves of the reference, so that 1 is what draws of the right distribution get.

    Args:
        draws: of q, site -> (S, *shape), or a tensor (S, U).
        reference: likewise, (R, *shape); several chains are put one after the other beforehand
            (``read_draws.pooled``).
        names: the sites to compare; by default all that both have. Of a tensor, the U units' names.
        sd_floor: a smaller sd_ref counts as this.
        reference_ess: effective number of the reference's draws, where they are not independent;
            it acts on the errors of moments and quantiles.
        most: draws of each side for the distances and classifiers, chosen at random.
        halves, permutations: see ``distances``.
        seed: of all random choices.

    Raises:
        ValueError: no site in common; other shapes; NaN or Inf; a unit that is constant in the
            reference with ``sd_floor`` 0; fewer than 50 draws.

    Reference: Magnusson et al., "posteriordb: Testing, Benchmarking and Developing Bayesian
    Inference Algorithms", 2024; Lueckmann et al., "Benchmarking Simulation-Based Inference", 2021.

    Example:
        >>> z = torch.randn(800, 2, generator=torch.Generator().manual_seed(0))
        >>> found = against_reference({"z": 0.5 * z[:400]}, {"z": z[400:]})
        >>> found.names, found.wasserstein.p < 0.05, bool((found.log_sd_ratio < -0.4).all())
        (('z[0]', 'z[1]'), True, True)
    """
    one, other = _by_site(draws), _by_site(reference)
    by_site = isinstance(draws, Mapping)
    chosen = list(names) if by_site and names else [site for site in other if site in one]
    if missing := [site for site in chosen if site not in one or site not in other]:
        raise ValueError(
            f"{missing} not on both sides: the draws have {list(one)}, the reference {list(other)}"
        )
    if not chosen:
        raise ValueError(
            f"no site in common: the draws have {list(one)}, the reference {list(other)}"
        )
    for site in chosen:
        if one[site].shape[1:] != other[site].shape[1:]:
            raise ValueError(
                f"site {site!r} has shape {tuple(one[site].shape[1:])} in the draws and "
                f"{tuple(other[site].shape[1:])} in the reference (after the number of draws)"
            )
    q, r = (_stacked(side, chosen) for side in (one, other))
    r = r.to(q.device)
    units = _unit_names(chosen, one, None if by_site else names)
    scale = r.std(0).clamp_min(sd_floor)
    if bool((scale == 0).any()):
        constant = [unit for unit, sd in zip(units, scale, strict=True) if sd == 0]
        raise ValueError(
            f"{constant} are constant in the reference; leave them out or give sd_floor"
        )
    count = float(reference_ess or len(r))
    levels = torch.tensor(LEVELS, dtype=q.dtype, device=q.device)
    places = (levels * len(r)).ceil().long() - 1
    edges = r.sort(0).values[places].unsqueeze(1)  # (L, 1, U)
    with seeded(stream(seed, "against reference"), q.device):
        some_q, some_r = (_some(side, most) / scale for side in (q, r))
        wasserstein, mmd = distances(some_q, some_r, halves, permutations)
    left_out = tuple(site for site in {**one, **other} if site not in chosen)
    return Against(
        names=units,
        bias=(q.mean(0) - r.mean(0)) / scale,
        bias_error=(q.var(0) / len(q) + r.var(0) / count).sqrt() / scale,
        log_sd_ratio=(q.std(0).clamp_min(sd_floor) / scale).log(),
        log_sd_ratio_error=(_noise(q) / len(q) + _noise(r) / count).sqrt(),
        levels=LEVELS,
        quantile_errors=(q <= edges).double().mean(1) - levels.unsqueeze(-1),
        quantile_error=(levels * (1 - levels) * (1 / len(q) + 1 / count)).sqrt(),
        wasserstein=wasserstein,
        mmd=mmd,
        c2st=c2st(some_q, some_r, seed),
        num_draws=len(q),
        num_reference=len(r),
        left_out=left_out,
        seed=seed,
    )


def _by_site(draws: Mapping[str, Any] | Tensor) -> dict[str, Tensor]:
    sites = dict(draws) if isinstance(draws, Mapping) else {"": draws}
    found = {name: torch.as_tensor(value).detach() for name, value in sites.items()}
    if bad := [name for name, value in found.items() if value.dim() == 0 or len(value) < 50]:
        raise ValueError(f"expected (S, *shape) with 50 draws or more of each site; not so: {bad}")
    return found


def _stacked(sites: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """(S, U) in float64."""
    if len({len(sites[name]) for name in names}) > 1:
        raise ValueError(f"other numbers of draws: { {n: len(sites[n]) for n in names} }")
    values = torch.cat([sites[name].double().reshape(len(sites[name]), -1) for name in names], 1)
    if not bool(values.isfinite().all()):
        raise ValueError("draws or reference have NaN or infinite values")
    return values


def _unit_names(
    sites: Sequence[str], shapes: Mapping[str, Tensor], given: Sequence[str] | None
) -> tuple[str, ...]:
    found = tuple(f"{s or 'z'}[{i}]" for s in sites for i in range(shapes[s][0].numel()))
    if given is None:
        return found
    if len(given) != len(found):
        raise ValueError(f"expected {len(found)} names of units, got {len(given)}")
    return tuple(given)


def _some(values: Tensor, most: int) -> Tensor:
    return values[torch.randperm(len(values), device=values.device)[:most]]


def _noise(x: Tensor) -> Tensor:
    """(κ − 1)/4: the variance of log sd times the number of draws."""
    square = (x - x.mean(0)).square()
    return (square.square().mean(0) / square.mean(0).square().clamp_min(1e-300) - 1).clamp_min(
        0
    ) / 4
