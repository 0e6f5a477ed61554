"""The report card as a whole: every pair of the zoo gets one, and it says what is so."""

import json
import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from experiments.show.card_files import strict
from guides import Guide
from zoo import registry
from zoo.data import Dataset
from zoo.diagnostics.report import Report, diagnose
from zoo.model import rows
from zoo.models.ppca import PPCA

SMALL = {"num_draws": 200, "num_global_draws": 200, "num_simulations": 20, "search_steps": 5}
SMALL |= {"infer_steps": 5, "num_rows": 10}
MODELS = sorted(registry.names("models"))
FAMILIES = sorted(registry.names("families"))


def card(model: Any, guide: Any, data: Any, **options: Any) -> Report:
    found = diagnose(model, guide, data, **{**SMALL, **options})
    json.dumps(strict(found.as_dict()), allow_nan=False)
    assert found.verdict.posterior
    assert all(check.why for check in found.not_checked)
    return found


@pytest.mark.parametrize("word", MODELS)
def test_every_model_gets_a_card(word: str) -> None:
    torch.manual_seed(0)
    model, data = registry.resolve("models", word).example()
    found = card(model, Guide(model, data), data)
    assert "weights" in found.rows or "weights of globals" in found.rows
    ran = {check.name for check in found.checks if check.status != "not checked"}
    assert len(ran) > 3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("inference", ["per_datapoint", "amortized", "semi_amortized"])
def test_every_family_and_inference_gets_a_card(family: str, inference: str) -> None:
    model, data = PPCA.example()
    torch.manual_seed(0)
    found = card(model, Guide(model, data, family, inference), data, simulate=True)
    if family == "delta":
        assert "point mass" in found.verdict.posterior
        return
    assert found["bounds"].status == "told"
    assert found["SBC"].status != "not checked", found["SBC"].why
