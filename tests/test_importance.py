"""The ladder of importance-weighted bounds: values, errors, pieces and the memory they take."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from guides.guide import Guide
from zoo import chunks
from zoo.chunks import Largest, plan
from zoo.data import Batch, Dataset, as_dataset
from zoo.evaluation import evaluate
from zoo.functions import plain
from zoo.importance import importance_ladder, rungs
from zoo.model import Model, rows
from zoo.models.bayesian_ppca import BayesianPPCA
from zoo.models.gmm import GMM
from zoo.models.ppca import PPCA
from zoo.models.vade import VaDE
from zoo.models.vae import VAE
from zoo.sums import MOST_BLOCKS, block_size
from zoo.weights import log_weights

pytestmark = pytest.mark.usefixtures("float64")

LOG_EVIDENCE, ELBO, IWAE_2 = -1.8280121234846454, -2.019299048862499, -1.8973181847


class ModelA(Model):
    """z ~ N(0, 1), x | z ~ N(z, 1)."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0))


def guide_a(batch: Batch) -> None:
    """q(z) = N(1.1, 0.9²) for x = 1.5."""
    with rows(batch):
        pyro.sample("z", dist.Normal(1.1, 0.9))


def linear(n: int = 20) -> tuple[PPCA, Dataset]:
    """PPCA as it starts, and n flowers."""
    model, data = PPCA.example()
    return model.double(), data.to(dtype=torch.float64).subset(range(n))


def test_known_values_of_one_latent() -> None:
    """10 rows, 20 000 draws each: 100 000 groups of two. Bands of 6 standard errors."""
    x = torch.full((10,), 1.5)
    found = importance_ladder(ModelA(), guide_a, x, num_particles=20_000, levels=[2])
    assert found.levels == (1, 2, 20_000) and found.num_particles == 20_000
    for bound, truth in zip(found.bounds, (ELBO, IWAE_2, LOG_EVIDENCE), strict=True):
        assert bound.se < 0.005
        assert abs(bound.mean - truth) < 6 * bound.se + 1e-4  # IWAE_20000 is 1e-5 below log p(x)
    assert found.elbo is found.bounds[0] and found.iwae is found.bounds[-1]
    assert abs(found.kl.mean - (LOG_EVIDENCE - ELBO)) < 6 * found.kl.se + 1e-4


def test_errors_are_those_of_repetition() -> None:
    """150 ladders of 4 rows, K = 200: a variance is known to 6 %, and the band is 6 times that."""
    x, K = torch.full((4,), 1.5), 200
    found = [
        importance_ladder(ModelA(), guide_a, x, num_particles=K, levels=[10], seed=seed)
        for seed in range(150)
    ]
    for which in ("bounds", "gaps"):
        for level in range(3 if which == "bounds" else 2):
            estimates = [getattr(one, which)[level] for one in found]
            spread = torch.stack([one.rows for one in estimates]).var(0).mean()
            claimed = torch.stack([one.error.square() for one in estimates]).mean()
            assert 0.65 < claimed / spread < 1.5, (which, level)
    wide = math.hypot(found[0].bounds[0].se, found[0].bounds[-1].se)
    assert found[0].kl.se < wide and found[0].gaps[-1].se == 0 == found[0].gaps[-1].mean


def test_the_ladder_rises_to_the_evidence() -> None:
    """PPCA, mean-field q that was never trained: K = 5000, bands of 6 standard errors."""
    model, data = linear()
    found = importance_ladder(model, Guide(model, data), data)
    truth = model.log_evidence(data["x"]).mean().item()
    assert found.levels == (1, 10, 100, 1000, 5000)
    means = [bound.mean for bound in found.bounds]
    for low, high, gap, after in zip(
        means, means[1:], found.gaps, [*found.gaps[1:], None], strict=False
    ):
        assert low < high + 6 * (gap.se if after is None else math.hypot(gap.se, after.se))
    assert means[0] < means[1] < means[2]
    for bound in found.bounds:
        assert bound.mean < truth + 6 * bound.se
    assert abs(found.iwae.mean - truth) < 6 * found.iwae.se + 0.02
    for gap, bound in zip(found.gaps, found.bounds, strict=True):
        assert gap.mean == pytest.approx(found.iwae.mean - bound.mean)
    assert 0 < found.kl.mean - 6 * found.kl.se < truth - found.elbo.mean + 6 * found.elbo.se


