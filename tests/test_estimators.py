"""Gradients of bounds by every estimator, against quadrature and enumeration.

Rows of one x with parameters of their own are independent replicates: one run on n of them gives n
gradients, whose mean is held against the exact one at 5 standard errors.
"""

from __future__ import annotations

import itertools
import math
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
from zoo import Dataset, Model, plain
from zoo.context import seeded
from zoo.data import Batch
from zoo.fitting import bind_objective, fit
from zoo.model import rows
from zoo.models.gmm import GMM
from zoo.models.m2 import M2
from zoo.models.ppca import PPCA
from zoo.models.sbn import SBN
from zoo.models.vae import VAE
from zoo.objectives._gradient import weigh
from zoo.objectives._reductions import (
    Blend,
    Groups,
    Power,
    Reduction,
    Thermodynamic,
    log_mean_exp,
    mean,
)
from zoo.objectives.bounds import elbo, iwae, renyi
from zoo.objectives.chi import cubo
from zoo.objectives.grouped import ciwae, miwae, piwae
from zoo.objectives.likelihood import map as map_objective
from zoo.objectives.thermodynamic import partition_of, tvo
from zoo.objectives.wake_sleep import forward_kl, rws, wake_sleep
from zoo.registry import resolve
from zoo.testing import check_captured

pytestmark = pytest.mark.usefixtures("float64")

X, LOC, SCALE, SHIFT = 1.5, 1.1, 0.9, 0.2


class Shifted(Model):
    """z ~ N(0, 1), x | z ~ N(z + b_n, 1), b_n of each row; the second entry of x repeats it."""

    def __init__(self, n: int, width: int = 1, globals_: bool = False):
        super().__init__()
        self.shift = nn.Parameter(torch.full((n,), SHIFT))  # (N,)
        self.width, self.globals_ = width, globals_

    def forward(self, n: int) -> Tensor:
        if self.globals_:
            pyro.sample("g", dist.Normal(0.0, 1.0))
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = (z + self.shift[:n]).unsqueeze(-1).expand(*z.shape[:-1], n, self.width)
            return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1))


class RowGuide(nn.Module):
    """q(z_n) = N(μ_n, σ_n²), one pair a row."""

    def __init__(self, n: int, loc: float = LOC, scale: float = SCALE, globals_: bool = False):
        super().__init__()
        self.loc = nn.Parameter(torch.full((n,), loc))  # (N,)
        self.scale = nn.Parameter(torch.full((n,), scale))  # (N,)
        self.globals_ = globals_

    def forward(self, batch: Batch) -> None:
        if self.globals_:
            pyro.sample("g", dist.Normal(0.0, 1.0))
        with rows(batch):
            pyro.sample("z", dist.Normal(self.loc[batch.index], self.scale[batch.index]))


def data_of(n: int, width: int = 1) -> Dataset:
    """n rows of x = 1.5; with a second entry, which is missing."""
    x = torch.full((n, width), X)
    x[:-1, 1:] = torch.nan  # in some row every column has a value
    return Dataset(x, missing=True) if width > 1 else Dataset(x)


# Exact values and gradients ----------------------------------------------------------------------

NODES, WEIGHTS = (torch.as_tensor(v) for v in np.polynomial.hermite_e.hermegauss(80))
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def log_joint(z: Tensor, shift: Tensor | float = 0.0) -> Tensor:
    return -0.5 * (z.square() + (X - shift - z).square()) - math.log(2 * math.pi)


