"""Training by two processes of torchrun: the losses and the weights are those of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from experiments.cli import main as zoo_command
from guides import Guide
from zoo import fit
from zoo.context import factory
from zoo.data import Dataset
from zoo.files import read_tensors
from zoo.images import Images
from zoo.launch import rank
from zoo.model import Model, rows
from zoo.models.bayesian_ppca import BayesianPPCA
from zoo.models.m2 import M2
from zoo.models.sbn import SBN
from zoo.models.vae import VAE
from zoo.objectives.bounds import elbo
from zoo.objectives.mcmc import mcmc

# The pairs ------------------------------------------------------------------------------------


def bits(count: int = 25) -> Dataset:
    x = torch.rand(count, 6, generator=torch.Generator().manual_seed(0)) < 0.4
    return Dataset(x.double())


def pair(data: Any, kind: Any = None, words: tuple[str, ...] = (), **options: Any) -> Any:
    torch.manual_seed(rank())  # the weights of the first process count
    vae: dict[str, Any] = {"latent_dim": 2, "hidden": (8,), "likelihood": "bernoulli"}
    model = kind(data) if kind else VAE(6, **vae)
    model.double()
    return model, Guide(model, data, *words, **options), data


def labelled() -> Dataset:
    return bits().labelled(torch.arange(7), torch.arange(7) % 3)


def m2(data: Dataset) -> M2:
    return M2(6, 3, latent_dim=2, hidden=(8,), likelihood="bernoulli")


def binary(data: Dataset) -> SBN:
    return SBN(6, latent_dims=(3, 2), likelihood="bernoulli")


def images() -> Images:
    x = torch.rand(25, 2, 3, generator=torch.Generator().manual_seed(1)).double()
    return Images(x, binarization="dynamic")


TABLE = ("mean_field", "per_datapoint")
AVERAGED = {"ema": 0.9, "clip": 0.05}
SCORE = {"estimator": "score", "estimator_options": {"baseline": "mean"}}
IWAE = {"objective": "iwae", "objective_options": {"num_particles": 5}}
OUTER = {"objective": "iwae", "objective_options": {"num_outer": 2, "num_particles": 3}}
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "elbo": (lambda: pair(bits()), AVERAGED),
    "iwae": (lambda: pair(bits(), None, ("full_rank",)), IWAE),
    "table": (lambda: pair(bits(21), None, TABLE), AVERAGED),  # a last step of one row
    "table of labels": (
        lambda: pair(labelled(), m2, TABLE, estimator="enumerate"),
        {"optimizer": "sgd"},
    ),
    "globals": (lambda: pair(bits(), lambda d: BayesianPPCA(6, latent_dim=2)), OUTER),
    "running mean": (lambda: pair(labelled(), m2, **SCORE), {}),
    "images": (lambda: pair(images()), {"accumulate": 2}),
    "inner steps": (lambda: pair(bits(), None, ("mean_field", "semi_amortized")), {}),
    "chains": (
        lambda: pair(bits(), None, ("hamiltonian",), family_options={"metropolis": True}),
        {"objective": mcmc},
    ),
    "stock": (lambda: pair(bits()), {"objective": "trace_elbo"}),
    "whole": (lambda: pair(bits()), {"batch_size": 25}),
    "dreg": (lambda: pair(bits(), estimator="dreg"), IWAE),
    "asleep": (lambda: pair(bits()), {"objective": "rws", "objective_options": {"phi": "both"}}),
    "vimco": (lambda: pair(bits(), binary, estimator="vimco"), IWAE),
    "captured table": (lambda: pair(bits(), None, TABLE), {"run": "traced", **AVERAGED}),
}
COMPILED = {"compiled": (CASES["captured table"][0], {"run": "compiled", **AVERAGED})}


def fitted(name: str, **more: Any) -> dict[str, Tensor]:
    """The losses of a case, the weights, and what is recorded of them."""
    make, options = (CASES | COMPILED)[name]
    with factory(torch.device("cpu"), torch.float64):
        model, guide, data = make()
        own = {"steps": 8, "batch_size": 10, "log_every": 1, "lr": 0.05, "progress": False}
        result = fit(model, guide, data, **{**own, **options, **more})
        assert result.run["way"] == options.get("run", "eager"), result.run
        losses = torch.tensor([row["loss"] for row in result.metrics])
    assert result.iterates is not None
    found = {"losses": losses, "iterates": result.iterates.values}
    for side, part in (("model", model), ("guide", guide)):
        found |= {f"{side}.{name}": value for name, value in part.state_dict().items()}
    return found


def same(mine: dict[str, Tensor], other: dict[str, Tensor], close: float = 1e-9) -> None:
    assert mine.keys() == other.keys()
    for key, value in mine.items():
        torch.testing.assert_close(value, other[key], rtol=close, atol=close, msg=key)


# What the two processes do --------------------------------------------------------------------


class Rows(nn.Module):
    """A guide of its own, with a table."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Embedding(25, 2, sparse=True)

    def forward(self, batch: Any) -> None:
        with rows(batch, "data"):
            pyro.sample("z", dist.Normal(self.loc(batch.index), 1.0).to_event(1))


