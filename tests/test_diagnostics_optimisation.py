"""Iterates of a fit, their R̂, the trend of a loss, signal in gradients, and restarts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from guides import Guide
from zoo import evaluate, fit, load
from zoo.data import Batch, Dataset
from zoo.diagnostics.gradient_snr import gradient_snr
from zoo.diagnostics.loss_trend import trend
from zoo.diagnostics.optimisation import optimisation
from zoo.diagnostics.restarts import restarts
from zoo.files import read_tensors, write_tensors
from zoo.iterates import ENTRIES, OF_TABLE, SNAPSHOTS, Iterates, Recorder, read
from zoo.model import Model
from zoo.models.gmm import GMM
from zoo.models.m2 import M2
from zoo.models.ppca import PPCA

FIT = {"progress": False, "batch_size": 8, "log_every": 5, "checkpoint_every": 1e9}


def rows(n: int = 30) -> Dataset:
    return Dataset(torch.randn(n, 4, generator=torch.Generator().manual_seed(5)))


def pair(data: Dataset, inference: str = "amortized") -> tuple[PPCA, Guide]:
    torch.manual_seed(1)
    model = PPCA(4)
    return model, Guide(model, data, "mean_field", inference)


class TestRecorder:
    def test_thins_by_two_and_keeps_the_steps(self) -> None:
        layer = nn.Linear(1, 1)
        recorder = Recorder({"model": layer}, 0)
        for step in range(1, 5000):
            layer.bias.data.fill_(step)
            recorder.take(step)
            assert len(recorder.steps) < SNAPSHOTS
        found = recorder.iterates()
        assert found is not None and found.names == ("model.weight[0,0]", "model.bias[0]")
        assert found.values[:, 1].tolist() == found.steps.tolist()  # each is what it says
        gaps = found.steps.diff().unique()
        assert gaps.tolist() == [8] and found.steps[0] == 8 and found.steps[-1] == 4992

    def test_entries_are_spread_and_seeded(self) -> None:
        data = rows()
        model, guide = pair(data, "per_datapoint")
        one, same, other = (
            Recorder({"model": model, "guide": guide}, seed).names for seed in (0, 0, 1)
        )
        assert one == same != other and len(one) == len(set(one)) <= ENTRIES
        of_table = [name for name in one if name.startswith("guide.source.table.weight[")]
        assert len(of_table) == OF_TABLE
        assert "model.log_scale" in one  # a single number has no place
        assert sum(name.startswith("model.mean[") for name in one) == 4

    def test_entries_are_those_that_the_names_say(self) -> None:
        layer = nn.Linear(30, 20)
        recorder = Recorder({"model": layer}, 3)
        recorder.take(1)
        found = recorder.iterates()
        assert found is not None and len(found.names) == ENTRIES
        for name, value in zip(found.names, found.values[0], strict=True):
            parameter, _, place = name.removeprefix("model.").partition("[")
            at = tuple(map(int, place.rstrip("]").split(",")))
            assert getattr(layer, parameter)[at] == value
        assert sum(name.startswith("model.bias") for name in found.names) == 20

    def test_what_is_not_trained_is_not_kept(self) -> None:
        data = rows()
        model, guide = pair(data)
        result = fit(model, guide, data, steps=5, freeze="model", **FIT)
        assert result.iterates is not None
        assert all(name.startswith("guide.") for name in result.iterates.names)
        exact = Guide(model, data, "exact")
        assert fit(model, exact, data, steps=5, freeze="model", **FIT).iterates is None


class TestARun:
    def test_a_resumed_fit_keeps_the_same_iterates(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("zoo.iterates.SNAPSHOTS", 16)
        data = rows()
        straight = fit(*pair(data), data, steps=45, **FIT).iterates
        fit(*pair(data), data, steps=21, out=tmp_path / "run", **FIT)
        resumed = fit(
            *pair(data), data, steps=45, out=tmp_path / "run", resume=True, **FIT
        ).iterates
        assert straight is not None and resumed is not None
        assert straight.steps.tolist() == resumed.steps.tolist() == list(range(4, 45, 4))
        assert straight.values.equal(resumed.values) and straight.names == resumed.names
        run = load(tmp_path / "run")
        assert run.iterates is not None and run.iterates.names == straight.names
        assert run.iterates.values.equal(straight.values)
        assert run.iterates.steps.equal(straight.steps)

    def test_an_older_run_has_none_and_goes_on(self, tmp_path: Path) -> None:
        data, out = rows(), tmp_path / "run"
        fit(*pair(data), data, steps=7, out=out, **FIT)
        tensors, meta = read_tensors(out / "state.safetensors")
        older = {k: v for k, v in tensors.items() if not k.startswith("iterates.")}
        del meta["iterates"]
        write_tensors(out / "state.safetensors", older, meta)
        assert load(out).iterates is None
        result = fit(*pair(data), data, steps=10, out=out, resume=True, **FIT)
        assert result.iterates is not None and result.iterates.steps.tolist() == [8, 9, 10]
        (out / "state.safetensors").write_bytes(b"cut")
        assert read(out / "state.safetensors") is None

    def test_a_fit_is_the_same_with_and_without(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data = rows()
        kept = pair(data)
        fit(*kept, data, steps=8, **FIT)
        monkeypatch.setattr(Recorder, "take", lambda self, step: None)
        bare = pair(data)
        assert fit(*bare, data, steps=8, **FIT).iterates is None
        for a, b in zip(kept, bare, strict=True):
            assert all(map(torch.equal, a.state_dict().values(), b.state_dict().values()))


def normal(count: int, entries: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, entries, generator=generator, dtype=torch.float64)


def named(values: Tensor) -> Iterates:
    names = tuple(f"model.w[{i}]" for i in range(values.shape[1]))
    return Iterates(values, torch.arange(1, len(values) + 1), names)


class TestOptimisation:
    def test_the_formula(self) -> None:
        values = normal(80, 3) + torch.linspace(0, 3, 80)[:, None] * torch.tensor([0.0, 0.3, 1.0])
        found = optimisation(named(values), [], tail=0.5)
        tail = values[40:]
        a, b = tail[:20], tail[20:]
        within, between = (a.var(0) + b.var(0)) / 2, (a.mean(0) - b.mean(0)).square() / 2
        torch.testing.assert_close(found.rhat, (19 / 20 + between / within).sqrt())
        assert found.worst == ("model.w[2]", found.rhat[2].item())
        assert found.steps == (41, 80) and found.num_snapshots == 40
        torch.testing.assert_close(found.mean, tail.mean(0))
        assert found.share(1.1) == (found.rhat > 1.1).double().mean()
        assert json.dumps(found.as_dict())

    def test_iterates_that_stand_still_in_law_raise_no_alarm(self) -> None:
        """64 independent series: the means of the halves differ by sds of √(2/250) = 0.09 each.

        The largest of 64 is above 4.9 sds, R̂ = 1.05, once in a million runs without the seed.
        """
        found = optimisation(named(normal(1000, 64)), [])
        low, high = found.interval
        assert low < 1.001 < found.worst[1] < 1.09 and found.worst[1] < high < 1.2
        assert found.p_value(1.01) > 1e-6
        assert (found.ess > 200).all() and found.relative_mcse.max() < 0.1

    def test_a_drift_is_found(self) -> None:
        values = normal(1000, 64)
        values[:, 7] += torch.linspace(0, 8, 1000)  # two sds between the halves of the tail
        found = optimisation(named(values), [])
        assert found.worst[0] == "model.w[7]" and found.worst[1] > 1.3
        assert found.interval[0] > 1.1 and found.p_value(1.1) < 1e-6
        assert found.share() == 1 / 64

    def test_autocorrelation_widens_the_interval(self) -> None:
        """An AR(1) series with τ = 39: each half is worth about 6 iterates, not 250."""
        noise, values = normal(3000)[:, 0], []
        state = 0.0
        for e in noise.tolist():
            state = 0.95 * state + e
            values.append(state)
        slow = optimisation(named(torch.tensor(values)[-1000:, None]), [])
        fast = optimisation(named(normal(1000)), [])
        assert slow.ess[0] < 60 < 300 < fast.ess[0]
        assert slow.interval[1] > fast.interval[1] + 0.02
        assert slow.interval[0] < 1.1

    def test_entries_that_do_not_move_are_left_out(self) -> None:
        values = normal(64, 3)
        values[:, 1] = 2.5
        metrics = [{"step": s, "loss": 1.0, "lr": 1 / s} for s in range(1, 65)]
        found = optimisation(named(values), metrics)
        assert found.names == ("model.w[0]", "model.w[2]") and found.still == ("model.w[1]",)
        assert not found.falling_rate
        found = optimisation(named(torch.ones(64, 1)), metrics, tail=1.0)
        assert found.worst == ("", 1.0) and found.interval == (1.0, 1.0) and found.falling_rate
        assert found.p_value() == 1.0 and found.share() == 0.0

    def test_a_run_without_iterates_has_its_losses(self) -> None:
        metrics = [{"step": s, "loss": -0.002 * s} for s in range(1, 101)]
        found = optimisation(None, metrics)
        assert found.names == () and found.trend is not None
        assert found.trend.slope == pytest.approx(-2.0) and found.steps == (51, 100)

    def test_what_cannot_be_looked_at(self) -> None:
        with pytest.raises(ValueError, match="tail is the share"):
            optimisation(None, [], tail=0.0)
        with pytest.raises(ValueError, match="the tail has 10 snapshots, and R̂ needs 16"):
            optimisation(named(normal(20)), [])

    def test_of_a_fit(self) -> None:
        data = rows()
        result = fit(*pair(data), data, steps=100, **FIT)
        found = optimisation(result.iterates, result.metrics)
        assert found.num_snapshots == 50 and found.trend is not None
        assert all(math.isfinite(x) for x in found.interval)
        own = found.only("model.")
        assert own.names == tuple(name for name in found.names if name.startswith("model."))
        place = found.names.index(own.worst[0])
        assert own.worst[1] == found.rhat[place] <= found.worst[1]
        assert found.only("nothing").worst == ("", 1.0)


class TestTrend:
    @pytest.mark.parametrize("rho", [0.0, 0.7])
    def test_its_error_covers(self, rho: float) -> None:
        """400 series of 60 losses: z² has mean near 1; without the correction 5.7 at ρ = 0.7."""
        z = []
        for seed in range(400):
            state, losses = 0.0, []
            for e in normal(90, seed=seed)[:, 0].tolist():
                state = rho * state + e
                losses.append(state)
            line = [{"step": 10 * i, "loss": 0.1 * i + x} for i, x in enumerate(losses[30:])]
            found = trend(line)
            assert found is not None
            z.append((found.slope - 10) / found.se)
        # χ²₁ has sd √2: its mean over 400 is within 5 √2/√400 = 0.35; estimating ρ adds some.
        assert 0.6 < sum(x * x for x in z) / 400 < 1.8

    def test_exact_lines_short_series_and_warm_ups(self) -> None:
        falling = [{"step": 100 * i, "loss": 3 - 0.2 * i} for i in range(10)]
        found = trend(falling)
        assert found is not None and found.slope == pytest.approx(-2.0)
        assert found.change == (pytest.approx(-1.8), pytest.approx(0, abs=1e-9))
        assert found.p_value < 1e-6 and str(found).startswith("still falling by 2 ±")
        assert trend(falling[:7]) is None
        warm = [{"step": i, "loss": 9.0, "loss_is": "not a bound"} for i in range(5)]
        assert trend(warm + falling) == found


class One(Model):
    """Part A: z ~ N(0, 1), x | z ~ N(z, 1), with q = N(μ, σ²)."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1))


