"""Ordinary Pyro functions as models: plates, parameters kept at home, particles."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

from guides import Guide
from zoo.context import seeded
from zoo.data import Batch, Dataset
from zoo.functions import plain
from zoo.model import Model, as_model, observe, rows
from zoo.nets import affine, select
from zoo.objectives.bounds import elbo, iwae
from zoo.particles import vectorizes
from zoo.predictive import predict
from zoo.testing import check_model
from zoo.weights import log_weights

pytestmark = pytest.mark.usefixtures("float64")

N = 7


def data(n: int = N) -> Dataset:
    with seeded(n):
        return Dataset(torch.randn(n, 2))


def normal(x: Tensor) -> None:
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def test_the_data_plate_is_found() -> None:
    model = plain(normal)
    with pytest.raises(RuntimeError, match="before the first run"):
        _ = model.plate
    model.resolve(data().batch())
    assert model.plate == "rows"
    model.resolve(data().batch(torch.tensor([2, 1])))  # once is enough


def two_plates(x: Tensor, size: int = N) -> None:
    with pyro.plate("parts", size):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(loc.sum(-1, keepdim=True), 1.0).expand([2]).to_event(1), obs=x)


def no_plate(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0).expand([len(x), 2]).to_event(2), obs=x)


def subsampled(x: Tensor) -> None:
    with pyro.plate("rows", len(x), subsample_size=3) as index:
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1), obs=x[index])


def other_size(x: Tensor) -> None:
    with pyro.plate("rows", 100):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def nested(x: Tensor) -> None:
    with pyro.plate("rows", len(x), dim=-1), pyro.plate("columns", 2, dim=-2):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x.mT)


def to_the_left(x: Tensor) -> None:
    with pyro.plate("rows", len(x), dim=-2):
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1), obs=x.unsqueeze(-2))


def hard(y: Tensor) -> None:
    with pyro.plate("rows", len(y)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=y)


@pytest.mark.parametrize(
    ("fn", "plate", "words"),
    [
        (two_plates, None, r"7 rows and 2 plates have that size .*'parts': 7.*plate=…"),
        (no_plate, None, "7 rows and 0 plates have that size"),
        (normal, "row", r"no plate is called 'row'.*'rows': 7"),
        (subsampled, "rows", "'rows' has size 7 for a batch of 7 rows.* without subsampling"),
        (other_size, "rows", "'rows' has size 100 for a batch of 7"),
        (nested, None, r"'x' stands in the nested plates \[.*'columns'.*to_event"),
        (to_the_left, None, "only the data plate at dim=-1"),
        (hard, None, r"\['x'\] in the data match no argument .* it takes \['y'\]"),
    ],
)
def test_plates_that_do_not_fit_are_refused_in_words(
    fn: Any, plate: str | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        plain(fn, plate).resolve(data().batch())


def test_the_data_plate_can_be_named() -> None:
    model = plain(two_plates, plate="rows")
    guide = Guide(model, data())
    assert guide.latents.global_.names == ("loc",)
    assert log_weights(model, guide, data().batch(), 3, 2).local.shape == (2, 3, N)


def test_only_functions_are_plain() -> None:
    with pytest.raises(TypeError, match="expects a Pyro function, got int"):
        plain(3)  # type: ignore[arg-type]
    assert isinstance(as_model(normal), Model)


def test_a_function_needs_its_arguments() -> None:
    with pytest.raises(ValueError, match=r"needs \['target'\], but the batch has \['x'\]"):
        plain(Regression()).resolve(data().batch())


class Hand(Model):
    """μ_c ~ N(0, 4), y_n ~ Categorical, z_n ~ N(0, 1), x_n ~ N(μ_{y_n} + z_n a, 1)."""

    def forward(self, n: int) -> Tensor:
        locs = pyro.sample("locs", dist.Normal(0.0, 2.0).expand([3, 2]).to_event(2))
        a = torch.tensor([[1.0], [-0.5]])
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(torch.ones(3)))
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            loc = select(locs, y, event_dim=1) + affine(z, a)
            return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1))


def mixture(x: Tensor) -> None:
    """The same, as one writes it for one particle: an index, a plate of components."""
    with pyro.plate("components", 3):
        locs = pyro.sample("locs", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(3)))
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        loc = locs[y] + z @ torch.tensor([[1.0, -0.5]])
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(("S", "K"), [(1, 1), (1, 4), (2, 1), (3, 4), (3, 3), (N, N)])
def test_functions_that_do_not_vectorise_get_the_right_weights(S: int, K: int) -> None:
    """The draws of the one, replayed in the other."""
    model, batch = plain(mixture), data().batch()
    assert vectorizes(Hand(), batch)
    guide = Guide(model, data(), global_options={"init_scale": 1.0})
    if S * K > 1:
        assert not vectorizes(model, batch)
    with torch.no_grad():
        weights = log_weights(model, guide, batch, K, S)
    locs = weights.values["locs"].reshape(S, 1, 1, 3, 2)
    z = weights.values["z"].reshape(S, K, N, 1)

    def replay(batch: Batch) -> None:
        flat = weights.log_q_global.reshape(S, 1, 1)
        pyro.sample("locs", dist.Delta(locs, flat, event_dim=2))
        with rows(batch):
            log_q = weights.log_q.reshape(-1, S, K, N)[0]
            pyro.sample("z", dist.Delta(z, log_q, event_dim=1))

    by_hand = log_weights(Hand(), replay, batch, K, S)
    assert weights.local.shape == by_hand.local.shape == (3, S, K, N)
    torch.testing.assert_close(weights.local, by_hand.local)
    torch.testing.assert_close(weights.summed, by_hand.summed)
    torch.testing.assert_close(weights.global_, by_hand.global_)
    assert len(weights.local.flatten().unique()) == weights.local.numel()


def test_functions_that_vectorise_run_once() -> None:
    calls = []

    def counted(x: Tensor) -> None:
        calls.append(1)
        normal(x)

    model = plain(counted)
    guide = Guide(model, data())
    assert vectorizes(model, data().batch())
    calls.clear()
    log_weights(model, guide, data().batch(), 50)
    assert len(calls) == 1


def broadcasts_wrongly(x: Tensor) -> None:
    """Runs with particles, and means something else then."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        loc = z.reshape(-1)[: len(x)]
        pyro.sample("x", dist.Normal(loc.unsqueeze(-1), 1.0).expand([len(x), 2]).to_event(1), obs=x)


