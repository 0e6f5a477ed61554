"""REBAR: what a relaxed control variate adds to the score function of one discrete draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.coupled import coupled
from zoo.data import Batch
from zoo.kl_weight import tempered
from zoo.model import Model, as_model
from zoo.paths import lacks_path
from zoo.relaxed import Linear
from zoo.weights import LogWeights, _weigh

Guide = Callable[[Batch], Any]


def control(
    model: Model | Callable[..., Any],
    guide: Guide,
    batch: Batch,
    weights: LogWeights,
    beta: float | Tensor = 1.0,
) -> Tensor:
    """(): of value 0 and gradient -mean η {∇[h(s) - h(s̃)] - h(s̃) ∇log q(b)}, beside the score's.

    With the score function's -mean [∇h(b) + h(b) ∇log q(b)] this is REBAR, unbiased for every η.
    b is the drawn site, z its logits plus noise with b = H(z), s = σ(z/τ), and s̃ = σ(z̃/τ) with
    z̃ ~ z | b (softmax for classes); see ``zoo.coupled``. h at the soft s has the terms of
    the site continued linearly, Σ_c s_c [log p_c - log q_c] (any continuation is unbiased), and s
    in the site's place elsewhere. Two things leave the mean as it is: the noise of z and z̃ is
    coupled so that s = s̃ in value, with two paths to the logits, hence one run at s, and
    ∇[h(s) - h(s̃)] = ∂h/∂s · ∇(s - s̃); and gradients of h(s) - h(s̃) that do not go through s,
    whose mean is 0, are left out, so that those of p are as without the control. Latents drawn
    before b are as they were; those after it are drawn again given s, a Normal with the noise it
    had.

    Args:
        model: p.
        guide: q.
        batch: B rows.
        weights: of the batch, drawn with S, K; their KL not yet weighted.
        beta: β of ``tempered``.

    Returns:
        In nats per datapoint; 0 where no gradient is taken or nothing was drawn to be scored.

    Raises:
        ValueError: several such sites; sites summed out beside it; a function that takes one
            particle at a time; a site that is no Categorical and no bits.

    Reference: Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein, "REBAR: Low-variance, unbiased
    gradient estimates for discrete latent variable models", 2017.
    """
    log_q = weights.log_q_score
    if log_q is None or not log_q.requires_grad:
        return torch.zeros((), device=weights.local.device, dtype=weights.local.dtype)
    model = as_model(model)
    site = _only(weights)
    how = {"temperature": 0.5, "scale": 1.0} | ((site["infer"] or {}).get("rebar") or {})
    soft, conditional = coupled(site["fn"], site["value"], how["temperature"])
    at = soft.detach().requires_grad_()
    given = _given(weights, site, at)
    outer, inner, _ = weights.local.shape
    h = tempered(_weigh(model, guide, batch, inner, outer, given=given), beta).local  # (S, K, B)
    (slope,) = torch.autograd.grad(h.sum(), at)
    term = (slope * (soft - conditional)).sum() - (h.detach() * log_q).sum()
    return -how["scale"] * (term - term.detach()) / h.numel()


def _only(weights: LogWeights) -> Any:
    """The one site that was drawn to be scored."""
    if weights.local_sites is None:
        raise ValueError(
            "rebar runs all particles at once, and this function takes them one by one; write it "
            "with dimensions from the right, or use num_particles=1, or the estimator score"
        )
    sites = [site for site in weights.local_sites[1].values() if lacks_path(site)]
    if len(sites) != 1 or weights.enumerated:
        found = sorted(site["name"] for site in sites) + list(weights.enumerated)
        raise ValueError(
            f"rebar is for one discrete site a row, which the guide draws, and here are {found}; "
            "use the estimator score or vimco"
        )
    return sites[0]


def _given(weights: LogWeights, site: Any, at: Tensor) -> Mapping[str, Any]:
    """What the guide is to draw at the soft value of a site, by name."""
    assert weights.local_sites is not None
    names = list(sites := weights.local_sites[1])
    before, after = names[: (place := names.index(site["name"]))], names[place + 1 :]
    given: dict[str, Any] = {name: {"value": sites[name]["value"]} for name in before}
    given |= {name: {"value": s["value"]} for name, s in weights.globals.items()}
    given |= {name: {"value": again} for name in after if (again := _again(sites[name]))}
    return given | {site["name"]: {"value": at, "fn": Linear(site["fn"])}}


def _again(site: Any) -> Callable[[Any], Tensor] | None:
    """m' + s' ε of a Normal site, with the noise ε it had; None for any other."""
    normal = _normal(site["fn"])
    if normal is None:
        return None
    noise = ((site["value"] - normal.loc) / normal.scale).detach()

    def value(fn: Any) -> Tensor:
        now = _normal(fn)
        return fn.rsample() if now is None else now.loc + now.scale * noise

    return value


def _normal(fn: Any) -> Any:
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return fn if isinstance(fn, torch.distributions.Normal) else None