def log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -0.5 * ((z - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)


def expected(
    value: Callable[..., Tensor], parameters: list[Tensor], count: int
) -> tuple[Tensor, list[Tensor]]:
    """E over K = ``count`` draws of q of value(h (K, M), z), and its gradient, by quadrature."""
    loc, scale, shift = parameters
    grid = torch.stack(torch.meshgrid(*[NODES] * count, indexing="ij")).reshape(count, -1)
    mass = torch.stack(torch.meshgrid(*[WEIGHTS] * count, indexing="ij")).reshape(count, -1).prod(0)
    z = loc + scale * grid
    h = log_joint(z, shift) - log_normal(z, loc, scale)
    total = (mass * value(h)).sum()
    slopes = torch.autograd.grad(total, parameters, allow_unused=True)
    return total.detach(), [torch.zeros(()) if g is None else g for g in slopes]


def leaves(shift: float = SHIFT) -> list[Tensor]:
    return [torch.tensor(v, requires_grad=True) for v in (LOC, SCALE, shift)]


LEFT = Thermodynamic((0.0, 0.2, 0.4, 0.6, 0.8), (0.2,) * 5)
RIGHT = Thermodynamic((0.2, 0.4, 0.6, 0.8, 1.0), (0.2,) * 5)


@pytest.mark.parametrize(
    ("reduce", "count", "known"),
    [
        (mean, 1, -2.019299048862499),
        (mean, 2, -2.019299048862499),
        (log_mean_exp, 2, -1.8973181847),
        (Power(0.5), 2, -1.9502162418),
        (Groups(2), 2, -2.019299048862499),
        (Blend(0.25), 2, 0.25 * -2.019299048862499 + 0.75 * -1.8973181847),
    ],
    ids=str,
)
def test_values_on_model_a(reduce: Reduction, count: int, known: float) -> None:
    value, _ = expected(reduce, leaves(0.0), count)
    assert float(value) == pytest.approx(known, abs=1e-8)


def test_integrals_on_model_a() -> None:
    """K = ∞: the thermodynamic sums, and the χ² bound, by quadrature against q."""
    z = LOC + SCALE * NODES
    h = log_joint(z) - log_normal(z, torch.tensor(LOC), torch.tensor(SCALE))
    many = WEIGHTS.log() + math.log(len(NODES))  # as if the nodes were draws, with these weights

    def of(points: tuple[float, ...]) -> float:
        w = torch.tensor(points)[:, None] * h + many
        return float((0.2 * (w.softmax(-1) * h).sum(-1)).sum())

    assert of(LEFT.points) == pytest.approx(-1.8610919, abs=1e-6)
    assert of(RIGHT.points) == pytest.approx(-1.7977401, abs=1e-6)
    assert partition_of(5, "uniform")[:-1] == pytest.approx(LEFT.points)
    chi = 0.5 * (WEIGHTS * (2 * h).exp()).sum().log()
    assert float(chi) == pytest.approx(-1.7337305153, abs=1e-6)


def test_the_thermodynamic_sums_are_on_both_sides_of_the_importance_weighted_bound() -> None:
    """Draw by draw, for every K and partition."""
    h = 3 * torch.randn(7, 40)
    for intervals, partition in itertools.product((1, 2, 5, 20), ("log", "uniform")):
        points = partition_of(intervals, partition)  # type: ignore[arg-type]
        steps = tuple(b - a for a, b in itertools.pairwise(points))
        left, right = (Thermodynamic(tuple(e), steps)(h) for e in (points[:-1], points[1:]))
        between = log_mean_exp(h)
        assert (h.mean(0) <= left + 1e-12).all() and (left <= between + 1e-12).all()
        assert (between <= right + 1e-12).all()
        if intervals == 1:
            torch.testing.assert_close(left, h.mean(0))


@pytest.mark.parametrize(
    "reduce",
    [mean, log_mean_exp, Power(0.5), Power(-1.0), Power(2.0), Groups(2), Blend(0.3)],
    ids=str,
)
def test_what_dreg_takes_of_a_bound(reduce: Reduction) -> None:
    """r_k = 1 - (∂²L/∂h_k²) / (∂L/∂h_k), by differentiating twice."""
    h = torch.randn(4, requires_grad=True)
    (slope,) = torch.autograd.grad(reduce(h[:, None]).sum(), h, create_graph=True)
    curve = torch.stack(
        [
            torch.autograd.grad(s, h, retain_graph=True, allow_unused=True)[0][k]
            if s.requires_grad
            else torch.zeros(())
            for k, s in enumerate(slope)
        ]
    )
    ratio = reduce.ratio(h.detach()[:, None])
    found = torch.ones(4) if ratio is None else ratio[:, 0]
    torch.testing.assert_close(found, (1 - curve / slope).detach())


def test_what_a_draw_adds() -> None:
    """L₋ₖ has the geometric mean of the other weights in the place of w_k, here by hand."""
    h = torch.randn(2, 5, 3)
    for reduce in (mean, log_mean_exp, Power(0.5), Groups(5), LEFT):
        by_hand = torch.empty_like(h)
        for k in range(5):
            others = h[:, [j for j in range(5) if j != k]].mean(1)
            without = h.clone()
            without[:, k] = others
            by_hand[:, k] = reduce(h) - reduce(without)
        torch.testing.assert_close(reduce.signals(h), by_hand)


# The gradient of each pair -----------------------------------------------------------------------

K = 2
OBJECTIVES: dict[str, tuple[Any, Reduction]] = {
    "elbo": (partial(elbo, num_particles=K), mean),
    "iwae": (partial(iwae, num_particles=K), log_mean_exp),
    "renyi": (partial(renyi, num_particles=K, alpha=0.5), Power(0.5)),
    "renyi, upper": (partial(renyi, num_particles=K, alpha=-1.0), Power(-1.0)),
    "miwae": (partial(miwae, num_particles=1, groups=2), Groups(2)),
    "ciwae": (partial(ciwae, num_particles=K, share=0.3), Blend(0.3)),
    "tvo": (partial(tvo, num_particles=K, partition="uniform"), LEFT),
}
PAIRS = [
    (objective, estimator)
    for objective in OBJECTIVES
    for estimator in ("pathwise", "stl", "dreg", "score", "vimco")
    if (estimator != "stl" or objective == "elbo") and (estimator != "dreg" or objective != "tvo")
]


def gradients(
    objective: Any, n: int, seed: int, *, width: int = 1, share: float = 1.0, outer: int = 0
) -> list[Tensor]:
    """(rows,) for each of μ, σ, b: gradients of the bound of single rows.

    Args:
        share: rows of the minibatch.
        outer: draws of a global latent that changes nothing.
    """
    model, guide = Shifted(n, width, bool(outer)), RowGuide(n, globals_=bool(outer))
    data = data_of(n, width)
    batch = data.batch(torch.arange(int(share * n) - (width > 1)))
    options = {"num_outer": outer} if outer else {}
    with seeded(seed):
        objective(model, guide, batch, **options).backward()
    parts = (guide.loc, guide.scale, model.shift)
    size = len(batch)
    return [-size * torch.zeros(n) if p.grad is None else -size * p.grad[:size] for p in parts]


def check(found: list[Tensor], exact: list[Tensor], precise: bool = True) -> None:
    for each, target in zip(found, exact, strict=True):
        se = each.std() / len(each) ** 0.5
        assert (each.mean() - target).abs() <= 5 * se + 1e-12, f"{each.mean()} {target} {se}"
        if precise:
            assert se <= 0.01 * max(float(target.abs()), 0.5), f"{target} is seen to {se}"


@pytest.mark.parametrize(("objective", "estimator"), PAIRS)
def test_the_mean_gradient_is_exact(objective: str, estimator: str) -> None:
    """400 000 rows or more, K = 2, against the gradient of the quadrature over both draws."""
    call, reduce = OBJECTIVES[objective]
    _, exact = expected(reduce, leaves(), K)
    n = 1_600_000 if estimator == "score" else 400_000
    found = gradients(partial(call, estimator=estimator), n, 3)
    check(found, exact)


@pytest.mark.parametrize("how", ["minibatch", "mask", "global", "globals"])
@pytest.mark.parametrize(
    ("objective", "estimator"),
    [
        ("elbo", "stl"),
        ("elbo", "score"),
        ("iwae", "pathwise"),
        ("iwae", "dreg"),
        ("iwae", "vimco"),
        ("tvo", "pathwise"),
        ("renyi", "dreg"),
        ("ciwae", "score"),
    ],
)
def test_the_mean_gradient_wherever_the_rows_stand(
    objective: str, estimator: str, how: str
) -> None:
    """The same number in a minibatch, beside a missing entry, and with a global latent that
    changes nothing, of one or three draws."""
    call, reduce = OBJECTIVES[objective]
    _, exact = expected(reduce, leaves(), K)
    options: Any = {
        "minibatch": {"share": 0.25},
        "mask": {"width": 2},
        "global": {"outer": 1},
        "globals": {"outer": 3},
    }[how]
    n = 400_000 if how == "minibatch" else 100_000
    check(gradients(partial(call, estimator=estimator), n, 5, **options), exact, precise=False)


def moments(draws: Tensor, mean_: float, variance: float) -> None:
    """Mean and variance within 5.5 standard errors, the latter's from the fourth moment."""
    n, centred = len(draws), draws - draws.mean()
    assert float(draws.mean()) == pytest.approx(
        mean_, abs=5.5 * float(draws.std()) / n**0.5 + 1e-12
    )
    se = float(centred.square().std()) / n**0.5
    assert float(draws.var()) == pytest.approx(variance, abs=5.5 * se + 1e-12)


@pytest.mark.parametrize(("loc", "scale"), [(1.1, 0.9), (0.75, 0.5**0.5), (-0.4, 1.7)])
def test_moments_of_sticking_the_landing(loc: float, scale: float) -> None:
    """x - 2μ and 1/σ - 2σ with variances (1/σ - 2σ)² and (x - 2μ)² + 2(1/σ - 2σ)²; none at the
    posterior."""
    n = 400_000
    guide = RowGuide(n, loc, scale)
    model = Shifted(n)
    nn.init.zeros_(model.shift)
    with seeded(2):
        elbo(model, guide, data_of(n).batch(), estimator="stl").backward()
    assert guide.loc.grad is not None and guide.scale.grad is not None
    slope = 1 / scale - 2 * scale
    moments(-n * guide.loc.grad, X - 2 * loc, slope**2)
    moments(-n * guide.scale.grad, slope, (X - 2 * loc) ** 2 + 2 * slope**2)


def test_dreg_and_the_path_wise_gradient_under_common_random_numbers() -> None:
    """The same draws: θ's gradients are equal, φ's differ by something of mean 0, K = 8."""
    call = partial(iwae, num_particles=8)
    one, two = (gradients(partial(call, estimator=e), 100_000, 7) for e in ("pathwise", "dreg"))
    torch.testing.assert_close(one[2], two[2])
    for a, b in zip(one[:2], two[:2], strict=True):
        difference = a - b
        assert difference.std() > 0
        assert difference.mean().abs() < 5 * difference.std() / len(a) ** 0.5
        assert b.var() < 0.5 * a.var()  # what it is for


@pytest.mark.parametrize("beta", [0.3, 2.0])
@pytest.mark.parametrize("estimator", ["stl", "score", "vimco"])
def test_the_weight_of_the_kl_under_every_estimator(beta: float, estimator: str) -> None:
    """E_q log p(x|z) - β KL, and the importance-weighted one of h_β for dreg."""
    loc, scale, shift = parameters = leaves()
    kl = 0.5 * (scale**2 + loc**2 - 1) - scale.log()
    fit_ = -0.5 * ((X - shift - loc) ** 2 + scale**2)
    exact = list(torch.autograd.grad(fit_ - beta * kl, parameters))
    call = partial(elbo, num_particles=2, beta=beta, estimator=estimator)
    check(gradients(call, 1_600_000, 11), exact)


def test_the_weight_of_the_kl_under_dreg() -> None:
    beta, parameters = 0.3, leaves()
    loc, scale, shift = parameters
    pair = torch.cartesian_prod(NODES, NODES).T
    mass = torch.cartesian_prod(WEIGHTS, WEIGHTS).prod(-1)
    z = loc + scale * pair
    lik = log_normal(torch.tensor(X), z + shift, torch.ones(()))
    rest = log_normal(z, torch.zeros(()), torch.ones(())) - log_normal(z, loc, scale)
    total = (mass * log_mean_exp(lik + beta * rest)).sum()
    exact = list(torch.autograd.grad(total, parameters))
    call = partial(iwae, num_particles=2, beta=beta, estimator="dreg")
    check(gradients(call, 400_000, 13), exact)


# Objectives with a gradient of their own for each side -------------------------------------------


def test_piwae_trains_each_side_by_its_own_bound() -> None:
    _, theta = expected(log_mean_exp, leaves(), 2)
    _, phi = expected(mean, leaves(), 2)  # two groups of one draw
    call = partial(piwae, groups=2, num_particles=1)
    check(gradients(call, 400_000, 17), [*phi[:2], theta[2]])


def test_cubo_fits_q_alone_and_downwards() -> None:
    _, exact = expected(Power(-1.0), leaves(), 2)
    for estimator in ("pathwise", "dreg"):
        found = gradients(partial(cubo, num_particles=2, estimator=estimator), 400_000, 19)
        check(found[:2], [-g for g in exact[:2]])
        assert not found[2].any()


def awake() -> list[Tensor]:
    """Σ_k w̃_k ∇ log q(z_k), and Σ_k w̃_k ∇ log p(x, z_k), in expectation over two draws."""
    loc, scale, shift = parameters = leaves()
    pair = torch.cartesian_prod(NODES, NODES).T
    mass = torch.cartesian_prod(WEIGHTS, WEIGHTS).prod(-1)
    z = (loc + scale * pair).detach()
    log_p, log_q = log_joint(z, shift), log_normal(z, loc, scale)
    w = (log_p - log_q).softmax(0).detach()
    return list(torch.autograd.grad((mass * (w * (log_q + log_p)).sum(0)).sum(), parameters))


def asleep() -> list[Tensor]:
    """∇ E_p(z)[log N(z; μ, σ²)] = -(μ/σ², 1/σ - (1 + μ²)/σ³)."""
    return [torch.tensor(-LOC / SCALE**2), torch.tensor((1 + LOC**2) / SCALE**3 - 1 / SCALE)]


@pytest.mark.parametrize("phi", ["wake", "sleep", "both"])
def test_reweighted_wake_sleep(phi: str) -> None:
    wake, sleep = awake(), asleep()
    exact = {
        "wake": wake[:2],
        "sleep": sleep,
        "both": [(a + b) / 2 for a, b in zip(wake, sleep, strict=False)],
    }[phi]
    call = partial(rws, phi=phi, num_particles=2)
    check(gradients(call, 400_000, 23), [*exact, wake[2]])


def test_what_fits_q_alone_leaves_p_alone_where_q_is_made_of_it() -> None:
    """top_down multiplies p's own conditionals into q."""
    model, data = resolve("models", "ladder_vae").example()
    guide = Guide(model, data, inference="top_down")
    for word in ("cubo", "forward_kl"):
        call = bind_objective(word)[1]
        model.zero_grad()
        call(model, guide, data.batch()).backward()
        assert all(p.grad is None for p in model.parameters())
        assert any(p.grad is not None for p in guide.parameters())


def test_wake_sleep_and_the_forward_divergence() -> None:
    """θ: E_q[∇ log p(x, z)] = x - b - μ."""
    found = gradients(partial(wake_sleep, num_particles=2), 400_000, 29)
    check(found, [*asleep(), torch.tensor(X - SHIFT - LOC)])
    found = gradients(partial(forward_kl, num_particles=2), 400_000, 31)
    check(found[:2], awake()[:2])
    assert not found[2].any()
    found = gradients(partial(forward_kl, rows="dreamt"), 400_000, 37)
    check(found[:2], asleep())


@pytest.mark.parametrize("call", [wake_sleep, partial(rws, num_particles=2)])
def test_the_value_is_that_of_the_bound(call: Any) -> None:
    n, reduce = 100_000, mean if call is wake_sleep else log_mean_exp
    count = 1 if call is wake_sleep else 2
    value, _ = expected(reduce, leaves(), count)
    with seeded(1):
        loss = float(call(Shifted(n), RowGuide(n), data_of(n).batch()).detach())
    assert loss == pytest.approx(-float(value), abs=0.03)  # 5 se of a value with sd below 2


def test_asleep_labels_and_what_is_given_them_are_learned_together() -> None:
    """M2: log q(y | x) + log q(z | x, y) of a dream, by the guide's parts."""
    torch.manual_seed(3)
    model, data = M2.example()
    model, data = model.double(), data.to(dtype=torch.float64)
    batch, guide = data.batch(), Guide(model, data)
    y, z = torch.arange(20) % 3, torch.randn(20, 2)
    found = guide.log_prob(batch, {"y": y, "z": z})
    given = Batch({**batch.values, "y": y}, batch.index, batch.size)
    by_hand = (
        guide.log_prob(given, {"z": z}) + guide.classify(batch)["y"].log()[torch.arange(20), y]
    )
    torch.testing.assert_close(found, by_hand)
    every = torch.stack(
        [guide.log_prob(batch, {"y": torch.full_like(y, c), "z": z}) for c in range(3)]
    )
    torch.testing.assert_close(guide.log_prob(batch, {"z": z}), every.logsumexp(0))
    for objective in ("wake_sleep", "rws"):
        loss = bind_objective(objective)[1](model, guide, batch)
        slopes = torch.autograd.grad(loss, list(guide.parameters()), allow_unused=True)
        assert all(g is not None and g.isfinite().all() for g in slopes)


def test_a_guide_with_a_table_does_not_dream() -> None:
    model, data = VAE.example()
    guide = Guide(model, data, inference="per_datapoint")
    for call in (wake_sleep, partial(rws, phi="sleep"), partial(forward_kl, rows="dreamt")):
        with pytest.raises(ValueError, match="this guide has a table of the rows"):
            call(model, guide, data.batch())
    rws(model, guide, data.batch()).backward()


# Discrete draws ----------------------------------------------------------------------------------


class Classes(Model):
    """y ~ Categorical(softmax a_n), x | y ~ N(m_y, 1)."""

    means = (-1.0, 0.5, 2.0)

    def __init__(self, n: int):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.3, 0.0, -0.2]).repeat(n, 1))  # (N, 3)

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=self.logits[:n]))
            return pyro.sample("x", dist.Normal(torch.tensor(self.means)[y.long()], 1.0))


