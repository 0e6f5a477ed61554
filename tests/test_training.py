"""Options of training: KL weights, averages, accumulation, schedules and precision."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.runs import Spec, run
from experiments.show.report import loss_curve, not_a_bound
from guides import Guide
from zoo import Dataset, fit, load
from zoo.averaging import Average
from zoo.backward import Backward
from zoo.context import half_layers
from zoo.images import Images
from zoo.kl_weight import training_note
from zoo.models.gmm import GMM
from zoo.models.ppca import PPCA
from zoo.objectives.bounds import elbo
from zoo.optim import learning_rate, make_optimizers
from zoo.progress import Bar
from zoo.store import RunError
from zoo.weights import log_weights

QUIET = {"progress": False, "device": "cpu"}


def rows(count: int = 30, dim: int = 3, seed: int = 0) -> Dataset:
    return Dataset(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


def pair(data: Dataset, family: str = "mean_field", inference: str = "amortized", **options: Any):
    torch.manual_seed(1)
    model = PPCA(data_dim=data.event_shape("x")[0], latent_dim=1)
    return model, Guide(model, data, family, inference, **options)


def weights(*parts: nn.Module) -> list[Tensor]:
    return [value.clone() for part in parts for value in part.state_dict().values()]


def close(a: list[Tensor], b: list[Tensor], atol: float) -> bool:
    return all(torch.allclose(x, y, rtol=0, atol=atol) for x, y in zip(a, b, strict=True))


class TestWarmUp:
    def test_beta_rises_in_a_line_from_nought_to_that_of_the_objective(self) -> None:
        data, seen = rows(), []
        model, guide = pair(data)

        def objective(model, guide, batch, *, beta=1.0) -> Tensor:
            seen.append(beta)
            return elbo(model, guide, batch, beta=beta)

        options = {"objective_options": {"beta": 2.0}, "warm_up": 4, "steps": 7}
        fit(model, guide, data, objective, **options, **QUIET)
        assert [float(beta) for beta in seen] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
        assert all(isinstance(beta, Tensor) and beta.dim() == 0 for beta in seen[:4])

    def test_held_out_looks_are_at_the_bound_itself(self) -> None:
        data, held_out = rows(), rows(20, seed=4)
        model, guide = pair(data, "exact")
        options = {"objective_options": {"beta": 0.2}, "warm_up": 100}
        options |= {"held_out": held_out, "eval_every": 2, "steps": 2}
        result = fit(model, guide, data, **options, **QUIET)
        look = next(row["held_out"] for row in result.metrics if "held_out" in row)
        assert look == pytest.approx(model.log_evidence(held_out["x"]).mean().item(), abs=1e-5)

    @pytest.mark.parametrize("objective", ["mle", "trace_elbo"])
    def test_an_objective_without_a_kl_weight_is_refused(self, objective: str) -> None:
        data = rows()
        with pytest.raises(ValueError, match=f"KL weight β of an objective, and {objective} has"):
            fit(*pair(data), data, objective, warm_up=5, **QUIET)


class TestLabels:
    """Whatever prints a loss that is no bound says so."""

    def metrics(self, warm_up: int = 0, **options: Any) -> list[dict[str, Any]]:
        data = rows()
        settings = {"objective_options": options, "warm_up": warm_up, "log_every": 2, "steps": 6}
        return fit(*pair(data), data, **settings, **QUIET).metrics

    def labels(self, *args: Any, **options: Any) -> list[bool]:
        return [row.get("loss_is") == "not a bound" for row in self.metrics(*args, **options)]

    def test_rows_of_metrics(self) -> None:
        assert self.labels() == [False] * 3
        assert self.labels(beta=2.0) == self.labels(free_bits=0.1) == [True] * 3
        assert self.labels(3) == [True, True, False]

    def test_the_curve_of_the_loss(self, tmp_path: Path) -> None:
        assert not_a_bound(self.metrics()) == ""
        assert not_a_bound(self.metrics(beta=0.5)) == ", not a bound"
        assert not_a_bound(self.metrics(3)) == ", not a bound up to step 4"
        loss_curve(self.metrics(3), "elbo", tmp_path / "loss.png")
        assert (tmp_path / "loss.png").stat().st_size > 1000

    def test_the_bar(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data, notes = rows(), []
        result = fit(*pair(data), data, objective_options={"beta": 2.0}, steps=1, **QUIET)
        bar = Bar(False, 1, 0)
        monkeypatch.setattr(bar.rich, "update", lambda *_, note, **__: notes.append(note))
        bar.update(result)
        assert "nats/datapoint (not a bound)" in notes[0]

    def test_the_summary(self) -> None:
        spec = Spec(
            "ppca",
            "wine",
            eval_particles=2,
            objective_options={"beta": 2.0, "free_bits": 0.25},
            fit_options={"steps": 2, "warm_up": 1, "ema": 0.5, "progress": False},
        )
        notes = run(spec).summary["notes"]
        assert any(
            "trained on elbo (β = 2 and free bits of 0.25 nats, and β rising" in note
            and "which is not a bound; the bounds reported are" in note
            for note in notes
        )
        assert any("exponential moving average" in note for note in notes)
        assert training_note("elbo", {"beta": 1.0, "free_bits": 0.0}) == ""


@pytest.mark.usefixtures("float64")
class TestAverage:
    @pytest.mark.parametrize("inference", ["amortized", "per_datapoint"])
    def test_it_is_the_weighted_mean_of_all_steps(self, inference: str) -> None:
        """θ̄ = (1-d) Σ_s d^(t-s) θ_s/(1 - d^t), tables' rows that no batch had included."""
        data, decay, taken = rows(12), 0.8, []
        model, guide = pair(data, inference=inference)
        fit(
            model,
            guide,
            data,
            steps=9,
            batch_size=5,
            lr=0.1,
            ema=decay,
            log_every=1,
            callbacks=[lambda _: taken.append(weights(model, guide))],
            **QUIET,
        )
        assert len(taken) == 9
        shares = torch.tensor([decay ** (9 - s) for s in range(1, 10)])
        shares = shares / shares.sum()  # (1-d)/(1 - d^t) each
        expected = [
            sum(share * step[i] for share, step in zip(shares, taken, strict=True))
            for i in range(len(taken[0]))
        ]
        assert close(weights(model, guide), expected, 1e-12)
        assert not close(taken[-1], expected, 1e-3)

    def test_held_out_rows_are_looked_at_with_it(self) -> None:
        data, held_out = rows(), rows(20, seed=4)
        model, guide = pair(data, "exact")
        options = {"held_out": held_out, "eval_every": 5, "steps": 20, "lr": 0.05, "ema": 0.9}
        result = fit(model, guide, data, **options, **QUIET)
        looks = {row["step"]: row["held_out"] for row in result.metrics if "held_out" in row}
        best = model.log_evidence(held_out["x"]).mean().item()
        assert best == pytest.approx(looks[result.best_step], abs=1e-9)

    def test_a_look_leaves_the_weights_of_the_steps_as_they_are(self) -> None:
        data, ends = rows(), []
        for held_out in (None, rows(5, seed=2)):
            model, guide = pair(data)
            options = {"steps": 11, "batch_size": 7, "ema": 0.9, "eval_every": 100}
            if held_out is not None:
                options |= {"held_out": held_out, "eval_every": 11}  # the look is at the last step
            fit(model, guide, data, **options, **QUIET)
            ends.append(weights(model, guide))
        assert close(*ends, atol=0)

    def test_what_is_kept_on_disk_is_the_average(self, tmp_path: Path) -> None:
        data = rows()
        model, guide = pair(data)
        fit(model, guide, data, steps=5, ema=0.9, out=tmp_path, **QUIET)
        found = load(tmp_path)
        assert close(weights(found.model, found.guide), weights(model, guide), 0)

    @pytest.mark.parametrize("decay", [0.0, 1.0, -0.1])
    def test_a_decay_is_between_nought_and_one(self, decay: float) -> None:
        with pytest.raises(ValueError, match="ema is a decay between 0 and 1"):
            Average({}, decay)


