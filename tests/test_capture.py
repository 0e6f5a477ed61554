"""The captured step is the eager step: every model, family, objective and option, and what is not.

Ways: ``traced`` runs the captured operations one by one, ``compiled`` is inductor's code. Of the
long lists every tenth entry is run; ``ZOO_TEST_ALL=1`` (``make test-all``) runs all of them.
"""

from __future__ import annotations

import copy
import gc
import itertools
import os
import random
import re
import signal
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from guides import Guide
from guides.flow import Flow
from zoo import Dataset, Model, engine, fit, plain
from zoo.engine import choose
from zoo.exact import knows
from zoo.files import read_tensors, write_tensors
from zoo.fitting import NonFiniteLossError
from zoo.images import Images
from zoo.loop import FitResult
from zoo.model import rows as plate_of
from zoo.models.m2 import M2
from zoo.models.vae import VAE
from zoo.nets import affine
from zoo.objectives.bounds import elbo
from zoo.optim import make_optimizers
from zoo.registry import names, resolve
from zoo.running import WAYS, in_order
from zoo.store import STATE
from zoo.testing import check_captured
from zoo.tracing import CannotCapture, trace
from zoo.updates import betas_of, coefficients, moments, updated

ALL = bool(os.environ.get("ZOO_TEST_ALL"))
QUIET: dict[str, Any] = {"progress": False, "device": "cpu"}


def tenth(cases: list[Any], first: int) -> list[Any]:
    """Every tenth of a list from the one that is named on, or all of it."""
    return cases if ALL else cases[first::10]


# Models, families and objectives -----------------------------------------------------------------

MODELS, FAMILIES = list(names("models")), list(names("families"))
FLOWS = [word for word in FAMILIES if issubclass(resolve("families", word), Flow)]
OWN_STEPS = ("em", "renyi_elbo", "trace_elbo", "trace_mean_field_elbo", "traceenum_elbo")
OBJECTIVES = [word for word in names("objectives") if word not in OWN_STEPS]


def fits(model: str, family: str, objective: str) -> bool:
    """Whether the library takes the three together, as far as it can be told beforehand."""
    kind, own = resolve("models", model), getattr(resolve("models", model), "inference", "")
    mixture = model in ("gmm", "bayesian_gmm")  # no continuous latents of the rows
    if (own in ("top_down", "recurrent") or model == "sbn") and family != "mean_field":
        return False
    if family == "chain" or objective == "mcem":
        plain = not own and kind.estimator == "collapse" and model != "bayesian_ppca"
        return (family, objective) == ("chain", "mcem") and plain and not mixture
    if family == "exact":
        known = knows(kind, "posterior") or mixture
    elif family == "hamiltonian":
        known = not own and kind.estimator == "collapse" and model != "bayesian_ppca"
    else:
        known = family != "delta" or objective in ("elbo", "mle")
    if objective == "mle":
        return known and knows(kind, "log_evidence")
    if objective == "mcmc":
        return known and family == "hamiltonian" and not mixture
    return known and (model != "m1m2" or objective in ("elbo", "iwae_sum"))


@cache
def covering(size: int = 2) -> list[tuple[str, str, str]]:
    """Model × family × objective: every pair of words that go together is in one of them, or, with
    ``size`` 1, every word. Greedy: each time the first of those with the most that is new."""
    left = {}
    for case in itertools.product(MODELS, FAMILIES, OBJECTIVES):
        if fits(*case):
            left[case] = set(itertools.combinations(enumerate(case), size))
    found: list[tuple[str, str, str]] = []
    while left:
        best = max(left, key=lambda case: len(left[case]))
        found.append(best)
        done = left.pop(best)
        left = {case: rest for case, new in left.items() if (rest := new - done)}
    return found


def pair(model: str, family: str = "mean_field", **options: Any) -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    p, data = resolve("models", model).example()
    if family == "hamiltonian":
        options["family_options"] = {"metropolis": True}
    elif family in FLOWS:
        options["family_options"] = {"length": 2}
    return p, Guide(p, data, family, **options), data


