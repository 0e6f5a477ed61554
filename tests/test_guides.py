"""Guides: packing, densities, every family from every source, honest bounds, words for mistakes."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from guides import Guide
from guides.families.low_rank import LowRank
from guides.inference import Amortized, PerDatapoint
from guides.source import Source
from zoo.context import seeded
from zoo.data import Dataset
from zoo.functions import plain
from zoo.model import Model, as_model
from zoo.models.bayesian_ppca import BayesianPPCA
from zoo.models.poisson_ppca import PoissonPPCA
from zoo.models.ppca import PPCA
from zoo.objectives.bounds import elbo
from zoo.registry import names, resolve
from zoo.sites import Latents, Site, Sites
from zoo.testing import check_guide
from zoo.weights import log_weights

pytestmark = pytest.mark.usefixtures("float64")

KINDS = {word: resolve("families", word) for word in names("families")}
FAMILIES = [word for word, kind in KINDS.items() if kind.uses_kappa and not kind.is_state]
INFERENCE = [w for w in names("inference") if issubclass(resolve("inference", w), Source)]
LOG_EVIDENCE = -1.8280121234846454  # of x = 1.5 under z ~ N(0, 1), x | z ~ N(z, 1)


class ModelA(Model):
    """z ~ N(0, 1), x | z ~ N(z, 1)."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0))


def portions(x: Tensor) -> None:
    """Two local latents, a global vector, and globals in a plate of their own."""
    weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("parts", 3):
        loc = pyro.sample("loc", dist.LogNormal(0.0, 0.5))
    with pyro.plate("rows", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        mix = pyro.sample("mix", dist.Dirichlet(torch.ones(3)))
        mean = rate.unsqueeze(-1) * mix + loc.unsqueeze(-2) + weight.sum(-1, keepdim=True)
        pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)


def some(n: int, seed: int = 0, width: int = 3) -> Dataset:
    with seeded(seed):
        return Dataset(1.0 + torch.randn(n, width))


SITES: dict[str, tuple[dist.Distribution, Callable[[Tensor], Tensor]]] = {
    "Gamma": (dist.Gamma(2.0, 1.0), lambda v: v.reshape(1)),
    "LogNormal": (dist.LogNormal(0.0, 1.0).expand([2]).to_event(1), lambda v: v),
    "Beta": (dist.Beta(2.0, 3.0).expand([2, 2]).to_event(2), lambda v: v.flatten()),
    "Normal": (dist.Normal(0.0, 1.0).expand([3]).to_event(1), lambda v: v),
    "Dirichlet": (dist.Dirichlet(torch.ones(4)), lambda v: v[:-1]),
    "LKJCholesky": (dist.LKJCholesky(3, 1.0), lambda v: v[[1, 2, 2], [0, 0, 1]]),
}


def site(name: str, fn: Any) -> Site:
    return Site.of({"name": name, "fn": fn, "cond_indep_stack": ()}, local=True)


@pytest.mark.parametrize("lead", [(), (5,), (2, 3, 5)])
def test_packing_and_unpacking_are_inverse(lead: tuple[int, ...]) -> None:
    sites = Sites([site(name, fn) for name, (fn, _) in SITES.items()])
    assert sites.dim == 1 + 2 + 4 + 3 + 3 + 3
    raw = torch.randn(*lead, sites.dim)
    values, log_jacobians = sites.unpack(raw)
    for name, (fn, _) in SITES.items():
        assert values[name].shape == lead + tuple(fn.event_shape)
        assert log_jacobians[name].shape == lead
        assert fn.support.check(values[name]).all()
    again, total = sites.pack(values)
    torch.testing.assert_close(again, raw)
    torch.testing.assert_close(total, sum(log_jacobians.values(), torch.zeros(lead)))


@pytest.mark.parametrize("name", SITES)
def test_jacobians_are_those_of_autograd(name: str) -> None:
    fn, coordinates = SITES[name]
    sites = Sites([site(name, fn)])
    raw = torch.randn(sites.dim)
    jacobian = torch.autograd.functional.jacobian(
        lambda u: coordinates(sites.unpack(u)[0][name]), raw
    )
    log_jacobian = sites.unpack(raw)[1][name]
    torch.testing.assert_close(log_jacobian, torch.linalg.slogdet(jacobian).logabsdet)


