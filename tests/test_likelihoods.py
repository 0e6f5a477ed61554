"""Likelihoods: they integrate to one, score what they draw, and say what they cannot score."""

import math
from itertools import product
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import Tensor

import zoo
from zoo.context import validation
from zoo.data import Dataset
from zoo.likelihoods import Gaussian, Likelihood, likelihood_for
from zoo.likelihoods._elementwise import TruncatedExponential
from zoo.registry import build, names
from zoo.testing import check_model

D = 3
SMALL: dict[str, dict[str, Any]] = {
    "categorical": {"num_levels": 256},
    "gaussian:fixed": {"start_scale": 0.4},
    "student_t": {"df": "decoder"},
}
WORDS = [
    "bernoulli",
    "continuous_bernoulli",
    "gaussian",
    "gaussian:fixed",
    "gaussian:dimension",
    "gaussian:decoder",
    "student_t",
    "student_t:decoder",
    "categorical",
    "discretized_logistic_mixture",
    "discretized_logistic_mixture:1",
    "poisson",
    "negative_binomial",
    "negative_binomial:scalar",
    "negative_binomial:decoder",
    "multinomial",
]
FACTORISING = [word for word in WORDS if word != "multinomial"]
COUNTS = ("poisson", "negative_binomial")


def make(word: str, data_dim: int = D, **options: Any) -> Likelihood:
    return build("likelihoods", word, data_dim, **{**SMALL.get(word, {}), **options})


def outputs(likelihood: Likelihood, *shape: int, spread: float = 1.0) -> Tensor:
    return spread * torch.randn(*shape, likelihood.num_outputs)


def support(word: str) -> Tensor | None:
    """Every value of one entry, up to where no mass is left; None where it is an interval."""
    kind = word.partition(":")[0]
    if kind == "bernoulli":
        return torch.arange(2.0)
    if kind in ("categorical", "discretized_logistic_mixture"):
        return torch.arange(256.0) / 255
    if kind in COUNTS:
        return torch.arange(4000.0)
    return None


def nodes(word: str, fn: Any) -> tuple[Tensor, Tensor]:
    """Points and weights of a quadrature over one entry, (M,) and (M,) or (M, ..., D)."""
    if (values := support(word)) is not None:
        return values, torch.ones_like(values)
    t, w = torch.linspace(0, 1, 20001), torch.full((20001,), 1 / 20000)
    t, w = t[1:-1], w[1:-1]
    if word == "continuous_bernoulli":  # y = 3t² - 2t³, whose slope is 0 at both ends
        return 3 * t**2 - 2 * t**3, w * 6 * t * (1 - t)
    y = torch.sinh(40 * (t - 0.5))  # trapezoids after a change of variables, for heavy tails
    return y, w * 40 * torch.cosh(40 * (t - 0.5))


def test_every_word_is_tested() -> None:
    assert {word.partition(":")[0] for word in WORDS} == set(names("likelihoods"))


@pytest.mark.parametrize("word", FACTORISING)
def test_each_entry_integrates_to_one_and_has_the_mean_it_says(word: str, float64: None) -> None:
    likelihood = make(word)
    fn: Any = likelihood(outputs(likelihood, 4)).base_dist
    x, w = nodes(word, fn)
    density = fn.log_prob(x[:, None, None].expand(-1, 4, D)).exp() * w[:, None, None]
    torch.testing.assert_close(density.sum(0), torch.ones(4, D), atol=1e-6, rtol=0)
    mean = (density * x[:, None, None]).sum(0)
    torch.testing.assert_close(mean, fn.mean, atol=1e-5, rtol=1e-5)


def test_a_multinomial_sums_to_one(float64: None) -> None:
    likelihood = make("multinomial", total=7)
    fn = likelihood(outputs(likelihood, 4))
    x = torch.tensor([v for v in product(range(8), repeat=D) if sum(v) == 7]).double()
    p = fn.log_prob(x[:, None]).exp()  # (36, 4)
    torch.testing.assert_close(p.sum(0), torch.ones(4), atol=1e-10, rtol=0)
    torch.testing.assert_close((p.unsqueeze(-1) * x[:, None]).sum(0), fn.mean)