class ClassGuide(nn.Module):
    """q(y_n), drawn."""

    def __init__(self, n: int):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([-0.5, 0.1, 0.4]).repeat(n, 1))  # (N, 3)

    def forward(self, batch: Batch) -> None:
        with rows(batch):
            pyro.sample("y", dist.Categorical(logits=self.logits[batch.index]))


@pytest.mark.parametrize("estimator", ["score", "vimco"])
@pytest.mark.parametrize("objective", ["elbo", "iwae", "renyi", "tvo", "rws"])
def test_discrete_draws_against_enumeration(objective: str, estimator: str) -> None:
    """K = 2 draws: the expectation over the nine pairs, differentiated; of rws the gradient."""
    if objective == "rws" and estimator == "vimco":
        pytest.skip("rws has no estimator")
    p, q = (torch.tensor(v, requires_grad=True) for v in ([0.3, 0.0, -0.2], [-0.5, 0.1, 0.4]))
    log_q = q.log_softmax(0)
    log_p = p.log_softmax(0) + dist.Normal(torch.tensor(Classes.means), 1.0).log_prob(
        torch.tensor(X)
    )
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    h, mass = (log_p - log_q)[pairs], log_q[pairs].sum(0).exp()
    if objective == "rws":
        call = partial(rws, num_particles=2)
        w = h.softmax(0).detach()
        total = (mass.detach() * (w * (log_p + log_q)[pairs]).sum(0)).sum()
    else:
        call, reduce = OBJECTIVES[objective]
        call = partial(call, estimator=estimator)
        total = (mass * reduce(h)).sum()
    exact = torch.autograd.grad(total, (p, q))
    n = 1_600_000 if estimator == "score" else 200_000
    model, guide = Classes(n), ClassGuide(n)
    with seeded(41):
        call(model, guide, Dataset(torch.full((n,), X)).batch()).backward()
    for part, target in ((model.logits, exact[0]), (guide.logits, exact[1])):
        assert part.grad is not None
        found = -n * part.grad
        se = found.std(0) / n**0.5
        assert ((found.mean(0) - target).abs() < 5 * se + 1e-12).all()
        assert se.max() < 0.02 * target.abs().max()


