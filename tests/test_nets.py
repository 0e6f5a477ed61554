"""Perceptrons and convolutions: gates, sizes, and the same values under any leading dimensions."""

import math

import pytest
import torch
from torch import nn

from zoo.convolutions import ConvDecoder, ConvEncoder
from zoo.nets import MLP, last_bias, network

pytestmark = pytest.mark.usefixtures("float64")

SHAPES = [(28, 28), (8, 8), (28, 20), (3, 32, 32), (1, 3), (2, 5, 1)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_gate = pytest.mark.parametrize("gated", [False, True])


def assert_rows_alone(net: nn.Module, x: torch.Tensor) -> None:
    """What (S, K, B) rows give together is what each gives alone."""
    together = net(x)
    for s, k, b in ((0, 0, 0), (1, 2, 1), (x.shape[0] - 1, 0, x.shape[2] - 1)):
        torch.testing.assert_close(together[s, k, b], net(x[s, k, b]))


def assert_gradients_reach(net: nn.Module, x: torch.Tensor) -> None:
    net(x).square().sum().backward()
    lost = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not lost


@each_gate
@each_shape
def test_encoders_of_images(shape: tuple[int, ...], gated: bool) -> None:
    net = ConvEncoder(shape, 5, (7,), "tanh", gated)
    x = torch.randn(2, 3, 2, math.prod(shape))
    assert net(x).shape == (2, 3, 2, 5)
    assert_rows_alone(net, x)
    assert_gradients_reach(net, x)


@each_gate
@each_shape
def test_decoders_of_images(shape: tuple[int, ...], gated: bool) -> None:
    net = ConvDecoder(5, shape, 2 * math.prod(shape), (7,), "tanh", gated)
    z = torch.randn(2, 3, 2, 5)
    assert net(z).shape == (2, 3, 2, 2 * math.prod(shape))
    assert_rows_alone(net, z)
    assert_gradients_reach(net, z)


def test_a_decoder_sees_its_neighbours_and_an_encoder_the_place() -> None:
    """Planes come out as the rows of (C, H, W) do: a code moves pixels that lie together."""
    net = ConvDecoder(1, (2, 8, 8), channels=(3,))
    net.dense[0][0].weight.data.zero_()
    bias = net.dense[0][0].bias.data.zero_().reshape(3, 4, 4)
    bias[:, 1, 2] = 1.0  # one place of the smallest image
    planes = net(torch.zeros(1)).reshape(2, 8, 8)
    lit = planes.abs().sum(0).nonzero()
    assert lit.amin(0).tolist() == [1, 3] and lit.amax(0).tolist() == [4, 6]


def test_what_follows_the_image_joins_after_the_convolutions() -> None:
    net = network("conv", 67, (6,), 4, "relu", image_shape=(8, 8))
    x = torch.randn(5, 67)
    other = torch.cat([x[:, :64], x[:, 64:] + 1], -1)
    assert net(x).shape == (5, 4)
    assert not torch.equal(net(x), net(other))


def test_a_gated_layer_by_hand() -> None:
    net = MLP(3, (4,), 2, "tanh", gated=True)
    x = torch.randn(5, 3)
    W, b = net[0].layer.weight, net[0].layer.bias
    h = (x @ W[:4].T + b[:4]).tanh() * (x @ W[4:].T + b[4:]).sigmoid()
    torch.testing.assert_close(net(x), h @ net[1].weight.T + net[1].bias)


def test_a_gated_network_without_hidden_layers_is_linear() -> None:
    net = MLP(3, (), 2, gated=True)
    x = torch.randn(4, 3)
    torch.testing.assert_close(net(x + x), 2 * net(x) - net[0].bias)


def test_the_last_bias() -> None:
    mlp, conv = MLP(2, (3,), 16), ConvDecoder(2, (4, 4))
    assert last_bias(mlp, 16) is mlp[-1].bias
    assert last_bias(conv, 16) is conv.output_bias
    before = conv(torch.ones(2))
    conv.output_bias.data += torch.arange(16.0)
    torch.testing.assert_close(conv(torch.ones(2)), before + torch.arange(16.0))
    assert last_bias(mlp, 5) is None
    assert last_bias(nn.Sequential(nn.Linear(2, 16), nn.Tanh()), 16) is None
    assert last_bias(nn.Tanh(), 16) is None
    assert last_bias(nn.Linear(2, 16, bias=False), 16) is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: network("cnn", 4, (), 4), "net must be one of 'mlp', 'conv'; got 'cnn'"),
        (lambda: network("conv", 4, (), 4), "needs the image_shape"),
        (lambda: network("conv", 4, (), 4, image_shape=(3, 3)), "has 9 entries, the input 4"),
        (lambda: ConvEncoder((5,), 2), r"\(H, W\) or \(C, H, W\), got \(5,\)"),
        (lambda: ConvDecoder(2, (0, 3)), r"\(H, W\) or \(C, H, W\), got \(0, 3\)"),
        (lambda: ConvDecoder(2, (3, 3), 10), "10 outputs are no multiple"),
        (lambda: ConvDecoder(2, (3, 3), activation="sine"), "activation must be one of"),
        (lambda: MLP(2, (), 2, "sine"), "activation must be one of"),
        (lambda: MLP(2, (0,), 2), "widths of layers, from 1"),
    ],
)
def test_what_no_network_can_be(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
