"""Gaussian mixture."""

from typing import Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from zoo.data import Dataset
from zoo.model import Model
from zoo.models._mixture import EMPTY, TINY, Mixture, assign
from zoo.models._parts import check_option, check_positive, check_size, filled_rows, iris
from zoo.nets import select


class GMM(Mixture, Model):
    """y_n ~ Categorical(π),  x_n | y_n = c ~ N(μ_c, Σ_c).

    Notation: π = softmax(`logits`) (C,), μ = `loc` (C, D), Σ_c = L_c L_cᵀ. The diagonal of L_c is
    (exp(2 `log_scale`) + ε)^½ with ε = reg_covar, so |Σ_c| >= ε^D and no component collapses onto
    a point; `lower` (C, D(D−1)/2) is the rest of L_c for a full covariance.

    Exact: log p(x) = log Σ_c π_c N(x; μ_c, Σ_c), the responsibilities p(y | x), and EM: M-step
    π_c = N_c/N, μ_c = Σ_n r_nc x_n / N_c, Σ_c = Σ_n r_nc (x_n − μ_c)(x_n − μ_c)ᵀ / N_c + ε I.
    A component left with less than 1e-3 datapoints is reseeded: mean at the row which the others
    explain worst, covariance pooled over the others, weight that of one datapoint.

    Args:
        data_dim: D.
        num_components: C.
        covariance: "full", "diagonal", or "spherical" (Σ_c = σ_c² I).
        init: seeds for `for_data`, "kmeans++" or "random" rows; each row then belongs to the
            nearest seed, and one M-step follows. Without data: π even, μ ~ N(0, I), Σ = I.
        reg_covar: ε, in squared units of x.

    Raises:
        ValueError: an unknown covariance or init; num_components < 1; reg_covar <= 0; in
            `for_data` fewer rows than components.

    Reference: Dempster, Laird & Rubin, Maximum likelihood from incomplete data via the EM
    algorithm, 1977.

    >>> model, data = GMM.example()
    >>> before = model.log_evidence(data["x"]).mean()
    >>> model.em_step(data["x"])
    >>> bool(model.log_evidence(data["x"]).mean() > before)
    True
    >>> model.responsibilities(data["x"]).shape
    torch.Size([50, 3])
    """

    def __init__(
        self,
        data_dim: int,
        num_components: int = 3,
        covariance: str = "full",
        init: str = "kmeans++",
        reg_covar: float = 1e-6,
    ) -> None:
        super().__init__()
        check_option("covariance", covariance, ("full", "diagonal", "spherical"))
        check_option("init", init, ("kmeans++", "random"))
        check_size("num_components", num_components)
        check_positive("reg_covar", reg_covar)
        self.covariance, self.init, self.reg_covar = covariance, init, reg_covar
        C, D = num_components, data_dim
        below = D * (D - 1) // 2 if covariance == "full" else 0
        self.logits = nn.Parameter(torch.zeros(C))  # (C,)
        self.loc = nn.Parameter(torch.randn(C, D))  # (C, D)
        self.log_scale = nn.Parameter(torch.zeros(C, 1 if covariance == "spherical" else D))
        self.lower = nn.Parameter(torch.zeros(C, below)) if below else None  # (C, D(D-1)/2)

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            y = pyro.sample("y", dist.Categorical(logits=self.logits))
            return pyro.sample("x", self.component(y))

    def component(self, y: Tensor) -> dist.TorchDistribution:
        """p(x | y): batch that of y, event (D,)."""
        loc = select(self.loc, y, event_dim=1)
        if self.covariance == "full":
            return dist.MultivariateNormal(loc, scale_tril=select(self.scale_tril(), y, 2))
        return dist.Normal(loc, select(self.scale(), y, event_dim=1)).to_event(1)

    def scale(self) -> Tensor:
        """(C, D), or (C, 1) if spherical: the diagonal of L."""
        return ((2 * self.log_scale).exp() + self.reg_covar).sqrt()

    def scale_tril(self) -> Tensor:
        """L (C, D, D)."""
        L = torch.diag_embed(self.scale().expand_as(self.loc))
        if self.lower is not None:
            i, j = torch.tril_indices(*L.shape[1:], offset=-1, device=L.device)
            L[:, i, j] = self.lower
        return L

    def covariances(self) -> Tensor:
        """Σ (C, D, D)."""
        L = self.scale_tril()
        return L @ L.mT

    @property
    def degrees_of_freedom(self) -> int:
        """Free parameters: C − 1 weights, C D means, and C covariances of D(D+1)/2, D or 1."""
        C, D = self.loc.shape
        each = {"full": D * (D + 1) // 2, "diagonal": D, "spherical": 1}[self.covariance]
        return C - 1 + C * (D + each)

    def log_joint(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x, y = c), (B, C), of x (B, D); observed (B, D) bool marks the entries present."""
        x, log_weights = x.unsqueeze(-2), self.logits.log_softmax(-1)
        if observed is None:
            y = torch.arange(len(self.loc), device=x.device)
            return log_weights + self.component(y).log_prob(x)
        # A missing entry becomes its mean, independent of the others and of variance 1/(2π).
        m = observed.unsqueeze(-2).to(x)  # (B, 1, D)
        absent = torch.diag_embed((1 - m) / (2 * torch.pi))
        cov = self.covariances() * m.unsqueeze(-1) * m.unsqueeze(-2) + absent
        x = torch.where(observed.unsqueeze(-2), x, self.loc)
        return log_weights + dist.MultivariateNormal(self.loc, cov).log_prob(x)

    @torch.no_grad()
    def initialize(self, data: Dataset) -> None:
        """Seeds (means of classes with labels), each row to the nearest, one M-step."""
        x = filled_rows(data).to(self.loc)
        known = data["y"] if "y" in data.names else None
        self.m_step(x, assign(x, len(self.loc), self.init, known))

    @torch.no_grad()
    def m_step(self, x: Tensor, responsibilities: Tensor) -> None:
        """The closed-form M-step from x (N, D) and responsibilities (N, C), in place."""
        x, responsibilities = x.double(), responsibilities.double()
        counts = responsibilities.sum(0)  # (C,)
        share = responsibilities / counts.clamp_min(TINY)
        loc = share.mT @ x  # (C, D)
        centred = x - loc.unsqueeze(1)  # (C, N, D)
        weighted = share.mT.unsqueeze(-1) * centred
        full = self.covariance == "full"
        spread = weighted.mT @ centred if full else (weighted * centred).sum(1)  # (C, D[, D])
        self._assign(counts, loc, spread)
        empty = counts < EMPTY
        if empty.any():
            worst = self.log_evidence(x.to(self.loc)).topk(int(empty.sum()), largest=False).indices
            pooled = torch.tensordot(counts / counts.sum(), spread, 1)
            loc[empty], spread[empty], counts[empty] = x[worst], pooled, 1.0
            self._assign(counts, loc, spread)

    def _assign(self, counts: Tensor, loc: Tensor, spread: Tensor) -> None:
        """Sets the parameters from counts (C,), means, and covariances without ε."""
        if self.covariance == "full":
            identity = torch.eye(loc.shape[-1]).to(loc)
            factor = torch.linalg.cholesky(spread + self.reg_covar * identity)
            variance = factor.diagonal(dim1=-2, dim2=-1).square() - self.reg_covar
            if self.lower is not None:
                i, j = torch.tril_indices(*factor.shape[1:], offset=-1, device=factor.device)
                self.lower.copy_(factor[:, i, j])
        else:
            variance = spread
            if self.covariance == "spherical":
                variance = spread.mean(-1, keepdim=True)
        self.logits.copy_((counts / counts.sum()).clamp_min(TINY).log())
        self.loc.copy_(loc)
        self.log_scale.copy_(variance.clamp_min(1e-3 * self.reg_covar).log() / 2)

    @classmethod
    def example(cls) -> tuple[Self, Dataset]:
        """A random start and 50 iris flowers."""
        return cls(4), iris()
