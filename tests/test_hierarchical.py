"""Several layers of latents: closed forms of the linear chain, bottom-up and top-down guides."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import zoo
from guides import Guide
from guides.layers import product
from guides.structured import FLOOR, BottomUp, TopDown
from zoo.context import seeded
from zoo.data import Dataset
from zoo.models.hierarchical_vae import HierarchicalVAE
from zoo.models.ladder_vae import LadderVAE
from zoo.models.ppca import PPCA
from zoo.nets import affine
from zoo.objectives.bounds import elbo, log_mean_exp, mean
from zoo.registry import names
from zoo.testing import check_guide, check_model
from zoo.weights import log_weights

pytestmark = pytest.mark.usefixtures("float64")

NOISE = 0.6  # standard deviation of x given z_1


class Linear(HierarchicalVAE):
    """z_2 ~ N(0, I), z_1 | z_2 ~ N(A z_2 + a, S), x | z_1 ~ N(W z_1 + b, NOISE² I): all affine."""

    def __init__(self, data_dim: int = 4, latent_dims: tuple[int, ...] = (2, 3)):
        fixed = {"scale": "fixed", "start_scale": NOISE}
        super().__init__(
            data_dim, latent_dims, depth=0, likelihood="gaussian", likelihood_options=fixed
        )
        with torch.no_grad():
            head = self.down[0][-1]
            head.weight[latent_dims[-1] :] = 0.0  # σ_1 the same for every z_2
            head.bias.add_(0.3 * torch.randn(len(head.bias)))

    def parts(self) -> tuple[Tensor, ...]:
        """A, a, the diagonal of S, W, b."""
        head, size = self.down[0][-1], self.latent_dim
        scale = 1e-3 + torch.nn.functional.softplus(head.bias[size:])
        out = self.decoder[-1]
        return head.weight[:size], head.bias[:size], scale.square(), out.weight, out.bias

    def log_evidence(self, x: Tensor) -> Tensor:
        A, a, S, W, b = self.parts()
        cov = W @ (A @ A.mT + S.diag()) @ W.mT + NOISE**2 * torch.eye(len(b))
        return dist.MultivariateNormal(W @ a + b, cov).log_prob(x)


def linear(rows: int = 12) -> tuple[Linear, Dataset]:
    with seeded(3):
        model = Linear()
        with torch.no_grad():
            return model, Dataset(model(rows))


def scorers(*words: str) -> list[str]:
    return [word for word in words if word in names("families")]


@pytest.mark.parametrize("inference", ["bottom_up", "top_down", "amortized"])
def test_the_bound_of_a_linear_chain_is_below_its_evidence(inference: str) -> None:
    """check_guide compares the bound with log p(x); check_model log p(x) with p(x, z)."""
    model, data = linear()
    check_guide(partial(Guide, inference=inference), model, data)
    if inference == "bottom_up":
        check_model(model, data)


@pytest.mark.parametrize("family", scorers("full_rank", "low_rank", "planar", "iaf", "delta"))
def test_any_family_in_every_layer(family: str) -> None:
    model, data = linear()
    check_guide(partial(Guide, family=family, inference="bottom_up"), model, data)
    assert Guide(model, data, family).has_density == (family != "delta")


@pytest.mark.parametrize("inference", ["amortized", "per_datapoint"])
@pytest.mark.parametrize("family", scorers("full_rank", "planar"))
def test_all_layers_in_one_vector(family: str, inference: str) -> None:
    model, data = linear()
    check_guide(partial(Guide, family=family, inference=inference), model, data)


def reads(source: Any, weight: Tensor, bias: Tensor) -> None:
    """The affine encoder x -> weight x + bias."""
    for buffer, value in (("center", 0.0), ("spread", 1.0), ("start", 0.0)):
        getattr(source, buffer).fill_(value)
    source.encoder[-1].weight.copy_(weight)
    source.encoder[-1].bias.copy_(bias)


def spread_of(scale: Tensor) -> Tensor:
    """softplus⁻¹."""
    return scale + (-torch.expm1(-scale)).log()


def full_rank(weight: Tensor, loc: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """κ(u) = weight u + bias of the family full_rank at N(weight u + loc, cov)."""
    tril = torch.linalg.cholesky(cov)
    row, column = torch.tril_indices(len(loc), len(loc), -1)
    below = (tril / tril.diagonal()[:, None])[row, column]
    rest = torch.cat([spread_of(tril.diagonal()), below])
    return torch.cat([weight, torch.zeros(len(rest), weight.shape[1])]), torch.cat([loc, rest])


@torch.no_grad()
def test_a_bottom_up_guide_at_the_posterior_of_a_linear_chain() -> None:
    """q(z_1 | x) = p(z_1 | x) and q(z_2 | z_1) = p(z_2 | z_1): every log weight is log p(x)."""
    model, data = linear()
    A, a, S, W, b = model.parts()
    options = {"depth": 0}
    guide = Guide(model, data, "full_rank", "bottom_up", inference_options=options)
    q = guide.family
    assert isinstance(q, BottomUp)
    prior = A @ A.mT + S.diag()  # of z_1
    cov = torch.linalg.inv(torch.linalg.inv(prior) + W.mT @ W / NOISE**2)
    gain = cov @ W.mT / NOISE**2
    reads(q.first, *full_rank(gain, cov @ torch.linalg.solve(prior, a) - gain @ b, cov))
    above = torch.linalg.inv(torch.eye(2) + A.mT @ (A / S[:, None]))  # of z_2 given z_1
    gain = above @ (A / S[:, None]).mT
    weight, bias = full_rank(gain, -gain @ a, above)
    q.above[0].start.zero_()
    q.above[0].net[-1].weight.copy_(weight)
    q.above[0].net[-1].bias.copy_(bias)
    h = log_weights(model, guide, data.batch(), 9).log_weight
    torch.testing.assert_close(h, model.log_evidence(data["x"]).expand(9, -1))


@torch.no_grad()
def test_a_top_down_guide_at_the_posterior_of_a_linear_chain() -> None:
    """With W and A of orthogonal columns all messages are diagonal, and the ladder is exact."""
    model, data = linear()
    A, a, S, W, b = model.parts()
    size = torch.tensor([0.5, 1.5, 0.8])
    W.copy_(torch.linalg.qr(torch.randn(4, 3)).Q * size)
    A.copy_(torch.tensor([[0.7, 0.0], [0.0, -1.2], [0.0, 0.0]]))
    options = {"depth": 1, "widths": (6, 4), "activation": "relu"}
    guide = Guide(model, data, inference="top_down", inference_options=options)
    q = guide.family
    assert isinstance(q, TopDown)
    # p(x | z_1) as a function of z_1: N(m̂_1, ŝ_1²); relu(u) - relu(-u) = u makes it affine in x.
    gain, variance = W.mT / size[:, None] ** 2, NOISE**2 / size**2
    reads(q.first, torch.cat([gain, -gain]), torch.cat([-gain @ b, gain @ b]))
    # p(z_2 | x): the message of z_1, seen through z_1 = A z_2 + a + N(0, S).
    noise = variance + S
    cov = 1 / (1 + (A.square() / noise[:, None]).sum(0))
    back = cov[:, None] * A.mT / noise  # m̂_2 = back (m̂_1 - a)
    up = torch.cat([back, -back])
    q.up[0][-1].weight.copy_(torch.cat([up, -up], 1))
    q.up[0][-1].bias.copy_(torch.cat([-back @ a, back @ a]))
    for message, scale in zip(q.messages, (cov.sqrt(), variance.sqrt()), strict=True):
        d = len(scale)
        message.start.zero_()
        message.net.weight.zero_()
        message.net.weight[:d] = torch.cat([torch.eye(d), -torch.eye(d)], 1)
        message.net.bias.copy_(torch.cat([torch.zeros(d), spread_of(scale - FLOOR)]))
    h = log_weights(model, guide, data.batch(), 9).log_weight
    torch.testing.assert_close(h, model.log_evidence(data["x"]).expand(9, -1))


def test_the_product_of_two_gaussians() -> None:
    """log q - log a - log b is the same number at every z."""
    with seeded(0):
        a, b = (dist.Normal(torch.randn(3), torch.rand(3) + 0.3).to_event(1) for _ in range(2))
        z = 3 * torch.randn(50, 3)
    rest = product(a, b).log_prob(z) - a.log_prob(z) - b.log_prob(z)
    torch.testing.assert_close(rest, rest[:1].expand(50))


@torch.no_grad()
@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
def test_importance_weights_meet_the_evidence(inference: str) -> None:
    """E[w] = p(x): n = 20 000 draws for each of 12 rows, within 7 standard errors of 0.04 at most.

    No weight is above 140 p(x), so the mean is near normal: a right program fails less than once in
    a million runs. In between, ELBO < IWAE_100 < log p(x).
    """
    model, _ = linear()
    with seeded(0):
        *_, W, b = model.parts()
        W.copy_(torch.linalg.qr(torch.randn(4, 3)).Q)  # x tells something of all of z_1
        data = Dataset(b + 0.5 * torch.randn(12, 4))
        wide = {"init_scale": 1.5}  # the untrained q is wider than the posterior: no heavy tails
        guide = Guide(model, data, inference=inference, family_options=wide)
        h = log_weights(model, guide, data.batch(), 20_000).log_weight
    evidence = model.log_evidence(data["x"])
    ratio = (h - evidence).exp()
    se = ratio.std(0) / len(h) ** 0.5
    assert (se < 0.05).all()
    assert ((ratio.mean(0) - 1).abs() < 7 * se).all()
    iwae = log_mean_exp(h.reshape(200, 100, -1))
    assert (mean(h) < iwae.mean(0)).all()
    assert (iwae.mean(0) - 6 * iwae.std(0) / 200**0.5 < evidence).all()


@pytest.mark.parametrize("inference", ["bottom_up", "top_down"])
def test_draws_and_densities(inference: str) -> None:
    model, data = linear()
    guide = Guide(model, data, inference=inference)
    batch = data.batch()
    q = guide.posterior(batch, 7)
    assert {k: tuple(v.shape) for k, v in q.samples.items()} == {"z2": (7, 12, 2), "z1": (7, 12, 3)}
    torch.testing.assert_close(guide.log_prob(batch, q.samples), q.log_q)
    packed = guide.distribution(batch)
    assert (packed.batch_shape, packed.event_shape) == ((12,), (5,))
    draw = packed.expand((4, 12)).rsample((6,))
    assert draw.shape == (6, 4, 12, 5) and draw.requires_grad
    z2, z1 = draw.split([2, 3], -1)
    torch.testing.assert_close(packed.log_prob(draw), guide.log_prob(batch, {"z1": z1, "z2": z2}))
    assert guide.infer(Dataset(torch.randn(3, 4))) is guide  # an encoder is applied as it is
    assert {"z1", "z2"} <= set(log_weights(model, guide, batch, 3).values)


def test_latents_of_other_supports_from_the_bottom_up() -> None:
    """Locals on the half line and the simplex, beside a global one."""

    def portions(x: Tensor) -> None:
        weight = pyro.sample("weight", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("rows", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            mix = pyro.sample("mix", dist.Dirichlet(torch.ones(3)))
            loc = rate.unsqueeze(-1) * mix + weight.sum(-1, keepdim=True)
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    data = Dataset(torch.randn(9, 3))
    for family in ("mean_field", "full_rank"):
        check_guide(partial(Guide, family=family, inference="bottom_up"), portions, data)


def test_one_layer_is_amortized() -> None:
    """The same numbers from the same start, for both words."""
    model, data = PPCA.example()
    model.double()
    with seeded(1):
        plain = Guide(model, data, inference_options={"hidden": (64, 64)})
    with seeded(1):
        up = Guide(model, data, inference="bottom_up")
    z = {"z": torch.randn(50, 2)}
    batch = data.batch()
    torch.testing.assert_close(up.log_prob(batch, z), plain.log_prob(batch, z))
    check_guide(partial(Guide, inference="top_down"), PPCA)


@pytest.mark.parametrize("kind", [HierarchicalVAE, LadderVAE])
def test_a_run_on_disk(kind: type[HierarchicalVAE], tmp_path: Path) -> None:
    model, data = kind.example()
    guide = Guide(model, data)
    assert guide.spec["inference"] == kind.inference
    before = {k: v.clone() for k, v in model.state_dict().items()}
    zoo.fit(model, guide, data, steps=5, out=tmp_path / "run", progress=False)
    assert all(not torch.equal(v, before[k]) for k, v in model.named_parameters())
    run = zoo.load(tmp_path / "run")
    assert run.spec["guide"]["spec"]["inference"] == kind.inference
    pairs = []
    for p, q in ((model, guide), (run.model, run.guide)):
        with seeded(0), torch.no_grad():
            pairs.append(log_weights(p, q, data.batch(), 5).log_weight)
    assert torch.equal(*pairs)


def shapes(net: Any) -> list[tuple[int, int]]:
    layers = [m for m in net.modules() if isinstance(m, torch.nn.Linear)]
    return [(m.in_features, m.out_features) for m in layers]


def test_the_defaults_are_the_published_sizes() -> None:
    x = Dataset((torch.rand(30, 784) < 0.3).double())
    burda = HierarchicalVAE.for_data(x)
    assert shapes(burda.decoder) == [(100, 200), (200, 200), (200, 784)]
    assert shapes(burda.down) == [(50, 100), (100, 100), (100, 200)]
    guide = Guide(burda, x)
    assert shapes(guide.family) == [
        *[(784, 200), (200, 200), (200, 200)],  # x to the 2 · 100 numbers of q(z_1 | x)
        *[(100, 100), (100, 100), (100, 100)],  # z_1 to the 2 · 50 of q(z_2 | z_1)
    ]
    ladder = LadderVAE.for_data(x)
    assert [net[-1].out_features // 2 for net in ladder.down] == [64, 32, 16, 8]
    assert shapes(ladder.decoder)[:2] == [(64, 512), (512, 512)]
    q = Guide(ladder, x).family
    assert isinstance(q, TopDown)
    assert [net[-1].out_features for net in q.up] == [256, 128, 64, 32]
    assert [s.name for s in q.order] == ["z5", "z4", "z3", "z2", "z1"]


def test_the_layers_of_a_model() -> None:
    model, _ = HierarchicalVAE.example()
    above = torch.randn(3, 4, 5, 2)
    one = model.conditional("z1", above)
    assert (one.batch_shape, one.event_shape) == ((3, 4, 5), (3,))
    assert model.conditional("z2").event_shape == (2,)
    assert model.decode(torch.zeros(3, 4, 5, 3)).event_shape == (6,)
    mixed = HierarchicalVAE(4, (2, 3), likelihood="gaussian", prior="mixture:4")
    assert mixed.conditional("z2").log_prob(torch.zeros(7, 2)).shape == (7,)
    alone = HierarchicalVAE(4, (2,), likelihood="gaussian")
    assert alone(5).shape == (5, 4)


def test_an_upward_pass_that_explodes_keeps_the_bound_finite() -> None:
    """In float32 the softplus of a very negative number is 0; a message is never so sure."""
    torch.set_default_dtype(torch.float32)  # the fixture puts float64 back
    model, data = LadderVAE.example()
    guide = Guide(model, data)
    with torch.no_grad():
        for message in guide.family.messages:
            message.net.bias.fill_(-200.0)
    loss = elbo(model, guide, data.batch())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in guide.parameters() if p.grad is not None)


class NoChain(zoo.Model):
    """Two layers, and no word on p(z_1 | z_2); or one that is no Gaussian."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("top", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            z = pyro.sample("low", dist.Normal(z, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(affine(z, torch.ones(4, 2)), 1.0).to_event(1))


