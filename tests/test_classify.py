"""Classifiers on the features of a run: errors against scikit-learn's own, choices of labels."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from experiments import cli
from experiments.classify import classify
from experiments.judge.classifiers import choose, confusion, error, guesses
from experiments.judge.transductive import TransductiveSVC, _assigned, _shares
from experiments.trained import load_trained
from zoo.latent_space import encode
from zoo.sources import load_data

QUICK = ["--steps", "3", "--eval-particles", "2", "--eval-rows", "10", "--infer-steps", "2"]
CPU: dict[str, Any] = {"device": "cpu"}
FIELDS = {"run", "model", "family", "inference", "objective", "data", "binarization", "transform"}
FIELDS |= {"binarization_seed", "classifier", "c", "neighbours", "num_unlabelled", "labels"}
FIELDS |= {"num_labels", "label_seed", "seeds", "num_train", "num_test", "classes", "features"}
FIELDS |= {"labels_by_class", "pixels", "error", "confusion", "num_samples", "seed", "device"}
FIELDS |= {"versions", "notes", "seconds"}


def fitted(place: Path, *words: str) -> str:
    """A run, and its folder."""
    assert cli.main(["fit", *words, *QUICK, "--device", "cpu", "--out", str(place)]) == 0
    return str(place)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Probabilistic PCA at its maximum: the features are principal components."""
    place = tmp_path_factory.mktemp("digits") / "run"
    words = ["ppca", "--data", "digits", "--family", "exact", "--model.latent_dim", "10"]
    return fitted(place, *words, "--model.init", "ml")


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> str:
    words = ["ppca", "--data", "iris", "--family", "exact", "--model.init", "ml"]
    return fitted(tmp_path_factory.mktemp("iris") / "run", *words)


