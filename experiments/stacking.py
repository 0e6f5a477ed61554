"""M1 under M2: the decoder and the encoder of a trained vae taken over, and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from experiments.judge.paired import same_data
from experiments.spec import Spec
from guides.codes import Stacked
from guides.families.mean_field import MeanField
from guides.guide import Guide
from guides.inference import Amortized
from zoo import store
from zoo.data import Dataset
from zoo.model import Model
from zoo.models.m1m2 import M1M2
from zoo.models.vae import VAE
from zoo.sources import Split

OF_MODEL = ("latent_dim", "hidden", "activation", "likelihood", "net", "gated", "image_shape")
OF_MODEL += ("likelihood_options",)
OF_GUIDE = ("hidden", "activation", "net", "gated")
OF_LABELS = ("labels", "num_labels", "label_seed", "validation_labels")  # M1 looks at none


def read_m1(spec: Spec) -> store.Run:
    """The run in ``m1_from``.

    Raises:
        ValueError: another model than ``m1m2``, or another guide than ``stacked``; a run that is
            not of a ``vae`` with an amortized mean-field guide.
    """
    assert spec.m1_from is not None
    if spec.model != "m1m2" or spec.inference not in (None, "stacked"):
        raise ValueError(
            f"m1-from stacks the model m1m2 (inference stacked) on a trained vae; got {spec.model}"
            + (f" with {spec.inference}" if spec.inference else "")
        )
    run = store.load(spec.m1_from)
    guide: Any = run.guide
    plain = type(run.model) is VAE and isinstance(guide, Guide)
    if not (plain and type(guide.family) is MeanField and type(guide.source) is Amortized):
        raise ValueError(
            f"m1-from takes a run of vae with --family mean_field --inference amortized; "
            f"{spec.m1_from} is one of {type(run.model).__name__}"
        )
    return run


def like_m1(spec: Spec, m1: store.Run) -> Spec:
    """The spec with the sizes of M1.

    Raises:
        ValueError: options that M1 has otherwise.
    """
    model = {name: m1.model.options[name] for name in OF_MODEL if name in m1.model.options}
    own = m1.guide.spec["inference_options"]
    guide = {name: own[name] for name in OF_GUIDE if name in own}
    return replace(
        spec,
        model_options=_merged(spec.model_options, model, spec.m1_from),
        inference_options=_merged(spec.inference_options, guide, spec.m1_from),
    )


def _merged(given: Mapping[str, Any], fixed: Mapping[str, Any], run: Any) -> dict[str, Any]:
    other = {k: v for k, v in fixed.items() if k in given and _plain(given[k]) != _plain(v)}
    if other:
        raise ValueError(f"{run} has {other}, which M1 decides; leave these options out")
    return {**given, **{k: list(v) if isinstance(v, tuple) else v for k, v in fixed.items()}}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def stack(spec: Spec, m1: store.Run, model: Model, guide: Guide, split: Split) -> list[str]:
    """Puts M1 under the model and its guide; returns what to say of it.

    Raises:
        ValueError: M1 was fitted to other data, or has no code that moves with x.
    """
    assert isinstance(model, M1M2) and isinstance(guide.family, Stacked)
    where = model.device
    m1.model.to(where), m1.guide.to(where)
    sides = {str(spec.m1_from): m1.summary.get("data_record", {}), "this run": split.record}
    same_data({k: {n: v for n, v in r.items() if n not in OF_LABELS} for k, r in sides.items()})
    spread = code_spread(m1.guide, split.train)
    used = spread > spec.m1_min_sd
    if not bool(used.any()):
        raise ValueError(
            f"no code of {spec.m1_from} has a posterior mean that varies by more than "
            f"{spec.m1_min_sd:g}: it has collapsed; train M1 longer, or with a warm-up"
        )
    model.adopt(m1.model, used)  # type: ignore[arg-type]
    guide.family.adopt(m1.guide.source)
    kept = f"{int(used.sum())} of {len(used)} codes of M1 are used, whose posterior mean varies by "
    return [f"stacked on {spec.m1_from}, which stays as it is: {kept}more than {spec.m1_min_sd:g}"]


@torch.no_grad()
def code_spread(guide: Guide, data: Dataset) -> torch.Tensor:
    """(d,): the standard deviation over rows of E_q[z | x], of a mean-field guide."""
    data = data.without(*data.partial)
    means = [guide.distribution(b.to(guide.model.device)).mean for b in data.batches(4096)]
    return torch.cat(means).std(0, correction=0)
