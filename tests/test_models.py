"""What the models say they know, against dense formulas, enumeration and published values."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from zoo.data import Dataset
from zoo.model import Model
from zoo.models.bayesian_gmm import BayesianGMM
from zoo.models.bayesian_ppca import BayesianPPCA
from zoo.models.factor_analysis import FactorAnalysis
from zoo.models.gmm import GMM
from zoo.models.mixture_of_factor_analyzers import MixtureOfFactorAnalyzers
from zoo.models.poisson_ppca import PoissonPPCA
from zoo.models.ppca import PPCA
from zoo.sources import load_data

pytestmark = pytest.mark.usefixtures("float64")

D, B = 4, 6
ALL = [BayesianGMM, BayesianPPCA, FactorAnalysis, GMM, MixtureOfFactorAnalyzers, PoissonPPCA, PPCA]
GLOBALS = ("alpha", "weight", "mean", "scale", "weights", "locs", "scales", "correlation")
LINEAR = [PPCA, FactorAnalysis]


def perturbed(model: Model) -> Model:
    """Every parameter moved, so that no special start hides a mistake."""
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def masks() -> Tensor:
    """(B, D) bool: all present, some missing, none present."""
    observed = torch.rand(B, D) < 0.6
    observed[0], observed[1] = True, False
    return observed


def site_log_probs(model: Model, n: int, **values: Tensor) -> dict[str, Tensor]:
    """log p of every site of the model at the given values."""
    trace = poutine.trace(poutine.condition(model, values)).get_trace(n)
    trace.compute_log_prob()
    return {name: site["log_prob"] for name, site in trace.nodes.items() if name in values}


def joint(model: Model, **values: Tensor) -> Tensor:
    """(B,): log p of all sites of each row."""
    return sum(site_log_probs(model, B, **values).values(), torch.zeros(()))


def moments(model: PPCA | FactorAnalysis) -> tuple[Tensor, Tensor]:
    """W and the dense covariance of x."""
    W = model.weight.detach()
    noise = model.uniquenesses if isinstance(model, FactorAnalysis) else (2 * model.log_scale).exp()
    return W, W @ W.mT + (noise * torch.ones(D)).diag().detach()


@pytest.mark.parametrize("kind", LINEAR)
def test_linear_gaussian_against_dense_conditioning(kind: type) -> None:
    model, x = perturbed(kind(D, latent_dim=2)), 2 * torch.randn(B, D)
    W, cov = moments(model)
    evidence = dist.MultivariateNormal(model.mean, cov).log_prob(x)
    torch.testing.assert_close(model.log_evidence(x), evidence)
    q = model.posterior(x)
    gain = W.mT @ torch.linalg.inv(cov)
    torch.testing.assert_close(q.mean, (x - model.mean) @ gain.mT)
    expected = (torch.eye(2) - gain @ W).expand(B, 2, 2)
    torch.testing.assert_close(q.covariance_matrix, expected)
    z = torch.randn(B, 2)
    torch.testing.assert_close(q.log_prob(z) + evidence, joint(model, z=z, x=x))


@pytest.mark.parametrize("kind", LINEAR)
def test_linear_gaussian_with_missing_entries(kind: type) -> None:
    model, x, observed = perturbed(kind(D, latent_dim=2)), torch.randn(B, D), masks()
    W, cov = moments(model)
    x[~observed] = 1e6  # must play no part
    evidence, q = model.log_evidence(x, observed), model.posterior(x, observed)
    for n, m in enumerate(observed):
        part = dist.MultivariateNormal(model.mean[m], cov[m][:, m])
        expected = part.log_prob(x[n, m]) if m.any() else torch.zeros(())
        torch.testing.assert_close(evidence[n], expected)
        gain = W[m].mT @ torch.linalg.inv(cov[m][:, m])
        torch.testing.assert_close(q.mean[n], gain @ (x[n, m] - model.mean[m]))
        torch.testing.assert_close(q.covariance_matrix[n], torch.eye(2) - gain @ W[m])


@pytest.mark.parametrize("kind", ALL)
def test_simulations_are_scored_per_row(kind: type) -> None:
    model, data = kind.example()
    model.double()
    x = model(len(data))
    assert x.shape == data["x"].shape
    assert x.dtype == torch.float64
    trace = poutine.trace(model).get_trace(5)
    trace.compute_log_prob()
    inside = [site for site in trace.nodes.values() if site.get("cond_indep_stack")]
    assert all(site["log_prob"].shape == (5,) for site in inside)
    assert all(site["log_prob"].isfinite().all() for site in inside)
    if hasattr(model, "log_evidence"):
        evidence = model.log_evidence(x)
        assert evidence.shape == (len(data),)
        assert evidence.isfinite().all()


@pytest.mark.parametrize(("S", "K"), [(1, 1), (3, 4), (B, B)])
@pytest.mark.parametrize("kind", [BayesianPPCA, BayesianGMM])
def test_global_latents_broadcast(kind: type, S: int, K: int) -> None:
    """Sites at globals (S, 1, 1) and locals (S, K, B) are those of each draw alone."""
    model, x = kind(D), torch.randn(B, D)
    traces = [poutine.trace(model).get_trace(B) for _ in range(S)]
    globals_ = {
        name: torch.stack([trace.nodes[name]["value"] for trace in traces])[:, None, None]
        for name in traces[0].nodes
        if name in GLOBALS
    }
    if kind is BayesianPPCA:
        locals_ = {"z": torch.randn(S, K, B, 2)}
    else:
        locals_ = {"y": torch.arange(3).reshape(3, 1, 1, 1)}
    got = site_log_probs(model, B, x=x, **globals_, **locals_)
    for s in range(S):
        for k in range(K):
            ours = {name: value[s, 0, 0] for name, value in globals_.items()}
            if kind is BayesianPPCA:
                alone = site_log_probs(model, B, x=x, z=locals_["z"][s, k], **ours)
                torch.testing.assert_close(got["x"][s, k], alone["x"])
            else:
                for c in range(3):
                    alone = site_log_probs(model, B, x=x, y=torch.full((B,), c), **ours)
                    torch.testing.assert_close(got["x"].expand(3, S, K, B)[c, s, k], alone["x"])
            for name in ours:
                torch.testing.assert_close(got[name][s, 0, 0], alone[name])


def test_relevance_prior_is_a_student_t() -> None:
    """∫ Gamma(α; a, b) Π_i N(w_i; 0, 1/α) dα, by quadrature over log α."""
    model = BayesianPPCA(3, latent_dim=1)
    w = torch.tensor([[0.3], [-0.5], [0.1]])
    grid = torch.linspace(-20.0, 12.0, 4001)  # log α
    terms = site_log_probs(model, 1, alpha=grid.exp().unsqueeze(-1), weight=w)
    log_density = (terms["alpha"] + terms["weight"] + grid).logsumexp(0) + (grid[1] - grid[0]).log()
    t = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3))  # for its constant
    a, b, half = torch.tensor(1.0), torch.tensor(0.05), 1.5
    expected = a * b.log() - (a + half) * (b + w.square().sum() / 2).log()
    expected += torch.lgamma(a + half) - torch.lgamma(a) + t.log_prob(torch.zeros(3))
    torch.testing.assert_close(log_density, expected)


def test_poisson_rates_and_exposure() -> None:
    model, counts = perturbed(PoissonPPCA(D)), torch.randint(9, (B, D)).double()
    z, exposure = torch.randn(B, 2), 0.5 + torch.rand(B)
    with poutine.condition(data={"z": z, "x": counts}):
        trace = poutine.trace(model).get_trace(B, exposure=exposure)
    trace.compute_log_prob()
    rate = exposure[:, None] * (z @ model.weight.mT + model.mean).exp()
    expected = torch.distributions.Poisson(rate).log_prob(counts).sum(-1)
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], expected)
    data = Dataset({"x": counts, "exposure": exposure})
    start = PoissonPPCA.for_data(data, init="mean").mean
    torch.testing.assert_close(start.exp(), (counts.sum(0) + 0.5) / exposure.sum())


@pytest.mark.parametrize(
    ("kind", "name", "latent_dim", "train", "test"),
    [
        (PPCA, "iris", 2, -3.6258, -3.9644),
        (PPCA, "wine", 2, -16.2531, -16.0075),
        (PPCA, "wine", 5, -15.3075, -15.1841),
        (PPCA, "digits", 10, 17.4973, 17.0235),
        (FactorAnalysis, "wine", 2, -15.5791, -15.1023),
    ],
)
def test_maximum_likelihood_start(
    kind: type, name: str, latent_dim: int, train: float, test: float
) -> None:
    data = load_data(name)
    assert data.test is not None
    x, held_out = data.train["x"], data.test["x"]
    model = kind.for_data(data.train, latent_dim=latent_dim, init="ml")
    assert model.log_evidence(x).mean().item() == pytest.approx(train, abs=2e-4)
    assert model.log_evidence(held_out).mean().item() == pytest.approx(test, abs=2e-4)
    model.log_evidence(x).mean().backward()
    assert all(parameter.grad.abs().max() < 1e-5 for parameter in model.parameters())


def test_loadings_of_a_rotated_model_are_the_same() -> None:
    model = perturbed(PPCA(D))
    before, simple = model.loadings(), model.loadings(rotate="varimax")
    model.weight.data = model.weight.data @ torch.linalg.qr(torch.randn(2, 2)).Q
    torch.testing.assert_close(model.loadings(), before)
    torch.testing.assert_close(model.loadings(rotate="varimax"), simple)


BAD = {
    "init must be one of": lambda: PPCA(4, init="mle"),
    "latent_dim must be at least 1 and at most 3": lambda: PPCA(4, latent_dim=4, init="ml"),
    "latent_dim must be at least 1": lambda: BayesianPPCA(4, latent_dim=0),
    "covariance must be one of": lambda: GMM(4, covariance="tied"),
    "reg_covar must be positive": lambda: GMM(4, reg_covar=0.0),
    "num_components must be at least 1": lambda: BayesianGMM(4, num_components=0),
    "no correlations": lambda: BayesianGMM(1),
    "need as many rows": lambda: GMM.for_data(torch.randn(3, 2), num_components=5),
    "without missing entries": lambda: PPCA.for_data(
        Dataset(torch.tensor([[1.0, 2.0], [float("nan"), 3.0]]), missing=True),
        init="ml",
        latent_dim=1,
    ),
    "without noise": lambda: PPCA.for_data(torch.randn(2, 4), init="ml"),
    r"variables \[1\] are constant": lambda: FactorAnalysis.for_data(
        torch.randn(9, 3) * torch.tensor([1.0, 0.0, 1.0]), init="ml"
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_wrong_options_are_refused_in_words(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BAD[message]()


def test_models_leave_the_parameter_store_empty() -> None:
    for kind in ALL:
        kind.example()[0](3)
    assert not list(pyro.get_param_store().keys())