def source(case: tuple[str, str, str]) -> str | None:
    """An inference by turns, where the model names none."""
    model, family, _ = case
    if family == "chain":
        return "per_datapoint"
    if hasattr(resolve("models", model), "inference") or family in ("exact", "hamiltonian"):
        return None
    return ("amortized", "per_datapoint")[covering().index(case) // 10 % 2]


@pytest.mark.parametrize("case", tenth(covering(), 1), ids="-".join)
def test_every_model_family_and_objective(case: tuple[str, str, str]) -> None:
    model, family, objective = case
    try:
        p, q, data = pair(model, family, inference=source(case))
        check_captured(p, q, data, objective, steps=8, lr=1e-3)
    except ValueError as error:
        pytest.skip(f"refused: {error}")


@pytest.mark.parametrize(
    "case", [("gmm", "mean_field", "mle"), ("vae", "iaf", "elbo")][: 1 + ALL], ids="-".join
)
def test_many_steps(case: tuple[str, str, str]) -> None:
    p, q, data = pair(*case[:2])
    check_captured(p, q, data, case[2], steps=200, batch_size=len(data) // 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", covering(1) if ALL else [("gmm", "mean_field", "mle")], ids="-".join
)
def test_every_model_family_and_objective_through_inductor(case: tuple[str, str, str]) -> None:
    p, q, data = pair(*case[:2])
    check_captured(p, q, data, case[2], run="compiled", log_every=6, lr=1e-3)


def structures() -> list[tuple[str, dict[str, Any]]]:
    """Every word of inference, estimator and global family that the list above has not."""
    found: list[tuple[str, dict[str, Any]]] = [
        ("hierarchical_vae", {"inference": word}) for word in ("top_down", "amortized")
    ]
    for estimator in names("estimators"):
        found += [("m2", {"estimator": estimator, "inference": "amortized"})]
        found += [("gmm", {"estimator": estimator})]
        of_codes = {"inference": "amortized"} if estimator == "collapse" else {}
        found += [("m1m2", {"estimator": estimator, **of_codes})]
    found += [("m2", {"inference": "per_datapoint", "estimator": "gumbel"})]
    for family in ("full_rank", "planar", "AutoNormal", "AutoMultivariateNormal", "AutoIAFNormal"):
        found += [("bayesian_ppca", {"global_family": family})]
    for family in ("mean_field", "low_rank", "planar"):
        found += [("ppca", {"family": family, "inference": "semi_amortized"})]
    found += [("bayesian_gmm", {"global_family": "AutoLowRankMultivariateNormal"})]
    found += [("vae", {"family": word}) for word in ("planar:2+iaf:1", "low_rank:1")]
    return found


@pytest.mark.parametrize(
    "case", tenth(structures(), 5), ids=lambda c: f"{c[0]}-{'-'.join(map(str, c[1].values()))}"
)
def test_every_inference_estimator_and_global_family(case: tuple[str, dict[str, Any]]) -> None:
    model, options = case
    try:
        p, q, data = pair(model, **options)
        check_captured(p, q, data, steps=8)
    except ValueError as error:
        pytest.skip(f"refused: {error}")


@pytest.mark.parametrize("prior", tenth(sorted(names("priors")), 3))
def test_every_prior(prior: str) -> None:
    torch.manual_seed(0)
    data = VAE.example()[1]
    model = VAE(6, latent_dim=2, hidden=(4,), likelihood="bernoulli", prior=prior)
    check_captured(model, Guide(model, data), data, steps=8)


@pytest.mark.parametrize("word", tenth(sorted(names("likelihoods")), 2))
def test_every_likelihood(word: str) -> None:
    torch.manual_seed(0)
    x = VAE.example()[1]["x"]
    try:
        model = VAE(6, latent_dim=2, hidden=(4,), likelihood=word)
        check_captured(model, Guide(model, x), x, steps=8)
    except ValueError as error:
        pytest.skip(f"refused: {error}")


# What has steps of its own -----------------------------------------------------------------------


def told(result: FitResult) -> str:
    """Why a fit that was to be captured ran eager."""
    assert result.run["way"] == "eager" and "traced is not possible: " in result.run["why"]
    return result.run["why"].partition("not possible: ")[2]


@pytest.mark.parametrize("word", OWN_STEPS)
def test_what_has_steps_of_its_own_runs_eager_and_says_so(word: str) -> None:
    p, q, data = pair("gmm" if word == "em" else "vae")
    ours, theirs = copy.deepcopy((p, q)), copy.deepcopy((p, q))
    found = told(fit(*ours, data, word, steps=4, run="traced", **QUIET))
    assert found.startswith("em has no gradient" if word == "em" else "the value of a tensor is")
    assert word == "em" or ", in pyro/" in found
    fit(*theirs, data, word, steps=4, run="eager", **QUIET)
    assert same(ours, theirs)


def same(ours: Any, theirs: Any) -> bool:
    """Whether two pairs have the same bits."""
    states = [(a.state_dict(), b.state_dict()) for a, b in zip(ours, theirs, strict=True)]
    return all(torch.equal(a[name], b[name]) for a, b in states for name in a)


def test_an_objective_of_pyro_by_its_object() -> None:
    p, q, data = pair("vae")
    assert ".item()" in told(fit(p, q, data, Trace_ELBO(), steps=2, run="traced", **QUIET))


def test_rows_from_a_source_run_eager() -> None:
    data = torch.utils.data.TensorDataset(torch.randn(12, 2))
    p, q = small()
    streamed = torch.utils.data.DataLoader(Named(data), batch_size=4)
    result = fit(p, q, streamed, steps=2, batch_size=4, run="traced", **QUIET)
    assert told(result) == "the rows are read from their source at every step"


class Named(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Rows by name."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": self.rows[i][0]}


# Options of a fit --------------------------------------------------------------------------------


class Line(Model):
    """z ~ N(0, 1), x | z ~ N(a z + b, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[0.5], [1.5]]))  # (2, 1)
        self.b = nn.Parameter(torch.tensor([0.3, 0.1]))  # (2,)

    def mean(self, z: Tensor) -> Tensor:
        return affine(z, self.a) + self.b

    def forward(self, n: int) -> Any:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand_by([1]).to_event(1))
            return pyro.sample("x", dist.Normal(self.mean(z), 1.0).to_event(1))


class Encoder(nn.Module):
    """q(z | x) = N(w·x + c, s²)."""

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.scale = nn.Linear(2, 1), nn.Parameter(torch.ones(1))

    def forward(self, batch: Any) -> None:
        with plate_of(batch):
            q = dist.Normal(self.loc(batch["x"]), self.scale.exp()).to_event(1)
            pyro.sample("z", q)


def small(model: type[Model] = Line, guide: type[nn.Module] = Encoder) -> tuple[Any, Any]:
    torch.manual_seed(0)
    return model(), guide()


def points(count: int = 12, dtype: torch.dtype = torch.float32) -> Dataset:
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(1))
    return Dataset(x.to(dtype))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 5, "log_every": 7, "steps": 16},  # the last of an epoch has two rows
        {"warm_up": 6, "log_every": 4, "weight_decay": 0.1},
        {"warm_up": 6, "objective_options": {"beta": 2.0, "num_particles": 3}, "clip": 0.3},
        {"warm_up": 6, "objective_options": {"free_bits": 0.5}, "ema": 0.9},
        {"accumulate": 3, "clip": 0.3, "seed": 3},
        {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine", "lr": 0.1},
        {"optimizer": "sgd", "schedule": "linear", "weight_decay": 0.1, "ema": 0.9},
        {"optimizer": "rmsprop", "schedule": "exponential", "eps": 1e-3},
        {"schedule": "burda", "betas": (0.8, 0.99), "eps": 1e-4},
        {"freeze": "model", "clip": 0.3},
        {"freeze": "guide", "ema": 0.9},
        {"held_out": points(7), "eval_every": 4, "patience": 1, "steps": 16, "lr": 1.0},
        {"held_out": points(7), "eval_every": 3, "ema": 0.5, "log_every": 5},
    ],
    ids=lambda options: "-".join(options),
)
def test_options(options: dict[str, Any]) -> None:
    p, q = small()
    check_captured(p, q, points(), **{"steps": 10, **options})


def test_early_stopping_is_at_the_same_step() -> None:
    options = {"held_out": points(7, torch.float64), "eval_every": 4, "patience": 1, "lr": 1.0}
    found = []
    for way in ("traced", "eager"):
        p, q = (part.double() for part in small())
        result = fit(p, q, points(12, torch.float64), steps=80, run=way, **options, **QUIET)
        found.append((result.steps, result.best_step, result.stopped_early))
    assert found[0] == found[1] and found[0][2] and found[0][0] < 80


def test_layers_in_bfloat16() -> None:
    p, q = small()
    check_captured(p, q, points(), steps=8, precision="bf16")


def test_a_side_that_the_objective_does_not_use_keeps_its_average() -> None:
    p, q = small(Known)
    check_captured(p, q, points(), "mle", steps=8, ema=0.9)


class Known(Line):
    """Knows log p(x)."""

    def log_evidence(self, x: Tensor) -> Tensor:
        cov = self.a @ self.a.mT + torch.eye(2).to(self.a)
        return dist.MultivariateNormal(self.b, cov).log_prob(x)


def table() -> tuple[Any, Any]:
    """A pair whose guide has a table, in the default type."""
    torch.manual_seed(0)
    p = Line()
    return p, Guide(p, points(), inference="per_datapoint")


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_table(optimizer: str) -> None:
    (p, q), data = table(), points()
    how = {"ema": 0.9, "clip": 0.3, "optimizer": optimizer, "log_every": 4}
    check_captured(p, q, data, steps=14, batch_size=5, **how)


def test_a_table_in_parts() -> None:
    p, q = table()
    check_captured(p, q, points(), steps=8, accumulate=2, clip=0.3, ema=0.9)


def labelled(count: int) -> Dataset:
    """18 rows, the first few with labels."""
    torch.manual_seed(0)
    x = (torch.rand(18, 4) < 0.5).double()
    return Dataset(x).labelled(torch.arange(count), torch.arange(count) % 2)


@pytest.mark.parametrize("inference", ["per_datapoint", "amortized"][: 1 + ALL])
def test_labelled_rows_some_of_them_twice_in_a_step(inference: str) -> None:
    data = labelled(3)
    torch.manual_seed(0)
    model = M2(4, 2, latent_dim=1, hidden=(3,), likelihood="bernoulli").double()
    q = Guide(model, data, inference=inference, inference_options=narrow(inference))
    once = (len(i[:2].unique()) for seed in range(99) for i in data.epoch(7, seed, 0, 2))
    seed = next(k for k, count in enumerate(once) if count < 2) // data.steps_per_epoch(7, 2)
    how = {"labelled_rows": 2, "seed": seed, "clip": 0.1, "ema": 0.9}
    check_captured(model, q, data, steps=5, batch_size=7, **how)


def narrow(inference: str) -> dict[str, Any]:
    return {} if inference == "per_datapoint" else {"hidden": (3,)}


def test_missing_entries() -> None:
    x = points()["x"].clone()
    x[::3, 0] = torch.nan
    p, data = Line(), Dataset(x, missing=True)
    q = Guide(p, data, inference="amortized", inference_options={"hidden": (3,)})
    check_captured(p, q, data, "miwae", steps=8, batch_size=5)


def test_dynamic_binarization() -> None:
    grey = np.random.default_rng(0).random((12, 4)).astype(np.float32)
    data = Images(grey, binarization="dynamic")
    model = VAE(4, latent_dim=1, hidden=(3,), likelihood="bernoulli").double()
    q = Guide(model, data, inference_options={"hidden": (3,)})
    check_captured(model, q, data, steps=8, batch_size=5)


class Running(Line):
    """Its mean is divided by a running length, as in batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("length", torch.ones(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def mean(self, z: Tensor) -> Tensor:
        mean = self.norm(super().mean(z))
        with torch.no_grad():
            self.length = 0.9 * self.length + 0.1 * mean.norm()  # another tensor
            self.count += 1  # in place
        return mean / self.length * self.count.clamp(max=3)


def test_buffers_that_a_step_writes() -> None:
    p, q = small(Running)
    check_captured(p, q, points(), steps=8, batch_size=5)


@pytest.mark.parametrize("particles", [1, 3])
def test_a_plain_pyro_function(particles: int) -> None:
    def line(x: Tensor) -> None:
        weight = pyro.param("weight", torch.ones(2))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) * weight, 1.0).to_event(1), obs=x)

    model, data = plain(line), points()
    q = Guide(model, data, inference_options={"hidden": (3,)})
    how = {"objective_options": {"num_particles": particles}}
    check_captured(model, q, data, "iwae", steps=8, **how)


