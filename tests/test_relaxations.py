"""Relaxed and REBAR gradients of discrete draws, against enumeration."""

import itertools
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from guides import Guide
from guides.estimators import Drawn, Score
from guides.relaxations import Gumbel, Rebar, StraightThrough
from zoo import fit, load
from zoo.context import seeded, validation
from zoo.coupled import coupled
from zoo.data import Batch, Dataset
from zoo.kl_weight import tempered
from zoo.model import Model, rows
from zoo.models.m1m2 import M1M2
from zoo.models.m2 import M2
from zoo.models.sbn import SBN
from zoo.nets import indicator
from zoo.objectives._rebar import _again, control
from zoo.objectives.bounds import elbo, iwae
from zoo.relaxed import Linear, Relaxed, RelaxedBits, linear
from zoo.testing import check_captured
from zoo.weights import _weigh, log_weights

pytestmark = pytest.mark.usefixtures("float64")

STATES = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)  # (8, 3)
X, NOISE = 1.2, 0.7
LOGITS = torch.tensor([0.4, -1.1, 0.7], dtype=torch.float64)


def per_row(values: Any, n: int) -> nn.Parameter:
    """(N, …): every row its own, so that the rows' gradients are independent replicates."""
    values = torch.as_tensor(values, dtype=torch.float64)
    return nn.Parameter(values.expand(n, *values.shape).clone())


class Bits(Model):
    """z ~ Π_j Bern(σ(a_j)), 3 bits, x | z ~ N(w·z, 0.7²)."""

    def __init__(self, n: int):
        super().__init__()
        self.a = per_row([0.2, -0.5, 0.3], n)  # (N, 3)
        self.w = per_row([1.0, -0.8, 1.7], n)  # (N, 3)

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=self.a).to_event(1))
            return pyro.sample("x", dist.Normal((self.w * z).sum(-1), NOISE))


class BitsGuide(nn.Module):
    """q(z) = Π_j Bern(σ(λ_j)), by an estimator."""

    def __init__(self, estimator: Any, n: int):
        super().__init__()
        self.logits = per_row(LOGITS, n)  # (N, 3)
        self.estimator = estimator

    def forward(self, batch: Batch) -> None:
        with rows(batch):
            self.estimator.draw_bits("z", self.logits[batch.index])


def exact_bits(model: Bits, guide: BitsGuide) -> Tensor:
    """(N,), the ELBO of every row by its 8 states."""
    z = STATES.unsqueeze(1)  # (8, 1, 3)
    log_q = dist.Bernoulli(logits=guide.logits).log_prob(z).sum(-1)
    log_p = dist.Bernoulli(logits=model.a).log_prob(z).sum(-1)
    log_x = dist.Normal((model.w * z).sum(-1), NOISE).log_prob(torch.tensor(X))
    return (log_q.exp() * (log_p + log_x - log_q)).sum(0)


class Classes(Model):
    """y ~ Cat(π), 3 classes, z ~ N(0, 1), x | y, z ~ N(a_y + b_y z, 0.7²)."""

    def __init__(self, n: int):
        super().__init__()
        self.pi = per_row([0.2, -0.3, 0.5], n)  # (N, 3)
        self.a = per_row([-1.0, 0.3, 1.5], n)  # (N, 3)
        self.b = per_row([1.0, -0.6, 0.4], n)  # (N, 3)

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            y = indicator(pyro.sample("y", dist.Categorical(logits=self.pi)), 3)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = (y * self.a).sum(-1) + (y * self.b).sum(-1) * z
            return pyro.sample("x", dist.Normal(loc, NOISE))


class Laplace(dist.Laplace):
    """Continuous draws whose noise is not that of a Normal."""


