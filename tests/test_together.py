"""Several fits in one step: each pair gets the fit that it would have had alone."""

from __future__ import annotations

import copy

import pytest
import torch

from guides.guide import Guide
from zoo import fit
from zoo.models.gmm import GMM
from zoo.models.ppca import PPCA
from zoo.models.vae import VAE
from zoo.together import fit_together


def rows(count: int = 60, dim: int = 4) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def starts(count: int, x: torch.Tensor, latent_dim: int = 2) -> list:
    found = []
    for r in range(count):
        torch.manual_seed(r)
        model = PPCA(x.shape[1], latent_dim).double()
        found.append((model, Guide(model, x, inference_options={"hidden": [8]}).double()))
    return found


@pytest.mark.parametrize("run", ["eager", "traced"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_without_noise_each_pair_is_fitted_as_alone(run: str, optimizer: str) -> None:
    """log p(x) of PPCA in closed form has no draws, so the fits are the same to rounding."""
    x = rows()
    pairs = starts(3, x)
    alone = copy.deepcopy(pairs)
    options = {"steps": 40, "lr": 0.02, "optimizer": optimizer, "schedule": "cosine", "clip": 0.5}
    together = fit_together(pairs, x, "mle", run=run, log_every=10, **options)
    for r, (model, _) in enumerate(alone):
        straight = fit(model, None, x, "mle", progress=False, log_every=10, **options)
        mine = dict(pairs[r][0].named_parameters())
        for name, value in model.named_parameters():
            assert torch.allclose(mine[name], value, rtol=1e-9, atol=1e-12), name
        a = [row["loss"] for row in together[r].metrics]
        assert a == pytest.approx([row["loss"] for row in straight.metrics], rel=1e-6)
    assert together[0].run["way"] == run


def test_with_the_exact_posterior_the_loss_of_each_is_its_evidence_whatever_the_noise() -> None:
    x = rows()
    pairs = [(model, Guide(model, x, "exact")) for model, _ in starts(3, x)]
    exact = [-model.log_evidence(x).mean().item() for model, _ in pairs]
    for objective in ("elbo", "iwae"):
        results = fit_together(pairs, x, objective, steps=1, lr=1e-30, optimizer="sgd")
        assert [r.metrics[0]["loss"] for r in results] == pytest.approx(exact, rel=1e-6)


def test_minibatches_differ_between_pairs_and_the_enumerated_model_is_fitted() -> None:
    x = rows(90, 2)
    pairs = []
    for r in range(3):
        torch.manual_seed(r)
        pairs.append((GMM(data_dim=2, num_components=2).double(), None))
    results = fit_together(pairs, x, "mle", steps=30, batch_size=20, log_every=10)
    firsts = {result.metrics[0]["loss"] for result in results}
    assert len(firsts) == 3 and all(len(result.metrics) == 3 for result in results)


def test_a_pair_that_fails_stops_alone_with_its_weights_as_they_were() -> None:
    x = rows()
    pairs = starts(3, x)
    with torch.no_grad():
        pairs[1][0].log_scale.fill_(float("nan"))
    weight = pairs[1][0].weight.detach().clone()
    results = fit_together(pairs, x, steps=20, log_every=10)
    assert torch.equal(pairs[1][0].weight, weight)
    assert results[1].steps == 0 and "step 0" in results[1].run["why"]
    assert results[0].steps == results[2].steps == 20
    assert all(torch.isfinite(p).all() for p in pairs[2][0].parameters())


def test_what_does_not_fit_together_is_refused() -> None:
    x = rows()
    other = starts(1, x, latent_dim=3)
    with pytest.raises(ValueError, match="different structure"):
        fit_together([*starts(1, x), *other], x)
    with pytest.raises(ValueError, match="expected pairs"):
        fit_together([], x)
    one, two = starts(2, x)
    with pytest.raises(ValueError, match="two pairs"):
        fit_together([one, one], x)
    for options in ({"clip": -1.0}, {"batch_size": 0}, {"log_every": 0}):
        with pytest.raises(ValueError, match="above 0"):
            fit_together([one, two], x, **options)
    two[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="what is trained"):
        fit_together([one, two], x)
    two[0].weight.requires_grad_(True)
    two[0].factor = 5.0
    with pytest.raises(ValueError, match="attribute"):
        fit_together([one, two], x)
    model = VAE(4, 2, hidden=[4], likelihood="gaussian").double()
    with pytest.raises(ValueError, match="table"):
        fit_together([(model, Guide(model, x, inference="per_datapoint").double())], x)


@pytest.mark.cuda
def test_a_gpu_replays_all_pairs_in_one_graph() -> None:
    x = rows().float()
    pairs = starts(4, x.double())
    pairs = [(m.float(), g.float()) for m, g in pairs]
    eager = copy.deepcopy(pairs)
    options = {"steps": 60, "batch_size": 20, "device": "cuda"}
    one = fit_together(pairs, x, run="graph", **options)
    two = fit_together(eager, x, run="eager", **options)
    assert one[0].run["way"] == "graph"
    for a, b in zip(one, two, strict=True):
        assert a.metrics[-1]["loss"] == pytest.approx(b.metrics[-1]["loss"], rel=1e-4)
