"""The rivals of `step_time` that are written out in PyTorch, eager and by ``torch.compile``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.step_cases import FOLDS, LR, Case

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Weights(nn.Module):
    """The weights of a case, ``decoder`` and ``encoder`` or ``table``, as ``start`` names them."""

    decoder: Any
    encoder: nn.Module
    table: nn.Embedding

    def __init__(self, case: Case):
        super().__init__()
        self.case = case
        start = {key: torch.from_numpy(value.copy()) for key, value in case.start.items()}
        if case.model == "vae":
            self.decoder = _network(case, "decoder", nn.Tanh)
        else:
            own = {key.partition(".")[2]: value for key, value in start.items() if "decoder" in key}
            self.decoder = nn.ParameterDict(own)
        if case.guide == "table":
            self.table = nn.Embedding(case.rows, case.num_kappa, sparse=True)
        elif case.guide != "none":
            self.encoder = _network(case, "encoder", nn.ReLU)
        self.load_state_dict(start)
        self.to(case.device)

    def kappa(self, x: Tensor, index: Tensor) -> Tensor:
        """(B, P): what the guide says of each row."""
        return self.table(index) if self.case.guide == "table" else self.encoder(x)

    def scale_tril(self) -> Tensor:
        """L (C, D, D) of a mixture."""
        L = torch.diag_embed(((2 * self.decoder.log_scale).exp() + 1e-6).sqrt())
        i, j = torch.tril_indices(*L.shape[1:], offset=-1, device=L.device)
        L[:, i, j] = self.decoder.lower
        return L

    def folds(self, kappa: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """w (B, d), u (B, d) and b (B, 1) of every fold."""
        d = self.case.latent
        for part in kappa[..., 2 * d :].chunk(FOLDS, -1):
            yield part[..., :d], part[..., d : 2 * d], part[..., 2 * d :]


def _network(case: Case, name: str, activation: type[nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for key, value in case.start.items():
        if key.startswith(name) and key.endswith("weight"):
            layers += [nn.Linear(value.shape[1], value.shape[0]), activation()]
    return nn.Sequential(*layers[:-1])


class ByHand(Weights):
    """The loss of a case as one would write it for this case alone."""

    data: Tensor

    def __init__(self, case: Case):
        super().__init__(case)
        self.register_buffer("data", torch.from_numpy(case.data).to(case.device))

    def loss(self, index: Tensor) -> Tensor:
        """Nats per datapoint of the rows ``index`` (B,)."""
        x = self.data[index]
        if self.case.model == "gmm":
            return -self.log_mixture(x).mean()
        return self.bound(x, self.kappa(x, index))

    def bound(self, x: Tensor, kappa: Tensor) -> Tensor:
        """The same of rows x (B, D) and what the guide says of them (B, P)."""
        case = self.case
        d, lead = case.latent, (case.particles,) if case.particles > 1 else ()
        loc, scale = kappa[:, :d], F.softplus(kappa[:, d : 2 * d])
        noise = torch.randn(*lead, *loc.shape, device=x.device)
        z = loc + scale * noise
        log_q = (-0.5 * noise.square() - scale.log()).sum(-1)
        if case.guide == "planar":
            for w, u, b in self.folds(kappa):
                inner = (w * u).sum(-1, keepdim=True)
                u = u + (F.softplus(inner) - 1 - inner) * w / w.square().sum(-1, keepdim=True)
                h = torch.tanh((w * z).sum(-1, keepdim=True) + b)
                log_q = log_q - torch.log1p(((1 - h.square()) * w * u).sum(-1))
                z = z + u * h
        h = self.log_likelihood(x, z) - 0.5 * z.square().sum(-1) - log_q
        return -(h.logsumexp(0) - math.log(case.particles) if lead else h).mean()

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), (..., B)."""
        if self.case.model == "ppca":
            error = (
                x - z @ self.decoder.weight.mT - self.decoder.mean
            ) / self.decoder.log_scale.exp()
            return (-0.5 * error.square() - self.decoder.log_scale - HALF_LOG_2PI).sum(-1)
        logits = self.decoder(z)
        x = x.expand_as(logits)
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)

    def log_mixture(self, x: Tensor) -> Tensor:
        """log Σ_c π_c N(x; μ_c, L_c L_cᵀ), (B,)."""
        L = self.scale_tril()
        error = torch.linalg.solve_triangular(L, (x - self.decoder.loc[:, None]).mT, upper=False)
        log_x = -0.5 * error.square().sum(1) - L.diagonal(0, 1, 2).log().sum(-1, keepdim=True)
        log_y = self.decoder.logits.log_softmax(-1)[:, None]
        return (log_y + log_x).logsumexp(0) - x.shape[-1] * HALF_LOG_2PI

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam, fused, which is its fastest form, and SparseAdam for the rows of a table."""
        rows = [*self.table.parameters()] if self.case.guide == "table" else []
        dense = [p for name, p in self.named_parameters() if not name.startswith("table")]
        found: list[torch.optim.Optimizer] = [torch.optim.Adam(dense, lr=LR, fused=True)]
        return [*found, torch.optim.SparseAdam(rows, lr=LR)] if rows else found


def by_hand(case: Case, compiled: bool = False) -> Callable[[], None]:
    """A call that takes the steps of ``case.order``, one after the other.

    Compiled is the whole loss with its gradient; of a table, whose sparse gradient inductor does
    not take, all but the look-up of the rows.
    """
    module = ByHand(case)
    if compiled and case.guide == "table":
        module.bound = torch.compile(module.bound)
    loss = torch.compile(module.loss) if compiled and case.guide != "table" else module.loss
    optimizers, order = module.optimizers(), torch.from_numpy(case.order).to(case.device)

    def run() -> None:
        for index in order:
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss(index).backward()
            for optimizer in optimizers:
                optimizer.step()
        wait(case.device)

    return run


def wait(device: str) -> None:
    """Until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()
