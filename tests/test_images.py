"""Image data: named sources, folders, downloads, official splits, and the two views of Images."""

import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import zoo.images
from experiments.judge.paired import same_data
from guides.guide import Guide
from zoo.context import seeded
from zoo.data import Dataset, as_dataset
from zoo.downloads import Published, download, obtain
from zoo.fitting import fit
from zoo.images import Images
from zoo.models.ppca import PPCA
from zoo.sources import SOURCES, load_data

BINARY = [0.0, 1.0]
OF_DATA = ("standardize", "test_fraction", "label_column", "missing", "num_train", "num_test")
OPTIONS = ("name", "binarization", "binarization_seed", "validation", *OF_DATA)


def grey(rows=200, size=(5, 7), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, *size), dtype=np.uint8)


def within(draws, probability, bits=0.0):
    """Whether frequencies of n draws each lie within 6 standard errors, plus a rounding."""
    count = len(draws)
    error = (probability * (1 - probability) / count).clamp_min(1e-12).sqrt()
    return bool(((draws.mean(0) - probability).abs() <= 6 * error + bits).all())


# --- the two views ----------------------------------------------------------------------------


def test_bytes_stay_bytes_and_are_served_in_the_unit_interval():
    x = grey()
    data = Images(x, labels=np.arange(200) % 3, name="g")
    assert data._values["x"].dtype == torch.uint8 and data.image_shape == (5, 7)
    assert data.event_shape() == (35,) and len(data) == 200 and data.names == ["x"]
    expected = torch.from_numpy(x).reshape(200, 35).float() / 255
    rows = torch.tensor([7, 0, 7])
    for got in (data["x"], data.values["x"], data.batch()["x"], data.fixed()["x"]):
        assert got.equal(expected) and got.dtype == torch.float32
    assert data.batch(rows)["x"].equal(expected[rows]) and data.batch(rows).size == 200
    assert torch.cat([b["x"] for b in data.batches(33)]).equal(expected)
    assert data.fixed() is data and not data.dynamic
    plain = Dataset(expected, labels=data.labels, name="g", image_shape=(5, 7))
    assert data.fingerprint == plain.fingerprint and data.describe() == plain.describe()
    assert not plain.dynamic and plain.fixed() is plain
    with pytest.raises(KeyError, match="'z'"):
        data["z"]


def test_the_training_view_is_drawn_anew_and_the_evaluation_view_is_not():
    data = Images(grey(), binarization="dynamic", seed=3)
    rows = torch.arange(50, 150)
    one, two = data.batch(rows)["x"], data.batch(rows)["x"]
    assert one.unique().tolist() == two.unique().tolist() == BINARY and not one.equal(two)
    with seeded(5):
        again = data.batch(rows)["x"]
    with seeded(5):
        assert data.batch(rows)["x"].equal(again)
    assert not data.batch()["x"].equal(data.batch()["x"]) and data.dynamic
    state = torch.get_rng_state()
    whole = data.fixed()["x"]
    for size in (None, 1, 7, 64, 1000):
        assert torch.cat([b["x"] for b in data.batches(size)]).equal(whole)
    assert data.fixed().batch(rows)["x"].equal(whole[rows]) and whole.unique().tolist() == BINARY
    assert data.subset(rows).fixed()["x"].equal(whole[rows])
    assert data.subset(rows).subset([3])["x"].equal(data["x"][rows][[3]])
    assert torch.get_rng_state().equal(state)  # evaluation takes no random numbers
    assert Images(grey(), binarization="dynamic", seed=3).fixed()["x"].equal(whole)
    assert not Images(grey(), binarization="dynamic", seed=4).fixed()["x"].equal(whole)
    assert data["x"].equal(Images(grey())["x"]) and not data.fixed().dynamic
    assert next(data.batches(9)).fingerprint == data.batch(rows).fingerprint == data.fingerprint
    others = [Images(grey(), binarization=b, seed=s) for b in ("static", "dynamic") for s in (3, 4)]
    assert (
        len({data.fingerprint, Images(grey()).fingerprint} | {o.fingerprint for o in others}) == 5
    )


