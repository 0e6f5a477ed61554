"""Evaluation captured once and drawn piece by piece: the same draws, and so the same figures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from experiments import cli
from guides.guide import Guide
from zoo import piecewise
from zoo.chunks import Largest, plan
from zoo.data import Batch, Dataset
from zoo.evaluation import evaluate
from zoo.functions import plain
from zoo.importance import importance_ladder
from zoo.ladder import Ladder
from zoo.model import Model, rows
from zoo.models.vae import VAE
from zoo.piecewise import Piecewise, choose_by_work
from zoo.registry import resolve

OPTIONS: dict[str, Any] = {"num_particles": 50, "levels": [5], "num_outer": 3}


def pair(word: str, inference: str, count: int = 7) -> tuple[Any, Any, Dataset]:
    """A model, an untrained guide and so many rows, in float64."""
    model, data = resolve("models", word).example()
    model, data = model.double(), data.to(dtype=torch.float64).subset(range(count))
    return model, Guide(model, data, inference=inference), data


@pytest.fixture
def every_shape(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, bool]]:
    """All pieces are captured; their rows, their particles and whether g was given to them."""
    found: list[tuple[int, int, bool]] = []
    capture = Piecewise._capture

    def captured(self: Piecewise, batch: Batch, size: int, held: Any) -> Any:
        found.append((len(batch), size, bool(held)))
        return capture(self, batch, size, held)

    monkeypatch.setattr(piecewise, "SHARE", 0.0)
    monkeypatch.setattr(Piecewise, "_capture", captured)
    return found


def same(one: Ladder, other: Ladder, close: float = 1e-10) -> None:
    for a, b in zip(one.bounds + one.gaps, other.bounds + other.gaps, strict=True):
        torch.testing.assert_close(a.rows, b.rows, rtol=close, atol=close)
        torch.testing.assert_close(a.error, b.error, rtol=close, atol=close)
        assert a.shared == pytest.approx(b.shared, rel=close, abs=close)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("word", "inference", "size", "shapes"),
    [
        ("vae", "amortized", 700, {(1, 17, False), (1, 16, False)}),
        ("vae", "per_datapoint", 2_000, {(5, 50, False), (2, 50, False)}),
        ("gmm", "amortized", 500, {(1, 25, False)}),
        ("m2", "amortized", 5_000, {(1, 50, False)}),
        ("bayesian_ppca", "amortized", 1_000, {(1, 10, False), (1, 10, True)}),
    ],
)
def test_captured_pieces_are_the_eager_ones(
    word: str, inference: str, size: int, shapes: Any, every_shape: list[tuple[int, int, bool]]
) -> None:
    model, guide, data = pair(word, inference)
    found = {
        run: importance_ladder(model, guide, data, run=run, max_elements=size, **OPTIONS)
        for run in ("eager", "traced")
    }
    assert found["traced"].run == {"way": "traced", "why": "asked for"}
    assert found["traced"].as_dict()["run"]["way"] == "traced"
    same(found["traced"], found["eager"])
    assert set(every_shape) == shapes and len(every_shape) == len(shapes)  # once for each


@pytest.mark.usefixtures("float64", "every_shape")
def test_missing_entries_and_the_figures_of_evaluate() -> None:
    model, _, data = pair("ppca", "amortized")
    x = data["x"].clone()
    x[::2, 1] = torch.nan
    data = Dataset(x, missing=True)
    guide = Guide(model, data)
    one, other = (
        evaluate(model, guide, data, num_particles=20, run=run, max_elements=300)
        for run in ("eager", "traced")
    )
    assert one.elbo is not None and one.iwae is not None
    torch.testing.assert_close(one.elbo.rows, other.elbo.rows, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(one.iwae.rows, other.iwae.rows, rtol=1e-10, atol=1e-10)


def small_vae(count: int = 6) -> tuple[Model, Guide, Dataset]:
    data = Dataset((torch.rand(count, 8) < 0.5).to(torch.get_default_dtype()))
    model = VAE(8, 2, hidden=(10,), likelihood="bernoulli")
    return model, Guide(model, data, inference_options={"hidden": (10,)}), data


@pytest.mark.usefixtures("float64", "every_shape")
@pytest.mark.parametrize("num_particles", [100, 700])
def test_memory_does_not_grow_with_the_number_of_draws(num_particles: int) -> None:
    """The largest tensor, the tracing of the piece with it, is as large as asked for."""
    model, guide, data = small_vae(3)
    with Largest() as seen:
        found = importance_ladder(
            model, guide, data, num_particles=num_particles, run="traced", max_elements=800
        )
    assert found.run["way"] == "traced"
    assert 400 < seen.numel <= 800


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_machine_code_draws_what_eager_draws() -> None:
    model, guide, data = small_vae()
    before = torch.get_rng_state()
    found = {
        run: importance_ladder(model, guide, data, run=run, num_particles=200, max_elements=1_000)
        for run in ("compiled", "eager")
    }
    assert found["compiled"].run == {"way": "compiled", "why": "asked for"}
    same(found["compiled"], found["eager"], 1e-8)
    assert torch.equal(torch.get_rng_state(), before)


# What cannot be captured ----------------------------------------------------------------------


class Toy(Model):
    """x | z ~ N(z + twist, 1)."""

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            return pyro.sample("x", dist.Normal(z + self.twist(z), 1.0))

    def twist(self, z: Tensor) -> Any:
        return 0.0


class OnTheHost(Toy):
    def twist(self, z: Tensor) -> Any:
        return 0.0 if z.mean() > 0 else 0.5


class Another(Toy):
    """Is another model where it is traced."""

    def twist(self, z: Tensor) -> Any:
        return 0.0 if get_proxy_mode() is None else 0.5


class Counting(Toy):
    """Every hundredth run is another one."""

    calls = 0

    def twist(self, z: Tensor) -> Any:
        self.calls += 1
        return 0.5 * (self.calls % 100 == 0)


class InVain(Toy):
    """Draws numbers that nobody uses, but not where it is traced."""

    def twist(self, z: Tensor) -> Any:
        return 0.0 * torch.rand(()) if get_proxy_mode() is None else 0.0


def guide_of(batch: Batch) -> None:
    with rows(batch):
        pyro.sample("z", dist.Normal(batch["x"] / 2, 0.8))


@pytest.mark.usefixtures("float64", "every_shape")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (OnTheHost, "read on the host"),
        (Another, "the eager one, on the same random numbers"),
        (Counting, "every run changes 'calls' of Counting"),
        (InVain, "other random numbers"),
    ],
)
def test_what_cannot_be_captured_runs_eager_and_says_why(
    make: Callable[[], Model], words: str
) -> None:
    x = torch.linspace(-1, 1, 4)
    found = {
        run: importance_ladder(make(), guide_of, x, num_particles=30, max_elements=40, run=run)
        for run in ("traced", "eager")
    }
    assert found["traced"].run["way"] == "eager"
    assert found["traced"].run["why"].startswith("traced is not possible: ")
    assert words in found["traced"].run["why"]
    for one, other in zip(found["traced"].bounds, found["eager"].bounds, strict=True):
        assert torch.equal(one.rows, other.rows)


@pytest.mark.usefixtures("float64", "every_shape")
def test_particles_one_by_one_are_not_captured() -> None:
    def function(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]))
            pyro.sample("x", dist.Normal(z.reshape(len(x)), 1.0), obs=x)

    model = plain(function)

    def guide(batch: Batch) -> None:
        with rows(batch, "rows"):
            pyro.sample("z", dist.Normal(0.75, 0.7).expand([len(batch)]))

    found = importance_ladder(model, guide, torch.ones(3), num_particles=4, run="traced")
    assert found.run["way"] == "eager" and "one after the other" in found.run["why"]


class Ticking(Toy):
    """Counts its runs in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ticks", torch.zeros(1))

    def twist(self, z: Tensor) -> Any:
        with torch.no_grad():
            self.ticks += 1  # type: ignore[operator]
        return 0.0


