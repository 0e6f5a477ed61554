"""Use of a trained model: imputation in closed form, latent spaces, and the commands."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import zoo
from experiments import cli
from guides import Guide
from zoo.data import Dataset
from zoo.hiding import entry_error, hide
from zoo.imputation import Imputation, column_means, imputation_error, impute
from zoo.latent_space import encode, global_means, great_circle, interpolate, manifold, reconstruct
from zoo.models.conditional_vae import ConditionalVAE
from zoo.models.gmm import GMM
from zoo.models.hierarchical_vae import HierarchicalVAE
from zoo.models.mixture_of_factor_analyzers import MixtureOfFactorAnalyzers
from zoo.models.ppca import PPCA
from zoo.models.toy_dlvm import ToyDLVM
from zoo.models.vade import VaDE
from zoo.models.vae import VAE
from zoo.models.vrnn import VRNN

BAND = 5.5  # standard errors: a right program leaves the band once in 26 million times


class Gaussian(nn.Module):
    """q(z | x) = N(A x + a, s² I) for a model whose only latent is "z"; x as the batch has it."""

    def __init__(self, weight: Tensor, bias: Tensor, scale: float):
        super().__init__()
        self.weight, self.bias, self.scale = weight, bias, scale
        self.masked = ()  # an encoder that has never seen missing entries

    def forward(self, batch) -> None:
        assert not batch.observed
        with pyro.plate("data", len(batch), dim=-1):
            loc = batch["x"] @ self.weight.T + self.bias
            pyro.sample("z", dist.Normal(loc, self.scale).to_event(1))


def lacking(x: Tensor) -> Dataset:
    """Rows whose NaN are missing, also where a column has no entry at all."""
    x = torch.as_tensor(x)
    return Dataset(x.nan_to_num()).replaced({"x": x.nan_to_num()}, {"x": ~x.isnan()}, 1)


def linear() -> tuple[PPCA, Dataset]:
    """PPCA in one latent dimension and 3 of its rows, half of their entries missing."""
    model = PPCA(4, latent_dim=1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0], [0.8], [-0.6], [1.2]]))
        model.mean.copy_(torch.tensor([0.5, -0.5, 0.0, 1.0]))
        model.log_scale.fill_(math.log(0.5))
    x = torch.tensor([[1.0, -0.4, 0.3, 2.0], [-1.0, -1.5, 0.9, -0.5], [2.0, 0.5, -0.9, 2.5]])
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0]]).bool()
    return model, lacking(torch.where(mask, x, torch.nan))


def conditional(model: PPCA, data: Dataset) -> tuple[Tensor, Tensor]:
    """E[x | x_obs] and Var[x | x_obs] of the Gaussian N(μ, W Wᵀ + σ² I), (N, D) each."""
    cov = model.weight @ model.weight.T + torch.eye(4) * (2 * model.log_scale).exp()
    mean, var = data["x"].clone(), torch.zeros_like(data["x"])
    for n, seen in enumerate(data.observed["x"]):
        gain = torch.linalg.solve(cov[seen][:, seen], cov[seen][:, ~seen]).T
        mean[n, ~seen] = model.mean[~seen] + gain @ (data["x"][n, seen] - model.mean[seen])
        var[n, ~seen] = (cov[~seen][:, ~seen] - gain @ cov[seen][:, ~seen]).diagonal()
    return mean.detach(), var.detach()


def effective(found: Imputation) -> Tensor:
    """(N,), of draws by importance."""
    assert found.ess is not None
    return found.ess


def near(samples: Tensor, mean: Tensor, var: Tensor, where: Tensor) -> None:
    """Mean and variance of S independent draws (S, N, D) lie in the band of the truth."""
    count = len(samples)
    off = (samples.mean(0) - mean) / (var / count).sqrt()
    assert off[where].abs().max() < BAND
    off = (samples.var(0) / var - 1) / math.sqrt(2 / count)  # of Gaussian draws
    assert off[where].abs().max() < BAND + 0.5  # the tail of χ² is a little longer


@pytest.mark.parametrize("method", ["importance", "pseudo_gibbs"])
def test_the_exact_posterior_imputes_the_gaussian_conditional(float64, method: Any) -> None:
    model, data = linear()
    guide, hole = Guide(model, data, "exact"), ~data.observed["x"]
    mean, var = conditional(model, data)
    count = {"importance": 2000, "pseudo_gibbs": 60}[method]
    options: Any = {"num_samples": 2000, "burn_in": 40}
    found = impute(model, guide, data, method=method, num_particles=count, **options)
    near(found.samples, mean, var, hole)
    assert torch.equal(found.mean[~hole], data["x"][~hole])
    assert (found.samples == data["x"])[:, ~hole].all()
    # Σ w̃ E[x | z] of 2000 draws, or of 2000 chains: its variance is at most Var[x]/2000.
    assert ((found.mean - mean) / (var / 2000).sqrt())[hole].abs().max() < BAND
    if method == "importance":  # every weight is p(x_obs)
        torch.testing.assert_close(found.ess, torch.full((3,), 2000.0))
    else:
        assert found.ess is None


def test_under_a_wrong_q_importance_is_right_and_pseudo_gibbs_is_not(float64) -> None:
    model, data = linear()
    hole = ~data.observed["x"]
    guide = Gaussian(torch.full((1, 4), 0.15), torch.tensor([0.8]), 1.2)  # reads the filled row
    mean, _ = conditional(model, data)
    right = impute(model, guide, data, num_particles=20_000)
    assert effective(right).min() > 500
    # Self-normalised weights: sd of x given x_obs at most 1.4, so se ≤ 1.4 √(1/ess).
    error = (right.mean - mean)[hole].abs().max()
    assert error < BAND * 1.4 / math.sqrt(float(effective(right).min()))
    wrong = impute(model, guide, data, method="pseudo_gibbs", num_particles=200, num_samples=200)
    assert (wrong.mean - mean)[hole].abs().max() > 0.3  # the chain's own law, far from p(x | x_obs)


def test_importance_meets_quadrature_under_a_bernoulli_decoder(float64) -> None:
    torch.manual_seed(1)
    model = VAE(5, latent_dim=1, hidden=(6,), likelihood="bernoulli")
    for parameter in model.parameters():
        parameter.data.normal_()
    x = torch.tensor([[1.0, 0, 1, 1, 0], [0.0, 1, 1, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]).bool()
    data = lacking(torch.where(mask, x, torch.nan))
    z = torch.linspace(-8, 8, 4001).unsqueeze(-1)
    p = model.decode(z).mean.detach()  # (Z, D)
    score = torch.where(mask, x, 1 - x).unsqueeze(1) * 0  # (2, 1, D)
    score = torch.where(mask.unsqueeze(1), torch.where(x.unsqueeze(1) > 0, p, 1 - p).log(), score)
    share = (score.sum(-1) - z.squeeze(-1).square() / 2).softmax(-1)  # (2, Z)
    truth = torch.where(mask, x, share @ p)
    guide = Gaussian(torch.full((1, 5), 0.1), torch.zeros(1), 1.3)
    found = impute(model, guide, data, num_particles=40_000, num_samples=4000)
    bound = BAND * 0.5 / math.sqrt(float(effective(found).min()))
    assert (found.mean - truth).abs().max() < bound < 0.05
    draws = found.samples
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    # 4000 draws that share at least `ess` proposals.
    assert (draws.mean(0) - truth).abs().max() < bound + BAND * 0.5 / math.sqrt(4000)


def test_pieces_of_particles_give_what_all_at_once_gives(float64) -> None:
    model, data = linear()
    hole, (mean, var) = ~data.observed["x"], conditional(model, data)
    guide = Gaussian(torch.full((1, 4), 0.1), torch.zeros(1), 1.5)
    found = impute(model, guide, data, num_particles=4000, num_samples=4000, max_elements=2000)
    bound = BAND * 1.4 / math.sqrt(float(effective(found).min()))
    assert effective(found).min() > 400 and effective(found).max() < 4000
    assert (found.mean - mean)[hole].abs().max() < bound
    assert (found.samples.mean(0) - mean)[hole].abs().max() < 2 * bound
    # The draws are all of x | x_obs: their spread is that of the conditional.
    assert (found.samples.var(0) / var - 1)[hole].abs().max() < 0.5


@pytest.mark.parametrize("method", ["importance", "pseudo_gibbs"])
@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("inference", ["amortized", "per_datapoint"])
def test_every_source_of_kappa_can_be_asked(method: Any, seen: bool, inference: str) -> None:
    model, data = VAE.example()
    holes = hide(data, fraction=0.4)
    guide = Guide(model, holes if seen else data, inference=inference)
    if inference == "per_datapoint" and not seen:
        with pytest.raises(ValueError, match="guide.infer"):
            impute(model, guide, holes, method=method)
    guide = guide.infer(holes, steps=3)
    found = impute(model, guide, holes, method=method, num_particles=20, num_samples=3, burn_in=2)
    assert found.samples.shape == (3, 20, 6) and bool(found.mean.isfinite().all())
    assert set(found.samples.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("method", ["importance", "pseudo_gibbs"])
@pytest.mark.parametrize("make", [VaDE, MixtureOfFactorAnalyzers, HierarchicalVAE, ConditionalVAE])
def test_discrete_latents_layers_and_inputs_are_no_obstacle(make, method: Any) -> None:
    model, data = make.example()
    holes = hide(data, fraction=0.3)
    family = "exact" if make is MixtureOfFactorAnalyzers else "mean_field"
    options: Any = {"num_particles": 7, "num_samples": 3, "burn_in": 1, "method": method}
    found = impute(model, Guide(model, data, family), holes, **options)
    assert found.samples.shape == (3, *data["x"].shape) and bool(found.mean.isfinite().all())


@pytest.mark.parametrize("method", ["importance", "pseudo_gibbs"])
def test_a_diagonal_mixture_imputes_by_its_responsibilities(float64, method: Any) -> None:
    model = GMM(3, 2, covariance="diagonal")
    with torch.no_grad():
        model.loc.copy_(torch.tensor([[0.0, 0, 0], [2.0, 2, 2]]))
    x = torch.tensor([[0.9, torch.nan, 0.8], [torch.nan, 1.5, torch.nan]])
    data = lacking(x)
    share = model.responsibilities(data["x"], data.observed["x"])
    truth = torch.where(data.observed["x"], data["x"], share @ model.loc).detach()
    guide = Guide(model, data)
    options: Any = {"num_samples": 200, "burn_in": 30}
    sweeps = 2000 if method == "importance" else 60
    found = impute(model, guide, data, method=method, num_particles=sweeps, **options)
    # Draws of y: sd of E[x | y] is at most 1; of pseudo-Gibbs the chains alone are independent.
    count = 2000 if method == "importance" else 200
    assert (found.mean - truth).abs().max() < BAND / math.sqrt(count)


class WithClasses(zoo.Model):
    """y ~ Bernoulli(0.3), z | y ~ N(2 y, 1), x_j | z ~ N(z, 1): two latents, one of them a bit."""

    def forward(self, n):
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Bernoulli(0.3))
            z = pyro.sample("z", dist.Normal(2 * y, 1.0))
            loc = torch.as_tensor(z).unsqueeze(-1).expand(*torch.as_tensor(z).shape, 2)
            return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1))


@pytest.mark.parametrize("marked", [True, False])
def test_a_guide_with_its_own_discrete_site(float64, marked: bool) -> None:
    """E[x_2 | x_1] against the two components, q(y | x) = ½ and q(z | x, y) given."""

    def guide(batch):
        infer: Any = {"enumerate": "parallel"} if marked else {}
        with pyro.plate("data", len(batch), dim=-1):
            y = pyro.sample("y", dist.Bernoulli(torch.full((len(batch),), 0.5)), infer=infer)
            pyro.sample("z", dist.Normal((2 * y + batch["x"][:, 0]) / 2, 1.0))

    x = torch.tensor([[1.0, torch.nan]])
    data, model = lacking(x), WithClasses()
    prior, means = torch.tensor([0.7, 0.3]), torch.tensor([0.0, 2.0])
    share = (prior.log() - (1.0 - means).square() / 4).softmax(0)
    truth = float((share * (means + 1.0) / 2).sum())
    found = impute(model, guide, data, num_particles=20_000)
    assert abs(float(found.mean[0, 1]) - truth) < BAND * 0.9 / math.sqrt(float(effective(found)[0]))
    impute(model, guide, data, method="pseudo_gibbs", num_particles=3, burn_in=0)
    assert reconstruct(model, guide, Dataset(torch.ones(2, 2)), num_draws=2).shape == (2, 2)
    # E[x | z̄] does not depend on y given z.
    z = encode(model, guide, Dataset(torch.ones(2, 2)), num_samples=50)
    assert z.shape == (2, 1)


def test_a_plain_function_is_imputed_too() -> None:
    """One that does not take many particles at once: they are run one by one."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = torch.stack([z.reshape(len(x)), z.reshape(len(x))], -1)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(batch):
        with pyro.plate("data", len(batch), dim=-1):
            pyro.sample("z", dist.Normal(0.5 * batch["x"][:, 0], math.sqrt(0.5)))

    data = lacking(torch.tensor([[2.0, torch.nan], [0.0, torch.nan]]))
    found = impute(zoo.plain(model), guide, data, num_particles=60)  # the exact posterior
    assert effective(found).min() > 59
    assert (found.mean[:, 1] - torch.tensor([1.0, 0.0])).abs().max() < BAND * math.sqrt(0.5 / 60)


