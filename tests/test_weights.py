"""log_weights and the bounds made of it, against quadrature, enumeration and closed forms."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from zoo.context import seeded
from zoo.data import Batch, Dataset
from zoo.evaluation import evaluate
from zoo.handlers import Record, Temper, log_prob
from zoo.model import Model, observe, rows
from zoo.nets import select
from zoo.objectives._reductions import Power, log_mean_exp, mean
from zoo.objectives.bounds import elbo, iwae, renyi
from zoo.weights import LogWeights, log_weights

pytestmark = pytest.mark.usefixtures("float64")

LOG_EVIDENCE = -1.8280121234846454
X, LOC, SCALE = 1.5, 1.1, 0.9
KNOWN = {
    "elbo": -2.019299048862499,
    "iwae": -1.8973181847,
    "renyi": -1.9502162418,
    "renyi, any K": -1.9035819113,
    "cubo": -1.7337305153,
}


class ModelA(Model):
    """z ~ N(0, 1), x | z ~ N(z, 1)."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0))


class TrivialGlobal(ModelA):
    """A global latent that the data do not depend on."""

    def forward(self, n: int) -> Tensor:
        pyro.sample("g", dist.Normal(0.0, 1.0))
        return super().forward(n)


def data(n: int, x: float = X) -> Dataset:
    return Dataset(torch.full((n,), x))


def normal_guide(batch: Batch) -> None:
    """q(z) = N(1.1, 0.9²)."""
    with rows(batch):
        pyro.sample("z", dist.Normal(LOC, SCALE))


def at(z: Tensor) -> Callable[[Batch], None]:
    """The same q, its particles at z (K, N) for the rows of the batch."""

    def guide(batch: Batch) -> None:
        here = z[:, batch.index]
        with rows(batch):
            log_q = dist.Normal(LOC, SCALE).log_prob(here)
            pyro.sample("z", dist.Delta(here, log_q))

    return guide


