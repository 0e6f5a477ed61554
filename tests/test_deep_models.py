"""Deep latent variable models against closed forms, enumeration and quadrature."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from guides.guide import Guide
from zoo import store
from zoo.clustering import accuracy
from zoo.data import Dataset
from zoo.fitting import fit
from zoo.model import Model
from zoo.models._parts import iris
from zoo.models.conditional_vae import ConditionalVAE
from zoo.models.ppca import PPCA
from zoo.models.toy_dlvm import ToyDLVM
from zoo.models.vade import VaDE
from zoo.models.vae import VAE
from zoo.nets import ACTIVATIONS
from zoo.testing import check_guide, check_model
from zoo.weights import log_weights

pytestmark = pytest.mark.usefixtures("float64")


def curve() -> tuple[ToyDLVM, Dataset]:
    model = ToyDLVM(2, decoder="curve")
    with torch.no_grad():
        return model, Dataset(model(20))


def images() -> tuple[VAE, Dataset]:
    x = (torch.rand(20, 12) < 0.4).double()
    data = Dataset(x, image_shape=(4, 3))
    return VAE.for_data(data, latent_dim=2, hidden=(6,), net="conv", gated=True), data


def covariates() -> tuple[ConditionalVAE, Dataset]:
    data = Dataset({"x": torch.randn(20, 3), "y": torch.randn(20, 2)})
    return ConditionalVAE.for_data(data, latent_dim=2, hidden=(6,)), data


def counts() -> tuple[VAE, Dataset]:
    x = torch.poisson(torch.full((20, 4), 3.0))
    data = Dataset({"x": x, "exposure": 0.5 + torch.rand(20)})
    return VAE.for_data(data, latent_dim=2, hidden=(6,)), data


MODELS: dict[str, Any] = {
    "vae": VAE.example,
    "vae of images": images,
    "vae of counts": counts,
    "conditional_vae": ConditionalVAE.example,
    "conditional_vae of covariates": covariates,
    "toy_dlvm": ToyDLVM.example,
    "curve": curve,
    "vade": VaDE.example,
}
each_model = pytest.mark.parametrize("name", MODELS)


@each_model
def test_models_obey_the_contract(name: str) -> None:
    check_model(*MODELS[name]())


@pytest.mark.parametrize("inference", ["amortized", "per_datapoint"])
@each_model
def test_guides_obey_the_contract(name: str, inference: str) -> None:
    check_guide(partial(Guide, inference=inference), *MODELS[name]())


@each_model
def test_a_run_is_read_back_to_the_same_values(name: str, tmp_path: Path) -> None:
    model, data = MODELS[name]()
    conv = {"net": "conv", "gated": True} if name == "vae of images" else {}
    guide = Guide(model, data, inference_options={"hidden": [6], **conv})
    fit(model, guide, data, steps=2, progress=False, out=tmp_path / "run")
    run = store.load(tmp_path / "run")
    values = []
    for m, g in ((model, guide), (run.model, run.guide)):
        torch.manual_seed(0)
        values.append(log_weights(m, g, data.batch(), 3).local)
    assert torch.equal(*values)


def linear(data: Dataset, scale: float) -> tuple[VAE, PPCA]:
    """A VAE with an affine decoder, and PPCA with the same numbers."""
    width = data.event_shape("x")[0]
    options = {"scale": "fixed", "start_scale": scale}
    vae = VAE(width, 2, hidden=(), likelihood="gaussian", likelihood_options=options)
    ppca = PPCA(width, 2)
    with torch.no_grad():
        ppca.weight.copy_(vae.decoder[-1].weight)
        ppca.mean.copy_(vae.decoder[-1].bias)
        ppca.log_scale.fill_(math.log(scale))
    return vae, ppca


def test_a_linear_gaussian_vae_is_ppca() -> None:
    """log p(x, z) - log p(z | x) = log p(x) of PPCA, at any z."""
    data = iris()
    vae, ppca = linear(data, 0.7)
    x = data["x"]
    q = ppca.posterior(x)
    z = q.sample((5,))
    joint = vae.prior().log_prob(z) + vae.decode(z).log_prob(x) - q.log_prob(z)
    evidence = ppca.log_evidence(x)
    torch.testing.assert_close(joint, evidence.expand(5, -1), atol=1e-9, rtol=0.0)
    exact = Guide(ppca, data, "exact")
    weights = log_weights(vae, exact, data.batch(), 3)
    torch.testing.assert_close(weights.local[0], evidence.expand(3, -1), atol=1e-9, rtol=0.0)


def test_the_best_linear_encoder_of_a_linear_vae_is_the_mean_of_the_posterior() -> None:
    """With full_rank and a linear encoder set to the posterior every weight is log p(x)."""
    data = iris()
    vae, ppca = linear(data, 0.7)
    guide = Guide(vae, data, "full_rank", inference_options={"hidden": []})
    source: Any = guide.source
    with torch.no_grad():
        W, x = ppca.weight, data["x"]
        gain = torch.linalg.solve(W.T @ W + 0.49 * torch.eye(2), W.T)  # z = gain (x - μ)
        L = torch.linalg.cholesky(ppca.posterior(x).covariance_matrix[0])
        s = L.diagonal()
        net = source.encoder[-1]
        net.weight.zero_()
        net.weight[:2] = gain * source.spread
        net.bias[:2] = gain @ (source.center - ppca.mean) - source.start[:2]
        net.bias[2:4] = s.expm1().log() - source.start[2:4]
        net.bias[4] = L[1, 0] / s[1] - source.start[4]
    weights = log_weights(vae, guide, data.batch(), 4)
    expected = ppca.log_evidence(x).expand(4, -1)
    torch.testing.assert_close(weights.local[0], expected, atol=1e-6, rtol=0.0)


DATA = {
    "bernoulli": lambda: (torch.rand(50, 12) < torch.linspace(0.1, 0.9, 12)).double(),
    "poisson": lambda: torch.poisson(torch.linspace(0.5, 9.0, 12).expand(50, 12)),
    "gaussian": lambda: 2 + 3 * torch.randn(50, 12),
}


@pytest.mark.parametrize("net", ["mlp", "conv"])
@pytest.mark.parametrize("likelihood", DATA)
def test_the_decoder_starts_at_the_mean_of_the_data(likelihood: str, net: str) -> None:
    data = Dataset(DATA[likelihood](), image_shape=(4, 3))
    model = VAE.for_data(data, latent_dim=2, hidden=(6,), net=net)
    assert model.options["likelihood"] == likelihood
    assert model.options["image_shape"] == [4, 3]
    bias = model.decoder.output_bias if net == "conv" else model.decoder[-1].bias
    mean = model.likelihood.mean(bias)
    torch.testing.assert_close(mean, data["x"].mean(0))
    with torch.no_grad():  # f without z is its last bias
        for parameter in model.decoder.parameters():
            if parameter is not bias:
                parameter.zero_()
        torch.testing.assert_close(model.decode(torch.randn(5, 2)).mean, mean.expand(5, 12))


def test_words_that_are_given_stay() -> None:
    data = Dataset((torch.rand(9, 4) < 0.5).double())
    assert VAE.for_data(data, likelihood="gaussian").options["likelihood"] == "gaussian"
    assert VAE.for_data(data, likelihood=None).options["likelihood"] == "bernoulli"
    assert VAE.for_data(data).options["data_dim"] == 4
    assert "image_shape" not in VAE.for_data(data).options


def test_data_with_missing_entries_start_a_vae() -> None:
    x = torch.randn(30, 4)
    x[3, 1] = torch.nan
    model = VAE.for_data(Dataset(x, missing=True), latent_dim=2, hidden=(3,))
    assert model.decoder[-1].bias[1].item() == pytest.approx(x[:, 1].nanmean().item())


class Bent(nn.Module):
    """A decoder of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.randn(6, 2))  # (D, d)

    def forward(self, z: Tensor) -> Tensor:
        return torch.einsum("...d,ed->...e", z, self.slope).sin()


