"""Fit: what it takes a step on, when it stops, what it says; Pyro's own objectives by two roads."""

import math
import os
import signal
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn

from guides import Guide
from zoo import Dataset, Model, fit, load, pyro_svi
from zoo.context import seeded
from zoo.data import Batch
from zoo.fitting import NonFiniteLossError, bind_objective, pick_device
from zoo.model import rows as plate_of
from zoo.models.bayesian_ppca import BayesianPPCA
from zoo.models.gmm import GMM
from zoo.models.ppca import PPCA
from zoo.monitor import EarlyStopping
from zoo.optim import clip_gradients, learning_rate, make_optimizers

pytestmark = pytest.mark.usefixtures("float64")
QUIET = {"progress": False, "device": "cpu"}


def rows(count: int = 40, dim: int = 3, seed: int = 0) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(count, 1, generator=generator)
    noise = torch.randn(count, dim, generator=generator)
    return Dataset(z @ torch.ones(1, dim) + 0.5 * noise)


def pair(data: Dataset, family: str = "exact", inference: str = "amortized", **options):
    torch.manual_seed(1)
    model = PPCA(data_dim=data.event_shape("x")[0], latent_dim=1)
    return model, Guide(model, data, family, inference, **options)


def weights(*parts: nn.Module) -> dict[str, Tensor]:
    return {
        f"{i}.{name}": value.clone()
        for i, part in enumerate(parts)
        for name, value in part.state_dict().items()
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class TestSteps:
    def test_the_loss_is_in_nats_per_datapoint(self) -> None:
        data = rows()
        model, guide = pair(data)
        before = -model.log_evidence(data["x"]).mean().item()
        result = fit(model, guide, data, steps=1, log_every=1, **QUIET)
        assert result.metrics[0]["loss"] == pytest.approx(before, abs=1e-9)
        after = -model.log_evidence(data["x"]).mean().item()
        assert after < before

    def test_a_fit_is_a_function_of_its_seed_and_leaves_the_outside_stream_alone(self) -> None:
        data = rows()
        found = []
        for seed in (0, 0, 1):
            model, guide = pair(data, "mean_field")
            torch.manual_seed(7)
            fit(model, guide, data, steps=5, batch_size=16, seed=seed, **QUIET)
            assert torch.initial_seed() == 7
            found.append((weights(model, guide), torch.randn(3)))
        assert same(found[0][0], found[1][0]) and not same(found[0][0], found[2][0])
        assert torch.equal(found[0][1], found[2][1])

    def test_an_epoch_visits_every_row_once_and_the_last_batch_is_partial(self) -> None:
        data, seen = rows(10), []

        def objective(model, guide, batch) -> Tensor:
            seen.append(batch.index.tolist())
            return model.mean.square().sum()

        model, guide = pair(data)
        result = fit(model, guide, data, objective, epochs=2, batch_size=4, **QUIET)
        assert result.steps == 6 and [len(index) for index in seen] == [4, 4, 2] * 2
        for epoch in (seen[:3], seen[3:]):
            assert sorted(sum(epoch, [])) == list(range(10))
        assert sum(seen[:3], []) != sum(seen[3:], [])

    def test_callbacks_see_the_result_at_every_row_of_metrics(self) -> None:
        data, seen = rows(), []
        model, guide = pair(data)
        result = fit(
            model,
            guide,
            data,
            steps=25,
            log_every=10,
            callbacks=[lambda r: seen.append((r.steps, r.metrics[-1]["step"]))],
            **QUIET,
        )
        assert seen == [(10, 10), (20, 20), (25, 25)]
        assert [row["step"] for row in result.metrics] == [10, 20, 25]

    @pytest.mark.parametrize("side", ["model", "guide"])
    def test_a_frozen_side_takes_no_step_and_is_free_afterwards(self, side: str) -> None:
        data = rows()
        model, guide = pair(data, "mean_field")
        parts = {"model": model, "guide": guide}
        before = {name: weights(part) for name, part in parts.items()}
        fit(model, guide, data, steps=3, freeze=side, **QUIET)
        for name, part in parts.items():
            assert same(before[name], weights(part)) == (name == side)
            assert all(p.requires_grad for p in part.parameters())

    def test_nothing_to_train_is_said(self, capsys: pytest.CaptureFixture[str]) -> None:
        data = rows()
        model, guide = pair(data)
        result = fit(model, guide, data, freeze="model", **QUIET)
        assert result.steps == 0 and "nothing to train" in capsys.readouterr().out

    def test_a_step_on_a_table_touches_the_rows_of_its_batch_only(self) -> None:
        data = rows(12)
        model, guide = pair(data, "mean_field", "per_datapoint")
        before = guide.source.table.weight.detach().clone()
        fit(model, guide, data, steps=1, batch_size=4, seed=3, **QUIET)
        changed = (guide.source.table.weight.detach() != before).any(1).nonzero().flatten()
        expected = next(data.epoch(4, 3, 0)).sort().values
        assert torch.equal(changed, expected)

    def test_two_models_in_one_process_share_nothing(self) -> None:
        data, other = rows(seed=0), rows(seed=1)
        alone = []
        for d in (data, other):
            model, guide = pair(d, "mean_field")
            fit(model, guide, d, steps=20, **QUIET)
            alone.append(weights(model, guide))
        pairs = [pair(d, "mean_field") for d in (data, other)]
        halves = []  # interleaved: the second is trained inside a callback of the first

        def train_the_other(result) -> None:
            if not halves:
                halves.append(fit(*pairs[1], other, steps=20, **QUIET))

        fit(*pairs[0], data, steps=20, log_every=10, callbacks=[train_the_other], **QUIET)
        assert same(weights(*pairs[0]), alone[0]) and same(weights(*pairs[1]), alone[1])
        assert not pyro.get_param_store().keys()


class TestOptimizers:
    @pytest.mark.parametrize(
        "name, middle, end",
        [
            ("constant", 1.0, 1.0),
            ("linear", 0.5005, 1e-3),
            ("cosine", 0.5005, 1e-3),
            ("exponential", math.sqrt(1e-3), 1e-3),
        ],
    )
    def test_schedules(self, name: str, middle: float, end: float) -> None:
        rates = [learning_rate(name, 0.2, step, 100) for step in (0, 50, 100, 200)]
        assert rates == pytest.approx([0.2, 0.2 * middle, 0.2 * end, 0.2 * end], rel=1e-12)

    def test_the_schedule_is_that_of_the_steps_taken(self) -> None:
        data = rows()
        model, guide = pair(data)
        result = fit(model, guide, data, steps=4, schedule="linear", lr=0.1, log_every=1, **QUIET)
        expected = [learning_rate("linear", 0.1, step, 4) for step in range(4)]
        assert [row["lr"] for row in result.metrics] == pytest.approx(expected)

    def test_clip_shortens_the_whole_gradient(self) -> None:
        table = nn.Embedding.from_pretrained(torch.zeros(4, 2), freeze=False, sparse=True)
        dense = nn.Linear(2, 1, bias=False)
        optimizers = make_optimizers([table, dense], "adam", 0.1)
        (dense.weight.sum() * 6 + table(torch.tensor([1, 1])).sum() * 4).backward()
        # dense gradient (6, 6); row 1 of the table twice: (8, 8)
        length = clip_gradients(optimizers, 1.0)
        assert length.item() == pytest.approx(math.sqrt(200))
        parts = [dense.weight.grad, table.weight.grad.coalesce().values()]
        assert torch.cat([p.flatten() for p in parts]).norm().item() == pytest.approx(1.0)

    def test_a_clipped_step_of_sgd_is_no_longer_than_the_limit(self) -> None:
        data = rows()
        model, guide = pair(data)
        before = weights(model)
        fit(model, guide, data, steps=1, optimizer="sgd", lr=1.0, clip=0.01, **QUIET)
        moved = torch.cat([(v - before[k]).flatten() for k, v in weights(model).items()])
        assert moved.norm().item() == pytest.approx(0.01)

    @pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
    def test_every_optimizer_trains_dense_and_sparse_parameters(self, name: str) -> None:
        data = rows()
        model, guide = pair(data, "mean_field", "per_datapoint")
        before = weights(model, guide)
        result = fit(model, guide, data, steps=60, lr=0.02, log_every=20, optimizer=name, **QUIET)
        assert result.metrics[-1]["loss"] < result.metrics[0]["loss"]
        after = weights(model, guide)
        assert not any(torch.equal(before[k], after[k]) for k in before if "anchor" not in k)


class TestEarlyStopping:
    def test_a_rise_must_be_above_two_of_its_standard_errors(self) -> None:
        start = torch.randn(100, generator=torch.Generator().manual_seed(0))
        noise = torch.randn(100, generator=torch.Generator().manual_seed(1))
        noise = (noise - noise.mean()) / noise.std()  # paired se exactly 0.1
        rule = EarlyStopping(patience=2)
        assert rule.update(start, 1) and rule.since == 0
        assert rule.update(start + noise + 0.19, 2) and rule.since == 1  # best, but within noise
        assert rule.update(start + noise + 0.21, 3) and rule.since == 0
        assert rule.best_step == 3
        assert not rule.update(start, 4) and not rule.done
        assert not rule.update(start, 5) and rule.done

    def test_it_ends_the_fit_and_puts_the_best_weights_back(self) -> None:
        data = rows(40)
        held_out = Dataset(data["x"][:20] - 1.0)  # its mean is passed on the way to the data's
        model, guide = pair(data)
        with torch.no_grad():
            model.mean.fill_(-3.0)
        kept: dict[int, dict[str, Tensor]] = {}
        result = fit(
            model,
            guide,
            data,
            steps=2000,
            lr=0.05,
            held_out=held_out,
            eval_every=10,
            patience=8,
            callbacks=[lambda r: kept.setdefault(r.steps, weights(model))],
            **QUIET,
        )
        looks = {row["step"]: row["held_out"] for row in result.metrics if "held_out" in row}
        assert result.stopped_early and result.steps < 2000
        assert result.best_step == max(looks, key=lambda step: looks[step])
        assert 0 < result.best_step < result.steps
        assert same(weights(model), kept[result.best_step])
        best = model.log_evidence(held_out["x"]).mean().item()
        assert best == pytest.approx(looks[result.best_step], abs=1e-9)

    @pytest.mark.parametrize("objective", ["mle", "em"])
    def test_it_needs_no_guide(self, objective: str) -> None:
        data, held_out = rows(40), rows(9, seed=5)
        model = GMM.for_data(data, num_components=2)
        options = {"steps": 6, "held_out": held_out, "eval_every": 2}
        result = fit(model, None, data, objective, **options, **QUIET)
        looks = {row["step"]: row["held_out"] for row in result.metrics if "held_out" in row}
        assert sorted(looks) == [2, 4, 6]
        best = model.log_evidence(held_out["x"]).mean().item()
        assert best == pytest.approx(looks[result.best_step], abs=1e-12)

    def test_a_table_takes_held_out_rows_too(self) -> None:
        data = rows(20)
        model, guide = pair(data, "mean_field", "per_datapoint")
        result = fit(model, guide, data, steps=2, held_out=rows(3, seed=5), eval_every=2, **QUIET)
        assert result.best_step == 2


class TestEnds:
    def test_ctrl_c_ends_after_the_step_and_leaves_a_usable_run(self, tmp_path: Path) -> None:
        data = rows()
        model, guide = pair(data, "mean_field")
        before = signal.getsignal(signal.SIGINT)

        def press(result) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        result = fit(
            model, guide, data, steps=100, log_every=7, callbacks=[press], out=tmp_path, **QUIET
        )
        assert result.interrupted and result.steps == 7
        assert signal.getsignal(signal.SIGINT) is before
        again = load(tmp_path)
        assert same(weights(model, guide), weights(again.model, again.guide))

    def test_a_second_ctrl_c_ends_at_once(self) -> None:
        data = rows()
        model, guide = pair(data, "mean_field")
        before = signal.getsignal(signal.SIGINT)

        def press_twice(result) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            fit(model, guide, data, steps=9, log_every=2, callbacks=[press_twice], **QUIET)
        assert signal.getsignal(signal.SIGINT) is before

    def test_a_nan_loss_names_the_step_and_the_parameter(self) -> None:
        data = rows()
        model, guide = pair(data, "mean_field")

        def spoil(result) -> None:
            with torch.no_grad():
                model.mean[1] = math.nan

        with pytest.raises(NonFiniteLossError, match=r"nan at step 4: parameter 'mean' .* nan"):
            fit(model, guide, data, steps=9, log_every=4, callbacks=[spoil], **QUIET)

    def test_an_infinite_loss_names_the_site_and_the_value(self, tmp_path: Path) -> None:
        data = rows()
        model, guide = pair(data, "mean_field")

        def spoil(result) -> None:
            with torch.no_grad():
                model.mean[1] = 1e200

        with pytest.raises(NonFiniteLossError) as caught:
            fit(model, guide, data, steps=9, log_every=4, callbacks=[spoil], out=tmp_path, **QUIET)
        words = str(caught.value)
        assert "the loss is inf at step 4" in words and "clip=" in words
        assert "log-probability of site 'x'" in words and "is -inf" in words
        assert f"the last checkpoint is in {tmp_path}" in words

    def test_devices(self) -> None:
        assert pick_device("cpu").type == "cpu"
        assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
        if not torch.cuda.is_available():
            with pytest.raises(ValueError, match="no CUDA device here; use device='auto' or 'cpu'"):
                pick_device("cuda")

    @pytest.mark.cuda
    def test_a_fit_on_the_gpu_moves_model_guide_and_data(self) -> None:
        data = rows()
        model, guide = pair(data, "mean_field")
        fit(model, guide, data, steps=3, device="cuda", progress=False)
        assert model.device.type == "cuda"
        assert all(p.device.type == "cuda" for p in guide.parameters())
        assert data.device.type == "cpu"

    @pytest.mark.parametrize(
        "options, words",
        [
            ({"steps": 1, "epochs": 1}, "steps or epochs, not both"),
            ({"freeze": "both"}, "'model', 'guide' or nothing"),
            ({"resume": True}, "resume needs out="),
            ({"schedule": "step"}, "unknown schedule 'step'"),
            ({"optimizer": "lbfgs"}, "unknown optimizer 'lbfgs'"),
            ({"lr": 0.0}, "learning rate must be positive"),
            ({"steps": -1}, "steps count from 0"),
            ({"objective": "elbow"}, "Did you mean 'elbo'"),
            ({"objective": "elbo:0.5"}, "takes no value after a colon"),
            ({"objective_options": {"alpha": 1}}, r"'elbo' takes no \['alpha'\]"),
            ({"objective": "em"}, "PPCA has no closed-form M-step"),
        ],
    )
    def test_settings_that_cannot_be(self, options: dict, words: str) -> None:
        data = rows()
        model, guide = pair(data)
        with pytest.raises(ValueError, match=words):
            fit(model, guide, data, **QUIET, **options)

    def test_data_that_do_not_fit_are_refused_before_the_first_step(self) -> None:
        data = rows()
        model, guide = pair(data)
        with pytest.raises(ValueError, match="'y' in the data|match no site"):
            fit(model, guide, {"y": data["x"]}, **QUIET)
        with pytest.raises(ValueError, match="shape"):
            fit(model, guide, rows(dim=2), **QUIET)


class TestStock:
    """The exact guide makes every bound log p(x) with no noise, so that equality is exact."""

    def loss(self, objective, model, guide, data: Dataset, **options) -> float:
        _, function = bind_objective(objective, options)
        torch.manual_seed(3)
        return float(function(model, guide, data.batch()).detach())

    @pytest.mark.parametrize(
        "name, instance",
        [
            ("trace_elbo", Trace_ELBO()),
            ("renyi_elbo", RenyiELBO(alpha=0.5, num_particles=2)),
        ],
    )
    def test_by_name_and_by_instance_it_is_the_same_bound(self, name: str, instance: ELBO) -> None:
        data = rows(20)
        model, guide = pair(data)
        expected = -model.log_evidence(data["x"]).mean().item()
        assert self.loss(name, model, guide, data) == pytest.approx(expected, abs=1e-9)
        assert self.loss(instance, model, guide, data) == pytest.approx(expected, abs=1e-9)
        assert self.loss("elbo", model, guide, data) == pytest.approx(expected, abs=1e-9)

    def test_mean_field_elbo_within_its_monte_carlo_error(self) -> None:
        data = rows(20)
        model, guide = pair(data, "mean_field")
        ours = torch.tensor(
            [self.loss("elbo", model, guide, data, num_particles=2000)], dtype=torch.float64
        )
        options = {"num_particles": 40}
        name, function = bind_objective("trace_mean_field_elbo", options)
        torch.manual_seed(4)
        draws = torch.stack([function(model, guide, data.batch()).detach() for _ in range(25)])
        # 1000 draws of the mean over 20 rows; the se of ours (2000 draws) is smaller by √2
        se = draws.std().item() / 5
        assert se < 0.01
        assert draws.mean().item() == pytest.approx(ours.item(), abs=8 * se)
        assert name == "trace_mean_field_elbo"
        torch.manual_seed(4)
        named = function(model, guide, data.batch()).item()
        torch.manual_seed(4)
        _, instance = bind_objective(TraceMeanField_ELBO(num_particles=40))
        assert instance(model, guide, data.batch()).item() == pytest.approx(named)

    def test_enumerated_mixtures(self) -> None:
        data = rows(30)
        model = GMM.for_data(data, num_components=2)
        guide = Guide(model, data)
        expected = -model.log_evidence(data["x"]).mean().item()
        for objective in ("elbo", "traceenum_elbo", TraceEnum_ELBO(max_plate_nesting=1), "mle"):
            assert self.loss(objective, model, guide, data) == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize(
        "objective", [Trace_ELBO(), "trace_elbo", RenyiELBO(alpha=0.5), "renyi_elbo", "renyi:0.5"]
    )
    def test_the_two_roads_reach_the_same_place(self, objective) -> None:
        """With SGD and no noise, k steps of fit and of pyro.infer.SVI are the same k steps."""
        data = rows(20)
        model, guide = pair(data)
        fit(model, guide, data, objective, steps=15, lr=0.1, optimizer="sgd", **QUIET)
        other, its = pair(data)
        loss = objective if isinstance(objective, ELBO) else Trace_ELBO()
        optim = pyro.optim.SGD({"lr": 0.1 / len(data)})  # Pyro's losses are sums
        losses = pyro_svi(other, its, data, loss=loss, optim=optim, steps=15)
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-9)
        assert losses[-1] < losses[0] and len(losses) == 15

    def test_svi_puts_the_store_back(self) -> None:
        data = rows(20)
        model, guide = pair(data, "mean_field")
        pyro.param("mine", torch.tensor(2.0))
        before = weights(model, guide)
        pyro_svi(model, guide, data, steps=3, batch_size=8)
        assert list(pyro.get_param_store().keys()) == ["mine"]
        assert pyro.param("mine").item() == 2.0
        pyro.clear_param_store()
        assert not same(before, weights(model, guide))

    def test_svi_trains_a_table(self) -> None:
        data = rows(20)
        model, guide = pair(data, "mean_field", "per_datapoint")
        losses = pyro_svi(model, guide, data, steps=60, optim=pyro.optim.Adam({"lr": 0.05}))
        assert sum(losses[-10:]) < sum(losses[:10]) and guide.source.table.sparse

    @pytest.mark.parametrize("objective", ["trace_elbo", "trace_mean_field_elbo", "renyi_elbo"])
    def test_a_discrete_latent_is_refused_where_it_cannot_be_summed_out(self, objective) -> None:
        data = rows(30)
        model = GMM.for_data(data, num_components=2)
        better = "use renyi" if objective == "renyi_elbo" else "use elbo or traceenum_elbo"
        with pytest.raises(ValueError, match=rf"discrete latents \['y'\]; {better}"):
            fit(model, Guide(model, data), data, objective, **QUIET)

    def test_a_discrete_latent_that_the_guide_draws_has_a_score_function(self) -> None:
        """2000 draws of 30 rows; 5.5 standard errors fail once in 10⁷ runs.

        One component is where the rows are and the other is not, so that every row pulls q the
        same way and the slope is many times its error.
        """
        data = rows(30)
        model = GMM(data["x"].shape[1], num_components=2)
        with torch.no_grad():
            centre = data["x"].mean(0)
            model.loc.copy_(torch.stack([centre, centre + 1.0]))

        class Drawn(nn.Module):
            def __init__(self, infer: dict[str, str]):
                super().__init__()
                self.logits, self.infer = nn.Parameter(torch.tensor([0.2, -0.3])), infer

            def forward(self, batch: Batch) -> None:
                with plate_of(batch):
                    pyro.sample("y", dist.Categorical(logits=self.logits), infer=self.infer)

        summed, drawn = Drawn({"enumerate": "parallel"}), Drawn({})
        exact = bind_objective("elbo")[1](model, summed, data.batch())
        (slope,) = torch.autograd.grad(exact, summed.logits)
        found = []
        loss_of = bind_objective("trace_elbo")[1]
        for seed in range(2000):
            with seeded(seed):
                (grad,) = torch.autograd.grad(loss_of(model, drawn, data.batch()), drawn.logits)
            found.append(grad)
        draws = torch.stack(found)
        se = draws.std(0) / len(draws) ** 0.5
        assert ((draws.mean(0) - slope).abs() < 5.5 * se).all() and (se < slope.abs() / 5).all()
        with pytest.raises(ValueError, match=r"cannot sum out the discrete latents \['y'\]"):
            fit(model, drawn, data, "trace_mean_field_elbo", **QUIET)

    def test_a_guide_is_looked_at_again_where_the_batch_has_other_names(self) -> None:
        data = rows(12)
        model = GMM.for_data(data, num_components=2)
        labelled = data.with_values(y=torch.zeros(12, dtype=torch.long))
        guide, loss_of = Guide(model, labelled), bind_objective("trace_elbo")[1]
        loss_of(model, guide, labelled.batch())
        with pytest.raises(ValueError, match=r"cannot sum out the discrete latents \['y'\]"):
            loss_of(model, guide, data.batch())
        with pytest.raises(ValueError, match=r"the guide does not sample \['z'\]"):
            loss_of(PPCA(3, 1), guide, data.batch())

    def test_renyi_refuses_a_factor_of_all_rows(self) -> None:
        def tilted(x: Tensor) -> None:
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            pyro.factor("tilt", torch.tensor(-1.0))

        data = rows(12)
        with pytest.raises(ValueError, match=r"\['tilt'\] stand outside the data plate"):
            fit(tilted, Guide(tilted, data), data, "renyi_elbo", **QUIET)

    def test_renyi_refuses_minibatches_and_global_latents(self) -> None:
        data = rows(20)
        model, guide = pair(data, "mean_field")
        with pytest.raises(ValueError, match="no bound on a minibatch; use the objective renyi"):
            fit(model, guide, data, "renyi_elbo", batch_size=5, **QUIET)
        shared = BayesianPPCA(3, 1)
        with pytest.raises(ValueError, match="outside the data plate, .* use the objective renyi"):
            fit(shared, Guide(shared, data), data, RenyiELBO(), **QUIET)

    def test_mean_field_elbo_refuses_a_jacobian(self) -> None:
        data = rows(20)
        model = BayesianPPCA(3, 1)
        with pytest.raises(ValueError, match="drops the Jacobian .* use elbo"):
            fit(model, Guide(model, data), data, "trace_mean_field_elbo", **QUIET)

    @pytest.mark.parametrize("loss", [ReweightedWakeSleep(), TraceTailAdaptive_ELBO()])
    def test_classes_that_mix_datapoints_are_refused(self, loss: ELBO) -> None:
        data = rows(20)
        model, guide = pair(data, "mean_field")
        with pytest.raises(ValueError, match="mixes the datapoints .* use elbo, iwae or renyi"):
            fit(model, guide, data, loss, **QUIET)

    def test_something_else_with_a_loss_is_a_type_error(self) -> None:
        class Other:
            def loss_and_grads(self) -> None: ...

        data = rows(20)
        with pytest.raises(TypeError, match="expected a pyro.infer.ELBO instance, got Other"):
            fit(*pair(data), data, Other(), **QUIET)

    def test_an_instance_serves_several_models(self) -> None:
        loss = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
        data = rows(20)
        for model in (PPCA(3, 1), GMM.for_data(data, num_components=2)):
            fit(model, Guide(model, data), data, loss, steps=2, **QUIET)
        assert loss.max_plate_nesting == 1


