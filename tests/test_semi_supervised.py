"""Models with labels that some rows have: bounds by hand, estimators against enumeration."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import Tensor, nn
from torch.nn.functional import one_hot

import zoo
import zoo.context
from guides import Guide
from zoo.context import seeded
from zoo.data import Batch, Dataset
from zoo.importance import importance_ladder
from zoo.model import Model, observe
from zoo.models.gmm import GMM
from zoo.models.m1m2 import M1M2
from zoo.models.m2 import M2
from zoo.nets import affine, join, select
from zoo.objectives.bounds import elbo, iwae, renyi
from zoo.objectives.enumerated import iwae_sum
from zoo.objectives.stock import stock
from zoo.weights import log_weights

C, D = 3, 6


@pytest.fixture
def pair(float64: None) -> tuple[M2, Dataset]:
    torch.manual_seed(1)
    model, data = M2.example()
    return model.double(), data.to(torch.float64)


def labelled(data: Dataset, count: int = 8) -> Dataset:
    return data.labelled(torch.arange(count))


def log_q_y(guide: Guide, x: Tensor) -> Tensor:
    """log q(y | x), (B, C), from the parameters alone."""
    assert guide.classifier is not None
    net = guide.classifier.net
    return (net.start + net.encoder((x - net.center) / net.spread)).log_softmax(-1)


def q_z(guide: Guide, x: Tensor, y: int) -> dist.Normal:
    """q(z | x, y) of every row, (B, d), from the parameters alone."""
    net: Any = guide.source
    label = one_hot(torch.full((len(x),), y), C).to(x)
    kappa = net.start + net.encoder(torch.cat([(x - net.center) / net.spread, label], -1))
    loc, raw = kappa.chunk(2, -1)
    return dist.Normal(loc, nn.functional.softplus(raw))


def log_joint(model: M2, x: Tensor, y: int, z: Tensor) -> Tensor:
    """log p(x, y, z), (K, B), of z (K, B, d)."""
    label = one_hot(torch.full(z.shape[:-1], y), C).to(z)
    logits = model.decoder(torch.cat([z, label], -1))
    log_x = dist.Bernoulli(logits=logits).log_prob(x).sum(-1)
    return log_x + dist.Normal(0.0, 1.0).log_prob(z).sum(-1) - math.log(C)


def by_hand(model: M2, guide: Guide, x: Tensor, z: Tensor) -> Tensor:
    """h = log p(x, y, z_y) - log q(z_y | x, y), (C, K, B), of z (C, K, B, d)."""
    parts = [
        log_joint(model, x, y, z[y]) - q_z(guide, x, y).log_prob(z[y]).sum(-1) for y in range(C)
    ]
    return torch.stack(parts)


def test_the_enumerated_bounds_are_the_sums_over_classes(pair: tuple[M2, Dataset]) -> None:
    """Σ_y q(y|x) [mean or log-mean-exp over k - log q(y|x)], and log mean_k Σ_y, to 1e-10."""
    model, data = pair
    guide, batch, x = Guide(model, data), data.batch(), data["x"]
    K = 5
    with seeded(3):
        weights = log_weights(model, guide, batch, K)
    z = weights.values["z"][:, 0]  # (C, K, B, d)
    assert z.shape == (C, K, len(x), 2) and weights.enumerated == {"y": C}
    h, log_q = by_hand(model, guide, x, z), log_q_y(guide, x).T
    torch.testing.assert_close(weights.local[:, 0], h, rtol=0, atol=1e-10)
    torch.testing.assert_close(weights.log_q_enum, log_q, rtol=0, atol=1e-10)
    expected = {
        elbo: (log_q.exp() * (h.mean(1) - log_q)).sum(0),
        iwae: (log_q.exp() * (h.logsumexp(1) - math.log(K) - log_q)).sum(0),
        iwae_sum: h.logsumexp((0, 1)) - math.log(K),
    }
    for objective, rows in expected.items():
        with seeded(3):
            loss = objective(model, guide, batch, num_particles=K)
        torch.testing.assert_close(loss, -rows.mean(), rtol=0, atol=1e-6)
    assert expected[iwae].mean() < expected[iwae_sum].mean()


def test_rows_with_labels_are_scored_with_them(pair: tuple[M2, Dataset]) -> None:
    """log p(x, y, z) - log q(z | x, y), and α (N/N_l) log q(y | x) beside it."""
    model, data = pair
    data = labelled(data)
    alpha = 0.7
    guide = Guide(model, data, classifier_options={"alpha": alpha})
    batch = data.batch(torch.arange(8))
    with seeded(3):
        weights = log_weights(model, guide, batch, 4)
    z, x, y = weights.values["z"], batch["x"], batch["y"]
    rows = torch.arange(8)
    h = by_hand(model, guide, x, z.reshape(1, 4, 8, 2).expand(C, -1, -1, -1))
    torch.testing.assert_close(weights.local[0], h[y, :, rows].T)
    log_q = log_q_y(guide, x)[rows, y]
    torch.testing.assert_close(weights.reward, alpha * 20 / 8 * log_q)
    with seeded(3):
        loss = elbo(model, guide, batch, num_particles=4)
    torch.testing.assert_close(loss, -(h[y, :, rows].mean() + alpha * 20 / 8 * log_q.mean()))


def test_a_step_is_the_sum_over_the_data_set(pair: tuple[M2, Dataset]) -> None:
    """Σ_l L(x, y) + Σ_u U(x) + α N mean_l log q(y | x), per datapoint, from any two batches."""
    model, data = pair
    data = labelled(data)
    guide = Guide(model, data, "delta", classifier_options={"alpha": 0.4})  # nothing is random
    x = data.without("y").batch()["x"]

    def hidden(rows: Tensor) -> Tensor:
        log_q = log_q_y(guide, rows)
        net: Any = guide.source
        points = []
        for y in range(C):
            label = one_hot(torch.full((len(rows),), y), C).to(rows)
            feats = torch.cat([(rows - net.center) / net.spread, label], -1)
            points.append(log_joint(model, rows, y, (net.start + net.encoder(feats))[None])[0])
        return (log_q.exp() * (torch.stack(points, 1) - log_q)).sum(-1), torch.stack(points, 1)

    bound, _ = hidden(x[8:])
    _, points = hidden(x[:8])
    y = data["y"]
    given = points[torch.arange(8), y]
    reward = log_q_y(guide, x[:8])[torch.arange(8), y].mean()
    expected = -(bound.sum() + given.sum()) / 20 - 0.4 * reward
    whole = sum(weight * elbo(model, guide, batch) for batch, weight in data.parts(None))
    torch.testing.assert_close(whole, expected)
    steps = list(data.epoch(11, seed=0, epoch=0, labelled_rows=8))
    assert len(steps) == 4  # three unlabelled rows at a time
    each = [
        sum(w * elbo(model, guide, b) for b, w in data.parts(index, labelled_rows=8))
        for index in steps
    ]
    torch.testing.assert_close(torch.stack(each).mean(), expected)


def test_with_all_labels_the_bound_is_the_supervised_one(pair: tuple[M2, Dataset]) -> None:
    model, data = pair
    given = data.labelled(torch.arange(len(data)))
    guide = Guide(model, given, classifier_options={"alpha": 0.0})
    assert guide.classifier is not None and given.partial == ()
    with seeded(3):
        weights = log_weights(model, guide, given.batch(), 6)
    z = weights.values["z"].reshape(6, 20, 2)
    y, rows = given["y"], torch.arange(20)
    h = by_hand(model, guide, given["x"], z.expand(C, -1, -1, -1))[y, :, rows].T  # (K, B)
    for objective, value in (
        (elbo, h.mean(0)),
        (iwae, h.logsumexp(0) - math.log(6)),
        (iwae_sum, h.logsumexp(0) - math.log(6)),
    ):
        with seeded(3):
            loss = objective(model, guide, given.batch(), num_particles=6)
        torch.testing.assert_close(loss, -value.mean())


class Toy(Model):
    """y ~ Cat(π), z ~ N(0, 1), x | y, z ~ N(a_y + b_y z, s²): log p(x) is known."""

    labels = ("y",)
    estimator = "enumerate"

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.2, -0.3, 0.5]))  # (C,)
        self.a = nn.Parameter(torch.tensor([[-1.0, 0.5], [0.0, -1.0], [1.5, 1.0]]))  # (C, D)
        self.b = nn.Parameter(torch.tensor([[1.0, 0.4], [-0.6, 1.2], [0.3, 0.9]]))  # (C, D)

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=self.logits))
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            loc = select(self.a, y, 1) + select(self.b, y, 1) * z
            return pyro.sample("x", dist.Normal(loc, 0.7).to_event(1))

    def log_evidence(self, x: Tensor) -> Tensor:
        cov = self.b.unsqueeze(-1) * self.b.unsqueeze(-2) + 0.49 * torch.eye(2).to(x)
        parts = dist.MultivariateNormal(self.a, cov).log_prob(x.unsqueeze(-2))
        return (self.logits.log_softmax(-1) + parts).logsumexp(-1)


@pytest.fixture
def toy(float64: None) -> tuple[Toy, Dataset]:
    torch.manual_seed(0)
    return Toy(), Dataset(torch.randn(12, 2, generator=torch.Generator().manual_seed(5)))


def test_without_labels_log_p_of_the_mixture_is_met(toy: tuple[Toy, Dataset]) -> None:
    """iwae_sum meets log p(x), whatever q(y | x); iwae stays below by the KL of q(y | x)."""
    model, data = toy
    guide = Guide(model, data)
    evidence = model.log_evidence(data["x"])
    ladder = importance_ladder(model, guide, data, num_particles=20_000)
    away = (ladder.iwae.rows - evidence).abs() / ladder.iwae.error.clamp_min(1e-9)
    assert (ladder.iwae.error < 0.03).all() and (away < 5).all()
    with torch.no_grad(), seeded(1):
        found = -iwae(model, guide, data.batch(), num_particles=20_000)
        weights = log_weights(model, guide, data.batch(), 20_000)
    joint = weights.local.logsumexp(-2)[:, 0].softmax(0)  # p(y | x), (C, B)
    assert weights.log_q_enum is not None
    log_q = weights.log_q_enum
    gap = (log_q.exp() * (log_q - joint.log())).sum(0).mean()
    assert gap > 0.1
    torch.testing.assert_close(evidence.mean() - found, gap, rtol=0, atol=0.02)
    assert ladder.elbo.mean < found < evidence.mean()


def test_the_ladder_begins_with_the_elbo_and_rises(toy: tuple[Toy, Dataset]) -> None:
    model, data = toy
    guide = Guide(model, data)
    ladder = importance_ladder(model, guide, data, num_particles=2000)
    values = [bound.mean for bound in ladder.bounds]
    assert values == sorted(values)
    with torch.no_grad(), seeded(9):
        found = -elbo(model, guide, data.batch(), num_particles=20_000)
    assert abs(values[0] - found) < 5 * math.hypot(ladder.elbo.se, ladder.elbo.se)
    few = importance_ladder(model, guide, data, num_particles=2000, levels=[1])
    assert few.levels == (1, 2000)
    torch.testing.assert_close(few.elbo.rows, ladder.elbo.rows)
    torch.testing.assert_close(few.gaps[0].rows, ladder.gaps[0].rows)


def gradients(model: Model, guide: Guide, batch: Batch, K: int, **options: Any) -> Tensor:
    """The gradient of the ELBO with respect to q(y | x)'s parameters, flat."""
    parameters = list(guide.classifier.net.parameters())  # type: ignore[union-attr]
    loss = elbo(model, guide, batch, num_particles=K, **options)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