@pytest.mark.usefixtures("float64")
class TestAccumulation:
    @pytest.mark.parametrize("parts", [2, 3, 11, 50])
    @pytest.mark.parametrize("inference", ["exact", "per_datapoint"])
    def test_the_gradient_is_that_of_the_whole_batch(self, parts: int, inference: str) -> None:
        """Without noise, that is with the exact posterior or a point mass; batches of 11 and 7."""
        data, ends, losses = rows(40), [], []
        for accumulate in (1, parts):
            how = ("exact",) if inference == "exact" else ("delta", inference)
            model, guide = pair(data, *how)
            options = {"steps": 9, "batch_size": 11, "log_every": 1, "lr": 0.05}
            result = fit(model, guide, data, accumulate=accumulate, **options, **QUIET)
            ends.append(weights(model, guide))
            losses.append([row["loss"] for row in result.metrics])
        assert close(*ends, atol=1e-6)
        assert losses[0] == pytest.approx(losses[1], abs=1e-6)

    def test_the_whole_data_set_in_parts(self) -> None:
        data = rows(10)
        model, guide = pair(data, "exact")
        before = -model.log_evidence(data["x"]).mean().item()
        result = fit(model, guide, data, steps=1, accumulate=3, **QUIET)
        assert result.metrics[0]["loss"] == pytest.approx(before, abs=1e-9)

    def test_an_objective_that_leaves_its_own_gradients_is_refused(self) -> None:
        data = rows()
        with pytest.raises(ValueError, match="whole data set"):
            fit(*pair(data), data, "renyi_elbo", accumulate=2, **QUIET)

        def objective(model, guide, batch) -> Tensor:
            model.mean.grad = torch.ones_like(model.mean)
            return torch.zeros(())

        with pytest.raises(ValueError, match="need a loss that can be differentiated"):
            fit(*pair(data), data, objective, accumulate=2, **QUIET)

    def test_a_nan_names_the_part_that_it_came_from(self) -> None:
        data = rows()
        model, guide = pair(data)

        def spoil(result) -> None:
            with torch.no_grad():
                model.mean[1] = math.nan

        options = {"steps": 9, "log_every": 4, "accumulate": 3, "callbacks": [spoil]}
        with pytest.raises(RuntimeError, match="nan at step 4: parameter 'mean'"):
            fit(model, guide, data, **options, **QUIET)


