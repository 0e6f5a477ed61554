"""Runs spread over processes: same numbers, one that dies alone, a command that goes on."""

import io
import json
import os
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console

from experiments import jobs as _jobs
from experiments.cli import main
from experiments.compare import compare
from experiments.jobs import Ended, Jobs, Task, home, spread
from experiments.output import whole
from experiments.runs import Spec
from experiments.select import select
from experiments.several import several
from experiments.workers import Processes, devices

QUICK: dict[str, Any] = {"steps": 6, "eval_particles": 10, "infer_steps": 8, "device": "cpu"}
SHORT: dict[str, Any] = {"data": "iris", "device": "cpu", "eval_particles": 4, "infer_steps": 5}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Another number of threads rounds otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def quiet() -> Console:
    return Console(width=160, record=True, file=io.StringIO())


def timeless(content: Any) -> Any:
    """Without seconds, in which runs may differ."""
    if isinstance(content, dict):
        return {k: timeless(v) for k, v in content.items() if k != "seconds"}
    return [timeless(v) for v in content] if isinstance(content, list) else content


def files(place: Path) -> dict[str, int]:
    """When every file below a folder was written."""
    return {str(p.relative_to(place)): p.stat().st_mtime_ns for p in place.rglob("*.safetensors")}


# Words


def test_words() -> None:
    assert Jobs.read(1).here and Jobs.read("1").here
    assert not Jobs.read(2).here and not Jobs.read("auto").here
    for word in (0, -1, "two", "pbs:2", "slurm", "slurm:", ":2", 1.5):
        with pytest.raises(ValueError, match="a number from 1, auto, or a cluster"):
            Jobs.read(word)  # type: ignore[arg-type]


def test_a_cluster_needs_its_library_and_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_jobs, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"latent-zoo\[cluster\]"):
        Jobs.read("slurm:8")
    monkeypatch.setattr(_jobs, "find_spec", lambda name: "there")
    assert Jobs.read("slurm:8") == Jobs("slurm", 8)
    with pytest.raises(ValueError, match="give --out"), home(None, Jobs("slurm", 8)):
        pass


def test_without_a_folder_runs_are_removed() -> None:
    with home(None, Jobs(count=2)) as folder:
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("count", "tasks", "expected"), [(None, 9, (4, 2)), (2, 9, (2, 4)), (8, 3, (3, 2))]
)
def test_cores_are_shared_out(
    monkeypatch: pytest.MonkeyPatch, count: int | None, tasks: int, expected: tuple[int, int]
) -> None:
    """Eight cores, four devices: one process a device, and no more processes than tasks."""
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    engine = Processes(count, tasks, "auto")
    assert (engine.count, engine.threads) == expected
    assert [engine.environment(i)["CUDA_VISIBLE_DEVICES"] for i in (0, 3, 5)] == ["0", "3", "1"]
    assert engine.environment(0)["OMP_NUM_THREADS"] == str(expected[1])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,7,GPU-a,5")
    assert devices("cuda") == ["2", "7", "GPU-a", "5"]
    assert devices("cpu") == devices("cuda:1") == []
    there = Processes(None, 99, "cpu")
    assert (there.count, there.threads) == (8, 1)
    assert "CUDA_VISIBLE_DEVICES" not in there.environment(0)


# Tasks


def task(folder: Path, name: str, function: Callable[..., Any], **arguments: Any) -> Task:
    return Task(name, folder / name, function, arguments)


def makers() -> dict[str, Callable[..., Any]]:
    """Functions of a block, which go to a process by value and so import nothing there."""

    def write(folder: Path, text: str) -> None:
        import os

        folder.mkdir()
        threads = os.environ["OMP_NUM_THREADS"]
        apart = os.getsid(0) == os.getpid()
        (folder / "text").write_text(f"{text} {threads} {apart}")

    def fail(folder: Path, text: str) -> None:
        print("on the way")
        raise KeyError(text)

    def die(folder: Path, code: int) -> None:
        import os

        os._exit(code)

    def kill(folder: Path) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    def sleep(folder: Path) -> None:
        import os
        import time

        folder.mkdir()
        (folder / "pid").write_text(str(os.getpid()))
        time.sleep(600)

    return {f.__name__: f for f in (write, fail, die, kill, sleep)}