BASELINES = ("none", "mean", "leave_one_out", "network")


def copies(data: Dataset, count: int) -> Dataset:
    """Every row so many times: one gradient is then the mean of as many independent ones."""
    return Dataset(data["x"].repeat(count, 1))


def sample_of(model: Model, guide: Guide, data: Dataset, repeats: int, seed: int) -> Tensor:
    """Gradients (R, P) of independent batches."""
    batch = data.batch()
    with seeded(seed), zoo.context.validation(False):
        return torch.stack([gradients(model, guide, batch, 4) for _ in range(repeats)])


@pytest.mark.parametrize("baseline", BASELINES)
def test_the_score_function_agrees_with_enumeration(
    toy: tuple[Toy, Dataset], baseline: str
) -> None:
    """The mean of 12 000 gradients is within 5 se of the enumerated one, in every parameter."""
    model, data = toy
    exact = Guide(model, data, classifier_options={"hidden": ()})
    options = {"estimator": "score", "estimator_options": {"baseline": baseline}}
    guide = Guide(model, data, classifier_options={"hidden": ()}, **options)
    guide.load_state_dict(exact.state_dict(), strict=False)
    many = copies(data, 300)
    expected = sample_of(model, exact, many, 20, seed=0)
    found = sample_of(model, guide, many, 40, seed=1)
    se = torch.sqrt(found.var(0) / 40 + expected.var(0) / 20)
    assert (se < 0.05 * expected.mean(0).norm()).all()
    assert ((found.mean(0) - expected.mean(0)).abs() < 5.5 * se).all()
    with torch.enable_grad(), seeded(2):  # the loss is the bound, whatever stands beside it
        drawn = elbo(model, guide, many.batch(), num_particles=4)
        bound = elbo(model, exact, many.batch(), num_particles=4)
    if baseline != "network":  # whose own loss is in it
        assert abs(drawn - bound) < 0.1


