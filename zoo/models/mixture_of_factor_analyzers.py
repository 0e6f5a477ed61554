"""Mixture of factor analyzers."""

import math
from typing import Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from zoo import identify
from zoo.data import Dataset
from zoo.model import Model
from zoo.models import _linear_gaussian as linear_gaussian
from zoo.models._mixture import EMPTY, TINY, Mixture, assign
from zoo.models._parts import check_option, check_positive, check_size, filled_rows, iris
from zoo.nets import affine, select


class MixtureOfFactorAnalyzers(Mixture, Model):
    """y_n ~ Categorical(π),  z_n ~ N(0, I_d),  x_n | y_n = c, z_n ~ N(W_c z_n + μ_c, diag(ψ_c)).

    Notation: π = softmax(`logits`) (C,), W = `weight` (C, D, d), μ = `loc` (C, D), uniquenesses
    ψ = exp(`log_uniqueness`) + ε (C, D) with ε = reg_covar, so that no component collapses.

    Exact: log p(x) = log Σ_c π_c N(x; μ_c, W_c W_cᵀ + diag(ψ_c)), the responsibilities
    p(y | x), the posterior p(z | x) = Σ_c p(c | x) N(z; M_c⁻¹ W_cᵀ Ψ_c⁻¹ (x − μ_c), M_c⁻¹) with
    M_c = I + W_cᵀ Ψ_c⁻¹ W_c, and EM, whose M-step is a weighted regression of x on (z, 1).
    A component left with less than 1e-3 datapoints is reseeded: mean at the row which the others
    explain worst, loadings and uniquenesses their weighted mean, weight that of one datapoint.

    Args:
        data_dim: D.
        num_components: C.
        latent_dim: d.
        init: seeds for `for_data`, "kmeans++" or "random" rows. Each row belongs to the nearest
            seed; W and ψ of all components start from principal components of the pooled
            covariance within. Without data: π even, μ ~ N(0, I), W ~ N(0, 1/d), ψ = 1 + ε.
        reg_covar: ε, in squared units of x.

    Raises:
        ValueError: an unknown init; num_components or latent_dim < 1; reg_covar <= 0; in
            `for_data` fewer rows than components, or d >= D.

    Reference: Ghahramani & Hinton, The EM algorithm for mixtures of factor analyzers, 1996.

    >>> model, data = MixtureOfFactorAnalyzers.example()
    >>> before = model.log_evidence(data["x"]).mean()
    >>> model.em_step(data["x"])
    >>> bool(model.log_evidence(data["x"]).mean() > before)
    True
    """

    def __init__(
        self,
        data_dim: int,
        num_components: int = 3,
        latent_dim: int = 2,
        init: str = "kmeans++",
        reg_covar: float = 1e-6,
    ) -> None:
        super().__init__()
        check_option("init", init, ("kmeans++", "random"))
        check_size("num_components", num_components)
        check_size("latent_dim", latent_dim)
        check_positive("reg_covar", reg_covar)
        self.latent_dim, self.init, self.reg_covar = latent_dim, init, reg_covar
        C, D, d = num_components, data_dim, latent_dim
        self.logits = nn.Parameter(torch.zeros(C))  # (C,)
        self.loc = nn.Parameter(torch.randn(C, D))  # (C, D)
        self.weight = nn.Parameter(torch.randn(C, D, d) / math.sqrt(d))  # (C, D, d)
        self.log_uniqueness = nn.Parameter(torch.zeros(C, D))  # (C, D)

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=self.logits))
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand_by([self.latent_dim]).to_event(1))
            loc = affine(z, select(self.weight, y, event_dim=2)) + select(self.loc, y, event_dim=1)
            scale = select(self.uniquenesses.sqrt(), y, event_dim=1)
            return pyro.sample("x", dist.Normal(loc, scale).to_event(1))

    @property
    def uniquenesses(self) -> Tensor:
        """ψ (C, D), in squared units of x."""
        return self.log_uniqueness.exp() + self.reg_covar

    def covariances(self) -> Tensor:
        """W_c W_cᵀ + diag(ψ_c), (C, D, D)."""
        return self.weight @ self.weight.mT + torch.diag_embed(self.uniquenesses)

    @property
    def degrees_of_freedom(self) -> int:
        """Free parameters, net of rotation: C − 1 + C (2 D + D d − d(d−1)/2), if there is room."""
        C, D, d = self.weight.shape
        return C - 1 + C * (D + linear_gaussian.degrees_of_freedom(D, d, D))

    def loadings(self, rotate: str | None = None) -> Tensor:
        """W_c (C, D, d) by falling weight, each identified, or rotated by rotate="varimax"."""
        order = self.logits.argsort(descending=True)
        return torch.stack([identify.loadings(W, rotate) for W in self.weight[order]])

    def log_joint(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x, y = c), (B, C), of x (B, D); observed (B, D) bool marks the entries present."""
        observed = None if observed is None else observed.unsqueeze(-2)
        return self.logits.log_softmax(-1) + linear_gaussian.log_evidence(
            x.unsqueeze(-2), self.weight, self.loc, self.uniquenesses, observed
        )

    def posterior(self, x: Tensor, observed: Tensor | None = None) -> dist.MixtureSameFamily:
        """p(z | x) with y summed out: batch (B,), event (d,)."""
        which = dist.Categorical(self.responsibilities(x, observed))
        observed = None if observed is None else observed.unsqueeze(-2)
        each = linear_gaussian.posterior(
            x.unsqueeze(-2), self.weight, self.loc, self.uniquenesses, observed
        )
        return dist.MixtureSameFamily(which, each)

    @torch.no_grad()
    def initialize(self, data: Dataset) -> None:
        """Seeds, each row to the nearest; principal components of the pooled covariance."""
        x = filled_rows(data).to(self.loc).double()
        check_size("latent_dim", self.latent_dim, x.shape[-1] - 1)
        hard = assign(x, len(self.loc), self.init)
        counts = hard.sum(0)
        loc = (hard / counts.clamp_min(1.0)).mT @ x
        _, within = linear_gaussian.covariance(x - hard @ loc)
        weight, _ = linear_gaussian.principal_loadings(within, self.latent_dim)
        psi = within.diagonal() - weight.square().sum(-1)
        weight, psi = weight.expand_as(self.weight), psi.expand_as(self.loc)
        self._assign_reseeded(x, counts, loc, weight, psi.clone())

    @torch.no_grad()
    def m_step(self, x: Tensor, responsibilities: Tensor) -> None:
        """The closed-form M-step from x (N, D) and responsibilities (N, C), in place.

        The factors' moments are those under the present parameters.
        """
        q = linear_gaussian.posterior(x.unsqueeze(-2), self.weight, self.loc, self.uniquenesses)
        cov = q.covariance_matrix[0].double()  # (C, d, d), the same for every row
        x, r = x.double(), responsibilities.double()
        z = nn.functional.pad(q.mean.double(), (0, 1), value=1.0).transpose(0, 1)  # (C, N, d+1)
        counts = r.sum(0)  # (C,)
        share = (r / counts.clamp_min(TINY)).mT.unsqueeze(-1)  # (C, N, 1)
        second = (share * z).mT @ z + nn.functional.pad(cov, (0, 1, 0, 1))  # (C, d+1, d+1)
        second[:, -1, -1] = 1.0  # as it is, but for empty components
        coefficients = torch.linalg.solve(second, (share * z).mT @ x).mT  # (C, D, d+1)
        weight, loc = coefficients[..., :-1], coefficients[..., -1].clone()
        residual = x - z @ coefficients.mT  # (C, N, D)
        psi = (share * residual.square()).sum(1) + (weight @ cov * weight).sum(-1)
        self._assign_reseeded(x, counts, loc, weight, psi)

    def _assign_reseeded(
        self, x: Tensor, counts: Tensor, loc: Tensor, weight: Tensor, psi: Tensor
    ) -> None:
        """Sets the parameters, empty components at the rows that the others explain worst."""
        self._assign(counts, loc, weight, psi)
        empty = counts < EMPTY
        if empty.any():
            worst = self.log_evidence(x.to(self.loc)).topk(int(empty.sum()), largest=False).indices
            mean_weight, mean_psi = (
                torch.tensordot(counts / counts.sum(), part, 1) for part in (weight, psi)
            )
            loc[empty], psi[empty], counts[empty] = x[worst], mean_psi, 1.0
            self._assign(counts, loc, torch.where(empty[:, None, None], mean_weight, weight), psi)

    def _assign(self, counts: Tensor, loc: Tensor, weight: Tensor, psi: Tensor) -> None:
        """Sets the parameters; ψ is kept at ε or above."""
        self.logits.copy_((counts / counts.sum()).clamp_min(TINY).log())
        self.loc.copy_(loc)
        self.weight.copy_(weight)
        self.log_uniqueness.copy_((psi - self.reg_covar).clamp_min(1e-3 * self.reg_covar).log())

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """A random start and 50 iris flowers."""
        return cls(4, num_components=2, latent_dim=1), iris()