@pytest.mark.usefixtures("float64", "every_shape")
def test_buffers_are_written_as_eager_runs_write_them() -> None:
    ticks = []
    for run in ("eager", "traced"):
        model = Ticking()
        importance_ladder(
            model, guide_of, torch.ones(3), num_particles=30, max_elements=40, run=run
        )
        ticks.append(float(model.ticks))
    assert ticks[0] == ticks[1] > 4


# Which way ------------------------------------------------------------------------------------


def test_auto_looks_at_the_work() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_by_work("auto", cpu, 10**8) == ("eager", "1e+08 numbers")
    assert choose_by_work("auto", cpu, 10**11)[0] == "compiled"
    assert [choose_by_work("auto", cuda, 10**k)[0] for k in (10, 12, 13)] == [
        "eager",
        "compiled",
        "compiled",
    ]
    assert choose_by_work("auto", cuda, 5 * 10**11)[0] == "graph"
    assert choose_by_work("eager", cpu, 10**13) == ("eager", "asked for")


def test_pieces_of_a_rare_shape_run_eager(every_shape: list[tuple[int, int, bool]]) -> None:
    model, guide, data = small_vae()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piecewise, "SHARE", 0.2)
        cut = plan(model, guide, data, 260, 2, 500)
        found = importance_ladder(
            model, guide, data, num_particles=260, max_elements=500, run="traced"
        )
    assert 0 < 260 % cut.particles < 0.2 * 260
    assert found.run["way"] == "traced" and every_shape == [(1, cut.particles, False)]


@pytest.mark.parametrize(
    ("run", "words"), [("graph", "replays CUDA graphs"), ("fast", "run is auto, eager")]
)
def test_mistakes_are_answered_in_words(run: Any, words: str) -> None:
    model, guide, data = small_vae()
    with pytest.raises(ValueError, match=words):
        importance_ladder(model, guide, data, num_particles=10, run=run)


def test_the_command_takes_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(tmp_path / "run")
    words = ["--data", "iris", "--steps", "2", "--eval-particles", "4", "--device", "cpu"]
    assert cli.main(["fit", "ppca", *words, "--infer-steps", "2", "--out", place]) == 0
    small = ["--num-particles", "4", "--num-rows", "4", "--device", "cpu"]
    assert cli.main(["evaluate", place, *small, "--run", "eager"]) == 0
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert found["ladder"]["run"] == {"way": "eager", "why": "asked for"}
    assert cli.main(["evaluate", place, *small, "--run", "graph"]) == 2
    assert "replays CUDA graphs" in capsys.readouterr().err


def test_counting_numbers_takes_no_compiler() -> None:
    """torch wraps a mode in what imports its compiler, for seconds, unless it is told not to."""
    assert not hasattr(Largest.__torch_dispatch__, "__wrapped__")


@pytest.mark.cuda
@pytest.mark.parametrize("run", ["graph", "compiled"])
def test_the_same_draws_on_the_device(run: Any) -> None:
    """Float32: the same draws, so the same figures to rounding; g is given to later pieces."""
    for word in ("vae", "bayesian_ppca"):
        model, data = resolve("models", word).example()
        model, data = model.cuda(), data.to("cuda").subset(range(7))
        guide = Guide(model, data)
        found = {
            way: importance_ladder(model, guide, data, run=way, max_elements=1_000, **OPTIONS)
            for way in (run, "eager")
        }
        assert found[run].run == {"way": run, "why": "asked for"}
        same(found[run], found["eager"], 1e-3)