def test_a_draw_does_not_depend_on_the_chunks_that_it_is_made_in(monkeypatch):
    x = grey(rows=90)
    views = []
    for chunk in (1, 7, 90, 4096):
        monkeypatch.setattr(zoo.images, "CHUNK", chunk)
        views.append(Images(x, binarization="static", seed=1)["x"])
    assert all(view.equal(views[0]) for view in views)


def test_the_evaluation_draw_is_the_same_on_every_machine_and_for_good():
    """Values written down once: raw bits of PCG64, which NumPy promises to keep."""
    levels = np.full((2, 2, 4), 128, np.uint8)
    assert Images(levels, binarization="static")["x"].tolist() == FROZEN


@pytest.mark.parametrize("binarization", ["static", "dynamic"])
def test_frequencies_are_the_grey_levels(binarization):
    """n = 40 000 rows of all 256 grey levels; a false alarm at 6 standard errors: 256 · 2e-9."""
    count, levels = 40_000, torch.arange(256, dtype=torch.uint8)
    data = Images(levels.expand(count, -1), binarization=binarization, image_shape=(16, 16))
    probability = levels.double() / 255
    assert within(data.fixed()["x"].double(), probability)
    assert within(data.batch(torch.arange(count))["x"].double(), probability)
    assert data.batch()["x"][:, 0].max() == 0 and data.batch()["x"][:, -1].min() == 1


def test_pixels_are_drawn_independently():
    """Correlations of 64 pixels, with those beside them and with the next draw; 6/√n."""
    count = 20_000
    data = Images(np.full((count, 64), 100, np.uint8), binarization="dynamic")
    one, two = data.batch()["x"].double(), data.batch()["x"].double()
    joint = torch.cat([one, two, data.fixed()["x"].double()], 1)  # (n, 192)
    correlation = torch.corrcoef(joint.T) - torch.eye(192, dtype=torch.float64)
    assert correlation.abs().max() < 6.5 / count**0.5
    lagged = torch.corrcoef(torch.stack([one.flatten()[:-1], one.flatten()[1:]]))[0, 1]
    assert lagged.abs() < 6 / one.numel() ** 0.5


def test_floating_grey_levels_and_other_whites(float64):
    x = np.random.default_rng(0).random((6000, 3))
    data = Images(x, binarization="dynamic")
    assert data["x"].dtype == torch.float64 and data["x"].equal(torch.from_numpy(x))
    for view in (data.batch()["x"], data.fixed()["x"]):
        assert view.dtype == torch.float64 and abs(view.mean() - x.mean()) < 6 * 0.5 / 18_000**0.5
    assert data["x"].equal(torch.from_numpy(x))  # drawing leaves the grey levels alone
    sixteen = Images(np.array([[0, 8, 16]] * 4000, np.uint8), white=16, binarization="dynamic")
    assert sixteen["x"][0].tolist() == [0, 0.5, 1]
    assert within(sixteen.batch()["x"], torch.tensor([0, 0.5, 1]))
    bits = Images(np.array([[True, False]] * 5), binarization="static", seed=9)
    assert bits["x"].tolist() == [[1, 0]] * 5 and bits.seed is None and bits.white == 1