def test_draws_of_all_kinds() -> None:
    check_captured(*small(Noisy), points(), steps=8)


class Noisy(Line):
    """Draws from everything that torch has, some of it for nothing."""

    def mean(self, z: Tensor) -> Tensor:
        like = z.detach().new_empty(2)
        torch.randn(3), torch.empty(3).normal_()
        noise = like.normal_() + torch.rand(2) + torch.empty(2).exponential_()
        noise = (
            noise + torch.distributions.Gamma(2.0, 3.0).sample((2,)) + torch.poisson(noise.abs())
        )
        return nn.functional.dropout(super().mean(z), 0.2) + torch.normal(noise, 1.0)


def test_a_model_in_float64_where_the_default_is_float32() -> None:
    p, q = (part.double() for part in small())
    result = fit(p, q, points(12, torch.float64), steps=3, run="traced", **QUIET)
    assert result.run["way"] == "traced"


# Stopping, going on, failing ---------------------------------------------------------------------


def test_a_resumed_fit_has_the_bits_of_one_that_was_not_interrupted(tmp_path: Path) -> None:
    data = points()
    how: dict[str, Any] = {"batch_size": 5, "ema": 0.9, "log_every": 4, "run": "traced", **QUIET}
    straight, parts = table(), table()
    result = fit(*straight, data, steps=20, out=tmp_path / "a", schedule="cosine", **how)
    stop = [lambda r: r.steps == 8 and signal.raise_signal(signal.SIGINT)]
    fit(*parts, data, steps=20, out=tmp_path / "b", schedule="cosine", callbacks=stop, **how)
    again = table()
    rest = fit(*again, data, steps=20, out=tmp_path / "b", schedule="cosine", resume=True, **how)
    assert rest.run == {"way": "traced", "why": "as before"} and rest.steps == 20
    assert same(straight, again)
    files = [torch_file(tmp_path / name) for name in ("a", "b")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(value, files[1][name]) for name, value in files[0].items())
    assert [r["loss"] for r in result.metrics] == [r["loss"] for r in rest.metrics]