class Drops(nn.Module):
    def __init__(self, other: Guide):
        super().__init__()
        self.other = other

    def forward(self, batch: Any) -> Any:
        nn.functional.dropout(batch["x"])
        return self.other(batch)


class Gammas(Model):
    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self, n: int) -> Any:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Gamma(2.0, 1.0))
            return pyro.sample("x", dist.Normal(z + self.loc, 1.0))


def gammas(batch: Any) -> None:
    with rows(batch, "data"):
        pyro.sample("z", dist.Gamma(batch["x"].exp(), 1.0))


def refused() -> dict[str, str]:
    """What is said of fits that several processes cannot make."""
    model, guide, data = pair(bits())
    reals = Dataset(torch.zeros(8))

    def infinite(*arguments: Any) -> Tensor:
        return elbo(*arguments) / (rank() == 0)

    def overflowing(model: Any, guide: Any, batch: Any) -> Tensor:
        return elbo(model, guide, batch) * (float("nan") if 3 in batch.index else 1.0)

    told = {}
    for name, arguments in {
        "dropout": (model, Drops(guide), data),
        "gamma": (Gammas(), gammas, reals, "trace_elbo"),
        "nan": (model, guide, data, overflowing),
        "rank": (model, guide, data, infinite),
        "em": (*pair(bits(), lambda d: BayesianPPCA(6, latent_dim=2)), "em"),
    }.items():
        try:
            fit(*arguments, steps=3, batch_size=8, progress=False)
        except (ValueError, RuntimeError) as error:
            told[name] = f"{type(error).__name__}: {error}"
    return told


def looked(out: Path) -> dict[str, Any]:
    """A fit with held-out rows and a callback, which is stopped by a signal to one process."""
    calls, shapes, steps = [], [], []

    def objective(model: Any, guide: Any, batch: Any) -> Tensor:
        steps.append(len(steps))
        if rank() == 1 and len(steps) == 24:
            signal.raise_signal(signal.SIGTERM)
        return elbo(model, guide, batch)

    def called(result: Any) -> None:
        calls.append(rank())
        shapes.append(list(result.guide.loc.weight.shape))

    with factory(torch.device("cpu"), torch.float64):
        model, guide, data = pair(bits())[0], Rows().double(), bits()
        watched = {"held_out": data, "eval_every": 10, "log_every": 10, "callbacks": [called]}
        result = fit(model, guide, data, objective, steps=100, batch_size=10, out=out, **watched)
    found = {"calls": calls, "shapes": shapes, "steps": result.steps}
    return found | {
        "whole": list(guide.loc.weight.shape),
        "interrupted": result.interrupted,
        "looks": [row["step"] for row in result.metrics if "held_out" in row],
    }


COMMAND = "fit vae --data wine --model.likelihood gaussian --steps 12 --batch-size 50 --log-every 4"
COMMAND += " --eval-particles 2 --eval-rows 10 --inference per_datapoint --infer-steps 2 --out"


def work(out: Path) -> None:
    """All that one process of torchrun does for this file."""
    if (out / "compiled").exists():
        found = fitted("compiled")
        torch.save(found, out / f"compiled{rank()}.pt")
        return
    for name in CASES:
        found = fitted(name)
        torch.save(found, out / f"{name}{rank()}.pt")
    fitted("table", steps=4, out=out / "begun by two")
    torch.save(fitted("table", out=out / "begun by one", resume=True), out / f"resumed{rank()}.pt")
    said: dict[str, Any] = {"refused": refused(), "looked": looked(out / "looked")}
    try:
        fitted("elbo", out=out / "looked")
    except ValueError as error:
        said["taken"] = str(error)
    try:
        said["code"] = zoo_command([*COMMAND.split(), str(out / "command")])
    except SystemExit as ended:
        said["code"] = ended.code
    (out / f"said{rank()}.json").write_text(json.dumps(said))


