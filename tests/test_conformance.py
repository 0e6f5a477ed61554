"""Every registered model and family obeys the contract, and the kit sees what does not."""

from functools import partial
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from guides import Guide
from guides.families.mean_field import MeanField
from guides.source import Source
from zoo.data import Dataset
from zoo.exact import knows
from zoo.model import Model, rows
from zoo.models.ppca import PPCA
from zoo.nets import affine
from zoo.particles import drawn, simulate
from zoo.registry import names, resolve
from zoo.testing import check_family, check_guide, check_model

MODELS, FAMILIES, INFERENCE = names("models"), names("families"), names("inference")


THROUGH_ALL = ("ppca", "poisson_ppca")  # the models that every family is tried on
FOR_ALL = ("mean_field", "exact")  # the families that every model is tried with


def triples() -> list[tuple[str, str, str]]:
    """Model × family × inference: each family on two models, each model with two families."""
    found = []
    for name in MODELS:
        for family in FAMILIES if name in THROUGH_ALL else FOR_ALL:
            sources = INFERENCE if resolve("families", family).uses_kappa else ["amortized"]
            if resolve("families", family).is_state:
                sources = ["per_datapoint"]
            if family != "mean_field":  # structured guides of other families: test_hierarchical
                sources = [w for w in sources if issubclass(resolve("inference", w), Source)]
            apart = {"top_down" if name == "vrnn" else "recurrent"}  # of vectors, of sequences
            own = resolve("models", name)
            apart |= {"stacked"} if name != "m1m2" else set()  # of a code with labels above it
            apart |= {"bottom_up", "top_down"} if own.estimator != "collapse" else set()
            apart |= {"semi_amortized"} if name == "sbn" else set()  # bits, see test_sbn
            found += [(name, family, source) for source in sources if source not in apart]
    return found


def with_discrete() -> list[str]:
    """The models with discrete latents of their rows."""
    found = []
    for name in MODELS:
        model, data = resolve("models", name).example()
        if Guide(model, data).latents.discrete:
            found.append(name)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    check_model(resolve("models", name))


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name: str) -> None:
    check_family(resolve("families", name))


@pytest.mark.parametrize(("name", "family", "inference"), triples())
def test_guides(name: str, family: str, inference: str) -> None:
    model, data = resolve("models", name).example()
    make = partial(Guide, family=family, inference=inference)
    local = [s for s in drawn(simulate(model, data.batch())).values() if s["cond_indep_stack"]]
    if local and not knows(model, "posterior") and not resolve("families", family).uses_kappa:
        with pytest.raises(ValueError, match="does not know its posterior|is of real ones"):
            make(model, data)
    else:
        check_guide(make, model, data)


@pytest.mark.parametrize("estimator", names("estimators"))
@pytest.mark.parametrize("name", with_discrete())
def test_estimators(name: str, estimator: str) -> None:
    """Every estimator on every model with discrete latents, with a q(y | x) and without."""
    model, data = resolve("models", name).example()
    local = [s for s in drawn(simulate(model, data.batch())).values() if s["cond_indep_stack"]]
    if name == "m1m2" and estimator == "collapse":
        make = partial(Guide, estimator=estimator, inference="amortized")
    else:
        make = partial(Guide, estimator=estimator)
    check_guide(make, model, data)
    assert local or make(model, data).family is None


@pytest.mark.cuda
@pytest.mark.parametrize("name", MODELS)
def test_models_and_guides_on_a_cuda_device(name: str) -> None:
    model, data = resolve("models", name).example()
    check_model(model.cuda(), data)
    check_guide(Guide, model, data)


class Line(Model):
    """z ~ N(0, 1), x | z ~ N(a z + b, 1): a right model, from which the wrong ones below derive."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[0.5], [1.5]]))  # (2, 1)
        self.b = nn.Parameter(torch.tensor([0.3, 0.1]))  # (2,)

    def mean(self, z: Tensor) -> Tensor:
        return affine(z, self.a) + self.b

    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(self.mean(z), 1.0).to_event(1)

    def forward(self, n: int) -> Any:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand_by([1]).to_event(1))
            return pyro.sample("x", self.likelihood(z))

    def _cov(self) -> Tensor:
        return self.a @ self.a.mT + torch.eye(2).to(self.a)

    def log_evidence(self, x: Tensor) -> Tensor:
        return dist.MultivariateNormal(self.b, self._cov()).log_prob(x)

    def posterior(self, x: Tensor) -> Any:
        precision = 1 + self.a.square().sum()
        loc = (x - self.b) @ self.a / precision
        return dist.Normal(loc, precision.rsqrt()).to_event(1)


class NoBroadcast(Line):
    """Sums over the first dimension."""

    def mean(self, z: Tensor) -> Tensor:
        return torch.einsum("nd,ed->ne", z, self.a) + self.b


class WrongBroadcast(Line):
    """Runs with particles, and mixes them."""

    def mean(self, z: Tensor) -> Tensor:
        return super().mean(z - z.mean(0, keepdim=True) if z.dim() > 2 else z)


class DeadParameter(Line):
    """A parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(2))  # (2,)


