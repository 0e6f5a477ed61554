"""Convolutional networks between flat images and flat codes, for images of any size."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.nets import ACTIVATIONS, MLP, Gated, check_activation

CHANNELS = (32, 64)


class ConvEncoder(nn.Module):
    """x -> MLP(flatten(conv_L(... conv_1(image)))): each convolution (3 × 3, stride 2) halves it.

    Args:
        image_shape: (H, W) or (C, H, W); any H, W >= 1, an odd size is rounded up when halved.
        out_features: E, the length of the output.
        hidden: widths of the dense layers after the convolutions.
        activation: one of `zoo.nets.ACTIVATIONS`.
        gated: layers are `zoo.nets.Gated`.
        channels: of each convolution.
        extra_features: F, numbers that follow the image in the input, such as a label; they join
            in after the convolutions.

    Raises:
        ValueError: a shape that is no image; an unknown activation; extra_features < 0.

    >>> ConvEncoder((28, 20), 4)(torch.zeros(3, 5, 560)).shape
    torch.Size([3, 5, 4])
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_features: int,
        hidden: Sequence[int] = (),
        activation: str = "relu",
        gated: bool = False,
        channels: Sequence[int] = CHANNELS,
        extra_features: int = 0,
    ) -> None:
        super().__init__()
        check_activation(activation)
        self.image_shape = checked_shape(image_shape)
        self.size = math.prod(self.image_shape)  # D = C H W
        if extra_features < 0:
            raise ValueError(
                f"image_shape {tuple(image_shape)} has {self.size} entries, the input "
                f"{self.size + extra_features}"
            )
        sizes = halvings(self.image_shape, len(channels))
        widths = [self.image_shape[0], *channels]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            conv = nn.Conv2d(before, (1 + gated) * after, 3, stride=2, padding=1)
            a = ACTIVATIONS[activation]()
            layers += [Gated(conv, a, dim=-3)] if gated else [conv, a]
        self.convolutions = nn.Sequential(*layers)
        flat = widths[-1] * math.prod(sizes[-1]) + extra_features
        self.dense = MLP(flat, hidden, out_features, activation, gated)

    def forward(self, x: Tensor) -> Tensor:
        """(..., E) of x (..., C H W + F)."""
        rows = x.reshape(-1, x.shape[-1])
        image = rows[:, : self.size].reshape(-1, *self.image_shape)
        features = torch.cat([self.convolutions(image).flatten(1), rows[:, self.size :]], -1)
        return self.dense(features).reshape(*x.shape[:-1], -1)


class ConvDecoder(nn.Module):
    """z -> flatten(convᵀ_L(... convᵀ_1(MLP(z)))) + b: each (4 × 4, stride 2) doubles the image.

    The E = E/(H W) · H W outputs are planes of H × W, one after the other, as the rows of an image
    (C, H, W) are; b = `output_bias` (E,) has a value for every pixel.

    Args:
        in_features: d, the length of the code.
        image_shape: (H, W) or (C, H, W).
        out_features: E, a multiple of H W; C H W by default.
        hidden: widths of the dense layers before the convolutions.
        activation: one of `zoo.nets.ACTIVATIONS`.
        gated: layers are `zoo.nets.Gated`.
        channels: as for `ConvEncoder`, from the image inwards.

    Raises:
        ValueError: a shape that is no image; E that is no multiple of H W; an unknown activation.

    >>> ConvDecoder(4, (3, 32, 32))(torch.zeros(3, 5, 4)).shape
    torch.Size([3, 5, 3072])
    """

    def __init__(
        self,
        in_features: int,
        image_shape: Sequence[int],
        out_features: int | None = None,
        hidden: Sequence[int] = (),
        activation: str = "relu",
        gated: bool = False,
        channels: Sequence[int] = CHANNELS,
    ) -> None:
        super().__init__()
        check_activation(activation)
        image_shape = checked_shape(image_shape)
        out_features = math.prod(image_shape) if out_features is None else out_features
        planes, rest = divmod(out_features, math.prod(image_shape[1:]))
        if rest:
            raise ValueError(
                f"a convolutional decoder makes whole planes of {image_shape[1:]}, and "
                f"{out_features} outputs are no multiple of that; use net='mlp'"
            )
        self.sizes = halvings(image_shape, len(channels))[::-1]  # from the smallest to (H, W)
        widths = [*reversed(channels), planes]
        self.start = (widths[0], *self.sizes[0])
        flat = math.prod(self.start)
        dense = MLP(in_features, hidden, (1 + gated) * flat, activation, gated)
        a = ACTIVATIONS[activation]()
        self.dense = Gated(dense, a) if gated else nn.Sequential(dense, a)
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            last = i == len(channels) - 1
            wide = gated and not last
            conv = nn.ConvTranspose2d(before, (1 + wide) * after, 4, 2, 1, bias=not last)
            a = ACTIVATIONS[activation]()
            layers.append(
                conv if last else Gated(conv, a, dim=-3) if gated else nn.Sequential(conv, a)
            )
        self.convolutions = nn.ModuleList(layers)
        self.output_bias = nn.Parameter(torch.zeros(out_features))  # (E,)

    def forward(self, z: Tensor) -> Tensor:
        """(..., E) of z (..., d)."""
        image = self.dense(z.reshape(-1, z.shape[-1])).reshape(-1, *self.start)
        for layer, (height, width) in zip(self.convolutions, self.sizes[1:], strict=True):
            image = layer(image)[..., :height, :width]
        return image.reshape(*z.shape[:-1], -1) + self.output_bias


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """(C, H, W) of (H, W) or (C, H, W). ValueError for anything else."""
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"image_shape is (H, W) or (C, H, W), got {tuple(shape)}")
    return (1, *shape) if len(shape) == 2 else tuple(shape)


def halvings(image_shape: Sequence[int], times: int) -> list[tuple[int, int]]:
    """(H, W), then its halves rounded up.

    >>> halvings((1, 28, 20), 2)
    [(28, 20), (14, 10), (7, 5)]
    """
    sizes = [(image_shape[-2], image_shape[-1])]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes
