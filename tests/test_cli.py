"""The command line: words, options from signatures, runs that repeat, errors in one line."""

import functools
import inspect
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from experiments import cli, runs
from experiments.runs import Spec
from experiments.shell import options as _options
from experiments.shell.parser import Line, UsageError, build, parse, type_name
from zoo import load, registry
from zoo.fitting import fit

QUICK = ["--steps", "5", "--eval-particles", "10", "--infer-steps", "5", "--device", "cpu"]
IRIS = ["--data", "iris"]
Zoo = Callable[..., str]


@pytest.fixture
def zoo(capsys: pytest.CaptureFixture[str]) -> Zoo:
    """Runs a command line that has to succeed; returns what it prints."""

    def call(*words: str) -> str:
        capsys.readouterr()
        code = cli.main(words)
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return call


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line on stderr of a command that fails by the user's hand."""
    capsys.readouterr()
    assert cli.main(words) == 2
    _, err = capsys.readouterr()
    assert err.startswith("zoo: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def fresh(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestList:
    def test_it_imports_nothing_heavy(self) -> None:
        """What makes `zoo list` and `zoo --help` quick; their time is the interpreter's."""
        fresh("""
            import sys
            from experiments.cli import main
            for words in (["list"], ["list", "data", "--json"], ["--help"], ["list", "-h"], []):
                assert main(words) == 0
            heavy = {"torch", "pyro", "numpy", "jsonargparse", "rich", "yaml", "matplotlib"}
            assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
        """)

    def test_every_word_is_there_with_its_line(self, zoo: Zoo) -> None:
        listed = json.loads(zoo("list", "--json"))
        assert listed == {kind: registry.names(kind) for kind in registry.KINDS}
        text = zoo("list")
        assert all(word in text for words in listed.values() for word in words)
        assert zoo("list", "inference").splitlines()[0] == "inference"
        assert json.loads(zoo("list", "models", "--json"))["models"] == listed["models"]

    def test_unknown_kinds_and_options(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "Did you mean 'models'" in error_of(capsys, "list", "modles")
        assert "no option --jsn" in error_of(capsys, "list", "--jsn")


class TestHelp:
    @pytest.mark.parametrize("words", [[], ["list"], ["fit"], ["compare"], ["select"], ["sample"]])
    def test_every_level_says_what_and_shows_examples(self, zoo: Zoo, words: list[str]) -> None:
        text = zoo(*words, "--help")
        assert text.startswith("usage: zoo") and "examples:" in text
        assert "``" not in text

    def test_a_model_brings_its_options_and_its_formula(self, zoo: Zoo) -> None:
        text = zoo("fit", "ppca", "--family", "low_rank", "--help")
        assert "z_n ~ N(0, I_d)" in text
        for flag in ("--model.latent_dim", "--model.init", "--family.rank", "--inference.hidden"):
            assert flag in text
        assert "--model.num_components NUM" not in text
        assert "--model.num_components NUM" in zoo("fit", "gmm", "--help")

    @pytest.mark.parametrize("kind", ["models", "families", "inference", "objectives"])
    def test_every_option_of_every_word_explains_itself(self, kind: str) -> None:
        for word in registry.names(kind):
            target = registry.resolve(kind, word)
            skip = _options.GIVEN[kind]
            for option in _options.of(target, "--{}", "{}", kind, skip=skip):
                assert option.help, f"{word} does not explain its argument {option.dest}"

    def test_every_option_of_a_run_explains_itself(self) -> None:
        options = _options.collect(Spec, {})
        assert all(option.help for option in options), [o.flag for o in options if not o.help]

    def test_all_of_fit_can_be_said(self) -> None:
        flags = {option.flag for option in _options.collect(Spec, {})}
        only_python = {"model", "guide", "data", "objective", "objective_options", "held_out"}
        elsewhere = {"callbacks", "out", "resume", "seed", "device", "freeze"}
        for name in inspect.signature(fit).parameters.keys() - only_python - elsewhere:
            assert f"--{name.replace('_', '-')}" in flags


class TestFit:
    def test_a_run_on_disk(self, zoo: Zoo, tmp_path: Path) -> None:
        out = tmp_path / "run"
        text = zoo("fit", "ppca", *IRIS, *QUICK, "--model.latent-dim", "3", "--out", str(out))
        assert "ppca on iris: mean_field, amortized, elbo" in text and str(out)[-20:] in text
        names = {path.name for path in out.iterdir()}
        expected = "run.json config.yaml weights.safetensors state.safetensors metrics.jsonl"
        assert names == {
            *expected.split(),
            "summary.json",
            "loss.png",
            "loadings.csv",
            "loadings.png",
        }
        found = summary(out)
        words = "model family inference objective num_particles data seed device steps seconds"
        assert found.keys() >= {*words.split(), "versions", "num_train", "num_test"}
        assert [found[w] for w in words.split()[:9]] == [
            *("ppca", "mean_field", "amortized", "elbo", 1, "iris", 0, "cpu", 5)
        ]
        assert (found["num_train"], found["num_test"]) == (120, 30)
        for side in ("train", "test"):
            for bound in ("elbo", "iwae", "exact"):
                assert found[side][bound].keys() == {"mean", "se", "se_data"}
            assert found[side]["exact"]["se"] == 0 < found[side]["elbo"]["se"]
        model = load(out).model
        assert model.options["latent_dim"] == 3 and found["model_options"]["latent_dim"] == 3
        assert found["latents"] == {"local": ["z"], "global": [], "discrete": [], "bits": []}

    def test_its_configuration_repeats_it(self, zoo: Zoo, tmp_path: Path) -> None:
        first, second = tmp_path / "a", tmp_path / "b"
        words = ["--family", "low_rank", "--family.rank", "1", "--objective", "renyi:0.5"]
        zoo("fit", "ppca", *IRIS, *QUICK, *words, "--batch_size=50", "--out", str(first))
        zoo("fit", "--config", str(first / "config.yaml"), "--out", str(second))
        a, b = summary(first), summary(second)
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
        for name in ("weights.safetensors", "config.yaml"):
            assert (first / name).read_bytes() == (second / name).read_bytes()
        config = yaml.safe_load((first / "config.yaml").read_text())
        assert config.keys() == set(Spec.__dataclass_fields__)
        assert config["model_options"] == {"latent_dim": 2, "init": "random"}
        assert config["inference_options"]["hidden"] == [64, 64]
        assert config["fit_options"].keys() >= {"lr", "optimizer", "schedule", "clip", "patience"}

    def test_options_win_over_a_configuration(self, zoo: Zoo, tmp_path: Path) -> None:
        zoo("fit", "ppca", *IRIS, *QUICK, "--family", "low_rank", "--out", str(tmp_path / "a"))
        more = ["--family", "full_rank", "--epochs", "2", "--seed", "4"]
        zoo("fit", "--config", str(tmp_path / "a"), *more, "--out", str(tmp_path / "b"))
        config = yaml.safe_load((tmp_path / "b" / "config.yaml").read_text())
        assert config["family_options"] == {"init_scale": 1.0}  # low_rank's rank is gone
        assert config["fit_options"]["epochs"] == 2 and config["fit_options"]["steps"] is None
        assert summary(tmp_path / "b")["steps"] == 2 and summary(tmp_path / "b")["seed"] == 4

    def test_without_out_nothing_is_written(
        self, zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert "Nothing was written" in zoo("fit", "ppca", *IRIS, *QUICK)
        assert not list(tmp_path.iterdir())

    def test_no_test_rows(self, zoo: Zoo, tmp_path: Path) -> None:
        out = tmp_path / "run"
        zoo("fit", "ppca", *IRIS, *QUICK, "--test-fraction", "0", "--out", str(out))
        assert summary(out)["test"] is None and summary(out)["num_test"] == 0
        assert summary(out)["num_train"] == 150

    def test_resume_goes_on(self, zoo: Zoo, tmp_path: Path) -> None:
        half, whole = tmp_path / "half", tmp_path / "whole"
        words = ["fit", "ppca", *IRIS, *QUICK[2:], "--inference", "per_datapoint"]
        zoo(*words, "--steps", "5", "--out", str(half))
        zoo("fit", "--resume", str(half), "--steps", "9")
        zoo(*words, "--steps", "9", "--out", str(whole))
        name = "weights.safetensors"
        assert (half / name).read_bytes() == (whole / name).read_bytes()
        a, b = summary(half), summary(whole)
        assert a["steps"] == 9 and {**a, "seconds": 0} == {**b, "seconds": 0}
        assert zoo("fit", "--resume", str(half))  # nothing is left to do, and that is no error

    def test_resume_keeps_to_the_configuration(
        self, zoo: Zoo, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        out = str(tmp_path / "run")
        zoo("fit", "ppca", *IRIS, *QUICK, "--schedule", "cosine", "--out", out)
        assert "takes no --lr" in error_of(capsys, "fit", "--resume", out, "--lr", "1")
        assert "takes no gmm" in error_of(capsys, "fit", "gmm", "--resume", out)
        assert "cosine schedule" in error_of(capsys, "fit", "--resume", out, "--steps", "9")
        assert "does not exist" in error_of(capsys, "fit", "--resume", out + "no")

    def test_a_model_from_a_run_held_still(
        self, zoo: Zoo, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        first, second, third = (tmp_path / name for name in "abc")
        ml = ["--model.init", "ml", "--model.latent_dim", "1"]
        zoo("fit", "ppca", *IRIS, *QUICK, *ml, "--family", "exact", "--out", str(first))
        words = ["fit", "ppca", *IRIS, *QUICK, "--model-from", str(first)]
        zoo(*words, "--freeze", "model", "--out", str(second))
        a, b = load(first).model, load(second).model
        assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
        zoo("fit", "--config", str(second), "--out", str(third))
        assert summary(third)["train"] == summary(second)["train"]
        assert "other options" in error_of(capsys, *words, "--model.latent_dim", "2")
        gmm = ["fit", "gmm", *words[2:]]
        assert "is a run of PPCA, not of gmm" in error_of(capsys, *gmm)

    def test_nothing_to_train_is_still_a_run(self, zoo: Zoo, tmp_path: Path) -> None:
        out = tmp_path / "run"
        words = ["--family", "exact", "--freeze", "model", "--model.init", "ml"]
        assert "nothing to train" in zoo("fit", "ppca", *IRIS, *QUICK, *words, "--out", str(out))
        assert summary(out)["steps"] == 0
        assert load(out).model.options["init"] == "ml"

    def test_rows_held_out(self, zoo: Zoo, tmp_path: Path) -> None:
        out = tmp_path / "run"
        words = ["--held-out-fraction", "0.1", "--eval-every", "2"]
        zoo("fit", "ppca", *IRIS, *QUICK, *words, "--out", str(out))
        found = summary(out)
        assert found["num_train"] == 108 and found["data_record"]["num_held_out"] == 12
        assert found["best_step"] in (2, 4)


class TestNotes:
    def test_a_mixture_has_nothing_for_a_family(self, zoo: Zoo, tmp_path: Path) -> None:
        out = tmp_path / "run"
        words = ["--objective", "em", "--model.num_components", "2", "--out", str(out)]
        text = zoo("fit", "gmm", *IRIS, *QUICK, *words)
        assert "--family and --inference have nothing to act on" in " ".join(text.split())
        assert "gmm on iris: em" in text and "Adjusted Rand index" in text
        found = summary(out)
        assert 0.4 < found["adjusted_rand_index"]["train"] <= 1
        assert found["num_particles"] is None
        assert found["train"]["elbo"]["mean"] == pytest.approx(
            found["train"]["exact"]["mean"], abs=1e-4
        )

    def test_maximum_likelihood_reports_the_exact_posterior(self, zoo: Zoo, tmp_path: Path) -> None:
        out = tmp_path / "run"
        zoo("fit", "ppca", *IRIS, *QUICK, "--objective", "mle", "--out", str(out))
        found = summary(out)
        assert found["family"] == "exact" and "trains no guide" in found["notes"][0]
        assert found["train"]["elbo"]["mean"] == pytest.approx(
            found["train"]["exact"]["mean"], abs=1e-4
        )

    def test_a_point_mass_is_no_bound(self, zoo: Zoo, tmp_path: Path) -> None:
        out = tmp_path / "run"
        text = zoo("fit", "ppca", *IRIS, *QUICK, "--family", "delta", "--out", str(out))
        found = summary(out)
        assert found["train"]["elbo"] is None and found["train"]["log_joint"]["mean"] < 0
        assert "point mass" in found["notes"][0] and "log p(x, ẑ)" in text

    def test_global_latents(self, zoo: Zoo, tmp_path: Path) -> None:
        out = tmp_path / "run"
        words = ["--global-family", "low_rank", "--global.rank", "1", "--objective.num-outer", "2"]
        zoo("fit", "bayesian_ppca", *IRIS, *QUICK, *words, "--out", str(out))
        found = summary(out)
        assert found["global_family"] == "low_rank" and found["train"]["exact"] is None
        assert set(found["latents"]["global"]) == {"alpha", "weight", "mean", "scale"}


MINE = '''
import pyro
import pyro.distributions as dist
import torch
from torch import nn
from zoo import Model

class Shifted(Model):
    """x_n = shift + noise.

    Args:
        data_dim: D.
        width: sd of the latent.
        names: words that mean nothing.
    """

    def __init__(self, data_dim: int, width: float = 1.0, names: tuple[str, ...] = ("a",)) -> None:
        super().__init__()
        self.width, self.names = width, names
        self.shift = nn.Parameter(torch.zeros(data_dim))

    def forward(self, n):
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, self.width).expand_by([1]).to_event(1))
            return pyro.sample("x", dist.Normal(self.shift + z, 1.0).to_event(1))
'''


class TestOwnModel:
    def test_a_file_of_yours_gets_its_options(self, zoo: Zoo, tmp_path: Path) -> None:
        file, out = tmp_path / "mine.py", str(tmp_path / "run")
        file.write_text(MINE)
        table = tmp_path / "table.csv"
        rows = np.random.RandomState(0).randn(20, 2)
        np.savetxt(table, rows, delimiter=",", header="a,b", comments="")
        text = zoo("fit", str(file), "--help")
        assert "x_n = shift + noise" in text and "--model.width" in text
        options = ["--model.width", "0.5", "--model.names", "b,c", "--data", str(table)]
        zoo("fit", f"{file}:Shifted", *options, *QUICK, "--out", out)
        config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
        assert config["model_options"] == {"width": 0.5, "names": ["b", "c"]}
        assert summary(tmp_path / "run")["train"]["exact"] is None
        zoo("fit", "--resume", out, "--steps", "6")
        frozen = ["--model-from", out, "--freeze", "model", *options]
        zoo("fit", f"{file}:Shifted", *frozen, *QUICK)
        assert "samples.npz" in zoo("sample", out)


class TestSample:
    @pytest.mark.parametrize(
        "model, words",
        [
            ("ppca", ["--data", "digits", "--inference", "per_datapoint"]),
            ("ppca", [*IRIS, "--inference", "semi_amortized"]),
            ("gmm", IRIS),
            ("bayesian_gmm", IRIS),
        ],
    )
    def test_a_file_and_a_picture(
        self, zoo: Zoo, tmp_path: Path, model: str, words: list[str]
    ) -> None:
        out = tmp_path / "run"
        zoo("fit", model, *words, *QUICK, "--out", str(out))
        counts = ["--num-samples", "20", "--num-rows", "6", "--num-repeats", "2"]
        for place in ("one", "two"):
            zoo("sample", str(out), *counts, "--out", str(tmp_path / place))
        width = 64 if "digits" in words else 4
        with np.load(tmp_path / "one" / "samples.npz") as found:
            assert found["new.x"].shape == (20, width)
            assert found["posterior.x"].shape == (2, 6, width)
            assert np.isfinite(found["new.x"]).all() and len(found["rows"]) == 6
            with np.load(tmp_path / "two" / "samples.npz") as again:
                assert all(np.array_equal(found[name], again[name]) for name in found)
        picture = (tmp_path / "one" / "samples.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert not (out / "samples.npz").exists()

    def test_errors(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert "expected `zoo sample RUN" in error_of(capsys, "sample")
        assert "is no run" in error_of(capsys, "sample", str(tmp_path))


class TestFunctions:
    """Commands that are a function get what the line says, and nothing else."""

    @pytest.mark.parametrize("name", ["compare", "select"])
    def test_words_and_options_reach_it(
        self, name: str, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = __import__(f"experiments.{name}", fromlist=[name])
        seen: list[Any] = []
        real = getattr(module, name)

        @functools.wraps(real)
        def spy(*args: Any, **kwargs: Any) -> None:
            seen.append((args, kwargs))

        monkeypatch.setattr(module, name, spy)
        words = ["--data", "wine", "--family", "low_rank,mean_field/per_datapoint"]
        more = ["--family.rank", "3", "--inference.hidden", "8", "--model.latent_dim", "4"]
        zoo(name, "ppca", *words, *more, "--seeds", "2", "--batch-size", "7", "--missing")
        (args, kwargs) = seen[0]
        assert args == ("ppca",)
        inspect.signature(real).bind(*args, **kwargs)
        assert kwargs == {
            "data": "wine",
            "family": "low_rank,mean_field/per_datapoint",
            "seeds": 2,
            "model_options": {"latent_dim": 4},
            "family_options": {"rank": 3},
            "inference_options": {"hidden": [8]},
            "fit_options": {"batch_size": 7},
            "data_options": {"missing": True},
        }


class TestErrors:
    @pytest.mark.parametrize(
        "line, words",
        [
            ("lits", "no command 'lits'. Did you mean 'list'"),
            ("fit", "which model? There are bayesian_gmm"),
            ("fit pcca", "no model 'pcca'. Did you mean 'ppca'"),
            ("fit ppca gmm", "one model, please: got ppca gmm"),
            ("fit vae --data iris --family planar+", "lacks a flow beside a plus"),
            ("fit ppca --family lowrank", "Did you mean 'low_rank'"),
            ("fit ppca --inference amortised", "Did you mean 'amortized'"),
            ("fit ppca --objective elbow", "Did you mean 'elbo'"),
            ("fit ppca --data digit", "digits"),
            ("fit ppca --data none.csv", "no file 'none.csv'"),
            ("fit ppca --latent-dim 3", "no option --latent_dim"),
            ("fit ppca --model.latent_dims 3", "Did you mean --model.latent_dim?"),
            ("fit ppca --model.num_components 3", "there are --model.latent_dim, --model.init"),
            ("fit ppca --steps", "--steps needs a value"),
            ("fit vae --model.latent_dim --lr 1", "--model.latent_dim needs a value"),
            ("fit vae --model.likelihood", "--model.likelihood needs a value"),
            ("fit ppca --steps --lr 1", "--steps needs a value"),
            ("fit ppca --lr x", "--lr: expected a finite number, got 'x'"),
            ("fit ppca --steps 1.5", "--steps: expected a whole number, got '1.5'"),
            (
                "fit ppca --standardize maybe",
                "--standardize: expected true, false or 'train', got 'maybe'",
            ),
            ("fit ppca --freeze both", "--freeze: expected 'model' or 'guide', got 'both'"),
            ("fit ppca --optimizer lbfgs", "--optimizer: expected 'adam' or"),
            ("fit ppca --inference.hidden 3,x", "--inference.hidden: expected ints"),
            ("fit ppca --steps 1 --epochs 1", "steps or epochs, not both"),
            ("fit ppca --model.init best", "best"),
            ("fit ppca --test-fraction 2", "test_fraction"),
            ("fit ppca --held-out-fraction 1", "leaves one side empty"),
            ("fit gmm --family exact --objective renyi_elbo --data iris", "renyi"),
            ("fit bayesian_ppca --family exact --data iris", "does not know its posterior"),
            ("fit --config none.yaml", "none.yaml does not exist"),
            ("fit ppca --device gpu", "device is auto, cpu or cuda, got 'gpu'"),
            ("fit ppca --seed 99999999999999999999", "at most 62 bits"),
            ("fit ppca --batch-size 0", "batch_size counts from 1, got 0"),
            ("fit ppca --num-particles 0", "num_particles counts from 1, got 0"),
            ("fit ppca --eval-particles 1", "eval_particles counts from 2, got 1"),
            ("fit ppca --steps -1", "steps counts from 0, got -1"),
            ("fit ppca --checkpoint-every -1", "checkpoint_every counts from 0"),
            ("fit ppca --clip 0", "above 0, got 0.0"),
            ("fit ppca --objective renyi:x", "renyi:0.5, got 'x'"),
            ("fit ppca --rotate promax", "--rotate: expected 'none' or 'varimax', got 'promax'"),
            ("fit ppca --out /dev/null/run", "cannot be made"),
            ("compare ppca --num-particles 0", "num_particles counts from 1, got 0"),
            ("select ppca --data iris --sweep model.latent_dim=1,x", "numbers or words, not both"),
            ("compare", "which model?"),
            ("compare ppca --seed x", "--seed: expected a whole number, got 'x'"),
        ],
    )
    def test_one_line_and_code_2(
        self, line: str, words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert words in error_of(capsys, *line.split())

    def test_a_folder_in_use_is_left_alone(
        self, zoo: Zoo, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        out = tmp_path / "run"
        words = ["fit", "ppca", *IRIS, *QUICK, "--out", str(out)]
        zoo(*words)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        assert "already holds a run" in error_of(capsys, *words, "--seed", "1")
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    def test_a_folder_with_something_else_is_left_alone(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (tmp_path / "summary.json").write_text("mine")
        words = ["fit", "ppca", *IRIS, *QUICK, "--out", str(tmp_path)]
        assert "holds something else (summary.json)" in error_of(capsys, *words)
        assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]

    def test_arrays_that_are_no_numbers(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        np.savez(tmp_path / "words.npz", x=np.array([["a", "b"], ["c", "d"]]))
        words = ["fit", "ppca", "--data", str(tmp_path / "words.npz")]
        assert "real numbers" in error_of(capsys, *words)

    def test_too_little_memory(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def greedy(_: Any) -> int:
            torch.empty(2**60)
            return 0

        monkeypatch.setattr(cli, "_dispatch", greedy)
        assert "not enough memory" in error_of(capsys, "fit", "ppca")

    @pytest.mark.parametrize(
        "content, words",
        [
            ("model: ppca\nfamly: exact", "no setting 'famly'. Did you mean 'family'"),
            ("model: ppca\nfit_options: {lrr: 1}", "no setting 'fit_options.lrr'"),
            ("model: ppca\nseed: one", "seed: expected a whole number, got 'one'"),
            ("model: [", "cannot be read"),
            ("just words", "expected a mapping of settings"),
            ("data: iris", "which model?"),
        ],
    )
    def test_configurations_are_checked(
        self, content: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        file = tmp_path / "config.yaml"
        file.write_text(content)
        assert words in error_of(capsys, "fit", "--config", str(file))

    def test_a_loss_that_is_not_finite_is_the_users_to_know(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from zoo.fitting import NonFiniteLossError

        def fail(*_: Any, **__: Any) -> None:
            raise NonFiniteLossError("the loss is nan at step 3: …")

        monkeypatch.setattr(runs, "fit", fail)
        assert "nan at step 3" in error_of(capsys, "fit", "ppca", *IRIS, *QUICK)

    def test_ctrl_c_and_a_mistake_of_ours(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(_: Any) -> int:
            raise KeyboardInterrupt

        def broken(_: Any) -> int:
            raise AssertionError("ours")

        monkeypatch.setattr(cli, "_dispatch", interrupted)
        assert cli.main(["fit", "ppca"]) == 130
        assert capsys.readouterr().err == "zoo: interrupted\n"
        monkeypatch.setattr(cli, "_dispatch", broken)
        with pytest.raises(AssertionError, match="ours"):
            cli.main(["fit", "ppca"])

    def test_zoo_debug_shows_the_place(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ZOO_DEBUG", "1")
        with pytest.raises(ValueError, match="no model 'pcca'"):
            cli.main(["fit", "pcca"])


class TestParser:
    def test_dashes_underscores_and_equal_signs(self) -> None:
        for words in (
            ["--num-particles", "3", "--model.latent-dim=2"],
            ["--num_particles=3", "--model.latent_dim", "2"],
        ):
            line = Line.read(words, [])
            assert line.values == {"--num_particles": "3", "--model.latent_dim": "2"}

    def test_a_flag_of_a_class_may_stand_alone(self) -> None:
        words = {"model": ["vae"], "family": ["hamiltonian:3"]}
        options = _options.collect(Spec, words)
        line = Line.read(["vae", "--model.gated", "--family.metropolis", "--lr", "1"], [])
        given = parse(build("zoo fit", "", "", "", options), options, line)
        assert given["model_options"] == {"gated": True}
        assert given["family_options"] == {"metropolis": True}
        with pytest.raises(UsageError, match="--model.hidden needs a value"):
            line = Line.read(["vae", "--model.hidden"], [])
            parse(build("zoo fit", "", "", "", options), options, line)

    def test_a_flag_alone_is_true_and_takes_no_word(self) -> None:
        options = _options.collect(Spec, {})
        line = Line.read(["--missing", "ppca", "--progress", "false"], options)
        assert line.values == {"--missing": "true", "--progress": "false"}
        assert line.positional == ["ppca"]
        with pytest.raises(UsageError, match="--standardize needs a value"):
            Line.read(["--standardize"], options)

    def test_a_negative_number_is_a_value(self) -> None:
        assert Line.read(["--lr", "-1e-3"], []).values == {"--lr": "-1e-3"}

    @pytest.mark.parametrize("text", ["", "8", "8,16", "[8, 16]"])
    def test_lists(self, text: str, zoo: Zoo, tmp_path: Path) -> None:
        out = tmp_path / "run"
        zoo("fit", "ppca", *IRIS, *QUICK, "--inference.hidden", text, "--out", str(out))
        config = yaml.safe_load((out / "config.yaml").read_text())
        widths = [int(n) for n in text.strip("[]").split(",") if n]
        assert config["inference_options"]["hidden"] == widths

    def test_types_in_words(self) -> None:
        assert type_name(bool | None) == "bool or nothing"
        assert type_name(float) == "float"


@pytest.mark.parametrize(
    "content, words",
    [
        ("model: ppca\ndata: iris\n", "config.yaml is damaged: it lacks"),
        ("model: [1]\n", "model: expected a word, got [1]"),
        ("model: ppca\nfit_options: 3\n", "fit_options: expected a mapping"),
    ],
)
def test_a_damaged_configuration_is_not_resumed(
    content: str, words: str, zoo: Zoo, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    zoo("fit", "ppca", *IRIS, *QUICK, "--out", str(out))
    (out / "config.yaml").write_text(content)
    assert words in error_of(capsys, "fit", "--resume", str(out))


def test_samples_need_the_data_that_the_run_was_fitted_to(
    zoo: Zoo, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    zoo("fit", "ppca", *IRIS, *QUICK, "--out", str(out))
    config = out / "config.yaml"
    config.write_text(config.read_text().replace("data: iris", "data: wine"))
    assert "has changed since" in error_of(capsys, "sample", str(out))


@pytest.mark.parametrize(
    "words",
    [["--family", "exact"], ["--inference", "per_datapoint"], ["--inference", "semi_amortized"]],
    ids=" ".join,
)
def test_a_configuration_repeats_a_run(words: list[str], zoo: Zoo, tmp_path: Path) -> None:
    """Also where a family or an inference has no options of its own."""
    one, two = tmp_path / "one", tmp_path / "two"
    zoo("fit", "ppca", *IRIS, *QUICK, *words, "--out", str(one))
    zoo("fit", "--config", str(one / "config.yaml"), "--out", str(two))
    for side in ("train", "test"):
        assert summary(one)[side] == summary(two)[side]


SHALLOW = [
    name
    for name in sorted(registry.names("models"))
    if not hasattr(registry.resolve("models", name), "decode") and name != "vrnn"
]


class TestIdentified:
    """What a fit reports of the parameters that the likelihood leaves free."""

    def test_loadings_by_falling_variance_or_by_varimax(self, zoo: Zoo, tmp_path: Path) -> None:
        plain, turned = tmp_path / "plain", tmp_path / "turned"
        words = ["fit", "ppca", *IRIS, *QUICK, "--out"]
        text = zoo(*words, str(plain))
        assert "loadings: orthogonal columns" in text and "sepal length (cm)" in text
        assert "rotated by varimax" in zoo(*words, str(turned), "--rotate", "varimax")
        W, R = (np.genfromtxt(p / "loadings.csv", delimiter=",")[1:, 1:] for p in (plain, turned))
        assert abs(W[:, 0] @ W[:, 1]) < 1e-5
        assert (W**2).sum(0).tolist() == pytest.approx(
            sorted((W**2).sum(0), reverse=True), rel=1e-6
        )
        np.testing.assert_allclose(W @ W.T, R @ R.T, atol=1e-5)
        assert abs(W - R).max() > 1e-3
        assert summary(turned)["loadings"]["rotate"] == "varimax"
        assert summary(plain)["train"] == summary(turned)["train"]
        assert (turned / "loadings.png").stat().st_size > 1000
        zoo("fit", "--resume", str(turned), "--rotate", "none")  # an ended fit, reported anew
        again = np.genfromtxt(turned / "loadings.csv", delimiter=",")[1:, 1:]
        assert again == pytest.approx(W, abs=1e-6)

    @pytest.mark.parametrize("model", SHALLOW)
    def test_every_model_reports_what_it_learned(
        self, model: str, zoo: Zoo, tmp_path: Path
    ) -> None:
        data = IRIS
        if model == "poisson_ppca":
            counts = np.random.default_rng(0).poisson(3.0, (60, 4))
            np.save(tmp_path / "counts.npy", counts)
            data = ["--data", str(tmp_path / "counts.npy")]
        out = tmp_path / "run"
        zoo("fit", model, *data, *QUICK, "--out", str(out))
        content = summary(out)
        assert "loadings" in content or "components" in content
        if "components" in content:
            weights = content["components"]["weights"]
            assert weights == sorted(weights, reverse=True)
            assert sum(weights) == pytest.approx(1.0, abs=1e-5)
            assert (out / "components.csv").exists() and (out / "components.png").exists()

    def test_more_dimensions_than_features_have_no_identified_form(
        self, zoo: Zoo, tmp_path: Path
    ) -> None:
        out = tmp_path / "run"
        zoo("fit", "ppca", *IRIS, *QUICK, "--model.latent_dim", "6", "--out", str(out))
        assert "loadings" not in summary(out) and not (out / "loadings.csv").exists()