@pytest.mark.parametrize("baseline", ["none", "mean", "leave_one_out", "network"])
@pytest.mark.parametrize("objective", ["elbo", "iwae"])
def test_every_baseline_leaves_the_mean_as_it_is(objective: str, baseline: str) -> None:
    """A VAE whose z is scored, against the path-wise gradient: 400 gradients of each."""
    torch.manual_seed(0)
    model, data = VAE.example()
    model = model.double()
    batch, call = data.to(dtype=torch.float64).batch(), OBJECTIVES[objective][0]
    options = {"estimator": "score", "estimator_options": {"baseline": baseline}}
    guide = Guide(model, data.to(dtype=torch.float64), **options)
    free = [p for n, p in guide.named_parameters() if "estimator" not in n]
    means, errors = [], []
    for word in (guide.gradient, "pathwise"):
        found = []
        for _ in range(400):
            loss = call(model, guide, batch, estimator=word)
            slopes = torch.autograd.grad(loss, free)
            found.append(torch.cat([g.flatten() for g in slopes])[::7])
        each = torch.stack(found)
        means.append(each.mean(0))
        errors.append(each.var(0) / len(each))
    z = (means[0] - means[1]) / (errors[0] + errors[1]).sqrt().clamp_min(1e-12)
    assert z.abs().max() < 5.5, z
    assert z.square().mean() < 2  # of many entries, each standard normal


