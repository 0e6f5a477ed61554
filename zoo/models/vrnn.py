"""Variational recurrent neural network: a latent for every step of a sequence."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from zoo.data import Dataset
from zoo.likelihoods import likelihood_for
from zoo.model import Model
from zoo.models._parts import check_size, some_rows
from zoo.models._rollout import Pick, Rollout
from zoo.nets import MLP, last_bias
from zoo.registry import build

FLOOR = 1e-3  # a standard deviation stays above it
SOFTPLUS_ONE = 0.5413248546129181  # softplus of it is 1


class VRNN(Model):
    """z_t ~ N(μ_t, diag σ_t²),  x_t ~ p(x | f(φ_z(z_t), h_{t-1})),  t = 1 … T.

    (μ_t, σ_t) = `prior_net`(h_{t-1}),  h_t = GRU([φ_x(x_t), φ_z(z_t)], h_{t-1}),  h_0 = 0.

    The model is written in its noise: site "z" is ε = (ε_1, …, ε_T) ~ N(0, I), of shape (T, d), and
    z_t = μ_t + σ_t ⊙ ε_t (`states`); then x | ε is one site "x", drawn step by step and scored
    given its own past. It is the same model: given x, ε and z are one-to-one, and p(x) is the same.
    A guide of this model has the inference `recurrent`, unless told otherwise.

    Args:
        data_dim: D numbers a step; with `flat` the T D numbers of a row.
        latent_dim: d.
        num_steps: T. `for_data` takes it from the data: x (T, D), or the rows of an image (T, D).
        flat: whether x comes as (T D,), step after step, as images and files of sequences do when
            loaded; `for_data` sees it in the data.
        recurrent_dim: width of h.
        features: width of φ_x and φ_z.
        hidden: widths of the hidden layers of φ_x, φ_z, f and `prior_net`.
        activation: tanh, relu, leaky_relu, elu, gelu, silu or softplus.
        likelihood: p(x_t | f), a word of `zoo list likelihoods`; `for_data` chooses one where none
            is given.
        likelihood_options: keyword arguments of the likelihood.

    Sequences of different lengths: the steps after the end of one are missing entries (NaN in the
    data, which are then loaded with missing=True).

    Raises:
        ValueError: no likelihood, or one whose entries do not have a support of their own
            (multinomial); sizes below 1; a row that T does not divide.

    Reference: Chung et al., A recurrent latent variable model for sequential data, 2015.

    >>> model, data = VRNN.example()
    >>> model.decode(torch.zeros(3, 5, 4, 2)).sample().shape
    torch.Size([3, 5, 4, 3])
    """

    inference: ClassVar[str] = "recurrent"

    def __init__(
        self,
        data_dim: int,
        latent_dim: int = 16,
        num_steps: int | None = None,
        flat: bool | None = None,
        recurrent_dim: int = 64,
        features: int = 64,
        hidden: Sequence[int] = (64,),
        activation: str = "relu",
        likelihood: str | None = None,
        likelihood_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if likelihood is None or num_steps is None:
            raise ValueError(
                "VRNN needs num_steps and a likelihood, such as num_steps=28, likelihood="
                "'bernoulli' (--model.num_steps 28); sequences (N, T, D) and images say both"
            )
        for name, value in (("latent_dim", latent_dim), ("num_steps", num_steps)):
            check_size(name, value)
        check_size("recurrent_dim and features", min(recurrent_dim, features))
        if flat and data_dim % num_steps:
            raise ValueError(f"{num_steps} steps do not divide the {data_dim} numbers of a row")
        self.latent_dim, self.num_steps, self.flat = latent_dim, num_steps, bool(flat)
        self.step_dim = data_dim // num_steps if flat else data_dim
        self.recurrent_dim, self.features = recurrent_dim, features
        self.hidden, self.activation = tuple(hidden), activation
        options = likelihood_options or {}
        self.likelihood = build("likelihoods", likelihood, self.step_dim, **options)
        outputs = self.likelihood.num_outputs
        self.phi_x = MLP(self.step_dim, hidden, features, activation)
        self.phi_z = MLP(latent_dim, hidden, features, activation)
        self.prior_net = MLP(recurrent_dim, hidden, 2 * latent_dim, activation)
        self.decoder = MLP(features + recurrent_dim, hidden, outputs, activation)
        self.gru = nn.GRUCell(2 * features, recurrent_dim)
        support = self.likelihood(torch.zeros(outputs)).support
        self.step_support = getattr(support, "base_constraint", support)
        if self.step_support.event_dim:
            raise ValueError(f"VRNN takes a likelihood of single entries, not {likelihood!r}")
        with torch.no_grad():
            self.prior_net[-1].bias[latent_dim:] = SOFTPLUS_ONE  # type: ignore[index]

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            noise = dist.Normal(0.0, 1.0).expand_by([self.num_steps, self.latent_dim])
            eps = pyro.sample("z", noise.to_event(2))
            return pyro.sample("x", self.decode(eps))

    def decode(self, z: Tensor) -> Rollout:
        """p(x | ε): batch (...), event (T, D), or (T D,) if flat, of the noise z (..., T, d)."""
        return Rollout(self, z)

    def states(self, z: Tensor, x: Tensor) -> Tensor:
        """z_t = μ_t + σ_t ε_t (..., T, d), of the noise z (..., T, d) and the data x beside it."""
        return self.roll(z, Rollout(self, z).steps(x))[2]

    def prior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """μ_t and σ_t, both (..., d), of h_{t-1} (..., R)."""
        mean, raw = self.prior_net(h).to(self.dtype).chunk(2, -1)
        return mean, FLOOR + softplus(raw)

    def advance(self, h: Tensor, seen: Tensor, code: Tensor) -> Tensor:
        """h_t (..., R) of h_{t-1}, φ_x(x_t) and φ_z(z_t), leading dimensions broadcast."""
        lead = h.shape[:-1]
        both = torch.cat([seen.expand(*lead, -1), code.expand(*lead, -1)], -1)
        return self.gru(both.flatten(0, -2), h.flatten(0, -2)).unflatten(0, lead)

    def roll(
        self, eps: Tensor, x: Tensor | None = None, pick: Pick | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All T steps, x given or picked from each step's distribution.

        Args:
            eps: (..., T, d).
            x: (..., T, D).
            pick: p(x_t | …) -> x_t, where x is not given.

        Returns:
            What f reads (..., T, F + R), x (..., T, D) and z (..., T, d).
        """
        lead = eps.shape[:-2]
        if x is not None:
            lead = torch.broadcast_shapes(lead, x.shape[:-2])
            seen = self.phi_x(x)  # (..., T, F)
        h = eps.new_zeros(*lead, self.recurrent_dim)
        codes, values, states = [], [], []
        for t in range(self.num_steps):
            mean, scale = self.prior(h)
            z = mean + scale * eps[..., t, :]
            code = self.phi_z(z)
            codes.append(torch.cat([code, h], -1))
            states.append(z)
            if x is None:
                assert pick is not None
                values.append(pick(self.likelihood(self.decoder(codes[-1]))))
            if t + 1 < self.num_steps:
                h = self.advance(h, self.phi_x(values[-1]) if x is None else seen[..., t, :], code)
        x = torch.stack(values, -2) if x is None else x
        return torch.stack(codes, -2), x, torch.stack(states, -2)

    def score(self, codes: Tensor, x: Tensor) -> Tensor:
        """log p(x_t | x_<t, ε_≤t) (..., T), of what f reads (..., T, F + R) and x (..., T, D)."""
        return self.likelihood(self.decoder(codes)).log_prob(x)

    @classmethod
    def options_for(cls, data: Dataset) -> dict[str, Any]:
        """T and whether x is flat from the shape of x or of an image, the likelihood from x."""
        event, image = data.event_shape("x"), data.image_shape
        if image is not None and len([size for size in image if size > 1]) > 2:
            raise ValueError(f"VRNN reads the rows of images of one channel, not {tuple(image)}")
        batch = data.fixed().batch(torch.arange(min(len(data), 1000), device=data.device))
        x = batch["x"][batch.observed["x"]] if "x" in batch.observed else batch["x"]
        found: dict[str, Any] = {"likelihood": likelihood_for(x)}
        if len(event) == 2:
            return {**found, "num_steps": event[0]}
        return {**found, "flat": True, **({"num_steps": image[-2]} if image is not None else {})}

    @torch.no_grad()
    def initialize(self, data: Dataset) -> None:
        """E[x_t] near the mean of the data at the start: f's last bias."""
        x = some_rows(data)["x"].to(self.device, self.dtype).reshape(-1, self.step_dim)
        start = self.likelihood.start(x)
        bias = last_bias(self.decoder, self.likelihood.num_outputs)
        if bias is not None:
            bias.copy_(start)

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """A small random start and 20 sequences of 4 steps of 3 numbers."""
        noise = torch.randn(20, 4, 3, generator=torch.Generator().manual_seed(0))
        model = cls(3, 2, 4, recurrent_dim=5, features=6, hidden=(7,), likelihood="gaussian")
        return model, Dataset(0.7 * noise.cumsum(1), name="simulated walks")