def test_values_agree_with_scipy(float64: None) -> None:
    f = torch.tensor([0.3, -1.0, 2.0])
    x = torch.tensor([0.0, 4.0, 9.0])
    stats: Any = scipy.stats
    t = make("student_t", df="fixed", scale="fixed", start_scale=0.7, start_df=4.0)
    expected = stats.t.logpdf(x, 4.0, f, 0.7).sum()
    torch.testing.assert_close(t(f).log_prob(x), torch.as_tensor(expected))
    nb = make("negative_binomial", dispersion="fixed", start_count=2.5)
    mu = 3 * f.exp()
    expected = stats.nbinom.logpmf(x, 2.5, 2.5 / (2.5 + mu)).sum()
    three = torch.full((1,), 3.0)
    torch.testing.assert_close(nb(f[None], three).log_prob(x)[0], torch.as_tensor(expected))
    poisson = make("poisson")
    expected = stats.poisson.logpmf(x, mu).sum()
    torch.testing.assert_close(poisson(f[None], three).log_prob(x)[0], torch.as_tensor(expected))
    multinomial = make("multinomial")
    expected = stats.multinomial.logpmf(x.numpy(), 13, f.softmax(0).numpy())
    torch.testing.assert_close(multinomial(f).log_prob(x), torch.as_tensor(float(expected)))


@pytest.mark.parametrize("word", WORDS)
def test_draws_are_scored_and_have_the_mean(word: str) -> None:
    """Per entry, the mean of n = 4000 draws lies within 6 standard errors (1e-9 a number).

    For Student's t with its df near 2 the error of the mean is itself uncertain: its df is at 5.
    """
    likelihood = make(word, **({"df": "scalar"} if "student" in word else {}))
    f = outputs(likelihood, 2)
    exposure = torch.tensor([20.0, 30.0]) if likelihood.takes_exposure else None
    fn = likelihood(f, exposure)
    x = fn.sample((4000,))
    assert x.shape == (4000, 2, D) and x.dtype == f.dtype
    assert fn.support.check(x).all()
    assert fn.log_prob(x).isfinite().all()
    error = x.std(0) / math.sqrt(4000)
    away = (x.mean(0) - likelihood.mean(f, exposure)).abs()
    assert bool((away <= 6 * error + 1e-6).all())


@pytest.mark.parametrize(
    "word", ["continuous_bernoulli", "discretized_logistic_mixture", "student_t"]
)
def test_draws_have_the_distribution(word: str, float64: None) -> None:
    """Kolmogorov and Smirnov at n = 4000: false alarm below 1e-6 at D_n = 2.7/√n."""
    likelihood = make(word, 1)
    fn: Any = likelihood(outputs(likelihood)).base_dist
    x = fn.sample((4000,)).flatten().sort().values
    y, w = nodes(word, fn)
    mass = (fn.log_prob(y[:, None]).exp()[:, 0] * w).cumsum(0)
    seen = torch.searchsorted(x, y + 1e-9, right=True) / 4000
    assert (mass - seen).abs().max() < 2.7 / math.sqrt(4000)


def example(word: str, *shape: int) -> Tensor:
    """Values in the support of a likelihood."""
    likelihood = make(word)
    exposure = torch.full((1,), 9.0) if likelihood.takes_exposure else None
    return likelihood(outputs(likelihood, 1), exposure).sample(shape)[..., 0, :]