def test_densities_of_guides_on_constrained_supports() -> None:
    """A Gaussian of log z is a log-normal, and it integrates to one."""

    def rates(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Normal(rate, 1.0), obs=x)

    data = Dataset(torch.randn(4))
    guide = Guide(rates, data, family="mean_field")
    q = guide.distribution(data.batch())
    loc, scale = q.mean[:, 0], q.variance[:, 0].sqrt()
    z = torch.linspace(1e-6, 60.0, 600_001)
    log_q = guide.log_prob(data.batch(), {"rate": z[:, None].expand(-1, 4)})
    torch.testing.assert_close(log_q[::1000], dist.LogNormal(loc, scale).log_prob(z[::1000, None]))
    total = torch.trapezoid(log_q.exp(), z, dim=0)
    torch.testing.assert_close(total, torch.ones(4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("inference", INFERENCE)
@pytest.mark.parametrize("family", [f for f in FAMILIES if resolve("families", f).scores])
def test_plain_functions_with_several_latents(family: str, inference: str) -> None:
    data, unseen = some(9), some(6, seed=1)
    make = partial(Guide, family=family, inference=inference, global_family=family)
    check_guide(make, portions, data)
    guide = make(portions, data)
    assert guide.latents.local.names == ("rate", "mix")
    assert guide.latents.global_.names == ("weight", "loc")
    before = copy.deepcopy(guide.state_dict())
    other = guide.infer(unseen, steps=5)
    q = other.posterior(unseen.batch(), 11)
    shapes = {name: tuple(value.shape) for name, value in q.samples.items()}
    assert shapes == {"rate": (11, 6), "mix": (11, 6, 3), "weight": (11, 2), "loc": (11, 3)}
    torch.testing.assert_close(q.samples["mix"].sum(-1), torch.ones(11, 6))
    assert (q.mean["rate"] > 0).all() and (q.sd["rate"] >= 0).all()
    assert log_weights(guide.model, other, unseen.batch(), 3, 2).local.isfinite().all()
    assert all(torch.equal(before[k], v) for k, v in guide.state_dict().items())
    if inference == "per_datapoint":
        for wrong in (unseen, data.subset(range(5))):
            with pytest.raises(ValueError, match=r"table of 9 rows.*guide\.infer"):
                guide(wrong.batch())
        guide(data.batch(torch.tensor([8, 2])))
        with pytest.raises(ValueError, match="table of 6 rows"):
            other(data.batch())


def rotated_ppca() -> tuple[PPCA, Dataset, Dataset]:
    model, data = PPCA.example()
    data = data.to(dtype=torch.float64)
    return model.double(), data.subset(range(30)), data.subset(range(30, 50))


@pytest.mark.parametrize(("family", "gap"), [("full_rank", 1e-3), ("low_rank", 1e-3)])
def test_a_table_finds_the_posterior_of_unseen_rows(family: str, gap: float) -> None:
    model, data, unseen = rotated_ppca()
    guide = Guide(model, data, family, "per_datapoint")
    trained = copy.deepcopy((model.state_dict(), guide.state_dict()))
    state = torch.get_rng_state()
    other = guide.infer(unseen, steps=400)
    assert torch.equal(state, torch.get_rng_state())
    for before, module in zip(trained, (model, guide), strict=True):
        assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
        assert all(p.requires_grad and p.grad is None for p in module.parameters())
    with torch.no_grad(), seeded(0):
        bound = log_weights(model, other, unseen.batch(), 200).bound(lambda h: h.mean(-2))[0]
    evidence = model.log_evidence(unseen["x"])
    assert (evidence - bound).mean() < gap


@pytest.mark.parametrize("seed", [0, 1, 0x1AFE])
def test_a_table_is_not_judged_by_the_noise_that_chose_it(seed: int) -> None:
    """40 000 rows of the same x, three hasty steps: the bound is below log p(x) by more than 5 se,
    also where its random numbers start from the seed of the optimisation."""
    n = 40_000
    data = Dataset(torch.full((n,), 1.5))
    guide = Guide(ModelA(), data, "mean_field", "per_datapoint")
    guide = guide.infer(data, steps=3, lr=0.5, num_particles=1, seed=0, batch_size=n)
    torch.manual_seed(seed)
    with torch.no_grad():
        h = log_weights(ModelA(), guide, data.batch()).log_weight[0]
    assert h.mean() + 5 * h.std() / n**0.5 < LOG_EVIDENCE


@pytest.mark.parametrize(("steps", "step_size"), [(1, 0.3), (4, 0.3)])
def test_a_semi_amortized_bound_is_honest(steps: int, step_size: float) -> None:
    """20 000 rows of the same x. Scored with the noise that chose κ the "bound" is above log p(x)
    by more than 5 se; ours is below by more than 5 se, from any start of the random numbers."""
    n, model = 20_000, ModelA()
    data = Dataset(torch.full((n,), 1.5))
    options = {"steps": steps, "step_size": step_size, "num_particles": 1, "clip": 1e6}
    guide = Guide(model, data, inference="semi_amortized", inference_options=options)
    batch = data.batch()

    def score(kappa: Tensor) -> Tensor:
        torch.manual_seed(7)
        weights = log_weights(model, lambda b: guide.draw(b, lambda _: kappa), batch)
        return weights.log_weight[0]

    def above(h: Tensor) -> float:
        """How many standard errors the mean is above log p(x)."""
        return float((h.mean() - LOG_EVIDENCE) / (h.std() / n**0.5))

    assert guide.source is not None
    with torch.no_grad():
        for seed in (7, 8):
            torch.manual_seed(seed)
            assert above(log_weights(model, guide, batch).log_weight[0]) < -5
            torch.manual_seed(seed)
            assert above(guide.posterior(batch, 1).log_q[0]) > -1e9  # it runs the same way
        with torch.enable_grad():
            kappa = guide.source(batch, score).detach()
        assert above(score(kappa)) > 5
        torch.manual_seed(8)
        fresh = log_weights(model, lambda b: guide.draw(b, lambda _: kappa), batch)
        assert above(fresh.log_weight[0]) < -5


def test_the_steps_of_a_semi_amortized_guide_help() -> None:
    """More steps, a tighter bound: by more than 5 se over 5 000 rows."""
    n, model = 5_000, ModelA()
    data = Dataset(torch.full((n,), 1.5))
    bounds = []
    for steps in (1, 10):
        options = {"steps": steps, "step_size": 0.1, "num_particles": 20}
        with seeded(0), torch.no_grad():
            guide = Guide(model, data, inference="semi_amortized", inference_options=options)
            bounds.append(log_weights(model, guide, data.batch()).log_weight[0])
    gap = bounds[1] - bounds[0]
    assert gap.mean() > 5 * gap.std() / n**0.5


def slopes(through: bool) -> tuple[Guide, Callable[[], Tensor]]:
    options = {"steps": 3, "step_size": 0.05, "through": through, "hidden": ()}
    with seeded(3):
        model, data, _ = rotated_ppca()
        guide = Guide(model, data, "mean_field", "semi_amortized", inference_options=options)

    def loss() -> Tensor:
        with seeded(5):
            return elbo(model, guide, data.batch(torch.arange(6)))

    return guide, loss


def test_training_goes_through_the_steps() -> None:
    """The gradient of every parameter is the central difference of the loss, noise held."""
    guide, loss = slopes(through=True)
    loss().backward()
    for parameter in guide.parameters():
        assert parameter.grad is not None
        direction = torch.randn_like(parameter)
        slope, step = float((parameter.grad * direction).sum()), 1e-5
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                values.append(float(loss()))
                parameter.sub_(sign * step * direction)
        assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-7)


def test_training_can_stop_at_the_steps() -> None:
    """The same loss; the encoder's gradient is that of κ after the steps, taken for κ before."""
    guide, loss = slopes(through=False)
    through, through_loss = slopes(through=True)
    torch.testing.assert_close(loss(), through_loss())
    loss().backward()
    through_loss().backward()
    assert isinstance(guide.source, Amortized) and isinstance(through.source, Amortized)
    stopped, passed = (g.source.encoder[0].weight.grad for g in (guide, through))  # type: ignore
    assert not torch.allclose(stopped, passed, rtol=1e-2)
    assert not [n for n, p in guide.named_parameters() if p.requires_grad and p.grad is None]

    batch = rotated_ppca()[1].batch(torch.arange(6))
    with seeded(5):
        source = guide._source(batch)
        kappa = source(batch).detach().requires_grad_()
        weights = log_weights(guide.model, lambda b: guide.draw(b, lambda _: kappa), batch)
        (slope,) = torch.autograd.grad(-weights.per_datapoint(lambda h: h.mean(-2)), kappa)
    features = guide.source.features(batch)
    torch.testing.assert_close(stopped, slope.mT @ features)


@pytest.mark.parametrize(
    "name",
    [
        "AutoNormal",
        "AutoDiagonalNormal",
        "AutoMultivariateNormal",
        "AutoDelta",
        "AutoLaplaceApproximation",
    ],
)
def test_auto_guides_of_the_globals(name: str) -> None:
    make = partial(Guide, global_family=name)
    check_guide(make, BayesianPPCA)
    check_guide(make, portions, some(9))
    guide = make(*BayesianPPCA.example())
    assert guide.has_density == (name not in ("AutoDelta", "AutoLaplaceApproximation"))
    assert [n for n, _ in guide.named_parameters() if n.startswith("auto.")]
    assert not list(pyro.get_param_store().keys())


def test_the_model_is_no_part_of_the_guide() -> None:
    model, data, _ = rotated_ppca()
    guide = Guide(model, data)
    ours = {id(p) for p in model.parameters()}
    assert not ours & {id(p) for p in guide.parameters()}
    assert not [k for k in guide.state_dict() if k.startswith("model")]


class Nested(Model):
    """A latent in two plates."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            with pyro.plate("words", 3, dim=-2):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z.sum(-2), 1.0))


class DiscreteGlobal(Model):
    """A discrete latent for all rows."""

    def forward(self, n: int) -> Tensor:
        k = pyro.sample("k", dist.Bernoulli(0.5))
        with pyro.plate("data", n, dim=-1):
            return pyro.sample("x", dist.Normal(k, 1.0))


class Counts(Model):
    """A discrete latent with no end."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            k = pyro.sample("k", dist.Poisson(2.0))
            return pyro.sample("x", dist.Normal(k, 1.0))


class Bounded(Model):
    """A latent with a bound for each row."""

    inputs = ("bound",)

    def forward(self, n: int, bound: Tensor) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Uniform(torch.zeros_like(bound), bound))
            return pyro.sample("x", dist.Normal(z, 1.0))