def test_a_baseline_takes_variance_away(toy: tuple[Toy, Dataset]) -> None:
    model, data = toy
    spread = {}
    for baseline in ("none", "leave_one_out"):
        torch.manual_seed(0)
        options = {"estimator": "score", "estimator_options": {"baseline": baseline}}
        guide = Guide(model, data, classifier_options={"hidden": ()}, **options)
        found = sample_of(model, guide, copies(data, 20), 60, seed=1)
        spread[baseline] = found.var(0).sum().item()
    assert spread["leave_one_out"] < 0.5 * spread["none"]


def test_the_bias_of_gumbel_falls_with_the_temperature(toy: tuple[Toy, Dataset]) -> None:
    """The squared bias over all parameters, its own noise subtracted; the variance rises."""
    model, data = toy
    many = copies(data, 200)
    exact = Guide(model, data, classifier_options={"hidden": ()})
    target = sample_of(model, exact, many, 40, seed=0)
    bias, variance = [], []
    for temperature in (2.0, 0.2):
        options = {"estimator": "gumbel", "estimator_options": {"temperature": temperature}}
        guide = Guide(model, data, classifier_options={"hidden": ()}, **options)
        guide.load_state_dict(exact.state_dict())
        found = sample_of(model, guide, many, 40, seed=1)
        noise = (found.var(0) / 40 + target.var(0) / 40).sum()
        bias.append(((found.mean(0) - target.mean(0)).square().sum() - noise).item())
        variance.append(found.var(0).sum().item())
    assert bias[1] < 0.25 * bias[0] and variance[1] > variance[0]


