"""What the latents are used for, against the closed forms of probabilistic PCA."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from guides.guide import Guide
from zoo.context import seeded
from zoo.data import Batch, Dataset
from zoo.latent_use import active_units, latent_kl, mutual_information
from zoo.model import Model, rows
from zoo.models.gmm import GMM
from zoo.models.hierarchical_vae import HierarchicalVAE
from zoo.models.m1m2 import M1M2
from zoo.models.m2 import M2
from zoo.models.ppca import PPCA
from zoo.models.vade import VaDE
from zoo.predictive import prior_predictive
from zoo.weights import log_weights

pytestmark = pytest.mark.usefixtures("float64")

N = 1000


@pytest.fixture(scope="module")
def known() -> tuple[PPCA, Dataset]:
    """PPCA in five dimensions with three latents, the last of which does nothing, and its data."""
    with seeded(3):
        model = PPCA(5, latent_dim=3).double()
        with torch.no_grad():
            model.weight.mul_(2.0)
            model.weight[:, 2] = 0.0
            model.log_scale.fill_(math.log(0.5))
        return model, Dataset(prior_predictive(model, N)["x"].double())


def kl_of(model: PPCA, data: Dataset) -> Tensor:
    """(N,): KL(p(z | x) ‖ N(0, I)) = ½ (tr V + |m|² − d − log |V|)."""
    q = model.posterior(data["x"])
    V, m = q.covariance_matrix, q.mean
    return 0.5 * (V.diagonal(dim1=-2, dim2=-1).sum(-1) + (m**2).sum(-1) - 3 - V.logdet()).detach()


def test_the_kl_of_the_exact_posterior(known: Any) -> None:
    """32 000 draws: their mean log q − log p, within 6 of its standard errors."""
    model, data = known
    found = latent_kl(model, Guide(model, data, "exact"), data)
    assert found.names == found.whole == ("z",)
    truth = kl_of(model, data)
    assert abs(found.total.mean - truth.mean().item()) < 6 * found.total.se
    away = (found.total.rows - truth) / found.total.error
    assert 0.8 < away.std() < 1.25  # 31 degrees of freedom a row, 1000 rows
    torch.testing.assert_close(found.units[0], found.total.rows.mean())
    assert 0 < found.error[0] == pytest.approx(found.total.se)


def test_the_kl_of_independent_gaussians_is_in_closed_form(known: Any) -> None:
    model, data = known
    guide = Guide(model, data)
    found = latent_kl(model, guide, data, num_samples=2)
    q: Any = guide.distribution(data.batch())
    m, s = q.base_dist.loc, q.base_dist.scale
    truth = 0.5 * (m**2 + s**2 - 1 - 2 * s.log()).detach()
    assert found.names == ("z[0]", "z[1]", "z[2]") and not found.whole
    torch.testing.assert_close(found.units, truth.mean(0))
    torch.testing.assert_close(found.total.rows, truth.sum(1))
    assert found.total.se == 0 and not found.error.any()
    assert found.as_dict()["not_by_unit"] == []


def test_mean_kl_is_information_plus_marginal_kl(known: Any) -> None:
    """I(x; z) = ½ log |I + WᵀW/σ²| = 3.1: 1000 rows are enough to see it, log N being 6.9.

    I_q(n; z) of N rows falls short of I(x; z) as log N nears; the band is 6 standard errors, and
    0.15 for that.
    """
    model, data = known
    found = mutual_information(model, Guide(model, data, "exact"), data)
    W, variance = model.weight.detach(), (2 * model.log_scale).exp().detach()
    truth = 0.5 * torch.logdet(torch.eye(3) + W.mT @ W / variance).item()
    assert 2 < truth < 4 < found.log_n == math.log(N)
    assert abs(found.kl.mean - kl_of(model, data).mean().item()) < 6 * found.kl.se
    assert abs(found.information.mean - truth) < 6 * found.information.se + 0.15
    assert found.kl.mean == pytest.approx(found.information.mean + found.marginal_kl.mean)
    assert abs(found.marginal_kl.mean) < 0.5
    fewer = mutual_information(model, Guide(model, data, "exact"), data, num_rows=10)
    assert fewer.num_rows == 10 and fewer.information.mean < fewer.log_n == math.log(10)


def test_information_by_hand() -> None:
    """Four rows whose q are far apart: I = log 4, and KL(q̄ ‖ p) is what is left."""
    x = torch.tensor([[-30.0], [-10.0], [10.0], [30.0]])

    class Line(Model):
        def forward(self, n: int) -> Tensor:
            with pyro.plate("data", n, dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 20.0).expand([1]).to_event(1))
                return pyro.sample("x", dist.Normal(z, 1.0).to_event(1))

    def guide(batch: Batch) -> None:
        with rows(batch):
            pyro.sample("z", dist.Normal(batch["x"], 1.0).to_event(1))

    found = mutual_information(Line(), guide, x, max_elements=4)
    assert found.information.mean == pytest.approx(math.log(4), abs=1e-12)
    kl = latent_kl(Line(), guide, x)
    torch.testing.assert_close(
        kl.total.rows, 0.5 * (x[:, 0] ** 2 / 400 + 1 / 400 - 1 + math.log(400))
    )
    chunked = mutual_information(Line(), guide, x, max_elements=10**6)
    assert chunked.information.mean == pytest.approx(found.information.mean)


def test_a_collapsed_direction_is_inactive(known: Any) -> None:
    model, data = known
    found = active_units(model, Guide(model, data, "exact"), data)
    assert found.names == ("z[0]", "z[1]", "z[2]") and not found.sampled
    truth = model.posterior(data["x"]).mean.var(0).detach()
    torch.testing.assert_close(found.variance, truth)
    assert found.active.tolist() == [True, True, False] and found.count == 2
    assert found.as_dict()["active"] == 2 and found.as_dict()["of"] == 3


def test_means_from_draws_lose_the_variance_of_the_draws(known: Any) -> None:
    """20 draws of 1000 rows; uncorrected the collapsed unit would have 1/20, above 0.01."""
    model, data = known

    class Veiled(dist.MultivariateNormal):
        @property
        def mean(self) -> Tensor:
            raise NotImplementedError

    def guide(batch: Batch) -> None:
        q = model.posterior(batch["x"])
        with rows(batch):
            pyro.sample("z", Veiled(q.loc, scale_tril=q.scale_tril))

    found = active_units(model, guide, data, num_samples=20)
    assert found.sampled and found.count == 2
    truth = model.posterior(data["x"]).mean.var(0).detach()
    # var of the estimate: that of a sample variance of N rows, of truth + 1/20 at most
    se = (truth + model.posterior(data["x"]).variance[0].detach() / 20) * (2 / N) ** 0.5
    assert ((found.variance - truth).abs() < 6 * se).all()


def test_layers_are_units_given_the_ones_above() -> None:
    model, data = HierarchicalVAE.example()
    model, data = model.double(), data.to(dtype=torch.float64)
    guide = Guide(model, data)
    kl = latent_kl(model, guide, data, num_samples=200)
    assert set(kl.names) == {"z1[0]", "z1[1]", "z1[2]", "z2[0]", "z2[1]"}
    assert kl.total.mean == pytest.approx(kl.units.sum().item())
    units = active_units(model, guide, data)
    assert set(units.names) == set(kl.names)
    found = mutual_information(model, guide, data)
    # the same mean KL by draws, 20 of them, and by closed forms given 200 draws of the layers
    assert abs(found.kl.mean - kl.total.mean) < 6 * math.hypot(found.kl.se, kl.total.se)
    assert found.information.mean <= found.log_n


def test_layers_drawn_from_the_bottom_up_are_no_closed_forms() -> None:
    """q(z1 | x) q(z2 | z1) under p(z1 | z2): log q − log p at the draws, 4000 of each of 20 rows.

    E over z2 of KL(q(z1 | x) ‖ p(z1 | z2)) would be another number, here by 12 standard errors.
    """
    torch.manual_seed(0)
    model, data = HierarchicalVAE.example()
    model, data = model.double(), data.to(dtype=torch.float64)
    guide = Guide(model, data)
    with torch.no_grad():
        for parameter in (*model.parameters(), *guide.parameters()):
            parameter.add_(0.7 * torch.randn_like(parameter))
        weights = log_weights(model, guide, data.batch(), 4000)
        rows = (weights.log_likelihood - weights.local)[0]  # (K, B)
    se = float(rows.var(0).sum().sqrt()) / len(data) / math.sqrt(4000)
    kl = latent_kl(model, guide, data, num_samples=4000)
    assert abs(kl.total.mean - float(rows.mean())) < 6 * math.hypot(se, kl.total.se)


@pytest.mark.parametrize("make", [M2, M1M2])
def test_classes_have_a_unit_of_their_own(make: type[M2] | type[M1M2]) -> None:
    """Units sum to KL(q(y, z | x) ‖ p(y, z)); that of y is a sum over its values."""
    torch.manual_seed(1)
    model, data = make.example()
    model, data = model.double(), data.to(dtype=torch.float64)
    guide = Guide(model, data)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        weights = log_weights(model, guide, data.batch(), 4000)
        log_q = weights.log_q_enum
        log_q = log_q[:, None, None] if log_q.dim() == 2 else log_q
        excess = weights.log_likelihood - weights.local + log_q  # (C, 1, K, B)
        rows = (log_q.exp() * excess).sum(0)[0]
    kl = latent_kl(model, guide, data, num_samples=4000)
    assert kl.names[0] == "y" and not kl.whole
    assert kl.total.mean == pytest.approx(kl.units.sum().item())
    se = float(rows.var(0).sum().sqrt()) / len(data) / math.sqrt(4000)
    assert abs(kl.total.mean - float(rows.mean())) < 6 * math.hypot(se, kl.total.se)
    if make is M2:  # everything is known in closed form
        q = guide.classify(data.batch())["y"]
        entropy = -(q * q.log()).sum(-1).mean()
        assert kl.units[0].item() == pytest.approx(float(math.log(3) - entropy))
        assert kl.total.se == 0


def test_a_summed_out_component_is_so_in_the_prior() -> None:
    """The KL from the mixture p(z), 2000 draws of each of 20 rows."""
    model, data = VaDE.example()
    model, data = model.double(), data.to(dtype=torch.float64)
    guide = Guide(model, data)
    kl = latent_kl(model, guide, data, num_samples=2000)
    assert kl.names == kl.whole == ("z",)
    with torch.no_grad():
        q = guide.distribution(data.batch())
        z = q.sample((4000,))
        truth = (q.log_prob(z) - model.prior().log_prob(z)).mean(0)
    assert ((kl.total.rows - truth).abs() < 9 * kl.total.error).all()
    assert active_units(model, guide, data).variance.shape == (2,)
    assert mutual_information(model, guide, data).num_rows == 20


@pytest.mark.parametrize("inference", ["per_datapoint", "semi_amortized"])
def test_tables_and_refined_encoders_are_judged_too(known: Any, inference: str) -> None:
    model, data = known
    guide = Guide(model, data.subset(range(30)), inference=inference)
    data = data.subset(range(30))
    found = mutual_information(model, guide, data, num_rows=20)
    assert found.num_rows == 20 and math.isfinite(found.kl.mean)
    assert math.isfinite(latent_kl(model, guide, data).total.mean)
    assert active_units(model, guide, data).count >= 0


def test_what_cannot_be_done_is_refused_in_words(known: Any) -> None:
    model, data = known
    point = Guide(model, data, "delta")
    with pytest.raises(ValueError, match="point mass"):
        latent_kl(model, point, data)
    with pytest.raises(ValueError, match="point mass"):
        mutual_information(model, point, data)
    assert active_units(model, point, data).variance.shape == (3,)
    with pytest.raises(ValueError, match="two draws"):
        latent_kl(model, Guide(model, data), data, num_samples=1)
    with pytest.raises(ValueError, match="two rows"):
        active_units(model, Guide(model, data), data.subset([0]))
    gmm, flowers = GMM.example()
    with pytest.raises(ValueError, match="no continuous latents"):
        active_units(gmm, Guide(gmm, flowers), flowers)
    with pytest.raises(ValueError, match="scores only its own draws"):
        mutual_information(model, Guide(model, data, "hamiltonian"), data)
