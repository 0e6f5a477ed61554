"""Every recipe runs at the smallest scale, and what it says of its figures holds."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.special
import torch
from matplotlib.figure import Figure

from experiments import cli
from experiments import reproduce as engine
from experiments.recipe import MARKS, Published, Quantity, Recipe, figures
from experiments.recipes import (
    _evidence,
    gradient_estimators,
    importance_sampling,
    iwae_ladder,
    iwae_snr,
    kl_directions,
)
from experiments.recipes.energies import Energy, energies, energy
from experiments.reproduce import RESULTS, kept, reproduce
from zoo import registry
from zoo.context import seeded
from zoo.models.vae import VAE
from zoo.registry import names

ROOT = Path(__file__).parents[1]
FILES = sorted(path.stem for path in (ROOT / "experiments" / "recipes").glob("[!_]*.py"))
EXACT = Published(2.0, "exact", "a closed form")
READ = Published(2.0, "read", "a paper, table 1", rounding=0.05, se=0.1, scales=("gpu",))


@pytest.mark.parametrize("name", FILES)
def test_recipes_run_and_write_their_results(name: str, tmp_path: Path) -> None:
    """One for every file, so that none is missed; nothing published is contradicted."""
    done = reproduce(name.replace("_", "-"), scale="smoke", out=str(tmp_path / "out"))
    result = done.recipes[name]
    content = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert content["recipe"] == name and len(content["rows"]) == len(result.rows) > 0
    assert content["scale"] == "smoke" and content["seed"] == 0 and content["versions"]["torch"]
    assert content["seconds"] >= 0 and content["date"] and content["device"]
    assert (tmp_path / "out" / f"{name}.png").stat().st_size > 5000
    lines = (tmp_path / "out" / f"{name}.csv").read_text().splitlines()
    assert len(lines) == 1 + len(result.rows)
    named = [row["quantity"] for row in content["quantities"]]
    assert named == [quantity.name for quantity in result.quantities]
    if (before := kept(name)) is not None:
        assert named == [row["quantity"] for row in before["quantities"]], "--keep it anew"
    for row in content["quantities"]:
        assert row["within"] is not False, f"{name}: {row}"
        assert row["published"] is None or row["published"]["mark"] in MARKS
        assert row["published"] is None or row["published"]["source"].strip()


def test_a_file_is_a_recipe_and_every_recipe_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(names("recipes")) == FILES, "a file of recipes/ has no function of its name"
    assert cli.main(["reproduce", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in FILES:
        (line,) = (line for line in lines if line.startswith(f"{name} "))
        result = kept(name)
        assert "smoke, cpu, gpu" in line
        assert f"  {result['scale']}, {result['date']}  " in line if result else "  –  " in line


class TestBand:
    """|ours − published| ≤ 5·√(se² + se′²) + error + rounding, at the scale of the source."""

    @pytest.mark.parametrize(
        ("ours", "published", "within"),
        [
            ((2.4, 0.1), EXACT, True),
            ((2.6, 0.1), EXACT, False),
            ((2.0, 0.0), EXACT, True),
            ((2.0 + 1e-9, 0.0), EXACT, False),
            ((2.0 + 1e-9, 0.0), Published(2.0, "exact", "…", rounding=1e-8), True),
            ((2.54, 0.0), Published(2.0, "exact", "…", error=0.5, rounding=0.05), True),
            ((2.56, 0.0), Published(2.0, "exact", "…", error=0.5, rounding=0.05), False),
            (2.0, EXACT, None),
            (None, EXACT, None),
            ((2.0, 0.1), None, None),
        ],
    )
    def test_exact_values(self, ours: Any, published: Any, within: bool | None) -> None:
        assert Quantity("a", ours, published).within("smoke") is within

    def test_values_that_belong_to_a_scale(self) -> None:
        """5·√(0.1² + 0.1²) + 0.05 = 0.757."""
        near, far = Quantity("a", (2.75, 0.1), READ), Quantity("a", (2.77, 0.1), READ)
        assert (near.within("gpu"), far.within("gpu"), near.within("cpu")) == (True, False, None)
        assert figures(near.as_dict("cpu")) == ("2 ± 0.10 [read]", "2.75 ± 0.10", "other scale")
        assert figures(far.as_dict("gpu"))[2] == "no"
        table = Published(11.97, "read", "a paper, table 1", error=1.71)  # as it is printed there
        assert figures(Quantity("a", None, table).as_dict("cpu"))[0] == "11.97 ± 1.71 [read]"
        assert figures(Quantity("a", None, EXACT).as_dict("cpu")) == ("2 [exact]", "–", "–")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"mark": "seen"}, "is marked read, memory, exact, got 'seen'"),
            ({"source": " "}, "2.0 needs a source"),
            ({"value": float("nan")}, "are numbers"),
            ({"error": -1.0}, "none of these is negative"),
            ({"scales": ("tpu",)}, "scales are some of smoke, cpu, gpu"),
        ],
    )
    def test_published_values_say_where_they_are_from(self, given: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Published(**{"value": 2.0, "mark": "read", "source": "a paper", **given})


def made(scale: str = "cpu", seed: int = 0) -> Recipe:
    """A line on it."""
    figure = Figure()
    figure.subplots().plot([0, 1])
    quantities = [Quantity("a [b]", (2.1, 0.1), EXACT), Quantity("c", 1.0, READ)]
    return Recipe("A title [z]", [{"a": 1.0 + seed, "b": (2.0, 0.5)}], figure, {}, [], quantities)


def fails(scale: str = "cpu", seed: int = 0) -> Recipe:
    """A line on it."""
    raise ValueError("there are\nno data")


Recipes = Callable[..., None]


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recipes:
    """Other recipes than those of the package, and another folder of results."""

    def put(**functions: Callable[..., Recipe]) -> None:
        monkeypatch.setattr(registry, "names", lambda _: dict.fromkeys(functions, "a line"))
        monkeypatch.setattr(registry, "resolve", lambda _, word: functions[word])
        (tmp_path / "experiments").mkdir()
        (tmp_path / "pyproject.toml").touch()
        monkeypatch.setattr(engine, "RESULTS", tmp_path / "experiments" / "results")

    return put


class TestCommand:
    def test_all_goes_on_after_a_failure(self, recipes: Recipes, tmp_path: Path, capsys) -> None:
        recipes(bad=fails, good=made)
        assert cli.main(["reproduce", "--all", "--out", str(tmp_path / "out")]) == 1
        out, err = capsys.readouterr()
        assert "bad failed: ValueError: there are no data" in err
        assert "1 of 2 recipes were made at scale cpu; failed: bad" in out
        assert (tmp_path / "out" / "good" / "good.json").exists()
        assert cli.main(["reproduce", "bad"]) == 2
        assert capsys.readouterr().err == "zoo: there are no data\n"

    def test_several_names(self, recipes: Recipes) -> None:
        recipes(one=made, two=made, three=made)
        done = reproduce("one", "two", "one", seed=3)
        assert list(done.recipes) == ["one", "two"] and not done.failed
        assert done.recipes["two"].rows[0]["a"] == 4.0

    def test_what_it_prints(self, recipes: Recipes, capsys) -> None:
        """Brackets are no markup, sources stand below, and the scale is said to be another."""
        recipes(one=made)
        assert cli.main(["reproduce", "one", "--scale", "smoke"]) == 0
        out = capsys.readouterr().out
        assert "A title [z]" in out and "a [b]" in out and "2 [exact]" in out
        assert "[read] a paper, table 1" in out and "2.10 ± 0.10" in out
        assert (
            "1 of the published values are of other settings than those of the scale smoke" in out
        )
        assert "other scale" in out and "Nothing was written" in out

    def test_keep(self, recipes: Recipes, tmp_path: Path) -> None:
        recipes(one=made)
        reproduce("one", keep=True, seed=2)
        found = json.loads((tmp_path / "experiments" / "results" / "one.json").read_text())
        assert (found["recipe"], found["scale"], found["seed"]) == ("one", "cpu", 2)
        assert found["quantities"][0]["within"] is True
        assert found["quantities"][1]["within"] is None and not found["quantities"][1]["comparable"]
        with pytest.raises(ValueError, match="smoke only shows that a recipe runs"):
            reproduce("one", keep=True, scale="smoke")
        (tmp_path / "pyproject.toml").unlink()
        with pytest.raises(ValueError, match="results are kept in the source tree"):
            reproduce("one", keep=True)

    def test_use(self) -> None:
        with pytest.raises(ValueError, match="no recipe 'energys'. Did you mean 'energies'"):
            reproduce("energys")
        with pytest.raises(ValueError, match="say which recipes"):
            reproduce()
        with pytest.raises(ValueError, match="say which recipes"):
            reproduce("energies", all_=True)


def test_kept_results_are_of_recipes_and_their_verdicts_follow_from_their_figures() -> None:
    for path in RESULTS.iterdir():
        assert path.suffix == ".json" and path.stem in FILES, f"{path.name} is of no recipe"
        result = kept(path.stem)
        assert result and result["recipe"] == path.stem and result["scale"] in ("cpu", "gpu")
        for row in result["quantities"]:
            ours = row["ours"] if row["se"] is None else (row["ours"], row["se"])
            published = row["published"] and Published(**row["published"])
            again = Quantity(row["quantity"], ours, published).as_dict(result["scale"])
            assert again == row


def test_the_readme_has_the_table_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delitem(sys.modules, "benchmarks", raising=False)
    from benchmarks.table_recipes import section

    assert section() in (ROOT / "README.md").read_text(), "run: python -m benchmarks.table --write"


@pytest.mark.parametrize("which", [1, 2, 3, 4])
def test_normalizers_by_another_rule(which: int) -> None:
    """The trapezoid rule against a sum over the midpoints of another grid."""
    width = 8 / 1500
    axis = -4 + width * (torch.arange(1500, dtype=torch.float64) + 0.5)
    grid = torch.cartesian_prod(axis, axis)
    mass = (-energy(which, grid)).exp().sum() * width**2 / 64
    assert abs(float(mass.log()) - Energy(which).log_normalizer()) < 2e-4


def test_no_bound_is_above_the_normalizer() -> None:
    for row in energies("smoke").rows:
        for name, value in row.items():
            if name.startswith("KL"):
                assert value[0] > -6 * value[1], f"{name} of {row['energy']}"


def hermite(nodes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights of E f(ε), ε ~ N(0, 1)."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.from_numpy(points), torch.from_numpy(weights / weights.sum())


class TestGradientEstimators:
    """The gradients that autograd takes of the surrogates, integrated over their noise."""

    @pytest.mark.parametrize("n", [1, 2])
    @pytest.mark.parametrize("name", gradient_estimators.SURROGATES)
    def test_mean_and_variance(self, name: str, n: int) -> None:
        points, weights = hermite(20)
        noise = torch.cartesian_prod(*[points] * n).reshape(-1, n).T  # (n, 20^n)
        weight = torch.cartesian_prod(*[weights] * n).reshape(-1, n).prod(-1)
        theta = torch.full((noise.shape[1],), 2.0, dtype=torch.float64, requires_grad=True)
        surrogate = gradient_estimators.SURROGATES[name](theta, noise).mean(0)
        (gradient,) = torch.autograd.grad(surrogate.sum(), theta)
        mean = float(weight @ gradient)
        variance = float(weight @ (gradient - mean).square())
        assert mean == pytest.approx(4, abs=1e-9)
        assert variance == pytest.approx(gradient_estimators.exact(name, n), rel=1e-9)

    def test_values_of_the_reference(self) -> None:
        known = {"score": 87, "b = E f": 42, "best b": 38, "path-wise": 4}
        assert {name: gradient_estimators.exact(name, 1) for name in known} == known
        assert gradient_estimators.exact("leave-one-out", 5) == pytest.approx((42 + 34 / 4) / 5)

    def test_error_of_a_printed_variance(self) -> None:
        """Normal for path-wise, σ²√(2/R); for one score a sixth-degree polynomial's moments."""
        assert gradient_estimators._error("path-wise", 7) == pytest.approx(4 / 7 * math.sqrt(0.02))

        def moment(k: int) -> float:
            def f(e: float) -> float:
                return ((2 + e) ** 2 * e - 4) ** k * math.exp(-(e**2) / 2) / math.sqrt(2 * math.pi)

            return scipy.integrate.quad(f, -14, 14, epsabs=1e-7, limit=200)[0]

        error = math.sqrt((moment(4) - moment(2) ** 2) / 100)
        assert gradient_estimators._error("score", 1) == pytest.approx(error, rel=1e-8)


