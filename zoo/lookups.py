"""The rows of tables that a step looks at, whose gradient is theirs alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


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
            for name, table in self.tables.items():
                if args[1] is table:
                    rows = table.index_select(0, args[0].reshape(-1))
                    leaf = rows.view(*args[0].shape, -1).detach().requires_grad_()
                    self.seen.append((name, args[0], leaf))
                    return leaf
        return func(*args, **kwargs)