def torch_file(folder: Path) -> dict[str, Tensor]:
    return read_tensors(folder / STATE)[0]


def test_a_fit_goes_on_as_it_was_run_before(tmp_path: Path) -> None:
    p, q = small()
    fit(p, q, points(), steps=2, out=tmp_path, run="eager", **QUIET)  # a float32 pair
    p, q = small()
    result = fit(p, q, points(), steps=4, out=tmp_path, run="traced", resume=True, **QUIET)
    assert result.run["way"] == "eager"


def test_a_fit_from_a_gpu_goes_on_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(*small(), points(), steps=2, out=tmp_path, run="traced", **QUIET)
    tensors, meta = read_tensors(tmp_path / STATE)
    write_tensors(tmp_path / STATE, tensors, {**meta, "run": {"way": "graph", "why": ""}})
    monkeypatch.setitem(WAYS, "compiled", in_order)
    result = fit(*small(), points(), steps=4, out=tmp_path, resume=True, **QUIET)
    assert result.run == {"way": "compiled", "why": "as before"}


class Breaking(Line):
    """Its scale is NaN once b is below -0.35."""

    def forward(self, n: int) -> Any:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand_by([1]).to_event(1))
            scale = torch.sqrt(self.b[0].clamp(max=0.0) + 0.35)
            return pyro.sample("x", dist.Normal(self.mean(z), scale).to_event(1))