class TestDirections:
    """What the recipe fits with Gauss–Hermite and L-BFGS against a grid and BFGS."""

    @staticmethod
    def two() -> kl_directions.Mixture:
        loc = torch.tensor(kl_directions.MODES, dtype=torch.float64)
        return kl_directions._gaussian(loc, kl_directions.SPREAD)

    def test_a_mode_is_a_minimum_by_another_rule_and_search(self) -> None:
        p = self.two()
        start = torch.tensor([2.0, 1.0])
        q = kl_directions.fit(p, True, start, 60)

        def loss(free: np.ndarray) -> float:
            x = torch.from_numpy(free)
            scale = torch.stack([x[2].exp(), x.new_zeros(()), x[4], x[3].exp()]).reshape(1, 2, 2)
            return kl_directions.trapezoid(kl_directions.Mixture(x[None, :2], scale), p, 201)

        scale = q.scale_tril[0]
        ours = [*q.loc[0], scale[0, 0].log(), scale[1, 1].log(), scale[1, 0]]
        ours = np.array([float(value) for value in ours])
        away = ours + np.array([0.1, -0.05, 0.1, -0.1, 0.1])
        found = scipy.optimize.minimize(loss, away, jac="3-point", options={"gtol": 1e-8})
        assert np.abs(found.x - ours).max() < 1e-5
        assert abs(found.fun - float(kl_directions.divergence(q, p, 60))) < 1e-8
        assert 0 < math.log(2) - found.fun < 0.01  # modes infinitely far apart would make it log 2

    def test_rules_agree_where_the_answer_is_known(self) -> None:
        a = kl_directions._gaussian(torch.tensor([[0.3, -0.2]]).double(), ((1.0, 0.5), (0.5, 0.8)))
        b = kl_directions._gaussian(torch.zeros(1, 2).double(), kl_directions.COVARIANCE)
        normal = torch.distributions.MultivariateNormal
        parts = [normal(m.loc[0], scale_tril=m.scale_tril[0]) for m in (a, b)]
        exact = float(torch.distributions.kl_divergence(*parts))
        assert float(kl_directions.divergence(a, b, 10)) == pytest.approx(exact, abs=1e-12)
        assert kl_directions.trapezoid(a, b) == pytest.approx(exact, abs=1e-10)


