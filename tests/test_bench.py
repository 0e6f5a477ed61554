"""The rivals of `zoo bench` do the same mathematics; the command says what it needs."""

import inspect
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from rich.console import Console

import experiments.bench
from benchmarks import step_cases, step_ours, step_pyro, step_torch
from benchmarks.step_cases import CASES, FOLDS, Case, make
from benchmarks.step_contenders import CONTENDERS
from benchmarks.step_memory import peaks
from benchmarks.step_table import show
from benchmarks.step_time import measure
from experiments.cli import main
from guides.monotone import above_minus_one


def three_losses(case: Case) -> list[float]:
    """Ours, by hand and stock Pyro's, from one seed: the losses that are stepped on."""
    index = torch.from_numpy(case.order[0])
    model, guide, data, objective = step_ours.pair(case)
    by_hand, programs = step_torch.ByHand(case), step_pyro.Programs(case)
    found = []
    with pyro.get_param_store().scope():
        rows = case.rows if case.particles == 1 else case.batch  # RenyiELBO's plate
        for loss in (
            lambda: objective(model, guide, data.batch(index)).item(),
            lambda: by_hand.loss(index).item(),
            lambda: programs.elbo.loss(programs.model, programs.guide, index) / rows,
        ):
            torch.manual_seed(1)
            found.append(loss())
    return found


@pytest.mark.parametrize("name", CASES)
def test_one_seed_gives_one_loss(name: str) -> None:
    ours, by_hand, stock = three_losses(make(name, 1))
    assert stock == pytest.approx(by_hand, rel=3e-6)
    if name != "planar":  # whose û is another function of its parameters, see below
        assert ours == pytest.approx(by_hand, rel=3e-6)


def test_planar_layers_are_the_same_map_of_other_parameters() -> None:
    case = make("planar", 1)
    last = max(key for key in case.start if key.startswith("encoder"))[: -len(".weight")]
    start = {**case.start, f"{last}.weight": np.zeros_like(case.start[f"{last}.weight"])}
    ours = three_losses(replace(case, start=start))[0]  # every row has the κ of the bias
    kappa = torch.from_numpy(start[f"{last}.bias"].copy()).double()
    for part in kappa[2 * case.latent :].chunk(FOLDS):  # u such that the paper's û is ours
        w, u = part[: case.latent], part[case.latent : 2 * case.latent]
        slope, ratio = above_minus_one((w * u).sum())
        inner = torch.log(torch.expm1(1 + slope))  # softplus(inner) - 1 is w·û
        u.copy_(u * ratio + (inner - slope) * w / w.square().sum())
    start = {**start, f"{last}.bias": kappa.float().numpy()}
    by_hand, stock = three_losses(replace(case, start=start))[1:]
    assert by_hand == pytest.approx(ours, rel=3e-6) and stock == pytest.approx(ours, rel=3e-6)


@pytest.mark.parametrize("name", CASES)
def test_steps_lead_to_the_same_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make(name, 2)
    hand, other = step_torch.ByHand(case), step_torch.ByHand(case)
    loop = step_ours.loop_of(case, "eager", 2)
    monkeypatch.setattr(step_torch, "ByHand", lambda case: hand)
    monkeypatch.setattr(step_pyro, "ByHand", lambda case: other)
    monkeypatch.setattr(step_ours, "loop_of", lambda *_: loop)
    for call in (
        step_torch.by_hand(case),
        step_pyro.stock(case, validate=True),
        step_ours.ours(case, "eager", 2),
    ):
        torch.manual_seed(2)
        call()
    found = hand.decoder.state_dict()
    model: Any = loop.result.model
    for side, weights in {
        "ours": (model.decoder if case.model == "vae" else model).state_dict(),
        "stock": other.decoder.state_dict(),
    }.items():
        for key, value in found.items() if (name, side) != ("planar", "ours") else ():
            start = torch.from_numpy(case.start[f"decoder.{key}"])
            assert (value - start).abs().max() == pytest.approx(2e-3, rel=0.2)  # two of lr = 0.001
            # Of the mean: Adam divides by the gradient's size, and where that is rounding error
            # single weights may differ by a step.
            assert (weights[key] - value).abs().mean() < 1e-6


@pytest.fixture
def rivals() -> Iterator[Any]:
    """NumPyro's side, compiled in a hurry."""
    pytest.importorskip("numpyro")
    from benchmarks import step_numpyro

    before = step_numpyro.jax.config.read("jax_disable_most_optimizations")
    step_numpyro.jax.config.update("jax_disable_most_optimizations", True)
    yield step_numpyro
    step_numpyro.jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize("name", ["gmm", "planar", "table", "iwae"])