def test_estimators_are_judged_by_enumeration(toy: tuple[Toy, Dataset]) -> None:
    """Without a gradient of q(y | x) all three are one guide."""
    model, data = toy
    exact = Guide(model, data)
    found = []
    for word in ("enumerate", "score", "gumbel"):
        guide = Guide(model, data, estimator=word)
        guide.load_state_dict(exact.state_dict(), strict=False)
        with torch.no_grad(), seeded(2):
            weights = log_weights(model, guide, data.batch(), 3)
        assert weights.enumerated == {"y": 3} and not weights.relaxed
        found.append(weights.expected)
    assert found[0].equal(found[1]) and found[0].equal(found[2])


@pytest.mark.parametrize("word", ["straight_through", "gumbel"])
def test_weighted_bounds_are_refused_where_they_would_be_wrong(
    toy: tuple[Toy, Dataset], word: str
) -> None:
    model, data = toy
    guide = Guide(model, data, estimator=word)
    for objective in (iwae, renyi, iwae_sum):
        with pytest.raises(ValueError, match="there is elbo alone"):
            objective(model, guide, data.batch(), num_particles=3)


def test_a_code_with_a_label_above_it_has_no_iwae(float64: None) -> None:
    model, data = M1M2.example()
    model, data = model.double(), data.to(torch.float64)
    guide = Guide(model, data)
    weights = log_weights(model, guide, data.batch(), 4)
    assert weights.log_q_enum is not None and weights.log_q_enum.shape == (C, 1, 4, 20)
    with pytest.raises(ValueError, match=r"q\(y \| x, z₁\)"):
        iwae(model, guide, data.batch(), num_particles=4)
    assert iwae_sum(model, guide, data.batch(), num_particles=4).isfinite()
    assert elbo(model, guide, data.batch(), num_particles=4).isfinite()