def test_moving_and_adding_values_keep_the_views():
    data = Images({"x": grey(), "w": np.arange(200.0)}, binarization="dynamic", labels=[0] * 200)
    wide = data.to(torch.float64)
    assert wide["x"].dtype == wide.batch()["x"].dtype == wide.fixed()["x"].dtype == torch.float64
    assert wide["w"].dtype == torch.float64 and "float64" in wide.describe()
    assert wide.fixed()["x"].equal(data.fixed()["x"].double()) and wide.seed == 0
    assert data.to("cpu").to(dtype=torch.float64)["x"].equal(wide["x"])
    more = data.with_values(v=torch.ones(200, 2))
    assert isinstance(more, Images) and more.names == ["x", "w", "v"] and more.dynamic
    assert more.fixed()["x"].equal(data.fixed()["x"]) and more.batch()["v"].shape == (200, 2)
    other = data.with_values(x=data["x"] - 1)
    assert not isinstance(other, Images) and other.image_shape == (5, 7)
    assert as_dataset(data) is data and as_dataset(data.batch())["x"].unique().tolist() == BINARY
    with pytest.raises(ValueError, match="equally many rows"):
        data.with_values(v=torch.ones(3))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Images(grey(), binarization="sometimes"), "static, dynamic or none"),
        (
            lambda: Images(np.array([[-0.1, 2.0]]), binarization="static"),
            r"\[0, 1\], got -0.1 to 2",
        ),
        (lambda: Images(grey(), white=16, binarization="dynamic"), "lie in"),
        (lambda: Images(np.array([[300]])), "0 to 255, got 300"),
        (lambda: Images(np.zeros((0, 2, 2), np.uint8)), "at least one row"),
    ],
)
def test_bad_images(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# --- training on dynamic data -----------------------------------------------------------------


def trained(steps, out=None, resume=False, **options):
    data = Images(grey(rows=60), binarization="dynamic")
    with seeded(1):
        model = PPCA.for_data(data, latent_dim=2)
        guide = Guide(model, data, "mean_field", "amortized")
    settings = {"device": "cpu", "progress": False, "log_every": 1, **options}
    result = fit(model, guide, data, steps=steps, out=out, resume=resume, **settings)
    weights = {**model.state_dict(), **{f"g.{k}": v for k, v in guide.state_dict().items()}}
    return weights, [row["loss"] for row in result.metrics]


@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_resumed_fit_ends_with_the_same_bits(tmp_path, batch_size):
    whole, losses = trained(9, batch_size=batch_size)
    trained(4, tmp_path / "run", batch_size=batch_size)
    rest, seen = trained(9, tmp_path / "run", True, batch_size=batch_size)
    assert whole.keys() == rest.keys() and all(whole[k].equal(rest[k]) for k in whole)
    assert losses == seen


def test_a_full_batch_is_drawn_at_every_step_too():
    class Seen(Images):
        asked = 0

        def batch(self, index=None):
            type(self).asked += 1
            return super().batch(index)

    data = Seen(grey(rows=20), binarization="dynamic")
    model = PPCA.for_data(data, latent_dim=1)
    guide = Guide(model, data)
    Seen.asked = 0
    fit(model, guide, data, steps=30, device="cpu", progress=False)
    assert Seen.asked >= 30


def test_building_model_and_guide_takes_no_draw_of_the_training_view():
    class Hidden(Images):
        def batch(self, index=None):
            assert not self.dynamic, "the training view was asked for"
            return super().batch(index)

    data = Hidden(grey(), binarization="dynamic")
    model = PPCA.for_data(data, latent_dim=1)
    Guide(model, data)


# --- load_data --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes", "shape", "classes", "binarization"),
    [
        ("mnist", (60000, 10000), (28, 28), 10, "dynamic"),
        ("fashion_mnist", (60000, 10000), (28, 28), 10, "dynamic"),
        ("static_mnist", (50000, 10000), (28, 28), 10, "static"),
        ("omniglot28", (24345, 8070), (28, 28), 50, "dynamic"),
        ("caltech_silhouettes", (6936, 1735), (28, 28), 101, "static"),
        ("frey_faces", (1572, 393), (28, 20), None, "none"),
    ],
)
def test_named_images(zoo_data, name, sizes, shape, classes, binarization):
    split = load_data(name, data_root=zoo_data)
    train, test, record = split.train, split.test, split.record
    assert (len(train), len(test)) == sizes == (record["num_train"], record["num_test"])
    assert train.image_shape == shape and train.event_shape().numel() == shape[0] * shape[1]
    assert isinstance(train, Images) and train._values["x"].dtype == torch.uint8
    assert train.name == name and name in SOURCES and record["binarization"] == binarization
    seed = 0 if binarization == "dynamic" else None
    assert record["binarization_seed"] == seed == train.seed == test.seed
    assert train.dynamic == test.dynamic == (binarization == "dynamic")
    view = next(test.batches(100))["x"]
    assert view.unique().tolist() == BINARY or binarization == "none"
    for part in (train, test):
        labels = part.labels
        assert (labels is None) == (classes is None)
        if labels is not None:
            assert labels.dtype == torch.long and labels.unique().tolist() == [*range(classes)]
            assert len(record["class_names"]) == classes
    assert json.loads(json.dumps(record)) == record
    options = {key: record[key] for key in OPTIONS if key in record}
    again = load_data(**options, data_root=zoo_data)
    assert again.record == record and again.train.fingerprint == train.fingerprint
    assert again.test.fixed()._values["x"].equal(test.fixed()._values["x"])
    assert (split.valid is not None) == (name == "static_mnist")


