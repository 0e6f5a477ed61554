"""A run on disk: whole at every moment, resumed to the last bit, read without running anything."""

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from guides import Guide
from zoo import Dataset, Model, files, fit, load, store
from zoo.models.ppca import PPCA
from zoo.store import RunError

FIT = {"progress": False, "device": "cpu", "log_every": 10, "run": "eager"}
FILES = {"run.json", "weights.safetensors", "state.safetensors", "metrics.jsonl"}


def rows(count: int = 30, dim: int = 3, seed: int = 0) -> Dataset:
    return Dataset(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


def pair(data: Dataset, family: str = "mean_field", inference: str = "amortized", **options: Any):
    torch.manual_seed(1)
    model = PPCA(data_dim=data.event_shape("x")[0], latent_dim=1)
    return model, Guide(model, data, family, inference, **options)


def weights(*parts: nn.Module) -> list[Tensor]:
    return [value.clone() for part in parts for value in part.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    data = rows()
    fit(*pair(data), data, steps=10, out=tmp_path / "run", **FIT)
    return tmp_path / "run"


def interrupt(result: Any) -> None:
    if result.steps == 20:
        os.kill(os.getpid(), signal.SIGINT)


CASES = {
    "minibatches of a table": (
        {"family": "full_rank", "inference": "per_datapoint"},
        {"batch_size": 8},
    ),
    "a schedule and a clip": (
        {},
        {"batch_size": 8, "schedule": "cosine", "clip": 1.0, "optimizer": "adamw"},
    ),
    "held-out rows": (
        {},
        {"batch_size": 8, "held_out": rows(10, seed=3), "eval_every": 7},
    ),
    "semi-amortized steps": (
        {"inference": "semi_amortized", "inference_options": {"steps": 2}},
        {"objective": "iwae", "objective_options": {"num_particles": 3}},
    ),
    "sgd, which has no state": (
        {"inference": "per_datapoint"},
        {"optimizer": "sgd", "batch_size": 7},
    ),
    "Pyro's own ELBO": ({}, {"objective": "trace_elbo", "batch_size": 8}),
    "a log window that is not full": ({}, {"log_every": 40}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_fit_ends_with_the_bits_of_one_that_was_not(
    case: str, tmp_path: Path
) -> None:
    pair_options, options = CASES[case]
    options = {**FIT, "steps": 45, "objective": "elbo", **options}
    data = rows()
    whole = pair(data, **pair_options)
    straight = fit(*whole, data, out=tmp_path / "a", **options)
    halves = pair(data, **pair_options)
    stop = options["log_every"] // 2 if options["log_every"] == 40 else None
    if stop is None:
        result = fit(*halves, data, out=tmp_path / "b", callbacks=[interrupt], **options)
        assert result.interrupted and result.steps == 20
    else:  # no row of metrics by then: the losses in between are in the checkpoint
        fit(*halves, data, out=tmp_path / "b", **{**options, "steps": stop})
    again = pair(data, **pair_options)
    resumed = fit(*again, data, out=tmp_path / "b", resume=True, **options)
    assert same(weights(*whole), weights(*again))
    assert resumed.steps == straight.steps == 45 and resumed.best_step == straight.best_step
    a, b = load(tmp_path / "a"), load(tmp_path / "b")
    assert same(weights(a.model, a.guide), weights(b.model, b.guide))
    trace = [[{**row, "seconds": 0} for row in r.metrics] for r in (a, b)]
    if stop is None:
        assert [row["step"] for row in trace[1]] == [row["step"] for row in trace[0]]
        for one, other in zip(*trace, strict=True):
            assert one == pytest.approx(other)


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_store import pair, rows
from zoo import fit
data = rows()
resume = sys.argv[2] == "resume"
print("ready", flush=True)
fit(*pair(data), data, steps=int(sys.argv[3]), batch_size=8, out=sys.argv[1], resume=resume,
    progress=False, device="cpu", run="eager", log_every=10, checkpoint_every=0.0)
"""


def start(out: Path, how: str, steps: int) -> subprocess.Popen:
    code = SCRIPT.format(tests=str(Path(__file__).parent))
    return subprocess.Popen(
        [sys.executable, "-c", code, str(out), how, str(steps)], stdout=subprocess.PIPE, text=True
    )


def test_a_kill_at_any_moment_leaves_the_last_whole_state(tmp_path: Path) -> None:
    """Checkpoints are written at every step, so that the kills fall into the writing."""
    out, steps = tmp_path / "run", 10_000
    how = "new"
    for pause in (0.13, 0.37):
        process = start(out, how, steps)
        before = load(out).spec and read_steps(out) if how == "resume" else 0
        deadline = time.monotonic() + 60
        while not (out / store.STATE).exists() or read_steps(out) <= before + 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(pause)
        process.kill()
        process.communicate()
        found = load(out)
        assert all(bool(torch.isfinite(w).all()) for w in weights(found.model, found.guide))
        how = "resume"
    taken = read_steps(out)
    assert 0 < taken < steps
    data = rows()
    resumed, straight = pair(data), pair(data)
    options = {**FIT, "steps": taken + 25, "batch_size": 8}
    fit(*resumed, data, out=out, resume=True, **options)
    fit(*straight, data, **options)
    assert same(weights(*resumed), weights(*straight))
    left = {path.name for path in out.iterdir()} - FILES
    assert all(name.startswith(".") for name in left)  # at most a file that was being written


def read_steps(out: Path) -> int:
    return files.read_tensors(out / store.STATE)[1]["steps"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}

    def full(tensors: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        files.write_tensors(run / store.WEIGHTS, {"a": torch.zeros(2)}, {"format": 1})
    with pytest.raises(TypeError):
        files.write_json(run / "run.json", {"a": object()})
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


class TestLoad:
    def test_a_run_is_a_model_a_guide_and_their_story(self, tmp_path: Path) -> None:
        data = rows()
        model, guide = pair(data, "low_rank", "per_datapoint", family_options={"rank": 1})
        fit(model, guide, data, steps=10, out=tmp_path, **FIT)
        assert {path.name for path in tmp_path.iterdir()} == FILES
        found = load(tmp_path)
        assert same(weights(model, guide), weights(found.model, found.guide))
        assert isinstance(found.model, PPCA) and found.model.options == model.options
        assert found.guide.family.rank == 1 and found.summary == {}
        assert [row["step"] for row in found.metrics] == [10]
        batch = data.batch(torch.tensor([3, 1]))  # the table knows the rows that it was made for
        assert torch.equal(found.guide.distribution(batch).mean, guide.distribution(batch).mean)
        spec = json.loads((tmp_path / "run.json").read_text())
        assert spec["format"] == 1 and spec["objective"] == "elbo"
        assert {"python", "torch", "pyro-ppl"} <= spec["versions"].keys()

    def test_in_a_fresh_process(self, run: Path) -> None:
        code = f"""
            import zoo
            run = zoo.load({str(run)!r})
            print(run.model.mean.sum().item(), type(run.guide.source).__name__)
        """
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        value, source = done.stdout.split()
        assert float(value) == pytest.approx(load(run).model.mean.sum().item())
        assert source == "Amortized"

    def test_a_double_precision_run(self, tmp_path: Path) -> None:
        data = rows().to(dtype=torch.float64)
        model = PPCA(data_dim=3, latent_dim=1).double()
        fit(model, Guide(model, data), data, steps=2, out=tmp_path, **FIT)
        found = load(tmp_path)
        assert found.model.dtype == torch.float64
        assert torch.equal(found.model.weight, model.weight)

    def test_a_model_of_yours_has_to_be_given(self, tmp_path: Path) -> None:
        class Mine(Model):
            def __init__(self) -> None:
                super().__init__()
                self.loc = nn.Parameter(torch.zeros(3))

            def forward(self, n: int) -> None:
                with pyro.plate("data", n, dim=-1):
                    pyro.sample("x", dist.Normal(self.loc, 1.0).to_event(1))

        data, model = rows(), Mine()
        fit(model, None, data, "mle", steps=5, out=tmp_path, **FIT)
        with pytest.raises(RunError, match="run of .*Mine, which is not one of the zoo's models"):
            load(tmp_path)
        found = load(tmp_path, model=Mine())
        assert torch.equal(found.model.loc, model.loc) and found.guide is None

    def test_a_guide_of_yours_has_to_be_given(self, tmp_path: Path) -> None:
        class Point(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.loc = nn.Parameter(torch.zeros(1))

            def forward(self, batch: Any) -> None:
                with pyro.plate("data", len(batch), dim=-1):
                    pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))

        data, guide = rows(), Point()
        model, _ = pair(data)
        fit(model, guide, data, steps=5, out=tmp_path, **FIT)
        with pytest.raises(RunError, match="a guide of its own, .*Point; give an untrained one"):
            load(tmp_path)
        assert torch.equal(load(tmp_path, guide=Point()).guide.loc, guide.loc)


class TestWhatIsNotARun:
    def test_no_folder_an_empty_one_and_a_foreign_one(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="does not exist"):
            load(tmp_path / "none")
        with pytest.raises(RunError, match=r"is no run \(it has no run.json\)"):
            load(tmp_path)
        (tmp_path / "run.json").write_text('{"name": "another tool"}')
        with pytest.raises(RunError, match="is not a run of the zoo"):
            load(tmp_path)
        (tmp_path / "run.json").write_text("[1, 2]")
        with pytest.raises(RunError, match="is not a run of the zoo"):
            load(tmp_path)

    def test_a_newer_format(self, run: Path) -> None:
        spec = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**spec, "format": 2}))
        with pytest.raises(RunError, match="is of format 2, this version reads up to 1; upgrade"):
            load(run)

    def test_newer_tensors(self, run: Path) -> None:
        file = run / store.WEIGHTS
        save_file(load_file(file), file, metadata={"zoo": json.dumps({"format": 2})})
        with pytest.raises(RunError, match="not written by this version"):
            load(run)

    def test_tensors_of_another_tool(self, run: Path) -> None:
        file = run / store.WEIGHTS
        save_file({"a": torch.zeros(1)}, file)
        with pytest.raises(RunError, match="not written by this version"):
            load(run)

    @pytest.mark.parametrize("name", ["run.json", "weights.safetensors"])
    @pytest.mark.parametrize("part", [0.0, 0.3, 0.97])
    def test_truncated_files(self, run: Path, name: str, part: float) -> None:
        file = run / name
        whole = file.read_bytes()
        file.write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(RunError, match=name):
            load(run)

    def test_a_truncated_state_does_not_resume_and_names_the_file(self, run: Path) -> None:
        file = run / store.STATE
        file.write_bytes(file.read_bytes()[:-7])
        data = rows()
        with pytest.raises(RunError, match="state.safetensors is damaged"):
            fit(*pair(data), data, steps=20, out=run, resume=True, **FIT)
        load(run)  # the weights are whole

    def test_a_missing_file(self, run: Path) -> None:
        (run / store.WEIGHTS).unlink()
        with pytest.raises(RunError, match="ended before its first checkpoint"):
            load(run)

    def test_a_damaged_header(self, run: Path) -> None:
        file = run / store.WEIGHTS
        content = bytearray(file.read_bytes())
        content[8:40] = os.urandom(16) + bytes(16)
        file.write_bytes(bytes(content))
        with pytest.raises(RunError, match="weights.safetensors"):
            load(run)

    def test_weights_of_another_model(self, run: Path, tmp_path: Path) -> None:
        data = rows(dim=4)
        fit(*pair(data), data, steps=1, out=tmp_path / "other", **FIT)
        (tmp_path / "other" / store.WEIGHTS).replace(run / store.WEIGHTS)
        with pytest.raises(RunError, match="the model's weights .* do not fit"):
            load(run)

    def test_binary_where_json_should_be(self, run: Path) -> None:
        (run / "run.json").write_bytes(b"\x80\x04\x95\xff")
        with pytest.raises(RunError, match="run.json cannot be read"):
            load(run)

    def test_a_last_line_of_metrics_cut_short_is_left_out(self, run: Path) -> None:
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 20, "lo')
        assert [row["step"] for row in load(run).metrics] == [10]


class TestNothingIsExecuted:
    def test_a_pickle_in_the_place_of_weights(self, run: Path, tmp_path: Path) -> None:
        (run / store.WEIGHTS).write_bytes(pickle.dumps(Trap(str(tmp_path / "trapped"))))
        with pytest.raises(RunError, match="damaged or no safetensors file"):
            load(run)
        assert not (tmp_path / "trapped").exists()

    def test_a_word_that_is_a_path_is_not_imported(self, run: Path, tmp_path: Path) -> None:
        evil = tmp_path / "evil.py"
        evil.write_text(f"import os\n\nos.mkdir({str(tmp_path / 'trapped')!r})\n")
        spec = json.loads((run / "run.json").read_text())
        spec["model"]["word"] = str(evil)
        (run / "run.json").write_text(json.dumps(spec))
        with pytest.raises(ValueError):
            load(run)
        assert not (tmp_path / "trapped").exists()

    @pytest.mark.parametrize("word", ["os", "zoo.store", "../evil", "__init__", "_mixture"])
    def test_other_words_are_not_imported(self, run: Path, word: str) -> None:
        spec = json.loads((run / "run.json").read_text())
        spec["model"]["word"] = word
        (run / "run.json").write_text(json.dumps(spec))
        with pytest.raises(ValueError, match="there is no model"):
            load(run)


class Trap:
    """Unpickling it leaves a file."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


class TestFolders:
    def test_a_folder_with_a_run_is_not_written_over(self, run: Path) -> None:
        before = {path.name: path.read_bytes() for path in run.iterdir()}
        data = rows()
        with pytest.raises(ValueError, match="already holds a run; go on with it by resume"):
            fit(*pair(data), data, steps=1, out=run, **FIT)
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        data = rows()
        with pytest.raises(ValueError, match="is a file; give a folder"):
            fit(*pair(data), data, steps=1, out=tmp_path / "file", **FIT)

    def test_resume_needs_a_run(self, tmp_path: Path) -> None:
        data = rows()
        with pytest.raises(RunError, match="is no run"):
            fit(*pair(data), data, steps=1, out=tmp_path, resume=True, **FIT)

    @pytest.mark.parametrize(
        "change, names",
        [
            ({"seed": 1}, "seed"),
            ({"batch_size": 5}, "batch_size"),
            ({"lr": 0.5}, "lr"),
            ({"optimizer": "sgd"}, "optimizer"),
            ({"objective": "iwae"}, "objective"),
            ({"data": rows(seed=9)}, "fingerprint"),
        ],
    )
    def test_a_resume_of_something_else_is_refused(
        self, run: Path, change: dict[str, Any], names: str
    ) -> None:
        data = rows()
        options = {"data": data, "steps": 20, "out": run, "resume": True, **FIT, **change}
        with pytest.raises(RunError, match=rf"\['{names}'\] of the fit are not those"):
            fit(*pair(data), **options)

    def test_a_resume_of_another_guide_is_refused(self, run: Path) -> None:
        data = rows()
        with pytest.raises(RunError, match="a run of another guide"):
            fit(
                *pair(data, inference_options={"hidden": (5,)}),
                data,
                steps=20,
                out=run,
                resume=True,
                **FIT,
            )

    def test_a_longer_fit_goes_on(self, run: Path) -> None:
        data = rows()
        result = fit(*pair(data), data, steps=30, out=run, resume=True, **FIT)
        assert [row["step"] for row in result.metrics] == [10, 20, 30]
        assert [row["step"] for row in load(run).metrics] == [10, 20, 30]
