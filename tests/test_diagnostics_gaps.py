"""The gap of a bound taken apart, against Gaussians whose every part is known."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from guides import Guide, search
from guides.copied import Copied
from guides.search import Search
from zoo.data import Batch, Dataset
from zoo.diagnostics.gaps import difference, gaps
from zoo.estimate import Estimate
from zoo.models.gmm import GMM
from zoo.models.hierarchical_vae import HierarchicalVAE
from zoo.models.m2 import M2
from zoo.models.ppca import PPCA
from zoo.models.vrnn import VRNN

D, DIM, N = 5, 3, 12
FAST = {"steps": 250, "lr": 0.1}


def linear(n: int = N) -> tuple[PPCA, Dataset]:
    """A PPCA model in float64 with correlated latents, and rows drawn from it."""
    generator = torch.Generator().manual_seed(3)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    model = PPCA(D, DIM).double()
    with torch.no_grad():
        model.weight.copy_(randn(D, DIM))
        model.mean.copy_(randn(D))
        model.log_scale.fill_(math.log(0.5))
        x = randn(n, DIM) @ model.weight.T + model.mean + 0.5 * randn(n, D)
    return model, Dataset(x)


def precision(model: PPCA) -> Tensor:
    """Λ of p(z | x), the same for every x."""
    variance = (2 * model.log_scale.detach()).exp()
    return model.weight.detach().T @ model.weight.detach() / variance + torch.eye(DIM).double()


def smallest(model: PPCA) -> float:
    """The approximation gap of a Gaussian with a diagonal covariance: ½ (Σ log Λ_ii − log |Λ|)."""
    Λ = precision(model)
    return 0.5 * float(Λ.diagonal().log().sum() - Λ.logdet())


def kl(model: PPCA, guide: Guide, data: Dataset) -> Tensor:
    """(N,): KL(q(z | x) ‖ p(z | x)) in closed form."""
    with torch.no_grad():
        q, p = guide.distribution(data.batch()), model.posterior(data["x"])
        cov = q.covariance_matrix if hasattr(q, "covariance_matrix") else q.variance.diag_embed()
        q = MultivariateNormal(q.mean, cov)
        return kl_divergence(q, MultivariateNormal(p.mean, p.covariance_matrix))


def at_the_optimum(model: PPCA, data: Dataset) -> Guide:
    """A linear encoder with the best mean-field q of every row: N(E[z | x], diag 1/Λ_ii)."""
    guide = Guide(model, data, "mean_field", "amortized", inference_options={"hidden": ()})
    source, Λ = guide.source, precision(model)
    layer = source.encoder[0]
    gain = torch.linalg.solve(Λ, model.weight.detach().T) / (2 * model.log_scale.detach()).exp()
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:DIM] = gain * source.spread
        layer.bias[:DIM] = gain @ (source.center - model.mean)
        layer.bias[DIM:] = Λ.diagonal().rsqrt().expm1().log() - source.start[DIM:]
    return guide


def close(found: Estimate, exact: Tensor, slack: float = 0.0) -> None:
    """Within six standard errors, for the mean and for every row (one false alarm in 10⁷)."""
    assert abs(found.mean - exact.mean().item()) < 6 * found.se + slack
    assert ((found.rows - exact).abs() < 6 * found.error + 10 * slack).all()


class TestLinearGaussian:
    def test_mean_field_lacks_the_correlations(self) -> None:
        model, data = linear()
        guide = Guide(model, data, "mean_field", "amortized")  # as it starts: far too wide
        found = gaps(model, guide, data, num_draws=2000, **FAST)
        star = kl(model, found.best, data)
        assert (star > smallest(model) - 1e-9).all()  # nothing is better than the best
        assert star.mean() < smallest(model) + 2e-3
        close(found.approximation, star)
        before = kl(model, guide, data)
        assert before.mean() > 1  # trained too little
        close(found.amortization, before - star)
        close(found.total, before)
        assert (found.evidence_is, found.is_lower_bound) == ("exact", False)
        parts = found.approximation.rows + found.amortization.rows
        torch.testing.assert_close(parts, found.total.rows)
        assert found.as_dict()["amortization_is"] == "amortization gap"

    def test_a_linear_encoder_at_its_optimum_has_no_amortization_gap(self) -> None:
        model, data = linear()
        guide = at_the_optimum(model, data)
        exact = torch.full((N,), smallest(model), dtype=torch.float64)
        torch.testing.assert_close(kl(model, guide, data), exact)
        found = gaps(model, guide, data, num_draws=2000, steps=50, lr=0.01)
        close(found.amortization, torch.zeros(N), slack=1e-4)
        close(found.approximation, exact, slack=1e-4)

    @pytest.mark.parametrize("inference", ["amortized", "per_datapoint", "semi_amortized"])
    def test_full_rank_lacks_nothing(self, inference: str) -> None:
        model, data = linear()
        guide = Guide(model, data, "full_rank", inference)
        found = gaps(model, guide, data, num_draws=200, **FAST)
        assert kl(model, found.best, data).max() < 1e-3
        assert abs(found.approximation.mean) < 1e-3 and found.approximation.error.max() < 1e-2
        if inference != "semi_amortized":  # whose κ is random
            close(found.amortization, kl(model, guide, data))

    def test_the_exact_posterior_has_no_gaps(self) -> None:
        model, data = linear()
        found = gaps(model, Guide(model, data, "exact"), data, num_draws=20)
        for gap in (found.approximation, found.amortization, found.total):
            assert gap.rows.abs().max() < 1e-9

    def test_a_search_that_does_not_rise_ends(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, data = linear()
        guide = at_the_optimum(model, data)
        monkeypatch.setattr(search, "WINDOW", 5)
        monkeypatch.setattr(search, "PATIENCE", 2)
        loss_of, calls = Search._losses, []

        def counted(self: Search, batch: Batch, kappa: Tensor, num_particles: int) -> Tensor:
            calls.append(kappa.requires_grad)
            return loss_of(self, batch, kappa, num_particles)

        monkeypatch.setattr(Search, "_losses", counted)
        best = guide.optimal(data, steps=500, lr=1e-4, schedule="constant")
        assert 10 < sum(calls) < 300 and sum(calls) % 5 == 0
        assert kl(model, best, data).mean() < smallest(model) + 1e-4

    def test_rows_of_other_data(self) -> None:
        """Of a table's own rows it starts at their κ; of others it starts at the mean."""
        model, data = linear(40)
        guide = Guide(model, data, "full_rank", "per_datapoint")
        with torch.no_grad():
            guide.source.table.weight.normal_()
        found = gaps(model, guide, data, num_draws=100, num_rows=7, steps=5)
        assert len(found.index) == len(found.total.rows) == 7
        few = data.only(found.index)
        before = kl(model, guide, data)[found.index]
        assert (kl(model, found.best, few) <= before + 0.3).all()
        close(found.total, before)
        with pytest.raises(ValueError, match="rows that this table was not made for"):
            found.best(data.batch())
        other = Dataset(data["x"] + 1)
        assert guide.optimal(other, steps=5).source.table.weight.shape == (40, 9)


