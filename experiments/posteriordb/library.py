"""The posteriors by name: the data of posteriordb, the model of the Stan program, reference draws.

Each function takes ``data.json`` as arrays and gives a model and its data. "Flat" is a flat prior
over the range of the parameter itself, C⁺(s) the half-Cauchy distribution of scale s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.posteriordb.others import EightSchools, GaussianProcess, TwoNormals
from experiments.posteriordb.regression import Regression
from zoo.data import Dataset
from zoo.model import Model

Arrays = Mapping[str, Any]  # what data.json holds, lists as arrays


def _regression(y: Any, *columns: Any, **priors: Any) -> tuple[Regression, Dataset]:
    """y (N,) on columns (N,) or numbers."""
    y = np.asarray(y, dtype=np.float64)
    x = np.stack([np.broadcast_to(np.asarray(c, dtype=np.float64), y.shape) for c in columns], -1)
    data = Dataset({"y": y, "covariates": x})
    return Regression.for_data(data, **priors), data


def earn_height(d: Arrays) -> tuple[Model, Dataset]:
    """earn ~ N(β₁ + β₂ height, σ), all flat. Stan: earn_height."""
    return _regression(d["earn"], 1, d["height"])


def kidscore_momiq(d: Arrays) -> tuple[Model, Dataset]:
    """kid_score ~ N(β₁ + β₂ mom_iq, σ), β flat, σ ~ C⁺(2.5). Stan: kidscore_momiq."""
    return _regression(d["kid_score"], 1, d["mom_iq"], noise="half_cauchy", noise_scale=2.5)


def kidscore_momhsiq(d: Arrays) -> tuple[Model, Dataset]:
    """kid_score ~ N(β₁ + β₂ mom_hs + β₃ mom_iq, σ), β flat, σ ~ C⁺(2.5). Stan: kidscore_momhsiq."""
    columns = 1, d["mom_hs"], d["mom_iq"]
    return _regression(d["kid_score"], *columns, noise="half_cauchy", noise_scale=2.5)


def kidscore_interaction(d: Arrays) -> tuple[Model, Dataset]:
    """kid_score ~ N(β₁ + β₂ mom_hs + β₃ mom_iq + β₄ mom_hs mom_iq, σ), β flat, σ ~ C⁺(2.5).

    Stan: kidscore_interaction.
    """
    columns = 1, d["mom_hs"], d["mom_iq"], d["mom_hs"] * d["mom_iq"]
    return _regression(d["kid_score"], *columns, noise="half_cauchy", noise_scale=2.5)


def kilpisjarvi(d: Arrays) -> tuple[Model, Dataset]:
    """y ~ N(α + β x, σ), α ~ N(pmualpha, psalpha), β ~ N(pmubeta, psbeta), σ flat.

    Stan: kilpisjarvi; here (α, β) is β.
    """
    loc, scale = [d["pmualpha"], d["pmubeta"]], [d["psalpha"], d["psbeta"]]
    return _regression(d["y"], 1, d["x"], loc=loc, scale=scale)


def logmesquite_logvas(d: Arrays) -> tuple[Model, Dataset]:
    """log weight ~ N(β₁ + β₂ log canopy volume + β₃ log canopy area + β₄ log canopy shape
    + β₅ log total height + β₆ log density + β₇ group, σ), all flat. Stan: logmesquite_logvas.
    """
    wide, narrow, high = (np.log(d[name]) for name in ("diam1", "diam2", "canopy_height"))
    canopy = wide + narrow + high, wide + narrow, wide - narrow
    rest = np.log(d["total_height"]), np.log(d["density"]), d["group"]
    return _regression(np.log(d["weight"]), 1, *canopy, *rest)


def nes(d: Arrays) -> tuple[Model, Dataset]:
    """partyid7 ~ N(β₁ + β₂ real_ideo + β₃ race_adj + β₄ [age 2] + β₅ [age 3] + β₆ [age 4]
    + β₇ educ1 + β₈ gender + β₉ income, σ), all flat. Stan: nes.
    """
    ages = (d["age_discrete"] == level for level in (2, 3, 4))
    columns = 1, d["real_ideo"], d["race_adj"], *ages, d["educ1"], d["gender"], d["income"]
    return _regression(d["partyid7"], *columns)


def blr(d: Arrays) -> tuple[Model, Dataset]:
    """y ~ N(X β, σ), β_k ~ N(0, 10), σ ~ N⁺(0, 10). Stan: blr."""
    priors = {"scale": [10.0] * d["X"].shape[1], "noise": "half_normal", "noise_scale": 10.0}
    return _regression(d["y"], *d["X"].T, **priors)


def ark(d: Arrays) -> tuple[Model, Dataset]:
    """y_t ~ N(α + Σ_k β_k y_(t−k), σ), t > K; α, β_k ~ N(0, 10), σ ~ C⁺(2.5). Stan: arK.

    A row is a time t > K, its covariates are 1 and the K values before it; here (α, β) is β.
    """
    y, order = d["y"], d["K"]
    before = [y[order - k : len(y) - k] for k in range(1, order + 1)]
    priors = {"scale": [10.0] * (order + 1), "noise": "half_cauchy", "noise_scale": 2.5}
    return _regression(y[order:], 1, *before, **priors)


def eight_schools(d: Arrays) -> tuple[Model, Dataset]:
    """y_j ~ N(μ + τ η_j, s_j), η ~ N(0, 1), μ ~ N(0, 5), τ ~ C⁺(5).

    Stan: eight_schools_noncentered.
    """
    schools = {"school": np.arange(d["J"]), "error": d["sigma"].astype(np.float64)}
    return EightSchools(d["J"]), Dataset({"y": d["y"].astype(np.float64), **schools})


def low_dim_gauss_mix(d: Arrays) -> tuple[Model, Dataset]:
    """y ~ θ N(μ₁, σ₁) + (1 − θ) N(μ₂, σ₂), μ₁ < μ₂; μ ~ N(0, 2), σ ~ N⁺(0, 2), θ ~ Beta(5, 5).

    Stan: low_dim_gauss_mix.
    """
    return TwoNormals(), Dataset({"y": d["y"]})


def gp_regr(d: Arrays) -> tuple[Model, Dataset]:
    """y ~ N(0, K(α, ρ) + σ I), ρ ~ Gamma(25, 4), α ~ N⁺(0, 2), σ ~ N⁺(0, 1). Stan: gp_regr."""
    row = {"y": d["y"][None], "place": d["x"].astype(np.float64)[None]}
    return GaussianProcess(), Dataset(row)


POSTERIORS: dict[str, Callable[[Arrays], tuple[Model, Dataset]]] = {
    "arK-arK": ark,
    "earnings-earn_height": earn_height,
    "eight_schools-eight_schools_noncentered": eight_schools,
    "gp_pois_regr-gp_regr": gp_regr,
    "kidiq-kidscore_interaction": kidscore_interaction,
    "kidiq-kidscore_momhsiq": kidscore_momhsiq,
    "kidiq-kidscore_momiq": kidscore_momiq,
    "kilpisjarvi_mod-kilpisjarvi": kilpisjarvi,
    "low_dim_gauss_mix-low_dim_gauss_mix": low_dim_gauss_mix,
    "mesquite-logmesquite_logvas": logmesquite_logvas,
    "nes2000-nes": nes,
    "sblrc-blr": blr,
}