def test_mnist_is_mnist(zoo_data):
    """The published counts of every digit, and the mean and sd that everyone normalises with."""
    split = load_data("mnist", data_root=zoo_data, binarization="none")
    train, test = split.train, split.test
    assert train.labels.bincount().tolist() == MNIST_TRAIN
    assert test.labels.bincount().tolist() == MNIST_TEST
    pixels = train._values["x"]
    x = pixels.double() / 255
    assert x.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert x.std().item() == pytest.approx(0.3081, abs=5e-5)
    assert pixels.long().sum() == 1_567_298_545 and test._values["x"].long().sum() == 264_923_200
    assert split.record["transform"] == "divided by 255" and split.record["scale"] == 255
    assert split.record["split"] == "official" and split.record["class_names"][3] == "3"


def test_mnist_binarized_dynamically_has_its_grey_levels_as_means(zoo_data):
    """Σ of all pixels: within 6 sd of the sum of the grey levels, in both views."""
    test = load_data("mnist", data_root=zoo_data).test
    p = test["x"].double()
    sd = (p * (1 - p)).sum().sqrt()
    for view in (test.batch()["x"], test.fixed()["x"], test.batch()["x"]):
        assert (view.double().sum() - p.sum()).abs() < 6 * sd
    static = load_data("mnist", data_root=zoo_data, binarization="static", binarization_seed=1)
    assert (static.test["x"].double().sum() - p.sum()).abs() < 6 * sd
    assert static.record["transform"] == "divided by 255, static binarization, seed 1"
    assert "static binarization, seed 1" in static.train.describe() and not static.test.dynamic


def test_static_mnist_is_the_published_file(zoo_data):
    held = np.load(zoo_data / "binarized_mnist" / "binarized_mnist.npz")
    bits = {part: np.unpackbits(held[part], axis=1) for part in ("train", "valid", "test")}
    split = load_data("static_mnist", data_root=zoo_data)
    got = {"train": split.train, "valid": split.valid, "test": split.test}
    for part, data in got.items():
        assert np.array_equal(data._values["x"].numpy(), bits[part])
        assert np.array_equal(data.labels.numpy(), held[f"{part}_label"])
    assert split.test.labels.bincount().tolist() == MNIST_TEST
    assert split.record["validation"] == "leave" and split.record["num_train"] == 50000
    more = load_data("static_mnist", data_root=zoo_data, validation="train")
    assert len(more.train) == 60000 and more.valid is None and "trained on" in more.record["split"]
    assert np.array_equal(more.train._values["x"][50000:].numpy(), bits["valid"])
    assert more.train.labels.bincount().tolist() == MNIST_TRAIN
    with pytest.raises(ValueError, match="binary already"):
        load_data("static_mnist", data_root=zoo_data, binarization="dynamic")


def test_static_mnist_from_the_published_text(zoo_data, tmp_path):
    """The text that the published addresses serve: checksums, then the same bits, no labels."""
    held = np.load(zoo_data / "binarized_mnist" / "binarized_mnist.npz")
    folder = tmp_path / "binarized_mnist"
    folder.mkdir()
    for part in ("train", "valid", "test"):
        bits = np.unpackbits(held[part][:200], axis=1)
        lines = [" ".join(map(str, row)) for row in bits.tolist()]
        (folder / f"binarized_mnist_{part}.amat").write_text("\n".join(lines) + "\n")
    split = load_data("static_mnist", data_root=tmp_path)
    assert [len(part) for part in (split.train, split.valid, split.test)] == [200] * 3
    assert np.array_equal(
        split.test._values["x"].numpy(), np.unpackbits(held["test"][:200], axis=1)
    )
    assert split.train.labels is None and split.record["class_names"] is None
    (folder / "binarized_mnist_valid.amat").write_text("0 1 1")
    with pytest.raises(ValueError, match="static_mnist: .*damaged|reshape"):
        load_data("static_mnist", data_root=tmp_path)


