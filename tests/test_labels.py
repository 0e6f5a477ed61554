"""Values that some rows have only: how such data are served, visited, trained on and kept."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from zoo import Dataset, Model, fit, pyro_svi, store
from zoo.files import RunError
from zoo.images import Images
from zoo.optim import make_optimizers
from zoo.sources import load_data
from zoo.streamed import StreamedDataset

QUIET = {"progress": False, "device": "cpu"}
NAMED = [Dataset, Images, StreamedDataset]


def rows(count: int = 20, classes: int = 2) -> Dataset:
    """Row i is (i, i), of class i mod C."""
    number = torch.arange(float(count))
    return Dataset(torch.stack([number, number], 1), labels=torch.arange(count) % classes)


def made(kind: type, count: int = 12) -> Dataset:
    """The same rows, bytes for images: row i is (i, i), of class i mod 3."""
    x = torch.arange(count).to(torch.uint8)[:, None].expand(count, 2).contiguous()
    if kind is Images:
        return Images(x, white=1.0, labels=torch.arange(count) % 3)
    if kind is Dataset:
        return Dataset(x.float(), labels=torch.arange(count) % 3)
    source = TensorDataset(x.float())
    source.targets = torch.arange(count) % 3
    return StreamedDataset(source)


class Means(Model):
    """y ~ Categorical(1/2, 1/2),  x | y ~ N(m_y, I_2)."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor([[0.0, 0.5], [1.0, -0.5]]))  # (2, 2)

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=torch.zeros(2)))
            return pyro.sample("x", dist.Normal(self.mean[y], 1.0).to_event(1))


def surprise(model: Means, guide: None, batch) -> Tensor:
    """-log p of what is given, the class summed out where it is not."""
    log_p = dist.Normal(model.mean, 1.0).log_prob(batch["x"][:, None]).sum(-1) + math.log(0.5)
    if "y" in batch:
        return -log_p.gather(1, batch["y"][:, None]).mean()
    return -log_p.logsumexp(-1).mean()


def whole_surprise(model: Means, data: Dataset) -> Tensor:
    """The loss of all rows by hand."""
    parts = [(surprise(model, None, b), len(b)) for b in data.batches(1)]
    return sum(loss * count for loss, count in parts) / len(data)