# Guides of layers, labels and inner steps ---------------------------------------------------------


def mean_gradients(
    call: Any, model: Any, guide: Any, batch: Batch, count: int
) -> tuple[Tensor, Tensor]:
    """Mean and squared error of the gradient of all parameters over ``count`` draws."""
    free = [*model.parameters(), *guide.parameters()]
    found = []
    for _ in range(count):
        slopes = torch.autograd.grad(call(model, guide, batch), free, allow_unused=True)
        found.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g.to_dense()).flatten()
                    for p, g in zip(free, slopes, strict=True)
                ]
            )
        )
    each = torch.stack(found)
    return each.mean(0), each.var(0) / count


CASES: list[tuple[str, dict[str, Any], str]] = [
    ("hierarchical_vae", {"inference": "bottom_up"}, "iwae"),
    ("hierarchical_vae", {"inference": "top_down"}, "elbo"),
    ("hierarchical_vae", {"inference": "top_down"}, "iwae"),
    ("m2", {}, "elbo"),
    ("m2", {}, "iwae"),
    ("m2", {}, "iwae_sum"),
    ("m1m2", {}, "elbo"),
    ("ppca", {"inference": "semi_amortized"}, "iwae"),
    ("ppca", {"family": "full_rank", "inference": "per_datapoint"}, "renyi"),
    ("vae", {"family": "iaf:2"}, "iwae"),
    ("bayesian_ppca", {"global_family": "full_rank"}, "iwae"),
    ("mixture_of_factor_analyzers", {}, "iwae"),
    ("vrnn", {}, "iwae"),
]


@pytest.mark.parametrize(("name", "options", "objective"), CASES, ids=str)
def test_held_guides_have_the_mean_of_the_path_wise_gradient(
    name: str, options: dict[str, Any], objective: str
) -> None:
    """300 gradients by dreg (stl of the ELBO) and path-wise; every entry, and all together."""
    torch.manual_seed(1)
    model, data = resolve("models", name).example()
    model, data = model.double(), data.subset(range(5)).to(dtype=torch.float64)
    guide = Guide(model, data, **options)
    word, call = ("stl" if objective == "elbo" else "dreg"), bind_objective(objective)[1]
    call = partial(call, num_particles=3)
    sides = [
        mean_gradients(partial(call, estimator=e), model, guide, data.batch(), 300)
        for e in (word, "pathwise")
    ]
    (one, a), (two, b) = sides
    seen = (a + b) > 1e-20
    torch.testing.assert_close(one[~seen], two[~seen])
    z = (one - two)[seen] / (a + b)[seen].sqrt()
    assert z.abs().max() < 6, z.abs().max()
    assert z.square().mean() < 1.8


def test_semi_amortized_guides_hold_the_values_they_drew_with() -> None:
    """The inner steps have noise of their own: log q is of the κ that z was drawn with, so that at
    given draws the value is the path-wise one's."""
    model, data = PPCA.example()
    model, data = model.double(), data.to(dtype=torch.float64)
    guide = Guide(model, data, inference="semi_amortized")
    losses = []
    for word in ("pathwise", "stl"):
        with seeded(3):
            losses.append(elbo(model, guide, data.batch(), num_particles=4, estimator=word))
    torch.testing.assert_close(*losses)