class TestImportanceSampling:
    @pytest.mark.parametrize("name", ["p, plain Monte Carlo", "wide", "shifted", "near q*", "q*"])
    def test_variance_by_quadrature(self, name: str) -> None:
        mean, sd = importance_sampling.PROPOSALS[name]
        z = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
        normal = torch.distributions.Normal
        log_q = normal(torch.tensor(mean, dtype=torch.float64), sd).log_prob(z)
        log_fp = normal(z, 0.5).log_prob(torch.full_like(z, 4.0)) + normal(0.0, 1.0).log_prob(z)
        width = float(z[1] - z[0])
        total = float(log_fp.exp().sum() * width)
        second = float((2 * log_fp - log_q).exp().sum() * width)
        assert total == pytest.approx(importance_sampling.EXACT, rel=1e-10)
        found = importance_sampling.relative_variance(mean, sd)
        assert found == pytest.approx(second / total**2 - 1, rel=1e-6, abs=1e-9)

    def test_a_narrow_proposal_has_none(self) -> None:
        """(f·p)²/q grows like exp(z²/2·(1/s² − 2/s*²)): to infinity below s² = s*²/2."""
        best = importance_sampling.BEST[1]
        edge = best / math.sqrt(2)
        assert importance_sampling.relative_variance(3.2, edge * 0.999) == math.inf
        assert math.isfinite(importance_sampling.relative_variance(3.2, edge * 1.001))

    def test_the_best_proposal_has_constant_weights(self) -> None:
        weights = importance_sampling.weights(importance_sampling.BEST, 1000)
        assert float((weights - 1).abs().max()) < 1e-12