class TestLabelled:
    @pytest.mark.parametrize("kind", NAMED)
    def test_labelled_rows_come_first_and_rows_keep_their_class(self, kind) -> None:
        data = made(kind).labelled([7, 2, 4])
        x = data["x"][:, 0].long()
        assert x.tolist() == [7, 2, 4, 0, 1, 3, 5, 6, 8, 9, 10, 11]
        assert (x % 3).equal(data.labels) and (x[:3] % 3).equal(data["y"])
        assert data.partial == ("y",) and data.num_labelled == 3 and data.names == ["x", "y"]
        assert data.values["y"].shape == (3,) and data.event_shape("y") == ()
        assert "y () int64 of 3 rows" in data.describe() and data["y"].dtype == torch.long
        assert isinstance(data, kind) and len(data) == 12
        plain = made(kind)
        assert plain.partial == () and plain.num_labelled == 0 and plain.names == ["x"]
        assert len({data.fingerprint, plain.fingerprint, plain.labelled([7, 2]).fingerprint}) == 3

    @pytest.mark.parametrize("kind", NAMED)
    def test_all_rows_labelled_is_an_ordinary_data_set(self, kind) -> None:
        data = made(kind).labelled(torch.ones(12, dtype=torch.bool))
        assert data.partial == () and data.num_labelled == 0 and data.names == ["x", "y"]
        batch = data.batch(torch.tensor([5, 1]))
        assert batch["y"].tolist() == [2, 1] and batch.share == 1.0 and batch.size == 12
        assert data.batch()["y"].equal(data["y"]) and len(list(data.batches())) == 1
        assert data.subset([4, 0])["y"].tolist() == [1, 0]
        assert "y () int64;" in data.describe()

    def test_values_of_your_own(self) -> None:
        data = rows().labelled([3, 1], np.array([0.5, 2.0]), name="dose")
        assert data["dose"].tolist() == [0.5, 2.0] and data.partial == ("dose",)
        assert data.to(torch.float64)["dose"].dtype == torch.float64
        assert data.to(torch.float64).num_labelled == 2
        assert rows().labelled([3, 1], [1, 0])["y"].dtype == torch.long

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda d: d.labelled([]), "leave the call out"),
            (lambda d: d.labelled(torch.zeros(20, dtype=torch.bool)), "leave the call out"),
            (lambda d: d.labelled([1, 1]), "twice"),
            (lambda d: d.labelled([20]), "row number"),
            (lambda d: d.labelled([1], [1, 2]), "each of 1 rows"),
            (lambda d: d.labelled([1], [float("nan")]), "missing"),
            (lambda d: d.labelled([1], name="x"), "already"),
            (lambda d: d.labelled([1]).labelled([2], name="t"), "already"),
            (lambda d: Dataset(d["x"]).labelled([1]), "has no labels"),
            (lambda d: Dataset(d["x"], labels=-d.labels).labelled([1]), "no class"),
            (lambda d: d.without("y"), "cannot drop"),
            (lambda d: d.without("x"), "no values left"),
            (lambda d: made(Images).labelled([0]).without("x"), "images"),
        ],
    )
    def test_refusals(self, make, words) -> None:
        with pytest.raises(ValueError, match=words):
            make(rows())

    @pytest.mark.parametrize("kind", NAMED)
    def test_without_keeps_rows_and_fingerprint(self, kind) -> None:
        data = made(kind).labelled([7, 2])
        bare = data.without("y")
        assert bare.names == ["x"] and bare.partial == () and bare["x"].equal(data["x"])
        assert bare.fingerprint == data.fingerprint == bare.to(torch.float64).fingerprint
        assert bare.batch().fingerprint == data.fingerprint and list(bare.batch()) == ["x"]
        assert bare.labels.equal(data.labels) and data.names == ["x", "y"]

    def test_other_values_beside_partial_ones(self) -> None:
        for kind in (Dataset, Images):
            data = made(kind).labelled([7, 2]).with_values(size=torch.ones(12))
            assert data.partial == ("y",) and data.names == ["x", "size", "y"]
            full = data.with_values(y=torch.zeros(12, dtype=torch.long))
            assert full.partial == () and len(full.batch()["y"]) == 12


class TestBatches:
    @pytest.mark.parametrize("kind", NAMED)
    def test_a_batch_has_rows_of_one_kind(self, kind) -> None:
        data = made(kind).labelled([7, 2, 4])
        known, other = data.batch(torch.tensor([2, 0])), data.batch(torch.tensor([11, 3, 4]))
        assert known["y"].tolist() == [1, 1] and known["x"][:, 0].tolist() == [4, 7]
        assert known.size == 3 and known.share == 0.25 and known.scale == 1.5
        assert list(other) == ["x"] and other.size == 9 and other.share == 0.75 and other.scale == 3
        assert other.index.tolist() == [11, 3, 4] and known.total == other.total == 12
        for index in (None, torch.tensor([0, 5])):
            with pytest.raises(ValueError, match="rows only; split the rows into two batches"):
                data.batch(index)

    def test_a_batch_keeps_its_share(self) -> None:
        batch = rows().labelled([7, 2, 4]).batch(torch.tensor([2, 0]))
        for same in (batch.rows(1), batch.unscaled(), batch.without("y"), batch.to(torch.float64)):
            assert same.share == 0.15 and same.total == 20 and same.size == 3
        assert rows().batch().share == 1.0 and rows().batch(torch.tensor([1])).total == 20

    @pytest.mark.parametrize("kind", NAMED)
    def test_evaluation_sees_all_rows_in_order_and_never_mixes(self, kind) -> None:
        data = made(kind).labelled([7, 2, 4])
        batches = list(data.batches(2))
        assert [len(b) for b in batches] == [2, 1, 2, 2, 2, 2, 1]
        assert ["y" in b for b in batches] == [True] * 2 + [False] * 5
        assert torch.cat([b["x"] for b in batches]).equal(data["x"])
        assert torch.cat([b.index for b in batches]).equal(torch.arange(12))
        assert [len(b) for b in data.batches()] == [3, 9]

    def test_images_are_drawn_anew_in_training_and_once_for_evaluation(self) -> None:
        grey = Images(torch.full((12, 64), 128, dtype=torch.uint8), binarization="dynamic")
        data = grey.labelled([7, 2, 4], [0, 1, 2])
        first, again = (data.batch(torch.arange(3)) for _ in range(2))
        assert first["y"].tolist() == [0, 1, 2] and not first["x"].equal(again["x"])
        fixed = [torch.cat([b["x"] for b in data.batches(5)]) for _ in range(2)]
        assert fixed[0].equal(fixed[1]) and fixed[0][:3].equal(grey.fixed()["x"][[7, 2, 4]])
        assert data.fixed().fingerprint == data.fingerprint and data.fixed().num_labelled == 3
        assert data.fixed().to("cpu").fingerprint == data.fingerprint

    @pytest.mark.parametrize("kind", NAMED)
    def test_a_subset_has_its_labelled_rows_first(self, kind) -> None:
        data = made(kind).labelled([7, 2, 4])
        part = data.subset([1, 0, 9, 3])
        assert part["x"][:, 0].tolist() == [2, 7, 9, 0] and part["y"].tolist() == [2, 1]
        assert part.num_labelled == 2 and part.labels.tolist() == [2, 1, 0, 0]
        assert data.subset([5, 3]).names == ["x"] and data.subset([5, 3]).partial == ()
        only = data.subset(torch.tensor([2, 1]))
        assert only.partial == () and only.batch()["y"].tolist() == [1, 2]
        with pytest.raises(ValueError, match="sort it"):
            data.subset([3, 0])


