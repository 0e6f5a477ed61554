"""Missing entries filled in from p(x_mis | x_obs), by importance resampling or pseudo-Gibbs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo._imputers import drawing, importance, pseudo_gibbs
from zoo.chunks import plan
from zoo.context import seeded, stream, validation
from zoo.data import Batch, as_dataset
from zoo.decoding import tiled
from zoo.hiding import REGIONS, EntryError, entry_error, hide
from zoo.model import Model, as_model
from zoo.particles import vectorizes

__all__ = ["REGIONS", "Imputation", "column_means", "hide", "imputation_error", "impute"]


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
    fill: Tensor | None = None,
    seed: int = 0,
    max_elements: int = 2**23,
) -> Imputation:
    """Draws from p(x_mis | x_obs), and their mean.

    ``importance``: z_k ~ q(z | ι(x_obs)), k = 1 … K, with weights w_k = p(x_obs, z_k) / q(z_k);
    E[x_mis | x_obs] ≈ Σ_k w̃_k E[x_mis | z_k], draws by z ~ Σ_k w̃_k δ(z_k), x_mis ~ p(x | z). Right
    as K grows, for any q; a small ``ess`` says that K is not large enough.

    ``pseudo_gibbs``: x_mis ← p(x | z), z ← q(z | x_obs, x_mis), in turn; right only where q is the
    posterior. S chains a row, side by side; the mean is over K sweeps of each after ``burn_in``,
    the draws are their last states. A table has one q(z | x_obs) a row, and every sweep draws it.

    ι gives the rows with their masks to a guide that can read masks, and fills them with ``fill``
    for one whose encoder has never seen missing entries. Every row is imputed on its own.

    Args:
        model: p; the entries of x are independent given z.
        guide: q; for a table ``guide.infer(data)`` first.
        data: N rows with missing entries.
        method: importance or pseudo_gibbs.
        num_particles: K, proposals or sweeps.
        num_samples: S.
        burn_in: sweeps before the first one that counts.
        site: the name of the values with missing entries.
        fill: (*event), where missing entries start, such as ``column_means`` of the data that the
            guide was fitted to; by default those of the observed entries of ``data``.
        seed: of the draws, which also depend on ``max_elements``.
        max_elements: how many numbers a tensor may have: rows, then particles, are cut to that.

    Raises:
        ValueError: no missing entries; an unknown method; counts below 1; latents that all rows
            share; entries that depend on each other given z; a row that no proposal explains.

    Reference: Rezende, Mohamed and Wierstra, "Stochastic Backpropagation and Approximate Inference
    in Deep Generative Models", 2014; Mattei and Frellsen, "MIWAE: Deep Generative Modelling and
    Imputation of Incomplete Data Sets", 2019.

    Example:
        >>> from zoo.models.ppca import PPCA
        >>> from zoo.data import Dataset
        >>> x = torch.tensor([[0.0, 1.0, 2.0, torch.nan], [0.0, 0.0, 0.0, 0.0]])
        >>> class Prior(nn.Module):
        ...     def forward(self, batch):
        ...         with pyro.plate("data", len(batch), dim=-1):
        ...             pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        >>> import pyro, pyro.distributions as dist
        >>> filled = impute(PPCA(4), Prior(), Dataset(x, missing=True))
        >>> filled.mean.shape, filled.samples[:, 0, :3].unique(dim=0)
        (torch.Size([2, 4]), tensor([[0., 1., 2.]]))
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
    fill = column_means(data, site) if fill is None else fill
    proposal = _Proposal(guide, site, fill)
    width = num_particles if method == "importance" else num_samples
    parts = []
    with seeded(stream(seed, "imputation"), model.device), validation(False):
        cut = plan(model, proposal, data, width, 1, max_elements)
        if cut.has_globals:
            raise ValueError(
                "imputation takes rows one by one, and this model has latents that they all share"
            )
        for batch in data.batches(cut.rows):
            batch = batch.to(model.device).unscaled()
            if method == "importance":
                most = cut.particles if vectorizes(model, batch) else 1
                counts = (num_particles, num_samples, most)
                mean, samples, ess = importance(model, proposal, batch, site, *counts)
            else:
                start = proposal.filled(batch)[site]
                chains = tiled(replace(batch, values={**batch.values, site: start}), num_samples)
                counts = (num_particles, burn_in)
                mean, samples, ess = pseudo_gibbs(model, guide, chains, site, *counts)
            mask, shape = batch.observed[site], batch[site].shape
            both = mean.reshape(-1, *shape).mean(0), samples.reshape(num_samples, *shape)
            parts.append((*(torch.where(mask, batch[site], f) for f in both), ess))
    means, samples, sizes = zip(*parts, strict=True)
    ess = torch.cat(sizes) if method == "importance" else None
    return Imputation(torch.cat(means), torch.cat(samples, 1), ess)


class _Proposal:
    """q(z | ι(x_obs)): the guide, shown filled rows where its encoder knows of no masks."""

    def __init__(self, guide: Any, site: str, fill: Tensor):
        self.draw, self.site, self.fill = drawing(guide, guide), site, fill
        parts = guide.modules() if isinstance(guide, nn.Module) else ()
        readers = [getattr(part, "masked", None) for part in parts]
        self.blind = any(isinstance(names, tuple) and site not in names for names in readers)

    def filled(self, batch: Batch) -> Batch:
        """The rows, with ``fill`` in place of what is missing."""
        x, mask = batch[self.site], batch.observed[self.site]
        return replace(
            batch, values={**batch.values, self.site: torch.where(mask, x, self.fill.to(x))}
        )

    def __call__(self, batch: Batch) -> Any:
        if not self.blind:
            return self.draw(batch)
        seen = {name: mask for name, mask in batch.observed.items() if name != self.site}
        return self.draw(replace(self.filled(batch), observed=seen))


@torch.no_grad()
def column_means(data: Any, site: str = "x") -> Tensor:
    """(*event): the mean of the observed entries of each column; of all where it has none."""
    total = count = torch.zeros(())
    for batch in as_dataset(data).batches(8192):
        x = batch[site].to(torch.promote_types(batch[site].dtype, torch.get_default_dtype()))
        mask = batch.observed.get(site, torch.ones_like(x, dtype=torch.bool))
        total = total.to(x) + torch.where(mask, x, 0).sum(0)
        count = count.to(x.device) + mask.sum(0)
    return torch.where(count > 0, total / count.clamp(min=1), total.sum() / count.sum())


def imputation_error(truth: Tensor, filled: Imputation | Tensor, mask: Tensor) -> EntryError:
    """How far the missing entries are from what they were, with standard errors over the rows.

    Args:
        truth: the complete rows, (N, *event).
        filled: an imputation, whose mean is judged, or values, (N, *event).
        mask: (N, *event) bool, False where the entry was missing, as ``data.observed`` has it.

    Example:
        >>> truth, mask = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.eye(2) > 0
        >>> imputation_error(truth, torch.zeros(2, 2), mask).count
        2
    """
    guess = filled.mean if isinstance(filled, Imputation) else filled
    return entry_error(truth, guess, ~mask)