class ClassesGuide(nn.Module):
    """q(y) N(z; m_y, s_y²), by an estimator; or Laplace in the place of N, with z drawn first."""

    def __init__(self, estimator: Any, n: int, kind: Any = dist.Normal):
        super().__init__()
        self.logits = per_row(LOGITS, n)  # (N, 3)
        self.loc = per_row([-0.5, 0.6, 0.2], n)  # (N, 3)
        self.scale = per_row([0.7, 1.1, 0.5], n)  # (N, 3)
        self.estimator, self.kind = estimator, kind

    def forward(self, batch: Batch) -> None:
        with rows(batch):
            y = indicator(self.estimator.draw("y", self.logits[batch.index].log_softmax(-1)), 3)
            loc, scale = (y * self.loc).sum(-1), (y * self.scale).sum(-1)
            pyro.sample("z", self.kind(loc, scale))


def exact_classes(model: Classes, guide: ClassesGuide) -> Tensor:
    """(N,), the ELBO of every row: the sum over y of closed forms, quadratic in z."""
    normal = guide.kind is dist.Normal
    variance = guide.scale.square() * (1 if normal else 2)
    square = (X - model.a - model.b * guide.loc).square() + model.b.square() * variance
    log_x = -0.5 * square / NOISE**2 - math.log(NOISE * math.sqrt(2 * math.pi))
    log_z = -0.5 * (guide.loc.square() + variance) - 0.5 * math.log(2 * math.pi)
    entropy = guide.scale.log() + (0.5 * math.log(2 * math.pi) + 0.5 if normal else 1 + math.log(2))
    log_q, log_p = guide.logits.log_softmax(-1), model.pi.log_softmax(-1)
    return (log_q.exp() * (log_p - log_q + log_x + log_z + entropy)).sum(-1)


TOYS: dict[str, Any] = {"bits": (Bits, BitsGuide, exact_bits)}
TOYS["classes"] = (Classes, ClassesGuide, exact_classes)
TOYS["classes, z redrawn"] = (Classes, lambda e, n: ClassesGuide(e, n, Laplace), exact_classes)


def bound(model: Any, guide: Any, n: int, k: int = 1, rebar: bool = True, beta: float = 1.0) -> Any:
    """The loss by the score function, and what REBAR adds; of n rows of the same x."""
    batch = Dataset(torch.full((n,), X)).batch()
    weights = log_weights(model, guide, batch, k)
    h, log_q = tempered(weights, beta).local, weights.log_q_score
    assert log_q is not None
    loss = -(h + h.detach() * (log_q - log_q.detach())).mean()
    return loss + control(model, guide, batch, weights, beta) if rebar else loss


def slopes(loss: Tensor, n: int, *modules: nn.Module) -> Tensor:
    """(N, P): the gradient of every row's bound with respect to its own parameters."""
    parameters = [p for module in modules for p in module.parameters()]
    found = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return -n * torch.cat([g.reshape(n, -1) for g in found], -1)


# REBAR -------------------------------------------------------------------------------------------

MANY = 400_000


@pytest.mark.parametrize(("temperature", "scale", "k"), [(0.5, 1.0, 1), (0.2, 0.6, 2)])
@pytest.mark.parametrize("toy", TOYS)
def test_rebar_is_unbiased(toy: str, temperature: float, scale: float, k: int) -> None:
    """400 000 gradients of every parameter of p and q, the means within 5.5 standard errors of
    enumeration (one failure in 10⁶), at standard errors below 1 % of the gradient."""
    make, guide_of, exact_of = TOYS[toy]
    model, guide = make(MANY), guide_of(Rebar(temperature, scale), MANY)
    m, g = make(2), guide_of(Rebar(), 2)
    exact = slopes(-exact_of(m, g).mean(), 2, m, g)[0]
    with seeded(3), validation(False):
        found = slopes(bound(model, guide, MANY, k), MANY, model, guide)
    se = found.std(0) / MANY**0.5
    assert (se < 0.01 * exact.norm()).all()
    assert ((found.mean(0) - exact).abs() < 5.5 * se).all()


