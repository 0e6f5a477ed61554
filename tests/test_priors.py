"""Priors integrate to one, score what they draw, and the VampPrior shares its encoder."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from guides.guide import Guide
from zoo import store
from zoo._prior import DiagonalMixture, Prior
from zoo.data import Dataset
from zoo.fitting import fit
from zoo.models.conditional_vae import ConditionalVAE
from zoo.models.vae import VAE
from zoo.priors import Flow, Mixture, Vamp
from zoo.registry import build, names
from zoo.testing import check_guide, check_model
from zoo.weights import log_weights

pytestmark = pytest.mark.usefixtures("float64")

OPTIONS: dict[str, dict[str, Any]] = {
    "standard_normal": {},
    "mixture": {"num_components": 3},
    "vamp": {"num_components": 4, "data_dim": 5, "hidden": (6,)},
    "flow": {"length": 3, "hidden": (6,)},
}
each_prior = pytest.mark.parametrize("word", OPTIONS)


def made(word: str, dim: int) -> Prior:
    """A prior with every parameter moved, a flow little: a grid must be fine enough for it."""
    prior = build("priors", word, dim, **OPTIONS[word])
    size = 0.1 if word == "flow" else 0.3
    for parameter in prior.parameters():
        parameter.data += size * torch.randn_like(parameter)
    return prior


def test_every_prior_is_tested_here() -> None:
    assert set(names("priors")) == set(OPTIONS)


@pytest.mark.parametrize("dim", [1, 2])
@each_prior
def test_priors_integrate_to_one(word: str, dim: int) -> None:
    p = made(word, dim)()
    axis = torch.linspace(-14, 14, 2801 if dim == 1 else 401)
    z = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    total = p.log_prob(z).exp().sum() * (axis[1] - axis[0]) ** dim
    assert total.item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 3])
@each_prior
def test_priors_score_under_any_leading_dimensions(word: str, dim: int) -> None:
    prior = made(word, dim)
    p = prior()
    assert (p.batch_shape, p.event_shape) == ((), (dim,))
    z = torch.randn(3, 4, 5, dim)
    for q in (p, p.expand([5]), prior().expand([3, 4, 5])):
        alone = torch.stack([p.log_prob(row) for row in z.reshape(-1, dim)]).reshape(3, 4, 5)
        torch.testing.assert_close(q.log_prob(z), alone)
    assert p.sample((7,)).shape == (7, dim)
    assert p.expand([3, 4, 5]).sample((2,)).shape == (2, 3, 4, 5, dim)


@each_prior
def test_draws_have_the_moments_of_the_density(word: str) -> None:
    """Means and second moments of 40 000 draws against quadrature, to 6 standard errors."""
    p = made(word, 2)()
    axis = torch.linspace(-14, 14, 401)
    z = torch.cartesian_prod(axis, axis)
    weight = p.log_prob(z).exp() * (axis[1] - axis[0]) ** 2
    draws = p.sample((40_000,)).detach()
    for moment in (lambda v: v, torch.square, lambda v: v.prod(-1, keepdim=True)):
        expected = (weight.unsqueeze(-1) * moment(z)).sum(0)
        values = moment(draws)
        band = 6 * values.std(0) / len(values) ** 0.5
        assert ((values.mean(0) - expected).abs() < band).all()


def test_a_mixture_is_the_textbook_sum() -> None:
    prior = made("mixture", 3)
    assert isinstance(prior, Mixture)
    z = torch.randn(4, 3)
    each = dist.Normal(prior.loc, prior.log_scale.exp()).to_event(1).log_prob(z.unsqueeze(1))
    terms = prior.logits.log_softmax(-1) + each
    torch.testing.assert_close(prior().log_prob(z), terms.logsumexp(-1))
    torch.testing.assert_close(prior().log_joint(z), terms)
    y = torch.tensor([2, 0]).reshape(2, 1, 1)
    torch.testing.assert_close(
        prior.component(y).log_prob(z), each[:, [2, 0]].T.reshape(2, 1, 4).expand(2, 1, 4)
    )


def test_moments_of_a_mixture() -> None:
    p = DiagonalMixture(
        torch.tensor([0.3, 0.7]).log(), torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [0.5]])
    )
    assert p.mean.item() == pytest.approx(1.4)
    assert p.variance.item() == pytest.approx(0.3 * 1 + 0.7 * 4.25 - 1.4**2)


def test_a_flow_follows_autograds_jacobian() -> None:
    """log p(z) = log N(u) - log |det dz/du| at draws, the Jacobian by autograd."""
    prior = made("flow", 3)
    p = prior()
    assert isinstance(p, dist.TransformedDistribution)

    def push(u: Tensor) -> Tensor:
        for part in p.transforms:
            u = part(u)
        return u

    for u in torch.randn(5, 3):
        J = torch.autograd.functional.jacobian(push, u)
        expected = p.base_dist.log_prob(u) - torch.linalg.slogdet(J).logabsdet
        torch.testing.assert_close(prior().log_prob(push(u)), expected, atol=1e-9, rtol=0.0)


def test_every_entry_of_a_flow_is_moved() -> None:
    prior = Flow(2, length=2, hidden=(4,))
    assert prior.orders.tolist() == [[1, 0], [1, 0]]
    fresh = Flow(2, length=2, hidden=(4,))
    fresh.load_state_dict(prior.state_dict())
    z = torch.randn(5, 2)
    torch.testing.assert_close(fresh().log_prob(z), prior().log_prob(z))
    copy.deepcopy(prior)  # nothing of a draw stays behind


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(Mixture, 2, num_components=0), "num_components must be at least 1"),
        (partial(Vamp, 2, data_dim=3, num_components=0), "num_components must be at least 1"),
        (partial(Vamp, 2, data_dim=3, net="conv"), "needs the image_shape"),
        (partial(Flow, 2, length=0), "length counts couplings from 1"),
        (partial(Mixture, 0), "latent_dim must be at least 1"),
    ],
)
def test_what_no_prior_can_be(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("word", ["mixture:3", "vamp:4", "flow:2"])
def test_models_with_learned_priors_obey_the_contract(word: str) -> None:
    data = VAE.example()[1]
    model = VAE.for_data(data, latent_dim=2, hidden=(6,), prior=word)
    check_model(model, data)
    for inference in ("amortized", "per_datapoint"):
        check_guide(partial(Guide, inference=inference), model, data)


def vamp() -> tuple[VAE, Dataset]:
    data = Dataset((torch.rand(30, 6) < 0.4).double())
    return VAE.for_data(data, latent_dim=2, hidden=(6,), prior="vamp:4"), data


def test_a_vamp_prior_starts_at_rows_of_the_data() -> None:
    model, data = vamp()
    away = (model.prior.pseudo_inputs.unsqueeze(1) - data["x"]).abs().amax(-1).amin(-1)
    assert away.max() < 0.05
    few = VAE.for_data(data, latent_dim=2, prior="vamp:50")
    rows = few.prior.pseudo_inputs
    assert len(rows) == 50 and len(rows.unique(dim=0)) == 50
    # At the start q and p are near N(0, I), whatever x is.
    torch.testing.assert_close(model.prior().mean, torch.zeros(2), atol=0.3, rtol=0.0)
    torch.testing.assert_close(model.prior().variance, torch.ones(2), atol=0.4, rtol=0.0)


def test_q_at_a_pseudo_input_is_a_component_of_the_prior() -> None:
    model, data = vamp()
    guide = Guide(model, data)
    assert not list(guide.parameters()) and not guide.state_dict()
    u = model.prior.pseudo_inputs.detach()
    q = guide.distribution(Dataset(u).batch())
    z = torch.randn(7, 2)
    mixture = q.log_prob(z.unsqueeze(1)).logsumexp(-1) - torch.tensor(4.0).log()
    torch.testing.assert_close(model.prior().log_prob(z), mixture)


def test_gradients_of_both_roles_reach_the_one_encoder() -> None:
    """∂ELBO/∂encoder = its part as q, by a prior held, plus its part in p, by q's draw held."""
    model, data = vamp()
    guide, batch = Guide(model, data), data.batch()
    inside = list(model.shared_encoder.parameters())

    def slope(model: VAE, q_side: bool, p_side: bool) -> list[Tensor]:
        torch.manual_seed(3)
        held = copy.deepcopy(model.prior).requires_grad_(p_side)
        kappa = model.shared_encoder(data["x"])
        q = guide.family(kappa if q_side else kappa.detach())
        z = q.rsample()
        prior = held() if not p_side else model.prior()
        value = prior.log_prob(z) + model.decode(z).log_prob(data["x"]) - q.log_prob(z)
        return list(torch.autograd.grad(value.mean(), inside))

    torch.manual_seed(3)
    total = torch.autograd.grad(log_weights(model, guide, batch).local.mean(), inside)
    parts = slope(model, True, False), slope(model, False, True)
    assert all(p.any() and q.any() for p, q in zip(*parts, strict=True))
    for whole, p, q in zip(total, *parts, strict=True):
        torch.testing.assert_close(whole, p + q)