class TestSharedWeights:
    @pytest.mark.parametrize("word", ["iaf:2", "realnvp:2", "planar:2", "planar:2+iaf:1"])
    def test_copies_of_the_weights_are_the_flow(self, word: str) -> None:
        """With the same θ in every row the draws and their densities are those of the flow."""
        model, data = linear()
        options = {"flow": "shared"} if "+" not in word else {}
        guide = Guide(model, data, word, family_options=options)
        copied = Copied(guide.family)
        kappa = guide.source(data.batch(), None).detach()
        theta = copied.weights(guide.family)
        wide = torch.cat([kappa, theta.expand(N, -1)], -1)
        assert copied.num_params == wide.shape[-1]
        draws = []
        for q in (guide.family(kappa), copied(wide)):
            torch.manual_seed(0)
            z = q.expand((4, N)).rsample()
            draws.append((z, q.log_prob(z)))
        torch.testing.assert_close(draws[0], draws[1])

    def test_each_row_has_its_own_copy(self) -> None:
        model, data = linear()
        guide = Guide(model, data, "iaf:1", family_options={"hidden": (4,), "context_dim": 2})
        copied = Copied(guide.family)
        kappa = torch.cat(
            [guide.source(data.batch(), None), torch.randn(N, copied.num_params - 8).double()], -1
        )
        kappa = kappa.detach().requires_grad_()
        q = copied(kappa)
        (slope,) = torch.autograd.grad(q.rsample()[3].sum(), kappa)
        touched = slope.abs().sum(-1).nonzero().flatten()
        assert touched.tolist() == [3]

    def test_an_iaf_loses_by_sharing(self) -> None:
        model, data = linear(6)
        guide = Guide(model, data, "iaf:1", family_options={"hidden": (8,), "context_dim": 2})
        found = gaps(model, guide, data, num_draws=1000, steps=100, lr=0.05)
        assert not found.shared_weights
        assert found.amortization.mean > 3 * found.amortization.se
        assert found.approximation.mean > -6 * found.approximation.se
        assert found.best.family.num_params > guide.family.num_params

    def test_layers_keep_what_they_share(self) -> None:
        data = Dataset((torch.rand(6, 9) > 0.5).float())
        model = HierarchicalVAE.for_data(data, latent_dims=(3, 2), widths=(8, 8))
        for inference, shared in (("bottom_up", True), ("top_down", False)):
            guide = Guide(model, data, "mean_field", inference)
            found = gaps(model, guide, data, num_draws=300, steps=40, lr=0.05)
            assert found.shared_weights == shared
            assert found.amortization.mean > -6 * found.amortization.se
            assert found.is_lower_bound and found.evidence_is.startswith("IWAE_300 under q")
            name = "amortization gap" + ", flow weights shared" * shared
            assert found.as_dict()["amortization_is"] == name

    def test_a_classifier_is_shared_and_every_label_has_its_best_q(self) -> None:
        data = Dataset((torch.rand(6, 9) > 0.5).float())
        model = M2.for_data(data, num_classes=3, latent_dim=2, hidden=(8,))
        guide = Guide(model, data, inference="amortized", estimator="enumerate")
        found = gaps(model, guide, data, num_draws=300, steps=40, lr=0.05)
        assert found.shared_weights
        assert found.best.source.table.weight.shape == (18, 4)
        assert found.amortization.mean > -6 * found.amortization.se