class Known(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(1.1))  # ()
        self.scale = nn.Parameter(torch.tensor(0.9))  # ()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, batch: Batch) -> None:
        self.count += 1
        with pyro.plate("data", len(batch), dim=-1):
            q = dist.Normal(self.loc.expand(len(batch), 1), self.scale).to_event(1)
            pyro.sample("z", q)


class TestGradientSNR:
    def test_against_the_variances_of_part_a(self) -> None:
        """∂μ = x − 2μ with variance 4σ², ∂σ = 1/σ − 2σ with variance (x − 2μ)² + 8σ²."""
        data, guide = Dataset(torch.tensor([[1.5]])), Known()
        x, m, s = 1.5, 1.1, 0.9
        of_m = abs(x - 2 * m) / (2 * s)
        of_s = abs(1 / s - 2 * s) / math.sqrt((x - 2 * m) ** 2 + 8 * s * s)
        found = gradient_snr(One(), guide, data, num_gradients=600)
        assert found.model is None and found.guide is not None and found.guide.entries == 2
        assert abs(found.guide.value - (of_m + of_s) / 2) < 6 * found.guide.se
        assert 0.01 < found.guide.se < 0.06  # 1/√600 = 0.041 for one entry

    def test_nothing_is_changed(self) -> None:
        data = rows()
        model, guide = One(), Known()
        guide.loc.grad = torch.tensor(7.0)
        state = torch.get_rng_state()
        one = Dataset(data["x"][:, :1])
        first = gradient_snr(model, guide, one, num_gradients=5, batch_size=7)
        assert first == gradient_snr(model, guide, one, num_gradients=5, batch_size=7)
        assert first != gradient_snr(model, guide, one, num_gradients=5, batch_size=7, seed=1)
        assert guide.loc.grad == 7.0 and guide.scale.grad is None and guide.count == 0
        assert torch.get_rng_state().equal(state)

    def test_more_particles_lower_it_for_the_guide_and_raise_it_for_the_model(self) -> None:
        data = rows()
        model, guide = pair(data)
        few, many = (
            gradient_snr(model, guide, data, "iwae", {"num_particles": k}, num_gradients=60)
            for k in (1, 100)
        )
        assert many.model.value > few.model.value and many.guide.value < few.guide.value

    def test_tables_and_word_of_the_objective(self) -> None:
        data = rows()
        model, guide = pair(data, "per_datapoint")
        part = gradient_snr(model, guide, data, num_gradients=3, batch_size=5)
        whole = gradient_snr(model, guide, data, "renyi:0.5", num_gradients=3)
        assert part.guide is None and part.batch_size == 5
        assert whole.guide is not None and whole.guide.entries == 30 * 4
        assert whole.as_dict()["objective"] == "renyi:0.5"
        assert whole.floor == pytest.approx(math.sqrt(2 / (3 * math.pi)))

    def test_what_is_refused(self) -> None:
        data = rows()
        model, guide = pair(data)
        with pytest.raises(ValueError, match="needs three gradients"):
            gradient_snr(model, guide, data, num_gradients=2)
        with pytest.raises(ValueError, match="no parameter a gradient that varies"):
            gradient_snr(model, Guide(model, data, "exact"), data, num_gradients=3)


