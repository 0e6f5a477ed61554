"""The rows of tables that a step looks at, whose gradient is theirs alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zoo.tracing import CannotCapture


class Lookups(TorchFunctionMode):
    """Looked-up rows of tables are leaves of their own, so that no gradient has a table's size.

    Attributes:
        seen: the table's name, the rows (…), and their values (…, P), one for each look.
    """

    def __init__(self, tables: dict[str, Tensor]):
        super().__init__()
        self.tables = tables
        self.seen: list[tuple[str, Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.embedding:
            odd = [k for k in ("padding_idx", "max_norm", "scale_grad_by_freq") if kwargs.get(k)]
            if kwargs.get("padding_idx") is not None or odd:
                raise CannotCapture("a table with padding_idx, max_norm or scale_grad_by_freq")
            for name, table in self.tables.items():
                if args[1] is table:
                    rows = table.index_select(0, args[0].reshape(-1))
                    leaf = rows.view(*args[0].shape, -1).detach().requires_grad_()
                    self.seen.append((name, args[0], leaf))
                    return leaf
        return func(*args, **kwargs)