def test_what_cannot_be_imputed_says_so() -> None:
    model, data = PPCA.example()
    guide = Guide(model, data)
    with pytest.raises(ValueError, match="no missing entries"):
        impute(model, guide, data)
    holes = hide(data)
    with pytest.raises(ValueError, match="pseudo_gibbs"):
        impute(model, guide, holes, method="gibbs")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="count from 1"):
        impute(model, guide, holes, num_samples=0)
    shared, rows = zoo.registry.resolve("models", "bayesian_ppca").example()
    with pytest.raises(ValueError, match="all share"):
        impute(shared, Guide(shared, rows), hide(rows))
    sequence, rows = VRNN.example()
    ends = torch.ones_like(rows["x"], dtype=torch.bool)
    ends[:, -1] = False
    short = rows.replaced(rows.values, {"x": ends}, 1)
    with pytest.raises(ValueError, match="depend on each other"):
        impute(sequence, Guide(sequence, short), short, num_particles=2)
    far = lacking(torch.tensor([[1e30, 0.0, 0.0, torch.nan]]))
    with pytest.raises(ValueError, match="any probability"):
        impute(PPCA(4), Gaussian(torch.zeros(2, 4), torch.zeros(2), 1.0), far, num_particles=5)


class TestHide:
    def test_nothing_of_what_is_hidden_stays(self) -> None:
        data = Dataset(torch.arange(24.0).reshape(4, 6), feature_names=list("abcdef"))
        holes = hide(data, fraction=0.5, seed=3)
        mask = holes.observed["x"]
        assert not (holes["x"] == data["x"])[~mask & mask.any(0) & (mask.cumsum(0) > 0)].any()
        assert torch.equal(holes["x"][mask], data["x"][mask])
        assert holes.feature_names == data.feature_names
        assert holes.fingerprint != data.fingerprint != hide(data, fraction=0.2).fingerprint

    def test_what_was_missing_stays_missing(self) -> None:
        x = torch.arange(24.0).reshape(4, 6)
        x[0, 0] = torch.nan
        holes = hide(Dataset(x, missing=True), fraction=0.1)
        assert not holes.observed["x"][0, 0]

    @pytest.mark.parametrize("region", ["top", "bottom", "left", "right", "centre"])
    def test_regions(self, region: str) -> None:
        data = Dataset(torch.rand(3, 64), image_shape=(8, 8))
        mask = hide(data, region, 0.25).observed["x"].reshape(3, 8, 8)
        assert float((~mask).float().mean()) == 0.25 and (mask[0] == mask[2]).all()
        inside = {
            "top": mask[0, :2],
            "bottom": mask[0, 6:],
            "left": mask[0, :, :2],
            "right": mask[0, :, 6:],
            "centre": mask[0, 2:6, 2:6],
        }[region]
        assert not inside.any()

    def test_errors_are_words(self) -> None:
        data = Dataset(torch.rand(3, 4))
        for region, fraction, words in (
            ("middle", 0.5, "region is one of"),
            ("random", 1.0, "between 0 and 1"),
            ("top", 0.5, "no images"),
            ("random", 1e-9, "no entry"),
        ):
            with pytest.raises(ValueError, match=words):
                hide(data, region, fraction)
        with pytest.raises(ValueError, match="no entry"):
            hide(Dataset(torch.rand(3, 4), image_shape=(2, 2)), "top", 0.1)

    def test_the_error_and_its_standard_error(self, float64) -> None:
        """Over rows of independent errors N(0, 0.5²): the RMSE is 0.5, its se σ/√(2 M)."""
        truth = torch.zeros(2000, 10)
        error = entry_error(truth, 0.5 * torch.randn(2000, 10), torch.rand(2000, 10) < 0.3)
        se = 0.5 / math.sqrt(2 * error.count)
        assert abs(error.rmse - 0.5) < BAND * se and 0.8 < error.rmse_se / se < 1.2
        assert error.wrong is not None and abs(error.wrong - 0.5 * math.erfc(math.sqrt(2))) < 0.5

    def test_observed_entries_do_not_count(self) -> None:
        truth, mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[True, False]] * 2)
        found = Imputation(torch.tensor([[9.0, 0.6], [9.0, 0.9]]), truth[None], None)
        error = imputation_error(truth, found, mask)
        assert error.count == 2 and error.wrong == 0.5
        assert error.rmse == pytest.approx(math.sqrt((0.36 + 0.01) / 2))

    def test_means_of_columns(self) -> None:
        x = torch.tensor([[1.0, torch.nan, 4.0], [3.0, torch.nan, 4.0]])
        assert column_means(lacking(x)).tolist() == [2.0, 3.0, 4.0]  # the second from all of them


