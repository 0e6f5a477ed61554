"""The two deep latent variable models of an introduction to the subject: small enough to see."""

from typing import Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.data import Dataset
from zoo.likelihoods import Bernoulli
from zoo.model import Model
from zoo.models._parts import check_option, check_positive, check_size, some_rows
from zoo.nets import MLP, last_bias


class ToyDLVM(Model):
    """z_n ~ N(0, I_d),  x_n | z_n ~ p(x | f(z_n)), with one of two decoders f.

    tanh: d = 2, x_nj ~ Bernoulli(σ(f_j)), f(z) = V tanh(W z + b) + β: binary images on a plane.

    curve: d = 1, x in R², nothing to learn: x_n ~ N(f(z), diag σ(z)²) with
    f(z) = (10 sin³ z, 10 cos z − 10 cos⁴ z), σ(z) = (|sin z / (3 z)|, |sin z / z|); σ vanishes at
    z = ±π, ±2π, …, and is held above a floor there.

    Args:
        data_dim: D; 2 for the curve.
        decoder: tanh or curve.
        hidden: M, the rows of W.
        floor: the least σ of the curve.

    Raises:
        ValueError: an unknown decoder; a curve of other than 2 dimensions; hidden < 1; floor <= 0.

    Reference: Mattei, From shallow to deep latent variable models, lecture.

    >>> ToyDLVM(2, decoder="curve").decode(torch.zeros(1)).mean
    tensor([0., 0.])
    """

    def __init__(
        self, data_dim: int, decoder: str = "tanh", hidden: int = 100, floor: float = 1e-2
    ) -> None:
        super().__init__()
        check_option("decoder", decoder, ("tanh", "curve"))
        check_size("hidden", hidden)
        check_positive("floor", floor)
        if decoder == "curve" and data_dim != 2:
            raise ValueError(f"the curve lies in 2 dimensions, the data have {data_dim}")
        self.latent_dim, self.floor = 1 if decoder == "curve" else 2, floor
        self.likelihood = Bernoulli(data_dim)
        self.decoder = MLP(2, (hidden,), data_dim, "tanh") if decoder == "tanh" else None

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand_by([self.latent_dim]).to_event(1))
            return pyro.sample("x", self.decode(z))

    def decode(self, z: Tensor) -> dist.TorchDistribution:
        """p(x | z): batch (...), event (D,), of z (..., d)."""
        if self.decoder is not None:
            return self.likelihood(self.decoder(z))
        sin, cos = z.sin(), z.cos()
        loc = torch.cat([10 * sin**3, 10 * cos - 10 * cos**4], -1)
        ratio = torch.sinc(z / torch.pi).abs()  # |sin z / z|, 1 at 0
        scale = torch.cat([ratio / 3, ratio], -1).clamp_min(self.floor)
        return dist.Normal(loc, scale).to_event(1)

    @torch.no_grad()
    def initialize(self, data: Dataset) -> None:
        """β so that E[x] is near the mean of the data."""
        if self.decoder is not None:
            x = some_rows(data)["x"].to(self.device, self.dtype)
            bias = last_bias(self.decoder, self.likelihood.num_outputs)
            assert bias is not None
            bias.copy_(self.likelihood.start(x))

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """A small random start and 20 rows of 6 zeros and ones."""
        x = torch.rand(20, 6, generator=torch.Generator().manual_seed(0)) < 0.4
        data = Dataset(x.to(torch.get_default_dtype()), name="simulated bits")
        return cls(6, hidden=8), data