class TestOrder:
    def test_an_epoch_visits_unlabelled_rows_once_and_labelled_ones_in_turn(self) -> None:
        data = rows(25).labelled([3, 8, 1, 20, 11])
        steps = list(data.epoch(6, 0, 0))  # 3 labelled, 3 unlabelled
        assert [len(s) for s in steps] == [6] * 6 + [5] and data.steps_per_epoch(6) == 7
        known, others = torch.cat([s[:3] for s in steps]), torch.cat([s[3:] for s in steps])
        assert sorted(others.tolist()) == list(range(5, 25))
        assert [sorted(t.tolist()) for t in known.split(5)[:4]] == [list(range(5))] * 4
        assert len({tuple(t.tolist()) for t in known.split(5)[:4]}) > 1
        assert data.steps_per_epoch(6, 1) == 4 and data.steps_per_epoch(12) == 3  # all 5, then 7

    def test_all_labelled_rows_in_every_step(self) -> None:
        data = rows(25).labelled([3, 8, 1])
        steps = list(data.epoch(20, 0, 0))
        assert [s[:3].tolist() for s in steps] == [[0, 1, 2]] * 2 and len(steps[0]) == 20

    def test_the_order_is_a_pure_function_of_seed_and_epoch(self) -> None:
        data, state = rows(25).labelled([3, 8, 1, 20, 11]), torch.get_rng_state()

        def order(seed: int, epoch: int) -> tuple[int, ...]:
            return tuple(torch.cat(list(data.epoch(6, seed, epoch))).tolist())

        orders = {(s, e): order(s, e) for s in (-1, 0, 1) for e in range(3)}
        assert len(set(orders.values())) == 9 and order(1, 2) == orders[1, 2]
        assert torch.get_rng_state().equal(state)

    def test_a_step_of_all_rows(self) -> None:
        data = rows(25).labelled([3, 8, 1])
        for size in (None, 25, 90):
            assert [s.tolist() for s in data.epoch(size, 0, 3)] == [list(range(25))]
            assert [s.tolist() for s in data.epoch(size, 0, 3, 2)] == [list(range(25))]
            assert data.steps_per_epoch(size) == 1

    @pytest.mark.parametrize(
        ("size", "own", "words"),
        [
            (6, 4, "1 to 3 labelled"),
            (6, 0, "1 to 3 labelled"),
            (3, 3, "no unlabelled row"),
            (1, None, "no unlabelled row"),
            (0, None, "batch_size"),
        ],
    )
    def test_refusals(self, size, own, words) -> None:
        data = rows(25).labelled([3, 8, 1])
        for make in (lambda: data.epoch(size, 0, 0, own), lambda: data.steps_per_epoch(size, own)):
            with pytest.raises(ValueError, match=words):
                make()
        with pytest.raises(ValueError, match="only some"):
            rows().epoch(4, 0, 0, 2)


