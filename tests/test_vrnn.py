"""The variational recurrent network: the roll against its equations, the evidence, both guides."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from guides import Guide
from zoo.data import Dataset
from zoo.evaluation import evaluate
from zoo.fitting import fit
from zoo.models.vae import VAE
from zoo.models.vrnn import VRNN
from zoo.particles import log_joint, simulate
from zoo.sources import load_data
from zoo.testing import check_guide, check_model
from zoo.weights import log_weights

SMALL: dict[str, Any] = {"recurrent_dim": 5, "features": 6, "hidden": (7,)}


def lively(model: VRNN) -> VRNN:
    """Weights so large that every term counts."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


def by_hand(model: VRNN, eps: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x | ε) and z of one row, ε (T, d), x (T, D), one step after the other."""
    h, total, states = torch.zeros(5), torch.zeros(()), []
    gru = model.gru
    for e, value in zip(eps, x, strict=True):
        mean, raw = model.prior_net(h).split(2)
        z = mean + (1e-3 + softplus(raw)) * e
        code = model.phi_z(z)
        outputs = model.decoder(torch.cat([code, h]))
        total = total + model.likelihood(outputs).log_prob(value)
        both = torch.cat([model.phi_x(value), code])
        r, u, n = (gru.weight_ih @ both + gru.bias_ih).chunk(3)
        r_h, u_h, n_h = (gru.weight_hh @ h + gru.bias_hh).chunk(3)
        r, u = (r + r_h).sigmoid(), (u + u_h).sigmoid()
        h = (1 - u) * (n + r * n_h).tanh() + u * h
        states.append(z)
    return total, torch.stack(states)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "poisson", "categorical"])
@pytest.mark.parametrize("flat", [False, True])
def test_the_roll_is_that_of_the_equations(float64: Any, likelihood: str, flat: bool) -> None:
    size = {"data_dim": 12, "flat": True} if flat else {"data_dim": 3}
    options = {"num_levels": 5} if likelihood == "categorical" else {}
    model = VRNN(
        **size,
        latent_dim=2,
        num_steps=4,
        likelihood=likelihood,
        likelihood_options=options,
        **SMALL,
    )
    lively(model)
    eps = torch.randn(2, 3, 5, 4, 2)
    x = model.decode(eps).sample()
    assert x.shape == (2, 3, 5, 12) if flat else (2, 3, 5, 4, 3)
    got, states = model.decode(eps).log_prob(x), model.states(eps, x)
    assert got.shape == (2, 3, 5) and got.isfinite().all()
    for place in [(0, 0, 0), (1, 2, 4), (1, 0, 3)]:
        expected, z = by_hand(model, eps[place], x[place].reshape(4, 3))
        torch.testing.assert_close(got[place], expected)
        torch.testing.assert_close(states[place], z)
    alone = model.decode(eps[1, 2]).log_prob(x[0, 0])  # x beside particles of ε
    together = model.decode(eps).log_prob(x[0, 0])
    torch.testing.assert_close(together[1, 2], alone)


def test_samples_have_the_means_and_variances_of_each_step(float64: Any) -> None:
    """20 000 rolls from one ε: x_1 has its own moments, x_2 those given x_1, in sum; 6 se."""
    model = lively(VRNN(2, 2, 3, likelihood="gaussian", **SMALL))
    eps = torch.randn(3, 2)
    num = 20_000
    x = model.decode(eps).sample((num,))
    codes, *_ = model.roll(eps, x)
    residual = x - model.likelihood(model.decoder(codes)).mean
    sd = model.likelihood(model.decoder(codes[0])).stddev
    assert (residual.mean(0).abs() < 6 * sd / num**0.5).all()
    assert ((residual.square().mean(0) / sd**2 - 1).abs() < 6 * 2**0.5 / num**0.5).all()
    lag = (residual[:, 1:] * residual[:, :-1]).mean(0) / (sd[1:] * sd[:-1])
    assert (lag.abs() < 6 / num**0.5).all()


def test_the_evidence_of_one_step_by_quadrature(float64: Any) -> None:
    """T = d = 1: p(x) = ∫ N(ε; 0, 1) p(x | ε) dε, and again over z ~ N(μ_1, σ_1²).

    IWAE of both guides meets it, and their ELBOs stay below, to 6 standard errors.
    """
    model = lively(VRNN(2, 1, 1, likelihood="gaussian", **SMALL))
    data = Dataset(torch.randn(4, 1, 2))
    batch = data.batch()
    grid = torch.linspace(-10, 10, 4001)
    eps = grid[:, None, None, None].expand(-1, 4, 1, 1)
    sites = simulate(model, batch, 1, len(grid), {"z": {"value": eps}})
    joint = log_joint(sites, "data", 1, len(grid), 4)[0]
    evidence = joint.logsumexp(0) + math.log(grid[1] - grid[0])
    mean, sd = (v.squeeze() for v in model.prior(torch.zeros(5)))
    z = mean + sd * grid
    outputs = model.decoder(torch.cat([model.phi_z(z[:, None]), torch.zeros(len(z), 5)], -1))
    scores = model.likelihood(outputs).log_prob(data["x"].reshape(4, 1, 2))  # (4, grid)
    prior = torch.distributions.Normal(mean, sd).log_prob(z)
    again = (scores + prior).logsumexp(-1) + (z[1] - z[0]).log()
    torch.testing.assert_close(evidence, again)
    for inference in ("recurrent", "amortized"):
        result = evaluate(model, Guide(model, data, inference=inference), data, num_particles=20000)
        assert (result.elbo.rows < evidence + 6 * result.elbo.error).all()
        assert ((result.iwae.rows - evidence).abs() < 6 * result.iwae.error + 1e-3).all()


def test_without_weights_on_the_past_it_is_a_vae_in_each_step(float64: Any) -> None:
    """h cut off: log p(x, ε) is the sum over steps of that of one linear-Gaussian VAE."""
    model = VRNN(3, 2, 4, likelihood="gaussian", recurrent_dim=5, features=2, hidden=())
    one = VAE(3, 2, hidden=(), likelihood="gaussian")
    with torch.no_grad():
        for parameter in model.gru.parameters():
            parameter.zero_()
        model.prior_net[-1].weight.zero_()
        model.phi_z[-1].weight.copy_(torch.eye(2))
        model.phi_z[-1].bias.zero_()
        one.decoder[-1].weight.copy_(model.decoder[-1].weight[:, :2])
        one.decoder[-1].bias.copy_(model.decoder[-1].bias)
    x, eps = torch.randn(6, 4, 3), torch.randn(6, 4, 2)
    scale = 1e-3 + softplus(model.prior_net[-1].bias[2:])
    z = model.prior_net[-1].bias[:2] + scale * eps
    torch.testing.assert_close(model.decode(eps).log_prob(x), one.decode(z).log_prob(x).sum(-1))


def test_the_recurrent_guide_is_that_of_the_equations(float64: Any) -> None:
    """log q(ε) + Σ log |dz/dε|⁻¹ is Σ_t log N(z_t; m_t, s_t²), step by step; draws score alike."""
    model = lively(VRNN(3, 2, 4, likelihood="gaussian", **SMALL))
    data = Dataset(torch.randn(5, 4, 3))
    guide = Guide(model, data)
    lively(guide)  # type: ignore[arg-type]
    batch = data.batch()
    weights = log_weights(model, guide, batch, 3)
    eps = weights.values["z"]  # (3, 5, 4, 2)
    z = model.states(eps, data["x"])
    for k, row in [(0, 0), (2, 4)]:
        h, total = torch.zeros(1, 5), torch.zeros(())
        for t in range(4):
            seen = model.phi_x(data["x"][row, t])
            loc, raw = guide.family.net(torch.cat([seen, h[0]])).split(2)
            q = torch.distributions.Normal(loc, softplus(raw))
            _, scale = model.prior(h[0])
            total = total + (q.log_prob(z[k, row, t]) + scale.log()).sum()
            code = model.phi_z(z[k, row, t])
            h = model.gru(torch.cat([seen, code])[None], h)
        torch.testing.assert_close(weights.log_q[0, k, row], total)
    torch.testing.assert_close(guide.log_prob(batch, {"z": eps}), weights.log_q[0])


def test_shorter_sequences_are_those_of_their_own_length(float64: Any) -> None:
    """NaN after step 2 in all rows but one: the densities are those of the model with T = 2."""
    model = lively(VRNN(3, 2, 4, likelihood="gaussian", **SMALL))
    x = torch.randn(5, 4, 3)
    padded = x.clone()
    padded[1:, 2:] = torch.nan
    data = Dataset(padded, missing=True)
    guide = Guide(model, data)
    short = VRNN(3, 2, 2, likelihood="gaussian", **SMALL)
    short.load_state_dict(model.state_dict())
    eps = torch.randn(5, 4, 2)
    given = {"z": {"value": eps}}
    half = {"z": {"value": eps[:, :2]}}
    cut = Dataset(x[:, :2])
    got = simulate(model, data.batch(), given=given)["x"]
    expected = simulate(short, cut.batch(), given=half)["x"]
    scores = [s["fn"].log_prob(s["value"])[1:] for s in (got, expected)]
    torch.testing.assert_close(*scores)
    other = Guide(short, cut)
    other.load_state_dict(guide.state_dict())
    rest = torch.distributions.Normal(0.0, 1.0).log_prob(eps[:, 2:]).sum((-1, -2))
    full = guide.log_prob(data.batch(), {"z": eps})
    expected = other.log_prob(cut.batch(), {"z": eps[:, :2]})
    torch.testing.assert_close((full - rest)[1:], expected[1:])
    whole = simulate(model, Dataset(x).batch(), given=given)["x"]
    torch.testing.assert_close(got["fn"].log_prob(x)[0], whole["fn"].log_prob(x)[0])
    batch = data.batch()
    holes = replace(batch, observed={"x": torch.rand(5, 4, 3) < 0.5})
    with pytest.raises(ValueError, match="entries missing before others"):
        simulate(model, holes)


def test_images_and_files_are_sequences(tmp_path: Any) -> None:
    """Rows of an image, a file (N, T, D), a tensor (N, T, D): shapes are found in the data."""
    digits = load_data("digits").train
    model = VRNN.for_data(digits, likelihood="gaussian")
    assert (model.num_steps, model.step_dim, model.flat) == (8, 8, True)
    walks = np.random.RandomState(0).randn(30, 5, 3).cumsum(1)
    np.save(tmp_path / "walks.npy", walks)
    data = load_data(tmp_path / "walks.npy").train
    model = VRNN.for_data(data)
    assert (model.num_steps, model.step_dim, model.options["likelihood"]) == (5, 3, "gaussian")
    result = evaluate(model, Guide(model, data), data, num_particles=5)
    assert math.isfinite(result.elbo.mean)
    model = VRNN.for_data(Dataset((torch.rand(9, 5, 3) < 0.5).float()))
    assert (model.num_steps, model.flat, model.options["likelihood"]) == (5, False, "bernoulli")


def test_training_on_binary_rows_learns_what_follows_what() -> None:
    """Rows of coin flips, the first free and every other its copy: -log p(x) is 3 log 2 a row.

    A decoder that cannot look back would need as much for every row; this one less than half.
    """
    first = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).repeat(8, 1)
    data = Dataset(first[:, None].expand(-1, 4, -1).contiguous())
    model = VRNN.for_data(data, latent_dim=2, recurrent_dim=16, features=16, hidden=(16,))
    guide = Guide(model, data)
    fit(model, guide, data, steps=100, lr=0.03)
    bound = evaluate(model, guide, data, num_particles=10).elbo
    assert -6 * math.log(2) < bound.mean < -3 * math.log(2) + 6 * bound.se


def test_the_contract() -> None:
    check_model(VRNN)
    check_guide(partial(Guide, inference="recurrent"), VRNN)


def test_what_cannot_be_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="needs num_steps and a likelihood"):
        VRNN(3)
    with pytest.raises(ValueError, match="5 steps do not divide the 12"):
        VRNN(12, num_steps=5, flat=True, likelihood="gaussian")
    with pytest.raises(ValueError, match="needs num_steps"):
        VRNN.for_data(Dataset(torch.zeros(4, 6)))
    vae, data = VAE.example()
    with pytest.raises(ValueError, match="follows the states of a vrnn"):
        Guide(vae, data, inference="recurrent")
    model, data = VRNN.example()
    with pytest.raises(ValueError, match="FullRank is another family"):
        Guide(model, data, "full_rank")