def quadrature(points: int = 80) -> tuple[Tensor, Tensor]:
    """h = log w at Gauss–Hermite nodes of q, (points,), from log_weights; and their weights."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    z = LOC + SCALE * torch.as_tensor(nodes)
    h = log_weights(ModelA(), at(z[:, None]), data(1).batch(), points).log_weight[:, 0]
    return h, torch.as_tensor(weights / weights.sum())


def expected(reduce: Callable[[Tensor], Tensor], num_particles: int) -> float:
    """E of a reduction over independent particles, by a product of quadratures."""
    h, w = quadrature()
    grids = torch.cartesian_prod(*[h] * num_particles).reshape(-1, num_particles)
    weights = torch.cartesian_prod(*[w] * num_particles).reshape(-1, num_particles).prod(-1)
    return float(weights @ reduce(grids.T))


def test_model_a_by_quadrature() -> None:
    h, w = quadrature()
    assert float((w.log() + h).logsumexp(0)) == pytest.approx(LOG_EVIDENCE, abs=1e-9)
    assert expected(mean, 1) == pytest.approx(KNOWN["elbo"], abs=1e-9)
    assert expected(log_mean_exp, 2) == pytest.approx(KNOWN["iwae"], abs=1e-6)
    assert expected(Power(0.5), 2) == pytest.approx(KNOWN["renyi"], abs=1e-6)
    assert expected(Power(1.0), 2) == pytest.approx(KNOWN["elbo"], abs=1e-9)
    half = 2 * (w.log() + 0.5 * h).logsumexp(0)
    assert float(half) == pytest.approx(KNOWN["renyi, any K"], abs=1e-6)
    square = (w.log() + 2 * h).logsumexp(0) / 2
    assert float(square) == pytest.approx(KNOWN["cubo"], abs=1e-6)


@pytest.mark.parametrize(
    ("objective", "options", "value"),
    [
        (elbo, {}, KNOWN["elbo"]),
        (elbo, {"num_particles": 2}, KNOWN["elbo"]),
        (iwae, {"num_particles": 1}, KNOWN["elbo"]),
        (iwae, {"num_particles": 2}, KNOWN["iwae"]),
        (renyi, {"num_particles": 2, "alpha": 0.5}, KNOWN["renyi"]),
        (renyi, {"num_particles": 2, "alpha": 0.0}, KNOWN["iwae"]),
        (renyi, {"num_particles": 2, "alpha": 1.0}, KNOWN["elbo"]),
    ],
)
def test_objectives_on_model_a(objective: Any, options: dict[str, Any], value: float) -> None:
    """A million rows, each a replicate: se below 1e-3, band 5.5 se (one failure in 10⁷ runs)."""
    n, seed = 1_000_000, 3
    with seeded(seed):
        loss = objective(ModelA(), normal_guide, data(n).batch(), **options)
    with seeded(seed):
        h = log_weights(
            ModelA(), normal_guide, data(n).batch(), options.get("num_particles", 1)
        ).local
    reduce = {elbo: mean, iwae: log_mean_exp}.get(objective, Power(options.get("alpha", 1)))
    each = reduce(h)[0]
    se = float(each.std()) / n**0.5
    assert se < 1e-3
    assert float(-loss) == pytest.approx(float(each.mean()), abs=1e-12)
    assert float(-loss) == pytest.approx(value, abs=5.5 * se)


def test_cubo_of_many_particles() -> None:
    """½ log mean w²: by the delta method se = sd(w²)/(2 √K mean w²) < 1e-3, band 5.5 se."""
    with seeded(5):
        weights = log_weights(ModelA(), normal_guide, data(1).batch(), 1_000_000)
    square = (2 * weights.log_weight[:, 0]).exp()
    se = float(square.std() / (2 * 1000 * square.mean()))
    assert se < 1e-3
    assert float(weights.bound(Power(-1.0))) == pytest.approx(KNOWN["cubo"], abs=5.5 * se)


@pytest.mark.parametrize("reduce", [mean, log_mean_exp, Power(0.5)])
def test_bounds_do_not_depend_on_the_size_or_on_minibatches(reduce: Any) -> None:
    x, z = Dataset(torch.randn(12)), LOC + SCALE * torch.randn(3, 12)
    whole = log_weights(ModelA(), at(z), x.batch(), 3)
    assert whole.size == 12
    million = log_weights(ModelA(), at(z), replace(x.batch(), size=10**6), 3)
    torch.testing.assert_close(million.per_datapoint(reduce), whole.per_datapoint(reduce))
    parts = [log_weights(ModelA(), at(z), batch, 3) for batch in x.batches(4)]
    torch.testing.assert_close(torch.cat([p.local for p in parts], -1), whole.local)
    each = torch.cat([part.per_datapoint(reduce) for part in parts])
    torch.testing.assert_close(each.mean(0, keepdim=True), whole.per_datapoint(reduce))


@pytest.mark.parametrize(("S", "K"), [(1, 1), (1, 3), (4, 3), (3, 3)])
def test_a_trivial_global_latent_changes_nothing(S: int, K: int) -> None:
    x, z = Dataset(torch.randn(3)), LOC + SCALE * torch.randn(K, 3)
    alone = log_weights(ModelA(), at(z), x.batch(), K)

    def guide(batch: Batch) -> None:
        pyro.sample("g", dist.Normal(0.0, 1.0))
        at(z)(batch)

    for batch in (x.batch(), *x.batches(1)):
        weights = log_weights(TrivialGlobal(), guide, batch, K, S)
        assert weights.has_globals
        torch.testing.assert_close(weights.global_, torch.zeros(S))
        torch.testing.assert_close(weights.local, alone.local[..., batch.index].expand(S, -1, -1))
        for reduce in (mean, log_mean_exp):
            expected = alone.bound(reduce)[..., batch.index].mean(-1).expand(S)
            torch.testing.assert_close(weights.per_datapoint(reduce), expected)


class SharedMean(Model):
    """g ~ N(0, 1), z_n ~ N(g, 1), x_n ~ N(z_n, 1), so that x ~ N(0, 2 I + 1 1ᵀ)."""

    def forward(self, n: int) -> Tensor:
        g = pyro.sample("g", dist.Normal(0.0, 1.0))
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(g, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0))


def shared_mean_guide(widen: float) -> Callable[[Batch], None]:
    """The exact posterior where ``widen`` is 1; wider than it otherwise."""

    def guide(batch: Batch) -> None:
        precision = 1 + batch.size / 2
        loc = batch["x"].sum() / 2 / precision * batch.size / len(batch)
        g = pyro.sample("g", dist.Normal(loc, widen * precision**-0.5))
        with rows(batch):
            pyro.sample("z", dist.Normal((g + batch["x"]) / 2, widen * 0.5**0.5))

    return guide


def shared_mean_data(n: int = 30) -> tuple[Dataset, float]:
    with seeded(11):
        x = 0.7 + 2**0.5 * torch.randn(n)
    covariance = 2 * torch.eye(n) + torch.ones(n, n)
    evidence = dist.MultivariateNormal(torch.zeros(n), covariance).log_prob(x)
    return Dataset(x), float(evidence)


def evidence_units(weights: LogWeights, reduce: Any) -> Tensor:
    return weights.per_datapoint(reduce) * weights.size


def test_globals_and_locals_of_the_exact_posterior_weigh_the_evidence() -> None:
    x, evidence = shared_mean_data()
    weights = log_weights(SharedMean(), shared_mean_guide(1.0), x.batch(), 3, 4)
    assert weights.local.shape == (4, 3, 30) and weights.global_.shape == (4,)
    for reduce in (mean, log_mean_exp, Power(0.5)):
        bound = evidence_units(weights, reduce)
        torch.testing.assert_close(bound, torch.full((4,), evidence))


def test_inner_particles_share_the_global_latent() -> None:
    """20 000 draws of g. With its own g for each particle the "bound" is above log p(x), by more
    than 5 se; with one g for the ten of them it is below, by more than 5 se."""
    x, evidence = shared_mean_data()
    S, K, guide = 20_000, 10, shared_mean_guide(1.5)
    with seeded(1):
        right = evidence_units(log_weights(SharedMean(), guide, x.batch(), K, S), log_mean_exp)
        wrong = log_weights(SharedMean(), guide, x.batch(), 1, S)
    assert right.mean() + 5 * right.std() / S**0.5 < evidence
    lower = evidence_units(wrong, mean)
    assert lower.mean() < right.mean()
    own = wrong.local.reshape(S // K, K, 30).logsumexp(1) - math.log(K)
    each = own.sum(-1) + wrong.global_.reshape(S // K, K).mean(1)
    assert each.mean() - 5 * each.std() / (S // K) ** 0.5 > evidence


def test_minibatches_of_a_model_with_globals_average_to_the_whole() -> None:
    """The scale N/B acts inside the plate alone: log p(g)/q(g) is counted once."""
    x, _ = shared_mean_data(12)
    z, g = torch.randn(2, 12), torch.tensor(0.4)

    def guide(batch: Batch) -> None:
        pyro.sample("g", dist.Delta(g, torch.tensor(-0.3)))
        at(z)(batch)

    whole = log_weights(SharedMean(), guide, x.batch(), 2)
    torch.testing.assert_close(whole.global_, dist.Normal(0.0, 1.0).log_prob(g)[None] + 0.3)
    parts = [log_weights(SharedMean(), guide, batch, 2) for batch in x.batches(3)]
    for reduce in (mean, log_mean_exp):
        each = torch.stack([evidence_units(part, reduce) for part in parts])
        torch.testing.assert_close(each.mean(0), evidence_units(whole, reduce))


class Discrete(Model):
    """y₁ ~ Categorical, y₂ | y₁ ~ Bernoulli, z | y₁ ~ N(m_{y₁}, 1) if asked for, x | … ~ N."""

    def __init__(self, continuous: bool):
        super().__init__()
        self.continuous = continuous
        self.register_buffer("p1", torch.tensor([0.2, 0.5, 0.3]))  # (3,)
        self.register_buffer("p2", torch.tensor([0.1, 0.6, 0.8]))  # (3,)
        self.register_buffer("loc", torch.tensor([-1.0, 0.5, 2.0]))  # (3,)

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            y1 = pyro.sample("y1", dist.Categorical(self.p1))
            y2 = pyro.sample("y2", dist.Bernoulli(select(self.p2, y1)))
            z = select(self.loc, y1)
            if self.continuous:
                z = pyro.sample("z", dist.Normal(z, 1.0))
            return pyro.sample("x", dist.Normal(z + 0.7 * y2, 0.8))

    def by_hand(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """log p(x, z, y₁, y₂), (2, 3, …): y₂ first, as the sites are laid out."""
        terms = []
        for y2 in (0.0, 1.0):
            for c in range(3):
                log_p = self.p1[c].log() + dist.Bernoulli(self.p2[c]).log_prob(torch.tensor(y2))
                at = self.loc[c] if z is None else z
                if z is not None:
                    log_p = log_p + dist.Normal(self.loc[c], 1.0).log_prob(z)
                terms.append(log_p + dist.Normal(at + 0.7 * y2, 0.8).log_prob(x))
        return torch.stack(terms).unflatten(0, (2, 3))


def test_two_discrete_sites_are_summed_out() -> None:
    model, x = Discrete(False), torch.randn(5)
    weights = log_weights(model, lambda _: None, Dataset(x).batch())
    assert weights.local.shape == (6, 1, 1, 5)
    assert dict(weights.enumerated) == {"y1": 3, "y2": 2}
    terms = model.by_hand(x)
    torch.testing.assert_close(weights.local[:, 0, 0].unflatten(0, (2, 3)), terms)
    torch.testing.assert_close(weights.log_weight[0], terms.flatten(0, 1).logsumexp(0))
    with torch.no_grad(), seeded(0):
        many = log_weights(model, lambda _: None, Dataset(x[:1].expand(100_000)).batch())
        joint, draws = many.discrete()
    torch.testing.assert_close(joint[:, 0, 0, 0], terms[..., 0].flatten().softmax(0))
    state = draws["y1"] + 3 * draws["y2"]
    share = torch.bincount(state.flatten(), minlength=6) / 100_000
    band = 5.5 * 0.5 / 100_000**0.5
    assert (share - joint[:, 0, 0, 0]).abs().max() < band


@pytest.mark.parametrize("K", [1, 3, 5])
def test_discrete_sites_beside_a_continuous_one(K: int) -> None:
    model, x, z = Discrete(True), torch.randn(5), torch.randn(K, 5)
    weights = log_weights(model, at(z), Dataset(x).batch(), K)
    expected = model.by_hand(x, z).flatten(0, 1) - dist.Normal(LOC, SCALE).log_prob(z)
    torch.testing.assert_close(weights.local[:, 0], expected)
    collapsed = expected.logsumexp(0)
    torch.testing.assert_close(weights.log_weight, collapsed)
    torch.testing.assert_close(weights.bound(log_mean_exp)[0], log_mean_exp(collapsed))


@pytest.mark.parametrize("K", [1, 4])
def test_discrete_sites_of_the_guide(K: int) -> None:
    """q(y₁, y₂ | x) q(z | x, y₁): Σ_y q(y) [reduce_k h(y, z_k) - log q(y)]."""
    model, x = Discrete(True), torch.randn(5)
    q1, q2 = torch.rand(5, 3).softmax(-1), 0.2 + 0.6 * torch.rand(5)

    def guide(batch: Batch) -> None:
        with rows(batch):
            enumerate_ = {"enumerate": "parallel"}
            y1 = pyro.sample("y1", dist.Categorical(q1[batch.index]), infer=enumerate_)
            pyro.sample("y2", dist.Bernoulli(q2[batch.index]), infer=enumerate_)
            pyro.sample("z", dist.Normal(0.3 * y1 + 0.5 * batch["x"], 1.2))

    weights = log_weights(model, guide, Dataset(x).batch(), K)
    z = weights.values["z"]  # (3, 1, K, 5), one for each value of y₁
    assert z.shape == (3, 1, K, 5) and weights.local.shape == (6, 1, K, 5)
    h = torch.empty(2, 3, K, 5)
    log_q = torch.empty(2, 3, 5)
    for y2 in range(2):
        for y1 in range(3):
            here = z[y1, 0]
            log_q_z = dist.Normal(0.3 * y1 + 0.5 * x, 1.2).log_prob(here)
            h[y2, y1] = model.by_hand(x, here)[y2, y1] - log_q_z
            log_q[y2, y1] = q1[:, y1].log() + dist.Bernoulli(q2).log_prob(torch.tensor(float(y2)))
    torch.testing.assert_close(weights.local[:, 0], h.flatten(0, 1))
    torch.testing.assert_close(weights.log_q_enum, log_q.flatten(0, 1))
    for reduce in (mean, log_mean_exp):
        expected = (log_q.exp() * (reduce(h) - log_q)).sum((0, 1))
        torch.testing.assert_close(weights.bound(reduce)[0], expected)
    with pytest.raises(ValueError, match=r"without q\(y\|x\)"):
        _ = weights.log_weight


def test_a_discrete_site_in_the_data_is_not_summed() -> None:
    model, x, y1 = Discrete(False), torch.randn(5), torch.tensor([0, 1, 2, 1, 0])
    weights = log_weights(model, lambda _: None, Dataset({"x": x, "y1": y1}).batch())
    expected = model.by_hand(x).logsumexp(0).gather(0, y1[None])[0]
    torch.testing.assert_close(weights.log_weight[0], expected)


class Switches(Model):
    """More joint states than can be enumerated."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            total = sum(pyro.sample(f"s{i}", dist.Bernoulli(0.5)) for i in range(11))
            return pyro.sample("x", dist.Normal(total, 1.0))