def test_silhouettes_stand_upright_on_a_black_ground(zoo_data):
    split = load_data("caltech_silhouettes", data_root=zoo_data)
    corner = split.train["x"].reshape(-1, 28, 28)[:, 0, 0].mean()
    assert corner < 0.1 and 0.3 < split.train["x"].mean() < 0.7  # silhouettes fill the middle
    from scipy.io import loadmat

    held = loadmat(str(zoo_data / "caltech101_silhouettes" / "caltech101_silhouettes_28.mat"))
    order = np.random.RandomState(0).permutation(8671)
    image = 1 - held["X"][order[5]].reshape(28, 28).T
    assert np.array_equal(split.train["x"][5].numpy(), image.reshape(-1))
    assert split.train.labels[5] + 1 == held["Y"][0, order[5]] and "note" in split.record


def test_omniglot_has_the_sizes_of_burda_and_says_that_it_is_not_theirs(zoo_data):
    split = load_data("omniglot28", data_root=zoo_data, binarization="none")
    held = np.load(zoo_data / "omniglot28" / "omniglot28.npz")
    assert np.array_equal(
        split.test._values["x"].numpy(), held["images"][held["split"] == 1].reshape(8070, 784)
    )
    assert "chardata.mat" in split.record["note"] and split.record["split"] == "official"
    pooled = load_data("omniglot28", data_root=zoo_data, binarization="none", test_fraction=0.5)
    assert len(pooled.train) == len(pooled.test) == 16230


def test_few_rows_are_taken_by_a_seeded_permutation(zoo_data):
    whole = load_data("mnist", data_root=zoo_data)
    few = load_data("mnist", data_root=zoo_data, num_train=300, num_test=50)
    fewer = load_data("mnist", data_root=zoo_data, num_train=100, num_test=0)
    assert (len(few.train), len(few.test), fewer.test) == (300, 50, None)
    assert (few.record["num_train"], few.record["num_test"]) == (300, 50)
    assert few.train.subset(range(100))["x"].equal(fewer.train["x"])
    order = torch.from_numpy(np.random.RandomState(2).permutation(10000)[:50])
    chosen = whole.test.subset(order)
    assert few.test["x"].equal(chosen["x"]) and few.test.labels.equal(chosen.labels)
    assert few.test.fixed()["x"].equal(chosen.fixed()["x"])
    assert len(few.test.labels.unique()) > 5


def test_digits_binarized():
    none, static, dynamic = (
        load_data("digits", binarization=b) for b in (None, "static", "dynamic")
    )
    assert none.record["binarization"] == "none" and none.record["binarization_seed"] is None
    assert not isinstance(none.train, Images) and dynamic.train.dynamic
    assert (
        static.train["x"].unique().tolist()
        == BINARY
        == dynamic.train.batch()["x"].unique().tolist()
    )
    assert dynamic.train["x"].equal(none.train["x"]) and dynamic.train.image_shape == (8, 8)
    assert static.test["x"].equal(dynamic.test.fixed()["x"])  # one seed, one draw
    assert dynamic.record["transform"] == "divided by 16, dynamic binarization, seed 0"
    assert static.test.labels.equal(none.test.labels)
    again = load_data(**{k: static.record[k] for k in OPTIONS if k in static.record})
    assert again.record == static.record and again.train["x"].equal(static.train["x"])
    records = {"a": static.record, "b": dynamic.record}
    with pytest.raises(ValueError, match="binarization is 'static' in one and 'dynamic'"):
        same_data(records)
    other = load_data("digits", binarization="static", binarization_seed=1)
    with pytest.raises(ValueError, match="binarization_seed is 0 in one and 1"):
        same_data({"a": static.record, "b": other.record})
    same_data({"a": static.record, "b": again.record})


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("iris", {"binarization": "static"}, r"iris: .* lie in \[0, 1\]"),
        ("digits", {"binarization": "static", "standardize": True}, "leave standardize out"),
        ("digits", {"binarization": "dynamic", "standardize": False}, r"got 0 to 16"),
        ("digits", {"binarization": "Static"}, "static, dynamic or none"),
        ("digits", {"validation": "train"}, "not split with validation rows"),
        ("digits", {"validation": "test"}, "leave or train"),
        ("digits", {"num_train": 0}, "num_train=0, but there are 1437"),
        ("digits", {"num_test": 361}, "num_test=361, but there are 360 test rows"),
        ("minst", {}, "did you mean 'mnist'"),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(ValueError, match=words):
        load_data(name, **options)


