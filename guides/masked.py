"""Perceptrons whose outputs see some of the inputs only, with weights given from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from zoo.nets import affine

Theta = dict[str, Tensor]


class Masked(nn.Module):
    """A perceptron in which output i sees input j where degree_i > degree_j (a MADE).

    It owns no weights: they are given as vectors of the entries that are not masked, shared or
    one set for every row. A linear map from the inputs and the context stands beside the hidden
    layers, whose activation is tanh.

    Args:
        inputs: the degrees of the inputs, from 1.
        outputs: the degrees of the outputs.
        hidden: widths of the hidden layers.
        context_dim: numbers that every output sees.

    Reference: Germain, Gregor, Murray and Larochelle, "MADE: Masked Autoencoder for Distribution
    Estimation", 2015.

    Example:
        >>> net = Masked([1, 2], [1, 2], (8,))
        >>> theta = {k: v[0] for k, v in net.matrices(net.start(1, torch.zeros(2))).items()}
        >>> net(torch.randn(5, 2), theta, None).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        hidden: Sequence[int] = (64,),
        context_dim: int = 0,
    ):
        super().__init__()
        if min(hidden, default=1) < 1:
            raise ValueError(f"hidden holds widths of layers, from 1, got {tuple(hidden)}")
        least = 0 if context_dim else min(inputs, default=len(outputs))
        most = max(outputs) - 1
        hidden = [] if least > most else hidden  # where nothing is there to be seen
        degrees = [torch.tensor(inputs, dtype=torch.long)]
        degrees += [torch.linspace(least, most, width).round().long() for width in hidden]
        last = torch.tensor(outputs) - 1
        self.context_dim, self.depth = context_dim, len(hidden)
        self.sizes: dict[str, tuple[int, int]] = {}  # by name: rows, columns
        for i in range(self.depth):
            self._add(f"weight{i}", degrees[i + 1][:, None] >= degrees[i])
        if self.depth:
            self._add("last", last[:, None] >= degrees[-1])
        self._add("skip", last[:, None] >= degrees[0])
        if context_dim:
            if self.depth:
                self._add("context", torch.ones(hidden[0], context_dim, dtype=torch.bool))
            self._add("context_skip", torch.ones(len(outputs), context_dim, dtype=torch.bool))
        self.widths = tuple(hidden)

    def _add(self, name: str, mask: Tensor) -> None:
        if mask.any():
            self.sizes[name] = (mask.shape[0], mask.shape[1])
            places = mask.flatten().nonzero().flatten()
            self.register_buffer(f"places_{name}", places, persistent=False)

    def start(self, length: int, bias: Tensor, spread: float = 0.05) -> Theta:
        """Weights of ``length`` networks whose outputs are near ``bias`` (E,): (length, n) each."""
        theta: Theta = {}
        for name, (_, columns) in self.sizes.items():
            count = len(self.get_buffer(f"places_{name}"))
            outer = name in ("last", "skip", "context_skip")
            scale = (spread if outer else 1.0) / columns**0.5
            theta[name] = scale * torch.randn(length, count)
        for i, width in enumerate(self.widths):
            theta[f"bias{i}"] = 0.1 * torch.randn(length, width)
        theta["bias"] = bias.expand(length, -1) + 0.1 * spread * torch.randn(length, len(bias))
        return theta

    def matrices(self, theta: Theta) -> Theta:
        """The same, each vector of weights (..., n) put into its matrix (..., rows, columns)."""
        return theta | dict(self._filled(theta))

    def _filled(self, theta: Theta) -> Iterator[tuple[str, Tensor]]:
        for name, (rows, columns) in self.sizes.items():
            values = theta[name]
            if values.shape[-1] < rows * columns:
                empty = values.new_zeros((*values.shape[:-1], rows * columns))
                values = empty.index_copy(-1, self.get_buffer(f"places_{name}"), values)
            yield name, values.unflatten(-1, (rows, columns))

    def forward(self, u: Tensor, theta: Theta, context: Tensor | None) -> Tensor:
        """(..., E) from u (..., D), the matrices and the context (..., C)."""
        out = theta["bias"]
        if "skip" in theta:
            out = out + affine(u, theta["skip"])
        if context is not None and "context_skip" in theta:
            out = out + affine(context, theta["context_skip"])
        h = u
        for i in range(self.depth):
            new = theta[f"bias{i}"]
            if f"weight{i}" in theta:
                new = new + affine(h, theta[f"weight{i}"])
            if i == 0 and context is not None:
                new = new + affine(context, theta["context"])
            h = torch.tanh(new)
        return out + affine(h, theta["last"]) if "last" in theta else out