def test_the_stacked_bound_by_hand(float64: None) -> None:
    """E_q(z1|x) Σ_y q(y | z1) [log p(x, y, z1, z2) - log q(z1|x) q(z2 | z1, y) q(y | z1)]."""
    torch.manual_seed(0)
    model, data = M1M2.example()
    model, data = model.double(), data.to(torch.float64)
    with torch.no_grad():
        model.used[1] = 0.0
    guide, x, K = Guide(model, data), data["x"], 3
    weights = log_weights(model, guide, data.batch(), K)
    z1 = weights.values["z1"].reshape(K, 20, 4)
    z2 = weights.values["z2"].reshape(C, K, 20, 2)
    family: Any = guide.family
    first = family.layer(model, data.batch(), 0, None)
    read = z1 * model.used
    net = family.classifier.net
    log_q = (net.start + net.encoder(read)).log_softmax(-1)  # (K, B, C)
    expected, terms = torch.zeros(K, 20), []
    for y in range(C):
        label = one_hot(torch.full((K, 20), y), C).to(x)
        loc, raw = family.second(torch.cat([read, label], -1)).chunk(2, -1)
        log_q2 = dist.Normal(loc, nn.functional.softplus(raw)).log_prob(z2[y]).sum(-1)
        log_z2 = dist.Normal(0.0, 1.0).log_prob(z2[y]).sum(-1)
        mean, raw = model.top(torch.cat([z2[y], label], -1)).chunk(2, -1)
        scale = 1e-3 + nn.functional.softplus(raw)
        prior = dist.Normal(mean, scale).log_prob(z1)
        prior[..., 1] = dist.Normal(0.0, 1.0).log_prob(z1[..., 1])  # not used: N(0, 1)
        log_x = dist.Bernoulli(logits=model.decoder(z1)).log_prob(x).sum(-1)
        h = log_x + prior.sum(-1) + log_z2 - math.log(C) - log_q2 - first.log_prob(z1)
        terms.append(h)
        expected += log_q[..., y].exp() * (h - log_q[..., y])
    torch.testing.assert_close(weights.expected[0], expected)
    torch.testing.assert_close(weights.summed[0], torch.stack(terms).logsumexp(0))


@pytest.mark.parametrize("make", [Trace_ELBO, TraceEnum_ELBO])
def test_stock_pyro_takes_the_pair_with_its_reward(pair: tuple[M2, Dataset], make: Any) -> None:
    """The mean of a stock ELBO is ours, α log q(y | x) included, on both kinds of rows."""
    model, data = pair
    data = labelled(data)
    guide = Guide(model, data, classifier_options={"alpha": 0.5})
    loss = stock(make(max_plate_nesting=1, strict_enumeration_warning=False))
    for index in (torch.arange(8), torch.arange(8, 20)):
        batch = data.batch(index)
        with seeded(0), torch.no_grad():
            ours = elbo(model, guide, batch, num_particles=4000)
        with seeded(1):
            theirs = torch.stack([loss(model, guide, batch).detach() for _ in range(300)])
        assert abs(theirs.mean() - ours) < 5 * theirs.std() / 300**0.5
        assert Trace_ELBO().loss(observe(model), Guide(model, data, estimator="score"), batch) > 0
    with pytest.raises(ValueError, match="cannot score the relaxed"):
        loss(model, Guide(model, data, estimator="gumbel"), batch)


def test_posterior_draws_labels_from_q_and_latents_given_them(pair: tuple[M2, Dataset]) -> None:
    model, data = pair
    guide = Guide(model, data)
    with torch.no_grad():
        guide.source.encoder[-1].weight.mul_(20)  # z moves with y
    batch = data.batch()
    with seeded(0):
        q = guide.posterior(batch, 4000)
    p = log_q_y(guide, data["x"]).exp()
    torch.testing.assert_close(q.probabilities["y"], p)
    for y in range(C):
        chosen = q.samples["y"] == y
        share = chosen.double().mean(0)
        assert ((share - p[:, y]).abs() < 5 * (p[:, y] * (1 - p[:, y]) / 4000).sqrt()).all()
        where = q_z(guide, data["x"], y)
        expected = where.log_prob(q.samples["z"]).sum(-1)
        torch.testing.assert_close(q.log_q[chosen], expected[chosen])
        mean = (q.samples["z"] * chosen.unsqueeze(-1)).sum(0) / chosen.sum(0).unsqueeze(-1)
        se = where.scale / chosen.sum(0).sqrt().unsqueeze(-1)
        assert ((mean - where.loc).abs() < 5.5 * se).all()
    parts = [
        p[:, y].log() + q_z(guide, data["x"], y).log_prob(q.samples["z"]).sum(-1) for y in range(C)
    ]
    found = guide.log_prob(batch, {"z": q.samples["z"]})
    torch.testing.assert_close(found, torch.stack(parts).logsumexp(0))


