"""Binary latents in a guide: what draws them, and the words that go with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from guides.estimators import Estimator
from guides.family import Family
from guides.inference import Amortized, SemiAmortized
from guides.layers import Structured
from zoo.data import Batch, Dataset
from zoo.registry import resolve
from zoo.sites import Latents, Sites


class Drawer(nn.Module):
    """Draws binary latents as an estimator would have it, and makes its baseline read x.

    Args:
        estimator: one with ``draws_bits``.
        data: the data set that the guide is for.
        latents: those of the model.
    """

    words: ClassVar[tuple[str, ...]] = ("score", "vimco", "gumbel", "straight_through", "rebar")

    def __init__(self, estimator: Estimator, data: Dataset, latents: Latents):
        super().__init__()
        self.estimator, self.plain = estimator, False
        start = torch.zeros(0)
        self.reader = Amortized(data, start, latents.names, encoder=nn.Identity())
        estimator.bind(self.reader.width, 2**latents.bits.dim)

    def draw(self, q: Any, sites: Sites) -> dict[str, Tensor]:
        """Samples the sites from q, independent Bernoulli variables over all of them."""
        kind = Estimator if self.plain else type(self.estimator)
        logits, _ = sites.unpack(q.base_dist.logits)
        return {n: kind.draw_bits(self.estimator, n, part) for n, part in logits.items()}

    @contextmanager
    def hard(self) -> Iterator[None]:
        """Inside, every draw is of zeros and ones, to be scored, whatever the estimator."""
        self.plain = True
        try:
            yield
        finally:
            self.plain = False

    def baseline(self, h: Tensor, batch: Batch) -> tuple[Any, Any]:
        """Of the log weights h (S, K, B), and the loss of its own parameters."""
        return self.estimator.baseline(h, self.reader.features(batch))


def check_bits(
    latents: Latents, estimator: Estimator, words: Mapping[str, Any], find: Any
) -> type[Family]:
    """The family of bits behind the word of a family, for words that go with binary latents.

    Args:
        latents: those of the model, binary ones among them.
        estimator, find: what the words of the estimator and of the inference stand for.
        words: what ``Guide`` was given.

    Raises:
        ValueError: a word that needs a path-wise gradient or few values, with those that do not.
    """
    names, family, inference = list(latents.bits.names), words["family"], words["inference"]
    chosen = resolve("families", family) if isinstance(family, str) else family
    if chosen.bits is None:
        raise ValueError(
            f"{names} are binary vectors, and the family {family} is of real ones; use mean_field, "
            "which is of independent bits there"
        )
    own = type(estimator).draw_bits is not Estimator.draw_bits
    if not (own or estimator.draws_bits):
        raise ValueError(
            f"{names} are binary vectors, drawn without a path-wise gradient and too many to be "
            f"enumerated, which {words['estimator']} needs; use the estimator "
            f"{', '.join(Drawer.words[:-1])} or {Drawer.words[-1]}"
        )
    if issubclass(find, SemiAmortized) or (issubclass(find, Structured) and not find.takes_bits):
        raise ValueError(
            f"{names} are binary vectors, without the path-wise gradient or the Gaussians that the "
            f"inference {inference} is made of; use bottom_up, amortized or per_datapoint"
        )
    return chosen.bits