def test_networks_of_ones_own() -> None:
    data = VAE.example()[1]
    model = VAE.for_data(data, latent_dim=2, decoder=Bent())
    check_model(model, data)
    check_guide(partial(Guide, inference_options={"encoder": nn.Linear(6, 4)}), model, data)
    assert store.describe(model, None, data)["model"]["options"] is None


def test_networks_agree_under_particles_and_rows() -> None:
    """log p(x, z) of (S, K, B) codes through convolutions is that of each alone."""
    model, data = images()
    z = torch.randn(3, 4, len(data), 2)
    together = model.decode(z).log_prob(data["x"])
    for s, k in ((0, 0), (2, 3)):
        torch.testing.assert_close(together[s, k], model.decode(z[s, k]).log_prob(data["x"]))


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
@pytest.mark.parametrize("gated", [False, True])
def test_encoders_by_words(gated: bool, activation: str) -> None:
    model, data = images()
    options = {"net": "conv", "gated": gated, "activation": activation, "hidden": [5]}
    for inference in ("amortized", "semi_amortized"):
        guide = Guide(model, data, inference=inference, inference_options=options)
        first = guide.source.encoder.convolutions[0]
        assert type(first).__name__ == ("Gated" if gated else "Conv2d")
        assert activation in ACTIVATIONS
        assert guide.distribution(data.batch()).batch_shape == (20,)
    with pytest.raises(ValueError, match="needs the image_shape"):
        Guide(model, Dataset(data["x"]), inference_options=options)