def test_classify_reads_no_labels(pair: tuple[M2, Dataset]) -> None:
    model, data = pair
    guide = Guide(model, labelled(data))
    wrong = labelled(data).batch(torch.arange(8))
    with_y = guide.classify(wrong)["y"]
    torch.testing.assert_close(with_y, guide.classify(wrong.without("y"))["y"])
    torch.testing.assert_close(with_y, log_q_y(guide, wrong["x"]).exp())
    with pytest.raises(ValueError, match="no discrete latents"):
        from zoo.models.ppca import PPCA

        ppca, flowers = PPCA.example()
        Guide(ppca, flowers).classify(flowers.batch())


@pytest.mark.parametrize("inference", ["amortized", "per_datapoint", "semi_amortized"])
@pytest.mark.parametrize("family", ["mean_field", "full_rank", "planar:2", "iaf:1"])
def test_every_family_and_inference_takes_labels(family: str, inference: str) -> None:
    """A few steps on partly labelled rows, then q for new rows."""
    model, data = M2.example()
    given = labelled(data)
    guide = Guide(model, given, family, inference)
    result = zoo.fit(model, guide, given, steps=4, batch_size=12, progress=False)
    assert result.steps == 4
    fresh = Dataset(data["x"].flip(0)[:5], name="new rows")
    assert zoo.evaluate(model, guide.infer(fresh, steps=3), fresh, num_particles=20).iwae
    assert guide.posterior(given.without("y").batch(), 3).samples["z"].shape == (3, 20, 2)


def test_relaxed_labels_of_a_table(float64: None) -> None:
    """κ of a one-hot relaxed label is the label's own row."""
    model, data = M2.example()
    guide = Guide(model.double(), data.to(torch.float64), inference="per_datapoint")
    source: Any = guide.source
    torch.nn.init.normal_(source.table.weight)
    y = torch.arange(20) % C
    whole = source.given(data.batch(), {"y": y}, None)
    soft = source.given(data.batch(), {"y": one_hot(y, C).double()}, None)
    torch.testing.assert_close(whole, soft)
    torch.testing.assert_close(whole[4], source.table.weight[4 * C + 1])


def test_x_is_read_once_whatever_the_label(float64: None) -> None:
    """The encoder's first layer on x and y apart gives what it gives on both together."""
    model, data = M2.example()
    guide = Guide(model.double(), data.to(torch.float64))
    source: Any = guide.source
    y = torch.arange(C).reshape(C, 1, 1, 1)
    fast = source.given(data.batch(), {"y": y}, None)
    slow = super(type(source), source).given(data.batch(), {"y": y}, None)
    assert fast.shape == slow.shape == (C, 1, 1, 20, 4)
    torch.testing.assert_close(fast, slow)


def test_a_mixture_learns_its_components_from_labels() -> None:
    """gmm, whose y is summed out, takes labels too: its components are then the classes."""
    flowers = zoo.load_data("iris", labels=15)
    model = GMM.for_data(flowers.train, num_components=3, covariance="diagonal")
    guide = Guide(model, flowers.train)
    zoo.fit(model, guide, flowers.train, steps=300, lr=0.05, progress=False)
    assert flowers.test is not None and flowers.test.labels is not None
    found = guide.classify(flowers.test.batch())["y"].argmax(-1)
    assert (found == flowers.test.labels).float().mean() > 0.8


def test_a_global_latent_is_counted_once() -> None:
    """Of rows with and without labels: the two batches give the bound of the data set."""
    from zoo.models.bayesian_gmm import BayesianGMM

    model, data = BayesianGMM.example()
    given = data.labelled(torch.arange(10), y=torch.arange(10) % 2)
    guide = Guide(model, given, global_family="delta")
    whole = sum(w * elbo(model, guide, b).detach() for b, w in given.parts(None))
    parts = [log_weights(model, guide, b) for b, _ in given.parts(None)]
    expected = (parts[0].global_ + sum(w.bound(lambda h: h.mean(-2)).sum() for w in parts)) / len(
        data
    )
    torch.testing.assert_close(whole, -expected[0].detach(), rtol=1e-5, atol=1e-5)


