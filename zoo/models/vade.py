"""Variational deep embedding: clusters in the latent space of a variational autoencoder."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from zoo.data import Dataset
from zoo.models.gmm import GMM
from zoo.models.vae import VAE
from zoo.priors import Mixture


class VaDE(VAE):
    """y_n ~ Categorical(π),  z_n | y_n = c ~ N(μ_c, diag σ_c²),  x_n | z_n ~ p(x | f(z_n)).

    Notation: π, μ, σ are those of `prior`, a learned mixture; f and the likelihood as for `VAE`,
    of which this is the one with the prior mixture:C, the component y kept as a latent of its own.
    A guide leaves y out, and it is summed out exactly: log p(x, z) = log p(x | z) + log Σ_c π_c
    N(z; μ_c, σ_c²), f running once for each z. The clusters of rows are argmax_c E_q(z|x) p(c | z).

    Args:
        data_dim: D.
        num_components: C, the clusters.
        latent_dim, hidden, activation, likelihood, net, gated, image_shape: as for `VAE`.
        likelihood_options: as for `VAE`.
        decoder: a network of yours from (..., d) to (..., E), in place of f.

    Raises:
        ValueError: num_components < 1; as `VAE`.

    Reference: Jiang, Zheng, Tan, Tang & Zhou, Variational deep embedding: an unsupervised and
    generative approach to clustering, 2017.

    >>> model, data = VaDE.example()
    >>> model.responsibilities_of(torch.zeros(7, 5, 2)).shape
    torch.Size([7, 5, 3])
    """

    prior: Mixture

    def __init__(
        self,
        data_dim: int,
        num_components: int = 10,
        latent_dim: int = 10,
        hidden: Sequence[int] = (200, 200),
        activation: str = "relu",
        likelihood: str | None = None,
        net: str = "mlp",
        gated: bool = False,
        image_shape: Sequence[int] | None = None,
        likelihood_options: Mapping[str, Any] | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        parts = (activation, likelihood, "mixture", net, gated, image_shape, likelihood_options)
        mixture = {"num_components": num_components}
        super().__init__(data_dim, latent_dim, hidden, *parts, mixture, decoder)

    def forward(self, n: int, exposure: Tensor | None = None) -> Tensor:
        """The joint of n rows; exposure as for `VAE`."""
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=self.prior.logits))
            z = pyro.sample("z", self.prior.component(y))
            return pyro.sample("x", self.decode(z, exposure=exposure))

    def responsibilities_of(self, z: Tensor) -> Tensor:
        """p(y = c | z), (..., C), of z (..., d)."""
        return self.prior().log_joint(z).softmax(-1)

    @torch.no_grad()
    def fit_prior(self, z: Tensor, iterations: int = 100) -> None:
        """Starts the mixture from features z (N, d), such as the codes of a trained `VAE`.

        A Gaussian mixture with diagonal covariances is fitted by EM from k-means++ seeds; the
        variances stay above 1e-4.
        """
        components, latent_dim = self.prior.loc.shape
        gmm = GMM(latent_dim, components, covariance="diagonal", reg_covar=1e-4).to(z)
        gmm.initialize(Dataset(z))
        for _ in range(iterations):
            gmm.em_step(z)
        self.prior.logits.copy_(gmm.logits)
        self.prior.loc.copy_(gmm.loc)
        self.prior.log_scale.copy_(gmm.scale().log())

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """A small random start and 20 rows of 6 zeros and ones in 2 kinds."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(2, (20,), generator=generator)
        x = torch.rand(20, 6, generator=generator) < 0.2 + 0.6 * labels.unsqueeze(-1)
        data = Dataset(x.to(torch.get_default_dtype()), labels=labels, name="simulated bits")
        return cls(6, 3, latent_dim=2, hidden=(8,), likelihood="bernoulli"), data