def test_the_exact_posterior_is_on_the_top_rung() -> None:
    model, data = linear()
    found = importance_ladder(model, Guide(model, data, "exact"), data, num_particles=20)
    for bound in found.bounds:
        torch.testing.assert_close(bound.rows, model.log_evidence(data["x"]).detach())
        assert bound.se < 1e-9
    assert abs(found.kl.mean) < 1e-9


@pytest.mark.parametrize("max_elements", [60, 500, 4_000, 10**7])
def test_pieces_change_the_draws_and_nothing_else(max_elements: int) -> None:
    """One weight a draw, set by its place: sums over any pieces are those of the whole."""
    model, data = linear(5)

    class Counted:
        """q whose draws of a row are 1, 2, … in turn."""

        def __init__(self) -> None:
            self.seen: dict[int, int] = {}

        def __call__(self, batch: Batch) -> None:
            with rows(batch):
                pyro.sample("z", Turned(self.seen, batch.index, len(batch)))

    def place(K: int) -> Tensor:
        k = torch.arange(K) + 1.0
        return torch.stack([(0.37 * k).sin(), (0.53 * k).cos()], -1)  # (K, 2)

    class Turned(dist.TorchDistribution):
        """Draws that continue where those of the row ended; log q = 0."""

        support = dist.constraints.real_vector
        arg_constraints: dict[str, Any] = {}

        def __init__(self, seen: dict[int, int], index: Tensor, rows_: int, shape: Any = None):
            self.seen, self.index = seen, index
            super().__init__(torch.Size(shape or (rows_,)), torch.Size([2]), validate_args=False)

        def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
            return Turned(self.seen, self.index, len(self.index), batch_shape)

        def sample(self, sample_shape: Any = ()) -> Tensor:
            K = self.batch_shape[0] if len(self.batch_shape) > 1 else 1
            start = self.seen.get(int(self.index[0]), 0)
            for row in self.index.tolist():
                self.seen[row] = start + K
            value = place(start + K)[start:].unsqueeze(1).expand(K, len(self.index), 2)
            return value.reshape(*self.batch_shape, 2)

        def log_prob(self, value: Tensor) -> Tensor:
            return value.new_zeros(value.shape[:-1])

    K, guide = 60, Counted()
    cut = plan(model, guide, data, K, 2, max_elements)
    assert (cut.particles < K) == (max_elements < 300)
    guide.seen.clear()

    class Reset(Counted):
        """Forgets what the plan drew, once for each call from outside."""

    fresh, original = Reset(), chunks.plan

    def planned(*args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        fresh.seen.clear()
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.importance.plan", planned)
        found = importance_ladder(
            model, fresh, data, num_particles=K, levels=[3, 7, 30], max_elements=max_elements
        )
    with torch.no_grad():
        z = place(K).unsqueeze(1)
        loc = z @ model.weight.mT + model.mean
        h = dist.Normal(loc, model.log_scale.exp()).log_prob(data["x"]).sum(-1)
        h = h + dist.Normal(0.0, 1.0).log_prob(z).sum(-1)  # (K, B)
    for k, bound in zip(found.levels, found.bounds, strict=True):
        groups = h[: K // k * k].unflatten(0, (-1, k)).logsumexp(1) - math.log(k)
        torch.testing.assert_close(bound.rows, groups.mean(0))
        if k < K:
            torch.testing.assert_close(bound.error, groups.std(0) / (K // k) ** 0.5)


def test_other_pieces_agree_within_their_errors() -> None:
    """1000 draws of 20 rows, three ways to cut them."""
    model, data = linear()
    guide = Guide(model, data)
    found = [
        importance_ladder(model, guide, data, num_particles=1000, max_elements=size)
        for size in (1500, 50_000, 10**7)
    ]
    for level in range(4):
        for one, other in zip(found, found[1:], strict=False):
            a, b = one.bounds[level], other.bounds[level]
            assert abs(a.mean - b.mean) < 6 * math.hypot(a.se, b.se)
    again = importance_ladder(model, guide, data, num_particles=1000, max_elements=1500)
    assert torch.equal(again.iwae.rows, found[0].iwae.rows)


def wide() -> tuple[VAE, Dataset]:
    """A decoder with 256 levels a pixel: 2048 numbers for 8 of data."""
    x = (torch.rand(7, 8) * 255).round() / 255
    return VAE(8, 2, hidden=(10,), likelihood="categorical"), as_dataset(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: linear(7),
        wide,
        lambda: (VaDE.example()[0].double(), VaDE.example()[1].to(dtype=torch.float64)),
        lambda: (BayesianPPCA(4), linear(7)[1]),
    ],
    ids=["ppca", "256 levels", "vade", "globals"],
)
def test_no_tensor_is_larger_than_asked(make: Callable[[], Any]) -> None:
    """K = 150, not all of whose draws of one row have room."""
    model, data = make()
    guide = Guide(model, data)
    outer = 3 if guide.latents.global_.dim else 1
    width = plan(model, guide, data, 150, outer, 10**6).width
    most = 100 * width * outer
    with Largest() as seen:
        found = importance_ladder(
            model, guide, data, num_particles=150, num_outer=max(2, outer), max_elements=most
        )
    assert most / 8 < seen.numel <= most
    assert all(math.isfinite(bound.mean) for bound in found.bounds)
    with Largest() as seen:
        evaluate(model, guide, data, num_particles=150, num_outer=2, max_elements=most)
    assert seen.numel <= 2 * most  # it counts the model's tensors alone


def test_pieces_share_the_draws_of_global_latents() -> None:
    """A log-mean-exp over pieces with a g of their own would exceed log p(x); K = 400 in 20."""

    class SharedMean(Model):
        def forward(self, n: int) -> Tensor:
            g = pyro.sample("g", dist.Normal(0.0, 3.0))
            with pyro.plate("data", n, dim=-1):
                z = pyro.sample("z", dist.Normal(g, 1.0))
                return pyro.sample("x", dist.Normal(z, 0.5))

    x = torch.randn(30) + 2
    count = len(x)
    precision = count / 1.25 + 1 / 9
    mean, sd = x.sum().item() / 1.25 / precision, precision**-0.5

    def guide(batch: Batch) -> None:
        g = pyro.sample("g", dist.Normal(mean, sd))  # the posterior of g
        with rows(batch):
            pyro.sample("z", dist.Normal((g + 4 * batch["x"]) / 5, 0.6))

    covariance = 9 * torch.ones(count, count) + 1.25 * torch.eye(count)
    truth = dist.MultivariateNormal(torch.zeros(count), covariance).log_prob(x).item() / count
    found = importance_ladder(SharedMean(), guide, x, num_particles=400, max_elements=1_000)
    assert found.num_outer == 32
    # g from its exact posterior and 400 draws of z: log p(x) itself, up to 1/400 a row
    assert abs(found.iwae.mean - truth) < 6 * found.iwae.se + 0.002
    assert found.elbo.mean < found.iwae.mean - 6 * found.kl.se


def test_plain_functions_run_one_particle_after_the_other() -> None:
    def function(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]))
            pyro.sample("x", dist.Normal(z.reshape(len(x)), 1.0), obs=x)

    model, x = plain(function), torch.full((3,), 1.5)

    def guide(batch: Batch) -> None:
        with rows(batch, "rows"):
            pyro.sample("z", dist.Normal(0.75, 0.5**0.5).expand([len(batch)]))

    found = importance_ladder(model, guide, x, num_particles=4, levels=[2])
    torch.testing.assert_close(found.iwae.rows, torch.full((3,), LOG_EVIDENCE))


def test_enumerated_latents_are_summed_out() -> None:
    model, data = GMM.example()
    model, data = model.double(), data.to(dtype=torch.float64)
    found = importance_ladder(model, Guide(model, data), data, num_particles=20, max_elements=100)
    for bound in found.bounds:
        torch.testing.assert_close(bound.rows, model.log_evidence(data["x"]).detach())


@pytest.mark.parametrize("max_elements", [30, 10**6])
def test_discrete_sites_of_the_guide(max_elements: int) -> None:
    """q(y | x) enumerated: the ELBO Σ_y q [h_y − log q], then bounds with y summed out."""

    class Kinds(Model):
        def forward(self, n: int) -> Tensor:
            with pyro.plate("data", n, dim=-1):
                y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7])))
                z = pyro.sample("z", dist.Normal(1.0 * y, 1.0))
                return pyro.sample("x", dist.Normal(z, 1.0))

    def guide(batch: Batch) -> None:
        with rows(batch):
            q = dist.Categorical(torch.tensor([0.5, 0.5]))
            y = pyro.sample("y", q, infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal((batch["x"] + y) / 2, 0.5**0.5))  # p(z | x, y)

    x = torch.tensor([0.0, 1.0, -2.0])
    found = importance_ladder(
        Kinds(), guide, x, num_particles=40, levels=[4], max_elements=max_elements
    )
    joint = torch.tensor([0.3, 0.7]).log() + dist.Normal(torch.tensor([0.0, 1.0]), 2**0.5).log_prob(
        x.unsqueeze(-1)
    )
    truth = (0.5 * (joint + math.log(2))).sum(-1)  # no noise: z is drawn from its posterior
    torch.testing.assert_close(found.elbo.rows, truth.double())
    for bound in found.bounds[1:]:
        torch.testing.assert_close(bound.rows, joint.logsumexp(-1).double())
    weights = log_weights(Kinds(), guide, Dataset(x).batch(), 5)
    torch.testing.assert_close(weights.bound(lambda h: h.mean(-2))[0], truth)