# Words that do not go together --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda m, g, b: iwae(m, g, b, estimator="stl"),
            "stl is unbiased for the elbo alone.*dreg",
        ),
        (lambda m, g, b: tvo(m, g, b, estimator="dreg"), "dreg is known for elbo, iwae, renyi"),
        (lambda m, g, b: elbo(m, g, b, estimator="vimco"), "need num_particles from 2"),
        (lambda m, g, b: elbo(m, g, b, estimator="path"), "no estimator 'path'"),
        (lambda m, g, b: cubo(m, g, b, order=1.0), "order of the χ bound is above 1"),
        (lambda m, g, b: tvo(m, g, b, first=1.5), "first point between 0 and 1"),
        (lambda m, g, b: tvo(m, g, b, intervals=0), "intervals counts from 1"),
        (lambda m, g, b: miwae(m, g, b, groups=0), "groups counts from 1"),
        (lambda m, g, b: ciwae(m, g, b, share=2.0), "share of the ELBO is from 0 to 1"),
        (lambda m, g, b: rws(m, g, b, phi="awake"), "phi is wake, sleep or both"),
        (lambda m, g, b: map_objective(m, g, b), "point mass: use family='delta'"),
        (lambda m, g, b: elbo(m, g, b, estimator="stl", free_bits=0.1), "stl holds q"),
        (lambda m, g, b: elbo(m, g, b, estimator="stl", kl="analytic"), "without stl"),
    ],
)
def test_what_does_not_go_together_is_said_in_words(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(Shifted(3), RowGuide(3), data_of(3).batch())


def test_discrete_draws_are_refused_where_a_path_is_followed() -> None:
    batch = Dataset(torch.full((3,), X)).batch()
    for word, objective in itertools.product(("pathwise", "stl", "dreg"), (elbo, iwae)):
        with pytest.raises(ValueError, match="use the estimator vimco or score"):
            objective(Classes(3), ClassGuide(3), batch, estimator=word)


def test_guides_that_score_their_own_draws_alone_follow_the_path() -> None:
    model, data = VAE.example()
    guide = Guide(model, data, "hamiltonian")
    for word in ("stl", "dreg", "score", "vimco"):
        with pytest.raises(ValueError, match="scores its own draws alone.*pathwise"):
            elbo(model, guide, data.batch(), num_particles=2, estimator=word)
    with pytest.raises(ValueError, match="scores its own draws alone"):
        rws(model, guide, data.batch())


def test_a_parameter_from_elsewhere_cannot_be_held() -> None:
    loc = nn.Parameter(torch.tensor(0.3))

    def guide(batch: Batch) -> None:
        with rows(batch):
            pyro.sample("z", dist.Normal(loc, 1.0))

    with pytest.raises(ValueError, match=r"of \['z'\] belong neither to guide nor model"):
        elbo(Shifted(3), guide, data_of(3).batch(), estimator="stl")


class GivenGlobal(nn.Module):
    """q(g) q(z_n | g)."""

    def forward(self, batch: Batch) -> None:
        g = pyro.sample("g", dist.Normal(0.0, 1.0))
        with rows(batch):
            pyro.sample("z", dist.Normal(g.expand(*g.shape[:-1], len(batch)), 1.0))


def test_rows_whose_q_is_given_global_draws_are_refused_by_dreg_alone() -> None:
    model, batch = Shifted(3, globals_=True), data_of(3).batch()
    with pytest.raises(
        ValueError, match="is given those of global latents; use the estimator path"
    ):
        iwae(model, GivenGlobal(), batch, estimator="dreg")
    elbo(model, GivenGlobal(), batch, estimator="stl")
    iwae(Shifted(3, globals_=True), RowGuide(3, globals_=True), batch, estimator="dreg")


def test_words_that_act_on_discrete_latents_alone() -> None:
    model, data = PPCA.example()
    for word in ("enumerate", "gumbel"):
        with pytest.raises(ValueError, match="nothing for the estimator"):
            Guide(model, data, estimator=word)


def test_maximum_a_posteriori_is_the_joint_at_a_point() -> None:
    data = data_of(4)
    guide = Guide(Shifted(4), data, "delta", "per_datapoint")
    z = guide.posterior(data.batch(), 1).samples["z"][0]
    loss = map_objective(Shifted(4), guide, data.batch())
    torch.testing.assert_close(loss, -log_joint(z, SHIFT).mean())


# An analytic KL --------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["mean_field", "full_rank", "low_rank:1"])
def test_the_analytic_kl_is_the_mean_of_the_drawn_one(family: str) -> None:
    """Of 400 passes over a row, at 5 standard errors; its noise is that of the likelihood alone."""
    torch.manual_seed(2)
    model, data = VAE.example()
    model, data = model.double(), data.to(dtype=torch.float64)
    guide, one = Guide(model, data, family), data.subset(range(1)).batch()
    with torch.no_grad():
        every = [
            torch.stack([elbo(model, guide, one, kl=kl) for _ in range(400)])  # type: ignore[arg-type]
            for kl in ("drawn", "analytic")
        ]
    se = (every[0].var() / 400 + every[1].var() / 400).sqrt()
    assert (every[0].mean() - every[1].mean()).abs() < 5 * se
    q = guide.distribution(one)
    full = dist.MultivariateNormal(q.mean, covariance_matrix=_covariance(q))
    kl = torch.distributions.kl_divergence(
        full, dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    )
    with torch.no_grad():
        fit_ = torch.stack([elbo(model, guide, one, beta=0.0) for _ in range(400)])
        assert (fit_.mean() + kl - every[1].mean()).abs() < 5 * (2 * fit_.var() / 400).sqrt()


def _covariance(q: Any) -> Tensor:
    return q.covariance_matrix if hasattr(q, "covariance_matrix") else torch.diag_embed(q.variance)


def test_an_analytic_kl_of_layers_keeps_the_draws_of_those_out_of_order() -> None:
    """q(z1) q(z2 | z1) against p(z2) p(z1 | z2): no layer's prior is known before its own draw."""
    from zoo.models.hierarchical_vae import HierarchicalVAE

    model, data = HierarchicalVAE.example()
    with pytest.raises(ValueError, match="no KL between q and p.*kl='drawn'"):
        elbo(model, Guide(model, data, inference="bottom_up"), data.batch(), kl="analytic")
    guide = Guide(model, data, inference="top_down")  # in the model's order
    with torch.no_grad():
        each = [
            torch.stack([elbo(model, guide, data.batch(), kl=kl) for _ in range(800)])  # type: ignore[arg-type]
            for kl in ("drawn", "analytic")
        ]
    se = (each[0].var() / 800 + each[1].var() / 800).sqrt()
    assert (each[0].mean() - each[1].mean()).abs() < 5 * se


def test_where_no_kl_has_a_closed_form() -> None:
    model, data = VAE.example()
    with pytest.raises(ValueError, match="no KL between q and p"):
        elbo(model, Guide(model, data, "iaf:1"), data.batch(), kl="analytic")


# What a fit makes of the words --------------------------------------------------------------------


@pytest.mark.parametrize(
    "word", ["beta:2", "free_bits:0.5", "renyi:-1", "cubo", "map", "forward_kl"]
)
def test_losses_that_are_no_bound_say_so(word: str) -> None:
    model, data = VAE.example()
    family, inference = ("delta", "per_datapoint") if word == "map" else ("mean_field", None)
    guide = Guide(model, data, family, inference)
    result = fit(model, guide, data, word, steps=2, progress=False)
    assert result.no_bound


@pytest.mark.parametrize(
    "word", ["elbo", "iwae", "tvo:10", "miwae:2", "ciwae:0.3", "renyi:0.5", "rws"]
)
def test_losses_that_are_bounds(word: str) -> None:
    model, data = VAE.example()
    assert not fit(model, Guide(model, data), data, word, steps=2, progress=False).no_bound


def test_the_guide_s_word_is_the_objective_s() -> None:
    model, data = VAE.example()
    for word in ("pathwise", "stl", "dreg", "score", "vimco"):
        guide = Guide(model, data, estimator=word)
        assert guide.gradient == word
        losses = []
        for given in (None, word):
            with seeded(3):
                loss = elbo(model, guide, data.batch(), num_particles=3, estimator=given)
            losses.append(torch.autograd.grad(loss, list(guide.parameters()), allow_unused=True))
        for a, b in zip(*losses, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)
    for kind, word in ((M2, "stl"), (GMM, "score")):
        model, data = kind.example()
        assert Guide(model, data, estimator=word).gradient == word


# What is easily got wrong ------------------------------------------------------------------------


def test_the_value_of_a_loss_is_the_bound_whatever_the_baseline() -> None:
    """A network baseline is fitted beside the bound, and its error is no part of the value."""
    torch.manual_seed(0)
    model, data = SBN.example()
    guide, batch = Guide(model, data), data.batch()  # score, with the network
    for word in ("elbo", "iwae", "cubo"):
        call = bind_objective(word)[1]
        with seeded(3):
            loss = call(model, guide, batch, num_particles=500)
        with torch.no_grad(), seeded(4):
            value = call(model, guide, batch, num_particles=500)
        assert abs(float(loss.detach() - value)) < 0.5
    before = float(iwae(model, guide, batch, num_particles=500).detach())
    fit(model, guide, data, "cubo", steps=200, lr=0.01, progress=False)
    assert float(iwae(model, guide, batch, num_particles=500).detach()) < before + 0.5


def test_cubo_learns_given_labels_as_every_bound_does() -> None:
    torch.manual_seed(0)
    model, data = M2.example()
    assert data.labels is not None
    full = data.with_values(y=data.labels)
    guide = Guide(model, full, classifier_options={"alpha": 1.0})
    start = guide.classify(full.batch())["y"].gather(1, data.labels[:, None]).log().mean()
    fit(model, guide, full, "cubo", steps=100, lr=0.01, progress=False)
    end = guide.classify(full.batch())["y"].gather(1, data.labels[:, None]).log().mean()
    assert end > start + 0.3


class LabelGivenDraw(nn.Module):
    """q(z | x) q(y | z), y enumerated."""

    def forward(self, batch: Batch) -> None:
        with rows(batch):
            z = pyro.sample("z", dist.Normal(0.3 * batch["x"][:, 0], 0.7))
            logits = torch.stack([0 * z, 1.5 * z], -1)
            pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_label_given_a_draw_is_weighed_draw_by_draw(one_by_one: bool) -> None:
    """The ELBO does not depend on K, nor on whether the particles are run together."""

    def joint(x: Tensor | None = None) -> None:
        with pyro.plate("data", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if one_by_one and z.numel() != 3:
                raise ValueError("one particle at a time")
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.4, 0.6])))
            loc = (z + 2.0 * y).unsqueeze(-1)
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    batch, model, q = (
        Dataset(torch.tensor([[0.3], [2.5], [-1.0]])).batch(),
        plain(joint),
        LabelGivenDraw(),
    )
    z = 0.3 * batch["x"][:, 0] + 0.7 * NODES[:, None]
    log_q = torch.stack([0 * z, 1.5 * z]).log_softmax(0)
    score = [dist.Normal(z + 2.0 * y, 0.5).log_prob(batch["x"][:, 0]) for y in range(2)]
    log_p = torch.stack(score) + torch.tensor([0.4, 0.6]).log()[:, None, None]
    ratio = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(0.3 * batch["x"][:, 0], 0.7).log_prob(z)
    exact = (WEIGHTS[:, None] * (ratio + (log_q.exp() * (log_p - log_q)).sum(0))).sum(0).mean()
    with torch.no_grad(), seeded(3):
        found = torch.stack([elbo(model, q, batch, num_particles=8) for _ in range(200)])
    assert (found.mean() + exact).abs() < 5 * found.std() / 200**0.5
    with pytest.raises(ValueError, match="given a draw of z₁"):
        iwae(model, LabelGivenDraw(), batch, num_particles=3)