@pytest.mark.parametrize("word", WORDS)
def test_leading_dimensions(word: str, float64: None) -> None:
    likelihood = make(word)
    x = example(word, 5)
    exposure = 1 + torch.rand(5) if likelihood.takes_exposure else None
    f = outputs(likelihood, 2, 4, 5)
    got = likelihood(f, exposure).log_prob(x)
    assert got.shape == (2, 4, 5)
    one = [None if exposure is None else exposure[n : n + 1] for n in range(5)]
    each = [likelihood(f[:, :, n : n + 1], one[n]).log_prob(x[n]) for n in range(5)]
    torch.testing.assert_close(got, torch.cat(each, -1))
    f = outputs(likelihood, 6, 1, 1, 1)  # an enumerated latent
    fn = likelihood(f, exposure)
    got = fn.log_prob(x)
    assert got.shape == (6, 1, 1, 5)
    torch.testing.assert_close(fn.expand((6, 1, 4, 5)).log_prob(x), got.expand(6, 1, 4, 5))
    assert fn.expand((6, 1, 4, 5)).sample().shape == (6, 1, 4, 5, D)
    assert fn.expand((6, 1, 4, 5)).mean.shape == (6, 1, 4, 5, D)


@pytest.mark.parametrize("word", WORDS)
def test_gradients_reach_every_output_and_parameter(word: str, float64: None) -> None:
    likelihood = make(word)
    f = outputs(likelihood, 20).requires_grad_()
    likelihood(f).log_prob(example(word, len(f))).sum().backward()
    reached = f.grad.abs().sum(0) > 0 if f.grad is not None else torch.zeros(1)
    first = D if word == "discretized_logistic_mixture:1" else 0  # one component has no odds
    assert bool(reached[first:].all())
    for name, parameter in likelihood.named_parameters():
        assert parameter.grad is not None and bool((parameter.grad != 0).all()), name