def turned(model: PPCA, angle: float) -> PPCA:
    """The same p(x), its latents rotated."""
    other = PPCA(4)
    other.load_state_dict(model.state_dict())
    c, s = math.cos(angle), math.sin(angle)
    with torch.no_grad():
        other.weight.copy_(model.weight @ torch.tensor([[c, -s], [s, c]]))
    return other


class TestRestarts:
    def test_a_rotation_is_no_difference(self) -> None:
        data = rows(100)
        one = PPCA.for_data(data, latent_dim=2, init="ml")
        two = turned(one, 1.0)
        assert (one.weight - two.weight).norm() > 0.5 * one.weight.norm()  # raw weights differ
        guides = [Guide(m, data, "exact") for m in (one, two)]
        bounds = [
            evaluate(m, g, data, num_particles=2).elbo
            for m, g in zip((one, two), guides, strict=True)
        ]
        found = restarts([one, two], bounds, data, guides=guides)
        for name in ("log p(x)", "WWᵀ"):
            assert found[name].distance[0] < 1e-5 and found[name].rhat is None
        mean = found["predictive mean of x"]
        assert mean.distance[0] < 6 * mean.distance[1] and mean.distance[1] > 0
        assert mean.rhat == pytest.approx(1, abs=0.01)
        assert found.spread is not None and found.spread.range < 1e-4
        assert "co-assignment" in found.left_out and found.loss_rhat is None

    def test_another_optimum_is_one(self) -> None:
        data = Dataset(rows(100)["x"] * torch.tensor([4.0, 3.0, 1.0, 1.0]))
        one = PPCA.for_data(data, latent_dim=1, init="ml")
        two = PPCA.for_data(data, latent_dim=1, init="ml")
        with torch.no_grad():
            two.weight.copy_(one.weight.roll(1, 0))
        guides = [Guide(m, data, "exact") for m in (one, two)]
        found = restarts([one, one, two], None, data, guides=[guides[0], *guides])
        for functional in found.functionals:
            value, error = functional.distance
            assert value > 0.1 and value > 10 * error
            assert functional.distances[0, 1] < functional.distances[0, 2]
        assert found["predictive mean of x"].rhat > 1.1
        assert found["WWᵀ"].distances.diagonal().abs().max() == 0
        assert found.spread is None and json.dumps(found.as_dict())

    def test_the_order_of_components_is_no_difference(self) -> None:
        x = torch.cat([rows(40)["x"] - 4, rows(40)["x"] + 4])
        data = Dataset(x)
        one = GMM.for_data(data, num_components=2)
        two = GMM.for_data(data, num_components=2)
        order = torch.tensor([1, 0])
        two.load_state_dict({k: v[order] for k, v in one.state_dict().items()})
        found = restarts([one, two], None, data)
        assert {f.name for f in found.functionals} == {"log p(x)", "co-assignment"}
        assert all(f.distance[0] < 1e-6 for f in found.functionals)
        assert found.left_out["predictive mean"] == "no guides are given"
        merged = GMM.for_data(data, num_components=2)
        with torch.no_grad():
            merged.loc.zero_()
            merged.log_scale.fill_(1.4)
        found = restarts([one, merged], None, data)
        assert found["co-assignment"].distance[0] > 0.3

    def test_co_assignments_of_a_classifier(self) -> None:
        data = Dataset((rows(20)["x"] > 0).float())
        models = [M2.for_data(data, num_classes=3, latent_dim=2, hidden=(4,)) for _ in range(2)]
        guides = [Guide(m, data, estimator="enumerate") for m in models]
        found = restarts(models, None, data, guides=guides, num_samples=20)
        assert found["co-assignment"].distance[0] > 0
        assert restarts(models, None, data).left_out["co-assignment"].startswith("no latent")

    def test_losses_are_compared_over_restarts(self) -> None:
        def metrics(level: float, seed: int) -> list[dict[str, Any]]:
            noise = normal(200, seed=seed)[:, 0].tolist()
            return [{"step": i, "loss": level + e} for i, e in enumerate(noise)]

        model, data = PPCA(4), rows()
        same = restarts([model] * 2, None, data, losses=[metrics(0, 1), metrics(0, 2)])
        apart = restarts([model] * 2, None, data, losses=[metrics(0, 1), metrics(3, 2)])
        assert same.loss_rhat < 1.05 < 1.5 < apart.loss_rhat
        assert restarts([model] * 2, None, data, losses=[[], []]).loss_rhat is None

    def test_what_is_refused(self) -> None:
        model, data = PPCA(4), rows()
        with pytest.raises(ValueError, match="compared from two, got 1"):
            restarts([model], None, data)
        with pytest.raises(ValueError, match="of one model, got"):
            restarts([model, GMM(4)], None, data)
        with pytest.raises(ValueError, match="2 restarts have 1 losses"):
            restarts([model] * 2, None, data, losses=[[]])


@pytest.mark.cuda
def test_on_cuda() -> None:
    data = rows().to("cuda")
    model, guide = (part.cuda() for part in pair(data))
    recorder = Recorder({"model": model, "guide": guide}, 0)
    recorder.take(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        recorder.take(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    result = fit(model, guide, data, steps=100, device="cuda", **FIT)
    assert result.iterates is not None and not result.iterates.values.is_cuda
    assert optimisation(result.iterates, result.metrics).num_snapshots == 50
    assert gradient_snr(model, guide, data, num_gradients=5).guide is not None
    found = restarts([model, model], None, data, guides=[guide, guide], num_samples=20)
    assert found["log p(x)"].distance == (0.0, 0.0)
