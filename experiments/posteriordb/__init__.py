"""Posteriors of posteriordb: models whose truth is known from long runs of Stan.

A model here is right if its own log density has the reference draws for its posterior, which
``tests/test_posteriordb.py`` shows by two identities of the score.

    ``POSTERIORS``   the models by name
    ``names``        those whose data and draws are there
    ``load``         model, data and reference draws
"""

from experiments.posteriordb.library import POSTERIORS
from experiments.posteriordb.reference import Reference, load, names

__all__ = ["POSTERIORS", "Reference", "load", "names"]