def test_sums_stay_few_whatever_the_number_of_draws() -> None:
    """100 000 draws: blocks of 100, their sums as those of single draws."""
    assert block_size(rungs(5000)) == 1 and block_size(rungs(100_000)) == 100
    assert all(10**k / block_size(rungs(10**k)) <= MOST_BLOCKS for k in range(4, 9))
    x = torch.full((2,), 1.5)
    found = importance_ladder(ModelA(), guide_a, x, num_particles=100_000, max_elements=6_000)
    assert found.levels == (1, 10, 100, 1000, 10_000, 100_000)
    whole = importance_ladder(
        ModelA(), guide_a, x, num_particles=100_000, levels=[3, 10, 100], max_elements=6_000
    )
    places = {k: i for i, k in enumerate(whole.levels)}
    for k, bound in zip(found.levels, found.bounds, strict=True):
        if k in places:
            torch.testing.assert_close(bound.rows, whole.bounds[places[k]].rows)
    assert found.elbo.error[0] == pytest.approx(whole.elbo.error[0].item(), rel=0.2)
    assert found.iwae.error[0] == pytest.approx(whole.iwae.error[0].item(), rel=0.2)
    odd = importance_ladder(ModelA(), guide_a, x, num_particles=100_003, max_elements=6_000)
    assert abs(odd.iwae.mean - LOG_EVIDENCE) < 6 * odd.iwae.se