class LooseTensor(Line):
    """A tensor that no state_dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.ones(2)  # (2,)


class WrongEvidence(Line):
    """log p(x) off by a little."""

    def log_evidence(self, x: Tensor) -> Tensor:
        return super().log_evidence(x) + 1e-4


class WrongPosterior(Line):
    """A posterior that is too wide."""

    def posterior(self, x: Tensor) -> Any:
        return dist.Normal(super().posterior(x).mean, 0.7).to_event(1)


class NoPosterior(Line):
    """log p(x) off by enough to be seen by importance sampling."""

    posterior: ClassVar[None] = None  # type: ignore[assignment]

    def log_evidence(self, x: Tensor) -> Tensor:
        return super().log_evidence(x) + 0.5


class Double(Line):
    """A type written into forward."""

    def mean(self, z: Tensor) -> Tensor:
        return super().mean(z) + torch.zeros(2, dtype=torch.float64)


class OtherWidth(Line):
    """Simulates another shape than the data have."""

    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(z, 1.0).to_event(1)


class Unscored(Line):
    """A likelihood that is asked for values outside its support."""

    def likelihood(self, z: Tensor) -> Any:
        return dist.Normal(self.mean(z), torch.full_like(self.b, torch.nan)).to_event(1)


BROKEN = {
    NoBroadcast: "fails before site 'x'; write products with zoo.nets.affine",
    WrongBroadcast: "wrong at site 'x'",
    DeadParameter: "no gradient reaches parameter 'idle'",
    LooseTensor: "offset is a tensor",
    WrongEvidence: "log_evidence.* differs from log p",
    WrongPosterior: "depends on z",
    NoPosterior: "draws from the prior by more than 6",
    Double: "scores site 'x' in torch.float64",
    OtherWidth: "the model does not run on its data.*event shape",
    Unscored: "the model does not run on its data",
}
DATA = Dataset(torch.tensor([[0.1, 2.0], [-1.0, 0.3], [0.7, 0.2], [0.0, -0.8], [1.2, 1.9]]))


def test_the_kit_passes_a_right_model() -> None:
    check_model(Line(), DATA)
    check_guide(partial(Guide, family="exact"), Line(), DATA)


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_the_kit_sees_wrong_models(kind: type[Model]) -> None:
    with pytest.raises(AssertionError, match=f"(?s){BROKEN[kind]}"):
        check_model(kind(), DATA)


def test_the_kit_asks_for_data() -> None:
    with pytest.raises(AssertionError, match="give data, or the model example"):
        check_model(Line())


class HandMade(nn.Module):
    """q(z) = N(m, 1): a right guide, from which the wrong ones below derive."""

    def __init__(self, model: Model, data: Any):
        super().__init__()
        self.loc = nn.Parameter(torch.full((1,), 0.2))  # (1,)

    def forward(self, batch: Any) -> None:
        with rows(batch):
            pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))


class Late(HandMade):
    """A parameter made at the first call."""

    def forward(self, batch: Any) -> None:
        self.scale = nn.Parameter(torch.ones(1))  # (1,)
        super().forward(batch)


class Idle(HandMade):
    """A draw that no gradient goes through, from a density that is held."""

    def forward(self, batch: Any) -> None:
        with rows(batch):
            pyro.sample("z", dist.Normal(self.loc.detach(), 1.0).to_event(1))


class Above(HandMade):
    """A density that is not that of the draws."""

    def forward(self, batch: Any) -> None:
        with rows(batch):
            z = dist.Normal(self.loc, 1.0).rsample((len(batch),))
            pyro.sample("z", dist.Delta(z, log_density=-9.0, event_dim=1))


class Misfit(Guide):
    """A log_prob that forgets what the draw was made of."""

    def log_prob(self, batch: Any, latents: Any) -> Tensor:
        return super().log_prob(batch, latents) + 1.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Late, "appear at the first call"),
        (Idle, "no gradient reaches parameter 'loc'"),
        (Above, "the ELBO is above log p"),
        (Misfit, "log_prob of a draw is not"),
    ],
)
def test_the_kit_sees_wrong_guides(make: Any, words: str) -> None:
    check_guide(HandMade, Line(), DATA)
    with pytest.raises(AssertionError, match=words):
        check_guide(make, Line(), DATA)


class Unnormalised(MeanField):
    """A density that misses a constant."""

    def forward(self, kappa: Tensor) -> Any:
        loc, raw = kappa.chunk(2, -1)
        return Twice(loc, nn.functional.softplus(raw)).to_event(1)


class Twice(dist.Normal):  # type: ignore[misc]
    """A normal whose density is counted twice."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + 0.1


class Leaking(MeanField):
    """A row that reads the other rows."""

    def forward(self, kappa: Tensor) -> Any:
        return super().forward(kappa - (kappa.mean(0) if kappa.dim() > 1 else 0.0))


class Short(MeanField):
    """An initial κ that is too short."""

    def initial(self) -> Tensor:
        return super().initial()[1:]


class Stopped(MeanField):
    """A scale without a gradient."""

    def forward(self, kappa: Tensor) -> Any:
        loc, raw = kappa.chunk(2, -1)
        return dist.Normal(loc, nn.functional.softplus(raw).detach()).to_event(1)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Unnormalised, "does not integrate to one"),
        (Leaking, "depends on other rows"),
        (Short, "num_params is 2"),
        (Stopped, r"no gradient reaches the entries \[1\] of κ"),
    ],
)
def test_the_kit_sees_wrong_families(kind: type[MeanField], words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_family(kind)


def test_a_plain_function_is_checked_like_a_model() -> None:
    def normal(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample(
                "x", dist.Normal(z.unsqueeze(-1), 1.0).expand(z.shape + (2,)).to_event(1), obs=x
            )

    check_model(normal, DATA)
    check_guide(Guide, normal, DATA)


def test_the_kit_leaves_the_model_and_the_random_numbers_alone() -> None:
    model, data = PPCA.example()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    check_model(model, data)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert model.dtype == torch.float32