@pytest.mark.parametrize(("toy", "most"), [*zip(TOYS, (0.65, 0.75, 0.95), strict=True)])
def test_rebar_has_less_variance_than_the_score_function(toy: str, most: float) -> None:
    """At τ = 1, η = 1: of the logits' gradient about 0.58, 0.67 and 0.85 of it without a baseline,
    the less the noisier h is beside y; that of p is the same on the same draws."""
    make, guide_of, _ = TOYS[toy]
    n = 100_000
    model, guide = make(n), guide_of(Rebar(1.0), n)
    found = []
    for rebar in (True, False):
        with seeded(4), validation(False):
            found.append(slopes(bound(model, guide, n, rebar=rebar), n, model, guide))
    width = 3 * len(list(model.parameters()))
    torch.testing.assert_close(found[0][:, :width], found[1][:, :width])
    spread = [each.var(0)[width : width + 3].sum() for each in found]
    assert spread[0] < most * spread[1]


def test_rebar_of_a_tempered_bound() -> None:
    """β = 0.3, on the bits."""
    model, guide = Bits(MANY), BitsGuide(Rebar(), MANY)
    m, g = Bits(2), BitsGuide(Rebar(), 2)
    z = STATES.unsqueeze(1)
    log_q = dist.Bernoulli(logits=g.logits).log_prob(z).sum(-1)
    log_x = dist.Normal((m.w * z).sum(-1), NOISE).log_prob(torch.tensor(X))
    exact = 0.3 * exact_bits(m, g) + 0.7 * (log_q.exp() * log_x).sum(0)
    expected = slopes(-exact.mean(), 2, m, g)[0]
    with seeded(3), validation(False):
        found = slopes(bound(model, guide, MANY, beta=0.3), MANY, model, guide)
    assert ((found.mean(0) - expected).abs() < 5.5 * found.std(0) / MANY**0.5).all()


def kolmogorov(u: Tensor) -> float:
    """√n sup |F_n(u) - u|; above 2.7 one time in 10⁶ where u is uniform."""
    u = u.flatten().sort().values
    n = len(u)
    grid = torch.arange(n + 1).to(u) / n
    return float(n**0.5 * torch.maximum((u - grid[:-1]).abs(), (u - grid[1:]).abs()).max())


def test_the_conditional_noise_of_bits() -> None:
    """Over b ~ q and z̃ ~ z | b: H(z̃) = b always, z̃ - λ is logistic, s and s̃ are one value."""
    q = dist.Bernoulli(logits=LOGITS).to_event(1).expand([200_000])
    b = q.sample()
    soft, conditional = coupled(q, b, 2.0)
    torch.testing.assert_close(soft, conditional)
    z = 2.0 * conditional.logit()
    assert ((z > 0) == (b == 1)).all()
    for j in range(3):
        assert kolmogorov((z - LOGITS)[:, j].sigmoid()) < 2.7


def test_the_conditional_noise_of_classes() -> None:
    """argmax z̃ = b always; z̃_i - z̃_j, differences of Gumbel variables, are logistic."""
    q = Drawn(logits=LOGITS).expand([200_000])
    b = q.sample()
    soft, conditional = coupled(q, b, 2.0)
    torch.testing.assert_close(soft, conditional)
    assert (conditional.argmax(-1) == b).all()
    z = 2.0 * conditional.log()
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert kolmogorov((z[:, i] - z[:, j] - LOGITS[i] + LOGITS[j]).sigmoid()) < 2.7
    free = Relaxed(LOGITS, 2.0).rsample((200_000,))  # the joint law, by its second moments
    pairs = [s.unsqueeze(-1) * s.unsqueeze(-2) for s in (conditional, free)]
    se = ((pairs[0].var(0) + pairs[1].var(0)) / 200_000).sqrt()
    assert ((pairs[0].mean(0) - pairs[1].mean(0)).abs() < 5.5 * se).all()