def test_a_process_that_dies_costs_its_task_alone(tmp_path: Path) -> None:
    make = makers()
    tasks = [
        task(tmp_path, "a", make["write"], text="first"),
        task(tmp_path, "b", make["die"], code=7),
        task(tmp_path, "c", make["fail"], text="of use"),
        task(tmp_path, "d", make["kill"]),
        task(tmp_path, "e", make["write"], text="last"),
    ]
    said: list[Ended] = []
    ended = spread(tasks, Jobs(count=2), "cpu", said.append)
    assert [e.task.name for e in ended] == list("abcde")
    assert sorted(e.task.name for e in said) == list("abcde")
    assert [e.reason for e in ended] == [
        "",
        "its process died: EXIT(7)",
        "KeyError: 'of use'",
        "its process died: SIGKILL(-9), perhaps for want of memory",
        "",
    ]
    assert (tmp_path / "a" / "text").read_text() == "first 1 True"
    assert (tmp_path / "e" / "text").read_text() == "last 1 True"
    log = (tmp_path / "c.log").read_text()
    assert log.startswith("on the way\nTraceback") and "KeyError" in log
    assert not (tmp_path / "a.log").exists()  # nothing was printed


def test_here_an_error_is_raised(tmp_path: Path) -> None:
    make = makers()
    with pytest.raises(KeyError, match="of use"):
        spread([task(tmp_path, "c", make["fail"], text="of use")], Jobs())


def gone(pid: int) -> bool:
    """Whether a process has ended, within half a minute."""
    for _ in range(600):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_an_interruption_ends_the_processes(tmp_path: Path) -> None:
    make = makers()
    tasks = [
        task(tmp_path, "asleep", make["sleep"]),
        task(tmp_path, "done", make["write"], text="kept"),
    ]

    def interrupt(ended: Ended) -> None:
        while not (tmp_path / "asleep" / "pid").exists():
            time.sleep(0.02)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        spread(tasks, Jobs(count=2), "cpu", interrupt)
    assert gone(int((tmp_path / "asleep" / "pid").read_text()))
    assert (tmp_path / "done" / "text").read_text().startswith("kept")


def test_jobs_of_a_cluster(tmp_path: Path) -> None:
    """By submitit's executor on this machine."""
    pytest.importorskip("submitit")
    make = makers()
    tasks = [
        task(tmp_path, "a", make["write"], text="sent"),
        task(tmp_path, "b", make["fail"], text="of use"),
        task(tmp_path, "c", make["die"], code=7),
    ]
    ended = spread(tasks, Jobs.read("local:2"), "cpu")
    assert [e.reason for e in ended][:2] == ["", "KeyError: 'of use'"]
    assert "UncompletedJobError" in ended[2].reason
    assert (tmp_path / "a" / "text").read_text().startswith("sent")


# Runs in folders: here, by the functions that the processes call


CASES: list[tuple[str, dict[str, Any]]] = [
    ("ppca", {"family": "mean_field,planar:2/amortized", "on": "joint", "eval_rows": 20}),
    ("ppca", {"family": "low_rank/per_datapoint,delta/amortized", "on": "fixed", "eval_rows": 20}),
    ("gmm", {"objective": "em,elbo"}),
    ("bayesian_ppca", {"family": "mean_field", "inference": "per_datapoint", "seeds": 2}),
    ("m2", {"family": "delta/amortized", "data_options": {"labels": 30}, "estimator": "score"}),
]