def test_rows_that_are_drawn_anew_are_asked_for_in_every_step() -> None:
    grey = torch.full((6, 2, 2), 128, dtype=torch.uint8)
    seen: list[Tensor] = []

    def loss_of(model, guide, batch) -> Tensor:
        seen.append(batch["x"])
        return torch.zeros(())

    for binarization in ("dynamic", "static"):
        data = Images(grey.numpy(), binarization=binarization)
        backward = Backward(loss_of, data, whole=True)
        for step in range(2):
            backward(None, None, torch.arange(6), step)
    assert not torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])


class TestOptimizers:
    def test_the_schedule_of_burda_et_al(self) -> None:
        """Stage i of 1 … 8 takes 3^(i-1) of 3280 epochs, here of 10 steps."""
        published = [1e-3, 7.2e-4, 5.2e-4, 3.7e-4, 2.7e-4, 1.9e-4, 1.4e-4, 1e-4]
        rounded = [0.001, 0.0007, 0.0005, 0.0004, 0.0003, 0.0002, 0.0001, 0.0001]
        rates = [learning_rate("burda", 1e-3, step, 32800) for step in range(32800)]
        expected = [rate for i, rate in enumerate(published) for _ in range(10 * 3**i)]
        assert rates == pytest.approx(expected, rel=1e-12)
        assert [round(rate, 4) for rate in published] == rounded
        assert learning_rate("burda", 1e-3, 0, 0) == pytest.approx(1e-4)

    def test_adam_takes_its_own_numbers(self) -> None:
        table = nn.Embedding.from_pretrained(torch.zeros(4, 2), freeze=False, sparse=True)
        made = make_optimizers([nn.Linear(2, 1), table], "adam", 0.1, eps=1e-4, betas=[0.99, 0.999])
        for optimizer in made:
            assert optimizer.defaults["eps"] == 1e-4
            assert optimizer.defaults["betas"] == (0.99, 0.999)
        (rmsprop,) = make_optimizers([nn.Linear(2, 1)], "rmsprop", 0.1, eps=1e-4)
        assert rmsprop.defaults["eps"] == 1e-4

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"optimizer": "sgd", "eps": 1e-4}, "sgd takes no eps"),
            ({"optimizer": "rmsprop", "betas": [0.5, 0.9]}, "rmsprop takes no betas"),
            ({"eps": 0.0}, "eps is above 0"),
            ({"betas": [0.9]}, "betas two numbers"),
            ({"betas": [0.9, 1.0]}, "betas two numbers"),
            ({"accumulate": 0}, "accumulate parts from 1"),
            ({"warm_up": -1}, "warm_up counts steps from 0"),
            ({"precision": "float16"}, "'float32' or 'bf16'"),
            ({"objective_options": {"beta": -1.0}}, "finite and not negative"),
            ({"objective_options": {"free_bits": -1.0}}, "finite and from 0"),
        ],
    )
    def test_settings_that_cannot_be(self, options: dict, words: str) -> None:
        data = rows()
        with pytest.raises(ValueError, match=words):
            fit(*pair(data), data, steps=1, **QUIET, **options)


