"""A zoo of latent-variable models: declare one, choose a guide, fit, and judge the posterior.

The public names below are imported when they are first used, so ``import zoo`` takes no torch:

    ``Model, observe, plain``              declare a model, or bring a Pyro function
    ``Dataset, Batch, as_dataset, load_data``   data, in memory or by name
    ``fit, evaluate, load``                train, judge, and read a run back
    ``log_weights``                        the primitive under every objective and diagnostic
    ``diagnose``                           the report card: how far to trust a posterior, and why
    ``predict, prior_predictive``          draws of data, given data or not
    ``encode, reconstruct, interpolate, manifold``   the latent space of a trained model
    ``impute``                             missing entries filled in
    ``pyro_svi``                           Pyro's own ``SVI``, the global store left as it was

Example:
    >>> import zoo
    >>> zoo.__version__
    '0.1.0'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.data import Batch, Dataset, as_dataset
    from zoo.diagnostics.report import diagnose
    from zoo.evaluation import evaluate
    from zoo.fitting import fit
    from zoo.functions import plain
    from zoo.imputation import impute
    from zoo.latent_space import encode, interpolate, manifold, reconstruct
    from zoo.model import Model, observe
    from zoo.predictive import predict, prior_predictive
    from zoo.pyro_loss import PyroLoss
    from zoo.sources import load_data
    from zoo.store import load
    from zoo.svi import pyro_svi
    from zoo.together import fit_together
    from zoo.weights import log_weights

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Dataset",
    "Model",
    "PyroLoss",
    "as_dataset",
    "diagnose",
    "encode",
    "evaluate",
    "fit",
    "fit_together",
    "impute",
    "interpolate",
    "load",
    "load_data",
    "log_weights",
    "manifold",
    "observe",
    "plain",
    "predict",
    "prior_predictive",
    "pyro_svi",
    "reconstruct",
]

_HOMES = {
    "zoo.data": ("Batch", "Dataset", "as_dataset"),
    "zoo.diagnostics.report": ("diagnose",),
    "zoo.evaluation": ("evaluate",),
    "zoo.fitting": ("fit",),
    "zoo.imputation": ("impute",),
    "zoo.latent_space": ("encode", "interpolate", "manifold", "reconstruct"),
    "zoo.model": ("Model", "observe"),
    "zoo.functions": ("plain",),
    "zoo.svi": ("pyro_svi",),
    "zoo.pyro_loss": ("PyroLoss",),
    "zoo.predictive": ("predict", "prior_predictive"),
    "zoo.sources": ("load_data",),
    "zoo.store": ("load",),
    "zoo.together": ("fit_together",),
    "zoo.weights": ("log_weights",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """The public name, from the module that defines it."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