@pytest.mark.parametrize("first", [1, 2, N])
def test_a_function_that_runs_and_means_something_else_is_seen(first: int) -> None:
    """However few rows the first batch has."""
    model, guide = plain(broadcasts_wrongly), Guide(plain(broadcasts_wrongly), data())
    log_weights(model, guide, data().batch(torch.arange(first)), 4)
    with torch.no_grad():
        weights = log_weights(model, guide, data().batch(), 4)
    z = weights.values["z"].reshape(4, N)
    log_p = dist.Normal(z.unsqueeze(-1), 1.0).log_prob(data()["x"]).sum(-1)
    expected = log_p + dist.Normal(0.0, 1.0).log_prob(z) - weights.log_q[0]
    torch.testing.assert_close(weights.log_weight, expected)


def with_param(x: Tensor) -> None:
    scale = pyro.param("scale", torch.tensor(0.7), constraint=constraints.positive)
    shift = pyro.param("net.shift", lambda: torch.zeros(2))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1) + shift, scale).to_event(1), obs=x)


def module_function() -> Any:
    net = nn.Linear(1, 2)

    def with_module(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1.0).to_event(1), obs=x)

    return with_module


class WithPyroModule(PyroModule):
    """Parameters of every kind that Pyro has."""

    def __init__(self) -> None:
        super().__init__()
        self.net = PyroModule[nn.Linear](1, 2)
        self.scale = PyroParam(torch.tensor(0.7), constraint=constraints.positive)

    @PyroParam
    def shift(self) -> Tensor:
        return torch.zeros(2)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z) + self.shift, self.scale).to_event(1), obs=x)


def captured() -> Any:
    net = WithPyroModule()

    def around(x: Tensor) -> None:
        net(x)

    return around