def falling(model: Any, guide: Any, batch: Any) -> Tensor:
    """The ELBO, and the gradient of b alone: with plain SGD it falls by the learning rate."""
    return elbo(model, guide, batch).detach() + model.b[0] - model.b[0].detach()


def failures(make: Callable[[], Any], data: Any, objective: Any, **how: Any) -> list[str]:
    """What a fit fails with, captured and eager; the weights are the same then."""
    found, pairs = [], []
    for way in ("traced", "eager"):
        pairs.append(make())
        with pytest.raises(NonFiniteLossError) as error:
            fit(*pairs[-1], data, objective, steps=50, run=way, **how, **QUIET)
        found.append(str(error.value))
    close(*pairs)
    assert all(v.isfinite().all() for part in pairs[0] for v in part.state_dict().values())
    return found


@pytest.mark.parametrize("log_every", [1, 4, 100])
def test_a_loss_that_is_not_finite_is_told_by_step_and_site(log_every: int) -> None:
    """b falls from 0.3 by 0.1 a step: the eighth step, step 7, has -0.4."""
    how = {"optimizer": "sgd", "lr": 0.1, "accumulate": 2, "log_every": log_every}
    data = points()
    captured, eager = failures(lambda: small(Breaking), data, falling, **how)
    assert captured == eager
    assert "nan at step 7: the log-probability of site 'x' is nan" in captured


class Choosy(Encoder):
    """Its scale is NaN where more than six in ten bits are set."""

    def forward(self, batch: Any) -> None:
        with plate_of(batch):
            scale = torch.sqrt(0.6 - batch["x"].mean())
            q = dist.Normal(self.loc(batch["x"]), scale).to_event(1)
            pyro.sample("z", q)


def test_a_loss_that_is_not_finite_by_chance() -> None:
    """The second look at the step has the same bits and the same draws."""
    data = Images(np.full((12, 2), 0.5, np.float32), binarization="dynamic")
    captured, eager = failures(lambda: small(Line, Choosy), data, "elbo", batch_size=6, seed=1)
    assert captured == eager and "the value of site 'z' is nan" in captured
    assert "at step 0" not in captured


# What must not be captured -----------------------------------------------------------------------

STATE_OF = {"calls": 0}
OUTSIDE = nn.Parameter(torch.ones(2))
OWN = torch.Generator()


