"""The sections "Measured" and "Reproductions" of the README, from the result files.

python -m benchmarks.table           # prints them
python -m benchmarks.table --write   # puts them into the README
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks import table_recipes
from benchmarks.report import RESULTS
from benchmarks.table_cards import known, posteriors, time_of_card, truth
from benchmarks.table_speed import end_to_end, evaluation_time, scaling, speed
from benchmarks.table_steps import step_time

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- measured -->", "<!-- end of measured -->"


def read(name: str) -> dict:
    """One result file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def linear_gaussian() -> list[str]:
    """SVI against maximum likelihood."""
    lines = [
        "SVI from a random start against the maximum-likelihood value (`linear_gaussian`), in nats "
        "per datum: how far log p(x) of the train and test rows is from the reference, and "
        "log p(x) − ELBO ± its Monte-Carlo error on the training rows.",
        "",
        "| model, data | guide | train | test | gap | steps | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in read("linear_gaussian")["runs"].items():
        model, data, dim, guide = name.split(", ")
        lines.append(
            f"| {model}, {data}, {dim} | {guide} | {run['train_minus_reference']:+.5f} "
            f"| {run['test_minus_reference']:+.5f} "
            f"| {round(run['gap_train'], 5) + 0.0:.5f} ± {run['gap_train_se']:.5f} "
            f"| {run['steps']} | {run['seconds']:.0f} |"
        )
    return lines


def mean_field() -> list[str]:
    """The closed-form gap."""
    found = read("mean_field_gap")
    lines = [
        "Mean-field PPCA on wine, d=2 (`mean_field_gap`): on a frozen model with rotated loadings "
        "q is short of log p(x) by ½(Σ log Λ_ii − log |Λ|); trained jointly the model finds the "
        "rotation where that is nil.",
        "",
        "| model, guide | log p(x) − ELBO | closed form |",
        "|---|---|---|",
    ]
    for name, run in found.items():
        if isinstance(run, dict) and "gap" in run:
            lines.append(
                f"| {name} | {run['gap']:.5f} ± {run['se']:.5f} | {run['closed_form']:.5f} |"
            )
    return lines


def mixtures() -> list[str]:
    """Against scikit-learn."""
    lines = [
        "Gaussian mixtures of three components against scikit-learn (`mixtures`): training "
        "log-likelihood from the same responsibilities, and the best of ten restarts; adjusted "
        "Rand index on all rows in brackets.",
        "",
        "| data, covariance | same start: scikit-learn / EM | best of 10: scikit-learn | EM "
        "| gradients |",
        "|---|---|---|---|---|",
    ]
    for name, run in read("mixtures").items():
        if isinstance(run, dict) and "same_start" in run:
            same, em, slope = (
                run[k] for k in ("same_start", "em_best_of_10", "gradient_best_of_10")
            )
            lines.append(
                f"| {name} | {same['sklearn']:.4f} / {same['ours']:.4f} "
                f"| {run['sklearn_best_of_10']['train']:.4f} "
                f"| {em['train']:.4f} ({em['ari_all']:.2f}) "
                f"| {slope['train']:.4f} ({slope['ari_all']:.2f}) |"
            )
    return lines


def linear_vae() -> list[str]:
    """Every family against PPCA."""
    runs = read("linear_vae")["runs"]
    lines = [
        "A linear Gaussian VAE on wine, d=2, with a linear encoder is PPCA (`linear_vae`): "
        "log p(x) of the trained model less that of PPCA's maximum likelihood, and the gap "
        "log p(x) − ELBO, which holds the amortization gap; nats per datum.",
        "",
        "| family | train | test | gap, test rows | steps |",
        "|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        lines.append(
            f"| {name} | {run['train_minus_reference']:+.4f} | {run['test_minus_reference']:+.4f} "
            f"| {run['gap_test']:.4f} ± {run['gap_test_se']:.4f} | {run.get('steps', 1500)} |"
        )
    return lines


def evidence() -> list[str]:
    """The ladder against integration."""
    lines = [
        "The ladder of bounds on test rows against log p(x), exact or by integration over a grid "
        "(`evidence`). A q fitted by the ELBO may miss a mode, and then 5000 draws do not find it:",
        "",
        "| model, data, q | ELBO | IWAE 100 | IWAE 5000 | log p(x) | IWAE 5000 − log p(x) |",
        "|---|---|---|---|---|---|",
    ]
    for name, run in read("evidence").items():
        if isinstance(run, dict) and "log_p" in run:
            bounds = dict(zip(run["ladder"]["levels"], run["ladder"]["bounds"], strict=True))
            elbo, some, all_ = (bounds[k]["mean"] for k in (1, 100, 5000))
            lines.append(
                f"| {name} | {elbo:.3f} | {some:.3f} | {all_:.3f} | {run['log_p']:.3f} "
                f"| {run['iwae_minus_log_p']:+.4f} ± {run['se']:.4f} |"
            )
    return lines


def mnist() -> list[str]:
    """Ten minutes of static MNIST."""
    found = read("mnist")
    fit, full = found["fit"], found["evaluate_5000"]
    nll, published = full["nll"], found["published_first_ten_minutes"]
    small, large = found["cost_50"], found["cost_5000"]
    lines = [
        f"Static MNIST on a CPU (`mnist`, the commands above): after {fit['seconds']:.0f} s of "
        f"training on one core log p(x) ≥ {-nll['mean']:.2f} ± {nll['se']:.2f} on all "
        f"{full['num_rows']} test images (IWAE 5000; ELBO "
        f"{full['ladder']['bounds'][0]['mean']:.2f}). Published for the first ten minutes: "
        f"{published['mean_field']:.2f} with a mean-field guide, {published['iaf']:.2f} with IAF "
        "(altosaar/variational-autoencoder). That evaluation took "
        f"{full['seconds'] / 60:.0f} minutes beside other work; of {small['rows']} images K = 50 "
        f"takes {small['seconds']:.0f} s and {small['peak_mb']:.0f} MB, K = 5000 "
        f"{large['seconds']:.0f} s and {large['peak_mb']:.0f} MB, the start of the program "
        "included. On that frozen decoder, test rows, the gap being IWAE 500 of the best guide "
        "less the ELBO:",
        "",
        "| guide | ELBO | gap, at least |",
        "|---|---|---|",
    ]
    for run in found["guides"]:
        gap, elbo = run["gap"], run["test"]["elbo"]
        lines.append(
            f"| {run['guide']} | {elbo['mean']:.2f} ± {elbo['se']:.2f} "
            f"| {gap['mean']:.2f} ± {max(gap['se_rows'], gap['se_mc']):.2f} |"
        )
    return lines


def few_labels() -> list[str]:
    """M2 and M1+M2 on digits and MNIST."""
    found = read("semi_supervised")
    base, svm = found["digits_logistic"], found["mnist_svm"]
    published, rows = found["published_mnist"], []
    for name, title in {
        "digits_m1m2": "digits, 50 labels: M1+M2, stacked",
        "digits_joint": "digits, 50 labels: M1+M2, end to end",
        "digits_m2": "digits, 50 labels: M2",
        "mnist_m1m2": "MNIST, 100 labels: M1+M2, stacked",
        "mnist_m2": "MNIST, 100 labels: M2",
    }.items():
        run = found[name]
        seeds, minutes = len(run["errors"]), max(run["seconds"]) / 60
        spread = f" ± {run['sd']:.2f}" if run["sd"] is not None else ""
        known = {"mnist_m1m2": "M1+M2", "mnist_m2": "M2"}.get(name)
        paper = f"{published[known][0]} ± {published[known][1]}" if known else "–"
        rows.append(f"| {title} | {run['mean']:.2f}{spread} | {seeds} | {minutes:.1f} | {paper} |")
    shown = {"digits, 50 labels: logistic regression on pixels": base["pixels"]}
    shown["MNIST, 100 labels: SVM on M1's features"] = svm["features"]
    shown["MNIST, 100 labels: SVM on pixels"] = svm["pixels"]
    rows += [
        f"| {title} | {100 * part['mean']:.2f} ± {100 * part['sd']:.2f} "
        f"| {len(part['values'])} | – | – |"
        for title, part in shown.items()
    ]
    return [
        "Few labels (`semi_supervised`, whose JSON has the commands): test error in %, mean ± "
        "standard deviation over seeds, each with labels of its own; minutes are those of one "
        "seed on one core, M1 apart. Published: Kingma et al. 2014, table 1.",
        "",
        "| | test error, % | seeds | minutes | published, % |",
        "|---|---|---|---|---|",
        *rows,
        "",
        found["remark"],
    ]


def estimators() -> list[str]:
    """Bias and variance of three estimators."""
    found = read("estimators")
    lines = [
        f"The gradient of q(y \\| x) (`estimators`: M2 on digits, {found['rows']} rows without "
        f"labels, K = {found['particles']}, {found['draws']} gradients each), in units of the "
        "length of the exact one; a bias below the resolution is noise.",
        "",
        "| estimator | bias | resolved from | standard deviation | ms |",
        "|---|---|---|---|---|",
    ]
    for name, run in found["runs"].items():
        lines.append(
            f"| {name} | {run['relative_bias']:.2f} | {run['bias_resolved_from']:.2f} "
            f"| {run['relative_sd']:.2f} | {run['milliseconds']:.0f} |"
        )
    return lines


PARTS = (linear_gaussian, mean_field, mixtures, linear_vae, evidence, mnist)
PARTS += (truth, known, posteriors, time_of_card, few_labels, estimators)
PARTS += (speed, step_time, end_to_end, evaluation_time, scaling)


def section() -> str:
    """The whole section, between its markers; a part without a result file is left out."""
    parts = ["\n".join(lines) for part in PARTS if (lines := part())]
    return f"{START}\n" + "\n\n".join(parts) + f"\n{END}"


def main() -> None:
    """Prints the sections or puts them into the README."""
    texts = [section(), table_recipes.section()]
    if "--write" not in sys.argv:
        print("\n\n".join(texts))
        return
    readme = README.read_text()
    for text in texts:
        start, end = text.splitlines()[0], text.splitlines()[-1]
        before, _, rest = readme.partition(start)
        readme = before + text + rest.partition(end)[2]
    README.write_text(readme)


if __name__ == "__main__":
    main()