FUNCTIONS = {
    "param": (lambda: with_param, 2),
    "module": (module_function, 2),
    "PyroModule": (WithPyroModule, 4),
    "captured PyroModule": (captured, 4),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_parameters_stay_at_home_and_are_trained(name: str) -> None:
    """They are the model's, gradients reach them, and Pyro's global store stays empty."""
    make, count = FUNCTIONS[name]
    model, batch = plain(make()), data().batch()
    guide = Guide(model, data())
    parameters = dict(model.named_parameters())
    assert len(parameters) == count, parameters.keys()
    optimizer = torch.optim.SGD([*model.parameters(), *guide.parameters()], lr=0.02)
    before = {n: p.detach().clone() for n, p in parameters.items()}
    with seeded(0):
        first = float(iwae(model, guide, batch, num_particles=100).detach())
    for _ in range(30):
        optimizer.zero_grad()
        elbo(model, guide, batch, num_particles=10).backward()
        slopes = {n: p.grad for n, p in parameters.items()}
        assert all(s is not None and s.any() for s in slopes.values()), slopes
        optimizer.step()
    assert all(not torch.equal(before[n], p) for n, p in parameters.items())
    with seeded(0):
        assert float(iwae(model, guide, batch, num_particles=100).detach()) < first - 0.05
    assert dict(model.named_parameters()).keys() == parameters.keys()
    assert not list(pyro.get_param_store().keys())
    if name in ("param", "PyroModule"):  # what a function captures is no part of a copy of it
        check_model(model, data())
    other = plain(make())
    observe(other)(batch)
    other.load_state_dict(model.state_dict())
    for n, parameter in other.named_parameters():
        torch.testing.assert_close(parameter, parameters[n])


def test_a_function_as_it_is_stands_for_one_model() -> None:
    """Given without ``plain``, in any place, its parameters are the same."""

    def scaled(x: Tensor) -> None:
        with_param(x)

    batch = data().batch()
    guide = Guide(scaled, data(), "mean_field", "per_datapoint")
    assert as_model(scaled) is guide.model and plain(scaled) is not guide.model
    elbo(scaled, guide, batch).backward()
    (scale, shift) = guide.model.parameters()
    assert scale.grad is not None and shift.grad is not None
    assert as_model(with_param) is not guide.model


def half_labelled(x: Tensor, y: Tensor | None = None) -> None:
    """Takes particles where y is given; joins z to y in a way that takes none where it is not."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        if y is None:
            y = pyro.sample("y", dist.Categorical(torch.ones(3)))
            one_hot = torch.nn.functional.one_hot(y, 3).to(z)
            shape = torch.broadcast_shapes(one_hot.shape[:-1], (len(x),))
            loc = torch.cat([one_hot.expand(*shape, 3), z.expand(*shape, 2)], -1).sum(-1)
        else:
            loc = z.sum(-1) + pyro.sample("y", dist.Categorical(torch.ones(3)), obs=y)
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


@pytest.mark.parametrize("labelled_first", [True, False])
def test_particles_are_tried_for_each_set_of_names(labelled_first: bool) -> None:
    model = plain(half_labelled)
    x = torch.randn(6)
    with_y, without = Dataset({"x": x, "y": torch.arange(6) % 3}), Dataset(x)

    def guide(batch: Batch) -> None:
        with rows(batch, "rows"):
            pyro.sample("z", dist.Normal(torch.zeros(len(batch), 2), 1.0).to_event(1))

    for data in (with_y, without) if labelled_first else (without, with_y):
        assert log_weights(model, guide, data.batch(), 4).log_weight.shape == (4, 6)
    assert model.vectorized == {frozenset({"x", "y"}): True, frozenset({"x"}): False}


def tilted(x: Tensor) -> None:
    """Deterministic sites and factors beside the rest."""
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        loc = pyro.deterministic("loc", z.unsqueeze(-1) + torch.ones(2), event_dim=1)
        pyro.factor("tilt", 0.3 * z)
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("K", [1, 5])
def test_deterministic_sites_and_factors(K: int) -> None:
    model, batch = plain(tilted), data().batch()
    guide = Guide(model, data())
    weights = log_weights(model, guide, batch, K)
    z = weights.values["z"].reshape(K, N)
    log_p = dist.Normal(z.unsqueeze(-1) + 1, 1.0).log_prob(batch["x"]).sum(-1)
    expected = log_p + dist.Normal(0.0, 1.0).log_prob(z) + 0.3 * z - weights.log_q[0]
    torch.testing.assert_close(weights.log_weight, expected)
    assert predict(model, guide, batch, K)["x"].shape == (K, N, 2)


def test_a_parameter_without_a_value_is_asked_for() -> None:
    def nameless(x: Tensor) -> None:
        pyro.param("lost")
        normal(x)

    with pytest.raises(ValueError, match="parameter 'lost' has no initial value"):
        plain(nameless).resolve(data().batch())


class Regression(PyroModule):
    """Global latents written as PyroSample."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = PyroSample(dist.Normal(0.0, 1.0).expand([2]).to_event(1))

    def forward(self, x: Tensor, target: Tensor) -> None:
        loc = (x * self.weight).sum(-1)
        with pyro.plate("rows", len(x)):
            pyro.sample("target", dist.Normal(loc, 1.0), obs=target)


def test_bayesian_regression_with_its_inputs() -> None:
    """x is an argument, no site; the evidence is that of the closed form."""
    x = data()["x"]
    target = x @ torch.tensor([1.0, -1.0]) + 0.1
    pairs = Dataset({"x": x, "target": target})
    precision = torch.eye(2) + x.mT @ x
    loc = torch.linalg.solve(precision, x.mT @ target)

    def posterior(batch: Batch) -> None:
        pyro.sample("weight", dist.MultivariateNormal(loc, precision_matrix=precision))

    weights = log_weights(plain(Regression()), posterior, pairs.batch(), 1, 5)
    covariance = torch.eye(N) + x @ x.mT
    evidence = dist.MultivariateNormal(torch.zeros(N), covariance).log_prob(target)
    total = weights.global_ + weights.local.sum((1, 2))
    torch.testing.assert_close(total, evidence.expand(5))


def optional(x: Tensor, y: Tensor | None = None) -> None:
    with pyro.plate("rows", len(x)):
        label = pyro.sample("y", dist.Bernoulli(0.3), obs=y)
        pyro.sample(
            "x", dist.Normal(2 * label.unsqueeze(-1) + torch.zeros(2), 1.0).to_event(1), obs=x
        )


def test_an_observation_of_none_is_latent() -> None:
    x, y = data()["x"], torch.tensor([0.0, 1, 1, 0, 1, 0, 0])
    terms = torch.stack(
        [
            dist.Normal(2.0 * c, 1.0).log_prob(x).sum(-1)
            + dist.Bernoulli(0.3).log_prob(torch.tensor(c))
            for c in (0.0, 1.0)
        ]
    )
    free = log_weights(plain(optional), lambda _: None, Dataset(x).batch())
    torch.testing.assert_close(free.log_weight[0], terms.logsumexp(0))
    given = log_weights(plain(optional), lambda _: None, Dataset({"x": x, "y": y}).batch())
    torch.testing.assert_close(given.log_weight[0], terms.gather(0, y.long()[None])[0])


def test_bad_observations_are_refused_by_name() -> None:
    bad = data().batch()
    bad.values["x"] = torch.where(torch.arange(N)[:, None] == 3, torch.nan, bad["x"])
    with pytest.raises(ValueError, match="'x' has NaN or Inf in rows .3."):
        observe(plain(normal))(bad)


def test_missing_entries_of_functions_are_integrated_out() -> None:
    x = data(2)["x"].clone()
    x[0, 1] = torch.nan
    gaps = Dataset(x, missing=True)
    with seeded(0):
        guide = Guide(plain(normal), gaps, "mean_field", "per_datapoint")
    weights = log_weights(plain(normal), guide, gaps.batch(), 3)
    z = weights.values["z"]  # (3, 2, 2)
    each = torch.where(gaps.observed["x"], dist.Normal(z, 1.0).log_prob(gaps["x"]), 0.0).sum(-1)
    prior = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(weights.log_weight, each + prior - weights.log_q[0])


def test_a_mask_needs_a_site_of_its_name() -> None:
    def renamed(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            pyro.sample("obs", dist.Normal(0.0, 1.0).expand([2]).to_event(1), obs=x)

    gaps = Dataset(torch.tensor([[1.0, torch.nan], [0.0, 1.0]]), missing=True)
    with pytest.raises(ValueError, match=r"\['x'\] have missing entries; name the observed site"):
        observe(plain(renamed))(gaps.batch())
