"""What ``summary.json`` says of a run."""

from __future__ import annotations

from typing import Any

from torch import nn

from experiments.judge.labels import label_figures, predictions
from experiments.judge.rows import Judged
from experiments.spec import Spec
from guides.guide import Guide
from zoo import store
from zoo.data import Dataset
from zoo.fitting import FitResult
from zoo.kl_weight import training_note
from zoo.registry import resolve
from zoo.sources import Split


def summarize(
    spec: Spec,
    result: FitResult,
    split: Split,
    judged: Judged,
    notes: list[str] | None = None,
) -> dict[str, Any]:
    """The figures of a run and all that they depend on, as plain JSON; bounds in nats a datapoint.

    Args:
        spec: what was run, with every default written out.
        result: of the fit.
        split: the data.
        judged: the figures, of which rows, and the guides that they were judged with.
        notes: what a reader of the figures should know besides.
    """
    guide: Guide = result.guide
    latents = guide.latents
    train, test, rows = judged.train, judged.test, judged.split
    labelled = label_figures(guide, judged.test_guide, split, rows)
    figures = None if test is None else test.as_dict()
    if figures is not None and labelled.get("test"):
        figures["error"] = labelled["test"]
    return {
        "model": spec.model,
        "family": spec.family,
        "inference": spec.inference,
        "estimator": None
        if spec.estimator == "collapse" and not latents.discrete
        else spec.estimator,
        "objective": spec.objective,
        "num_particles": spec.num_particles,
        "data": spec.data,
        "seed": spec.seed,
        "device": str(result.model.device),
        "steps": result.steps,
        "run": result.run.get("way"),
        "seconds": round(result.seconds, 3),
        "versions": store.versions(),
        "num_labels": labelled["num_labels"],
        "num_train": len(split.train),
        "num_test": len(split.test) if split.test is not None else 0,
        "train": train.as_dict(),
        "test": figures,
        "validation": {"error": labelled["validation"]} if labelled.get("validation") else None,
        "eval_particles": train.num_particles,
        "judged_rows": {
            "train": len(rows.train),
            "test": len(rows.test) if rows.test is not None else 0,
        },
        "global_family": spec.global_family if latents.global_.dim else None,
        "model_options": {k: v for k, v in result.model.options.items() if _plain(v)},
        "num_parameters": {"model": _count(result.model), "guide": _count(guide)},
        "latents": {
            "local": list(latents.local.names),
            "global": list(latents.global_.names),
            "discrete": list(latents.discrete),
            "bits": list(latents.bits.names),
        },
        "adjusted_rand_index": {
            "train": _rand_index(judged.train_guide, rows.train),
            "test": _rand_index(judged.test_guide, rows.test),
        },
        "interrupted": result.interrupted,
        "stopped_early": result.stopped_early,
        "best_step": result.best_step,
        "freeze": spec.freeze,
        "model_from": spec.model_from,
        "data_record": split.record,
        "notes": [*(notes or []), *_notes(spec, guide)],
    }


def _notes(spec: Spec, guide: Guide) -> list[str]:
    """What in the words does nothing for this model, or makes the figures other than bounds."""
    notes = []
    local = guide.latents.vectors
    if not local.dim:
        rest = "the discrete ones are summed out" if guide.latents.discrete else "there are none"
        notes.append(
            f"{spec.model} has no continuous latents of its rows ({rest}): "
            "--family and --inference have nothing to act on"
        )
    if not guide.has_density:
        what = "a point mass (MAP): log_joint is log p(x, ẑ)"
        if guide.family is not None and guide.family.is_state:
            what = "the state of a Markov chain for each row: log_joint is log p(x, z) at one draw"
        notes.append(f"the guide is {what}, which is no bound")
    warm_up = spec.fit_options.get("warm_up", 0)
    if note := training_note(spec.objective, spec.objective_options, warm_up):
        notes.append(note if guide.has_density else note.partition(";")[0])
    if ema := spec.fit_options.get("ema"):
        notes.append(
            f"the weights are an exponential moving average of those of the steps ({ema:g})"
        )
    if guide.refines:
        notes.append(
            "bounds are those of the Gaussian that the Markov chains start from; the chains serve "
            "draws"
            + ("" if spec.objective == "mcmc" else ", and training only by --objective mcmc")
        )
    word = spec.objective.partition(":")[0]
    fits = getattr(resolve("objectives", word), "fits", "both")
    if fits == "model" and local.dim and spec.family not in ("exact", "chain"):
        notes.append(f"{word} trains no guide: elbo and iwae are those of an untrained one")
    if fits == "guide":
        notes.append(f"{word} fits the guide alone: the model is as it was at the start")
    if spec.family == "exact" and spec.estimator in ("stl", "dreg"):
        notes.append(
            f"{spec.estimator} holds q, and the exact q is made of the model's parameters: its "
            "gradient is Fisher's identity, unbiased but noisy, where pathwise has no noise"
        )
    return notes


def _rand_index(guide: Guide | None, data: Dataset | None) -> float | None:
    """The adjusted Rand index of the most probable component of each row against its class."""
    if guide is None or data is None or data.labels is None or len(guide.latents.discrete) != 1:
        return None
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(data.labels.cpu(), predictions(guide, data).argmax(-1)))


def _count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | str | bool | list | tuple | None)
