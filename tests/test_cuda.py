"""What must hold on a CUDA device: the same figures as on the CPU, and no wait inside the loop."""

from pathlib import Path

import pytest
import torch

from guides import Guide
from zoo import diagnose, evaluate, fit, load, load_data
from zoo.data import Dataset
from zoo.importance import importance_ladder
from zoo.models.gmm import GMM
from zoo.models.poisson_ppca import PoissonPPCA
from zoo.models.ppca import PPCA
from zoo.models.vae import VAE
from zoo.objectives.bounds import elbo, iwae, renyi
from zoo.registry import resolve
from zoo.testing import check_model

pytestmark = pytest.mark.cuda


def rows() -> Dataset:
    return load_data("wine").train


@pytest.mark.parametrize("family", ["exact", "mean_field", "full_rank", "low_rank"])
@pytest.mark.parametrize("inference", ["per_datapoint", "amortized", "semi_amortized"])
def test_fit_and_evaluate(family: str, inference: str) -> None:
    data = rows()
    model = PPCA.for_data(data, latent_dim=2, init="ml").cuda()
    guide = Guide(model, data, family, inference)
    result = fit(model, guide, data, steps=20, batch_size=50, device="cuda", progress=False)
    assert result.steps == 20
    found = evaluate(model, guide, data.to("cuda"), num_particles=20)
    assert found.elbo.mean <= found.exact.mean + 5 * found.elbo.se + 1e-3


def test_same_evidence_as_on_the_cpu() -> None:
    data = rows()
    model = PPCA.for_data(data, latent_dim=2, init="ml")
    here = model.log_evidence(data["x"])
    there = model.cuda().log_evidence(data["x"].cuda()).cpu()
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("objective", [elbo, iwae, renyi])
def test_no_wait_for_the_device(objective) -> None:
    """An objective and its gradient run without a single host-device synchronisation."""
    data = rows().to("cuda")
    model = PPCA(13, 2).cuda()
    guide = Guide(model, data, "mean_field", "amortized")
    index = torch.arange(50, device="cuda")
    objective(model, guide, data.batch(index), num_particles=4).backward()
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        objective(model, guide, data.batch(index), num_particles=4).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.distributions.Distribution.set_default_validate_args(before)


@pytest.mark.parametrize("make", [PPCA, GMM, PoissonPPCA])
def test_the_kit(make) -> None:
    model, data = make.example()
    check_model(model.cuda(), data.to("cuda"))


def test_a_run_moves_between_devices(tmp_path: Path) -> None:
    data = rows()
    model = PPCA.for_data(data, latent_dim=2)
    guide = Guide(model, data, "full_rank", "per_datapoint")
    fit(model, guide, data, steps=5, device="cuda", out=tmp_path / "run", progress=False)
    run = load(tmp_path / "run")
    assert run.model.device.type == "cpu"
    torch.testing.assert_close(run.model.weight, model.weight.detach().cpu())


def pictures(binarization: str = "dynamic") -> Dataset:
    return load_data("digits", binarization=binarization).train


@pytest.mark.parametrize(
    "family",
    ["planar:2", "radial:2", "householder:2", "sylvester:2", "iaf:2", "spline:2", "realnvp:2"]
    + ["neural_autoregressive:2", "hamiltonian:2"],
)
@pytest.mark.parametrize("inference", ["per_datapoint", "amortized"])
def test_flows_on_dynamic_images(family: str, inference: str) -> None:
    data = pictures()
    model = VAE.for_data(data, latent_dim=3, hidden=(16,), likelihood="bernoulli")
    guide = Guide(model, data, family, inference)
    fit(model, guide, data, steps=10, batch_size=50, device="cuda", progress=False)
    found = evaluate(model, guide, data.to("cuda"), num_particles=2)
    assert found.elbo is not None and found.elbo.rows.isfinite().all()


def test_binarization_is_the_same_on_every_device() -> None:
    data = pictures()
    here = data.fixed().batch()["x"]
    there = data.to("cuda").fixed().batch()["x"].cpu()
    assert torch.equal(here, there)
    drawn = data.to("cuda").batch(torch.arange(500, device="cuda"))["x"]
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    grey = data["x"][:500].mean()
    assert abs(float(drawn.mean().cpu() - grey)) < 6 * 0.5 / drawn.numel() ** 0.5


@pytest.mark.parametrize("family", ["mean_field", "planar:2", "iaf:2"])
def test_no_wait_in_a_step_of_a_vae(family: str) -> None:
    data = pictures().to("cuda")
    model = VAE.for_data(data, latent_dim=3, hidden=(16,), likelihood="bernoulli").cuda()
    guide = Guide(model, data, family, "amortized")
    index = torch.arange(50, device="cuda")
    elbo(model, guide, data.batch(index), num_particles=2).backward()
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        elbo(model, guide, data.batch(index), num_particles=2).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.distributions.Distribution.set_default_validate_args(before)


def test_importance_ladder_on_the_device() -> None:
    data = pictures("static")
    model = VAE.for_data(data, latent_dim=2, hidden=(16,), likelihood="bernoulli")
    guide = Guide(model, data)
    fit(model, guide, data, steps=50, batch_size=100, device="cuda", progress=False)
    rows = data.subset(torch.arange(20)).to("cuda")
    found = importance_ladder(model, guide, rows, num_particles=5000)
    assert found.elbo.mean < found.iwae.mean


@pytest.mark.parametrize("word", ["ppca", "vae", "bayesian_gmm", "m2"])
def test_a_report_card(word: str) -> None:
    """All parts of a card on the device; those that can be had on the CPU can be had here."""
    small = {"num_draws": 200, "num_global_draws": 200, "num_simulations": 20, "search_steps": 5}
    small |= {"infer_steps": 5, "num_rows": 10, "simulate": True, "thorough": word == "ppca"}
    ran = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model, data = resolve("models", word).example()
        guide = Guide(model, data)
        result = fit(model, guide, data, steps=20, device=device, progress=False)
        card = diagnose(model, guide, data, run=result, **small)
        ran.append({check.name for check in card.checks if check.status != "not checked"})
    assert ran[0] == ran[1]
