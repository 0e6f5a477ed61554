"""A classifier on the features E[z | x] of a trained run: what few labels are worth with them."""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np

from experiments.judge.classifiers import (
    CLASSIFIERS,
    MOST_STEPS,
    choose,
    confusion,
    error,
    guesses,
)
from experiments.output import write_picture
from experiments.show.classification import classification_figure, classification_table
from experiments.show.tables import terminal
from experiments.trained import Trained, load_trained
from experiments.use import SITE, Side, chosen, fitted, place_of
from zoo import store
from zoo.data import Dataset
from zoo.imputation import column_means
from zoo.latent_space import encode as features_of
from zoo.registry import unknown

SIDES: tuple[Side, ...] = ("train", "test")


def classify(
    run: str,
    *,
    classifier: Literal["svm", "logistic", "knn", "tsvm"] = "svm",
    labels: int | Literal["all"] = 100,
    label_seed: int = 0,
    seeds: int = 1,
    min_sd: float = 0.1,
    c: float = 1.0,
    neighbours: int = 1,
    num_unlabelled: int = 2000,
    num_samples: int = 100,
    infer_steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | None = None,
) -> dict[str, Any]:
    """Test error of a classifier on E_q[z | x] of a run, fitted to a few labelled training rows.

    The model M1 of semi-supervised learning: p and q have seen all training rows, the classifier
    only those with a label, as many of each class. Beside it the same classifier on the rows x
    themselves. Features are standardised by the mean and sd of all training rows; x stays as it
    is where rows are images, and is standardised too where they are not.

    Args:
        run: the folder of a run, of a model with continuous latents.
        classifier: svm (radial kernel, scikit-learn's width), logistic, knn, or tsvm, a
            transductive SVM that uses rows without a label too (self-labelling, annealed weight).
        labels: labelled training rows, M // C of each of C classes and one more of some of them;
            or all.
        label_seed: of the choice of labelled rows.
        seeds: how many choices, label_seed, label_seed + 1, …
        min_sd: latents are kept whose posterior mean has a larger sd over the training rows.
        c: the penalty of errors of svm, tsvm and logistic; large for little regularisation.
        neighbours: k of knn.
        num_unlabelled: rows without a label that tsvm uses, chosen at random; its cost is their
            square.
        num_samples: draws for means of q that are not known exactly.
        infer_steps: steps that fit a table's row to each test row; by default those of the run.
        seed: of the draws.
        device: auto (CUDA where there is one), cpu or cuda.
        out: a folder for classify.json and classify.png; the run's own by default.

    Returns:
        What ``classify.json`` holds. Of each error: ``values``, one a choice of labels; their
        ``mean``; ``se``, its standard error as an estimate for new rows, √(p (1 − p)/n) with one
        choice; and ``sd``, that of the values, None with one. ``difference`` is row by row, x less
        features. ``confusion`` is of the first choice, a row each true class.

    Raises:
        ValueError: no run there; no labels, test rows or continuous latents; a model that is given
            the labels; more labels than there are, or fewer than classes; counts out of range.

    Reference: Kingma, Rezende, Mohamed and Welling, "Semi-supervised Learning with Deep Generative
    Models", 2014.
    """
    if classifier not in CLASSIFIERS:
        raise unknown("classifier", classifier, CLASSIFIERS)
    if min(seeds, neighbours, num_unlabelled) < 1 or not (min_sd >= 0 and c > 0):
        raise ValueError(
            "seeds, neighbours and num_unlabelled count from 1, min_sd is at least 0 and c above "
            f"0, got {seeds}, {neighbours}, {num_unlabelled}, {min_sd:g} and {c:g}"
        )
    if labels == "all" and seeds > 1:
        raise ValueError("with labels all there is one choice of rows; leave out seeds")
    if labels == "all" and classifier == "tsvm":
        raise ValueError("with labels all no row is left without a label for tsvm; take fewer")
    trained = load_trained(run, device)
    if trained.split.test is None or trained.split.test.labels is None:
        what = "test rows" if trained.split.test is None else "labels"
        raise ValueError(f"{run} has no {what} ({trained.split.train.name}): nothing to classify")
    started, place, notes = time.perf_counter(), place_of(trained, out), []
    y, y_test = (_classes(part, notes) for part in (trained.split.train, trained.split.test))
    if not (y_test >= 0).any():
        raise ValueError(f"no test row of {run} has a class: nothing to classify")
    draws = [choose(y, labels, label_seed + i) for i in range(seeds)]
    n = len(draws[0])
    if classifier == "knn" and neighbours > n:
        raise ValueError(f"{neighbours} neighbours, but {n} labelled rows; take fewer neighbours")
    count = min(num_unlabelled, len(y) - n)
    if classifier == "tsvm" and not count:
        raise ValueError(f"all {n} training rows are labelled: none is left for tsvm; take fewer")
    options = {"num_samples": num_samples, "seed": seed}
    z, z_test = (_features(trained, s, infer_steps, options, notes) for s in SIDES)
    sd = z.std(0)
    kept = sd > min_sd
    if not kept.any():
        raise ValueError(
            f"no latent has a posterior mean with sd above {min_sd:g} over the training rows, the "
            f"largest is {sd.max():.3g}; lower min_sd (near 0 a latent says nothing of x)"
        )
    judged, spaces = y_test >= 0, {"features": _standardised(z[:, kept], z_test[:, kept])}
    truth = y_test[judged]
    spaces["pixels"] = _rows(trained, notes)
    if classifier == "tsvm":
        notes.append(
            f"tsvm uses {count} training rows without a label, and takes each class to be as "
            "frequent among them as among the labelled ones"
        )
    found: dict[str, list[np.ndarray]] = {space: [] for space in spaces}
    for i, rows in enumerate(draws):
        others = np.setdiff1d(np.arange(len(y)), rows)
        others = np.random.RandomState((label_seed + i) % 2**32).permutation(others)[:count]
        for space, (x, new) in spaces.items():
            given = (x[rows], y[rows], x[others], new[judged])
            guess, converged = guesses(classifier, *given, c=c, neighbours=neighbours)
            found[space].append(guess)
            if not converged:
                notes.append(
                    f"the logistic regression on {space} had not converged in {MOST_STEPS} steps; "
                    "a smaller c makes it easier"
                )
    wrong = {space: np.array(some) != truth for space, some in found.items()}
    wrong["difference"] = wrong["pixels"].astype(float) - wrong["features"]
    classes = np.union1d(y[y >= 0], truth)
    record = trained.split.record
    content = {
        "run": str(trained.path),
        **{k: getattr(trained.spec, k) for k in ("model", "family", "inference", "objective")},
        "data": trained.spec.data,
        **{k: record.get(k) for k in ("binarization", "binarization_seed", "transform")},
        "classifier": classifier,
        "c": None if classifier == "knn" else c,
        "neighbours": neighbours if classifier == "knn" else None,
        "num_unlabelled": count if classifier == "tsvm" else None,
        "labels": labels,
        "num_labels": n,
        "label_seed": label_seed,
        "seeds": seeds,
        "num_train": len(y),
        "num_test": len(truth),
        "classes": _names(classes, record.get("class_names")),
        "labels_by_class": [int((y[draws[0]] == k).sum()) for k in classes],
        "features": {"kept": int(kept.sum()), "of": len(sd), "min_sd": min_sd, "sd": sd.tolist()},
        "pixels": {"of": spaces["pixels"][0].shape[1]},
        "error": {space: error(some) for space, some in wrong.items()},
        "confusion": {space: confusion(truth, g[0], classes) for space, g in found.items()},
        **options,
        "device": str(trained.device),
        "versions": store.versions(),
        "notes": list(dict.fromkeys(notes)),
        "seconds": round(time.perf_counter() - started, 3),
    }
    write_picture(place / "classify.png", classification_figure(content))
    store.write_json(place / "classify.json", content)
    console = terminal()
    console.print(classification_table(content), highlight=False)
    for note in content["notes"]:
        console.print(f"Note: {note}.", highlight=False, markup=False)
    for name in ("classify.json", "classify.png"):
        console.print(f"  {place / name}", highlight=False, soft_wrap=True)
    return content