def test_what_evaluate_says_is_the_ladder_of_two_levels() -> None:
    model, data = linear()
    guide = Guide(model, data)
    cut, whole = (
        evaluate(model, guide, data, num_particles=500, max_elements=size) for size in (600, 10**7)
    )
    for name in ("elbo", "iwae"):
        a, b = getattr(cut, name), getattr(whole, name)
        assert abs(a.mean - b.mean) < 6 * math.hypot(a.se, b.se)
        assert a.se == pytest.approx(b.se, rel=0.5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_particles": 1}, "two draws or more"),
        ({"num_particles": 10, "levels": [6]}, "two groups of draws or more"),
        ({"num_particles": 10, "levels": [0]}, "between 1 and half"),
    ],
)
def test_mistakes_are_answered_in_words(options: dict[str, Any], words: str) -> None:
    model, data = linear()
    with pytest.raises(ValueError, match=words):
        importance_ladder(model, Guide(model, data), data, **options)


def test_a_point_mass_has_no_ladder() -> None:
    model, data = linear()
    with pytest.raises(ValueError, match="point mass"):
        importance_ladder(model, Guide(model, data, "delta"), data)


@pytest.mark.parametrize("score", [importance_ladder, evaluate])
def test_grey_levels_are_not_scored_by_bernoulli(score: Any) -> None:
    """Neither in the first rows nor in the last."""
    model, data = VAE.example()
    guide = Guide(model, data)
    x = data["x"].clone()
    x[-1, -1] = 0.4
    with pytest.raises(ValueError, match="binarize grey levels"):
        score(model, guide, x, num_particles=20)
    score(model, guide, data, num_particles=20)