@pytest.mark.parametrize("kind", ["bits", "classes"])
def test_the_two_paths_of_the_coupled_draws(kind: str) -> None:
    """Of s with its noise held, of s̃ with b and its own noise held: finite differences."""
    logits = LOGITS.clone().requires_grad_()
    bits = kind == "bits"
    b = torch.tensor([1.0, 0.0, 0.0]) if bits else torch.tensor(2)

    def at(value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_q = value if bits else value.log_softmax(-1)
        q = dist.Bernoulli(logits=log_q).to_event(1) if bits else dist.Categorical(logits=log_q)
        with seeded(2):
            return (*coupled(q, b, 0.7), log_q)

    soft, conditional, log_q = at(logits)
    weight = torch.tensor([1.0, -2.0, 0.5])
    step = 1e-6 * torch.tensor([0.3, 1.0, -0.4])
    above, below = at(LOGITS + step)[1], at(LOGITS - step)[1]
    (slope,) = torch.autograd.grad((weight * conditional).sum(), logits, retain_graph=True)
    torch.testing.assert_close((slope * step).sum(), (weight * (above - below)).sum() / 2)
    noise = 0.7 * (soft.logit() if bits else soft.log()) - log_q

    def held(value: Tensor) -> Tensor:
        z = ((value if bits else value.log_softmax(-1)) + noise.detach()) / 0.7
        return z.sigmoid() if bits else z.softmax(-1)

    (slope,) = torch.autograd.grad((weight * soft).sum(), logits)
    change = (weight * (held(LOGITS + step) - held(LOGITS - step))).sum() / 2
    torch.testing.assert_close((slope * step).sum(), change)


def gradients(model: Any, guide: Guide, batch: Batch) -> Tensor:
    """(30, P): of the ELBO, 2 particles, with respect to the parameters of q."""
    parameters, each = list(guide.parameters()), []
    for _ in range(30):
        loss = elbo(model, guide, batch, num_particles=2)
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        each.append(torch.cat([slope.flatten() for slope in found]))
    return torch.stack(each)


@pytest.mark.parametrize(
    ("kind", "family", "copies"),
    [(M2, "mean_field", 200), (M2, "full_rank", 200), (M1M2, "mean_field", 40)],
)
def test_rebar_of_a_guide_agrees_with_enumeration(kind: Any, family: str, copies: int) -> None:
    """The means of 30 gradients of copies of 20 rows, 2 particles each, in all parameters of q:
    y given x or given a draw of z1, z with the noise it had or (full rank) drawn again."""
    torch.manual_seed(0)
    model, data = kind.example()
    model, data = model.double(), data.to(torch.float64)
    small = {"hidden": ()}
    exact = Guide(model, data, family, estimator="enumerate", classifier_options=small)
    guide = Guide(model, data, family, estimator="rebar", classifier_options=small)
    guide.load_state_dict(exact.state_dict())
    batch = Dataset(data["x"].repeat(copies, 1)).batch()

    with seeded(1), validation(False):
        target, ours = (gradients(model, q, batch) for q in (exact, guide))
    se = ((target.var(0) + ours.var(0)) / 30).sqrt()
    assert (se < 0.05 * target.mean(0).norm()).all()
    assert ((ours.mean(0) - target.mean(0)).abs() < 6.5 * se + 1e-12).all()  # t of 58 degrees


@pytest.mark.parametrize("inference", ["bottom_up", "amortized"])
def test_rebar_of_a_belief_network_agrees_with_its_states(inference: str) -> None:
    """The means of 30 gradients of 200 copies of 20 rows, 2 particles each, in all parameters of q:
    Σ_z q(z) [log p(x, z) - log q(z)] over the 8 states of one layer."""
    torch.manual_seed(0)
    data = SBN.example()[1].to(torch.float64)
    model = SBN(6, latent_dims=(3,), likelihood="bernoulli").double()
    many = Dataset(data["x"].repeat(200, 1))
    guide = Guide(model, many, inference=inference, estimator="rebar")
    exact = torch.zeros(())
    for z in STATES:
        given = {"z1": {"value": z.expand(len(many), 3)}}
        weights = _weigh(model, guide, many.batch(), 1, 1, given=given)
        exact = exact - (weights.log_q.exp() * weights.local).mean()
    found = torch.autograd.grad(exact, list(guide.parameters()), materialize_grads=True)
    target = torch.cat([slope.flatten() for slope in found])
    with seeded(1), validation(False):
        ours = gradients(model, guide, many.batch())
    se = ours.std(0) / 30**0.5
    assert (se < 0.05 * target.norm()).all()
    assert ((ours.mean(0) - target).abs() < 7.5 * se + 1e-12).all()  # t of 29 degrees


def test_without_a_gradient_rebar_enumerates_or_draws(float64: None) -> None:
    model, data = M2.example()
    model, data = model.double(), data.to(torch.float64)
    guide = Guide(model, data, estimator="rebar")
    with torch.no_grad():
        weights = log_weights(model, guide, data.batch(), 3)
        assert weights.enumerated == {"y": 3} and weights.log_q_score is None
        assert float(control(model, guide, data.batch(), weights)) == 0
        bits = log_weights(Bits(4), BitsGuide(Rebar(), 4), Dataset(torch.ones(4)).batch(), 3)
    z = bits.values["z"]
    assert bits.log_q_score is None and (z * (1 - z) == 0).all()
    given = data.labelled(torch.arange(8), y=torch.arange(8) % 3)
    batch = given.batch(torch.arange(8))  # with labels nothing of q(y | x) is drawn
    exact = Guide(model, data, estimator="enumerate")
    exact.load_state_dict(guide.state_dict())
    found = []
    for q in (guide, exact):
        with seeded(1):
            loss = elbo(model, q, batch, num_particles=3)
        pair = [*model.parameters(), *q.parameters()]
        found.append([loss, *torch.autograd.grad(loss, pair, materialize_grads=True)])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("inference", ["bottom_up", "amortized", "per_datapoint"])
@pytest.mark.parametrize("word", ["gumbel", "straight_through", "rebar"])
def test_layers_of_bits_take_the_words(word: str, inference: str) -> None:
    """Steps of a sigmoid belief network, of one layer for rebar, which refuses two by name."""
    _, data = SBN.example()
    how: dict[str, Any] = {"progress": False, "device": "cpu", "steps": 2}
    how["objective_options"] = {"num_particles": 3}
    for sizes in ((3,), (3, 2)):
        model = SBN(6, latent_dims=sizes, likelihood="bernoulli")
        guide = Guide(model, data, estimator=word, inference=inference)
        if word == "rebar" and len(sizes) == 2:
            with pytest.raises(ValueError, match=r"one discrete site a row.*\['z1', 'z2'\]"):
                fit(model, guide, data, **how)
            continue
        before = [p.detach().clone() for p in guide.parameters()]
        fit(model, guide, data, **how)
        moved = [not torch.equal(a, b) for a, b in zip(before, guide.parameters(), strict=True)]
        assert all(moved)


class Deep(Model):
    """Two layers of bits."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z2 = pyro.sample("z2", dist.Bernoulli(logits=torch.zeros(2)).to_event(1))
            z1 = pyro.sample("z1", dist.Bernoulli(logits=z2 - 0.3).to_event(1))
            return pyro.sample("x", dist.Normal(z1.sum(-1), 1.0))


class DeepGuide(nn.Module):
    """q(z1 | x) q(z2 | z1)."""

    def __init__(self, estimator: Any):
        super().__init__()
        self.logits = nn.Parameter(LOGITS[:2].clone())  # (2,)
        self.estimator = estimator

    def forward(self, batch: Batch) -> None:
        with rows(batch):
            z1 = self.estimator.draw_bits("z1", self.logits.expand(len(batch), 2))
            self.estimator.draw_bits("z2", self.logits + z1)


def test_what_rebar_cannot_do_is_said_in_words() -> None:
    batch = Dataset(torch.randn(4)).batch()
    for estimator in (Rebar(), Score("none")):
        weights = log_weights(Deep(), DeepGuide(estimator), batch, 2)
        with pytest.raises(ValueError, match=r"one discrete site a row.*\['z1', 'z2'\].*vimco"):
            control(Deep(), DeepGuide(estimator), batch, weights)
    model, data = M2.example()
    guide = Guide(model, data, estimator="rebar")
    with pytest.raises(ValueError, match="rebar is for the elbo"):
        iwae(model, guide, data.batch(), num_particles=2)
    with pytest.raises(ValueError, match="semi_amortized takes steps.*gumbel, rebar"):
        Guide(model, data, estimator="rebar", inference="semi_amortized")
    with pytest.raises(ValueError, match="temperature is above 0, got 0"):
        Rebar(temperature=0.0)
    with pytest.raises(ValueError, match="only a Categorical or independent bits.*Poisson"):
        coupled(dist.Poisson(1.0), torch.tensor(1.0), 0.5)


def test_a_normal_drawn_again_has_the_noise_it_had() -> None:
    first = dist.Normal(torch.randn(4, 2), torch.rand(4, 2) + 0.5).to_event(1)
    now = dist.Normal(torch.randn(3, 4, 2), torch.rand(3, 4, 2) + 0.5).to_event(1)
    value = first.rsample()
    again = _again({"fn": first, "value": value})
    assert again is not None and _again({"fn": dist.Laplace(0.0, 1.0), "value": value}) is None
    noise = (value - first.mean) / first.stddev
    torch.testing.assert_close((again(now) - now.mean) / now.stddev, noise.expand(3, 4, 2))


# Relaxed draws -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_the_mean_of_relaxed_bits_is_its_quadrature(temperature: float) -> None:
    """E σ((λ + L)/τ) over logistic L: a million draws within 5.5 standard errors; of two classes
    it is the same with λ the difference of their logits."""
    u = (torch.arange(200_000) + 0.5) / 200_000
    expected = ((LOGITS + u.logit().unsqueeze(-1)) / temperature).sigmoid().mean(0)
    bits = RelaxedBits(LOGITS, temperature).rsample((1_000_000,))
    pair = Relaxed(torch.stack([torch.zeros(3), LOGITS], -1), temperature).rsample((1_000_000,))
    for found in (bits, pair[..., 1]):
        se = found.std(0) / 1000
        assert ((found.mean(0) - expected).abs() < 5.5 * se).all()


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("kind", [Relaxed, RelaxedBits])
def test_cold_and_hard_draws_have_the_probabilities(kind: Any, hard: bool) -> None:
    """Soft at τ = 10⁻⁴, hard at τ = 1: 400 000 draws have the mean of q, within 5.5 se."""
    q = kind(LOGITS, 1.0 if hard else 1e-4, hard)
    draws = q.rsample((MANY,))
    assert ((draws.mean(0) - q.probs).abs() < 5.5 * draws.std(0) / MANY**0.5).all()
    if hard:
        assert ((draws == 0) | (draws == 1)).all()
        assert kind is RelaxedBits or (draws.sum(-1) == 1).all()


@pytest.mark.parametrize("kind", [Relaxed, RelaxedBits])
def test_hard_draws_have_the_gradient_of_soft_ones(kind: Any) -> None:
    logits, found = LOGITS.clone().requires_grad_(), []
    for hard in (False, True):
        with seeded(1):
            y = kind(logits, 0.5, hard).rsample((7,))
        found.append(torch.autograd.grad((y * torch.arange(1.0, 4.0)).sum(), logits)[0])
    assert torch.equal(*found) and found[0].abs().sum() > 0


def test_the_terms_of_a_relaxed_site_are_expectations() -> None:
    """E_q log p and E_q log q, by enumeration; at hard values ``Linear`` is log p itself."""
    q, p = dist.Bernoulli(logits=LOGITS).to_event(1), dist.Bernoulli(torch.tensor([0.2, 0.5, 0.9]))
    relaxed, prior = RelaxedBits(LOGITS, 0.5), p.to_event(1)
    value, mass = relaxed.rsample((5,)), q.log_prob(STATES).exp()
    expected = (mass * prior.log_prob(STATES)).sum().expand(5)
    torch.testing.assert_close(relaxed.against(prior).log_prob(value), expected)
    expected = (mass * q.log_prob(STATES)).sum().expand(5)
    torch.testing.assert_close(relaxed.log_prob(value), expected)
    torch.testing.assert_close(Linear(prior).log_prob(STATES), prior.log_prob(STATES))
    cat, other = Relaxed(LOGITS, 0.5), dist.Categorical(torch.tensor([0.2, 0.5, 0.3]))
    expected = (LOGITS.softmax(-1) * other.logits).sum().expand(5)
    torch.testing.assert_close(cat.against(other).log_prob(cat.rsample((5,))), expected)
    y = torch.arange(3)
    torch.testing.assert_close(Linear(other).log_prob(indicator(y, 3)), other.log_prob(y))
    scalar = dist.Bernoulli(torch.tensor(0.3))
    torch.testing.assert_close(linear(scalar, torch.tensor(1.0)).exp(), torch.tensor(0.3))
    for wrong in (dist.Normal(0.0, 1.0), dist.Poisson(1.0)):
        with pytest.raises(ValueError, match="only a Categorical or independent bits can be"):
            cat.against(wrong)
    with pytest.raises(ValueError, match="temperature of a relaxed draw is above 0"):
        RelaxedBits(LOGITS, -1.0)


def relaxed_slopes(toy: str, estimator: Any, n: int) -> Tensor:
    make, guide_of, _ = TOYS[toy]
    model, guide = make(n), guide_of(estimator, n)
    with seeded(5), validation(False):
        batch = Dataset(torch.full((n,), X)).batch()
        return slopes(-log_weights(model, guide, batch).local.mean(), n, guide)


@pytest.mark.parametrize("toy", ["bits", "classes"])
def test_the_bias_falls_with_the_temperature(toy: str) -> None:
    """The length of the bias over that of the gradient of q, from 400 000 draws: at τ = 2, 0.5, 0.1
    about 0.50, 0.18, 0.08 and 0.77, 0.35, 0.07 for gumbel, which falls by more than the noise each
    time; 0.34, 0.41, 0.12 and 0.43, 0.07, 0.11 for straight_through, which falls from 2 to 0.1."""
    make, guide_of, exact_of = TOYS[toy]
    m, g = make(2), guide_of(Gumbel(), 2)
    exact = slopes(-exact_of(m, g).mean(), 2, g)[0]
    for kind in (Gumbel, StraightThrough):
        bias, noise = [], []
        for temperature in (2.0, 0.5, 0.1):
            found = relaxed_slopes(toy, kind(temperature), MANY)
            bias.append(float((found.mean(0) - exact).norm() / exact.norm()))
            noise.append(float((found.var(0).sum() / MANY).sqrt() / exact.norm()))
        if kind is Gumbel:
            assert bias[0] - bias[1] > 5 * (noise[0] + noise[1])
            assert bias[1] - bias[2] > 5 * (noise[1] + noise[2]) and bias[2] < 0.1
        assert bias[0] - bias[2] > 5 * (noise[0] + noise[2])


@pytest.mark.parametrize("toy", ["bits", "classes"])
def test_the_value_of_a_straight_through_loss_is_the_bound(toy: str) -> None:
    """Of 400 000 rows with one discrete site each, within 5.5 standard errors; of gumbel not."""
    make, guide_of, exact_of = TOYS[toy]
    m, g = make(2), guide_of(Gumbel(), 2)
    exact, away = exact_of(m, g)[0].detach(), []
    for estimator in (StraightThrough(1.0), Gumbel(1.0)):
        model, guide = make(MANY), guide_of(estimator, MANY)
        with seeded(6), validation(False):
            weights = log_weights(model, guide, Dataset(torch.full((MANY,), X)).batch())
        h = weights.local.detach().flatten()
        away.append(float((h.mean() - exact).abs() / h.std() * MANY**0.5))
    assert away[0] < 5.5 < away[1]


# The temperature's schedule ----------------------------------------------------------------------

FALLING: dict[str, Any] = {"temperature": 1.0, "final_temperature": 0.25, "anneal_steps": 4}


@pytest.mark.parametrize("kind", [Gumbel, StraightThrough])
def test_the_temperature_falls_geometrically_over_training_draws(kind: Any) -> None:
    estimator, found = kind(**FALLING), []
    guide, batch = BitsGuide(estimator, 3), Dataset(torch.ones(3)).batch()
    for step in range(7):
        weights = log_weights(Bits(3), guide, batch, 2)
        fn = weights.local_sites[1]["z"]["fn"]  # type: ignore[index]
        found.append(float(fn.temperature))
        with torch.no_grad():  # which draws nothing relaxed, and counts nothing
            log_weights(Bits(3), guide, batch, step + 1)
    expected = [1.0, 0.25**0.25, 0.5, 0.25**0.75, 0.25, 0.25, 0.25]
    assert found == pytest.approx(expected, rel=1e-12)
    assert list(kind(0.3).buffers()) == [] and kind(0.3).temperature == 0.3


def test_the_schedule_goes_on_after_loading_and_resuming(tmp_path: Any) -> None:
    how: dict[str, Any] = {"batch_size": 10, "progress": False, "device": "cpu", "seed": 3}

    def pair() -> tuple[M2, Guide, Dataset]:
        torch.manual_seed(0)
        model, data = M2.example()
        return model, Guide(model, data, estimator="gumbel", estimator_options=FALLING), data

    a, q, data = pair()
    fit(a, q, data, steps=3, out=tmp_path / "whole", **how)
    b, r, data = pair()
    fit(b, r, data, steps=1, out=tmp_path / "part", **how)
    c, s, data = pair()
    fit(c, s, data, steps=3, out=tmp_path / "part", resume=True, **how)
    for one, other in ((a, c), (q, s)):
        for name, value in one.state_dict().items():
            assert value.equal(other.state_dict()[name]), name
    found: Any = load(tmp_path / "whole").guide.classifier.estimator  # type: ignore[union-attr]
    assert float(found.temperature) == pytest.approx(0.25**0.75)


@pytest.mark.parametrize("word", ["gumbel", "straight_through"])
def test_a_captured_fit_has_the_same_temperatures(word: str) -> None:
    """Losses and weights after 8 steps, the counter of draws among them, are those of eager."""
    torch.manual_seed(0)
    model, data = M2.example()
    guide = Guide(model, data, estimator=word, estimator_options=FALLING)
    check_captured(model, guide, data, steps=8)


@pytest.mark.parametrize("labels", [0, 8])
def test_rebar_is_captured(labels: int) -> None:
    torch.manual_seed(0)
    model, data = M2.example()
    data = data.labelled(torch.arange(labels), y=torch.arange(labels) % 3) if labels else data
    check_captured(model, Guide(model, data, estimator="rebar"), data, steps=8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, "temperatures are above 0"),
        ({**FALLING, "final_temperature": -1.0}, "temperatures are above 0"),
        ({"final_temperature": 0.1}, "takes both final_temperature and anneal_steps"),
        ({"anneal_steps": 10}, "takes both final_temperature and anneal_steps"),
        ({**FALLING, "anneal_steps": -2}, "takes both final_temperature and anneal_steps"),
    ],
)
def test_schedules_that_mean_nothing(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Gumbel(**options)
