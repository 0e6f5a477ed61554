"""Bias, variance and signal of gradients, by closed forms and quadrature; ``zoo gradients``."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from experiments import cli
from experiments.gradients import gradients
from experiments.judge.gradients import guides_of
from guides import Guide
from zoo.context import seeded
from zoo.data import Batch, Dataset
from zoo.diagnostics import _moments_of_gradients as moments
from zoo.diagnostics.gradient_noise import Way, gradient_noise
from zoo.model import Model, rows
from zoo.models.m2 import M2
from zoo.models.ppca import PPCA
from zoo.nets import affine
from zoo.objectives.bounds import elbo
from zoo.relaxed import Relaxed

pytestmark = pytest.mark.usefixtures("float64")

X = 1.5


class ModelA(Model):
    """z ~ N(0, 1), x | z ~ N(z, 1)."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z, 1.0))


class GuideA(nn.Module):
    """q(z) = N(μ, σ²)."""

    def __init__(self, loc: float, scale: float):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(loc))  # ()
        self.scale = nn.Parameter(torch.tensor(scale))  # ()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, batch: Batch) -> None:
        self.count += 1
        with rows(batch):
            pyro.sample("z", dist.Normal(self.loc.expand(len(batch)), self.scale))


ONE = Dataset(torch.tensor([X], dtype=torch.float64))


def exact(loc: float, scale: float) -> tuple[Tensor, dict[str, Tensor]]:
    """REFERENCES A: the mean of the ELBO's gradient in (μ, σ), the variances of two estimators."""
    mean = torch.tensor([X - 2 * loc, 1 / scale - 2 * scale])
    both = {
        "pathwise": torch.tensor([4 * scale**2, (X - 2 * loc) ** 2 + 8 * scale**2]),
        "stl": torch.stack([mean[1] ** 2, mean[0] ** 2 + 2 * mean[1] ** 2]),
    }
    return mean, both


@pytest.mark.parametrize(("loc", "scale"), [(1.1, 0.9), (-0.4, 1.7)])
def test_moments_are_those_of_model_a(loc: float, scale: float) -> None:
    """800 gradients: norm, total variance and SNR within 5 of the reported errors."""
    mean, variances = exact(loc, scale)
    ways = {name: Way(GuideA(loc, scale), {"estimator": name}) for name in variances}
    found = gradient_noise(ModelA(), ways, ONE, num_gradients=800)
    assert not found.refused
    for name, variance in variances.items():
        noise = found.ways[name]["guide"]
        assert set(found.ways[name]) == {"guide"} and noise.entries == 2
        total = float(variance.sum())
        assert abs(noise.variance.value - total) < 5 * noise.variance.se
        assert noise.variance.se < 0.2 * total  # 800 draws of a variance
        assert abs(noise.norm.value - float(mean.norm())) < 5 * noise.norm.se
        signal = float((mean.abs() / variance.sqrt()).mean())
        assert noise.snr is not None and abs(noise.snr.value - signal) < 5 * noise.snr.se
    bias = found.ways["stl"]["guide"].bias
    assert bias is not None and bias.against == ("pathwise",) and not (bias.seen or bias.exact)
    assert found.ways["pathwise"]["guide"].bias is None  # the only one known to be unbiased


def test_stl_has_no_variance_at_the_posterior() -> None:
    guide = GuideA(0.75, 0.5**0.5)
    ways = {name: Way(guide, {"estimator": name}) for name in ("pathwise", "stl")}
    found = gradient_noise(ModelA(), ways, ONE, num_gradients=20)
    noise = found.ways["stl"]["guide"]
    assert noise.variance.value < 1e-20 and noise.norm.value < 1e-10
    assert noise.bias is not None and not noise.bias.seen
    assert found.ways["pathwise"]["guide"].variance.value > 1


def shifted(model: Any, guide: Any, batch: Batch, *, shift: float = 0.0) -> Tensor:
    """The ELBO with a gradient that is ``shift`` off in both entries."""
    off = guide.loc + guide.scale
    return elbo(model, guide, batch) + shift * (off - off.detach())


@pytest.mark.parametrize("shift", [0.5, 0.05])
def test_a_known_bias_is_found_and_one_in_the_noise_is_not_shown(shift: float) -> None:
    """The same draws for both, so that a shift of 0.05 in a noise of sd 3 leaves no doubt."""
    guide = GuideA(1.1, 0.9)
    ways = {"pathwise": guide, "off": Way(guide, {"shift": shift})}
    found = gradient_noise(ModelA(), ways, ONE, shifted, num_gradients=100)
    bias = found.ways["off"]["guide"].bias
    assert bias is not None and bias.seen
    assert bias.value == pytest.approx(shift * math.sqrt(2), abs=1e-9)