def test_numpyro_has_the_loss_and_takes_the_step(
    name: str, rivals: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (step_cases, step_torch, rivals):
        monkeypatch.setattr(module, "FOLDS", 2)
    case, jax, jnp = make(name, 1), rivals.jax, rivals.jnp
    noise = np.random.RandomState(0).standard_normal((case.batch, case.latent)).astype(np.float32)
    # One array for every draw of every particle, of both libraries.
    monkeypatch.setattr(jax.random, "normal", lambda *_, **__: jnp.asarray(noise))
    monkeypatch.setattr(
        torch, "randn", lambda *shape, device: torch.from_numpy(noise).expand(shape)
    )
    index, svi = case.order[0], rivals.svi_of(case)
    x = jnp.asarray(case.data[index])
    state = jax.jit(svi.init)(jax.random.PRNGKey(0), x, index)
    state, loss = jax.jit(svi.update)(state, x, index)
    module = step_torch.ByHand(case)
    assert float(loss) / case.rows == pytest.approx(
        module.loss(torch.from_numpy(index)).item(), rel=3e-6
    )
    monkeypatch.setattr(step_torch, "ByHand", lambda case: module)
    step_torch.by_hand(case)()
    found = {key: np.asarray(value) for key, value in svi.get_params(state).items()}
    for key, value in module.decoder.state_dict().items():
        theirs = found[f"decoder.{key}"]
        assert np.abs(theirs - value.numpy()).mean() < 1e-6


def test_rows_of_figures_and_honest_failures(
    rivals: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    who = ["torch", "ours_graph", "numpyro_scan"]
    rows = measure(["gmm"], who, rounds=3, steps=2, memory=False)
    assert [(row["case"], row["contender"]) for row in rows] == [("gmm", name) for name in who]
    torch_row, graph, scan = rows
    low, high = torch_row["ms_spread"]
    assert 0 < torch_row["ms_min"] <= low <= torch_row["ms_median"] <= high
    assert scan["ratio_to_numpyro_scan"] == 1 and scan["ratio_spread"] == [1, 1]
    assert torch_row["ratio_to_numpyro_scan"] > 0 and torch_row["threads"] == 1
    assert graph["ms_median"] is None and "CUDA" in graph["failed"]
    show(rows, Console(width=160))
    shown = capsys.readouterr().out
    assert "gmm, ours_graph: ValueError" in shown and "numpyro_scan" in shown


def test_memory_is_that_of_a_process_of_its_own() -> None:
    found = peaks([("small_vae", "torch"), ("small_vae", "nonesuch")], steps=2)
    assert list(found) == [("small_vae", "torch")]
    assert 20 < found["small_vae", "torch"] < 4000  # MiB


def test_the_command_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "steps.json"
    line = "bench --cases small-vae --contenders torch,pyro --rounds 1 --steps 1 --memory false"
    assert main([*line.split(), "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    assert [row["contender"] for row in rows] == ["torch", "pyro"]
    assert {"ms_median", "ms_min", "ms_spread", "ratio_to_numpyro_scan", "ratio_spread"} <= set(
        rows[0]
    ) and rows[0]["peak_mib"] is None
    assert "VAE 8-16-2, batch 150" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bench wine", "expected `zoo bench [options]`"),
        (
            "bench --cases wine --contenders torch",
            "there is no case 'wine'; there are small_vae, ppca",
        ),
        ("bench --contenders jax", "there is no contender 'jax'; there are ours_eager"),
        ("bench --contenders torch --rounds 0", "rounds and steps count from 1"),
        ("bench --json nowhere/steps.json", "cannot be written to nowhere/steps.json"),
    ],
)
def test_errors_of_use(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err


def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiments.bench, "find_spec", lambda name: None)
    assert main(["bench"]) == 2
    assert "pip install 'latent-zoo[bench]'" in capsys.readouterr().err

    def no_folder(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(experiments.bench, "import_module", no_folder)
    assert main(["bench"]) == 2
    assert "benchmarks/ of the source tree" in capsys.readouterr().err


def test_help_names_every_word() -> None:
    text = inspect.getdoc(experiments.bench.bench) or ""
    assert all(word in text for word in (*CASES, *CONTENDERS))


@pytest.mark.cuda
def test_on_cuda() -> None:
    who = ["torch", "pyro", "ours_eager"]
    rows = measure(["small_vae", "gmm"], who, rounds=1, steps=2, device="cuda")
    assert all(row["failed"] is None and row["peak_mib"] > 0 for row in rows)
