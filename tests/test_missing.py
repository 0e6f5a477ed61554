"""Missing entries through the whole path: from NaN to a fitted mixture."""

import pytest
import torch

from guides import Guide
from zoo import evaluate, fit, load_data
from zoo.data import Dataset
from zoo.models.gmm import GMM
from zoo.models.mixture_of_factor_analyzers import MixtureOfFactorAnalyzers


@pytest.fixture
def holes() -> Dataset:
    """The training irises with a tenth of their entries missing."""
    x = load_data("iris").train["x"].clone()
    generator = torch.Generator().manual_seed(0)
    x[torch.rand(x.shape, generator=generator) < 0.1] = torch.nan
    return Dataset(x, missing=True)


@pytest.mark.parametrize(
    "make",
    [lambda d: GMM.for_data(d, covariance="diagonal"), MixtureOfFactorAnalyzers.for_data],
    ids=["gmm", "mixture_of_factor_analyzers"],
)
def test_a_mixture_starts_and_learns(make, holes: Dataset) -> None:
    torch.manual_seed(0)
    model = make(holes)
    guide = Guide(model, holes, "exact")
    before = evaluate(model, guide, holes, num_particles=2).exact
    fit(model, guide, holes, steps=60, lr=0.03, progress=False)
    after = evaluate(model, guide, holes, num_particles=2)
    assert after.exact.mean > before.mean
    torch.testing.assert_close(after.elbo.rows, after.exact.rows, atol=1e-3, rtol=1e-3)


def test_em_refuses_them(holes: Dataset) -> None:
    model = GMM.for_data(holes, covariance="diagonal")
    with pytest.raises(ValueError, match="missing entries"):
        fit(model, None, holes, "em", steps=1, progress=False)
