"""The mean-field gap of PPCA: ½(Σ log Λ_ii - log |Λ|) on rotated loadings, nil in a joint fit.

    python -m benchmarks.mean_field_gap

Λ = M/σ² is the posterior precision, the same for every x. On a frozen model the best mean-field
guide is short of log p(x) by the closed form; a joint fit rotates the loadings until it is not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.report import save
from guides import Guide
from zoo import evaluate, fit, load_data
from zoo.models.ppca import PPCA


def closed_form(model: PPCA) -> float:
    """½ (Σ_i log Λ_ii - log |Λ|), nats per datapoint."""
    variance = (2 * model.log_scale.detach()).exp()
    weight: Tensor = model.weight.detach()
    precision = (weight.mT @ weight + variance * torch.eye(model.latent_dim)) / variance
    return 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()


def measured(model: PPCA, guide: Guide, data) -> dict[str, float]:
    """log p(x) - ELBO on the training rows, with its Monte-Carlo error, beside the closed form."""
    found = evaluate(model, guide, data, num_particles=1000)
    assert found.exact is not None and found.elbo is not None
    return {
        "gap": found.exact.mean - found.elbo.mean,
        "se": found.elbo.se,
        "closed_form": closed_form(model),
        "exact": found.exact.mean,
    }


def main() -> None:
    """Frozen and joint, tables and an encoder."""
    torch.set_default_dtype(torch.float64)
    data = load_data("wine").train
    angle = torch.tensor(0.6)
    rotation = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
    )
    result = {}
    for inference, options in (("per_datapoint", {}), ("amortized", {"hidden": []})):
        frozen = PPCA.for_data(data, latent_dim=2, init="ml")
        with torch.no_grad():
            frozen.weight.copy_(frozen.weight @ rotation)
        guide = Guide(frozen, data, "mean_field", inference, inference_options=options)
        how = {"steps": 6000, "lr": 0.03, "schedule": "exponential", "progress": False}
        how["objective_options"] = {"num_particles": 10}
        fit(frozen, guide, data, freeze="model", **how)
        result[f"frozen, {inference}"] = measured(frozen, guide, data)
        torch.manual_seed(0)
        joint = PPCA.for_data(data, latent_dim=2)
        guide = Guide(joint, data, "mean_field", inference, inference_options=options)
        fit(joint, guide, data, **{**how, "steps": 15000, "lr": 0.02})
        result[f"joint, {inference}"] = measured(joint, guide, data)
    save("mean_field_gap", result)


if __name__ == "__main__":
    main()