class TestEvidence:
    def test_a_lower_bound_that_is_given_is_believed(self) -> None:
        model, data = linear(30)
        exact = model.log_evidence(data["x"]).detach()

        class Blind(PPCA):
            log_evidence = None  # type: ignore[assignment]

        blind = Blind(D, DIM).double()
        blind.load_state_dict(model.state_dict())
        guide = Guide(blind, data, "mean_field")
        given = Estimate(exact - 0.25, torch.full((30,), 0.1))
        options = {"num_draws": 100, "num_rows": 5, "steps": 3}
        found = gaps(blind, guide, data, evidence=given, **options)
        assert (found.evidence_is, found.is_lower_bound) == ("given", False)
        torch.testing.assert_close(found.evidence.rows, exact[found.index] - 0.25)
        assert (found.total.error > 0.1).all()
        bounded = gaps(blind, guide, data, **options)
        assert bounded.evidence_is.startswith("IWAE_100 under q") and bounded.is_lower_bound
        assert bounded.evidence.mean < exact[bounded.index].mean() + 6 * bounded.evidence.se
        with pytest.raises(ValueError, match="of 3 rows and the data have 30"):
            gaps(blind, guide, data, evidence=Estimate(exact[:3], exact[:3]), **options)

    def test_independent_errors_add(self) -> None:
        one = Estimate(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 0.0]), 0.6)
        two = Estimate(torch.tensor([1.0, 1.0]), torch.tensor([4.0, 2.0]), 0.8)
        found = difference(one, two)
        assert found.rows.tolist() == [2, 4] and found.error.tolist() == [5, 2]
        assert found.shared == pytest.approx(1.0)

    def test_the_same_seed_gives_the_same_numbers_and_leaves_the_random_state(self) -> None:
        model, data = linear()
        guide = Guide(model, data, "mean_field")
        before = torch.get_rng_state()
        first, second, other = (
            gaps(model, guide, data, num_draws=50, steps=5, seed=seed) for seed in (0, 0, 1)
        )
        assert torch.get_rng_state().equal(before)
        assert first.amortization.rows.equal(second.amortization.rows)
        assert not first.amortization.rows.equal(other.amortization.rows)

    def test_nothing_trained_is_changed(self) -> None:
        model, data = linear()
        guide = Guide(model, data, "iaf:1", family_options={"hidden": (4,), "context_dim": 2})
        before = [p.clone() for p in (*model.parameters(), *guide.parameters())]
        guide.optimal(data, steps=5)
        after = [*model.parameters(), *guide.parameters()]
        assert all(map(torch.equal, before, after))
        assert all(p.requires_grad and p.grad is None for p in after)


def test_what_has_no_gaps_is_refused() -> None:
    model, data = linear()

    def plain(batch) -> None:
        with pyro.plate("data", len(batch), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(DIM).double(), 1.0).to_event(1))

    with pytest.raises(ValueError, match="plain function; use guides.Guide"):
        gaps(model, plain, data)
    with pytest.raises(ValueError, match="point mass"):
        gaps(model, Guide(model, data, "delta"), data)
    mixture = GMM(D).double()
    with pytest.raises(ValueError, match="no continuous latents of the rows"):
        gaps(mixture, Guide(mixture, data), data)
    guide = Guide(model, data)
    with pytest.raises(ValueError, match="counts rows from 1"):
        gaps(model, guide, data, num_rows=0)
    with pytest.raises(ValueError, match="are positive"):
        guide.optimal(data, steps=0)
    with pytest.raises(ValueError, match="cosine or constant, got 'linear'"):
        guide.optimal(data, schedule="linear")
    sequences = Dataset(torch.randn(4, 3, 2))
    rolled = VRNN.for_data(sequences, latent_dim=2, recurrent_dim=4, hidden=(4,), features=4)
    with pytest.raises(ValueError, match="Recurrent has no parameters of its own for a row"):
        Guide(rolled, sequences).optimal(sequences)


@pytest.mark.cuda
def test_on_cuda() -> None:
    model, data = linear()
    here = gaps(model, Guide(model, data, "full_rank"), data, num_draws=200, **FAST)
    model.cuda()
    guide = Guide(model, data, "iaf:1", family_options={"hidden": (8,), "context_dim": 2})
    found = gaps(model, guide, data.to("cuda"), num_draws=500, steps=100, lr=0.05)
    assert found.amortization.rows.is_cuda
    assert found.evidence.mean == pytest.approx(here.evidence.mean, abs=1e-9)
    assert found.amortization.mean > -6 * found.amortization.se