class Two(Model):
    """y ~ Categorical(0.3, 0.7), x | y ~ N(m_y, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([-1.0, 2.0]))  # (2,)

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7])))
            y = y if y.is_floating_point() else nn.functional.one_hot(y, 2).to(self.loc)
            return pyro.sample("x", dist.Normal((y * self.loc).sum(-1), 1.0))


class Marked(nn.Module):
    """q(y), summed over, drawn or relaxed."""

    def __init__(self, how: str, temperature: float = 3.0):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.4, -0.3]))  # (2,)
        self.how, self.temperature = how, temperature

    def forward(self, batch: Batch) -> None:
        logits = self.logits.expand(len(batch), 2)
        marks = {"enumerate": {"enumerate": "parallel"}, "score": {"score": True}}
        with rows(batch):
            if self.how == "gumbel":
                pyro.sample("y", Relaxed(logits, self.temperature))  # type: ignore[arg-type]
            else:
                pyro.sample("y", dist.Categorical(logits=logits), infer=marks[self.how])


def mean_gradients(x: Tensor, temperature: float) -> dict[str, list[Tensor]]:
    """Of (m, logits): of the ELBO exactly, and of its relaxation by quadrature over the noise."""
    found = {}
    grid = torch.linspace(-45, 45, 200_001)  # the difference of two Gumbel variables
    weight = torch.sigmoid(grid) * torch.sigmoid(-grid) * (grid[1] - grid[0])
    for how in ("enumerate", "gumbel"):
        loc = torch.tensor([-1.0, 2.0], requires_grad=True)
        logits = torch.tensor([0.4, -0.3], requires_grad=True)
        log_q = logits.log_softmax(0)
        kl = (log_q.exp() * (log_q - torch.tensor([0.3, 0.7]).log())).sum()
        if how == "enumerate":
            fit = (log_q.exp() * dist.Normal(loc, 1.0).log_prob(x[:, None])).sum(-1)
        else:
            first = torch.sigmoid((log_q[0] - log_q[1] + grid) / temperature)
            mean = first * loc[0] + (1 - first) * loc[1]
            fit = (weight * dist.Normal(mean, 1.0).log_prob(x[:, None])).sum(-1)
        loss = kl - fit.mean()
        found[how] = list(torch.autograd.grad(loss, [loc, logits]))
    return found


def test_the_bias_of_a_relaxed_draw_is_that_of_quadrature() -> None:
    """At τ = 3, 600 draws of 4 rows: within 5 errors, against the enumerated gradient, exact."""
    x, temperature = torch.tensor([-1.5, 0.2, 1.0, 2.5]), 3.0
    ways = {how: Marked(how, temperature) for how in ("enumerate", "score", "gumbel")}
    found = gradient_noise(Two(), ways, Dataset(x), num_gradients=600)
    means = mean_gradients(x, temperature)
    pairs = zip(("model", "guide"), means["enumerate"], means["gumbel"], strict=True)
    for side, true, relaxed in pairs:
        enumerated, drawn, off = (found.ways[how][side] for how in ways)
        assert enumerated.variance.value < 1e-20 and enumerated.snr is None
        assert enumerated.norm.value == pytest.approx(float(true.norm()), rel=1e-9)
        assert off.bias is not None and off.bias.exact and off.bias.against == ("enumerate",)
        expected = float((relaxed - true).norm())
        assert off.bias.seen and abs(off.bias.value - expected) < 5 * off.bias.se
        assert off.bias.se < 0.2 * expected
        assert drawn.bias is not None and drawn.bias.exact and not drawn.bias.seen


def test_a_distance_of_noise_is_seen_as_often_as_it_should_be() -> None:
    """2000 samples of 100 draws without a mean, in 1 to 30 dimensions of unequal spread: a chance
    below 5 % in about 5 % of them (5 errors: 0.025), in one dimension exactly, and below 1 % in
    1 % (5 errors: 0.011) or fewer; and U has mean ‖b‖²."""
    generator = torch.Generator().manual_seed(1)
    for scale in (torch.ones(1), torch.tensor([2.0, 0.3, 0.3]), torch.linspace(0.5, 2.0, 30)):
        entries, b = len(scale), torch.full_like(scale, 0.1)
        low, lower, squares = 0, 0, []
        for _ in range(2000):
            d = torch.randn(100, entries, generator=generator) * scale
            chance = moments.distance(d, 1.0).chance
            low, lower = low + (chance < 0.05), lower + (chance < 0.01)
            squares.append(moments._squared(d + b))
        assert 0.02 < low / 2000 < 0.05 + 5 * 0.0049
        assert lower / 2000 < 0.01 + 5 * 0.0022
        assert entries > 1 or low / 2000 > 0.05 - 5 * 0.0049
        u, se = torch.tensor(squares).unbind(1)
        assert abs(u.mean() - b.square().sum()) < 5 * u.std() / 2000**0.5
        assert 0.8 < se.mean() / u.std() < 1.5  # the jackknife's, wide rather than narrow


def test_nothing_is_changed() -> None:
    model, data = PPCA.example()
    model, data = model.double(), data.to(dtype=torch.float64)
    guide = Guide(model, data, "mean_field", "per_datapoint")
    before = [p.detach().clone() for p in [*model.parameters(), *guide.parameters()]]
    model.weight.grad = torch.full_like(model.weight, 7.0)
    state = torch.get_rng_state()
    options: dict[str, Any] = {"num_rows": 7, "num_gradients": 10}
    first = gradient_noise(model, {"pathwise": guide}, data, **options)
    assert first == gradient_noise(model, {"pathwise": guide}, data, **options)
    assert first != gradient_noise(model, {"pathwise": guide}, data, seed=1, **options)
    assert (model.weight.grad == 7).all() and guide.get_parameter(
        "source.table.weight"
    ).grad is None
    for p, old in zip([*model.parameters(), *guide.parameters()], before, strict=True):
        assert torch.equal(p, old)
    assert torch.get_rng_state().equal(state)
    assert first.ways["pathwise"]["guide"].entries == 7 * 4  # of a table the rows that are used
    fresh = gradient_noise(model, {"pathwise": guide}, data, minibatch_noise=True, **options)
    assert "guide" not in fresh.ways["pathwise"]
    own = first.ways["pathwise"]["model"].variance.value
    assert fresh.ways["pathwise"]["model"].variance.value > own


class Gaussian(Model):
    """z ~ N(μ, I), x | z ~ N(z, I): the model of Rainforth et al."""

    def __init__(self, dim: int):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(dim))  # (d,)

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1))


class Linear(nn.Module):
    """q(z | x) = N(A x + b, 2/3 I), near the optimum A = ½ I, b = μ/2."""

    def __init__(self, dim: int, off: float):
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.eye(dim) + off * torch.randn(dim, dim))  # (d, d)
        self.bias = nn.Parameter(off * torch.randn(dim))  # (d,)

    def forward(self, batch: Batch) -> None:
        with rows(batch):
            q = dist.Normal(affine(batch["x"], self.weight) + self.bias, (2 / 3) ** 0.5)
            pyro.sample("z", q.to_event(1))


def test_more_particles_drown_the_gradient_of_the_guide_but_not_under_dreg() -> None:
    """SNR ∝ K^b, K = 4, 16, 64: b is ½ for θ and -½ for φ (Rainforth et al. 2018), and ½ for φ
    under DReG; the law is of large K, hence 0.1 beside 5 errors, which are 0.05 or less."""
    with seeded(3):
        model, guide = Gaussian(2), Linear(2, 0.1)
        data = Dataset(torch.randn(2048, 2) * 2**0.5)
        nn.init.constant_(model.loc, 0.5)
        guide.bias.data += 0.25  # b = μ/2
    signals: dict[tuple[str, str], dict[int, moments.Value]] = {}
    for k in (4, 16, 64):
        ways = {word: Way(guide, {"estimator": word}) for word in ("pathwise", "dreg")}
        options: dict[str, Any] = {"num_rows": len(data), "num_gradients": 100}
        found = gradient_noise(model, ways, data, "iwae", {"num_particles": k}, **options)
        bias = found.ways["dreg"]["guide"].bias
        assert bias is not None and not bias.seen
        for word, sides in found.ways.items():
            for side, noise in sides.items():
                assert noise.snr is not None
                snr = moments.Value(noise.snr.value, noise.snr.se)
                signals.setdefault((word, side), {})[k] = snr
    known = {("pathwise", "model"): 0.5, ("pathwise", "guide"): -0.5, ("dreg", "guide"): 0.5}
    for key, expected in known.items():
        b = moments.slope(signals[key], found.floor)
        assert b is not None and b.se < 0.05
        assert abs(b.value - expected) < 0.1 + 5 * b.se
        assert expected * b.value > 5 * abs(expected) * b.se  # and of that sign


QUICK: dict[str, Any] = {"num_gradients": 10, "num_rows": 8}
ON_IRIS = ("--data", "iris", "--num-gradients", "10", "--num-rows", "8", "--device", "cpu")


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert cli.main(["gradients", *words]) == 2
    return capsys.readouterr().err


def test_a_fresh_pair_with_tables_files_and_refusals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--model.hidden", "8", "--num-particles", "1,4", "--estimators", "pathwise,stl,dreg")
    assert cli.main(["gradients", "vae", *ON_IRIS, *words, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "φ, the guide" in printed and "θ, the model" in printed and "b of SNR ∝ K^b" in printed
    assert "no stl (iwae, K = 1), stl (iwae, K = 4): stl is unbiased for the elbo alone" in printed
    content = json.loads((tmp_path / "gradients.json").read_text())
    cells = {(c["objective"], c["num_particles"]): c for c in content["cells"]}
    assert list(cells) == [("elbo", 1), ("elbo", 4), ("iwae", 1), ("iwae", 4)]
    noise = cells["iwae", 4]["ways"]["dreg"]["guide"]
    assert noise["bias"]["against"] == ["pathwise"] and noise["bias"]["seen"] is False
    assert noise["variance"]["mean"] == noise["variance"]["value"] / noise["entries"]
    with open(tmp_path / "gradients.csv") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 2 * (2 * 3 + 2 * 2) and float(table[0]["snr.value"]) > 0
    assert (tmp_path / "gradients.png").read_bytes().startswith(b"\x89PNG")
    assert "already holds" in error_of(capsys, "vae", *ON_IRIS, "--out", str(tmp_path))


def test_a_run_is_looked_at_where_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit = ["fit", "m2", "--data", "iris", "--model.hidden", "8", "--steps", "3", "--out", str(run)]
    assert cli.main([*fit, "--eval-particles", "2", "--device", "cpu"]) == 0
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    capsys.readouterr()
    options = ("--estimators", "enumerate,gumbel,collapse", "--estimator.temperature", "4")
    assert cli.main(["gradients", str(run), *ON_IRIS[2:], *options, "--objective", "elbo"]) == 0
    printed = capsys.readouterr().out
    assert "no collapse: the guide was made with the estimator enumerate" in printed
    assert "fit it with --estimator collapse" in printed
    assert before == {path.name: path.read_bytes() for path in run.iterdir()}
    error = error_of(capsys, str(run), *ON_IRIS)
    assert "is a run, with words of its own: leave out --data" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--objective", "mle"), "mle has no particles to draw"),
        (("--num-particles", "0,3"), "num_particles and num_rows count from 1"),
        (("--num-gradients", "5"), "needs ten gradients, got 5"),
        (("--estimators", "pathwize"), "Did you mean 'pathwise'"),
        (("--estimators", "gumbel"), "none of the estimators goes with the guide"),
    ],
)
def test_what_is_refused(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in error_of(capsys, "ppca", *ON_IRIS[:2], *words)


def test_guides_share_their_weights_and_nothing_else() -> None:
    model, data = M2.example()
    model, data = model.double(), data.to(dtype=torch.float64)
    guide = Guide(model, data, estimator="enumerate")
    state = torch.get_rng_state()
    kinds = {"enumerate": {}, "score": {"baseline": "mean"}, "collapse": {}}
    found, refused = guides_of(guide, data, kinds)
    assert torch.get_rng_state().equal(state)
    assert found["enumerate"] is guide and list(refused) == ["collapse"]
    other = found["score"]
    assert other.spec["estimator_options"] == {"baseline": "mean"}
    own = dict(guide.named_parameters())
    for name, p in other.named_parameters():
        assert torch.equal(p, own[name]) and p is not own[name]


def test_many_rows_of_a_bound_that_sums_over_y_are_not_compared_with_draws_of_y() -> None:
    found = gradients(
        "m2",
        "iris",
        objective="elbo,iwae",
        estimators="enumerate,score",
        **QUICK,
        num_particles=(1, 3),
        model_options={"hidden": (8,)},
        device="cpu",
    )
    assert list(found.cells["iwae", 3].ways) == ["score"]
    for cell in (("iwae", 1), ("elbo", 3)):
        assert list(found.cells[cell].ways) == ["enumerate", "score"]
    assert "another bound" in found.cells["iwae", 3].refused["enumerate"]
    assert found.untrained == ("score",) and found.as_dict()["untrained"] == ("score",)


def test_an_objective_with_a_gradient_of_its_own_has_one_row_for_each_way_of_drawing() -> None:
    small = {"model_options": {"hidden": (8,)}, "device": "cpu", "num_particles": (2,)}
    found = gradients("vae", "iris", objective="wake_sleep,iwae", **QUICK, **small)
    assert list(found.cells["wake_sleep", 2].ways) == ["pathwise"]
    assert "dreg" in found.cells["wake_sleep", 2].refused
    assert {"pathwise", "dreg", "score", "vimco"} <= set(found.cells["iwae", 2].ways)
    found = gradients(
        "m2", "iris", objective="rws", estimators="enumerate,score,vimco", **QUICK, **small
    )
    assert list(found.cells["rws", 2].ways) == ["enumerate", "score"]