def test_words_that_do_not_go_together() -> None:
    model, data = M2.example()
    with pytest.raises(ValueError, match="cannot be given labels"):
        Guide(model, data, "hamiltonian")
    with pytest.raises(ValueError, match="has no q"):
        Guide(model, data, inference="bottom_up")
    with pytest.raises(ValueError, match="a second layer off a code"):
        Guide(model, data, inference="stacked")
    with pytest.raises(ValueError, match="Did you mean 'enumerate'"):
        Guide(model, data, estimator="enumerat")
    with pytest.raises(ValueError, match="alpha"):
        Guide(model, data, classifier_options={"alpha": -1.0})
    with pytest.raises(ValueError, match="leave_one_out need num_particles from 2"):
        options = {"estimator": "score", "estimator_options": {"baseline": "leave_one_out"}}
        elbo(model, Guide(model, data, **options), data.batch())
    from zoo.models.ppca import PPCA

    ppca, flowers = PPCA.example()
    with pytest.raises(ValueError, match="no discrete latents"):
        Guide(ppca, flowers, estimator="enumerate")


class Wide(Model):
    """Two labels of 40 values each."""

    labels = ("a", "b")
    estimator = "enumerate"

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            a = pyro.sample("a", dist.Categorical(logits=torch.zeros(40)))
            b = pyro.sample("b", dist.Categorical(logits=torch.zeros(40)))
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            loc = z + (a + b).unsqueeze(-1)
            return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1))


def test_too_many_joint_states_are_refused_by_name() -> None:
    model, data = Wide(), Dataset(torch.randn(5, 1))
    guide = Guide(model, data)
    with pytest.raises(ValueError, match=r"\{'a': 40, 'b': 40\} takes 1600 joint states"):
        elbo(model, guide, data.batch())
    some = Guide(model, data.with_values(a=torch.arange(5)))  # with one of them given it goes
    assert elbo(model, some, data.with_values(a=torch.arange(5)).batch()).isfinite()
    drawn = Guide(model, data, estimator="score")
    assert elbo(model, drawn, data.batch()).isfinite()


def test_affine_and_select_take_relaxed_labels(float64: None) -> None:
    table = torch.randn(3, 2)
    y = torch.tensor([2, 0])
    torch.testing.assert_close(select(table, one_hot(y, 3).double(), 1), table[y])
    soft = torch.tensor([[0.2, 0.3, 0.5]])
    torch.testing.assert_close(select(table, soft, 1), affine(soft, table.T))
    assert join(torch.zeros(4, 1, 2), torch.ones(3, 1)).shape == (4, 3, 3)


def test_a_run_of_partly_labelled_data_resumes_to_the_same_bits(tmp_path: Any) -> None:
    def pair() -> tuple[M2, Guide, Dataset]:
        torch.manual_seed(0)
        model, data = M2.example()
        given = labelled(data)
        return model, Guide(model, given, estimator="score"), given

    options = {"batch_size": 12, "progress": False, "lr": 0.01, "seed": 3, "weight_decay": 0.05}
    model, guide, data = pair()
    zoo.fit(model, guide, data, steps=9, out=tmp_path / "whole", **options)
    a, q, data = pair()
    zoo.fit(a, q, data, steps=4, out=tmp_path / "part", **options)
    b, r, data = pair()
    zoo.fit(b, r, data, steps=9, out=tmp_path / "part", resume=True, **options)
    for one, other in ((model, b), (guide, r)):
        for name, value in one.state_dict().items():
            assert value.equal(other.state_dict()[name]), name
    run = zoo.load(tmp_path / "whole")
    assert run.guide.spec["estimator"] == "score"
    torch.testing.assert_close(
        run.guide.classify(data.without("y").batch())["y"],
        guide.classify(data.without("y").batch())["y"],
    )


@pytest.mark.cuda
def test_a_step_on_labels_does_not_wait_for_the_device() -> None:
    for make in (M2, M1M2):
        model, data = make.example()
        given = labelled(data).to("cuda")
        model = model.cuda()
        for word in ("enumerate", "score", "gumbel"):
            guide = Guide(model, given, estimator=word)
            zoo.fit(model, guide, given, steps=3, batch_size=12, device="cuda", progress=False)
            torch.cuda.set_sync_debug_mode("error")
            try:
                for index in given.epoch(12, 0, 0):
                    for batch, weight in given.parts(index, labelled_rows=6):
                        with zoo.context.validation(False):
                            (weight * elbo(model, guide, batch)).backward()
            finally:
                torch.cuda.set_sync_debug_mode("default")