# The tests ------------------------------------------------------------------------------------


def torchrun(out: Path) -> Path:
    flags = ["--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, "-m", "torch.distributed.run", *flags, __file__, str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr[-6000:]
    (out / "printed").write_text(done.stdout)
    return out


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the two processes have left what they found."""
    out = tmp_path_factory.mktemp("two")
    fitted("table", steps=4, out=out / "begun by one")
    return torchrun(out)


def told(out: Path) -> list[dict[str, Any]]:
    return [json.loads((out / f"said{r}.json").read_text()) for r in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_as_one_process(two: Path, name: str) -> None:
    one = fitted(name)
    for r in range(2):
        same(torch.load(two / f"{name}{r}.pt"), one)


def test_resumed_by_another_number_of_processes(two: Path) -> None:
    whole = fitted("table")
    same(fitted("table", out=two / "begun by two", resume=True), whole)
    same(torch.load(two / "resumed1.pt"), whole)
    state, _ = read_tensors(two / "begun by one" / "state.safetensors")
    assert state["guide.source.table.weight"].shape == (21, 4)
    assert state["optimizer.1.0.exp_avg"].shape == (21, 4)


def test_what_cannot_be_divided_is_refused(two: Path) -> None:
    for said in told(two):
        refused = said["refused"]
        assert "outside of any sample site" in refused["dropout"]
        assert "site 'z' cannot be drawn by several processes" in refused["gamma"]
        assert "em takes an exact step" in refused["em"]
        assert refused["nan"].startswith("NonFiniteLossError: the loss is nan at step")
        assert refused["rank"].startswith("NonFiniteLossError: the loss is")
        assert "holds a run" in said["taken"]


def test_looks_callbacks_and_a_signal_to_one_process(two: Path) -> None:
    first, second = (said["looked"] for said in told(two))
    assert (
        first["steps"] == second["steps"] == 30 and first["interrupted"] and second["interrupted"]
    )
    assert first["looks"] == second["looks"] == [10, 20, 30]
    assert first["calls"] == [0] * 6 and second["calls"] == []
    assert first["shapes"][0] == [14, 2]  # 13 of 25 rows, and one that stands for the others
    assert first["whole"] == second["whole"] == [25, 2]


def test_the_command(two: Path, tmp_path: Path) -> None:
    assert [said["code"] for said in told(two)] == [0, 0]
    assert (two / "printed").read_text().count("The run is in") == 1
    assert zoo_command([*COMMAND.split(), str(tmp_path / "command")]) == 0
    files = [place / "command" / "weights.safetensors" for place in (two, tmp_path)]
    same(*(read_tensors(file)[0] for file in files), close=1e-4)  # float32
    names = [sorted(p.name for p in file.parent.iterdir()) for file in files]
    assert names[0] == names[1]


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("ZOO_TEST_ALL"), reason="compiles; ZOO_TEST_ALL=1")
def test_compiled(tmp_path: Path) -> None:
    (tmp_path / "compiled").touch()
    torchrun(tmp_path)
    same(torch.load(tmp_path / "compiled1.pt"), fitted("captured table"))


@pytest.mark.cuda
@pytest.mark.parametrize("run", ["eager", "graph"])
def test_nccl(monkeypatch: pytest.MonkeyPatch, run: str) -> None:
    """One process of torchrun on CUDA: the group is set up, used and destroyed."""
    found = []
    names = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost"}
    for joined in (False, True):
        model, guide, data = pair(bits())
        if joined:
            names |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_PORT": 29_611 + (run == "graph")}
            for name, value in names.items():
                monkeypatch.setenv(name, str(value))
        options: dict[str, Any] = {"device": "cuda", "run": run, "progress": False}
        result = fit(model, guide, data, steps=20, batch_size=10, log_every=1, **options)
        found.append(torch.tensor([row["loss"] for row in result.metrics]))
        assert not torch.distributed.is_initialized()
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)


if __name__ == "__main__":
    work(Path(sys.argv[1]))
