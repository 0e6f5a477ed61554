"""What mixtures share: exact responsibilities, EM, starts and a report sorted by weight."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

EMPTY = 1e-3  # responsibility, in datapoints, below which a component counts as empty
TINY = 1e-30  # keeps logarithms and quotients finite


class Components(NamedTuple):
    """Components of a mixture by falling weight."""

    weights: Tensor  # (C,)
    means: Tensor  # (C, D)
    covariances: Tensor  # (C, D, D)


class Mixture(nn.Module):
    """Exact knowledge of p(y) p(x | y) with y summed out, from the joint log p(x, y)."""

    logits: nn.Parameter
    loc: nn.Parameter

    def log_joint(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x, y = c), (B, C), of x (B, D); observed (B, D) bool marks the entries present."""
        raise NotImplementedError

    def covariances(self) -> Tensor:
        """Cov(x | y = c), (C, D, D)."""
        raise NotImplementedError

    def m_step(self, x: Tensor, responsibilities: Tensor) -> None:
        """Maximises the expected log joint for given responsibilities (N, C), in place."""
        raise NotImplementedError

    def log_evidence(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """log p(x) (B,) in nats, of x (B, D); observed (B, D) bool marks the entries present."""
        return self.log_joint(x, observed).logsumexp(-1)

    def responsibilities(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """p(y = c | x), (B, C)."""
        return self.log_joint(x, observed).softmax(-1)

    @torch.no_grad()
    def em_step(self, x: Tensor) -> None:
        """One exact iteration of EM on all rows x (N, D), in place."""
        self.m_step(x, self.responsibilities(x))

    @torch.no_grad()
    def components(self) -> Components:
        """Weights, means and covariances, sorted by falling weight."""
        weights = self.logits.softmax(-1)
        order = weights.argsort(descending=True)
        return Components(weights[order], self.loc[order], self.covariances()[order])


def assign(x: Tensor, num_components: int, init: str, known: Tensor | None = None) -> Tensor:
    """Each row to the nearest of C seeds: one-hot responsibilities (N, C) of x (N, D).

    Seeds are rows, drawn by k-means++ (Arthur & Vassilvitskii, k-means++: the advantages of
    careful seeding, 2007) or, with init="random", uniformly; from torch's global generator.
    Of a class that some rows are known to have, (M,) of the first M rows, the seed is their mean.
    """
    if len(x) < num_components:
        raise ValueError(f"{num_components} components need as many rows; got {len(x)}")
    if init == "kmeans++":
        from sklearn.cluster import kmeans_plusplus

        seed = int(torch.randint(2**31 - 1, ()))
        _, index = kmeans_plusplus(x.cpu().double().numpy(), num_components, random_state=seed)
        seeds = x[torch.as_tensor(index, device=x.device)]
    else:
        seeds = x[torch.randperm(len(x))[:num_components].to(x.device)]
    if known is not None and int(known.max()) >= num_components:
        raise ValueError(
            f"labels go to {int(known.max())}, so there are more classes than the "
            f"{num_components} components; give num_components"
        )
    for c in () if known is None else known.unique():
        seeds[c] = x[: len(known)][known == c].mean(0)  # type: ignore[arg-type]
    nearest = (x[:, None] - seeds).square().sum(-1).argmin(1)
    return nn.functional.one_hot(nearest, num_components).to(x)