def test_dreg_of_summed_labels_is_refused_with_a_weight_on_the_kl() -> None:
    from zoo.objectives.enumerated import iwae_sum

    model, data = M2.example()
    guide = Guide(model, data)
    iwae_sum(model, guide, data.batch(), estimator="dreg").backward()
    for weight in (0.5, torch.tensor(1.0)):
        with pytest.raises(ValueError, match="dreg of iwae_sum is known for β = 1"):
            iwae_sum(model, guide, data.batch(), beta=weight, estimator="dreg")


def test_an_evaluation_before_training_changes_nothing() -> None:
    """What is found out about a guide once is not found out while no gradient is taken."""
    loc = nn.Parameter(torch.tensor(0.3))

    def guide(batch: Batch) -> None:
        with rows(batch):
            pyro.sample("z", dist.Normal(loc, 1.0))

    model, batch, given = Shifted(3, globals_=True), data_of(3).batch(), GivenGlobal()
    with torch.no_grad():
        elbo(Shifted(3), guide, batch, estimator="stl")
        iwae(model, given, batch, estimator="dreg")
    with pytest.raises(ValueError, match="belong neither to guide nor model"):
        elbo(Shifted(3), guide, batch, estimator="stl")
    with pytest.raises(ValueError, match="is given those of global latents"):
        iwae(model, given, batch, estimator="dreg")
    for call in (rws, wake_sleep):
        with pytest.raises(ValueError, match="is given draws of global latents"):
            call(model, given, batch)
    m2, data = M2.example()
    for first in (True, False):
        guide_of_labels = Guide(m2, data, estimator="score", estimator_options={"baseline": "none"})
        if first:
            with torch.no_grad():
                elbo(m2, guide_of_labels, data.batch())
        weights = weigh(m2, guide_of_labels, data.batch(), 2, 1, "score")
        assert weights.local_sites is not None and weights.log_q_score is not None
        site = weights.local_sites[1]["y"]
        torch.testing.assert_close(weights.log_q_score[0], site["fn"].log_prob(site["value"]))


def test_a_scored_label_with_q_held_still() -> None:
    """y is enumerated where q takes no gradient, and z keeps its path."""
    model, data = M2.example()
    for word in ("score", "vimco"):
        guide = Guide(model, data, estimator=word)
        options = {"num_particles": 2}
        result = fit(
            model, guide, data, steps=3, freeze="guide", objective_options=options, progress=False
        )
        assert math.isfinite(result.metrics[-1]["loss"])