@pytest.mark.parametrize(("model", "options"), CASES)
def test_runs_in_folders_are_those_without(
    model: str,
    options: dict[str, Any],
    tmp_path: Path,
    quiet: Console,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every figure, from what the folders keep."""
    monkeypatch.setattr("experiments.compare.comparison_figure", lambda _: Figure())
    places = tmp_path / "one", tmp_path / "two"
    (places[1] / "compare-runs").mkdir(parents=True)
    for place in places:
        compare(model, "iris", **QUICK, **options, out=str(place), console=quiet)
    one, two = (json.loads((place / "compare.json").read_text()) for place in places)
    assert timeless(one) == timeless(two) and whole(places[1], "compare")
    kept = files(places[1] / "compare-runs")
    assert sum("outcome" in name for name in kept) == len(one["runs"])


def test_pictures_of_runs_in_folders(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What needs the guides themselves; and again, from the folders alone."""
    options = {**QUICK, "family": "exact,mean_field/per_datapoint", "console": quiet}
    one, two = tmp_path / "one", tmp_path / "two"
    (two / "compare-runs").mkdir(parents=True)
    for place in (one, two):
        compare("ppca", "iris", **options, out=str(place))
    assert (one / "compare.png").read_bytes() == (two / "compare.png").read_bytes()
    kept = files(two)
    (two / "compare.json").unlink()  # as if it had been interrupted before its end
    monkeypatch.setattr("experiments.compare.comparison_figure", lambda _: Figure())
    compare("ppca", "iris", **options, out=str(two))
    written = [json.loads((place / "compare.json").read_text()) for place in (one, two)]
    assert timeless(written[0]) == timeless(written[1])
    changed = {name for name, then in files(two).items() if then != kept[name]}
    assert changed <= {"compare-runs/model.safetensors"}  # no run was made again


def test_cards_of_runs_in_folders(tmp_path: Path, quiet: Console) -> None:
    """What needs the path of the fit."""
    (tmp_path / "two" / "compare-runs").mkdir(parents=True)
    cards = []
    for name in ("one", "two"):
        out, options = tmp_path / name, {**QUICK, "family": "exact", "on": "joint"}
        compare("ppca", "iris", **options, diagnose=True, out=str(out), console=quiet)
        cards.append(json.loads((out / "compare.json").read_text())["cards"]["exact"])
        cards[-1]["about"].pop("seconds_by_part")
    assert timeless(cards[0]) == timeless(cards[1])
    assert "iterates" in {check["name"] for check in cards[0]["checks"]}


def test_a_run_that_was_cut_short_goes_on(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.compare.comparison_figure", lambda _: Figure())
    out, options = tmp_path / "out", {**QUICK, "family": "mean_field,full_rank", "on": "joint"}
    options |= {"inference": "amortized", "seeds": 1, "out": str(out), "console": quiet}
    (out / "compare-runs").mkdir(parents=True)
    first = compare("ppca", "iris", **options)
    home = out / "compare-runs"
    (out / "compare.json").unlink()
    for name in ("outcome", "summary"):  # killed while it was judged
        next((home / "mean_field-amortized").glob(f"{name}.*")).unlink()
    for name in ("outcome", "summary", "state", "weights"):  # killed at its start
        next((home / "full_rank-amortized").glob(f"{name}.*")).unlink()
    second = compare("ppca", "iris", **options)
    assert timeless(first.as_dict()) == timeless(second.as_dict())
    with pytest.raises(ValueError, match="already holds a compare"):
        compare("ppca", "iris", **options)
    (out / "compare.json").unlink()
    with pytest.raises(ValueError, match="a run of other spec.fit_options.steps; give another"):
        compare("ppca", "iris", **{**options, "steps": 5})
    third = compare("ppca", "iris", **{**options, "steps": 5}, overwrite=True)
    assert {run["steps"] for run in third.as_dict()["runs"]} == {5}
    kept = files(home)
    compare("ppca", "iris", **{**options, "steps": 5}, overwrite=True)
    assert not home.exists() and kept  # a whole result is replaced whole, here without folders


def test_selection_in_folders(
    tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.select.selection_figure", lambda _: Figure())
    options = {"sweep": "model.latent_dim=1,2", "seeds": 2, "steps": 5, "eval_particles": 4}
    (tmp_path / "two" / "select-runs").mkdir(parents=True)
    for name in ("one", "two"):
        select("ppca", "iris", **options, out=str(tmp_path / name), console=quiet)
    one, two = (tmp_path / name / "select.json" for name in ("one", "two"))
    assert timeless(json.loads(one.read_text())) == timeless(json.loads(two.read_text()))
    names = {p.name for p in (tmp_path / "two" / "select-runs").iterdir()}
    assert names == {f"latent_dim-{d}-seed-{s}" for d in (1, 2) for s in (0, 1)}
    assert "latent_dim = 2, seed 1" in quiet.export_text()


def test_a_series_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = Spec("ppca", **SHORT, fit_options={"steps": 6})
    out = tmp_path / "series"
    first = several(spec, 3, out)
    kept = files(out)
    summary = out / "seed-1" / "summary.json"
    content = json.loads(summary.read_text())
    summary.write_text(json.dumps({**content, "interrupted": True}))  # Ctrl-C
    for name in ("summary", "state", "weights"):  # killed at its start
        next((out / "seed-2").glob(f"{name}.*")).unlink()
    assert timeless(several(spec, 3, out)) == timeless(first) == timeless(several(spec, 3))
    changed = {k for k, v in files(out).items() if v != kept.get(k)}
    assert {k.partition("/")[0] for k in changed} == {"seed-1", "seed-2"}
    with pytest.raises(ValueError, match="one run needs no --seeds and no --jobs"):
        several(spec, 1, jobs=2)


# Processes


CRASH = """
    import os
    from pathlib import Path

    import torch
    from zoo.models.ppca import PPCA

    class Mine(PPCA):
        def __init__(self, data_dim: int, latent_dim: int = 2):
            super().__init__(data_dim, latent_dim)
            crash = Path(__file__).with_name("crash")
            if crash.exists() and torch.initial_seed() == 1:  # the run of that seed
                os._exit(7)
"""


@pytest.mark.slow
def test_processes_from_the_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, one of which dies; then its run alone; then both in this process."""
    monkeypatch.setattr("experiments.compare.comparison_figure", lambda _: Figure())
    file, out, crash = tmp_path / "mine.py", tmp_path / "out", tmp_path / "crash"
    file.write_text(textwrap.dedent(CRASH))
    crash.write_text("")
    words = ["compare", str(file), "--data", "iris", "--on", "joint", "--family", "mean_field"]
    words += ["--inference", "amortized", "--seeds", "2", "--steps", "12", "--device", "cpu"]
    words += ["--eval-particles", "10", "--infer-steps", "5"]
    assert main([*words, "--jobs", "2", "--out", str(out)]) == 1
    shown = capsys.readouterr().out
    assert "failed: its process died: EXIT(7)" in shown and "Failed: 1 of the runs" in shown
    content = json.loads((out / "compare.json").read_text())
    failed = {"mean_field / amortized, seed 1": "its process died: EXIT(7)"}
    assert content["failed"] == failed and [run["seed"] for run in content["runs"]] == [0]
    assert "its process died" in (out / "compare.csv").read_text()
    kept = files(out)
    crash.unlink()
    assert main([*words, "--out", str(out)]) == 0
    assert "mean_field / amortized, seed 0               there already" in capsys.readouterr().out
    assert kept.items() <= files(out).items()
    assert main([*words, "--out", str(tmp_path / "here")]) == 0
    found = [json.loads((p / "compare.json").read_text()) for p in (out, tmp_path / "here")]
    assert timeless(found[0]) == timeless(found[1])


@pytest.mark.cuda
def test_each_process_has_a_device_of_its_own(tmp_path: Path) -> None:
    spec = Spec("ppca", **{**SHORT, "device": "cuda"}, fit_options={"steps": 6})
    content = several(spec, 2, tmp_path / "series", jobs="auto")
    assert {summary["device"] for summary in content["summaries"]} == {"cuda:0"}
