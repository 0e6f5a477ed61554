"""How good a trained run is on rows that it has not seen, and what its latents are used for."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Literal

from experiments.judge.classified import classified, clusters
from experiments.output import make, write_picture
from experiments.show.evaluation import evaluation_figure, evaluation_tables
from experiments.show.reliability import reliability_figure
from experiments.show.tables import terminal
from experiments.trained import Trained, load_trained
from guides.guide import Guide
from guides.labels import classifier_of
from zoo import store
from zoo._arrays import some_rows
from zoo.data import Dataset
from zoo.engine import RunName
from zoo.evaluation import exact_evidence
from zoo.importance import Ladder, importance_ladder
from zoo.latent_use import active_units, latent_kl
from zoo.surgery import mutual_information, paired_rows


def evaluate(
    run: str,
    *,
    num_particles: int = 5000,
    num_rows: int | None = None,
    rows: Literal["test", "train"] = "test",
    seed: int = 0,
    device: str = "auto",
    infer_steps: int | None = None,
    run_: RunName = "auto",
    out: str | None = None,
) -> dict[str, Any]:
    """Test log-likelihood of a run by importance sampling, and what its latents are used for.

    The ladder ELBO ≤ IWAE_10 ≤ … ≤ IWAE_K ≤ log p(x) with errors, the NLL −IWAE_K (bits per
    dimension for likelihoods of grey levels), the KL from q to the prior by unit, active units,
    the mutual information of z and its row. Of models of classes the error and the calibration of
    q(y | x), of models of clusters their agreement with the labels; the bounds are of x alone, also
    of rows that were trained on with their label. Writes evaluation.json and evaluation.png, and
    for classes reliability.png; the run itself is left as it is.

    Args:
        run: the folder of a run.
        num_particles: K, draws of each row.
        num_rows: rows that are judged, chosen at random; by default all.
        rows: test, or train for the rows that were trained on.
        seed: of the draws, and of the rows where not all are judged.
        device: auto (CUDA where there is one), cpu or cuda.
        infer_steps: steps that fit a table's row to each row; by default those of the run.
        run_: how the draws are made, the same draws: eager, compiled (captured and compiled, which
            takes seconds), graph (a CUDA graph), or auto, captured where eager takes minutes.
        out: a folder for the files; the run's own by default.

    Returns:
        What ``evaluation.json`` holds.

    Raises:
        ValueError: no run there; a point mass as the guide; counts out of range.
    """
    if num_particles < 2 or (num_rows is not None and num_rows < 1):
        raise ValueError(
            f"num_particles counts from 2 and num_rows from 1, got {num_particles}, {num_rows}"
        )
    if infer_steps is not None and infer_steps < 0:
        raise ValueError(f"infer_steps counts from 0, got {infer_steps}")
    trained = load_trained(run, device)
    if not trained.guide.has_density:
        raise ValueError(
            f"the guide of {run} is a point mass ({trained.spec.family}): it has no density, hence "
            "no importance weights; fit another family to the model: "
            f"zoo fit --model-from {run} --freeze model --family mean_field"
        )
    place = Path(out) if out is not None else trained.path
    make(place)
    started = time.perf_counter()
    data, side, notes = _rows(trained, rows, num_rows, seed)
    steps = trained.spec.infer_steps if infer_steps is None else infer_steps
    guide = trained.guide
    fitted = not guide.amortized and data is not trained.split.train
    if fitted:
        guide = guide.infer(data, steps=steps)
        notes.append(f"q of each {side} row was fitted to it first, in {steps} steps (infer-steps)")
    ladder = importance_ladder(
        trained.model,
        guide,
        data,
        num_particles=num_particles,
        seed=seed,
        predictive=data is not trained.split.train,
        run=run_,
        progress=None,
    )
    if run_ not in ("auto", ladder.run["way"]):
        notes.append(f"the draws were made {ladder.run['way']}: {ladder.run['why']}")
    if ladder.num_outer > 1:
        what = (
            "log ∫ p(x|g) q(g) dg, averaged over rows"
            if ladder.predictive
            else "log p(x), shared out over the rows"
        )
        notes.append(
            f"latents g that all rows share have {ladder.num_outer} draws: the bounds are on {what}"
        )
    exact = exact_evidence(trained.model, data)
    record = trained.split.record
    content = {
        "run": str(trained.path),
        "model": trained.spec.model,
        "family": trained.spec.family,
        "inference": trained.spec.inference,
        "objective": trained.spec.objective,
        "data": trained.spec.data,
        "rows": side,
        "num_rows": len(data),
        "binarization": record.get("binarization"),
        "binarization_seed": record.get("binarization_seed"),
        "transform": record.get("transform"),
        "num_particles": num_particles,
        "infer_steps": steps if fitted else None,
        "seed": seed,
        "device": str(trained.device),
        "versions": store.versions(),
        "ladder": ladder.as_dict(),
        "nll": {**ladder.iwae.as_dict(), "mean": -ladder.iwae.mean},
        "exact": None if exact is None else exact.as_dict(),
        "kl_to_posterior": ladder.kl.as_dict(),
        "with_auxiliaries": not guide.scores,  # KLs of z and the momenta that it was drawn with
        "classifier": list(guide.latents.discrete) if classifier_of(guide) else [],  # y of q(y | x)
        "bits_per_dimension": _bits(trained, data, ladder, notes),
        **_latents(trained, guide, data, seed, notes),
        **classified(trained, guide, data, side, seed, notes),
        "clustering": clusters(trained, guide, data, seed),
        "notes": notes,
        "seconds": round(time.perf_counter() - started, 3),
    }
    files = ["evaluation.json", "evaluation.png"]
    write_picture(place / "evaluation.png", evaluation_figure(content))
    if content["calibration"]:
        files.append("reliability.png")
        write_picture(place / "reliability.png", reliability_figure(content))
    store.write_json(place / "evaluation.json", content)
    console = terminal()
    for part in evaluation_tables(content):
        console.print(part, highlight=False, markup=not isinstance(part, str))
    for name in files:
        console.print(f"  {place / name}", highlight=False, soft_wrap=True)
    return content


def _rows(
    trained: Trained, rows: str, num_rows: int | None, seed: int
) -> tuple[Dataset, str, list[str]]:
    """The rows that are judged, what they are, and what to say of them."""
    notes = []
    data = trained.split.test if rows == "test" else trained.split.train
    if data is None:
        data, rows = trained.split.train, "train"
        notes.append("the run has no test rows: these are the rows that it was trained on")
    if num_rows is not None and num_rows < len(data):
        notes.append(f"{num_rows} of {len(data)} {rows} rows, chosen at random (seed {seed})")
        data = data.subset(some_rows(len(data), num_rows, seed))
    return data, rows, notes


def _bits(
    trained: Trained, data: Dataset, ladder: Ladder, notes: list[str]
) -> dict[str, Any] | None:
    """NLL/(D ln 2) where x is one of so many grey levels; else nothing, and why."""
    levels = getattr(getattr(trained.model, "likelihood", None), "num_levels", None)
    binary = trained.split.record.get("binarization") not in (None, "none")
    if levels is None:
        if data.image_shape is not None and not binary and "x" in data.names:
            notes.append(
                "no bits per dimension: the likelihood is not one of whole grey levels, so the NLL "
                "is that of x on its own scale and cannot be set beside bits of 256 levels"
            )
        return None
    size = data.event_shape("x").numel() * math.log(2)
    return {"mean": -ladder.iwae.mean / size, "se": ladder.iwae.se / size, "levels": levels}


def _latents(
    trained: Trained, guide: Guide, data: Dataset, seed: int, notes: list[str]
) -> dict[str, Any]:
    """Active units, KL and mutual information, as far as rows have continuous latents or bits."""
    found: dict[str, Any] = {"active_units": None, "kl": None, "mutual_information": None}
    if not guide.latents.vectors.dim:
        return found
    if len(data) > 1:
        found["active_units"] = active_units(trained.model, guide, data, seed=seed).as_dict()
    found["kl"] = latent_kl(trained.model, guide, data, seed=seed).as_dict()
    most = paired_rows(guide)
    try:
        information = mutual_information(trained.model, guide, data, num_rows=most, seed=seed)
    except ValueError as error:
        notes.append(f"mutual information was not computed: {error}")
    else:
        found["mutual_information"] = information.as_dict()
    return found
