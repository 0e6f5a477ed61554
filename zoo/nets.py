"""Parts that models and guides share: products, selections and networks, safe under any
leading dimensions.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo._broadcast import affine, cholesky, indicator, join, select

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Gated",
    "affine",
    "check_activation",
    "cholesky",
    "indicator",
    "join",
    "keep_signal",
    "last_bias",
    "network",
    "select",
    "start_small",
    "widths_of_layers",
]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}


class Gated(nn.Module):
    """a(W x + b) ⊙ σ(V x + c): a layer that decides how much of each unit it lets through.

    Args:
        layer: x -> (..., 2M, *place), such as a linear map or a convolution to 2M channels.
        activation: a.
        dim: where the 2M channels stand, counted from the right.

    Reference: Dauphin, Fan, Auli & Grangier, Language modeling with gated convolutional networks,
    2017.
    """

    def __init__(self, layer: nn.Module, activation: nn.Module, dim: int = -1) -> None:
        super().__init__()
        self.layer, self.activation, self.dim = layer, activation, dim

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.layer(x).chunk(2, self.dim)
        return self.activation(value) * gate.sigmoid()


class MLP(nn.Sequential):
    """a(A_L ... a(A_1 x + b_1) ... + b_L), without activation after the last layer.

    Args:
        in_features: size of the last dimension of the input.
        hidden: widths of the hidden layers; () is a linear map.
        out_features: size of the last dimension of the output.
        activation: one of `ACTIVATIONS`.
        gated: hidden layers are `Gated`: a(W x + b) ⊙ σ(V x + c).

    Raises:
        ValueError: the activation is unknown, or a width is below 1.

    >>> MLP(4, (8, 8), 2)(torch.zeros(3, 5, 4)).shape
    torch.Size([3, 5, 2])
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int] = (),
        out_features: int = 1,
        activation: str = "tanh",
        gated: bool = False,
    ) -> None:
        if min(hidden, default=1) < 1:
            raise ValueError(f"hidden holds widths of layers, from 1, got {tuple(hidden)}")
        widths = [in_features, *hidden]
        layers: list[nn.Module] = []
        check_activation(activation)
        for before, after in zip(widths, widths[1:], strict=False):
            linear, a = nn.Linear(before, (1 + gated) * after), ACTIVATIONS[activation]()
            layers += [Gated(linear, a)] if gated else [linear, a]
        super().__init__(*layers, nn.Linear(widths[-1], out_features))


def check_activation(name: str) -> None:
    """ValueError unless the activation is one of `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}: {name!r}")


def network(
    word: str,
    in_features: int,
    hidden: Sequence[int],
    out_features: int,
    activation: str = "tanh",
    gated: bool = False,
    image_shape: Sequence[int] | None = None,
    decoder: bool = False,
) -> nn.Module:
    """A network from (..., in_features) to (..., out_features) by one word.

    Args:
        word: "mlp", or "conv" for images, held as flat vectors.
        in_features, out_features: sizes of the last dimensions.
        hidden: widths of the dense hidden layers; with "conv" those between the code and the
            convolutions, whose channels are 32 and 64.
        activation, gated: as for `MLP`.
        image_shape: (H, W) or (C, H, W), for "conv".
        decoder: whether the image comes out ("conv" up) or goes in ("conv" down).

    Raises:
        ValueError: an unknown word; "conv" without an image shape, or one that does not fit.

    >>> up = network("conv", 2, (8,), 48, image_shape=(3, 4, 4), decoder=True)
    >>> up(torch.zeros(7, 5, 2)).shape
    torch.Size([7, 5, 48])
    """
    if word not in ("mlp", "conv"):
        raise ValueError(f"net must be one of 'mlp', 'conv'; got {word!r}")
    if word == "mlp":
        return MLP(in_features, hidden, out_features, activation, gated)
    from zoo.convolutions import ConvDecoder, ConvEncoder  # made of the parts above

    if image_shape is None:
        raise ValueError(
            "net='conv' needs the image_shape (H, W) or (C, H, W) of the rows, which data sets of "
            "images have; give Dataset(..., image_shape=...), or use net='mlp'"
        )
    if decoder:
        return ConvDecoder(in_features, image_shape, out_features, hidden, activation, gated)
    extra = in_features - math.prod(image_shape)
    return ConvEncoder(image_shape, out_features, hidden, activation, gated, extra_features=extra)


def last_bias(net: nn.Module, size: int) -> nn.Parameter | None:
    """The parameter that is added to the output (..., size) of a network, where it has one.

    A network says so by an attribute `output_bias`; else it is the bias of the linear layer that
    the network ends with, None where it ends with something else.

    >>> last_bias(MLP(2, (3,), 4), 4).shape
    torch.Size([4])
    """
    end = [module for module in net.modules() if not list(module.children())][-1]
    bias = getattr(net, "output_bias", end.bias if isinstance(end, nn.Linear) else None)
    return bias if isinstance(bias, nn.Parameter) and bias.shape == (size,) else None


def widths_of_layers(widths: Sequence[int], count: int) -> tuple[int, ...]:
    """One width for each of the ``count`` layers of a hierarchy, from the data up.

    The last width that is given holds for every layer above; those beyond the layers are left.

    Raises:
        ValueError: no width, or one below 1.

    >>> widths_of_layers((200, 100), 4)
    (200, 100, 100, 100)
    """
    given = tuple(widths)
    if min(given, default=0) < 1:
        raise ValueError(
            f"widths holds one width from 1 for each of the {count} layers, from the data up (the "
            f"last one goes on), got {given}"
        )
    return (given + given[-1:] * count)[:count]


@torch.no_grad()
def keep_signal(net: nn.Module, whole: bool = False) -> None:
    """Starts linear layers at N(0, 2/fan-in), so that a signal passes many layers undiminished.

    Torch's own start makes it smaller by 3 to 6 times a layer, in variance.

    Args:
        net: its linear layers, all but the last.
        whole: the last one as well.

    Reference: He, Zhang, Ren & Sun, Delving deep into rectifiers, 2015.

    >>> keep_signal(MLP(4, (8, 8), 2))
    """
    layers = [module for module in net.modules() if isinstance(module, nn.Linear)]
    for layer in layers if whole else layers[:-1]:
        nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.in_features))


@torch.no_grad()
def start_small(net: nn.Module, scale: float) -> None:
    """Starts a network near 0 whatever it reads: its last linear layer's weights times ``scale``.

    The layer's bias becomes 0.

    >>> net = MLP(4, (8,), 2)
    >>> start_small(net, 0.0)
    >>> net(torch.randn(3, 4)).abs().max().item()
    0.0
    """
    last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    last.weight.mul_(scale)
    last.bias.zero_()