class Sinner(Line):
    """Its mean goes through something that a graph cannot hold."""

    calls = 0

    def __init__(self, sin: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.sin, self.calls, self.weight = sin, 0, 1.0

    def mean(self, z: Tensor) -> Tensor:
        self.calls += self.sin is late
        return self.sin(self, super().mean(z))


def late(model: Any, mean: Tensor) -> Tensor:
    """A counter that changes the loss after a while, and not while it is traced."""
    return mean if model.calls < 1000 else 2 * mean


def counted(model: Any, mean: Tensor) -> Tensor:
    STATE_OF["calls"] += 1
    return mean * STATE_OF["calls"]


def swallowed(model: Any, mean: Tensor) -> Tensor:
    try:
        return 2 * mean if mean.square().sum() > 0 else mean
    except RuntimeError:
        return mean


def again(model: Any, mean: Tensor) -> Tensor:
    def noisy(mean: Tensor) -> Tensor:
        return mean.tanh() * torch.rand_like(mean)

    return checkpoint(noisy, mean, use_reentrant=False)


def zeros(seed: int) -> Tensor:
    torch.manual_seed(seed)
    return torch.zeros(2)


READ, TWO = "the value of a tensor is read on the host", "two runs of the step are not the same"
OUTER = "is used from outside the modules of model and guide"
SINS: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "if tensor": (lambda m, y: y if y.sum() > 0 else -y, f"{READ}.*in test_capture.py, line"),
    "tolist": (lambda m, y: y * y.tolist()[0][0], TWO),
    "numpy": (lambda m, y: y * torch.as_tensor(y.detach().numpy()).mean(), TWO),
    "random": (lambda m, y: y * random.random(), TWO),
    "np.random": (lambda m, y: y * np.random.rand(), TWO),  # noqa: NPY002
    "np.random, a tensor": (lambda m, y: y * torch.as_tensor(np.random.rand(2)), TWO),  # noqa: NPY002
    "a counter": (counted, TWO),
    "a counter that matters later": (late, "every run changes the attribute 'calls' of Sinner"),
    "a shape that depends on values": (lambda m, y: y + y[y > 0].mean(), "the shape of a result"),
    "a parameter from outside": (lambda m, y: y + OUTSIDE, OUTER),
    "a part of it": (lambda m, y: y + OUTSIDE[:1].detach(), OUTER),
    "an error that is swallowed": (swallowed, "the captured gradient is"),
    "a generator of its own": (lambda m, y: y + torch.rand(2, generator=OWN), "the captured grad"),
    "a seed": (
        lambda m, y: y + torch.manual_seed(0).initial_seed() + torch.rand(2),
        "sets the state",
    ),
    "a checkpoint": (again, "sets the state of the random numbers"),
}


@pytest.mark.parametrize("name", SINS)
def test_what_a_graph_cannot_hold_runs_eager_and_says_why(name: str) -> None:
    sin, words = SINS[name]
    found = []
    for way in ("traced", "eager"):
        torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
        OWN.manual_seed(0), STATE_OF.update(calls=0)
        p, q = Sinner(sin), Encoder()
        found.append((fit(p, q, points(), steps=4, log_every=1, run=way, **QUIET), p, q))
    assert re.search(words, told(found[0][0]))
    if name not in ("a counter", "a generator of its own"):  # which the try has moved on
        assert same(found[0][1:], found[1][1:])


class Reading(Encoder):
    """Takes the rows to NumPy."""

    def forward(self, batch: Any) -> None:
        with plate_of(batch):
            loc = self.loc(batch["x"]) + float(batch["x"].numpy().mean())
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def test_a_guide_that_takes_its_rows_to_numpy_is_captured_for_all_rows_alone() -> None:
    check_captured(*small(Line, Reading), points(), steps=3)
    p, q = small(Line, Reading)
    assert re.search(TWO, told(fit(p, q, points(), steps=3, batch_size=4, run="traced", **QUIET)))


def test_hooks_on_a_gradient_run_eager() -> None:
    p, q = small()
    p.a.register_hook(lambda slope: 0 * slope)
    before = p.a.detach().clone()
    assert "has a hook" in told(fit(p, q, points(), steps=3, run="traced", **QUIET))
    assert torch.equal(p.a, before)