class Heavy(NoChain):
    def conditional(self, name: str, above: Tensor | None = None) -> Any:
        return dist.StudentT(3.0, torch.zeros(2), 1.0).to_event(1)


def bounded(x: Tensor) -> None:
    with pyro.plate("rows", len(x)):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Normal(rate, 0.5), obs=x)


def error_cases() -> dict[str, tuple[Callable[[], Any], str]]:
    x = torch.randn(6, 4)

    def down(model: Any, family: str = "mean_field", data: Any = x, **options: Any) -> Any:
        guide = Guide(model, data, family, "top_down", inference_options=options)
        return guide.posterior(Dataset(data).batch(), 1)

    made = partial(HierarchicalVAE, 4, likelihood="gaussian")
    model = made((2, 3))
    return {
        "family": (lambda: down(model, "full_rank"), "FullRank is another family.*bottom_up"),
        "bounded": (lambda: down(bounded, data=x[:, 0]), r"\['rate'\] are not; use bottom_up"),
        "no chain": (lambda: down(NoChain()), "NoChain has no method conditional"),
        "heavy": (lambda: down(Heavy()), r"Heavy\.conditional\('low', …\) is Independent, not N"),
        "depth": (lambda: down(model, depth=0), "from 1, got 0"),
        "widths": (lambda: down(model, widths=(0,)), "one width from 1"),
        "no layer": (lambda: made(()), r"top first, each at least 1; got \(\)"),
        "vamp": (lambda: made((2, 3), prior="vamp:5"), "vamp is made of the encoder of one layer"),
        "name": (lambda: model.conditional("z3"), r"one of \['z1', 'z2'\]"),
        "above": (lambda: model.conditional("z1"), "got 'z1' and no value"),
    }


@pytest.mark.parametrize("case", error_cases())
def test_mistakes_are_told_in_words(case: str) -> None:
    call, words = error_cases()[case]
    with pytest.raises(ValueError, match=words):
        call()
