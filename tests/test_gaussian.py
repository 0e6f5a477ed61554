"""Gaussian guides keep their digits in float32, also where L is badly conditioned."""

import pytest
import torch

from guides.families.full_rank import FullRank
from guides.families.low_rank import LowRank
from guides.gaussian import Gaussian, LowRankGaussian


def bad_tril(d: int) -> torch.Tensor:
    """Unit lower triangular with random entries: its condition number grows exponentially in d."""
    torch.manual_seed(0)
    return torch.randn(d, d).tril(-1) + torch.eye(d)


def test_a_draw_has_the_density_of_its_noise() -> None:
    """In 60 dimensions the inverse of L would lose every digit; the noise does not."""
    tril = bad_tril(60)
    q = Gaussian(torch.zeros(60), scale_tril=tril)
    own = q.expand((1000,))
    value = own.rsample()
    density = own.log_prob(value)
    # E log q = -d/2 (1 + log 2π) - Σ log L_ii, and Var log q = d/2: se = sqrt(30/1000) = 0.17.
    expected = -30 * (1 + torch.log(torch.tensor(2 * torch.pi)))
    assert abs(density.mean() - expected) < 6 * (30 / 1000) ** 0.5
    naive = torch.distributions.MultivariateNormal(torch.zeros(60), scale_tril=tril)
    assert (naive.log_prob(value) - density).abs().max() > 50  # nats: what this class is for


@pytest.mark.parametrize("batch", [(), (3,)])
def test_given_values_have_the_dense_density(float64: None, batch: tuple[int, ...]) -> None:
    loc, tril = torch.randn(*batch, 4), bad_tril(4)
    q = Gaussian(loc, scale_tril=tril.expand(*batch, 4, 4))
    z = torch.randn(7, *batch, 4)
    dense = torch.distributions.MultivariateNormal(loc, scale_tril=tril)
    torch.testing.assert_close(q.log_prob(z), dense.log_prob(z))
    own = q.rsample()
    torch.testing.assert_close(q.log_prob(own), dense.log_prob(own))


def test_gradient_of_a_draws_density(float64: None) -> None:
    """d log q(m + L ε; m, L) along the path: 0 in m, -1/L_ii on the diagonal, 0 below it."""
    loc = torch.randn(3, requires_grad=True)
    tril = bad_tril(3).requires_grad_()
    q = Gaussian(loc, scale_tril=tril)
    to_loc, to_tril = torch.autograd.grad(q.log_prob(q.rsample()), [loc, tril], allow_unused=True)
    assert to_loc is None or to_loc.abs().max() < 1e-12
    torch.testing.assert_close(to_tril, -torch.eye(3))


def test_low_rank_in_float32_agrees_with_float64() -> None:
    torch.manual_seed(0)
    factor, diag = 100 * torch.randn(20, 3), torch.full((20,), 1e-2)
    q = LowRankGaussian(torch.zeros(20), factor, diag)
    z = q.expand((50,)).rsample()
    wide = torch.distributions.LowRankMultivariateNormal(
        torch.zeros(20).double(), factor.double(), diag.double()
    )
    torch.testing.assert_close(q.log_prob(z), wide.log_prob(z.double()).float())


@pytest.mark.parametrize("family", [FullRank, LowRank])
def test_families_stay_finite_under_particles(family) -> None:
    made = family(30, init_scale=0.1)
    kappa = made.initial() + 2 * torch.randn(5, made.num_params)
    q = made(kappa).expand((4, 5))
    assert q.log_prob(q.rsample()).isfinite().all()
