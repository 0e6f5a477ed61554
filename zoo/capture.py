"""The whole training step as one function of tensors that it changes in place.

Gather, draws, model, guide, objective, gradient, clipping, optimizer and average: all that one step
of ``Loop`` does, with schedules as inputs and without the host. ``zoo.running`` runs it many times.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.engine import AT_ONCE
from zoo.lookups import Lookups
from zoo.optim import sparse_tables
from zoo.tracing import CannotCapture, moved, swapped
from zoo.updates import COLUMNS, betas_of, clipped, coefficients, moments, set_step, updated

if TYPE_CHECKING:
    from zoo.agreement import Plain
    from zoo.loop import Loop

Named = dict[str, Tensor]


class Step:
    """One step of a fit on B rows, a function of the tensors in ``state``.

    A loss that is not finite halts it: that step and all after it leave every weight as it was, so
    that the host may look at the losses later.

    Args:
        loop: the fit, whose parameters, moments and averages are the state itself.
        rows: B.

    Attributes:
        state: by name. ``i`` (1,), which step of the call it is; ``order`` (M, B), the rows of
            each; ``numbers`` (M, 5) float64, what depends on the step; ``losses`` (M,) and
            ``recent`` (M, E), what it leaves; ``halted`` (); and everything that is trained.
        traced: the last run's gradients, and the rows of tables that they are of, by name.
    """

    traced: tuple[dict[str, Tensor], dict[str, Tensor]]
    plain: Plain  # see zoo.agreement

    def __init__(self, loop: Loop, rows: int):
        self.loop, self.backward, self.rows = loop, loop.backward, rows
        self.room = min(loop.settings.log_every, AT_ONCE)
        device = self.device = loop.device
        self.modules = list(loop.modules.values())
        tables = sparse_tables(self.modules)
        every = [m for part in self.modules for m in part.modules()]
        self.distinct = {m.weight for m in every if getattr(m, "distinct", False)}
        self.owner = {p: o for o in loop.optimizers for g in o.param_groups for p in g["params"]}
        self.betas = betas_of(loop.optimizers)
        whole = self.backward.everything is not None or self.backward.whole
        self.state: dict[str, Tensor] = {
            "i": torch.zeros(1, dtype=torch.long, device=device),
            "order": torch.zeros(self.room, 0 if whole else rows, dtype=torch.long, device=device),
            "numbers": torch.zeros(self.room, COLUMNS + 2, dtype=torch.float64, device=device),
            "losses": torch.zeros(self.room, dtype=torch.float64, device=device),
            "halted": torch.zeros((), dtype=torch.bool, device=device),
        }
        if (recent := loop.recorder.now()) is not None:
            self.state["recent"] = recent.new_zeros(self.room, len(recent))
        self.parameters: dict[str, Tensor] = {}  # trained
        self.tables: dict[str, Tensor] = {}  # trained, the rows of the batch alone
        self.repeated: set[str] = set()  # tables whose rows may be there twice
        self.still: dict[str, Tensor] = {}  # buffers, and parameters that are not trained
        every = [v for m in self.modules for v in (*m.parameters(), *m.buffers()) if v.numel()]
        for k, value in enumerate(dict.fromkeys(every)):
            home = self.tables if value in tables else self.parameters
            (home if value in self.owner else self.still)[f"v{k}"] = value
        self.kept: dict[str, list[str]] = {}  # names of the moments
        self.sums: dict[str, str] = {}  # and of the average
        self._name()

    def _name(self) -> None:
        """Puts what is trained, and what is kept of it, into the state."""
        average = self.loop.average
        for name, value in {**self.parameters, **self.tables}.items():
            self.state[name] = value.detach()
            held = {f"{name}.{j}": m for j, m in enumerate(moments(self.owner[value], value))}
            self.state |= held
            self.kept[name] = list(held)
            if average is not None:
                key = next(k for k, p in (average.dense | average.tables).items() if p is value)
                self.sums[name] = f"{name}.sum"
                self.state[f"{name}.sum"] = average.sums[key]
                if name in self.tables:
                    self.state[f"{name}.seen"] = average.seen[key]
        self.state |= {name: value.detach() for name, value in self.still.items()}
        self.names = list(self.state)

    # The step --------------------------------------------------------------------------------

    def __call__(self, *tensors: Tensor) -> tuple[()]:
        """Takes step ``i``; every tensor of the state is changed in place."""
        s = dict(zip(self.names, tensors, strict=True))
        numbers = s["numbers"].index_select(0, s["i"])[0]
        before = {name: (s[name].clone(), s[name]._version) for name in self.still}
        loss, gradients, touched = self._gradients(s, numbers)
        with torch.no_grad():
            dense = [name for name in gradients if name not in touched]
            squares = [self._square(name, gradients[name], touched[name]) for name in touched]
            # One sum, after those inside the look-ups: no compiler can put them in another order.
            loss, *sums = self.loop.team.sum([loss, *(gradients[name] for name in dense), *squares])
            gradients |= dict(zip(dense, sums, strict=False))
            norms = {n: v.sqrt() for n, v in zip(touched, sums[len(dense) :], strict=True)}
            self.traced = gradients, touched
            ok = torch.isfinite(loss) & ~s["halted"]
            self._update(s, numbers, gradients, touched, norms, ok)
            for name, (old, version) in before.items():
                if s[name]._version != version:  # a buffer that the model writes
                    s[name].copy_(torch.where(ok, s[name], old))
            s["halted"].copy_(~ok)
            s["losses"].index_copy_(0, s["i"], loss.reshape(1).to(s["losses"].dtype))
            if "recent" in s:
                here = {p: s[n] for n, p in {**self.parameters, **self.tables}.items()}
                now = torch.cat([here[p].take(at) for p, at in self.loop.recorder.places])
                s["recent"].index_copy_(0, s["i"], now[None])
        return ()

    def _gradients(
        self, s: dict[str, Tensor], numbers: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The loss; the gradient of each parameter, or of the touched rows of a table; the rows."""
        result, backward = self.loop.result, self.backward
        leaves = {name: s[name].detach().requires_grad_() for name in self.parameters}
        others = {p: leaves[name] for name, p in self.parameters.items()}
        others |= {p: s[name] for name, p in {**self.tables, **self.still}.items()}
        index = s["order"].index_select(0, s["i"])[0]
        options = {"beta": numbers[-2].to(torch.get_default_dtype())} if backward.warm_up else {}
        total: Any = 0.0
        found: dict[str, Tensor] = {}
        rows: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.tables}
        with swapped(self.modules, others), Lookups({n: s[n] for n in self.tables}) as lookups:
            for loss, _ in backward.losses(result.model, result.guide, index, options):
                wanted = [*leaves.values(), *(leaf for _, _, leaf in lookups.seen)]
                if not loss.requires_grad or not wanted:
                    raise CannotCapture("the objective leaves no gradient; its steps are its own")
                given = torch.autograd.grad(loss, wanted, allow_unused=True)
                for name, g in zip(leaves, given, strict=False):
                    if g is not None:
                        found[name] = found[name] + g if name in found else g
                for (name, at, _), g in zip(lookups.seen, given[len(leaves) :], strict=True):
                    if g is not None:
                        rows[name].append((at.reshape(-1), g.reshape(-1, g.shape[-1])))
                lookups.seen.clear()
                total = total + loss.detach()
        touched: dict[str, Tensor] = {}
        for name, parts in rows.items():
            if parts:
                touched[name] = torch.cat([at for at, _ in parts])
                found[name] = torch.cat([g for _, g in parts])
                distinct = self.tables[name] in self.distinct and not self.loop.data.partial
                distinct &= self.rows >= self.loop.team.size  # else one is asked for by several
                if len(parts) > 1 or not distinct:
                    same = touched[name][:, None] == touched[name]  # rows that are there twice
                    found[name] = same.to(found[name].dtype) @ found[name]
                    self.repeated.add(name)
        return total, found, touched

    def _update(
        self, s: Named, numbers: Tensor, gradients: Named, touched: Named, norms: Named, ok: Tensor
    ) -> None:
        if self.loop.settings.clip is not None:
            each = [norms[n] if n in norms else g.norm() for n, g in gradients.items()]
            shorter = clipped(list(gradients.values()), self.loop.settings.clip, each)
            gradients = dict(zip(gradients, shorter, strict=True))
        keep = 0.0 if self.loop.average is None else self.loop.average.decay
        for name, gradient in gradients.items():
            rows = touched.get(name)
            parameter = self.tables[name] if rows is not None else self.parameters[name]
            value, *kept = (_read(s[key], rows) for key in (name, *self.kept[name]))
            new, moved = updated(self.owner[parameter], value, gradient, kept, numbers[:COLUMNS])
            writes = dict(zip((name, *self.kept[name]), (new, *moved), strict=True))
            if name in self.sums:
                total = _read(s[self.sums[name]], rows)
                if rows is not None:  # where the rows have stayed since they were last seen
                    seen, step = s[f"{name}.seen"], numbers[-1]
                    lag = (step - 1 - seen.index_select(0, rows)).to(value.dtype)
                    held = (keep**lag)[:, None]
                    total = held * total + (1 - held) * value
                    s[f"{name}.seen"].index_copy_(
                        0, rows, torch.where(ok, step.long(), seen.index_select(0, rows))
                    )
                writes[self.sums[name]] = total + (1 - keep) * (new - total)
            for key, after in writes.items():
                guarded = torch.where(ok, after, _read(s[key], rows))
                if rows is None:
                    s[key].copy_(guarded)
                else:
                    s[key].index_copy_(0, rows, guarded)
        for name in self.sums.keys() & self.parameters.keys() - gradients.keys():  # at rest
            total = s[self.sums[name]]
            total.copy_(torch.where(ok, total + (1 - keep) * (s[name] - total), total))

    def _square(self, name: str, gradient: Tensor, rows: Tensor) -> Tensor:
        """The squared length of a table's gradient; rows that are there m times count once."""
        if name in self.repeated:
            gradient = gradient / (rows[:, None] == rows).sum(1, keepdim=True).sqrt()
        return gradient.square().sum()

    # Around it -------------------------------------------------------------------------------

    def fill(self, order: list[Tensor], first: int) -> None:
        """Says which rows the next steps take, and what depends on their numbers."""
        settings, backward = self.loop.settings, self.backward
        lines = []
        for step in range(first, first + len(order)):
            beta = backward.beta * min(1.0, step / backward.warm_up) if backward.warm_up else 1.0
            rate = settings.rate(step=step)
            lines.append([*coefficients(rate, step + 1, self.betas), beta, step + 1])
        numbers = torch.tensor(lines, dtype=torch.float64)
        self.state["numbers"][: len(order)].copy_(numbers, non_blocking=True)
        if self.state["order"].shape[1]:
            torch.stack(order, out=self.state["order"][: len(order)])
        self.state["i"].zero_()

    def others(self) -> list[Tensor]:
        """Other values of the state: the rows after those of each step, and weights beside."""
        size, count, order = len(self.loop.data), self.loop.data.num_labelled, self.state["order"]
        after = count + (order - count + 1) % (size - count)
        if count:  # labelled rows come first
            after = torch.where(order < count, (order + 1) % count, after)
        return [after if name == "order" else moved(v) for name, v in self.state.items()]

    def held(self) -> AbstractContextManager[None]:
        """A block in which a buffer that is replaced by another tensor is written in place."""
        return swapped(self.modules, {value: value for value in self.still.values()})

    def tell(self, steps: int) -> None:
        """Tells the optimizers how many steps have been taken."""
        for parameter, optimizer in self.owner.items():
            set_step(optimizer, parameter, steps)


def _read(value: Tensor, rows: Tensor | None) -> Tensor:
    return value if rows is None else value.index_select(0, rows)