class TestObjectives:
    def test_em_takes_the_exact_iterations_of_the_model(self) -> None:
        data = rows(60)
        torch.manual_seed(0)
        model = GMM.for_data(data, num_components=2)
        torch.manual_seed(0)
        other = GMM.for_data(data, num_components=2)
        result = fit(model, None, data, "em", steps=5, log_every=1, **QUIET)
        losses = []
        for _ in range(5):
            losses.append(-other.log_evidence(data["x"]).mean().item())
            other.em_step(data["x"])
        assert [row["loss"] for row in result.metrics] == pytest.approx(losses, abs=1e-12)
        assert losses == sorted(losses, reverse=True)
        assert same(weights(model), weights(other))
        with pytest.raises(ValueError, match="takes the whole data set .* got 10 of 60 rows"):
            fit(model, None, data, "em", steps=1, batch_size=10, **QUIET)

    def test_renyi_takes_its_alpha_after_a_colon(self) -> None:
        data = rows(20)
        model, guide = pair(data, "mean_field")
        losses = []
        for objective, options in (("renyi:0.3", {}), ("renyi", {"alpha": 0.3})):
            _, function = bind_objective(objective, options)
            torch.manual_seed(0)
            losses.append(function(model, guide, data.batch()).item())
        assert losses[0] == losses[1]

    def test_a_plain_pyro_function_is_fitted_too(self) -> None:
        def rates(x: Tensor) -> None:
            scale = pyro.param("scale", torch.tensor(3.0), constraint=dist.constraints.positive)
            with pyro.plate("rows", len(x)):
                rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
                pyro.sample("x", dist.Exponential(rate * scale), obs=x)

        data = {"x": torch.tensor([0.3, 1.0, 2.0, 0.1])}
        from zoo.model import as_model

        model = as_model(rates)
        result = fit(model, Guide(model, data), data, steps=40, log_every=10, **QUIET)
        assert result.metrics[-1]["loss"] < result.metrics[0]["loss"]

    def test_parameters_in_the_global_store_are_refused(self) -> None:
        data = rows(12)

        def guide(batch: Batch) -> None:
            loc = pyro.param("loc", torch.zeros(1))
            with plate_of(batch):
                pyro.sample("z", dist.Normal(loc, 1.0).expand([len(batch), 1]).to_event(1))

        for objective in ("elbo", "trace_elbo"):
            with pytest.raises(ValueError, match="parameter 'loc' would stand in Pyro's global"):
                fit(PPCA(3, 1), guide, data, objective, **QUIET)
        pyro.clear_param_store()

    def test_guides_of_one_pyro_module_class_share_nothing(self) -> None:
        class Location(PyroModule):
            def __init__(self, loc: float):
                super().__init__()
                self.loc = PyroParam(torch.tensor([loc]))
                self.scale = PyroParam(torch.ones(()), constraint=dist.constraints.positive)

            def forward(self, batch: Batch) -> None:
                with plate_of(batch):
                    q = dist.Normal(self.loc.expand(len(batch), 1), self.scale)
                    pyro.sample("z", q.to_event(1))

        data = rows(12)
        for objective in ("elbo", "trace_elbo", "renyi_elbo"):
            first, second = Location(0.0), Location(5.0)
            for guide in (first, second):
                before = weights(guide)
                fit(PPCA(3, 1), guide, data, objective, steps=1, lr=0.01, **QUIET)
                assert not any(torch.equal(before[k], v) for k, v in weights(guide).items())
            assert first.loc.item() < 1 and second.loc.item() > 4
            assert not list(pyro.get_param_store().keys())
            before = weights(second)
            pyro_svi(PPCA(3, 1), second, data, steps=2)
            assert not any(torch.equal(before[k], v) for k, v in weights(second).items())

    def test_svi_trains_auto_guides_and_modules_around_a_function(self) -> None:
        class Shift(PyroModule):
            def __init__(self) -> None:
                super().__init__()
                self.scale = PyroParam(torch.ones(()), constraint=dist.constraints.positive)

        shift = Shift()

        def function(x: Tensor) -> None:
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(loc, shift.scale).to_event(1), obs=x)

        data = rows(12)
        guide = Guide(function, data, global_family="AutoNormal")
        before = weights(shift, guide)
        pyro_svi(function, guide, data, steps=2)
        changed = {k: not torch.equal(before[k], v) for k, v in weights(shift, guide).items()}
        assert all(changed.values()) and not list(pyro.get_param_store().keys())

    def test_a_model_that_does_not_run_says_so(self) -> None:
        class Wrong(Model):
            def forward(self, n: int) -> None:
                with pyro.plate("data", n, dim=-1):
                    pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))

        with pytest.raises(ValueError, match="shape"):
            fit(Wrong(), None, rows(dim=2), "mle", **QUIET)
