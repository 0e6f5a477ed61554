"""Another guide of the same kind, for other data, as it was before any training."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import nn

from zoo.data import Dataset

if TYPE_CHECKING:
    from guides.guide import Guide


def anew(guide: Guide, data: Dataset) -> Guide:
    """An untrained guide with the words and options that ``guide`` was made with.

    The model is the same object; nothing else is shared. Networks that came as options are copied
    and their layers started again, by ``reset_parameters``.

    Args:
        guide: of any kind, trained or not.
        data: N rows that the new guide is for.

    Raises:
        ValueError: as ``Guide``.

    Example:
        >>> import torch
        >>> from guides.guide import Guide
        >>> from zoo.data import Dataset
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> guide = Guide(model, data, "full_rank", "per_datapoint")
        >>> other = anew(guide, Dataset(torch.randn(7, 4)))
        >>> other.spec == guide.spec, other.source.table.num_embeddings
        (True, 7)
    """
    spec = copy.deepcopy(guide.spec)
    for value in spec.values():
        for option in value.values() if isinstance(value, dict) else (value,):
            for part in option.modules() if isinstance(option, nn.Module) else ():
                if callable(start := getattr(part, "reset_parameters", None)):
                    start()
    return type(guide)(guide.model, data, **spec)