A = ModelA()
ROWS = Dataset(torch.zeros(3))
GAPS = Dataset(torch.tensor([[1.0, torch.nan], [0.0, 2.0], [3.0, 0.5]]), missing=True)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Guide(A, ROWS, "mean_feild"), "no family 'mean_feild'. Did you mean 'mean_field'"),
        (lambda: Guide(A, ROWS, inference="amortised"), "Did you mean 'amortized'"),
        (
            lambda: Guide(BayesianPPCA(1), Dataset(torch.zeros(3, 1)), global_family="AutoNorml"),
            "no AutoGuide",
        ),
        (
            lambda: Guide(BayesianPPCA(1), Dataset(torch.zeros(3, 1)), global_family="exact"),
            "no mod",
        ),
        (lambda: Guide(PoissonPPCA(2), torch.ones(3, 2), "exact"), "does not know its posterior"),
        (lambda: Guide(Nested(), ROWS), r"'z' stands in the nested plates \['data', 'words'\]"),
        (lambda: Guide(DiscreteGlobal(), ROWS), "'k' outside the data plate"),
        (lambda: Guide(Counts(), ROWS), "'k' without a finite support"),
        (
            lambda: Guide(Bounded(), {"x": torch.zeros(3), "bound": torch.tensor([1.0, 2.0, 3.0])}),
            "'z' has a support of its own in each row",
        ),
        (lambda: LowRank(3, rank=0), "rank counts columns from 1"),
        (lambda: LowRank(3, init_scale=0.0), "init_scale is a standard deviation"),
        (
            lambda: Guide(A, ROWS, inference="semi_amortized", inference_options={"steps": 0}),
            "posi",
        ),
        (
            lambda: Guide(A, ROWS, inference_options={"encoder": nn.Linear(1, 3)})(ROWS.batch()),
            r"returned \(3, 3\), the family needs \(3, 2\)",
        ),
        (lambda: Guide(A, ROWS).posterior(ROWS.batch(), 0), "counts draws from 1"),
        (
            lambda: Guide(PPCA(2, 1), torch.ones(3, 2))(GAPS.batch()),
            r"\['x'\] have missing entries, which this encoder has never seen",
        ),
        (lambda: Guide(A, ROWS).log_prob(ROWS.batch(), {}), "no value for the latent 'z'"),
    ],
)
def test_mistakes_are_answered_in_words(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_encoders_read_which_entries_are_missing() -> None:
    model, encoder = PPCA(2, 1).double(), {"hidden": ()}
    guide = Guide(model, GAPS, inference_options=encoder)
    assert isinstance(guide.source, Amortized)
    features = guide.source.features(GAPS.batch())
    assert features.shape == (3, 4)
    assert features[0, 1] == 0 and features[0, 3] == 0  # missing: neutral, and said so
    torch.testing.assert_close(features[1:, 2:], torch.ones(2, 2))
    whole = Dataset(torch.tensor([[1.0, 2.0]]))
    assert guide.source.features(whole.batch())[0, 2:].tolist() == [1.0, 1.0]
    for family in ("mean_field", "full_rank", "exact"):
        for inference in INFERENCE:
            guide = Guide(model, GAPS, family, inference)
            h = log_weights(model, guide, GAPS.batch(), 5).log_weight
            assert h.isfinite().all()
    expected = model.log_evidence(GAPS["x"], GAPS.observed["x"])
    exact = log_weights(model, Guide(model, GAPS, "exact"), GAPS.batch(), 5).log_weight
    torch.testing.assert_close(exact, expected.expand(5, 3))


def test_a_model_in_float64_needs_no_default_of_float64() -> None:
    """The density of a draw is exact to the model's type, whatever torch's default is."""
    torch.set_default_dtype(torch.float32)  # the fixture puts float64 back
    model, data, _ = rotated_ppca()
    for inference in ("amortized", "per_datapoint"):
        for family in FAMILIES:
            guide = Guide(model, data, family, inference)
            weights = log_weights(model, guide, data.batch())
            assert weights.local.dtype == torch.float64
            if not guide.scores:
                continue
            log_q = guide.log_prob(data.batch(), weights.values)
            torch.testing.assert_close(log_q, weights.log_q[0, 0], rtol=1e-12, atol=1e-12)


def test_an_encoder_of_yours() -> None:
    model, data, unseen = rotated_ppca()
    mine = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5))
    guide = Guide(model, data, "full_rank", inference_options={"encoder": mine})
    assert isinstance(guide.source, Amortized) and guide.source.encoder is mine
    assert guide.infer(unseen) is guide and guide.amortized
    kappa = guide.source(unseen.batch(), lambda _: torch.zeros(()))
    scaled = (unseen["x"] - data["x"].mean(0)) / data["x"].std(0, correction=0)
    torch.testing.assert_close(kappa, guide.source.start + mine(scaled))


