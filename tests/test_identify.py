"""Identified forms do not depend on what the likelihood leaves free; products broadcast safely."""

import pytest
import torch
from torch import Tensor

from zoo import identify
from zoo.nets import MLP, affine, select

pytestmark = pytest.mark.usefixtures("float64")


def loadings(seed: int = 0) -> Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed: int) -> Tensor:
    """A random orthogonal matrix, of determinant 1 or -1."""
    return torch.linalg.qr(loadings(seed)[:3]).Q


@pytest.mark.parametrize("rotate", [None, "varimax"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rotated_loadings_have_one_identified_form(rotate: str | None, seed: int) -> None:
    W = loadings()
    L = identify.loadings(W, rotate)
    torch.testing.assert_close(L @ L.mT, W @ W.mT)
    torch.testing.assert_close(identify.loadings(W @ rotation(seed), rotate), L)
    variance = L.square().sum(0)
    assert torch.equal(variance, variance.sort(descending=True).values)
    assert (L.gather(0, L.abs().argmax(0, keepdim=True)) > 0).all()


def test_orthogonalized_columns_are_orthogonal() -> None:
    L = identify.orthogonalize(loadings())
    torch.testing.assert_close(L.mT @ L, torch.diag((L.mT @ L).diagonal()))


def criterion(L: Tensor) -> Tensor:
    return L.square().var(0, correction=0).sum()


def test_varimax_is_a_maximum_of_its_criterion() -> None:
    L = identify.varimax(loadings())
    A = torch.zeros(3, 3, requires_grad=True)
    (slope,) = torch.autograd.grad(criterion(L @ torch.matrix_exp(A - A.mT)), A)
    torch.testing.assert_close(slope, torch.zeros(3, 3), atol=1e-5, rtol=0.0)
    assert all(criterion(L) >= criterion(L @ rotation(seed)) for seed in range(100))


def test_varimax_finds_a_simple_structure() -> None:
    simple = torch.zeros(9, 3)
    simple[0:4, 0], simple[4:7, 1], simple[7:9, 2] = 1.0, 1.1, 1.2
    torch.testing.assert_close(identify.varimax(simple @ rotation(5)), simple)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_procrustes_undoes_a_rotation_and_is_the_nearest(seed: int) -> None:
    W, R = loadings(), rotation(seed)
    aligned, found = identify.procrustes(W @ R, W)
    torch.testing.assert_close(aligned, W)
    torch.testing.assert_close(found, R.mT)
    other = loadings(9)
    best = (identify.procrustes(other, W)[0] - W).norm()
    assert all(best <= (other @ rotation(s) - W).norm() for s in range(100))


def test_components_are_matched_whatever_their_order() -> None:
    means = loadings()
    order = torch.tensor([3, 0, 7, 1, 2, 6, 5, 4])
    noise = 0.01 * loadings(4)
    permutation = identify.match_components((means + noise)[order], means)
    assert torch.equal(order[permutation], torch.arange(8))


def test_wrong_input_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="None or 'varimax'"):
        identify.loadings(loadings(), "oblimin")
    with pytest.raises(ValueError, match="d <= D"):
        identify.orthogonalize(loadings().mT)
    with pytest.raises(ValueError, match="one shape"):
        identify.procrustes(loadings(), loadings()[:4])
    with pytest.raises(ValueError, match="one shape"):
        identify.match_components(loadings(), loadings()[:4])
    with pytest.raises(ValueError, match="last dimensions"):
        affine(torch.ones(4, 2), torch.ones(3, 4))
    with pytest.raises(ValueError, match="tanh"):
        MLP(2, (3,), 1, activation="thanh")


SHAPES = [  # leading dimensions of z, and of W
    ((7,), ()),
    ((5, 4, 7), ()),
    ((5, 4, 7), (5, 1, 1)),
    ((7, 7, 7), (7, 1, 1)),
    ((7,), (6, 1, 1, 1)),
    ((5, 4, 7), (6, 5, 1, 1)),
    ((5, 4, 7), (5, 4, 7)),
    ((1,), (5, 1, 1)),
]


@pytest.mark.parametrize(("of_z", "of_W"), SHAPES)
@pytest.mark.parametrize("d", [1, 2])
def test_affine_is_the_matrix_product(of_z: tuple, of_W: tuple, d: int) -> None:
    z, W = torch.randn(*of_z, d), torch.randn(*of_W, 3, d)
    torch.testing.assert_close(affine(z, W), (W @ z.unsqueeze(-1)).squeeze(-1))


PICKS = [  # leading dimensions of the table, and of y
    ((), (7,)),
    ((), (4, 7)),
    ((), (3, 1, 1, 1)),
    ((5, 1, 1), (3, 1, 1, 1)),
    ((5, 1, 1), (5, 4, 7)),
    ((5, 1, 1), (7,)),
    ((3, 1, 1), (3, 3, 3)),
]


@pytest.mark.parametrize(("of_table", "of_y"), PICKS)
@pytest.mark.parametrize("event", [(), (2,), (2, 4)])
def test_select_picks_rows(of_table: tuple, of_y: tuple, event: tuple) -> None:
    table, y = torch.randn(*of_table, 3, *event), torch.randint(3, of_y)
    picked = select(table, y, len(event))
    lead = torch.broadcast_shapes(of_table, of_y)
    expanded = table.expand(*lead, 3, *event).reshape(-1, 3, *event)
    flat = y.expand(lead).reshape(-1)
    expected = torch.stack([row[c] for row, c in zip(expanded, flat, strict=True)])
    torch.testing.assert_close(picked, expected.reshape(*lead, *event))


def test_a_perceptron_without_hidden_layers_is_linear() -> None:
    net = MLP(4, (), 2)
    assert [type(layer).__name__ for layer in net] == ["Linear"]
    assert MLP(4, (8, 6), 2, activation="relu")(torch.zeros(5, 1, 4)).shape == (5, 1, 2)