# --- own images -------------------------------------------------------------------------------


def test_arrays_of_bytes_are_images_and_tables_of_bytes_are_counts(tmp_path):
    load = partial(load_data, data_root=tmp_path, test_fraction=0)
    x = grey(rows=20)
    np.save(tmp_path / "grey.npy", x)
    np.save(tmp_path / "table.npy", x.reshape(20, -1))
    np.save(tmp_path / "bits.npy", x // 128)
    np.save(tmp_path / "colour.npy", grey(rows=20, size=(5, 7, 3)))
    torch.save({"x": torch.from_numpy(x), "y": torch.arange(20)}, tmp_path / "t.pt")
    split = load("grey.npy")
    assert split.train["x"].equal(torch.from_numpy(x).reshape(20, 35).float() / 255)
    assert split.record["transform"] == "divided by 255" and split.train.image_shape == (5, 7)
    assert split.record["binarization"] == "none" and isinstance(split.train, Images)
    assert load("grey.npy", standardize=False).train["x"].max() == x.max() > 1
    assert load("table.npy").train["x"].max() == x.max()
    assert load("bits.npy").train["x"].unique().tolist() == BINARY
    assert load("bits.npy").record["transform"] == "none"
    colour = load("colour.npy").train
    assert colour.image_shape == (3, 5, 7)
    assert np.array_equal(
        colour._values["x"].numpy(),
        np.load(tmp_path / "colour.npy").transpose(0, 3, 1, 2).reshape(20, 105),
    )
    data = load("t.pt", binarization="dynamic").train
    assert data.dynamic and data.labels.tolist() == [*range(20)] and data.name == "t"
    np.save(tmp_path / "levels.npy", x / 255)
    levels = load("levels.npy", binarization="static")
    assert levels.train["x"].unique().tolist() == BINARY
    assert levels.record["transform"] == "static binarization, seed 0"
    assert levels.train["x"].equal(load("grey.npy", binarization="static").train["x"])


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def test_a_folder_of_images(tmp_path):
    x, colour = grey(rows=6, size=(4, 6)), grey(rows=1, size=(4, 6, 3))[0]
    for i, image in enumerate(x):
        save(tmp_path / "flat" / f"{i}.png", image)
        save(tmp_path / "deep" / "ab"[i % 2] / f"{i}.png", image)
    (tmp_path / "flat" / "notes.txt").write_text("not an image")
    split = load_data(tmp_path / "flat", test_fraction=0)
    assert np.array_equal(split.train._values["x"].numpy(), x.reshape(6, 24))
    assert split.train.image_shape == (4, 6) and split.train.name == "flat"
    assert split.train.labels is None and len(split.record["sha256"]) == 64
    assert json.loads(json.dumps(split.record)) == split.record
    deep = load_data("deep", data_root=tmp_path, test_fraction=0, binarization="dynamic")
    assert deep.train.labels.tolist() == [0] * 3 + [1] * 3 and deep.train.dynamic
    assert deep.record["class_names"] == ["a", "b"] and deep.record["binarization"] == "dynamic"
    assert np.array_equal(deep.train._values["x"][:3].numpy(), x[::2].reshape(3, 24))
    save(tmp_path / "flat" / "9.png", colour)
    mixed = load_data(tmp_path / "flat", test_fraction=0).train
    assert mixed.image_shape == (3, 4, 6) and mixed.event_shape() == (72,)
    assert np.array_equal(mixed._values["x"][-1].numpy(), colour.transpose(2, 0, 1).reshape(-1))
    assert mixed._values["x"][0].reshape(3, 24).unique(dim=0).shape[0] == 1  # grey in all three


def test_bad_folders(tmp_path):
    save(tmp_path / "a" / "0.png", np.zeros((4, 6), np.uint8))
    save(tmp_path / "a" / "1.png", np.zeros((5, 6), np.uint8))
    with pytest.raises(ValueError, match=r"0\.png is 4×6, .*1\.png is 5×6"):
        load_data(tmp_path / "a")
    save(tmp_path / "deep" / "0.png", np.zeros((4, 6), np.uint16))
    with pytest.raises(ValueError, match=r"0\.png is not an image of 8 bits"):
        load_data(tmp_path / "deep")
    (tmp_path / "deep" / "0.png").write_bytes(b"\x89PNG damaged")
    with pytest.raises(ValueError, match=r"0\.png is not an image"):
        load_data(tmp_path / "deep")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        load_data("empty", data_root=tmp_path)
    with pytest.raises(ValueError, match="a folder of images"):
        load_data(tmp_path / "a", label_column="y")


# --- downloads --------------------------------------------------------------------------------


CONTENT = b"some bytes " * 1000
DIGEST = "054d1b9dcf24b9eec66ae2ed18fbdb61f215d203f2be4eda2a81e8d790fb0ab2"


@pytest.fixture
def server():
    """A web server on this machine: /good, /short (breaks off), /slow (never answers)."""
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/slow":
                stop.wait(20)
                return
            if self.path not in ("/good", "/short"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT if self.path == "/good" else CONTENT[:500])

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        stop.set()
        httpd.shutdown()
        thread.join()


def test_download(server, tmp_path, capsys):
    place = tmp_path / "deep" / "er" / "file.bin"
    file = Published("deep/er/file.bin", f"{server}/good", DIGEST)
    assert obtain(file, tmp_path) == place and place.read_bytes() == CONTENT
    said = capsys.readouterr()
    assert said.err == f"downloading {server}/good to {place}\n" and said.out == ""
    assert obtain(file, tmp_path) == place and capsys.readouterr().err == ""  # it is there already
    assert [*place.parent.iterdir()] == [place]
    source = tmp_path / "published.bin"
    source.write_bytes(CONTENT)
    download(source.as_uri(), tmp_path / "copy.bin", DIGEST)
    assert (tmp_path / "copy.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "digest", "words"),
    [
        ("/good", "0" * 64, "SHA-256 0000.* nothing was kept"),
        ("/short", DIGEST, "broke off|IncompleteRead"),
        ("/nowhere", DIGEST, "Not Found"),
        ("/slow", DIGEST, "timed out"),
    ],
)
def test_a_failed_download_loses_nothing(server, tmp_path, path, digest, words):
    place = tmp_path / "file.bin"
    place.write_text("what was there before")
    with pytest.raises(ValueError, match=words) as error:
        download(server + path, place, digest, timeout=0.5)
    assert server + path in str(error.value) and str(place) in str(error.value)
    assert place.read_text() == "what was there before" and [*tmp_path.iterdir()] == [place]


def test_without_a_network_the_error_names_address_and_folder(tmp_path, monkeypatch):
    def unreachable(*args, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.create_connection", unreachable)
    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    for name, address, place in (
        ("mnist", "yann.lecun.com|ossci-datasets", "MNIST"),
        ("fashion_mnist", "fashion-mnist", "FashionMNIST"),
        ("static_mnist", "cs.toronto.edu/~larocheh", "binarized_mnist_train.amat"),
        ("caltech_silhouettes", "cs.umass.edu/~marlin", "caltech101_silhouettes_28.mat"),
        ("frey_faces", "cs.nyu.edu/~roweis", "frey_rawface.mat"),
        ("omniglot28", "github.com/brendenlake/omniglot", "omniglot28.npz"),
    ):
        with pytest.raises(ValueError, match=address) as error:
            load_data(name, data_root=tmp_path)
        assert str(tmp_path) in str(error.value) and place in str(error.value), name
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_damaged_file_is_named(tmp_path):
    for path in ("omniglot28/omniglot28.npz", "faces/frey_faces.npz"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_bytes(b"PK damaged")
    for name in ("omniglot28", "frey_faces"):
        with pytest.raises(ValueError, match=f"{name}: .*damaged"):
            load_data(name, data_root=tmp_path)


# --- streamed data have the same surface ------------------------------------------------------


def test_streamed_data_have_the_evaluation_view_too():
    data = as_dataset(TensorDataset(torch.rand(4, 2)))
    assert data.fixed() is data and not data.dynamic


MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
FROZEN = [[0, 0, 0, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1, 0, 0]]
