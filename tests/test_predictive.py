"""Draws of data, before any and given some, against closed forms."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import zoo
from guides import Guide
from zoo.context import seeded
from zoo.data import Batch, Dataset
from zoo.functions import plain
from zoo.model import Model, rows
from zoo.models.bayesian_ppca import BayesianPPCA
from zoo.models.gmm import GMM
from zoo.models.poisson_ppca import PoissonPPCA
from zoo.models.ppca import PPCA
from zoo.predictive import predict, prior_predictive

pytestmark = pytest.mark.usefixtures("float64")


def check_mean(draws: Tensor, expected: Tensor) -> None:
    """Means over the first dimension within 5.5 standard errors (one failure in 10⁷ a number)."""
    se = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - expected).abs() < 5.5 * se + 1e-12).all()


def double(example: tuple[Model, Dataset]) -> tuple[Any, Dataset]:
    return example[0].double(), example[1].to(dtype=torch.float64)


def test_simulations_have_the_moments_of_the_model() -> None:
    """100 000 rows."""
    model, _ = double(PPCA.example())
    with seeded(0):
        draws = prior_predictive(model, 100_000)
    assert {name: tuple(v.shape) for name, v in draws.items()} == {
        "z": (100_000, 2),
        "x": (100_000, 4),
    }
    assert not draws["x"].requires_grad and draws["x"].dtype == torch.float64
    check_mean(draws["x"], model.mean)
    centred = draws["x"] - model.mean.detach()
    W = model.weight.detach()
    covariance = W @ W.mT + (2 * model.log_scale).exp().detach() * torch.eye(4)
    check_mean(centred.unsqueeze(-1) * centred.unsqueeze(-2), covariance)


def test_simulations_of_models_with_globals_and_inputs() -> None:
    draws = prior_predictive(BayesianPPCA(4), 7)
    shapes = {name: tuple(value.shape) for name, value in draws.items()}
    expected = {
        "alpha": (2,),
        "weight": (4, 2),
        "mean": (4,),
        "scale": (),
        "z": (7, 2),
        "x": (7, 4),
    }
    assert shapes == expected
    model, _ = double(PoissonPPCA.example())
    with torch.no_grad():
        model.weight.zero_()
        model.mean.fill_(0.5)
    exposure = torch.tensor([1.0, 10.0]).repeat(50_000)
    with seeded(1):
        counts = prior_predictive(model, 100_000, exposure=exposure)["x"]
    rate = torch.tensor(0.5).exp()
    for start in (0, 1):
        check_mean(counts[start::2], rate * exposure[start].expand(4))


def test_predictions_are_those_of_the_exact_posterior() -> None:
    """x̃ | x ~ N(W m + μ, W V Wᵀ + σ² I), 20 000 draws for each of six rows."""
    model, data = double(PPCA.example())
    batch = data.batch(torch.arange(6))
    with seeded(2):
        draws = predict(model, Guide(model, data, "exact"), batch, 20_000)
    assert list(draws) == ["x"] and draws["x"].shape == (20_000, 6, 4)
    q, W = model.posterior(batch["x"]), model.weight.detach()
    mean = q.mean @ W.mT + model.mean
    check_mean(draws["x"], mean.detach())
    covariance = W @ q.covariance_matrix @ W.mT + (2 * model.log_scale).exp() * torch.eye(4)
    centred = draws["x"] - mean.detach()
    check_mean(centred.unsqueeze(-1) * centred.unsqueeze(-2), covariance.detach())


class SharedMean(Model):
    """g ~ N(0, 1), z_n ~ N(g, 1), x_n ~ N(z_n, 1)."""

    def forward(self, n: int) -> Tensor:
        g = pyro.sample("g", dist.Normal(0.0, 1.0))
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(g, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0))


def test_rows_of_one_draw_share_the_global_latent() -> None:
    """g ~ N(2, 0.5²), z | g ~ N((g + x)/2, ½): variance 1 + ½ + 0.5²/4, covariance 0.5²/4."""

    def guide(batch: Batch) -> None:
        g = pyro.sample("g", dist.Normal(2.0, 0.5))
        with rows(batch):
            pyro.sample("z", dist.Normal((g + batch["x"]) / 2, 0.5**0.5))

    x = torch.tensor([0.0, 1.0, -3.0])
    with seeded(3):
        draws = predict(SharedMean(), guide, x, 50_000)["x"]
    mean = (2 + x) / 2
    check_mean(draws, mean)
    covariance = 1.5 * torch.eye(3) + 0.25 / 4
    centred = draws - mean
    check_mean(centred.unsqueeze(-1) * centred.unsqueeze(-2), covariance)


def test_discrete_latents_are_drawn_given_the_data() -> None:
    """Σ_c p(c | x) μ_c, for a model that sums the assignment out."""
    model, data = double(GMM.example())
    batch = data.batch(torch.tensor([0, 20, 40]))
    with seeded(4):
        draws = predict(model, Guide(model, data), batch, 20_000)["x"]
    assert draws.shape == (20_000, 3, 4)
    check_mean(draws, (model.responsibilities(batch["x"]) @ model.loc).detach())


class Switch(Model):
    """y ~ Categorical, z | y ~ N(y, 1), x ~ N(z, 0.1)."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(torch.ones(3)))
            z = pyro.sample("z", dist.Normal(1.0 * y, 1.0).expand_by([]))
            return pyro.sample("x", dist.Normal(z + 10.0 * y, 0.1))


