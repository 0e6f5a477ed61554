"""Likelihoods p(x | f) of data x given a decoder's outputs f, each chosen by one word.

One file a kind of data: ``grey`` and ``levels`` for images, ``real``, ``counts``. A likelihood of
your own is a ``Likelihood`` with ``distribution`` and ``start``.
"""

from torch import Tensor

from zoo.likelihoods._base import Likelihood
from zoo.likelihoods.counts import Multinomial, NegativeBinomial, Poisson
from zoo.likelihoods.grey import Bernoulli, ContinuousBernoulli
from zoo.likelihoods.levels import Categorical, DiscretizedLogisticMixture
from zoo.likelihoods.real import Gaussian, StudentT

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogisticMixture",
    "Gaussian",
    "Likelihood",
    "Multinomial",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
    "likelihood_for",
]


def likelihood_for(x: Tensor) -> str:
    """The word of a likelihood that fits values x: zeros and ones, counts, or anything else.

    >>> import torch
    >>> likelihood_for(torch.tensor([0.0, 1.0])), likelihood_for(torch.tensor([0.0, 7.0]))
    ('bernoulli', 'poisson')
    """
    x = x[~x.isnan()] if x.is_floating_point() else x
    if bool(((x == 0) | (x == 1)).all()):
        return "bernoulli"
    whole = not x.is_floating_point() or bool((x == x.round()).all())
    return "poisson" if whole and bool((x >= 0).all()) else "gaussian"