class TestParts:
    @pytest.mark.parametrize("kind", NAMED)
    @pytest.mark.parametrize("count", [1, 2, 7])
    def test_weights_sum_to_one_and_no_part_mixes(self, kind, count) -> None:
        data = made(kind).labelled([7, 2, 4])
        for index in data.epoch(5, 0, 0):
            for own in (2, None):
                parts = list(data.parts(index, count, own))
                assert sum(w for _, w in parts) == pytest.approx(1)
                assert torch.cat([b.index for b, _ in parts]).equal(index)
                assert sum(w for b, w in parts if "y" in b) == pytest.approx(0.25)
                assert len(parts) == min(count, 2) + min(count, len(index) - 2)

    def test_ordinary_data_are_cut_in_pieces(self) -> None:
        data = rows(10)
        whole = list(data.parts(None))
        assert len(whole) == 1 and whole[0][1] == 1.0
        assert whole[0][0]["x"].data_ptr() == data["x"].data_ptr()
        parts = list(data.parts(torch.tensor([4, 1, 3]), 2))
        assert [(b.index.tolist(), w) for b, w in parts] == [([4, 1], 2 / 3), ([3], 1 / 3)]
        assert [len(b) for b, _ in data.parts(None, 3)] == [4, 3, 3]

    def test_an_epoch_is_unbiased_for_the_mean_over_all_rows(self) -> None:
        data = rows(23).labelled([3, 8, 1])
        f = (data["x"][:, 0].double() - 5).square()
        want = f.mean().item()
        for size in (None, 7):  # 4 unlabelled rows of 20 in a step beside all labelled ones
            found = [
                sum(w * f[b.index].mean().item() for b, w in data.parts(i, 2, 3))
                for i in data.epoch(size, 1, 0, 3)
            ]
            assert np.mean(found) == pytest.approx(want, rel=1e-12)

    def test_a_step_has_both_kinds_labelled_first(self) -> None:
        data = rows().labelled([7, 2, 4])
        for index in ([5, 1], [5, 6], [0, 1]):
            with pytest.raises(ValueError, match="a step has"):
                list(data.parts(torch.tensor(index)))


