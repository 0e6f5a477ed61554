"""Scales and powers act inside the data plate alone."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

from zoo.context import factory, validation
from zoo.data import Batch, Dataset
from zoo.handlers import Temper
from zoo.model import Model, observe, rows
from zoo.objectives.bounds import elbo
from zoo.weights import log_weights


class Shared(Model):
    """g ~ N(0, 1), z_n ~ N(g, 1), x_n ~ N(z_n, 1)."""

    def forward(self, n: int) -> torch.Tensor:
        g = pyro.sample("g", dist.Normal(0.0, 1.0))
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(g, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0))


class Fixed(nn.Module):
    """Point masses, so that every figure below is exact."""

    def forward(self, batch: Batch) -> None:
        pyro.sample("g", dist.Delta(torch.tensor(0.3)))
        with rows(batch):
            pyro.sample("z", dist.Delta(0.5 * batch["x"]))


@pytest.fixture
def data(float64: None) -> Dataset:
    return Dataset(torch.tensor([0.4, -1.2, 2.0, 0.1]))


def parts(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log p(g), log p(z_n | g) and log p(x_n | z_n) at the point masses."""
    normal, z = torch.distributions.Normal, 0.5 * x
    g = torch.tensor(0.3)
    return (
        normal(0.0, 1.0).log_prob(g),
        normal(g, 1.0).log_prob(z),
        normal(z, 1.0).log_prob(x),
    )


def test_a_minibatch_scales_rows_and_not_globals(data: Dataset) -> None:
    index = torch.tensor([1, 3])
    log_g, log_z, log_x = parts(data["x"])
    trace = poutine.trace(observe(Shared())).get_trace  # the scale shows in a stock trace
    with torch.no_grad():
        scales = {n: s["scale"] for n, s in trace(data.batch(index)).nodes.items() if "scale" in s}
    assert scales["x"] == scales["z"] == 2.0
    assert scales["g"] == 1.0
    expected = log_g + 2 * (log_z + log_x)[index].sum()
    stock = -Trace_ELBO().differentiable_loss(observe(Shared()), Fixed(), data.batch(index))
    torch.testing.assert_close(stock, expected)
    ours = -elbo(Shared(), Fixed(), data.batch(index)) * len(data)
    torch.testing.assert_close(ours, expected)


def test_log_weights_are_unscaled(data: Dataset) -> None:
    log_g, log_z, log_x = parts(data["x"])
    weights = log_weights(Shared(), Fixed(), data.batch(torch.tensor([1, 3])))
    torch.testing.assert_close(weights.local[0, 0], (log_z + log_x)[[1, 3]])
    torch.testing.assert_close(weights.global_[0], log_g)


@pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
def test_tempering_touches_the_likelihood_alone(data: Dataset, beta: float) -> None:
    log_g, log_z, log_x = parts(data["x"])
    with Temper(beta):
        weights = log_weights(Shared(), Fixed(), data.batch())
    torch.testing.assert_close(weights.local[0, 0], log_z + beta * log_x)
    torch.testing.assert_close(weights.global_[0], log_g)


def test_a_model_on_another_device_makes_its_numbers_there() -> None:
    """On `meta` nothing is computed, so only places and types are seen; floats, whole numbers."""
    with factory(torch.device("meta"), torch.float64), validation(False):
        normal = dist.Normal(0.0, 1.0).expand_by([3])
        assert normal.loc.device.type == torch.ones(2).device.type == "meta"
        assert normal.loc.dtype == torch.float64
        assert torch.tensor(2).dtype == torch.int64 and torch.tensor(True).dtype == torch.bool
    assert dist.Normal(0.0, 1.0).loc.device.type == "cpu"
    assert torch.get_default_dtype() == torch.float32