class TestLadder:
    def test_one_latent_is_that_of_the_reference(self, float64: torch.dtype) -> None:
        with torch.no_grad():
            case = iwae_ladder.one_latent(rows=2)
            evidence = case.model.log_evidence(case.batch["x"])
        assert float(evidence[0]) == pytest.approx(-1.8280121234846454, abs=1e-12)
        assert float((evidence - case.kl())[0]) == pytest.approx(-2.019299048862499, abs=1e-12)
        assert float(case.moment(2)[0].log()) == pytest.approx(0.1885632163, abs=1e-9)
        points, weights = hermite(120)
        z = 1.1 + 0.9 * points
        normal = torch.distributions.Normal
        log_w = normal(0.0, 1.0).log_prob(z) + normal(z, 1.0).log_prob(torch.full_like(z, 1.5))
        log_w = log_w - normal(1.1, 0.9).log_prob(z)
        third = float(weights @ (3 * (log_w - evidence[0])).exp())
        assert float(case.moment(3)[0]) == pytest.approx(third, rel=1e-9)
        pair = torch.logaddexp(log_w[:, None], log_w) - math.log(2)
        assert float(weights @ pair @ weights) == pytest.approx(iwae_ladder.SECOND, abs=1e-8)

    def test_moments_on_real_rows(self, float64: torch.dtype) -> None:
        """E_q (p/q)^a = ∫ p^a q^(1−a), by the trapezoid rule over the plane, of three rows."""
        with torch.no_grad():
            case = iwae_ladder.wine(300, seed=0)
            posterior = case.model.posterior(case.batch["x"])
        axis = torch.linspace(-9, 9, 1201)
        z = torch.cartesian_prod(axis, axis)
        for row in (0, 5, 70):
            normal = torch.distributions.MultivariateNormal
            p = normal(posterior.mean[row], posterior.covariance_matrix[row]).log_prob(z)
            q = normal(case.mean[row], case.variance[row].diag()).log_prob(z)
            for a in (2, 3):
                found = (a * p + (1 - a) * q).exp().sum() * 0.015**2
                assert float(case.moment(a)[row]) == pytest.approx(float(found), rel=1e-6)

    @pytest.mark.parametrize("k", [50, 500])
    def test_expansion_of_gamma_weights(self, k: int) -> None:
        """Weights Gamma(a, 1/a): the mean of K is Gamma(Ka, 1/(Ka)), −E log = log(Ka) − ψ(Ka)."""
        a = 2.5
        exact = k * (math.log(k * a) - float(scipy.special.digamma(k * a)))
        v, skew = torch.tensor(1 / a).double(), torch.tensor(2 / a**2).double()
        assert float(iwae_ladder.expansion(v, skew, k)) == pytest.approx(exact, abs=1 / k**3)

    def test_infinite_moments_are_said(self, float64: torch.dtype) -> None:
        """q = N(m, s²) with s² below half the posterior's ½ has no second moment."""
        with torch.no_grad():
            case = iwae_ladder.one_latent(rows=1)
        narrow = iwae_ladder.Case(**{**vars(case), "variance": torch.full((1, 1), 0.24)})
        assert float(narrow.moment(2)) == math.inf