class TestFit:
    def data(self) -> Dataset:
        x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
        return Dataset(x, labels=torch.arange(20) % 2).labelled([7, 2, 4, 1])

    @pytest.mark.parametrize("accumulate", [1, 3])
    def test_a_step_of_all_rows_has_the_loss_and_gradient_of_all_rows(self, accumulate) -> None:
        data, model, twin = self.data(), Means(), Means()
        options = {"optimizer": "sgd", "lr": 0.1, "steps": 1, "log_every": 1, **QUIET}
        result = fit(model, None, data, surprise, accumulate=accumulate, **options)
        loss = whole_surprise(twin, data)
        loss.backward()
        assert result.metrics[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
        torch.testing.assert_close(model.mean, twin.mean - 0.1 * twin.mean.grad)

    def test_minibatches(self) -> None:
        data, seen = self.data(), []

        def watched(model, guide, batch):
            seen.append(("y" in batch, len(batch)))
            return surprise(model, guide, batch)

        options = {"batch_size": 6, "labelled_rows": 2, "epochs": 2, **QUIET}
        assert fit(Means(), None, data, watched, **options).steps == 8
        assert seen == [(True, 2), (False, 4)] * 8
        seen.clear()
        fit(Means(), None, data, watched, **{**options, "labelled_rows": None, "epochs": 1})
        assert Counter(seen) == {(True, 3): 6, (False, 3): 5, (False, 1): 1}

    def test_a_resumed_fit_ends_with_the_same_bits(self, tmp_path) -> None:
        options = {"batch_size": 6, "labelled_rows": 2, "lr": 0.1, **QUIET}
        whole, cut = Means(), Means()
        fit(whole, None, self.data(), surprise, steps=11, out=tmp_path / "a", **options)
        fit(cut, None, self.data(), surprise, steps=5, out=tmp_path / "b", **options)
        again, more = Means(), {"out": tmp_path / "b", "resume": True, "steps": 11}
        fit(again, None, self.data(), surprise, **options, **more)
        assert torch.equal(whole.mean, again.mean) and not torch.equal(whole.mean, cut.mean)
        with pytest.raises(RunError, match="labelled_rows"):
            fit(Means(), None, self.data(), surprise, **{**options, "labelled_rows": 3}, **more)

    def test_refusals(self) -> None:
        with pytest.raises(ValueError, match="only some"):
            fit(Means(), None, self.data().without("y"), surprise, labelled_rows=2, **QUIET)
        with pytest.raises(ValueError, match="em takes an exact step"):
            fit(Means(), None, self.data(), "em", **QUIET)
        with pytest.raises(ValueError, match="1 to 4 labelled"):
            fit(Means(), None, self.data(), surprise, batch_size=6, labelled_rows=5, **QUIET)
        with pytest.raises(ValueError, match="use fit with"):
            pyro_svi(Means(), nn.Module(), self.data())

    def test_a_loss_that_is_not_finite_is_traced_to_its_part(self) -> None:
        data = self.data()

        def torn(model, guide, batch):
            return surprise(model, guide, batch) / (1.0 if "y" in batch else 0.0)

        with pytest.raises(RuntimeError, match="loss is inf at step 0"):
            fit(Means(), None, data, torn, steps=3, **QUIET)


class TestWeightDecay:
    def test_one_step_is_that_of_the_loss_with_half_lambda_squares(self) -> None:
        data, model, twin = rows(10), Means(), Means()
        options = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 0.3, "steps": 1, **QUIET}
        fit(model, None, data, surprise, **options)
        (surprise(twin, None, data.batch()) + 0.3 / 2 * twin.mean.square().sum()).backward()
        torch.testing.assert_close(model.mean, twin.mean - 0.1 * twin.mean.grad)

    def test_tables_are_left_alone(self) -> None:
        dense, table = nn.Linear(2, 2), nn.Embedding(3, 2, sparse=True)
        first, second = make_optimizers([dense, table], "adam", 0.1, weight_decay=0.3)
        assert first.param_groups[0]["weight_decay"] == 0.3
        assert "weight_decay" not in second.param_groups[0]
        (plain,) = make_optimizers([dense], "adamw", 0.1)
        assert plain.param_groups[0]["weight_decay"] == 0.01  # torch's own
        with pytest.raises(ValueError, match="weight_decay"):
            make_optimizers([dense], "adam", 0.1, weight_decay=-1.0)


class TestStore:
    @pytest.mark.parametrize("kind", [Dataset, Images])
    def test_the_stub_of_a_run_knows_which_rows_have_labels(self, kind) -> None:
        data = made(kind).labelled([7, 2, 4])
        spec = store.describe(Means(), None, data)["data"]
        assert spec["partial"] == ["y"] and spec["num_labelled"] == 3
        stub = store._stub(spec)
        assert stub.partial == ("y",) and stub.num_labelled == 3 and len(stub) == 12
        assert stub.fingerprint == data.fingerprint == stub.without("y").fingerprint
        assert ["y" in b for b in stub.batches()] == [True, False]

    def test_older_runs_have_none(self) -> None:
        spec = store.describe(Means(), None, rows())["data"]
        assert spec.pop("partial") == [] and spec.pop("num_labelled") == 0
        assert store._stub(spec).partial == ()


def classes_of(data: Dataset, name: str = "y") -> list[int]:
    values = data.labels if name == "labels" else data[name]
    return sorted(Counter(values.tolist()).values())


