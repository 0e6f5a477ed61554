"""Missing entries filled in from p(x_mis | x_obs), by importance resampling or pseudo-Gibbs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.context import seeded, stream, validation
from zoo.data import Batch, Dataset, as_dataset
from zoo.handlers import Record, Replay
from zoo.model import Model, as_model
from zoo.weights import log_weights

REGIONS = ("random", "top", "bottom", "left", "right", "centre")


@dataclass(frozen=True)
class Imputation:
    """What the missing entries may be; observed entries are as they were.

    Attributes:
        mean: (N, *event), E[x_mis | x_obs].
        samples: (S, N, *event), draws of x_mis | x_obs.
        ess: (N,), the effective number of the K proposals of each row, 1 / Σ w̃²; None where the
            method has no weights.
    """

    mean: Tensor
    samples: Tensor
    ess: Tensor | None


@torch.no_grad()
def impute(
    model: Model | Callable[..., Any],
    guide: Any,
    data: Any,
    *,
    method: Literal["importance", "pseudo_gibbs"] = "importance",
    num_particles: int = 1000,
    num_samples: int = 10,
    burn_in: int = 50,
    site: str = "x",
    seed: int = 0,
    max_elements: int = 4_000_000,
) -> Imputation:
    """Draws from p(x_mis | x_obs), and their mean.

    ``importance``: z_k ~ q(z | ι(x_obs)), k = 1 … K, with weights w_k = p(x_obs, z_k) / q(z_k);
    E[x_mis | x_obs] ≈ Σ_k w̃_k E[x_mis | z_k], draws by z ~ Σ_k w̃_k δ(z_k), x_mis ~ p(x | z). Right
    as K grows, for any q.

    ``pseudo_gibbs``: x_mis ← p(x | z), z ← q(z | x_obs, x_mis), in turn; right only where q is the
    posterior. The mean is over K sweeps after ``burn_in``.

    Where the guide has an encoder that has never seen missing entries, ι fills them with the means
    of their columns.

    Args:
        model: p.
        guide: q; for a table ``guide.infer(data)`` first.
        data: N rows with missing entries.
        method: importance or pseudo_gibbs.
        num_particles: K, proposals or sweeps.
        num_samples: S.
        burn_in: sweeps before the first one that counts.
        site: the name of the values with missing entries.
        seed: of the draws.
        max_elements: how many numbers one chunk may take.

    Raises:
        ValueError: no missing entries; an unknown method; counts below 1; global latents.

    Reference: Rezende, Mohamed and Wierstra, "Stochastic Backpropagation and Approximate Inference
    in Deep Generative Models", 2014; Mattei and Frellsen, "MIWAE: Deep Generative Modelling and
    Imputation of Incomplete Data Sets", 2019.
    """
    model, data = as_model(model), as_dataset(data)
    if site not in data.observed:
        raise ValueError(
            f"{data.name} has no missing entries in {site!r}; load it with missing=True or take "
            "some out with zoo.imputation.hide"
        )
    if method not in ("importance", "pseudo_gibbs"):
        raise ValueError(f"method is importance or pseudo_gibbs, got {method!r}")
    if min(num_particles, num_samples) < 1 or burn_in < 0:
        raise ValueError("num_particles and num_samples count from 1, burn_in from 0")
    means = _column_means(data, site)
    width = data.event_shape(site).numel()
    wide = num_particles if method == "importance" else num_samples
    chunk = max(1, max_elements // (wide * width))
    step = _importance if method == "importance" else _pseudo_gibbs
    parts = []
    with seeded(stream(seed, "imputation"), model.device), validation(False):
        for batch in data.batches(chunk):
            batch = batch.to(model.device).unscaled()
            mask = batch.observed[site]
            start = torch.where(mask, batch[site], means.to(batch[site]))
            options = (num_particles, num_samples, burn_in)
            found = step(model, guide, batch, start, site, *options)
            parts.append((*(torch.where(mask, batch[site], f) for f in found[:2]), found[2]))
    means, samples, sizes = zip(*parts, strict=True)
    ess = torch.cat(sizes) if method == "importance" else None
    return Imputation(torch.cat(means), torch.cat(samples, 1), ess)


def _importance(
    model: Model, guide: Any, batch: Batch, start: Tensor, site: str, count: int, draws: int, _: int
) -> tuple[Tensor, ...]:
    shown = _shown(guide, batch, start, site)
    weights = log_weights(model, lambda _: guide(shown), batch, count)
    if weights.has_globals:
        raise ValueError("imputation is for models without latents that all rows share")
    share = weights.log_weight.softmax(0)  # (K, B)
    latents = dict(weights.values) | (weights.discrete()[1] if weights.enumerated else {})
    outcome = _given(model, batch, latents, site)
    event = start.shape[1:]
    each = _mean(outcome).expand(count, *start.shape).flatten(2)  # (K, B, D)
    mean = torch.einsum("kb,kbd->bd", share, each).reshape(start.shape)
    chosen = torch.multinomial(share.T, draws, replacement=True).T  # (S, B)
    values = outcome.sample().expand(count, *start.shape)
    index = chosen.reshape(*chosen.shape, *(1,) * len(event)).expand(draws, *start.shape)
    return mean, values.gather(0, index), 1 / share.square().sum(0)


def _pseudo_gibbs(
    model: Model,
    guide: Any,
    batch: Batch,
    start: Tensor,
    site: str,
    sweeps: int,
    keep: int,
    wait: int,
) -> tuple[Tensor, Tensor, None]:
    """S chains a row side by side; their means over sweeps and their last states."""
    mask = batch.observed[site]
    copies = torch.arange(len(batch), device=batch.index.device).repeat(keep)
    rows = replace(
        batch,
        values={name: value[copies] for name, value in batch.values.items()},
        index=batch.index[copies],
        observed={},
    )
    x, total = start[copies], torch.zeros_like(start[copies])
    for sweep in range(wait + sweeps):
        now = replace(rows, values={**rows.values, site: x})
        weights = log_weights(model, guide, now)
        latents = dict(weights.values)
        if weights.enumerated:
            latents |= {name: value[0, 0] for name, value in weights.discrete()[1].items()}
        outcome = _given(model, now, latents, site)
        if sweep >= wait:
            total += _mean(outcome)
        x = torch.where(mask[copies], start[copies], outcome.sample())
    shape = (keep, *start.shape)
    return (total / sweeps).reshape(shape).mean(0), x.reshape(shape), None


def _given(model: Model, batch: Batch, latents: dict[str, Tensor], site: str) -> Any:
    """p(x | z) at given latents."""
    with Record() as record, Replay({n: {"value": v} for n, v in latents.items()}):
        model.run(batch.without(*(n for n in batch.values if n not in model.inputs)))
    return record.sites[site]["fn"]


def _mean(outcome: Any) -> Tensor:
    """E[x | z], or a draw where the distribution does not know it."""
    try:
        return outcome.mean
    except NotImplementedError:
        return outcome.sample()


def _shown(guide: Any, batch: Batch, start: Tensor, site: str) -> Batch:
    """What the guide reads: masks too where it knows of them, else the filled rows."""
    source = getattr(guide, "source", None)
    filled = replace(batch, values={**batch.values, site: start})
    if source is not None and hasattr(source, "masked") and site not in source.masked:
        return replace(filled, observed={})
    return filled


def _column_means(data: Dataset, site: str) -> Tensor:
    """(*event): the mean of the observed entries of each column."""
    total, count = 0.0, 0.0
    for batch in data.batches(8192):
        mask = batch.observed[site]
        total = total + torch.where(mask, batch[site], 0).sum(0)
        count = count + mask.sum(0)
    return torch.as_tensor(total) / torch.as_tensor(count).clamp(min=1)


def hide(
    data: Dataset,
    region: str = "random",
    fraction: float = 0.5,
    image_shape: Sequence[int] | None = None,
    seed: int = 0,
) -> Dataset:
    """The same rows with entries of "x" missing.

    Args:
        data: complete rows.
        region: random (each entry by itself), or a part of the image: top, bottom, left, right,
            centre.
        fraction: the part of the entries that is taken out.
        image_shape: (H, W) or (C, H, W); that of the data by default.
        seed: of random entries.

    Raises:
        ValueError: an unknown region, a fraction outside (0, 1), or a region of what is no image.

    Example:
        >>> rows = Dataset(torch.arange(12.0).reshape(3, 4), image_shape=(2, 2))
        >>> hide(rows, "top").observed["x"][0]
        tensor([False, False,  True,  True])
    """
    if region not in REGIONS or not 0 < fraction < 1:
        raise ValueError(f"region is one of {', '.join(REGIONS)}, fraction in (0, 1)")
    x = data["x"]
    if region == "random":
        generator = torch.Generator().manual_seed(seed)
        mask = torch.rand(x.shape, generator=generator) >= fraction
    else:
        shape = image_shape or data.image_shape
        if shape is None:
            raise ValueError(f"the {region} of rows that are no images; use region random")
        mask = _kept(region, fraction, shape).reshape(x.shape[1:]).expand(x.shape)
    batch = data.fixed().batch()
    observed = {**data.observed, "x": mask.to(x.device)}
    plain = Dataset(
        dict(batch.values), labels=data.labels, name=data.name, image_shape=data.image_shape
    )
    return plain.replaced(plain.values, observed, plain.fingerprint)


def _kept(region: str, fraction: float, shape: Sequence[int]) -> Tensor:
    """(C, H, W) or (H, W) bool: False in the part that is taken out."""
    height, width = shape[-2:]
    row, column = torch.arange(height)[:, None], torch.arange(width)[None]
    inner = fraction**0.5 / 2
    gone = {
        "top": (row < round(fraction * height)) & (column >= 0),
        "bottom": (row >= height - round(fraction * height)) & (column >= 0),
        "left": (column < round(fraction * width)) & (row >= 0),
        "right": (column >= width - round(fraction * width)) & (row >= 0),
        "centre": ((row + 0.5) / height - 0.5).abs().lt(inner)
        & ((column + 0.5) / width - 0.5).abs().lt(inner),
    }[region]
    return ~gone.expand(*shape)