@pytest.mark.parametrize("word", FACTORISING)
def test_gradients_are_right(word: str, float64: None) -> None:
    likelihood = make(word, 2, **({"num_levels": 5} if "categ" in word or "discr" in word else {}))
    x = likelihood(outputs(likelihood, 3)).sample()
    f = torch.cat([outputs(likelihood, 2), torch.zeros(1, likelihood.num_outputs)])
    assert torch.autograd.gradcheck(lambda f: likelihood(f).log_prob(x), f.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("word", WORDS)
def test_extreme_outputs_are_finite(word: str, dtype: torch.dtype) -> None:
    likelihood = make(word).to(dtype)
    x = example(word, 8).to(dtype)
    ends = (50.0,) if word.partition(":")[0] in COUNTS else (50.0, 1e3)
    for end in ends:
        signs = torch.randint(0, 2, (8, likelihood.num_outputs)).to(dtype) * 2 - 1
        f = (end * signs).requires_grad_()
        score = likelihood(f).log_prob(x)
        assert score.isfinite().all() and score.dtype == dtype
        (gradient,) = torch.autograd.grad(score.sum(), f)
        assert gradient.isfinite().all()
        assert likelihood.mean(f).isfinite().all()
        assert likelihood.mean(f).dtype == dtype


@pytest.mark.parametrize("word", WORDS)
def test_a_start_has_the_mean_of_the_data(word: str, float64: None) -> None:
    likelihood = make(word)
    x = torch.cat([example(word, 50), torch.zeros(1, D), torch.ones(1, D)])
    f = likelihood.start(x)
    assert f.shape == (likelihood.num_outputs,) and f.isfinite().all()
    torch.testing.assert_close(likelihood.mean(f), x.mean(0), atol=2e-6, rtol=2e-6)
    assert likelihood(f).log_prob(x).isfinite().all()


@pytest.mark.parametrize("word", WORDS)
def test_a_start_from_constant_data_is_finite(word: str) -> None:
    likelihood = make(word)
    for x in (torch.zeros(20, D), torch.ones(20, D)):
        f = likelihood.start(x)
        assert f.isfinite().all()
        score = likelihood(f).log_prob(x)
        assert score.isfinite().all()
        away = (likelihood.mean(f) - x).abs()
        assert bool((away < 0.2 if word == "multinomial" else away < 0.06).all())


@pytest.mark.parametrize("word", COUNTS)
def test_an_exposure_multiplies_the_rate(word: str, float64: None) -> None:
    likelihood = make(word)
    exposure = 1 + 3 * torch.rand(40)
    x = likelihood(outputs(likelihood, 1), exposure).sample()
    f = likelihood.start(x, exposure)
    twice = likelihood.mean(f, 2 * exposure)
    torch.testing.assert_close(twice, 2 * likelihood.mean(f, exposure))
    torch.testing.assert_close(likelihood.mean(f, exposure).sum(0), x.sum(0).clamp(min=0.5))
    with pytest.raises(ValueError, match="exposure must be positive"):
        likelihood(f, exposure - exposure[0])
    with pytest.raises(ValueError, match="takes no exposure"):
        make("gaussian")(torch.zeros(40, D), exposure)


def test_draws_of_a_multinomial_have_their_totals() -> None:
    likelihood = make("multinomial", 5)
    f = outputs(likelihood, 3, 2)
    total = torch.tensor([10.0, 300.0])
    assert bool((likelihood(f, total).sample((7,)).sum(-1) == total).all())
    likelihood.start(torch.full((4, 5), 3.0))
    assert bool((likelihood(f).sample().sum(-1) == 15).all())


class Tiny(zoo.Model):
    """z_n ~ N(0, 1), x_n | z_n ~ a likelihood of outputs that are linear in z_n."""

    inputs = ("exposure",)

    def __init__(self, likelihood: Likelihood):
        super().__init__()
        self.likelihood = likelihood
        self.slope = torch.nn.Parameter(torch.randn(likelihood.num_outputs))  # (E,)

    def forward(self, n: int, exposure: Tensor | None = None) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", self.likelihood(z.unsqueeze(-1) * self.slope, exposure))


def observed_score(model: Tiny, data: Dataset, z: Tensor) -> Tensor:
    """log p(x | z) (B,) of the rows as the model scores them, missing entries integrated out."""
    with pyro.poutine.trace() as trace, pyro.condition(data={"z": z}):
        zoo.observe(model)(data.batch())
    node: Any = trace.trace.nodes["x"]
    return node["fn"].log_prob(node["value"])


@pytest.mark.parametrize("word", WORDS)
def test_in_a_model(word: str) -> None:
    model = Tiny(make(word))
    values = {"x": example(word, 6)}
    if model.likelihood.takes_exposure:
        values["exposure"] = torch.full((6,), 2.0)
    with validation(True):
        draws = zoo.prior_predictive(model, 6, **{k: v for k, v in values.items() if k != "x"})
        assert draws["x"].shape[-2:] == (6, D)
        z = torch.randn(6)
        got = observed_score(model, Dataset(values), z)
    expected = model.likelihood(z[:, None] * model.slope, values.get("exposure"))
    torch.testing.assert_close(got, expected.log_prob(values["x"]))


@pytest.mark.parametrize("word", FACTORISING)
def test_missing_entries_are_integrated_out(word: str, float64: None) -> None:
    """The score of the others, times the integral over the missing entry, which is one."""
    model = Tiny(make(word))
    x = example(word, 6)
    holes = x.clone()
    holes[2, 1] = holes[4, 0] = torch.nan
    z = torch.randn(6)
    got = observed_score(model, Dataset(holes, missing=True), z)
    fn: Any = model.likelihood(z[:, None] * model.slope)
    y, w = nodes(word, fn.base_dist)
    for n, j in ((2, 1), (4, 0)):
        filled = x[n].repeat(len(y), 1)
        filled[:, j] = y
        row = model.likelihood(z[n] * model.slope)
        integral = (row.log_prob(filled) + w.log()).logsumexp(0)
        torch.testing.assert_close(got[n], integral, atol=1e-6, rtol=1e-6)
    whole = [0, 1, 3, 5]
    torch.testing.assert_close(got[whole], fn.log_prob(x)[whole])


def test_a_multinomial_with_missing_entries_is_given_the_sum_of_the_others(float64: None) -> None:
    model = Tiny(make("multinomial", 4))
    x = torch.tensor([[1.0, 0.0, torch.nan, 2.0], [3.0, 1.0, 2.0, 0.0]])
    z = torch.tensor([0.4, -1.0])
    got = observed_score(model, Dataset(x, missing=True), z)
    p = (z[:, None] * model.slope).softmax(-1)
    others = [0, 1, 3]
    for total in (3, 5, 9):  # p(x_o | Σ_o x_o) = p(x_o, x_m | Σ x) / p(x_m | Σ x) for any Σ x
        full = torch.cat([x[0, :2], torch.tensor([total - 3.0]), x[0, 3:]])
        joint = model.likelihood(z[0] * model.slope).log_prob(full)
        rest = dist.Binomial(total, p[0, 2]).log_prob(full[2])
        torch.testing.assert_close(got[0], joint - rest)
    expected = dist.Multinomial(3, p[0, others]).log_prob(x[0, others])
    torch.testing.assert_close(got[0], expected)
    torch.testing.assert_close(got[1], model.likelihood(z[1] * model.slope).log_prob(x[1]))
    (gradient,) = torch.autograd.grad(got[0], model.slope)
    assert gradient.isfinite().all() and gradient[2] == 0


OUTSIDE = [
    ("bernoulli", 0.3, "--binarization dynamic"),
    ("continuous_bernoulli", 17.0, "rescale the data"),
    ("categorical", 0.3, "256 grey levels divided by 255"),
    ("categorical", 255.0, "256 grey levels divided by 255"),
    ("discretized_logistic_mixture", -1 / 255, "256 grey levels divided by 255"),
    ("poisson", 0.5, "whole numbers from 0"),
    ("negative_binomial", -1.0, "whole numbers from 0"),
    ("multinomial", 2.5, "whole numbers from 0"),
]


@pytest.mark.parametrize("word, value, words", OUTSIDE)
def test_values_outside_the_support_are_refused(word: str, value: float, words: str) -> None:
    model = Tiny(make(word))
    x = example(word, 4)
    x[2, 1] = value
    with validation(True), pytest.raises(ValueError, match=words) as error:
        zoo.observe(model)(Dataset(x).batch())
    assert "'x'" in str(error.value) and f"such as {value:g}" in str(error.value)


def test_float32_grey_levels_are_levels() -> None:
    fn: Any = make("categorical")(torch.zeros(3 * 256)).base_dist
    levels = torch.arange(256, dtype=torch.uint8)
    assert fn.support.check(levels.float() / 255).all()
    assert fn.support.check((levels / 255.0).double()).all()


def test_near_one_half_and_far_from_it_a_continuous_bernoulli_is_exact(float64: None) -> None:
    """log((exp(f) - 1) / f) and its slope by quadrature, across the ends of the series."""
    f = torch.cat([torch.logspace(-9, 0, 40), torch.tensor([0.0, 0.499999, 0.5, 0.500001])])
    f = torch.cat([f, -f])
    t, w = map(torch.as_tensor, scipy.special.roots_legendre(40))
    t, w = (t + 1) / 2, w / 2
    mass = (w * (f[:, None] * t).exp()).sum(-1)
    mean = (w * t * (f[:, None] * t).exp()).sum(-1) / mass
    fn = TruncatedExponential(f.requires_grad_())
    torch.testing.assert_close(fn.log_normalizer, mass.log(), atol=1e-14, rtol=1e-13)
    torch.testing.assert_close(fn.mean, mean, atol=1e-12, rtol=0)
    (slope,) = torch.autograd.grad(fn.log_normalizer.sum(), f)
    torch.testing.assert_close(slope, mean, atol=1e-12, rtol=0)
    single = TruncatedExponential(f.detach().float())
    torch.testing.assert_close(single.mean.double(), mean.detach(), atol=3e-7, rtol=0)
    far = TruncatedExponential(torch.tensor([-40.0, 40.0], dtype=torch.float32))
    expected = torch.full((2,), math.log(40.0), dtype=torch.float32)
    torch.testing.assert_close(far.log_prob(torch.tensor([0.0, 1.0]).float()), expected)


@pytest.mark.parametrize("word", ["student_t", "negative_binomial"])
def test_float32_follows_float64_to_the_limit(word: str) -> None:
    """From a light to an infinite df, or count of failures, where Gauss and Poisson are met."""
    for number in (0.5, 5.0, 19.99, 20.01, 1e3, 1e5, 1e7):
        if word == "student_t":
            options: dict[str, Any] = {"df": "fixed", "start_df": number, "min_df": 0.0}
            limit: Any = dist.Normal(torch.zeros(D), 1.0).to_event(1)
        else:
            options = {"dispersion": "fixed", "start_count": number}
            limit = dist.Poisson(torch.ones(D)).to_event(1)
        likelihood = make(word, **options)
        x = torch.tensor([[0.0, 1.0, 4.0]])
        single = likelihood(torch.zeros(1, D)).log_prob(x)
        double = likelihood.double()(torch.zeros(1, D).double()).log_prob(x.double())
        torch.testing.assert_close(single.double(), double, atol=2e-5, rtol=2e-6)
        if number == 1e7:
            torch.testing.assert_close(single, limit.log_prob(x), atol=1e-4, rtol=1e-5)


def test_a_scale_without_a_floor_has_no_bound_and_with_one_it_has(float64: None) -> None:
    x = torch.tensor([0.2, -1.0, 3.0])
    for raw in (-20.0, -40.0):
        f = torch.cat([x, torch.full((D,), raw)])
        free = Gaussian(D, "decoder", floor=0.0)(f).log_prob(x)
        held = Gaussian(D, "decoder", floor=0.01)(f).log_prob(x)
        assert free > -D * (raw + 1)
        assert held <= -D * math.log(0.01 * math.sqrt(2 * math.pi))


BAD = [
    ("gaussian", {"scale": "row"}, "scale must be one of"),
    ("gaussian", {"floor": -1.0}, "floor of scale"),
    ("gaussian", {"start_scale": 0.0}, "must be positive"),
    ("student_t", {"start_df": 1.0}, "must be positive"),
    ("negative_binomial", {"dispersion": "row"}, "dispersion must be one of"),
    ("multinomial", {"total": 0.0}, "total must be positive"),
    ("discretized_logistic_mixture:0", {}, "num_components must be at least 1"),
    ("categorical", {"num_levels": 1}, "num_levels must be at least 2"),
]


@pytest.mark.parametrize("word, options, words", BAD)
def test_bad_options_are_named(word: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(word, **options)


def test_outputs_of_the_wrong_size_are_named() -> None:
    with pytest.raises(ValueError, match=r"takes outputs \(..., 6\), got \(4, 3\)"):
        make("gaussian:decoder")(torch.zeros(4, 3))


def test_half_precision_outputs_are_scored_in_single() -> None:
    f = torch.randn(4, D, dtype=torch.bfloat16)
    score = make("bernoulli")(f).log_prob(torch.ones(4, D))
    assert score.dtype == torch.float32


def test_the_likelihood_that_fits_the_data() -> None:
    x = torch.tensor([[0.0, 1.0], [torch.nan, 1.0]])
    assert likelihood_for(x) == "bernoulli"
    assert likelihood_for(x * 2) == "poisson"
    assert likelihood_for(x * 0.5) == likelihood_for(-x) == "gaussian"
    assert likelihood_for(torch.tensor([0, 200], dtype=torch.uint8)) == "poisson"


@pytest.mark.cuda
@pytest.mark.parametrize("word", WORDS)
def test_on_a_device_scores_agree_and_never_wait(word: str) -> None:
    likelihood = make(word)
    x, f = example(word, 5), outputs(likelihood, 4, 5)
    expected = likelihood(f).log_prob(x)
    likelihood, x, f = likelihood.cuda(), x.cuda(), f.cuda()
    assert likelihood.start(x).is_cuda
    with validation(False):
        torch.cuda.set_sync_debug_mode("error")
        try:
            fn = likelihood(f)
            got, draws = fn.log_prob(x), fn()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(got.cpu(), expected, atol=1e-4, rtol=1e-5)
    assert draws.shape == (4, 5, D) and fn.support.check(draws).all()


@pytest.mark.parametrize("word", WORDS)
def test_a_model_with_it_conforms(word: str, float64: None) -> None:
    model = Tiny(make(word))
    values = {"x": example(word, 6)}
    if model.likelihood.takes_exposure:
        values["exposure"] = 1 + torch.rand(6)
    check_model(model, Dataset(values))