class Table(Model):
    """x ~ N(μ, diag(σ²)), nothing hidden."""

    def __init__(self, dim: int):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.arange(dim) / 3)  # (D,)
        self.scale = torch.nn.Parameter(1 + torch.arange(dim) / 5)  # (D,)

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            return pyro.sample("x", dist.Normal(self.loc, self.scale).to_event(1))


@pytest.mark.parametrize("n", [3, 4, 7])
def test_missing_entries_are_integrated_out(n: int) -> None:
    """With as many rows as columns (n = 4) the mask is still one of entries."""
    x = torch.randn(n, 4)
    observed = torch.rand(n, 4) < 0.6
    observed[0], observed[1] = True, torch.tensor([True, False, False, True])
    observed[:, 0] = True
    raw = torch.where(observed, x, torch.nan)
    model = Table(4)
    batch = Dataset(raw, missing=True).batch()
    assert not batch["x"].isnan().any()
    weights = log_weights(model, lambda _: None, batch)
    each = dist.Normal(model.loc, model.scale).log_prob(x)
    expected = torch.where(observed, each, 0.0).sum(-1)
    torch.testing.assert_close(weights.log_weight[0], expected)
    weights.log_weight.sum().backward()
    assert model.loc.grad is not None and model.loc.grad.isfinite().all()