def _classes(data: Dataset, notes: list[str]) -> np.ndarray:
    """(N,) labels; rows without one are negative."""
    assert data.labels is not None
    found = data.labels.cpu().numpy()
    if missing := int((found < 0).sum()):
        notes.append(f"{missing} rows have no class: none of them is labelled or judged")
    return found


def _features(
    trained: Trained, side: Side, steps: int | None, options: dict[str, int], notes: list[str]
) -> np.ndarray:
    """(N, d) of E_q[z | x], of q that is not told the class of any row."""
    part = chosen(trained, side, None, 0, steps, infer=False)
    data, known = part.data, part.data.labels
    assert known is not None
    for name in [name for name in data.names if name != SITE]:
        value = data[name]
        if value.dim() != 1 or not bool((value == known[: len(value)]).all()):
            continue
        if name in trained.model.inputs:
            raise ValueError(
                f"{trained.spec.model} is given the labels of all rows, as its input {name}: its "
                "features are no guess of them"
            )
        data = data.without(name)
        notes.append(
            f"the run was trained with {len(value)} labels ({name}); those used here are chosen "
            "independently of them, by label_seed, and the features are of q without any"
        )
    guide = fitted(trained, part.guide, data, steps) if side == "test" else part.guide
    return features_of(trained.model, guide, data, **options).cpu().double().numpy()


def _rows(trained: Trained, notes: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The training and test rows themselves, (N, D)."""
    train, test = trained.split.train, trained.split.test
    assert test is not None
    fill, found = column_means(train).cpu(), []
    for data in (train.fixed(), test.fixed()):
        x = data[SITE].cpu().to(fill.dtype)
        if SITE in data.observed:
            x = x.where(data.observed[SITE].cpu(), fill)
            notes.append("missing entries of x stand at the means of their columns")
        found.append(x.flatten(1).numpy())
    return (found[0], found[1]) if train.image_shape is not None else _standardised(*found)


def _standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both by the means and sds of the training rows; a constant column becomes 0."""
    mean, sd = train.mean(0), train.std(0)
    sd = np.where(sd > 0, sd, 1.0)
    return (train - mean) / sd, (test - mean) / sd


def _names(classes: np.ndarray, names: list[str] | None) -> list[str]:
    """Of the classes, in their order."""
    return [names[k] if names and k < len(names) else str(k) for k in classes.tolist()]
