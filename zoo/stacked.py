"""One step of several pairs side by side, their weights stacked, as a function of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.agreement import plain_values
from zoo.data import Dataset
from zoo.engine import AT_ONCE
from zoo.optim import OptimizerName, make_optimizers, sparse_tables
from zoo.rewriting import Gaussian
from zoo.settings import FitResult
from zoo.tracing import swapped
from zoo.updates import COLUMNS, betas_of, coefficients, moments, updated


class Stacked:
    """One step of R pairs, a function of the tensors in ``state``, as ``zoo.capture.Step``."""

    def __init__(
        self,
        results: list[FitResult],
        data: Dataset,
        loss_of: Callable[..., Tensor],
        rows: int,
        log_every: int,
        clip: float | None,
    ):
        self.results, self.data, self.loss_of, self.clip = results, data, loss_of, clip
        self.room, self.device = min(log_every, AT_ONCE), data.device
        self.whole = rows == len(data)
        every = [_tensors(r) for r in results]
        kinds = [_kind(r, own) for r, own in zip(results, every, strict=True)]
        if any(other != kinds[0] for other in kinds):
            raise ValueError(
                "the pairs are of different structure, or an attribute of a module differs, or "
                "what is trained; they may differ in the values of their weights alone"
            )
        if len({id(v) for own in every for v in own.values()}) != sum(map(len, every)):
            raise ValueError("a parameter is part of two pairs; each has parameters of its own")
        first = results[0]
        self.modules = [m for m in (first.model, first.guide) if isinstance(m, nn.Module)]
        if sparse_tables(self.modules):
            raise ValueError("a guide with a table is fitted by fit: its step is small already")
        self.originals = every[0]
        R = len(results)
        stacked = {k: torch.stack([own[k].detach() for own in every]) for k in every[0]}
        self.trained = nn.ParameterDict(
            {_key(k): nn.Parameter(stacked[k]) for k, v in every[0].items() if v.requires_grad}
        )
        self.still = {k: v for k, v in stacked.items() if not every[0][k].requires_grad}
        long = {"dtype": torch.long, "device": self.device}
        self.state: dict[str, Tensor] = {
            "i": torch.zeros(1, **long),
            "order": torch.zeros(self.room, R, 0 if self.whole else rows, **long),
            "numbers": torch.zeros(self.room, COLUMNS, dtype=torch.float64, device=self.device),
            "losses": torch.zeros(self.room, R, device=self.device),
            "halted": torch.zeros(R, dtype=torch.bool, device=self.device),
        }

    def optimize(self, name: OptimizerName, lr: float, weight_decay: float) -> None:
        """Chooses the optimizer, one for all: its arithmetic is element by element."""
        (self.optimizer,) = make_optimizers([self.trained], name, lr, weight_decay=weight_decay)
        self.kept: dict[str, list[str]] = {}
        for key, value in self.trained.items():
            held = {f"{key}/{j}": m for j, m in enumerate(moments(self.optimizer, value))}
            self.state |= {key: value.detach(), **held}
            self.kept[key] = list(held)
        self.state |= self.still
        self.names, self.betas = list(self.state), betas_of([self.optimizer])

    def __call__(self, *tensors: Tensor) -> tuple[()]:
        """Takes step ``i`` of every pair; the state is changed in place."""
        s = dict(zip(self.names, tensors, strict=True))
        numbers = s["numbers"].index_select(0, s["i"])[0]
        index = s["order"].index_select(0, s["i"])[0]
        values = {k: s[_key(k)] if _key(k) in self.kept else s[k] for k in self.originals}
        free = {k: v for k, v in values.items() if _key(k) in self.kept}
        held = {k: v for k, v in values.items() if k not in free}
        with torch.enable_grad(), Gaussian():
            step = torch.func.grad_and_value(self._loss)
            found = torch.vmap(step, randomness="different")(free, held, index)
        gradients: dict[str, Tensor] = found[0]
        loss: Tensor = found[1].detach()  # (R,)
        with torch.no_grad():
            ok = torch.isfinite(loss) & ~s["halted"]
            factor = torch.ones_like(loss)
            if self.clip is not None:
                norm = torch.stack(
                    [g.reshape(len(loss), -1).square().sum(1) for g in gradients.values()]
                )
                factor = (self.clip / (norm.sum(0).sqrt() + 1e-12)).clamp(max=1.0)
            for name, gradient in gradients.items():
                key = _key(name)
                shape = (-1, *[1] * (gradient.dim() - 1))
                kept = [s[k] for k in self.kept[key]]
                shorter = gradient if self.clip is None else gradient * factor.view(shape)
                new, moved = updated(self.optimizer, s[key], shorter, kept, numbers)
                for home, after in zip((s[key], *kept), (new, *moved), strict=True):
                    home.copy_(torch.where(ok.view(shape), after, home))
            s["halted"].copy_(~ok)
            s["losses"].index_copy_(0, s["i"], loss[None].to(s["losses"].dtype))
        return ()

    def _loss(self, free: dict[str, Tensor], held: dict[str, Tensor], index: Tensor) -> Tensor:
        first = self.results[0]
        others = {self.originals[k]: v for k, v in {**free, **held}.items()}
        with swapped(self.modules, others):
            return self.loss_of(
                first.model, first.guide, self.data.batch(None if self.whole else index)
            )

    def fill(self, orders: list[list[Tensor]], rate: Callable[..., float], first: int) -> None:
        """Says which rows the next steps take, and their coefficients."""
        lines = [
            coefficients(rate(step=first + k), first + k + 1, self.betas)
            for k in range(len(orders))
        ]
        self.state["numbers"][: len(orders)].copy_(torch.tensor(lines, dtype=torch.float64))
        if not self.whole:
            self.state["order"][: len(orders)].copy_(torch.stack([torch.stack(o) for o in orders]))
        self.state["i"].zero_()

    @torch.no_grad()
    def give_back(self) -> None:
        """Every pair gets its weights."""
        for r, result in enumerate(self.results):
            for name, home in _tensors(result).items():
                home.copy_(self.state[_key(name) if _key(name) in self.kept else name][r])


def _tensors(result: FitResult) -> dict[str, Tensor]:
    """Parameters and buffers by ``model.name`` and ``guide.name``, each once."""
    found: dict[Tensor, str] = {}
    for side, part in (("model", result.model), ("guide", result.guide)):
        if isinstance(part, nn.Module):
            for name, value in (*part.named_parameters(), *part.named_buffers()):
                if value.numel():
                    found.setdefault(value, f"{side}.{name}")
    return {name: value for value, name in found.items()}


def _kind(result: FitResult, tensors: dict[str, Tensor]) -> tuple[Any, Any]:
    """What pairs that are fitted together have in common."""
    parts = [m for m in (result.model, result.guide) if isinstance(m, nn.Module)]
    paths = {m: (i, name) for i, part in enumerate(parts) for name, m in part.named_modules()}
    plain = {(*paths[m], key): value for (m, key), value in plain_values(parts).items()}
    return plain, {k: (v.shape, v.dtype, v.requires_grad) for k, v in tensors.items()}


def _key(name: str) -> str:
    return name.replace(".", "/")
