"""Batch, Dataset, StreamedDataset, as_dataset and load_data."""

import csv
import json

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from zoo.data import Batch, Dataset, as_dataset
from zoo.sources import SOURCES, data_folder, load_data
from zoo.streamed import StreamedDataset

NAN = float("nan")


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty data root, which is not the working directory."""
    (tmp_path / "root").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("ZOO_DATA", str(tmp_path / "root"))
    return tmp_path / "root"


def write_csv(path, *rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


# --- Batch ------------------------------------------------------------------------------------


def test_batch_is_a_mapping_over_names_with_a_length_in_rows():
    data = Dataset({"x": torch.arange(12.0).reshape(6, 2), "y": torch.arange(6)})
    batch = data.batch(torch.tensor([5, 0, 5]))
    assert len(batch) == 3 and list(batch) == ["x", "y"] and batch.size == 6 and batch.scale == 2.0
    assert dict(batch.items())["y"].tolist() == [5, 0, 5] and {**batch}.keys() == {"x", "y"}
    assert batch["x"].tolist() == [[10.0, 11.0], [0.0, 1.0], [10.0, 11.0]]
    assert "x" in batch and "z" not in batch and batch.get("z") is None
    assert batch.rows(2)["y"].tolist() == [5, 0] and len(batch.rows(9)) == 3
    assert batch.fingerprint == data.fingerprint != data.subset([0, 1]).fingerprint
    assert batch.unscaled().scale == 1.0 and batch.unscaled().index is batch.index
    assert "3 of 6" in repr(batch) and batch != data.batch(torch.tensor([5, 0, 5]))
    with pytest.raises(KeyError):
        batch["z"]
    with pytest.raises(AttributeError):
        batch.size = 3


def test_batch_without_and_to():
    x = np.array([[1.0, NAN], [2.0, 3.0]])
    batch = Dataset({"x": x, "y": np.arange(2)}, missing=True).batch()
    rest = batch.without("x")
    assert list(rest) == ["y"] and rest.observed == {} and list(batch) == ["x", "y"]
    with pytest.raises(ValueError, match="cannot drop"):
        batch.without("X")
    for moved in (batch.to(torch.float64), batch.to("cpu", torch.float64)):
        assert moved["x"].dtype == torch.float64 and moved["y"].dtype == torch.long
        assert moved.observed["x"].dtype == torch.bool and moved.index.dtype == torch.long


# --- Dataset ----------------------------------------------------------------------------------


def test_dtypes(double):
    arrays = {
        "a": np.zeros(3, np.float64),
        "b": np.zeros(3, np.float32),
        "c": np.zeros(3, np.uint8),
        "d": np.array([True, False, True]),
        "e": torch.zeros(3, dtype=torch.float32),
        "f": torch.ones(3, dtype=torch.bool),
        "g": np.zeros((3, 4), np.float16)[:, ::-2],
    }
    data = Dataset(arrays)
    got = {key: value.dtype for key, value in data.values.items()}
    wide, narrow = torch.float64, torch.float32
    expected = dict(zip("abcdefg", [wide, wide, torch.long, wide, narrow, wide, wide], strict=True))
    assert got == expected
    assert Dataset(arrays["a"])["x"].data_ptr() != arrays["a"].ctypes.data
    assert Dataset(np.zeros(3)).to(dtype=torch.float32)["x"].dtype == torch.float32


def test_float64_arrays_become_the_default_dtype():
    assert Dataset(np.zeros(3))["x"].dtype == torch.get_default_dtype() == torch.float32
    assert Dataset(torch.zeros(3, dtype=torch.float64))["x"].dtype == torch.float64


def test_all_rows_come_without_a_copy():
    data = Dataset(torch.randn(5, 2))
    batch = data.batch()
    assert batch["x"].data_ptr() == data["x"].data_ptr() and batch.scale == 1.0
    assert batch.index.tolist() == [0, 1, 2, 3, 4]


def test_batches_cover_the_rows_in_order():
    data = Dataset(torch.arange(7.0))
    batches = list(data.batches(3))
    assert [len(b) for b in batches] == [3, 3, 1] and all(b.size == 7 for b in batches)
    assert torch.cat([b["x"] for b in batches]).equal(data["x"])
    assert [len(b) for b in data.batches(100)] == [len(b) for b in data.batches()] == [7]


def test_epoch_is_a_pure_function_of_seed_and_epoch():
    data = Dataset(torch.zeros(11))
    state = torch.get_rng_state()

    def order(seed, epoch):
        parts = list(data.epoch(4, seed, epoch))
        assert [len(part) for part in parts] == [4, 4, 3]
        return tuple(torch.cat(parts).tolist())

    orders = {(s, e): order(s, e) for s in (-1, 0, 1, 2) for e in range(4)}
    assert all(sorted(o) == list(range(11)) for o in orders.values())
    assert len(set(orders.values())) == len(orders)  # (0, 1) is not (1, 0)
    assert order(1, 2) == orders[1, 2] and torch.get_rng_state().equal(state)
    for size in (11, 12, None):
        assert [i.tolist() for i in data.epoch(size, 0, 3)] == [list(range(11))]
    for make in (lambda: data.epoch(0, 0, 0), lambda: data.batches(-1)):
        with pytest.raises(ValueError, match="batch_size"):
            make()  # at the call, not at the first step


def test_subset_and_to_return_new_data_sets():
    data = Dataset(
        np.array([[1.0, NAN], [2.0, 3.0], [NAN, 4.0]]), labels=[0, 1, 2], name="n", missing=True
    )
    part = data.subset(np.array([2, 0]))
    assert len(part) == 2 and part.labels.tolist() == [2, 0] and part.name == "n"
    assert part.observed["x"].tolist() == [[False, True], [True, False]]
    assert data.subset(torch.tensor([False, True, False]))["x"].tolist() == [[2.0, 3.0]]
    assert len(data) == 3 and part.batch().size == 2
    assert data.to(torch.float64)["x"].dtype == torch.float64 and data["x"].dtype == torch.float32
    for bad in ([3], [-1], [], [0.5], [True, False]):
        with pytest.raises(ValueError, match="row number"):
            data.subset(bad)


def test_missing_entries_are_masked_and_filled_with_the_first_observed_value():
    x = np.array([[NAN, 1.0], [5.0, NAN], [6.0, 2.0]])
    data = Dataset({"x": x, "y": np.arange(3)}, missing=True)
    assert data["x"].tolist() == [[5.0, 1.0], [5.0, 1.0], [6.0, 2.0]]
    assert data.observed["x"].tolist() == [[False, True], [True, False], [True, True]]
    batch = data.batch(torch.tensor([1]))
    assert batch.observed["x"].tolist() == [[True, False]] and list(batch.observed) == ["x"]
    assert Dataset(np.zeros(3), missing=True).observed == {}
    assert Dataset(np.array([NAN, 2.0]), missing=True)["x"].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Dataset(np.array([[1.0, NAN]])), ValueError, r"rows 0, columns 1: pass missing"),
        (
            lambda: Dataset(np.array([[1.0, NAN]]), feature_names=["a", "b"]),
            ValueError,
            "columns 'b'",
        ),
        (lambda: Dataset(np.array([NAN, 1.0])), ValueError, r"1 missing entries .* in rows 0:"),
        (
            lambda: Dataset(np.array([[np.inf, NAN]]), missing=True),
            ValueError,
            "infinite in rows 0, columns 0",
        ),
        (
            lambda: Dataset(np.array([[0.0, NAN]] * 2), missing=True),
            ValueError,
            "no observed entry at all, columns 1",
        ),
        (lambda: Dataset(np.zeros((0, 3))), ValueError, "at least one row"),
        (lambda: Dataset({}), ValueError, "at least one row"),
        (
            lambda: Dataset({"x": np.zeros(3), "y": np.zeros(2)}),
            ValueError,
            r"equally many rows, got \{'x': 3, 'y': 2\}",
        ),
        (lambda: Dataset(np.zeros(3), labels=[0, 1]), ValueError, "'labels': 2"),
        (lambda: Dataset(np.zeros(3), labels=np.zeros((3, 1))), ValueError, "one label a row"),
        (lambda: Dataset(np.zeros((3, 2)), feature_names=["a"]), ValueError, "feature_names"),
        (lambda: Dataset(np.zeros((3, 2)), image_shape=(2, 2)), ValueError, "image_shape"),
        (lambda: Dataset(np.float64(3.0)), TypeError, "tensor or array"),
        (lambda: Dataset(torch.tensor(3.0)), ValueError, "at least one row"),
        (lambda: Dataset(np.array(["a", "b"])), TypeError, "real numbers"),
        (lambda: Dataset(np.array([None, 1])), TypeError, "object"),
        (lambda: Dataset(torch.zeros(2, dtype=torch.complex64)), TypeError, "complex64"),
        (lambda: Dataset({"x": [1.0, 2.0]}), TypeError, "list"),
        (lambda: as_dataset([1.0]), TypeError, "np.asarray"),
        (lambda: as_dataset("digits"), TypeError, "str"),
    ],
)
def test_bad_input(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_describe_and_getitem():
    data = Dataset(
        np.array([[1.0, NAN, 0.0, 0.0]] + [[0.0] * 4] * 4),
        labels=[0, 1, 1, 0, 0],
        name="toy",
        image_shape=(2, 2),
        missing=True,
    )
    line = "toy: 5 rows; x (4,) float32; 5.0% of x missing; images 2×2; 2 classes; cpu"
    assert data.describe() == line and line in repr(data)
    assert data.event_shape("x") == (4,) and data.names == ["x"] and data.device.type == "cpu"
    with pytest.raises(KeyError, match="'z'"):
        data["z"]


def test_with_values_keeps_masks_and_names():
    data = Dataset(
        np.array([[1.0, NAN]] * 2 + [[0.0, 5.0]]), feature_names=["a", "b"], missing=True
    )
    other = data.with_values(x=data["x"] * 2, w=np.ones(3))
    assert other["x"].tolist() == [[2.0, 10.0]] * 2 + [[0.0, 10.0]] and other.names == ["x", "w"]
    assert other.observed["x"].equal(data.observed["x"]) and other.feature_names == ["a", "b"]
    assert data.names == ["x"]


# --- StreamedDataset and as_dataset -----------------------------------------------------------


class Rows(torch.utils.data.Dataset):
    """Rows made from a function, which counts its calls."""

    def __init__(self, item, size=10):
        self.item, self.size, self.read = item, size, []

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        self.read.append(i)
        return self.item(i)


@pytest.mark.parametrize(
    "item",
    [
        lambda i: torch.full((2,), float(i)),
        lambda i: (torch.full((2,), float(i)), i % 3),
        lambda i: {"x": np.full(2, float(i)), "n": i},
    ],
)
def test_streamed_rows_are_read_on_demand(item):
    rows = Rows(item)
    data = as_dataset(DataLoader(rows, batch_size=4))
    assert isinstance(data, StreamedDataset) and len(data) == 10 and data.event_shape() == (2,)
    assert rows.read == [0]
    assert data.fingerprint == Dataset(data.values).fingerprint
    rows.read.clear()
    batch = data.batch(torch.tensor([7, 2]))
    assert rows.read == [7, 2] and batch.size == 10 and batch.index.tolist() == [7, 2]
    assert batch["x"].tolist() == [[7.0, 7.0], [2.0, 2.0]]
    assert batch["x"].dtype == torch.get_default_dtype()
    assert data["x"].shape == (10, 2) and len(data.batch()) == 10
    part = data.subset([9, 8]).to(torch.float64)
    assert part["x"].dtype == torch.float64 and part["x"][:, 0].tolist() == [9.0, 8.0]
    assert [len(b) for b in data.batches(4)] == [4, 4, 2]
    assert torch.cat(list(data.epoch(4, 0, 0))).sort().values.tolist() == list(range(10))
    assert "10 rows" in data.describe()


def test_streamed_labels_come_from_targets():
    rows = Rows(lambda i: (torch.zeros(1), i), 4)
    rows.targets = [3, 2, 1, 0]
    data = as_dataset(rows)
    assert data.labels.tolist() == [3, 2, 1, 0] and data.subset([1]).labels.tolist() == [2]


def test_streamed_bad_input():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([torch.zeros(2)])

    with pytest.raises(TypeError, match="map-style"):
        as_dataset(Stream())
    with pytest.raises(ValueError, match="at least one row"):
        as_dataset(Rows(None, 0))
    with pytest.raises(TypeError, match="real numbers"):
        as_dataset(Rows(lambda i: ("text", 0)))
    data = as_dataset(Rows(lambda i: torch.zeros(1 + i) if i < 2 else torch.tensor([NAN])))
    with pytest.raises(ValueError, match="different shapes"):
        data.batch(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="missing entries"):
        data.batch(torch.tensor([2]))


def test_as_dataset():
    x = torch.randn(4, 2)
    data = Dataset(x)
    assert as_dataset(data) is data
    for given in (x, x.numpy(), {"x": x}, data.batch(), TensorDataset(x, torch.arange(4))):
        got = as_dataset(given)
        assert got["x"].equal(x) and got.names == ["x"]
    batch = Batch({"x": x}, torch.arange(4), 100, {"x": x > 0})
    assert as_dataset(batch).observed["x"].equal(x > 0) and as_dataset(batch).batch().size == 4


# --- named data sets --------------------------------------------------------------------------


def ppca_log_evidence(train, x, latent_dim):
    """Mean log N(x; m, WWᵀ + σ²I) at the maximum likelihood of the training rows."""
    mean = train.mean(0)
    eigenvalues, vectors = np.linalg.eigh(np.cov(train.T, bias=True))
    top, noise = vectors[:, -latent_dim:], eigenvalues[:-latent_dim].mean()
    cov = noise * np.eye(len(mean)) + (top * (eigenvalues[-latent_dim:] - noise)) @ top.T
    centred = x - mean
    quadratic = np.einsum("nd,nd->n", centred, np.linalg.solve(cov, centred.T).T)
    return -0.5 * (np.linalg.slogdet(2 * np.pi * cov)[1] + quadratic.mean())


@pytest.mark.parametrize(
    ("name", "latent_dim", "train", "test"),
    [
        ("iris", 2, -3.6258, -3.9644),
        ("wine", 2, -16.2531, -16.0075),
        ("wine", 5, -15.3075, -15.1841),
        ("digits", 10, 17.4973, 17.0235),
    ],
)
def test_splits_reproduce_the_reference_values_of_ppca(double, name, latent_dim, train, test):
    split = load_data(name)
    rows, held_out = split.train["x"].numpy(), split.test["x"].numpy()
    assert ppca_log_evidence(rows, rows, latent_dim) == pytest.approx(train, abs=1e-4)
    assert ppca_log_evidence(rows, held_out, latent_dim) == pytest.approx(test, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "rows", "columns", "classes"),
    [
        ("digits", 1797, 64, 10),
        ("iris", 150, 4, 3),
        ("wine", 178, 13, 3),
        ("breast_cancer", 569, 30, 2),
    ],
)
def test_named_data_sets(name, rows, columns, classes):
    split = load_data(name)
    train, test, record = split.train, split.test, split.record
    assert len(train) == int(0.8 * rows) == record["num_train"]
    assert len(test) == rows - int(0.8 * rows) == record["num_test"]
    assert train.event_shape() == (columns,) and len(train.feature_names) == columns
    assert train["x"].dtype == torch.float32 and train.name == name and name in SOURCES
    assert train.labels.dtype == torch.long and train.labels.unique().tolist() == [*range(classes)]
    assert len(record["class_names"]) == classes
    assert json.loads(json.dumps(record)) == record
    options = ("name", "standardize", "test_fraction", "label_column", "missing")
    again = load_data(**{option: record[option] for option in options})
    assert again.train["x"].equal(train["x"]) and again.record == record


def test_split_is_the_permutation_and_is_row_aligned():
    from sklearn.datasets import load_wine

    raw, order = load_wine(), np.random.RandomState(0).permutation(178)
    split = load_data("wine", standardize=False)
    assert np.allclose(split.train["x"], raw.data[order[:142]])
    assert split.test.labels.tolist() == raw.target[order[142:]].tolist()
    assert split.record["transform"] == "none" and split.record["standardize"] is False


def test_standardize(double):
    split = load_data("iris")
    rows = torch.cat([split.train["x"], split.test["x"]])
    assert torch.allclose(rows.mean(0), torch.zeros(4)) and split.record["standardize"] is True
    assert torch.allclose(rows.std(0, correction=0), torch.ones(4))
    train = load_data("iris", standardize="train")
    assert torch.allclose(train.train["x"].mean(0), torch.zeros(4))
    assert torch.allclose(train.train["x"].std(0, correction=0), torch.ones(4))
    raw = load_data("iris", standardize=False)
    mean, scale = torch.tensor(train.record["mean"]), torch.tensor(train.record["scale"])
    assert torch.allclose(train.test["x"], (raw.test["x"] - mean) / scale)
    assert train.record["standardize"] == "train" and "training" in train.record["transform"]


def test_digits_scaling():
    default, raw, whitened = (load_data("digits", standardize=s) for s in (None, False, True))
    assert default.record["transform"] == "divided by 16" and default.record["scale"] == 16.0
    assert default.train["x"].max() == 1.0 and raw.train["x"].max() == 16.0
    assert default.train.image_shape == (8, 8) and default.train.labels is not None
    constant = torch.cat([raw.train["x"], raw.test["x"]]).std(0) == 0
    assert constant.any() and (whitened.train["x"][:, constant] == 0).all()
    assert whitened.train["x"].isfinite().all() and whitened.record["scale"][0] == 1.0


@pytest.mark.parametrize(("fraction", "num_train"), [(0.2, 142), (0.5, 89), (0.1, 160), (0.9, 17)])
def test_test_fraction(fraction, num_train):
    split = load_data("wine", test_fraction=fraction)
    assert (len(split.train), len(split.test)) == (num_train, 178 - num_train)


def test_no_test_set_keeps_the_order_of_the_rows():
    split = load_data("iris", test_fraction=0)
    assert split.test is None and split.record["num_test"] == 0 and len(split.train) == 150
    assert split.train.labels.tolist() == [0] * 50 + [1] * 50 + [2] * 50


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("irsi", {}, "did you mean 'iris'"),
        ("nothing.xyz", {}, r"ending in \.csv, \.npy, \.npz, \.pt"),
        ("nothing.csv", {}, "no file 'nothing.csv' .* ZOO_DATA"),
        ("iris", {"test_fraction": 1.0}, r"\[0, 1\)"),
        ("iris", {"test_fraction": -0.1}, r"\[0, 1\)"),
        ("iris", {"test_fraction": NAN}, r"\[0, 1\)"),
        ("iris", {"test_fraction": "half"}, r"\[0, 1\)"),
        ("iris", {"test_fraction": 0.999}, "none to train on"),
        ("iris", {"standardize": "all"}, "true, false or train"),
        ("iris", {"label_column": "species"}, "own labels"),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(ValueError, match=words):
        load_data(name, **options)


# --- files ------------------------------------------------------------------------------------


def test_csv(folder):
    rows = [[f"{i / 4}", i, "NA" if i == 3 else -i, "ba"[i % 2]] for i in range(10)]
    write_csv(folder / "t.csv", ["a", "b", "c", "kind"], *rows)
    split = load_data(
        "t.csv", label_column="kind", missing=True, standardize=False, test_fraction=0
    )
    data = split.train
    assert data.feature_names == ["a", "b", "c"] and data.name == "t"
    assert data["x"][:, 0].tolist() == [i / 4 for i in range(10)]
    assert data.labels.tolist() == [1, 0] * 5 and split.record["class_names"] == ["a", "b"]
    assert (~data.observed["x"]).nonzero().tolist() == [[3, 2]] and data["x"][3, 2] == 0.0
    assert split.record["label_column"] == "kind" and len(split.record["sha256"]) == 64
    # By default standardised, over the observed entries.
    x = load_data("t.csv", label_column="kind", missing=True, test_fraction=0).train["x"]
    seen = np.array([-i for i in range(10) if i != 3], dtype=float)
    expected = (seen - seen.mean()) / seen.std()
    assert np.allclose(x[[0, 1, 2, *range(4, 10)], 2], expected, atol=1e-6)
    with pytest.raises(ValueError, match="rows 3, columns 'c'"):
        load_data("t.csv", label_column="kind")


def test_csv_of_counts_is_not_standardised_unless_asked(folder):
    write_csv(folder / "counts.csv", ["a", "b"], *([i, 3 * i] for i in range(5)))
    split = load_data("counts.csv", test_fraction=0)
    assert split.record["standardize"] is False and split.train["x"][4].tolist() == [4.0, 12.0]
    assert split.train["x"].dtype == torch.float32
    assert load_data("counts.csv", standardize=True).record["standardize"] is True


def test_csv_labels(folder):
    write_csv(folder / "t.csv", ["x", "k", "s"], [0.5, 3, "u"], [1.5, 1, ""], [2.5, 1, "t"])
    with pytest.raises(ValueError, match="not numeric: 's' .*line 2 has 'u'"):
        load_data("t.csv")
    with pytest.raises(ValueError, match="1 labels are missing"):
        load_data("t.csv", label_column="s")
    split = load_data("t.csv", label_column="s", missing=True, test_fraction=0)
    assert split.train.labels.tolist() == [1, -1, 0] and split.record["class_names"] == ["t", "u"]
    write_csv(folder / "i.csv", ["x", "k"], [0.5, 3], [1.5, 1])
    split = load_data("i.csv", label_column="k", test_fraction=0)
    assert split.train.labels.tolist() == [3, 1] and split.record["class_names"] is None


def test_csv_row_names_are_dropped(folder):
    write_csv(folder / "t.csv", ["rownames", "x"], ["one", 0.5], ["two", 1.5])
    split = load_data("t.csv", test_fraction=0)
    assert split.train.feature_names == ["x"] and split.record["row_names"] == "rownames"


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, "is empty"),
        ("\n\n", {}, "must name the columns"),
        ("a,b\n", {}, "no rows"),
        ("1,2\n3,4\n", {}, "must name the columns"),
        ("a,a\n1,2\n", {}, "different name"),
        ("a,b\n1,2\n\n3\n", {}, "line 4 has 1 cells, the header has 2"),
        ("a,b,c\n1,u,2\n1,2,v\n", {}, r"not numeric: 'b', 'c' \(line 2 has 'u'\)"),
        ("a,kind\n1,u\n", {"label_column": "knd"}, "did you mean 'kind'"),
        ("kind\nu\n", {"label_column": "kind"}, "no columns besides"),
        ("a,b\n1.5,inf\n", {}, "infinite in rows 0, columns 'b'"),
        ("a,b\n1.5,\n", {"missing": True}, "no observed entry at all, columns 'b'"),
        ('a,b\n1,"2\n', {}, "not a comma-separated table"),
    ],
)
def test_bad_csv(folder, text, options, words):
    (folder / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        load_data("t.csv", **options)


def test_npy(folder, double):
    x = np.random.default_rng(0).normal(size=(10, 3))
    x[:, 1] = 0.1  # constant, and not exact in binary
    np.save(folder / "x.npy", x)
    split = load_data("x.npy", test_fraction=0)
    assert split.record["standardize"] is True and (split.train["x"][:, 1] == 0).all()
    assert split.record["scale"][1] == 1.0
    np.save(folder / "line.npy", x[:, 0])
    assert load_data("line.npy").train.event_shape() == (1,)
    for name, array in {
        "counts": np.arange(20).reshape(10, 2),
        "bits": np.ones((10, 2), dtype=bool),
        "images": np.arange(120.0).reshape(10, 3, 4),
    }.items():
        np.save(folder / f"{name}.npy", array)
        split = load_data(f"{name}.npy", test_fraction=0)
        assert split.record["standardize"] is False and split.record["transform"] == "none"
        assert np.array_equal(split.train["x"], array.reshape(10, -1))
        assert split.train.image_shape == (array.shape[1:] if name == "images" else None)
        assert split.train["x"].is_floating_point()


def test_npz_and_pt(folder):
    arrays = {
        "x": np.random.default_rng(0).normal(size=(6, 2)),
        "y": np.array([0, 1, 2, 0, 1, 2]),
        "exposure": np.arange(1.0, 7.0),
        "group": np.arange(6),
    }
    np.savez(folder / "a.npz", **arrays)
    torch.save({key: torch.from_numpy(value) for key, value in arrays.items()}, folder / "a.pt")
    for name in ("a.npz", "a.pt"):
        data = load_data(name, test_fraction=0).train
        assert data.names == ["x", "exposure", "group"] and data.labels.tolist() == [
            0,
            1,
            2,
            0,
            1,
            2,
        ]
        assert data["exposure"].tolist() == [1, 2, 3, 4, 5, 6] and data["x"].dtype == torch.float32
        assert data["exposure"].dtype == torch.float32 and data["group"].dtype == torch.long
        data = load_data(name, test_fraction=0, label_column="group").train
        assert data.names == ["x", "y", "exposure"] and data.labels.tolist() == [*range(6)]
        with pytest.raises(ValueError, match="did you mean 'group'"):
            load_data(name, label_column="groups")
    np.savez(folder / "one.npz", faces=arrays["x"], labels=np.array(list("bab" * 2)))
    split = load_data("one.npz", test_fraction=0)
    assert split.train.names == ["x"] and split.train.labels.tolist() == [1, 0, 1] * 2
    assert split.record["class_names"] == ["a", "b"]
    torch.save(torch.randn(6, 2, dtype=torch.float64, requires_grad=True), folder / "t.pt")
    data = load_data("t.pt").train
    assert data["x"].dtype == torch.float32 and not data["x"].requires_grad


class Anything:
    """An object that only a pickle can hold."""


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", np.array([{}, 1], dtype=object), "object arrays"),
        ("a.npy", b"\x93NUMPY damaged", "not a readable .npy file"),
        ("a.npy", b"", "is empty"),
        ("a.npy", np.array(3.0), "single number"),
        ("a.npy", np.zeros((0, 3)), "at least one row"),
        ("a.npy", np.array([[1.0, NAN]]), "missing=True"),
        ("a.npy", np.array([[1.0, np.inf]]), "infinite"),
        ("a.npz", {"x": np.zeros(3), "w": np.zeros(2)}, "equally many rows"),
        ("a.npz", {"train": np.zeros(3), "test": np.zeros(2)}, "array 'x' or only one"),
        ("a.npz", {"x": np.zeros(3), "y": np.zeros((3, 2))}, "one label a row"),
        ("a.npz", {"x": np.array([{}], dtype=object)}, "object arrays"),
        ("a.npz", b"PK damaged", "not a readable .npz file"),
        ("a.pt", Anything(), "can execute code"),
        ("a.pt", {"x": torch.zeros(3), "note": "text"}, "'note'"),
        ("a.pt", b"damaged", "not a readable .pt file"),
    ],
)
def test_bad_arrays(folder, name, content, words):
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif name == "a.npy":
        np.save(path, content)
    elif name == "a.npz":
        np.savez(path, **content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=words):
        load_data(name)


def test_where_files_are_looked_for(folder, tmp_path, monkeypatch):
    np.save(folder / "a.npy", np.zeros((4, 1)))
    np.save(tmp_path / "cwd" / "a.npy", np.zeros((6, 1)))
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "b.npy", np.zeros((8, 1)))
    assert len(load_data("a.npy", test_fraction=0).train) == 6  # the working directory first
    assert len(load_data(folder / "a.npy", test_fraction=0).train) == 4
    split = load_data("b.npy", data_root=tmp_path / "other", test_fraction=0)
    assert len(split.train) == 8 and split.record["name"] == "b.npy"
    assert split.record["path"].endswith("b.npy") and json.dumps(split.record)
    assert data_folder() == folder
    monkeypatch.delenv("ZOO_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_folder() == tmp_path / "latent-zoo"
    with pytest.raises(ValueError, match="no file"):
        load_data("b.npy")