def scaled(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (train - train.mean(0)) / train.std(0), (test - train.mean(0)) / train.std(0)


def sides(run: str, least: float = 0.1) -> dict[str, Any]:
    """Features, rows and labels of a run whose q needs no fit to test rows."""
    trained = load_trained(run, "cpu")
    train, test = trained.split.train, trained.split.test
    assert test is not None and train.labels is not None and test.labels is not None
    z, new = (encode(trained.model, trained.guide, d).double().numpy() for d in (train, test))
    kept = z.std(0) > least
    return {
        "features": scaled(z[:, kept], new[:, kept]),
        "pixels": (train["x"].numpy(), test["x"].numpy()),
        "y": (train.labels.numpy(), test.labels.numpy()),
        "kept": int(kept.sum()),
    }


def test_the_error_is_that_of_scikit_learn_on_the_features(
    digits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["classify", digits, "--labels", "103", "--label-seed", "4", "--c", "3"]
    assert cli.main([*line, "--device", "cpu", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "svm on 103 labels: ppca on digits" in said and "x less E[z | x]" in said
    assert {path.name for path in tmp_path.iterdir()} == {"classify.json", "classify.png"}
    found, there = json.loads((tmp_path / "classify.json").read_text()), sides(digits)
    y, truth = there["y"]
    rows = choose(y, 103, 4)
    wrong = {}
    for space in ("features", "pixels"):
        x, new = there[space]
        guess = SVC(C=3.0).fit(x[rows], y[rows]).predict(new)
        wrong[space], p, n = guess != truth, float(np.mean(guess != truth)), len(truth)
        se = math.sqrt(p * (1 - p) / n)
        part = found["error"][space]
        assert part["mean"] == pytest.approx(p) and part["se"] == pytest.approx(se)
        assert part["values"] == [part["mean"]] and part["sd"] is None
        counts = np.array(found["confusion"][space])
        assert counts.sum() == n and np.trace(counts) == (guess == truth).sum()
        assert counts.sum(1).tolist() == np.bincount(truth).tolist()
        assert 0 < p < 0.5  # chance is 0.9
    paired = wrong["pixels"].astype(float) - wrong["features"]
    assert found["error"]["difference"]["mean"] == pytest.approx(paired.mean())
    assert found["error"]["difference"]["se"] == pytest.approx(paired.std() / math.sqrt(n))
    assert set(found) == FIELDS and found["num_test"] == n and found["num_train"] == len(y)
    assert found["labels_by_class"] == np.bincount(y[rows]).tolist()
    assert found["features"]["kept"] == there["kept"] and found["features"]["of"] == 10
    assert found["notes"] == [] and found["neighbours"] is None and found["num_unlabelled"] is None


def test_several_choices_of_labels(digits: str, tmp_path: Path, capsys) -> None:
    options: Any = {"classifier": "logistic", "labels": 40, "out": str(tmp_path), **CPU}
    many = classify(digits, label_seed=7, seeds=3, **options)
    out = capsys.readouterr().out
    assert "sd over 3 choices of labels" in out and "least … greatest" in out
    ones = [classify(digits, label_seed=7 + i, **options) for i in range(3)]
    for space in ("features", "pixels", "difference"):
        values = [one["error"][space]["mean"] for one in ones]
        part = many["error"][space]
        assert part["values"] == pytest.approx(values)
        assert part["mean"] == pytest.approx(np.mean(values))
        assert part["sd"] == pytest.approx(np.std(values, ddof=1))
        assert part["se"] <= math.sqrt(np.mean([one["error"][space]["se"] ** 2 for one in ones]))
    assert many["confusion"] == ones[0]["confusion"]
    assert len(set(many["error"]["features"]["values"])) > 1


def test_tables_are_standardised_and_knn_may_have_all_labels(iris: str, tmp_path: Path) -> None:
    options: Any = {"classifier": "knn", "neighbours": 3, "out": str(tmp_path), **CPU}
    found = classify(iris, labels="all", **options)
    there = sides(iris)
    y, truth = there["y"]
    for space in ("features", "pixels"):
        x, new = scaled(*there[space])
        guess = KNeighborsClassifier(3).fit(x, y).predict(new)
        assert found["error"][space]["mean"] == pytest.approx(np.mean(guess != truth))
    assert found["num_labels"] == len(y) == 120 and found["c"] is None
    assert found["classes"] == ["setosa", "versicolor", "virginica"]


def test_latents_that_vary_little_are_left_out(digits: str, tmp_path: Path) -> None:
    every = classify(digits, min_sd=0, out=str(tmp_path), **CPU)
    sd = sorted(every["features"]["sd"])
    assert every["features"]["kept"] == 10 and sd[0] > 0
    some = classify(digits, min_sd=(sd[3] + sd[4]) / 2, out=str(tmp_path), **CPU)
    assert some["features"]["kept"] == 6
    part = sides(digits, (sd[3] + sd[4]) / 2)["features"]
    rows = choose(sides(digits)["y"][0], 100, 0)
    y, truth = sides(digits)["y"]
    guess = SVC().fit(part[0][rows], y[rows]).predict(part[1])
    assert some["error"]["features"]["mean"] == pytest.approx(np.mean(guess != truth))


def test_a_table_of_q_is_fitted_to_test_rows_first(tmp_path: Path) -> None:
    words = ["vae", "--data", "iris", "--inference", "per_datapoint", "--model.hidden", "4"]
    run = fitted(tmp_path / "run", *words, "--model.likelihood", "gaussian")
    options: Any = {"labels": 12, "min_sd": 0, "out": str(tmp_path / "out"), **CPU}
    found = classify(run, infer_steps=5, **options)
    trained = load_trained(run, "cpu")
    train, test = trained.split.train, trained.split.test
    assert test is not None and train.labels is not None and test.labels is not None
    parts = [(trained.guide, train), (trained.guide.infer(test, steps=5), test)]
    z, new = scaled(*(encode(trained.model, q, d).double().numpy() for q, d in parts))
    y = train.labels.numpy()
    rows = choose(y, 12, 0)
    guess = SVC().fit(z[rows], y[rows]).predict(new)
    assert found["error"]["features"]["mean"] == pytest.approx(
        np.mean(guess != test.labels.numpy())
    )


def test_rows_without_a_class_and_missing_entries(tmp_path: Path, capsys) -> None:
    x, y = np.random.RandomState(0).randn(60, 4), np.arange(60) % 3 - 1
    x[np.arange(60), 0] += 3 * y
    x[::7, 1] = np.nan
    np.savez(tmp_path / "holes.npz", x=x, labels=y)
    words = ["ppca", "--data", str(tmp_path / "holes.npz"), "--missing", "true"]
    run = fitted(tmp_path / "run", *words, "--family", "mean_field", "--model.latent_dim", "2")
    capsys.readouterr()
    options: Any = {"labels": 8, "min_sd": 0, "out": str(tmp_path / "out"), **CPU}
    found = classify(run, classifier="tsvm", num_unlabelled=20, **options)
    assert found["classes"] == ["0", "1"] and found["labels_by_class"] == [4, 4]
    assert sum(map(sum, found["confusion"]["pixels"])) == found["num_test"] < 12
    assert found["num_unlabelled"] == 20
    assert [note.split()[1:4] for note in found["notes"]] == [
        ["rows", "have", "no"],
        ["rows", "have", "no"],
        ["entries", "of", "x"],
        ["uses", "20", "training"],
    ]
    said = capsys.readouterr().out
    assert said.count("Note: ") == 4 and "none of them is labelled or judged" in said


class TestChoose:
    @pytest.mark.parametrize("count", [10, 37, 100])
    def test_as_many_of_each_class(self, count: int) -> None:
        y = np.random.RandomState(1).permutation(np.repeat(np.arange(10), np.arange(15, 25)))
        more = set()
        for seed in range(20):
            rows = choose(y, count, seed)
            share = np.bincount(y[rows], minlength=10)
            assert len(np.unique(rows)) == len(rows) == count
            assert set(share) <= {count // 10, count // 10 + 1}
            more.add(tuple(share))
        assert len(more) > 1 or count % 10 == 0  # the classes with one more depend on the seed
        assert np.array_equal(choose(y, count, 3), choose(y, count, 3))
        assert not np.array_equal(choose(y, count, 3), choose(y, count, 4))
        assert set(choose(y, count, 3)) <= set(choose(y, count + 5, 3))

    def test_it_is_the_choice_of_load_data(self) -> None:
        train, some = load_data("iris").train, load_data("iris", labels=20, label_seed=5).train
        assert train.labels is not None
        rows = choose(train.labels.numpy(), 20, 5)
        assert torch.equal(train["x"][rows], some["x"][:20])

    def test_rows_without_a_class_are_never_labelled(self) -> None:
        y = np.array([0, -1, 1, -1, 1, 0])
        assert choose(y, "all", 0).tolist() == choose(y, 4, 0).tolist() == [0, 2, 4, 5]

    @pytest.mark.parametrize(
        ("count", "words"),
        [
            (1, "labels=1 is fewer than one row of each of 2 classes"),
            (6, "labels=6, but 5 training rows have a label"),
            (5, "of class [01], which has [14]; take fewer"),
            ("some", "a number of rows, all, or left out, got 'some'"),
            (0, "a number of rows, all, or left out, got 0"),
        ],
    )
    def test_what_cannot_be_had(self, count: Any, words: str) -> None:
        with pytest.raises(ValueError, match=words):
            choose(np.array([0, 1, 1, 1, 1, -1]), count, 0)
        with pytest.raises(ValueError, match="needs two classes"):
            choose(np.zeros(4, int), 2, 0)


def test_errors_and_tables_by_hand() -> None:
    found = error([np.array([1, 0, 0, 0]), np.array([1, 1, 0, 0])])
    assert found["values"] == [0.25, 0.5] and found["mean"] == 0.375
    assert found["sd"] == pytest.approx(0.25 / math.sqrt(2))
    assert found["se"] == pytest.approx(np.std([1, 0.5, 0, 0]) / 2)
    table = confusion(np.array([3, 3, 5]), np.array([5, 3, 5]), np.array([3, 5, 9]))
    assert table == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_a_regression_that_did_not_converge_says_so() -> None:
    random = np.random.RandomState(0)
    x, y = random.randn(30, 5), np.arange(30) % 3
    guess, converged = guesses("logistic", x, y, x[:0], x, c=2.0)
    assert converged
    assert np.array_equal(guess, LogisticRegression(C=2.0, max_iter=2000).fit(x, y).predict(x))
    _, converged = guesses("logistic", x * 10.0 ** np.arange(5), y, x[:0], x, c=1e8)
    assert not converged


class TestTransductive:
    def test_rows_without_labels_help(self) -> None:
        """Four labels and 100 rows without, of two Gaussians 3.5 sd apart, in 64 data sets.

        The error of the supervised machine less that of the transductive one has mean 0.050 and sd
        0.065 (300 data sets), so its mean over 64 has se 0.0081: a right program falls below
        0.005 less than once in 10⁷ runs; one that ignores the unlabelled rows has exactly 0.
        """
        gain, y = [], np.arange(304) % 2
        for _ in range(64):
            x = torch.randn(304, 2, dtype=torch.float64).numpy()
            x[:, 0] += 3.5 * y
            x, new, known = x[:104], x[104:], y[:4]
            both = TransductiveSVC().fit(x[:4], known, x[4:]), SVC().fit(x[:4], known)
            after, before = (np.mean(m.predict(new) != y[104:]) for m in both)
            gain.append(before - after)
        assert np.mean(gain) > 0.005

    @pytest.mark.parametrize("classes", [[0, 1], [2, 5, 7]])
    def test_each_class_keeps_its_share_and_the_sum_is_greatest(self, classes: list[int]) -> None:
        names, count = np.array(classes), len(classes)
        places = np.sort(np.arange(6) % count)
        random = np.random.RandomState(0)
        for _ in range(10):
            values = random.randn(6) if count == 2 else random.randn(6, count)
            table = np.stack([-values, values], 1) if count == 2 else values
            found = np.searchsorted(names, _assigned(values, names, places))
            assert sorted(found) == places.tolist()
            best = max(
                table[np.arange(6), list(order)].sum() for order in itertools.permutations(places)
            )
            assert table[np.arange(6), found].sum() == pytest.approx(best)

    def test_shares_sum_to_the_rows(self) -> None:
        for counts, total in itertools.product(([1, 1, 1], [3, 1, 7], [5, 5]), (1, 7, 100)):
            found = _shares(np.array(counts), total)
            assert found.sum() == total
            assert np.abs(found - np.array(counts) * total / sum(counts)).max() < 1

    def test_well_separated_classes_of_any_name(self) -> None:
        centres = 8 * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        y = np.arange(90) % 3
        x = centres[y] + np.random.RandomState(0).randn(90, 2)
        names = np.array([4, 9, 2])[y]
        machine = TransductiveSVC(c=10.0).fit(x[:3], names[:3], x[3:60])
        assert np.array_equal(machine.predict(x[60:]), names[60:])


BAD = {
    "--labels 5": "labels=5 is fewer than one row of each of 10 classes",
    "--labels 2000": "labels=2000, but 1437 training rows have a label",
    "--labels 1436": "which has",
    "--labels some": "expected a whole number or 'all', got 'some'",
    "--labels all --seeds 2": "there is one choice of rows",
    "--labels all --classifier tsvm": "no row is left without a label",
    "--classifier svn": "expected 'svm' or 'logistic'",
    "--classifier knn --neighbours 101": "101 neighbours, but 100 labelled rows",
    "--min-sd 50": "no latent has a posterior mean with sd above 50",
    "--seeds 0": "seeds, neighbours and num_unlabelled count from 1",
    "--c 0": "c above 0",
    "--num-samples 0": "num_samples counts draws from 1",
    "--infer-steps -1": "infer_steps from 0",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_told_in_words(words: str, digits: str, tmp_path: Path, capsys) -> None:
    line = ["classify", digits, *words.split(), "--device", "cpu", "--out", str(tmp_path)]
    assert cli.main(line) == 2
    assert BAD[words] in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_a_run_of_few_labels_is_asked_without_them(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of such a run come in another order, its own labelled ones first."""
    plain = load_trained(digits, "cpu")
    train = plain.split.train.labelled(range(900, 930))
    trained = replace(plain, split=replace(plain.split, train=train))
    monkeypatch.setattr("experiments.classify.load_trained", lambda run, device: trained)
    found = classify(digits, labels=100, out=str(tmp_path), **CPU)
    (note,) = found["notes"]
    assert "with 30 labels (y)" in note and "chosen independently of them, by label_seed" in note
    z = encode(trained.model, trained.guide, train.without("y")).double().numpy()
    new = sides(digits)["features"][1]
    assert train.labels is not None
    y, truth = train.labels.numpy(), sides(digits)["y"][1]
    rows, kept = choose(y, 100, 0), z.std(0) > 0.1
    guess = SVC().fit(((z - z.mean(0)) / z.std(0))[rows][:, kept], y[rows]).predict(new)
    assert found["error"]["features"]["mean"] == pytest.approx(np.mean(guess != truth))


def test_runs_that_cannot_be_used(tmp_path: Path, digits: str) -> None:
    with pytest.raises(ValueError, match="no classifier 'svn'. Did you mean 'svm'"):
        classify(digits, classifier="svn", **CPU)  # type: ignore[arg-type]
    np.savez(tmp_path / "bare.npz", x=np.random.RandomState(0).randn(40, 3))
    exact = ["--family", "exact"]
    runs = {
        "has no labels": ["ppca", "--data", str(tmp_path / "bare.npz"), *exact],
        "has no test rows": ["ppca", "--data", "iris", "--test-fraction", "0", *exact],
        "no continuous latents": ["gmm", "--data", "iris"],
        "given the labels of all rows": ["conditional_vae", "--data", "iris", "--model.hidden", "4"]
        + ["--model.likelihood", "gaussian"],
    }
    for place, (words, line) in enumerate(runs.items()):
        run = fitted(tmp_path / str(place), *line)
        with pytest.raises(ValueError, match=words):
            classify(run, labels=9, **CPU)