class TestLatentSpace:
    def test_codes_of_ppca_are_its_posterior_means(self, float64) -> None:
        model, data = PPCA.example()
        mean = model.posterior(data["x"]).mean
        for inference in ("exact", "mean_field"):
            guide = Guide(model, data, inference)
            if inference == "exact":
                torch.testing.assert_close(encode(model, guide, data, batch_size=7), mean)
            else:
                z = encode(model, guide, data)
                torch.testing.assert_close(z, guide.distribution(data.batch()).mean)

    def test_reconstructions_of_ppca(self, float64) -> None:
        model, data = PPCA.example()
        guide = Guide(model, data, "exact")
        mean = model.posterior(data["x"]).mean @ model.weight.T + model.mean
        torch.testing.assert_close(reconstruct(model, guide, data, batch_size=9), mean)
        drawn = reconstruct(model, guide, data, num_draws=100)
        spread = model.posterior(data["x"]).covariance_matrix[0]
        sd = (model.weight @ spread @ model.weight.T).diagonal().sqrt() / 10
        assert ((drawn - mean) / sd).abs().max() < BAND

    def test_mixtures_reconstruct_by_p_of_y_given_both(self, float64) -> None:
        model = GMM(3, 2, covariance="diagonal")
        with torch.no_grad():
            model.loc.copy_(torch.tensor([[0.0, 0, 0], [2.0, 2, 2]]))
        data = Dataset(torch.tensor([[0.9, 1.0, 0.8], [2.0, 2.0, 1.0]]))
        mean = model.responsibilities(data["x"]) @ model.loc
        torch.testing.assert_close(reconstruct(model, Guide(model, data), data), mean)
        with pytest.raises(ValueError, match="no latent space"):
            encode(model, Guide(model, data), data)

    def test_a_line_goes_from_row_to_row(self, float64) -> None:
        model, data = PPCA.example()
        guide, a, b = Guide(model, data, "exact"), data.subset([0, 1, 2]), data.subset([3, 4, 5])
        path = interpolate(model, guide, a, b, steps=3)
        ends = [reconstruct(model, guide, part) for part in (a, b)]
        torch.testing.assert_close(path[:, 0], ends[0])
        torch.testing.assert_close(path[:, 2], ends[1])
        torch.testing.assert_close(path[:, 1], (ends[0] + ends[1]) / 2)  # the model is affine
        curved = interpolate(model, guide, a, b, steps=3, spherical=True)
        torch.testing.assert_close(curved[:, [0, 2]], path[:, [0, 2]])
        with pytest.raises(ValueError, match="as many rows"):
            interpolate(model, guide, a, b.subset([0]))

    def test_great_circles(self, float64) -> None:
        a, b = torch.nn.functional.normalize(torch.randn(2, 6, 5), dim=-1)
        for t in (0.0, 0.3, 1.0):
            point = great_circle(a, b, torch.tensor(t))
            torch.testing.assert_close(point.norm(dim=-1), torch.ones(6))
            angles = ((a * point).sum(-1).clamp(-1, 1).acos(), (a * b).sum(-1).acos())
            torch.testing.assert_close(angles[0], t * angles[1], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(great_circle(a, 2 * a, torch.tensor(0.5)), 1.5 * a)

    def test_a_manifold_is_the_grid_through_the_decoder(self, float64) -> None:
        model, _ = ToyDLVM.example()
        x = manifold(model, 3, quantiles=(0.1, 0.9), batch_size=4)
        q = 1.2815515655446004  # Φ⁻¹(0.9)
        z = torch.tensor([[a, b] for b in (q, 0, -q) for a in (-q, 0, q)])
        torch.testing.assert_close(x, model.decode(z).mean)

    def test_of_many_dimensions_two_are_chosen(self, float64) -> None:
        model = VAE(6, latent_dim=4, hidden=(5,), likelihood="bernoulli", prior="mixture:3")
        with pytest.raises(ValueError, match="has 4 dimensions"):
            manifold(model, 3)
        for dims in ((0, 4), (1, 1), (0, 1, 2)):
            with pytest.raises(ValueError, match="dims names one or two"):
                manifold(model, 3, dims=dims)
        prior = model.prior()
        x = manifold(model, 3, dims=(3, 0))
        z = prior.mean.clone()
        torch.testing.assert_close(x[4], model.decode(z).mean)  # in the middle
        z[3] += prior.variance[3].sqrt() * 1.6448536269514722
        torch.testing.assert_close(x[5], model.decode(z).mean)
        assert manifold(model, 5, dims=(2,)).shape == (5, 6)

    def test_layers_inputs_and_components(self) -> None:
        layers, _ = HierarchicalVAE.example()
        assert manifold(layers, 3).shape == (9, 6)
        given, data = ConditionalVAE.example()
        ones = manifold(given, 3, inputs={"y": 1})
        z = torch.zeros(1, 2)
        torch.testing.assert_close(ones[4:5], given.decode(z, torch.tensor([1])).mean)
        with pytest.raises(ValueError, match="needs the input 'y'"):
            manifold(given, 3)
        clusters, _ = VaDE.example()
        assert manifold(clusters, 3).shape == (9, 6)
        with pytest.raises(ValueError, match="no latent space"):
            manifold(GMM.example()[0], 3)

    def test_latents_that_all_rows_share_stand_at_their_means(self) -> None:
        model, data = zoo.registry.resolve("models", "bayesian_ppca").example()
        guide = Guide(model, data)
        with pytest.raises(ValueError, match="global_means"):
            manifold(model, 3, dims=(0, 1))
        held = global_means(model, guide, data)
        assert manifold(model, 3, dims=(0, 1), held=held).shape == (9, data.event_shape()[0])
        assert reconstruct(model, guide, data).shape == data["x"].shape
        assert interpolate(model, guide, data, data, steps=2).shape[:2] == (len(data), 2)

    @pytest.mark.parametrize("make", [VaDE, HierarchicalVAE, ConditionalVAE, VRNN])
    def test_every_deep_model_can_be_used(self, make) -> None:
        model, data = make.example()
        guide = Guide(model, data)
        event = data.event_shape()
        assert reconstruct(model, guide, data).shape == data["x"].shape
        assert reconstruct(model, guide, data, num_draws=2).shape == data["x"].shape
        a, b = data.subset([0, 1]), data.subset([2, 3])
        assert interpolate(model, guide, a, b, steps=3).shape == (2, 3, *event)
        assert len(encode(model, guide, data)) == len(data)

    def test_the_top_layer_comes_first(self) -> None:
        model, data = HierarchicalVAE.example()  # of 2 and 3 latents
        guide = Guide(model, data)
        z = encode(model, guide, data)
        assert z.shape == (20, 5)
        drawn = guide.posterior(data.batch(), 2000)
        sd = drawn.sd["z2"] / math.sqrt(100) + drawn.sd["z2"] / math.sqrt(2000)
        assert ((z[:, :2] - drawn.mean["z2"]) / sd).abs().max() < BAND + 0.5


def test_public_names_are_functions() -> None:
    for name in ("encode", "reconstruct", "interpolate", "manifold", "impute"):
        assert isinstance(getattr(zoo, name), Callable)  # type: ignore[arg-type]


QUICK = ["--steps", "3", "--eval-particles", "2", "--infer-steps", "2", "--device", "cpu"]


LINES = {
    "encode": ["--num-rows", "40"],
    "reconstruct": ["--num-rows", "4"],
    "interpolate": ["--num-pairs", "2", "--steps", "3"],
    "manifold": ["--size", "3"],
    "impute": ["--num-particles", "5", "--num-rows", "4", "--burn-in", "1"],
}


def use(command: str, run: Path, out: Path, *more: str) -> set[str]:
    """Runs a command; returns the names of the files that it wrote."""
    line = [command, str(run), *LINES[command], "--device", "cpu", "--out", str(out)]
    assert cli.main([*line, *more]) == 0
    return {path.name for path in out.iterdir()}


def test_images_from_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a table: test rows are fitted first."""
    run = tmp_path / "run"
    words = ["vae", "--data", "digits", "--inference", "per_datapoint", "--model.hidden", "8"]
    words += ["--model.latent-dim", "3", "--model.likelihood", "gaussian", "--out", str(run)]
    assert cli.main(["fit", *words, *QUICK, "--eval-rows", "20"]) == 0
    capsys.readouterr()
    for name in ("reconstruct", "interpolate", "manifold", "impute"):
        dims = ["--dims", "0,2"] if name == "manifold" else []
        assert use(name, run, tmp_path / name, *dims) == {f"{name}.npz", f"{name}.png"}
    files = {"features.npy", "labels.npy", "rows.npy", "encode.png"}
    assert use("encode", run, tmp_path / "encode") == files
    said = capsys.readouterr().out
    assert "column means  RMSE" in said and "pseudo-Gibbs  RMSE" in said
    assert np.load(tmp_path / "encode" / "features.npy").shape == (40, 3)
    with np.load(tmp_path / "impute" / "impute.npz") as file:
        assert file["pseudo_gibbs.samples"].shape == (10, 4, 64)
        mask = file["observed"]
        assert np.array_equal(file["importance.mean"][mask], file["x"][mask])
    with np.load(tmp_path / "interpolate" / "interpolate.npz") as file:
        assert file["mean"].shape == (2, 3, 64) and file["rows"].shape == (2, 2)
    assert cli.main(["manifold", str(run), "--device", "cpu"]) == 2
    assert "--dims 0,1" in capsys.readouterr().err


def test_columns_from_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    words = ["ppca", "--data", "iris", "--family", "exact"]
    assert cli.main(["fit", *words, *QUICK, "--out", str(run)]) == 0
    for name in ("interpolate", "impute"):
        assert use(name, run, tmp_path / name) == {f"{name}.npz", f"{name}.png"}
    assert cli.main(["impute", str(run), "--region", "top", "--device", "cpu"]) == 2
    assert "no images" in capsys.readouterr().err
    assert cli.main(["encode", str(run), "--num-rows", "0", "--device", "cpu"]) == 2