def test_labels_are_read_one_hot_by_decoder_and_encoder() -> None:
    model, data = ConditionalVAE.example()
    y = data["y"]
    hot = nn.functional.one_hot(y, 3).double()
    z = torch.randn(4, 20, 2)
    torch.testing.assert_close(
        model.decode(z, y).log_prob(data["x"]), model.decode(z, hot).log_prob(data["x"])
    )
    guide = Guide(model, data)
    source: Any = guide.source
    assert torch.equal(source._raw(data.batch(), torch.float64)[:, 6:], hot)
    q = guide.distribution(data.batch()).mean
    other = guide.distribution(data.with_values(y=(y + 1) % 3).batch()).mean
    assert not torch.allclose(q, other)
    with pytest.raises(ValueError, match="labels y are whole numbers 0 … 2, got 1 … 3"):
        model.decode(z, y + 1)


def test_labels_and_missing_entries_go_together() -> None:
    x = torch.randn(20, 3)
    x[0, 0] = torch.nan
    data = Dataset({"x": x, "y": torch.arange(20) % 4}, missing=True)
    model = ConditionalVAE.for_data(data, latent_dim=2, hidden=(4,))
    check_guide(Guide, model, data)


def test_a_conditional_model_asks_for_y() -> None:
    data = Dataset(torch.randn(9, 3), labels=torch.arange(9) % 2)
    with pytest.raises(ValueError, match=r"the data have x, no labels.*data.with_values\(y=...\)"):
        ConditionalVAE.for_data(data)
    model = ConditionalVAE.for_data(data.with_values(y=data.labels), latent_dim=2)
    assert model.options["condition_dim"] == 2
    with pytest.raises(ValueError, match="y has 3 covariates a row, the model was made for 2"):
        model.decode(torch.zeros(9, 2), torch.zeros(9, 3))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(VAE, 3), "needs a likelihood"),
        (partial(VAE, 3, likelihood="bernouli"), "Did you mean 'bernoulli'"),
        (partial(VAE, 3, likelihood="gaussian", prior="vam"), "Did you mean 'vamp'"),
        (partial(VAE, 3, latent_dim=0, likelihood="gaussian"), "latent_dim must be at least 1"),
        (partial(VAE, 3, likelihood="gaussian", net="conv"), "needs the image_shape"),
        (partial(ConditionalVAE, 3, 0, likelihood="gaussian"), "condition_dim must be at least 1"),
        (partial(VaDE, 3, 0, likelihood="gaussian"), "num_components must be at least 1"),
        (partial(ToyDLVM, 3, decoder="curve"), "the curve lies in 2 dimensions"),
        (partial(ToyDLVM, 3, decoder="line"), "decoder must be one of 'tanh', 'curve'"),
        (partial(ToyDLVM, 3, floor=0.0), "floor must be positive"),
    ],
)
def test_what_no_model_can_be(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_the_curve_of_the_lecture() -> None:
    model = ToyDLVM(2, decoder="curve", floor=1e-3)
    z = torch.tensor([0.0, 1.0, -2.0, math.pi])
    p: Any = model.decode(z.unsqueeze(-1))
    sin, cos = z.sin(), z.cos()
    loc = torch.stack([10 * sin**3, 10 * cos - 10 * cos**4], -1)
    torch.testing.assert_close(p.mean, loc)
    sd = torch.stack([(sin / (3 * z)).abs(), (sin / z).abs()], -1)
    sd[0], sd[3] = torch.tensor([1 / 3, 1.0]), 1e-3
    torch.testing.assert_close(p.base_dist.scale, sd)
    assert not list(model.parameters())


def test_the_curves_density_integrates_to_one() -> None:
    """∫∫ p(x) dx, p(x) = ∫ p(x | z) N(z) dz by the trapezoid rule; a floor of 0.3 keeps it wide."""
    model = ToyDLVM(2, decoder="curve", floor=0.3)
    z, step = torch.linspace(-8, 8, 401), 0.15
    p = model.decode(z.unsqueeze(-1))
    weight = dist.Normal(0.0, 1.0).log_prob(z).exp() * (z[1] - z[0])
    axes = torch.arange(-13.0, 13.0, step), torch.arange(-26.0, 12.0, step)
    total, moment = 0.0, 0.0
    for x in torch.cartesian_prod(*axes).split(10_000):
        density = p.log_prob(x.unsqueeze(1)).exp() @ weight
        total += float(density.sum()) * step**2
        moment += float((density * x[:, 1]).sum()) * step**2
    assert total == pytest.approx(1.0, abs=1e-6)
    assert moment == pytest.approx(float(weight @ p.mean[:, 1]), abs=1e-6)


def test_importance_sampling_of_the_toys_meets_the_grid() -> None:
    """log p(x) by K = 200 000 draws of the prior against a grid, to 6 standard errors."""
    model, data = ToyDLVM.example()
    axis = torch.linspace(-8, 8, 321)
    z = torch.cartesian_prod(axis, axis)
    x = data["x"][:3]
    prior = dist.Normal(0.0, 1.0).expand([2]).to_event(1)
    with torch.no_grad():
        inside = model.decode(z.unsqueeze(1)).log_prob(x) + prior.log_prob(z).unsqueeze(1)
        grid = inside.logsumexp(0) + 2 * (axis[1] - axis[0]).log()
        terms = model.decode(torch.randn(200_000, 1, 2)).log_prob(x).exp()
    band = 6 * terms.std(0) / len(terms) ** 0.5
    assert ((terms.mean(0) - grid.exp()).abs() < band).all()


def vade(num_components: int = 3) -> tuple[VaDE, Dataset]:
    model, data = VaDE.example()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model, data


def test_vade_is_a_vae_with_a_mixture_prior() -> None:
    model, data = vade()
    plain = VAE(6, 2, (8,), "relu", "bernoulli", "mixture:3")
    plain.load_state_dict(model.state_dict())
    guide = Guide(model, data)
    other = Guide(plain, data)
    other.load_state_dict(guide.state_dict())
    values = []
    for m, g in ((model, guide), (plain, other)):
        torch.manual_seed(0)
        values.append(log_weights(m, g, data.batch(), 4).summed)
    torch.testing.assert_close(*values)


def test_the_components_of_vade_are_enumerated_without_the_decoder() -> None:
    model, data = vade()
    seen: list[tuple[int, ...]] = []
    model.decoder.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    weights = log_weights(model, Guide(model, data), data.batch(), 4)
    assert weights.local.shape == (3, 1, 4, 20)
    assert seen[-1] == (4, 20, 2)
    z = weights.values["z"]
    joint, _ = weights.discrete()
    torch.testing.assert_close(joint[:, 0], model.responsibilities_of(z).movedim(-1, 0))


def test_responsibilities_of_vade_by_enumeration() -> None:
    model, data = vade()
    z = torch.randn(20, 2)
    terms = []
    for c in range(3):
        given = {"y": torch.full((20,), c), "z": z, "x": data["x"]}
        trace = poutine.trace(poutine.condition(model, given)).get_trace(20)
        trace.compute_log_prob()
        terms.append(sum(trace.nodes[name]["log_prob"] for name in given))
    torch.testing.assert_close(model.responsibilities_of(z), torch.stack(terms, -1).softmax(-1))


def test_the_mixture_of_vade_starts_from_features() -> None:
    """Four clusters, 20 standard deviations apart, are found by EM and named one by one."""
    labels = torch.arange(200) % 4
    places = 10 * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    z = places[labels] + torch.randn(200, 2)
    model = VaDE(6, 4, latent_dim=2, hidden=(3,), likelihood="bernoulli")
    model.fit_prior(z)
    assert accuracy(labels, model.responsibilities_of(z).argmax(-1)) == 1.0
    mine = model.prior().log_prob(z).mean()
    torch.testing.assert_close(model.prior.logits.softmax(-1), torch.full((4,), 0.25))
    true = dist.Normal(places[labels], 1.0).to_event(1).log_prob(z).mean() - math.log(4)
    assert true < mine < true + 0.1  # fitted to these rows: 16 numbers on 200 rows


def test_accuracy_by_every_map() -> None:
    from itertools import permutations

    labels, clusters = torch.randint(4, (60,)), torch.randint(4, (60,))
    best = max(
        (torch.tensor(m)[clusters] == labels).double().mean() for m in permutations(range(4))
    )
    assert accuracy(labels, clusters) == pytest.approx(float(best))
    assert accuracy(labels, 7 - labels) == 1.0
    assert accuracy([0, 0, 0, 0], [0, 0, 1, 2]) == 0.5
    with pytest.raises(ValueError, match="one label and one cluster a row"):
        accuracy([0, 1], [0])


def test_a_model_that_trains_beats_its_start() -> None:
    """The ELBO of a VAE rises on data with two kinds of rows, by more than a nat a row."""
    kinds = torch.rand(200, 1) < 0.5
    x = (torch.rand(200, 12) < torch.where(kinds, 0.9, 0.1)).double()
    data = Dataset(x)
    model: Model = VAE.for_data(data, latent_dim=2, hidden=(8,))
    guide = Guide(model, data)
    before = log_weights(model, guide, data.batch(), 20).local.mean().item()
    fit(model, guide, data, steps=200, lr=0.02, progress=False)
    after = log_weights(model, guide, data.batch(), 20).local.mean().item()
    assert after > before + 1.0