@pytest.mark.parametrize("inference", ["amortized", "per_datapoint"])
@pytest.mark.parametrize("family", ["mean_field", "full_rank"])
def test_every_parameter_has_one_owner(family: str, inference: str) -> None:
    model, data = vamp()
    guide = Guide(model, data, family, inference)
    both = [*model.parameters(), *guide.parameters()]
    assert len({id(p) for p in both}) == len(both)
    shared = family == "mean_field" and inference == "amortized"
    assert bool(list(guide.parameters())) != shared
    other = copy.deepcopy(guide)
    if shared:
        assert other.source.model is other.model
        assert other.source.model is not model


def test_a_trained_vamp_prior_is_read_back_to_the_same_values(tmp_path: Path) -> None:
    model, data = vamp()
    guide, start = Guide(model, data), model.shared_encoder[1][0].weight.detach().clone()
    fit(model, guide, data, steps=5, progress=False, out=tmp_path / "run")
    assert not torch.equal(start, model.shared_encoder[1][0].weight)
    run = store.load(tmp_path / "run")
    run.model.double(), run.guide.double()
    values = []
    for m, g in ((model, guide), (run.model, run.guide)):
        torch.manual_seed(0)
        values.append(log_weights(m, g, data.batch(), 3).local)
    assert torch.equal(*values)
    assert run.guide.source.model is run.model