def test_a_table_row_is_one_datapoint() -> None:
    """A step changes the rows of its batch alone, and its gradient is sparse."""
    model, data, _ = rotated_ppca()
    guide = Guide(model, data, "mean_field", "per_datapoint")
    assert isinstance(guide.source, PerDatapoint)
    table = guide.source.table.weight
    elbo(model, guide, data.batch(torch.tensor([3, 17]))).backward()
    assert table.grad is not None and table.grad.is_sparse
    assert sorted(table.grad.coalesce().indices()[0].tolist()) == [3, 17]


def test_latents_are_what_the_data_lack() -> None:
    model, data = resolve("models", "mixture_of_factor_analyzers").example()
    latents = Latents.find(model, data.batch())
    assert (latents.local.names, latents.discrete) == (("z",), ("y",))
    labels = torch.zeros(len(data), dtype=torch.long)
    latents = Latents.find(model, data.with_values(y=labels).batch())
    assert (latents.local.names, latents.discrete) == (("z",), ())


def test_responsibilities_are_the_posterior_of_the_assignment() -> None:
    model, data = resolve("models", "gmm").example()
    model, data = model.double(), data.to(dtype=torch.float64)
    q = Guide(model, data).posterior(data.batch(), 50)
    torch.testing.assert_close(q.probabilities["y"], model.responsibilities(data["x"]))
    share = torch.stack([(q.samples["y"] == c).double().mean(0) for c in range(3)], -1)
    assert (share - q.probabilities["y"]).abs().max() < 6 * 0.5 / 50**0.5
    assert q.mean == {}


def test_two_guides_of_two_functions_share_nothing() -> None:
    models = [plain(portions), plain(portions)]
    guides = [Guide(model, some(9)) for model in models]
    with torch.no_grad():
        for parameter in guides[0].parameters():
            parameter.fill_(np.nan)
    assert all(p.isfinite().all() for p in guides[1].parameters())
    assert as_model(models[0]) is models[0]