class TestSignalToNoise:
    """The closed forms of the toy in one dimension, against autograd and Gauss–Hermite."""

    @staticmethod
    def pair() -> tuple[iwae_snr.Toy, iwae_snr.Encoder, torch.Tensor]:
        mean, weight, bias = (torch.tensor(v) for v in ([0.3], [[0.6]], [-0.1]))
        return iwae_snr.Toy(mean), iwae_snr.Encoder(weight, bias), torch.tensor([[1.0], [-0.7]])

    @staticmethod
    def gradients(
        model: iwae_snr.Toy, guide: iwae_snr.Encoder, x: float, held: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of a row: w/p(x) (R,) at the nodes, ∂ log p(x, z)/∂μ (R,), d log w/d(A, b) (R, 2)."""
        normal = torch.distributions.Normal
        points, _ = hermite(80)
        given = (guide.weight[0, 0], guide.bias[0], model.mean[0])
        a, b, mu = (v.detach().expand(len(points)).clone().requires_grad_() for v in given)
        q = normal(a * x + b, math.sqrt(2 / 3))
        z = q.loc + q.scale * points
        q = normal(q.loc.detach(), q.scale) if held else q
        row = torch.full_like(z, x)
        log_p = normal(mu, 1.0).log_prob(z) + normal(z, 1.0).log_prob(row)
        log_w = log_p - q.log_prob(z)
        log_w = log_w - normal(mu, math.sqrt(2)).log_prob(row).detach()
        slopes = torch.autograd.grad(log_w.sum(), [mu, a, b])
        return log_w.detach().exp(), slopes[0], torch.stack(slopes[1:], -1)

    def by_quadrature(self, large: bool) -> dict[str, float]:
        model, guide, x = self.pair()
        _, weights = hermite(80)

        def mean(f: torch.Tensor) -> torch.Tensor:
            return torch.einsum("r,r...->...", weights, f)

        def ratio(rows: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
            """From the mean and E of the square of each row, as independent as they are."""
            means = torch.stack([m for m, _ in rows])
            trace = sum(float(square.sum() - m.square().sum() * (not large)) for m, square in rows)
            return float(means.mean(0).norm()) / math.sqrt(trace / len(rows) ** 2)

        found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {
            "θ": [],
            "φ": [],
            "φ, DReG": [],
        }
        for value in map(float, x[:, 0]):
            w, theta, phi = self.gradients(model, guide, value, held=False)
            path = self.gradients(model, guide, value, held=True)[2]
            if not large:
                for name, g in (("θ", theta[:, None]), ("φ", phi), ("φ, DReG", path)):
                    found[name].append((mean(g), mean(g.square())))
                continue
            exact = mean(w * theta)  # Fisher: ∇ log p(x)
            square = mean(w.square() * (theta - exact).square())
            found["θ"].append((exact[None], square[None]))
            w = w[:, None]
            e, own = mean(w.square() * path), mean(w.square() * phi.square())
            found["φ"].append((e, own))
            term = w.square() * path - 2 * e * w
            found["φ, DReG"].append((e, mean((term - mean(term)).square())))
        return {name: ratio(rows) for name, rows in found.items()}

    def test_one_draw(self, float64: torch.dtype) -> None:
        assert iwae_snr.single(*self.pair()) == pytest.approx(self.by_quadrature(False), rel=1e-9)

    def test_leading_term(self, float64: torch.dtype) -> None:
        assert iwae_snr.leading(*self.pair()) == pytest.approx(self.by_quadrature(True), rel=1e-8)

    def test_mean_of_phi_is_that_of_half_the_second_moment(self, float64: torch.dtype) -> None:
        """K · E g → −½ ∇ E_q (w/p)²: DReG's closed form against autograd of the moment."""
        off = torch.tensor([[0.3, -0.2]], requires_grad=True)
        mass, shift, _ = iwae_snr.tilted(off, 2)
        (slope,) = torch.autograd.grad(mass.sum(), off)
        g = -0.5 * shift - iwae_snr.WIDE * off
        assert torch.allclose(mass * g, -slope / 2, atol=1e-12)

    @pytest.mark.parametrize("power", [0.5, -0.5])
    def test_fit_finds_the_law_behind_a_term_of_first_order(self, power: float) -> None:
        sizes = (8, 16, 32, 64, 128)
        found = [(3.0 * k**power * math.exp(1.7 / k), 0.01 * k**power) for k in sizes]
        slope, level = iwae_snr.limit(sizes, found, power)
        assert slope[0] == pytest.approx(power, abs=1e-9) and 0 < slope[1] < 0.1
        assert level[0] == pytest.approx(3.0, abs=1e-9) and 0 < level[1] < 0.1


class TestEvidence:
    def model(self) -> tuple[VAE, torch.Tensor]:
        """Two latents with strong weights: posteriors that are narrow, and not normal."""
        with seeded(3):
            model = VAE(12, latent_dim=2, hidden=(8,), likelihood="bernoulli")
            with torch.no_grad():
                for p in model.parameters():
                    p.copy_(1.5 * torch.randn_like(p))
                x = model.decode(torch.randn(30, 2)).sample()
        return model, x

    def test_against_quadrature(self, float64: torch.dtype) -> None:
        """The trapezoid rule on a fine grid; within five standard errors, row by row."""
        model, x = self.model()
        axis = torch.linspace(-7, 7, 701)
        with torch.no_grad():
            z = torch.cartesian_prod(axis, axis).unsqueeze(1)
            like = torch.stack([model.decode(z).log_prob(row)[:, 0] for row in x], -1)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(z[:, 0]).sum(-1, keepdim=True)
        exact = (like + prior).logsumexp(0) + 2 * math.log(0.02)
        found = _evidence.evidence(model, x, draws=2000)
        assert float(found.errors.max()) < 0.05
        assert ((found.rows - exact).abs() < 5 * found.errors).all()
        joint = _evidence.log_joint(model, x, z[::5000])
        torch.testing.assert_close(joint, like[::5000] + prior[::5000])

    def test_derivatives(self, float64: torch.dtype) -> None:
        model, x = self.model()
        z = torch.randn(2, len(x), 2, requires_grad=True)
        slope, hessian = _evidence._derivatives(model, x, z.detach())
        (expected,) = torch.autograd.grad(_evidence.log_joint(model, x, z).sum(), z)
        torch.testing.assert_close(slope, expected)
        jacobian = torch.autograd.functional.jacobian(model.decoder, z[1, 4])
        p = model.decoder(z[1, 4]).sigmoid().detach()
        own = torch.eye(2) + jacobian.T @ torch.diag(p * (1 - p)) @ jacobian
        torch.testing.assert_close(hessian[1, 4], own)

    def test_places_are_modes(self, float64: torch.dtype) -> None:
        """The gradient is small beside the curvature, and none of the points searched is higher."""
        model, x = self.model()
        points = _evidence._points(model, seed=0)
        with torch.no_grad():
            places, hessian = _evidence.modes(model, x, points)
            slope = _evidence._derivatives(model, x, places)[0]
            step = torch.linalg.solve(hessian, slope).norm(dim=-1)
            highest = _evidence.log_joint(model, x, places).amax(0)
            searched = _evidence.log_joint(model, x, points.unsqueeze(1)).amax(0)
        assert float(step.median()) < 1e-3 and (highest >= searched).all()
