"""Few labels from the command line: runs, stacks, series of seeds, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import zoo
from experiments.cli import main
from experiments.runs import Spec, complete, run
from experiments.several import several
from guides import Guide
from guides.estimators import Drawn
from zoo.context import seeded
from zoo.data import Dataset
from zoo.models.bayesian_gmm import BayesianGMM
from zoo.models.gmm import GMM
from zoo.models.m1m2 import M1M2
from zoo.models.m2 import M2
from zoo.objectives.bounds import elbo, renyi
from zoo.objectives.likelihood import mle
from zoo.objectives.stock import traceenum_elbo

QUICK = {"steps": 3, "batch_size": 40, "progress": False}
SMALL: dict[str, Any] = {
    "data": "iris",
    "model_options": {"hidden": [8], "latent_dim": 2},
    "inference_options": {"hidden": [8]},
    "classifier_options": {"hidden": [8], "alpha": 1.0},
    "data_options": {"labels": 9},
    "fit_options": QUICK,
    "eval_particles": 3,
    "eval_rows": 10,
}


def test_a_run_has_its_labels_and_error_in_the_summary(tmp_path: Path) -> None:
    outcome = run(Spec("m2", **SMALL), tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["num_labels"] == 9 and summary["estimator"] == "enumerate"
    error = summary["test"]["error"]
    q = outcome.guide.classify(outcome.split.test.batch())["y"]  # type: ignore[union-attr]
    wrong = (q.argmax(-1) != outcome.split.test.labels).double().mean().item()  # type: ignore
    assert error["mean"] == pytest.approx(wrong)
    assert error["se"] == pytest.approx((wrong * (1 - wrong) / 30) ** 0.5)
    assert outcome.model.num_classes == 3  # those of the data
    assert {row.get("loss_is") for row in outcome.result.metrics} <= {"not a bound"}
    assert "log q(y | x)" in outcome.result.no_bound
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    again = run(Spec.from_dict(config), tmp_path / "again")
    assert again.summary["test"]["error"] == error and again.spec == outcome.spec


def test_estimators_may_be_compared(tmp_path: Path, capsys: Any) -> None:
    line = "compare m2 --data iris --labels 9 --family mean_field --inference amortized --steps 3"
    line += " --estimator enumerate,score,gumbel,collapse --model.hidden 8 --classifier.hidden 8"
    line += f" --eval-rows 10 --eval-particles 3 --out {tmp_path / 'c'}"
    assert main(line.split()) == 0
    runs = json.loads((tmp_path / "c" / "compare.json").read_text())["runs"]
    words = {r["guide"].rpartition(" / ")[2]: r for r in runs}
    assert set(words) == {"enumerate", "score", "gumbel", "collapse"}
    assert all(r["test"]["error"]["mean"] <= 1 and r["eval_particles"] == 3 for r in runs)


@pytest.fixture(scope="module")
def m1(tmp_path_factory: Any) -> Path:
    place = tmp_path_factory.mktemp("m1") / "run"
    options = {"hidden": [8], "latent_dim": 3, "activation": "relu"}
    spec = Spec(
        "vae", "iris", model_options=options, inference_options={"hidden": [8]}, fit_options=QUICK
    )
    outcome = run(spec)
    with torch.no_grad():  # codes that move with x, and one that does not
        outcome.guide.source.encoder[-1].weight.mul_(30)  # type: ignore[union-attr]
        outcome.guide.source.encoder[-1].weight[2] = 0  # type: ignore[union-attr]
    spec = Spec.from_dict({**spec.__dict__, "fit_options": {**QUICK, "steps": 400, "lr": 0.01}})
    run(spec, place)
    return place


def test_m1m2_is_stacked_on_a_frozen_vae(m1: Path, tmp_path: Path) -> None:
    """Decoder and encoder are those of M1, before and after; the rest is trained, and resumes."""
    spec = Spec(
        "m1m2",
        "iris",
        m1_from=str(m1),
        m1_min_sd=0.0,
        model_options={"style_dim": 2, "style_hidden": [8]},
        inference_options={"style_hidden": [8]},
        classifier_options={"hidden": [8]},
        data_options={"labels": 9, "validation_labels": 6},
        fit_options=QUICK,
        eval_particles=3,
        eval_rows=10,
    )
    outcome = run(spec, tmp_path / "run")
    below = zoo.load(m1)
    for name, value in below.model.decoder.state_dict().items():
        assert value.equal(outcome.model.decoder.state_dict()[name])
    family: Any = outcome.guide.family
    for name, value in below.guide.source.state_dict().items():
        assert value.equal(family.first.state_dict()[name])
    assert not any(p.requires_grad for p in outcome.model.decoder.parameters())
    assert outcome.summary["validation"]["error"]["mean"] <= 1
    assert any("codes of M1 are used" in note for note in outcome.summary["notes"])
    loaded = zoo.load(tmp_path / "run")
    batch = outcome.split.test.batch()  # type: ignore[union-attr]
    torch.testing.assert_close(
        loaded.guide.classify(batch)["y"], outcome.guide.classify(batch)["y"]
    )
    longer = Spec.from_dict({**spec.__dict__, "fit_options": {**QUICK, "steps": 6}})
    whole = run(longer)
    resumed = run(longer, tmp_path / "run", resume=True)
    for name, value in whole.guide.state_dict().items():
        assert value.equal(resumed.guide.state_dict()[name]), name
    high = Spec.from_dict({**spec.__dict__, "m1_min_sd": 1e9})
    with pytest.raises(ValueError, match="it has collapsed"):
        run(high)


def test_several_seeds_have_a_mean_and_a_deviation(tmp_path: Path, capsys: Any) -> None:
    spec = Spec("m2", **SMALL)
    content = several(spec, 2, tmp_path / "s")
    values = [s["test"]["error"]["mean"] for s in content["summaries"]]
    assert content["test"]["error"]["values"] == values and content["seeds"] == [0, 1]
    assert content["test"]["error"]["mean"] == pytest.approx(sum(values) / 2)
    seeds = [s["data_record"]["label_seed"] for s in content["summaries"]]
    assert seeds == [0, 1]  # labels of their own
    before = (tmp_path / "s" / "seed-0" / "weights.safetensors").stat().st_mtime_ns
    assert several(spec, 2, tmp_path / "s")["test"] == content["test"]  # nothing is run again
    assert (tmp_path / "s" / "seed-0" / "weights.safetensors").stat().st_mtime_ns == before
    other = Spec("m2", **{**SMALL, "data_options": {"labels": 12}})
    with pytest.raises(ValueError, match="a run of other data_options"):
        several(other, 2, tmp_path / "s")
    with pytest.raises(ValueError, match="holds a run itself"):
        several(spec, 2, tmp_path / "s" / "seed-0")
    with pytest.raises(ValueError, match="counts runs from 2"):
        several(spec, 1)


def test_the_number_of_classes_is_that_of_the_data() -> None:
    assert complete(Spec("m2", "iris")).model_options["num_classes"] is None
    split = zoo.load_data("iris", labels=9)
    assert M2.for_data(split.train).num_classes == M1M2.for_data(split.train).num_classes == 3


def test_a_hold_out_says_how_many_labels_are_left() -> None:
    spec = Spec("m2", **{**SMALL, "held_out_fraction": 0.25, "data_options": {"labels": 60}})
    outcome = run(spec)
    assert outcome.summary["num_labels"] == outcome.split.train.num_labelled < 60


def refused(words: str, make: Any) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_what_would_be_wrong_is_refused() -> None:
    model, data = M2.example()
    batch = data.batch()
    score = Guide(model, data, estimator="score")
    refused("free bits need draws with a path", lambda: elbo(model, score, batch, free_bits=1.0))
    guide = Guide(model, data)
    refused("α < 0", lambda: renyi(model, guide, batch, alpha=-1.0, num_particles=3))
    refused("steps on the bound of a label", lambda: Guide(
        model, data, inference="semi_amortized", estimator="gumbel"))  # fmt: skip
    mixture, rows = BayesianGMM.example()
    some = rows.labelled(torch.arange(10), y=torch.arange(10) % 2)
    shared = Guide(mixture, some)
    first, _ = next(iter(some.parts(None)))
    refused("which all rows share", lambda: traceenum_elbo(mixture, shared, first))
    flowers = zoo.load_data("iris", labels=9).train
    refused("more classes than the 2", lambda: GMM.for_data(flowers, num_components=2))
    ppca = zoo.load_data("iris", labels=9).train
    from zoo.models.ppca import PPCA

    refused("no discrete latents of PPCA", lambda: Guide(PPCA.for_data(ppca), ppca))


def test_mixtures_with_labels_have_a_likelihood() -> None:
    """mle of labelled rows is log p(x, y), of the others log p(x)."""
    split = zoo.load_data("iris", labels=30)
    model = GMM.for_data(split.train, num_components=3, covariance="diagonal")
    result = zoo.fit(model, None, split.train, "mle", steps=30, lr=0.02, progress=False)
    assert result.metrics == [] or result.metrics[-1]["loss"] < 1e3
    first = split.train.batch(torch.arange(30))
    joint = model.log_joint(first["x"]).gather(1, first["y"].unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(mle(model, None, first), -joint.mean())


def test_draws_by_gumbel_noise_have_the_probabilities() -> None:
    """200 000 draws: each share within 5 standard errors."""
    p = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]])
    q = Drawn(probs=p).expand([4, 2])
    assert isinstance(q, Drawn)
    with seeded(0):
        y = q.sample((50_000,))
    assert y.shape == (50_000, 4, 2)
    for c in range(3):
        share = (y == c).double().mean((0, 1))
        assert ((share - p[:, c]).abs() <= 5 * (p[:, c] * (1 - p[:, c]) / 200_000).sqrt()).all()


def test_a_score_guide_of_many_states_has_a_posterior() -> None:
    """Above 1024 values y is drawn, in evaluation too."""
    x = torch.rand(6, 4).round()
    model = M2(4, 1100, latent_dim=1, hidden=(4,), likelihood="bernoulli")
    guide = Guide(model, Dataset(x), estimator="score", estimator_options={"baseline": "none"})
    q = guide.posterior(Dataset(x).batch(), 3)
    assert q.samples["y"].shape == (3, 6) and q.probabilities["y"].shape == (6, 1100)