def test_freezing_the_model_freezes_the_encoder_that_it_holds() -> None:
    model, data = vamp()
    guide = Guide(model, data, "full_rank")
    before = copy.deepcopy(model.state_dict())
    fit(model, guide, data, steps=2, progress=False, freeze="model")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_shared_encoder_refuses_missing_entries() -> None:
    model, _ = vamp()
    x = torch.ones(9, 6)
    x[0, 0] = torch.nan
    data = Dataset(x, missing=True)
    with pytest.raises(ValueError, match="reads whole rows, and x has missing entries"):
        log_weights(model, Guide(model, data), data.batch())


def test_the_encoder_of_a_vamp_prior_is_built_like_the_decoder() -> None:
    data = Dataset((torch.rand(9, 16) < 0.4).double(), image_shape=(4, 4))
    model = VAE.for_data(data, hidden=(5,), latent_dim=2, net="conv", prior="vamp:3")
    assert type(model.shared_encoder[1]).__name__ == "ConvEncoder"
    plain = {"net": "mlp", "hidden": [3], "activation": None}
    other = VAE.for_data(
        data, hidden=(5,), latent_dim=2, net="conv", prior="vamp:3", prior_options=plain
    )
    assert other.shared_encoder[1][0].out_features == 3
    mine = torch.nn.Linear(16, 4)
    own = VAE.for_data(data, latent_dim=2, prior="vamp:3", prior_options={"encoder": mine})
    assert own.shared_encoder is mine
    check_guide(Guide, own, data)


def test_a_conditional_model_shares_no_encoder() -> None:
    _, data = ConditionalVAE.example()
    model = ConditionalVAE.for_data(data, latent_dim=2, hidden=(6,), prior="vamp:3")
    guide = Guide(model, data)
    assert list(guide.parameters())
    check_guide(Guide, model, data)