class TestLoadData:
    def test_as_many_labels_of_each_class(self) -> None:
        plain = load_data("digits")
        split = load_data("digits", labels=100)
        train = split.train
        assert train.num_labelled == 100 and classes_of(train) == [10] * 10
        assert train["y"].equal(train.labels[:100]) and split.test.names == ["x"]
        assert split.test["x"].equal(plain.test["x"]) and split.validation is None
        assert classes_of(load_data("digits", labels=103).train) == [10] * 7 + [11] * 3
        pairs = zip(plain.train["x"].tolist(), plain.train.labels.tolist(), strict=True)
        row = {tuple(x): y for x, y in pairs}
        assert [row[tuple(x)] for x in train["x"].tolist()] == train.labels.tolist()
        keys = ("labels", "num_labels", "label_seed", "validation_labels")
        assert [split.record[k] for k in keys] == [100, 100, 0, 0]
        assert [plain.record[k] for k in keys] == [None, 0, 0, 0] and plain.train.partial == ()

    def test_a_seed_repeats_the_choice_and_smaller_numbers_are_nested(self) -> None:
        def chosen(**options) -> set[tuple[float, ...]]:
            train = load_data("digits", **options).train
            return {tuple(x) for x in train["x"][: train.num_labelled].tolist()}

        first = chosen(labels=50)
        assert first == chosen(labels=50) == chosen(labels=50, validation_labels=200)
        assert first != chosen(labels=50, label_seed=1) and len(first) == 50
        nested = [chosen(labels=n) for n in (10, 13, 50, 207)]
        assert all(a < b for a, b in pairwise(nested))

    def test_validation_rows_are_apart_and_trained_on_without_labels(self) -> None:
        split = load_data("digits", labels=100, validation_labels=105)
        aside, train = split.validation, split.train
        assert len(aside) == 105 and aside.names == ["x"] and aside.partial == ()
        assert classes_of(aside, "labels") == [10] * 5 + [11] * 5
        own = {tuple(x) for x in train["x"][:100].tolist()}
        rest = {tuple(x) for x in train["x"][100:].tolist()}
        held = {tuple(x) for x in aside["x"].tolist()}
        assert not held & own and held <= rest and len(train) == len(load_data("digits").train)
        alone = load_data("digits", validation_labels=105)
        assert alone.train.names == ["x"] and alone.validation["x"].equal(aside["x"])

    def test_all_labels(self) -> None:
        split = load_data("iris", labels="all")
        assert split.train.partial == () and split.train["y"].equal(split.train.labels)
        assert split.train["x"].equal(load_data("iris").train["x"])
        assert split.record["num_labels"] == 120 and split.record["labels"] == "all"
        split = load_data("iris", labels="all", validation_labels=30)
        assert split.train.num_labelled == 90 == split.record["num_labels"]
        assert len(split.validation) == 30

    def test_missing_classes_are_never_chosen(self, tmp_path) -> None:
        labels = np.where(np.arange(30) % 3 == 0, -1, np.arange(30) % 2)
        np.savez(tmp_path / "a.npz", x=np.random.RandomState(0).randn(30, 2), labels=labels)
        train = load_data(tmp_path / "a.npz", labels="all", test_fraction=0).train
        assert train.num_labelled == 20 and (train["y"] >= 0).all()
        assert classes_of(load_data(tmp_path / "a.npz", labels=4, test_fraction=0).train) == [2, 2]

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"labels": 121}, "120 training rows have a label"),
            ({"labels": 2}, "fewer than one row"),
            ({"validation_labels": 2}, "fewer than one row"),
            ({"labels": 120}, "take fewer"),
            ({"labels": 60, "validation_labels": 60}, "take fewer"),
            ({"labels": 0}, "left out"),
            ({"labels": True}, "left out"),
            ({"labels": "some"}, "left out"),
            ({"validation_labels": -1}, "from 0"),
        ],
    )
    def test_refusals(self, options, words) -> None:
        with pytest.raises(ValueError, match=words):
            load_data("iris", **options)

    def test_a_source_without_labels(self, tmp_path) -> None:
        np.save(tmp_path / "a.npy", np.random.RandomState(0).randn(30, 2))
        with pytest.raises(ValueError, match="no labels to keep"):
            load_data(tmp_path / "a.npy", labels=4)