class Dense(Model):
    """A likelihood that does not factorise."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            return pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))


def test_missing_entries_of_a_dense_likelihood_are_refused() -> None:
    gaps = Dataset(torch.tensor([[1.0, torch.nan], [0.0, 2.0]]), missing=True)
    with pytest.raises(ValueError, match="site 'x' .* MultivariateNormal does not factorise"):
        log_weights(Dense(), lambda _: None, gaps.batch())


class Series(Model):
    """Events of two dimensions: one likelihood factorises over all entries, the other does not."""

    def __init__(self, factorises: bool):
        super().__init__()
        self.factorises = factorises

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            if self.factorises:
                fn = dist.Normal(torch.zeros(2, 2), 1.0).to_event(1).to_event(1)
            else:
                fn = dist.MultivariateNormal(torch.zeros(2, 2), torch.eye(2)).to_event(1)
            return pyro.sample("x", fn)


def test_missing_entries_of_matrices() -> None:
    x = torch.randn(2, 2, 2)
    raw = x.clone()
    raw[0, 1, 0] = raw[1, 0, 1] = torch.nan
    batch = Dataset(raw, missing=True).batch()
    weights = log_weights(Series(True), lambda _: None, batch)
    each = torch.where(raw.isnan(), 0.0, dist.Normal(0.0, 1.0).log_prob(x))
    torch.testing.assert_close(weights.log_weight[0], each.sum((1, 2)))
    with pytest.raises(ValueError, match="'x' has missing entries, but its Independent does not"):
        log_weights(Series(False), lambda _: None, batch)


def test_temper_raises_the_likelihood_alone_to_a_power() -> None:
    batch = data(4).batch()
    with Record() as plain:
        observe(TrivialGlobal())(batch)
    with Record() as record, Temper(0.25):
        observe(TrivialGlobal())(batch)
    for name, power in {"g": 1.0, "z": 1.0, "x": 0.25}.items():
        site = {**plain.sites[name], "value": record.sites[name]["value"]}
        if name == "x":
            site["fn"] = record.sites[name]["fn"]
        torch.testing.assert_close(log_prob(record.sites[name]), power * log_prob(site))


def guide_without(_: Batch) -> None:
    return None


def guide_with_more(batch: Batch) -> None:
    normal_guide(batch)
    pyro.sample("extra", dist.Normal(0.0, 1.0))


def guide_with_half(batch: Batch) -> None:
    with rows(batch):
        pyro.sample("y1", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})


def guide_twice(batch: Batch) -> None:
    normal_guide(batch)
    normal_guide(batch)


@pytest.mark.parametrize(
    ("model", "guide", "options", "words"),
    [
        (ModelA(), guide_without, {}, r"does not sample \['z'\]"),
        (TrivialGlobal(), normal_guide, {}, r"does not sample \['g'\]"),
        (ModelA(), guide_with_more, {}, r"samples \['extra'\].* latents are \['z'\]"),
        (ModelA(), guide_twice, {}, "'z' is sampled twice"),
        (ModelA(), normal_guide, {"num_outer": 2}, "num_outer counts draws of global"),
        (ModelA(), normal_guide, {"num_particles": 0}, "count draws from 1"),
        (Discrete(False), guide_with_half, {}, r"enumerates \['y1'\] but leaves \['y2'\]"),
        (Switches(), guide_without, {}, r"'s0': 2.*2048 joint states"),
    ],
)
def test_wrong_pairs_are_refused_in_words(
    model: Model, guide: Any, options: dict[str, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        log_weights(model, guide, data(3).batch(), **options)


def test_one_weight_a_datapoint_needs_a_model_without_globals() -> None:
    weights = log_weights(SharedMean(), shared_mean_guide(1.0), data(3).batch())
    with pytest.raises(ValueError, match="only without global latents"):
        _ = weights.log_weight


@pytest.mark.parametrize("shared", [True, False])
def test_errors_of_a_guide_with_discrete_sites(shared: bool) -> None:
    """400 evaluations of 5 rows: the spread of an sd is 1/sqrt(800) = 3.5 %, or 1.6 % over rows."""
    model, x = Discrete(True), torch.randn(5)

    def guide(batch: Batch) -> None:
        with rows(batch):
            q1 = dist.Categorical(torch.tensor([0.2, 0.3, 0.5]))
            y1 = pyro.sample("y1", q1, infer={"enumerate": "parallel"})
            pyro.sample("y2", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
            loc = 0.5 * batch["x"] + (0.0 if shared else 0.3 * y1)
            pyro.sample("z", dist.Normal(loc, 1.2))

    found = [evaluate(model, guide, x, num_particles=200, seed=seed) for seed in range(400)]
    for bound in ("elbo", "iwae"):
        estimates = [getattr(one, bound) for one in found]
        spread = torch.stack([one.rows for one in estimates]).std(0)
        claimed = torch.stack([one.error for one in estimates]).mean(0)
        assert (spread / claimed).log().mean().abs() < 0.15