def interrupted(result: Any) -> None:
    if result.steps == 20:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("inference", "held_out"),
    [("amortized", False), ("amortized", True), ("per_datapoint", False)],
)
def test_a_resumed_fit_ends_with_the_bits_of_one_that_was_not(
    inference: str, held_out: bool, tmp_path: Path
) -> None:
    """With everything on at once, the warm-up still going on at the break."""
    data = rows()
    options = {
        "steps": 33,
        "batch_size": 8,
        "log_every": 10,
        "warm_up": 25,
        "ema": 0.9,
        "accumulate": 3,
        "schedule": "burda",
        "eps": 1e-4,
        "betas": (0.99, 0.999),
        "objective_options": {"beta": 1.5, "free_bits": 0.05},
        "checkpoint_every": 0.0,  # every step, so that the last one before the break is there
        **QUIET,
    }
    if held_out:
        options |= {"held_out": rows(10, seed=3), "eval_every": 7}
    whole, halves, again = (pair(data, inference=inference) for _ in range(3))
    fit(*whole, data, out=tmp_path / "a", **options)
    with pytest.raises(KeyboardInterrupt):
        fit(*halves, data, out=tmp_path / "b", callbacks=[interrupted], **options)
    fit(*again, data, out=tmp_path / "b", resume=True, **options)
    assert close(weights(*whole), weights(*again), 0)
    a, b = load(tmp_path / "a"), load(tmp_path / "b")
    assert close(weights(a.model, a.guide), weights(b.model, b.guide), 0)
    assert [row.get("loss_is") for row in a.metrics] == [row.get("loss_is") for row in b.metrics]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"ema": None}, "ema"),
        ({"warm_up": 0}, "warm_up"),
        ({"accumulate": 1}, "accumulate"),
        ({"eps": 1e-8}, "eps"),
        ({"objective_options": {"beta": 1.0}}, "objective_options"),
    ],
)
def test_a_resume_with_other_options_is_refused(change: dict, name: str, tmp_path: Path) -> None:
    data = rows()
    options = {"steps": 2, "warm_up": 3, "ema": 0.9, "accumulate": 2, "eps": 1e-4}
    options |= {"objective_options": {"beta": 2.0}, "out": tmp_path, **QUIET}
    fit(*pair(data), data, **options)
    with pytest.raises(RunError, match=rf"\['{name}'\] of the fit are not those"):
        fit(*pair(data), data, **{**options, **change}, resume=True)


def test_layers_compute_in_bfloat16_and_densities_do_not() -> None:
    data = rows(100, 5)
    model, guide = pair(data)
    layer, x = nn.Linear(5, 5), data["x"]
    with half_layers(torch.device("cpu")):
        y = layer(x)
    assert y.dtype == torch.float32 and torch.equal(y, y.bfloat16().float())
    assert not torch.equal(y, layer(x)) and torch.allclose(y, layer(x), atol=0.05)
    found = []
    for half in (False, True):
        torch.manual_seed(0)
        if half:
            with half_layers(torch.device("cpu")):
                found.append(log_weights(model, guide, data.batch(), 4))
        else:
            found.append(log_weights(model, guide, data.batch(), 4))
    exact, rough = (w.local for w in found)
    assert rough.dtype == torch.float32 and not torch.equal(exact, rough)
    assert torch.allclose(exact, rough, atol=0.3)
    result = fit(model, guide, data, steps=40, lr=0.05, precision="bf16", log_every=20, **QUIET)
    assert result.metrics[-1]["loss"] < result.metrics[0]["loss"]
    assert all(p.dtype == torch.float32 for p in guide.parameters())


@pytest.mark.cuda
@pytest.mark.parametrize("inference", ["amortized", "per_datapoint"])
def test_everything_at_once_on_the_gpu(inference: str) -> None:
    data = rows(50, 5)
    model, guide = pair(data, inference=inference)
    result = fit(
        model,
        guide,
        data,
        "iwae",
        steps=20,
        batch_size=16,
        warm_up=5,
        ema=0.9,
        accumulate=2,
        precision="bf16",
        held_out=rows(10, 5, seed=1),
        eval_every=10,
        device="cuda",
        progress=False,
    )
    assert result.steps == 20
    assert all(torch.isfinite(p).all() for p in [*model.parameters(), *guide.parameters()])


@pytest.mark.cuda
def test_a_step_with_a_warm_up_does_not_wait_for_the_gpu() -> None:
    data = rows(50, 5).to("cuda")
    model, guide = pair(data)
    model.cuda(), guide.cuda()
    backward = Backward(elbo, data, False, accumulate=2, warm_up=10, half=True)
    average = Average({"model": model, "guide": guide}, 0.9)
    index = torch.arange(20, device="cuda")
    backward(model, guide, index, 1)
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    torch.cuda.set_sync_debug_mode("error")
    try:
        backward(model, guide, index, 2)
        average.before(1)
        average.after(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.distributions.Distribution.set_default_validate_args(before)


@pytest.mark.parametrize(("rows", "size"), [(5000, 5000), (5001, 128)])
def test_rows_a_step_where_nothing_is_said(rows: int, size: int) -> None:
    seen: list[int] = []

    def loss(model: Any, guide: Any, batch: Any) -> Any:
        seen.append(len(batch))
        return elbo(model, guide, batch)

    data = torch.randn(rows, 2)
    model = PPCA(2, 1)
    fit(model, Guide(model, data, "exact"), data, loss, steps=1, progress=False)
    assert seen == [size]


def test_em_takes_all_rows_however_many() -> None:
    data = torch.randn(5001, 2)
    model = GMM(2, 2)
    assert fit(model, None, data, "em", steps=1, progress=False).steps == 1