def test_what_does_nothing_is_refused() -> None:
    model, data = VAE.example()
    guide, batch = Guide(model, data), data.batch()
    with pytest.raises(ValueError, match="kl is drawn or analytic"):
        elbo(model, guide, batch, kl="analytical")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the guide has none; use pathwise"):
        elbo(model, guide, batch, estimator="rebar")
    with pytest.raises(ValueError, match="say how a guide draws"):
        elbo(model, guide, batch, estimator="gumbel")
    for call, word in itertools.product((rws, wake_sleep), ("dreg", "vimco")):
        with pytest.raises(ValueError, match=f"to which {word} adds nothing: leave the estimator"):
            call(model, Guide(model, data, estimator=word), batch)
    with pytest.raises(ValueError, match="renyi:0.5 says alpha already"):
        bind_objective("renyi:0.5", {"alpha": 0.2})
    for text in ("renyi:", "renyi:0_5", "miwae: 3"):
        with pytest.raises(ValueError, match="takes its (alpha|groups) as"):
            bind_objective(text)
    for word in ("cubo", "forward_kl"):
        with pytest.raises(ValueError, match="fits the guide alone, and freeze holds it"):
            fit(model, guide, data, word, steps=1, freeze="guide", progress=False)
    from zoo import PyroLoss

    with pytest.raises(ValueError, match="to PyroLoss, which has options of its own"):
        fit(model, guide, data, PyroLoss("iwae"), objective_options={"num_particles": 5})
    with pytest.raises(ValueError, match="tvo takes its intervals as a whole number"):
        PyroLoss("tvo:2.5")
    with pytest.raises(ValueError, match="count draws from 1"):
        elbo(model, guide, batch, num_particles=2.5)  # type: ignore[arg-type]
    chains = Guide(model, data, "chain", "per_datapoint")
    with pytest.raises(ValueError, match="no held_out with mcem"):
        fit(model, chains, data, "mcem", steps=1, held_out=data, progress=False)
    with pytest.raises(ValueError, match="fits the model alone, and freeze holds it"):
        fit(model, chains, data, "mcem", steps=1, freeze="model", progress=False)
    with pytest.raises(ValueError, match="the objective mcem alone moves"):
        elbo(model, chains, batch)


# Under pyro.infer.SVI -----------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["elbo", "iwae", "tvo", "rws"])
def test_an_objective_is_a_loss_of_stock_svi(word: str) -> None:
    """The same losses and weights as ``fit`` of the same draws, in nats of all rows."""
    import copy

    from zoo import PyroLoss, observe, pyro_svi

    model, data = VAE.example()
    model, data = model.double(), data.to(dtype=torch.float64)
    pairs = []
    for _ in range(2):
        torch.manual_seed(0)
        own = copy.deepcopy(model)
        pairs.append((own, Guide(own, data)))
    loss = PyroLoss(word)
    with seeded(5), pyro.get_param_store().scope():
        sgd = pyro.optim.PyroOptim(torch.optim.SGD, {"lr": 0.01 / len(data)})
        svi = pyro.infer.SVI(observe(pairs[0][0]), pairs[0][1], sgd, loss)
        stock = [svi.step(data.batch()) / len(data) for _ in range(5)]
    call = bind_objective(word)[1]
    with seeded(5):
        free = [p for part in pairs[1] for p in part.parameters()]
        sgd, ours = torch.optim.SGD(free, lr=0.01), []
        for _ in range(5):
            sgd.zero_grad()
            value = call(*pairs[1], data.batch())
            value.backward()
            sgd.step()
            ours.append(float(value.detach()))
    assert stock == pytest.approx(ours)
    for a, b in zip(*(nn.ModuleList(pair).parameters() for pair in pairs), strict=True):
        torch.testing.assert_close(a, b)
    losses = pyro_svi(*pairs[0], data, loss=loss, steps=3)
    assert all(map(math.isfinite, losses)) and not pyro.get_param_store().keys()
    assert loss.loss(observe(model), pairs[1][1], data.batch()) > 0
    with pytest.raises(TypeError, match=r"give SVI observe\(model\)"):
        loss.loss(lambda batch: None, pairs[1][1], data.batch())


# As a captured step -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "objective"),
    [
        ("vae", {"estimator": "stl"}, "elbo"),
        ("vae", {"estimator": "dreg", "inference": "per_datapoint"}, "iwae"),
        ("vae", {"estimator": "score"}, "iwae"),
        ("vae", {"estimator": "vimco"}, "tvo"),
        ("hierarchical_vae", {"estimator": "dreg"}, "ciwae"),
        ("ppca", {"estimator": "dreg", "inference": "semi_amortized"}, "iwae"),
        ("m2", {"estimator": "dreg"}, "iwae"),
        ("sbn", {"estimator": "vimco"}, "rws"),
        ("sbn", {}, "wake_sleep"),
        ("vae", {}, "piwae"),
    ],
    ids=str,
)
def test_captured_steps_are_the_eager_ones(
    name: str, options: dict[str, Any], objective: str
) -> None:
    torch.manual_seed(0)
    model, data = resolve("models", name).example()
    check_captured(model, Guide(model, data, **options), data, objective, run="traced")


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("options", "objective"),
    [
        ({"estimator": "stl"}, "elbo"),
        ({"estimator": "dreg"}, "iwae"),
        ({}, "rws"),
        ({"estimator": "vimco"}, "iwae"),
        ({"estimator": "score"}, "tvo"),
    ],
    ids=str,
)
def test_no_estimator_waits_for_the_device(options: dict[str, Any], objective: str) -> None:
    """Ten steps with synchronisation an error, and the graph's steps as the eager ones."""
    torch.manual_seed(0)
    model, data = VAE.example()
    model, data = model.cuda(), data.to("cuda")
    guide = Guide(model, data, **options)
    loss_of, batch = bind_objective(objective)[1], data.batch()
    loss_of(model, guide, batch).backward()  # what is looked at once is looked at now
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            loss_of(model, guide, batch).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    check_captured(model, guide, data, objective, run="graph", tol=1e-4)
