"""Gaussian mixtures against scikit-learn: the same EM, and the best of ten restarts.

    python -m benchmarks.mixtures

Three components, standardised data, the first 80 % of rows; nats per datapoint.
"""

from __future__ import annotations

import time
import warnings

import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from benchmarks.report import save
from guides import Guide
from zoo import fit, load_data
from zoo.data import Dataset
from zoo.models.gmm import GMM

RESTARTS = 10
THEIRS = {"full": "full", "diagonal": "diag"}
SETTINGS = {"reg_covar": 1e-6, "tol": 1e-8, "max_iter": 3000, "random_state": 0}


def run_em(model: GMM, data: Dataset, tol: float = 1e-8, most: int = 3000) -> float:
    """EM until an iteration gains less than ``tol``; the final log-likelihood."""
    before = -float("inf")
    for _ in range(most):
        model.em_step(data["x"])
        now = model.log_evidence(data["x"]).mean().item()
        if now - before < tol:
            break
        before = now
    return now


def scores(model: GMM, train: Dataset, test: Dataset) -> dict[str, float]:
    """Log-likelihoods and the agreement with the labels on all rows."""
    x = torch.cat([train["x"], test["x"]])
    labels = torch.cat([train.labels, test.labels])
    with torch.no_grad():
        return {
            "train": model.log_evidence(train["x"]).mean().item(),
            "test": model.log_evidence(test["x"]).mean().item(),
            "ari_all": adjusted_rand_score(labels, model.responsibilities(x).argmax(-1)),
        }


def same_start(train: Dataset, covariance: str) -> dict[str, float]:
    """EM of both from the responsibilities that scikit-learn starts with (k-means, one-hot)."""
    x = train["x"].numpy()
    start = KMeans(3, n_init=1, random_state=0).fit(x).labels_
    onehot = torch.nn.functional.one_hot(torch.as_tensor(start).long(), 3).to(train["x"])

    ours = GMM(train["x"].shape[1], covariance=covariance)
    with torch.no_grad():
        ours.m_step(train["x"], onehot)  # the M-step that scikit-learn's start goes through
    first = ours.components()
    precisions = torch.linalg.inv(first.covariances)
    theirs = GaussianMixture(
        3,
        covariance_type=THEIRS[covariance],
        weights_init=first.weights.numpy(),
        means_init=first.means.numpy(),
        precisions_init=(
            precisions if covariance == "full" else precisions.diagonal(dim1=-2, dim2=-1)
        ).numpy(),
        **SETTINGS,
    ).fit(x)
    ours_final = run_em(ours, train)
    labels = train.labels
    return {
        "sklearn": theirs.score(x),
        "ours": ours_final,
        "sklearn_ari": adjusted_rand_score(labels, theirs.predict(x)),
        "ours_ari": adjusted_rand_score(labels, ours.responsibilities(train["x"]).argmax(-1)),
    }


def main() -> None:
    """Runs both data sets and both covariances."""
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    result = {}
    for name, covariance in (("iris", "diagonal"), ("wine", "diagonal"), ("iris", "full")):
        split = load_data(name)
        train, test = split.train, split.test
        x = train["x"].numpy()
        kind = THEIRS[covariance]
        theirs = GaussianMixture(3, covariance_type=kind, n_init=RESTARTS, **SETTINGS).fit(x)
        by_em, by_gradient = [], []
        start = time.perf_counter()
        for seed in range(RESTARTS):
            torch.manual_seed(seed)
            model = GMM.for_data(train, covariance=covariance)
            run_em(model, train)
            by_em.append(scores(model, train, test))
            torch.manual_seed(seed)
            model = GMM.for_data(train, covariance=covariance)
            guide = Guide(model, train, "mean_field", "amortized")
            fit(model, guide, train, "elbo", steps=3000, lr=0.03, schedule="cosine", seed=seed)
            by_gradient.append(scores(model, train, test))
        result[f"{name}, {covariance}"] = {
            "same_start": same_start(train, covariance),
            "sklearn_best_of_10": {
                "train": theirs.score(x),
                "test": theirs.score(test["x"].numpy()),
            },
            "em_best_of_10": max(by_em, key=lambda s: s["train"]),
            "gradient_best_of_10": max(by_gradient, key=lambda s: s["train"]),
            "seconds": time.perf_counter() - start,
        }
    save("mixtures", result)


if __name__ == "__main__":
    main()
