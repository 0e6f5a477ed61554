"""What a model is: a joint distribution over latents and data, written once, conditioned outside.

``Model`` is the contract, and ``observe`` conditions a model on a batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar, Self

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from zoo.context import factory
from zoo.data import Batch, Dataset, as_dataset
from zoo.handlers import InPlateScale, Observe
from zoo.local_params import at_home

Guide = Callable[[Batch], Any]


class Model(nn.Module):
    """p(x, z): a Pyro program for ``n`` datapoints and everything hidden behind them.

    ``forward(n, **inputs)`` samples the *joint* inside ``pyro.plate("data", n, dim=-1)``. There is
    no ``obs=``, no subsampling, no device, no weight on the KL and no branch for missing labels:
    all of that is put on from outside. Latents that belong to the whole data set are sampled
    before the plate, with ``.to_event``.

    Attributes:
        inputs: names taken from the batch, never sampled or scored (exposures, conditions). One
            with a default in ``forward`` is optional.
        plate: the name of the data plate.
        classes: by name, how many classes an input of whole numbers has; encoders read it one-hot.
        labels: discrete sites that rows may or may not come with, such as the class of an image.
            Where a row has no label it is a latent, and a guide with a classifier has q(y | x).
        estimator: how q treats discrete latents of the rows where nobody says so; see ``Guide``.
        shared_encoder: a network x (..., D) -> κ of the family mean_field that the model owns and
            an amortized guide uses as its own (see ``zoo.priors.Vamp``); None where there is none.

    A model may know more, and says so by having the method:
        ``log_evidence(x) -> (B,)``, log p(x) in nats; ``posterior(x)``, a distribution over the
        continuous local latents, batch (B,); ``initialize(data)``, a start from the data;
        ``em_step(x)``, one exact EM iteration; ``example() -> (model, data)``.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> class Location(Model):
        ...     def forward(self, n):
        ...         with pyro.plate("data", n, dim=-1):
        ...             z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...             return pyro.sample("x", dist.Normal(z, 1.0))
        >>> Location()(3).shape
        torch.Size([3])
    """

    plate: ClassVar[str] = "data"
    inputs: ClassVar[tuple[str, ...]] = ()
    classes: Mapping[str, int] = {}
    labels: ClassVar[tuple[str, ...]] = ()
    estimator: ClassVar[str] = "collapse"
    shared_encoder: nn.Module | None = None

    _anchor: Tensor
    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        model = super().__new__(cls)
        model.__dict__["_arguments"] = (args, kwargs)
        return model

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_anchor", torch.empty(0), persistent=False)  # (0,) device and dtype

    @property
    def options(self) -> dict[str, Any]:
        """What the model was made with, by name: ``type(model)(**model.options)`` makes another."""
        args, kwargs = self._arguments
        return dict(inspect.signature(type(self)).bind(*args, **kwargs).arguments)

    @property
    def device(self) -> torch.device:
        """Where the model lives; what it samples lives there too."""
        return self._anchor.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the model and of what it samples."""
        return self._anchor.dtype

    @classmethod
    def for_data(cls, data: Any, **options: Any) -> Self:
        """A model whose ``data_dim`` is that of ``data["x"]``, started by ``initialize``.

        What ``options_for`` reads off the data stands in for options that are not given.
        """
        data = as_dataset(data)
        if "data_dim" in inspect.signature(cls).parameters and "data_dim" not in options:
            if "x" not in data.names:
                raise ValueError(f"the data have {list(data.names)}, but {cls.__name__} models 'x'")
            options["data_dim"] = data.event_shape("x")[-1] if data.event_shape("x") else 1
        for name, value in cls.options_for(data).items():
            if options.get(name) is None:
                options[name] = value
        model = cls(**options)
        model.initialize(data)
        return model

    @classmethod
    def options_for(cls, data: Dataset) -> dict[str, Any]:
        """Options that the data decide where nobody else does: plain words and numbers."""
        wanted = data.image_shape is not None and "image_shape" in inspect.signature(cls).parameters
        return {"image_shape": list(data.image_shape)} if wanted else {}  # type: ignore[arg-type]

    def initialize(self, data: Dataset) -> None:
        """Starts the parameters from the data. By default they stay where they are."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with factory(self.device, self.dtype), at_home(self):
            return super().__call__(*args, **kwargs)

    def resolve(self, batch: Batch) -> None:
        """Called before the first run on data; a model has nothing to find out."""

    def run(self, batch: Batch) -> Any:
        """The joint for the rows of a batch, conditioned on nothing but its inputs."""
        for name in self.inputs:
            if name in batch.values:
                continue
            if inspect.signature(self.forward).parameters[name].default is inspect.Parameter.empty:
                raise ValueError(
                    f"{type(self).__name__} needs the input {name!r}, one value a row, but the "
                    f"batch has {sorted(batch.values)}; add it to the data set"
                )
        return self(len(batch), **{k: batch[k] for k in self.inputs if k in batch.values})

    def conditioned(self, batch: Batch) -> Any:
        """The joint for the rows of a batch, its sites conditioned on the batch's values."""
        values = {k: v for k, v in batch.values.items() if k not in self.inputs}
        masks = {k: v for k, v in batch.observed.items() if k not in self.inputs}
        with Observe(values, masks, len(batch)) as observed:
            result = self.run(batch)
        unknown = sorted((values.keys() | masks.keys()) - observed.seen)
        if unknown:
            raise ValueError(
                f"{unknown} in the data match no site of {type(self).__name__}; its sites are "
                f"{observed.sites} and its inputs {list(self.inputs)}; rename the data"
            )
        return result


class Observed(nn.Module):
    """A model conditioned on a batch: a callable of the batch, with the guide's signature."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Any:
        self.model.resolve(batch)
        with ExitStack() as stack:
            if batch.scale != 1:
                stack.enter_context(InPlateScale(batch.scale, self.model.plate))
            return self.model.conditioned(batch)


def observe(model: Model) -> Observed:
    """p(z, x = batch): the model as a callable of a batch, its sites conditioned by name.

    A site of the model that the batch lacks is latent. Inside the data plate log-probabilities are
    scaled by N/B, so that ``(observe(model), guide)`` is the pair which stock Pyro is given.

    Raises:
        ValueError: a name that is no site, a wrong event shape, NaN or Inf, a value outside the
            support; the last two while Pyro's validation is on (its default).
    """
    return Observed(as_model(model))


def as_model(model: Any) -> Model:
    """The model itself, or the one that a plain Pyro function stands for."""
    if isinstance(model, Model):
        return model
    from zoo.functions import model_of  # whose class is itself a model

    return model_of(model)


@contextmanager
def rows(batch: Batch, plate: str = "data") -> Iterator[Tensor]:
    """The data plate of a guide: one row a datapoint, log-probabilities scaled by N/B."""
    with pyro.plate(plate, len(batch), dim=-1), poutine.scale(scale=batch.scale):
        yield batch.index