@pytest.mark.parametrize("num_samples", [1, 20_000])
def test_discrete_latents_of_the_guide_go_with_their_continuous_ones(num_samples: int) -> None:
    """y ~ q(y | x), z ~ N(100 y, 1): x̃ has mean 110 E y, and sits near a multiple of 110."""
    q = torch.tensor([[0.2, 0.3, 0.5], [0.9, 0.1, 0.0]])

    def guide(batch: Batch) -> None:
        with rows(batch):
            probs = q[batch.index]
            y = pyro.sample("y", dist.Categorical(probs), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(100.0 * y, 1.0))

    with seeded(5):
        draws = predict(Switch(), guide, torch.zeros(2), num_samples)["x"]
    assert draws.shape == (num_samples, 2)
    assert ((draws - 110 * (draws / 110).round()).abs() < 8).all()
    if num_samples > 1:
        check_mean(draws, 110 * q @ torch.arange(3.0))


def components(x: Tensor) -> None:
    """A mixture written for one particle."""
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 9.0).expand([2]).to_event(1))
    with pyro.plate("rows", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(2)))
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        loc = locs[y] + z @ torch.ones(1, 2)
        pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


def test_predictions_of_a_function_that_does_not_vectorise() -> None:
    """Two far components: each row is predicted from its own, z from q."""
    model = plain(components)
    x = Dataset(torch.tensor([[-8.0, -8.0], [8.0, 8.0], [-7.0, -7.0]]))
    Guide(model, x)  # finds the plate

    def guide(batch: Batch) -> None:
        pyro.sample("locs", dist.Delta(torch.tensor([[-8.0, -8.0], [8.0, 8.0]]), event_dim=2))
        with rows(batch, "rows"):
            pyro.sample("z", dist.Normal(0.5, 0.1).expand([len(batch), 1]).to_event(1))

    with seeded(6):
        draws = predict(model, guide, x, 300)["x"]
    assert draws.shape == (300, 3, 2)
    check_mean(draws, torch.tensor([-7.5, 8.5, -7.5]).unsqueeze(-1).expand(3, 2))
    check_mean((draws[..., 0] - draws[..., 1]).square(), torch.full((3,), 0.5))


class Doubled(Model):
    """A deterministic site between z and x."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = pyro.deterministic("loc", 2 * z)
            return pyro.sample("x", dist.Normal(loc, 0.1))


def doubled(x: Tensor) -> None:
    """The same function with ``obs=``, and a factor."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        loc = pyro.deterministic("loc", 2 * z)
        pyro.sample("x", dist.Normal(loc, 0.1), obs=x)
    pyro.factor("tilt", torch.tensor(-1.0))


@pytest.mark.parametrize("make", [Doubled, lambda: plain(doubled)])
def test_deterministic_sites_are_no_predictions(make: Any) -> None:
    """10 000 draws a row of E x̃ = 2 E z and Var x̃ = 4 Var z + 0.01."""
    model, data = make(), Dataset(torch.tensor([-1.0, 0.5, 2.0]))
    guide = Guide(model, data)
    q = guide.distribution(data.batch())
    with seeded(0):
        draws = predict(model, guide, data, 10_000)
    assert list(draws) == ["x"] and draws["x"].shape == (10_000, 3)
    check_mean(draws["x"], 2 * q.mean[:, 0])
    centred = draws["x"] - 2 * q.mean[:, 0]
    check_mean(centred.square(), 4 * q.variance[:, 0] + 0.01)


def test_missing_entries_and_inputs_are_predicted_with_the_rest() -> None:
    model, _ = double(PPCA.example())
    gaps = torch.randn(5, 4)
    gaps[2, 1] = torch.nan
    data = Dataset(gaps, missing=True)
    draws = predict(model, Guide(model, data, "exact"), data.batch(), 10)["x"]
    assert draws.shape == (10, 5, 4) and draws.isfinite().all()
    model, data = double(PoissonPPCA.example())
    counts = predict(model, Guide(model, data), data.batch(), 3)
    assert list(counts) == ["x"] and counts["x"].shape == (3, 50, 4)

    def origin(batch: Batch) -> None:
        with rows(batch):
            pyro.sample("z", dist.Delta(torch.zeros(len(batch), 2), event_dim=1))

    more = data.with_values(exposure=torch.arange(50.0))
    with seeded(7):
        counts = predict(model, origin, more.batch(), 1000)
    check_mean(counts["x"], torch.arange(50.0)[:, None] * model.mean.detach().exp())


def test_predicting_changes_nothing() -> None:
    model, data = double(PPCA.example())
    batch = data.batch()
    before = batch["x"].clone()
    draws = zoo.predict(model, Guide(model, data), batch, 2)["x"]
    assert torch.equal(batch["x"], before) and not draws.requires_grad
    assert not torch.isclose(draws, before).all(-1).any()  # observed rows are no predictions


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, g, d: predict(m, g, d, 0), "num_samples counts draws from 1"),
        (lambda m, g, d: prior_predictive(m, 0), "n counts datapoints from 1"),
        (lambda m, g, d: prior_predictive(plain(components), 3), "a plain function takes its num"),
        (lambda m, g, d: predict(m, lambda _: None, d), r"does not sample \['z'\]"),
    ],
)
def test_mistakes_are_answered_in_words(call: Any, words: str) -> None:
    model, data = double(PPCA.example())
    with pytest.raises(ValueError, match=words):
        call(model, Guide(model, data), data)