def test_an_attribute_that_a_callback_changes_ends_the_capture() -> None:
    found = []
    for way in ("traced", "eager"):
        p, q = Sinner(lambda m, y: y * m.weight), small()[1]
        change = [lambda r: setattr(r.model, "weight", 0.5 ** (r.steps // 8))]
        how: dict[str, Any] = {"steps": 20, "log_every": 4, "callbacks": change}
        found.append((fit(p, q, points(), run=way, **how, **QUIET), p, q))
    told = found[0][0].run
    assert told["way"] == "eager" and "'weight' of Sinner has been changed" in told["why"]
    close(found[0][1:], found[1][1:])


def close(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=1e-5, atol=1e-6)


def test_a_loss_that_differs_later_ends_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something outside of the modules changes at step 15; steps are looked at every 10."""
    monkeypatch.setattr(engine, "CHECK_EVERY", 10)
    outside = {"weight": 1.0}
    p, q = Sinner(lambda m, y: y * outside["weight"]), small()[1]
    change = [lambda r: outside.update(weight=2.0 if r.steps >= 15 else 1.0)]
    how: dict[str, Any] = {"steps": 30, "log_every": 5, "callbacks": change}
    result = fit(p, q, points(), run="traced", **how, **QUIET)
    assert re.match("at step 20 the captured loss is .* and the eager one, .*", told(result))
    assert result.steps == 30 and [row["step"] for row in result.metrics] == [5, 10, 15, 20, 25, 30]


# Around it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "device", "steps", "way"),
    [
        ("auto", "cpu", 9_999, "eager"),
        ("auto", "cpu", 10_000, "compiled"),
        ("auto", "cuda", 1_999, "eager"),
        ("auto", "cuda", 2_000, "graph"),
        ("auto", "cuda", 49_999, "graph"),
        ("auto", "cuda", 50_000, "compiled"),
        ("auto", "mps", 10**6, "eager"),
        ("eager", "cpu", 10**6, "eager"),
        ("compiled", "cpu", 1, "compiled"),
        ("graph", "cuda", 1, "graph"),
    ],
)
def test_which_way_is_chosen(asked: Any, device: str, steps: int, way: str) -> None:
    found, why = choose(asked, torch.device(device), steps)
    assert found == way and why == (f"{steps} steps" if asked == "auto" else "asked for")


def test_words_that_are_no_way() -> None:
    with pytest.raises(ValueError, match="run is auto, eager, compiled or graph, got 'fast'"):
        fit(*small(), points(), run="fast", **QUIET)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="run='graph' replays CUDA graphs, and the device is cpu"):
        fit(*small(), points(), run="graph", **QUIET)


def test_the_users_random_numbers_go_on_as_after_an_eager_fit() -> None:
    after = []
    for way in ("traced", "eager"):
        torch.manual_seed(1), random.seed(1), np.random.seed(1)  # noqa: NPY002
        fit(*small(), points(), steps=3, run=way, **QUIET)
        after.append((torch.rand(3).tolist(), random.random(), np.random.rand()))  # noqa: NPY002
    assert after[0] == after[1]


def test_nothing_of_a_captured_fit_stays_behind() -> None:
    """Model and data of earlier fits are freed, and a later fit is what it would be alone."""
    weak, ends = [], []
    for _ in range(3):
        p, q = small()
        data = points()
        fit(p, q, data, steps=3, run="traced", **QUIET)
        weak.append((weakref.ref(p), weakref.ref(data)))
        ends.append([v.clone() for v in p.state_dict().values()])
    assert all(torch.equal(a, b) for end in ends for a, b in zip(end, ends[0], strict=True))
    del p, q, data
    gc.collect()
    assert not [r for pair in weak for r in pair if r() is not None]


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="compiles; ZOO_TEST_ALL=1")
def test_many_compiled_fits_in_one_process() -> None:
    weak = []
    for k in range(10):
        p, q = small()
        data = points(12 + k)
        result = fit(p, q, data, steps=4, run="compiled", **QUIET)
        assert result.run["way"] == "compiled", result.run
        weak.append((weakref.ref(p), weakref.ref(data)))
    del p, q, data
    gc.collect()
    assert not [r for pair in weak for r in pair if r() is not None]
    check_captured(*small(), points(), run="compiled", log_every=3)


def test_a_graph_of_a_function_with_other_inputs_and_its_errors() -> None:
    def shift(x: Tensor, y: Tensor) -> tuple[()]:
        x.add_(y + torch.randn(3))
        return ()

    graph = trace(shift, [torch.zeros(3), torch.ones(3)])
    x = torch.zeros(3)
    torch.manual_seed(0)
    graph(x, torch.full((3,), 2.0))
    torch.manual_seed(0)
    assert torch.equal(x, 2 + torch.randn(3))
    with pytest.raises(CannotCapture, match="read on the host"):
        trace(lambda x: x.add_(x.sum().item()), [torch.ones(2)])


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
def test_updates_are_those_of_torch(name: str, decay: float, float64: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(3, 2)
    (theirs,) = make_optimizers([layer], name, 0.05, weight_decay=decay)
    ours = copy.deepcopy(theirs)
    parameter = layer.weight
    value, own = parameter.detach().clone(), ours.param_groups[0]["params"][0]
    kept = moments(ours, own)
    for step in range(1, 8):
        lr = 0.05 / step
        parameter.grad = torch.randn(2, 3, generator=generator)
        theirs.param_groups[0]["lr"] = lr
        theirs.step()
        row = torch.tensor(coefficients(lr, step, betas_of([ours])), dtype=torch.float64)
        value, kept = updated(ours, value, parameter.grad, kept, row)
        torch.testing.assert_close(value, parameter.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_updates_of_a_table_are_those_of_torch(name: str, float64: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    table = nn.Embedding(6, 2, sparse=True)
    (theirs,) = make_optimizers([table], name, 0.05)
    value = table.weight.detach().clone()
    ours = copy.deepcopy(theirs)
    kept = moments(ours, ours.param_groups[0]["params"][0])
    for step in range(1, 8):
        rows = torch.randperm(6, generator=generator)[:3]
        slope = torch.randn(3, 2, generator=generator)
        theirs.zero_grad()
        (table(rows) * slope).sum().backward()
        theirs.step()
        row = torch.tensor(coefficients(0.05, step, betas_of([ours])), dtype=torch.float64)
        new, moved = updated(ours, value[rows], slope, [m[rows] for m in kept], row)
        value[rows] = new
        for m, after in zip(kept, moved, strict=True):
            m[rows] = after
        torch.testing.assert_close(value, table.weight.detach(), rtol=1e-12, atol=1e-14)


# On a GPU ----------------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("run", ["traced", "graph", "compiled"])
@pytest.mark.parametrize("options", [{}, {"batch_size": 5, "ema": 0.9, "clip": 0.3}], ids=str)
def test_on_a_gpu(run: str, options: dict[str, Any]) -> None:
    """The same losses and, after 100 steps with the same draws, the same weights as eager."""
    p, q = small()
    check_captured(p.cuda(), q.cuda(), points(), run=run, steps=100, log_every=20, **options)


@pytest.mark.cuda
@pytest.mark.parametrize("case", tenth(covering(), 1), ids="-".join)
def test_every_model_family_and_objective_as_a_graph(case: tuple[str, str, str]) -> None:
    model, family, objective = case
    try:
        p, q, data = pair(model, family, inference=source(case))
        check_captured(p.cuda(), q.cuda(), data, objective, run="graph", steps=12, lr=1e-3)
    except ValueError as error:
        pytest.skip(f"refused: {error}")


@pytest.mark.cuda
def test_a_table_on_a_gpu() -> None:
    p, q = table()
    how: dict[str, Any] = {"batch_size": 5, "ema": 0.9, "clip": 0.3}
    check_captured(p.cuda(), q.cuda(), points(), run="graph", steps=30, log_every=6, **how)


@pytest.mark.cuda
def test_buffers_on_a_gpu() -> None:
    p, q = small(Running)
    check_captured(p.cuda(), q.cuda(), points(), run="graph", steps=30, log_every=6)


@pytest.mark.cuda
@pytest.mark.parametrize("run", ["graph", "compiled"])
def test_a_hundred_steps_without_a_wait(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is done for steps that are replayed, their rows and losses with it."""
    taken, inner = [], engine.Engine._captured

    def watched(self: engine.Engine, order: list[Tensor]) -> int:
        quiet = len(order[0]) in self.made and self.loop.result.steps % engine.CHECK_EVERY > 0
        torch.cuda.set_sync_debug_mode("error" if quiet else "default")
        try:
            count = inner(self, order)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        taken.append(count if quiet else 0)
        return count

    monkeypatch.setattr(engine.Engine, "_captured", watched)
    p, q = small()
    how: dict[str, Any] = {"batch_size": 4, "ema": 0.9, "clip": 0.3, "log_every": 50}
    result = fit(p, q, points(), steps=200, run=run, progress=False, device="cuda", **how)
    assert result.run["way"] == run and sum(taken) >= 100


@pytest.mark.cuda
def test_a_loss_that_is_not_finite_on_a_gpu() -> None:
    """The steps after it, which nobody has looked at yet, leave the weights as they were."""
    p, q = small(Breaking)
    how: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "log_every": 50}
    with pytest.raises(NonFiniteLossError, match="nan at step 7: the log-probability of site 'x'"):
        fit(p, q, points(), falling, steps=50, run="graph", progress=False, device="cuda", **how)
    assert float(p.b[0]) == pytest.approx(-0.4, abs=1e-5)


@pytest.mark.cuda
def test_the_users_random_numbers_on_a_gpu_go_on_as_after_an_eager_fit() -> None:
    after = []
    for way in ("graph", "eager"):
        torch.manual_seed(1)
        fit(*small(), points(), steps=3, run=way, progress=False, device="cuda")
        after.append(torch.rand(3, device="cuda"))
    assert torch.equal(*after)
