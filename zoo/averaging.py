"""An exponential moving average of the weights of a fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo.optim import sparse_tables


class Average:
    """θ̄_t = (1-d) Σ_{s ≤ t} d^(t-s) θ_s / (1 - d^t), of every parameter that is trained.

    The sum is kept as a_t = d a_{t-1} + (1-d) θ_t on the device. A table's rows stay where they are
    until a batch has them, so theirs is brought up to date when they are next touched, or read: the
    same average at the cost of the batch's rows alone.

    Args:
        modules: by name, what is trained.
        decay: d in (0, 1); about 1/(1-d) steps are averaged.

    Raises:
        ValueError: a decay outside (0, 1).

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> average = Average({"model": layer}, 0.5)
        >>> for step, value in enumerate([2.0, 5.0], 1):
        ...     average.before(step)
        ...     _ = layer.weight.data.fill_(value)
        ...     average.after(step)
        >>> average.weights(2)["model.weight"].item()  # (¼ · 2 + ½ · 5) / (1 - ¼)
        4.0
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"ema is a decay between 0 and 1, such as 0.999, got {decay}")
        self.modules, self.decay = modules, decay
        named: dict[nn.Parameter, str] = {}
        for side, part in modules.items():
            for name, parameter in part.named_parameters():
                if parameter.requires_grad:
                    named.setdefault(parameter, f"{side}.{name}")
        tables = sparse_tables(modules.values())
        self.dense = {name: p for p, name in named.items() if p not in tables}
        self.tables = {name: p for p, name in named.items() if p in tables}
        everything = self.dense | self.tables
        self.sums = {name: torch.zeros_like(p).detach() for name, p in everything.items()}
        self.seen = {  # (N,): the step up to which a row's sum is right
            name: torch.zeros(len(p), dtype=torch.long, device=p.device)
            for name, p in self.tables.items()
        }

    @torch.no_grad()
    def before(self, step: int) -> None:
        """Ahead of a step counted from 1, its gradients known: the rows that it moves."""
        for name, table in self.tables.items():
            rows = self._touched(table)
            self.sums[name][rows] = self._caught_up(name, table, step - 1, rows)

    @torch.no_grad()
    def after(self, step: int) -> None:
        """Takes in the weights after a step."""
        if self.dense:
            sums = [self.sums[name] for name in self.dense]
            torch._foreach_lerp_(sums, [p.data for p in self.dense.values()], 1 - self.decay)
        for name, table in self.tables.items():
            rows = self._touched(table)
            self.sums[name][rows] = self.sums[name][rows].lerp(table[rows], 1 - self.decay)
            self.seen[name][rows] = step

    @torch.no_grad()
    def weights(self, step: int) -> dict[str, Tensor]:
        """Parameters averaged over the steps so far, buffers as they are, by ``model.name``."""
        parameters = self.dense | self.tables
        averages: dict[Tensor, Tensor] = {}
        if step:
            sums = {name: self.sums[name] for name in self.dense} | {
                name: self._caught_up(name, table, step, slice(None))
                for name, table in self.tables.items()
            }
            averages = {parameters[n]: s / (1 - self.decay**step) for n, s in sums.items()}
        return {
            f"{side}.{name}": averages[value] if value in averages else value.detach()
            for side, part in self.modules.items()
            for name, value in part.state_dict(keep_vars=True).items()
        }

    def _touched(self, table: Tensor) -> Tensor:
        """The rows that a step moves, some of them twice."""
        if table.grad is None:
            return torch.empty(0, dtype=torch.long, device=table.device)
        return table.grad._indices()[0]

    def _caught_up(self, name: str, table: Tensor, step: int, rows: Tensor | slice) -> Tensor:
        """Rows' sums at a step, the rows having stayed where they are since they were last seen."""
        lag = (step - self.seen[name][rows]).to(table.dtype)
        kept = (self.decay**lag)[:, None]
        return kept * self.sums[name][rows] + (1 - kept) * table[rows]

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it."""
        seen = {f"seen.{name}": value for name, value in self.seen.items()}
        return {f"sum.{name}": value for name, value in self.sums.items()} | seen

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The reverse of ``state``. KeyError where it is of other parameters."""
        for kind, home in (("sum", self.sums), ("seen", self.seen)):
            for name, value in home.items():
                value.copy_(state[f"{kind}.{name}"])
