"""Flows: volumes, inverses, shapes, extremes, and what they do as guides."""

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.runs import Spec, read_config, run
from guides import Guide
from guides.flow import Flow
from guides.inference import PerDatapoint
from guides.monotone import above_minus_one, monotone_root
from guides.orthogonal import orthonormal, reflections
from zoo.exact import log_evidence
from zoo.models.ppca import PPCA
from zoo.objectives.bounds import elbo
from zoo.registry import build, names, resolve
from zoo.store import load
from zoo.weights import log_weights

FLOWS = [word for word in names("families") if issubclass(resolve("families", word), Flow)]
BY_ROOTS = ["planar", "sylvester"]  # their inverses are roots of an equation for each row
SYLVESTERS = ("householder", "triangular")
KINDS: list[tuple[str, dict[str, Any]]] = [
    (word, {"flow": flow}) for word in FLOWS for flow in ("kappa", "shared")
] + [("sylvester", {"orthogonal": o}) for o in SYLVESTERS]

each_kind = pytest.mark.parametrize(
    ("word", "options"), KINDS, ids=lambda v: v if isinstance(v, str) else "-".join(v.values())
)
each_flow = pytest.mark.parametrize("word", FLOWS)


def made(word: str, dim: int, rows: int = 4, away: float = 0.3, **options: Any) -> Any:
    """A flow, and a κ for each row."""
    family = build("families", word, dim, **options)
    away = min(away, 3 / family.num_params**0.5)
    return family, family.initial() + away * torch.randn(rows, family.num_params)


def test_all_eight_are_there() -> None:
    wanted = "planar radial householder sylvester iaf neural_autoregressive spline realnvp"
    assert set(wanted.split()) <= set(FLOWS)


SHARED = [(word, {"flow": "shared"}) for word in FLOWS]


@pytest.mark.parametrize(
    ("word", "options", "dim"),
    [(w, o, d) for w, o in KINDS for d in ((1, 3) if (w, o) in SHARED else (1, 2, 3, 5))],
    ids=lambda v: "-".join(v.values()) if isinstance(v, dict) else None,
)
def test_volumes_are_those_of_the_jacobian(
    float64: Any, word: str, options: dict[str, Any], dim: int
) -> None:
    family, kappa = made(word, dim, length=2, **options)
    u = 1.5 * torch.randn(3, 4, dim)
    for layer in family(kappa).layers:
        z, log_det = layer.step(u)
        by_entry = torch.autograd.functional.jacobian(
            lambda v, layer=layer: layer.step(v)[0].sum((0, 1)), u
        )  # (d, 3, 4, d)
        expected = torch.linalg.slogdet(by_entry.permute(1, 2, 0, 3))[1]
        torch.testing.assert_close(log_det.expand(3, 4), expected, rtol=0, atol=1e-6)
        back, again = layer.invert(z)
        torch.testing.assert_close(back, u, rtol=0, atol=1e-6)
        torch.testing.assert_close(again.expand(3, 4), expected, rtol=0, atol=1e-6)
        u = z


@pytest.mark.parametrize(("dim", "length"), [(1, 1), (2, 16), (3, 2), (5, 4)])
@each_kind
@torch.no_grad()
def test_draws_score_by_inversion_what_they_were_drawn_with(
    float64: Any, word: str, options: dict[str, Any], dim: int, length: int
) -> None:
    family, kappa = made(word, dim, away=0.1, length=length, **options)
    q = family(kappa)
    for shape in ((4,), (3, 4), (2, 3, 4)):
        wide = q.expand(shape)
        z = wide.rsample()
        remembered = wide.log_prob(z)
        assert z.shape == (*shape, dim) and remembered.shape == shape
    inverted = q.log_prob(z.clone())
    torch.testing.assert_close(remembered, inverted, rtol=0, atol=1e-6)
    assert q.rsample((5,)).shape == (5, 4, dim)


@each_kind
@torch.no_grad()
def test_float32_goes_there_and_back(word: str, options: dict[str, Any]) -> None:
    family, kappa = made(word, 3, away=0.1, length=8, **options)
    q = family(kappa)
    z = q.rsample((20,))
    remembered, inverted = q.log_prob(z), q.log_prob(z.clone())
    assert z.dtype == remembered.dtype == torch.float32
    assert remembered.isfinite().all() and inverted.isfinite().all()
    assert (remembered - inverted).abs().max() < 0.05
    far = q.log_prob(torch.tensor([1e4, -1e4, 0.0]).expand(4, 3))
    assert not far.isnan().any()


@each_kind
def test_the_density_of_an_outside_z_has_its_gradient(
    float64: Any, word: str, options: dict[str, Any]
) -> None:
    """In z and in κ, against central differences."""
    family, kappa = made(word, 2, rows=1, length=2, **options)
    z, kappa = torch.randn(1, 2).requires_grad_(), kappa.requires_grad_()
    family(kappa).log_prob(z).sum().backward()
    with torch.no_grad():
        for value, other, at in ((z, kappa, 0), (kappa, z, 1)):
            towards = torch.randn_like(value)
            towards = towards / towards.norm()
            ends = [value + side * 1e-5 * towards for side in (1, -1)]
            pairs = [(v, other) if at == 0 else (other, v) for v in ends]
            scores = [family(k).log_prob(x).sum() for x, k in pairs]
            expected = (scores[0] - scores[1]) / 2e-5
            assert value.grad is not None
            torch.testing.assert_close((value.grad * towards).sum(), expected, rtol=1e-5, atol=1e-6)


def test_above_minus_one_keeps_its_digits() -> None:
    x = torch.tensor([-1e30, -1e6, -50, -1, -1e-2, -1e-8, 0, 1e-8, 0.5, 1, 30, 1e6, 1e30])
    m, ratio = above_minus_one(x)
    wide, wide_ratio = above_minus_one(x.double())
    torch.testing.assert_close(m.double(), wide, rtol=1e-6, atol=1e-30)
    torch.testing.assert_close(ratio.double(), wide_ratio, rtol=1e-6, atol=0)
    assert (m >= -0.9991).all() and (m.diff() >= 0).all() and (ratio > 0).all()
    torch.testing.assert_close(wide[x != 0] / x.double()[x != 0], wide_ratio[x != 0])


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-4, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("side", [-1, 1])
def test_planar_folds_stay_invertible_in_adverse_directions(size: float, side: int) -> None:
    """w of every length, u huge and along or against it, in float32."""
    torch.manual_seed(0)
    family = build("families", "planar", 3, length=1)
    w = torch.randn(50, 3)
    w = size * w / w.norm(dim=-1, keepdim=True)
    for push in (1.0, 1e3, 1e6):
        u = side * push * w / max(size, 1e-20)
        theta = family.prepare({"w": w[None], "u": u[None], "b": torch.randn(1, 50)})
        assert ((theta["w"] * theta["u"]).sum(-1) > -0.9995).all()
        value = torch.randn(50, 3)
        z, log_det = family.step(value, theta, None, 0)
        back, again = family.invert(z, theta, None, 0)
        assert log_det.isfinite().all() and again.isfinite().all()
        assert (log_det >= math.log(0.0009)).all()
        if side < 0:  # where the fold squeezes: to a few roundings of z and of u
            largest = 1 + z.norm(dim=-1) + value.norm(dim=-1)
            room = 1e-5 * largest / log_det.exp().clamp(max=1)
            assert ((back - value).norm(dim=-1) <= room).all()


@pytest.mark.parametrize("push", [-1e6, -30.0, 0.0, 30.0])
def test_radial_layers_stay_invertible_in_adverse_directions(push: float) -> None:
    family = build("families", "radial", 4, length=1)
    for a in (-100.0, 0.0, 100.0):
        theta = family.prepare(
            {"center": torch.zeros(1, 4), "a": torch.tensor([a]), "b": torch.tensor([push])}
        )
        assert (theta["beta"] >= -theta["alpha"]).all()
        value = torch.randn(50, 4) * torch.logspace(-6, 3, 50)[:, None]
        z, log_det = family.step(value, theta, None, 0)
        back, again = family.invert(z, theta, None, 0)
        assert log_det.isfinite().all() and again.isfinite().all()
        torch.testing.assert_close(back, value, rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize("orthogonal", ["orthogonal", *SYLVESTERS])
def test_sylvester_layers_stay_invertible_in_adverse_directions(
    float64: Any, orthogonal: str
) -> None:
    family = build("families", "sylvester", 4, length=2, orthogonal=orthogonal)
    for size in (1e-3, 1.0, 1e3):
        kappa = family.initial().repeat(20, 1)
        extra = size * torch.randn(20, family.num_extra)
        extra[::2] = -extra[::2].abs()
        layers = family.layers(extra)
        value = torch.randn(20, 4)
        for layer in layers:
            diagonals = (layer.theta[n].diagonal(dim1=-2, dim2=-1) for n in ("R", "R2"))
            assert (torch.stack(list(diagonals)).prod(0) > -0.9995).all()
            z, log_det = layer.step(value)
            back, _ = layer.invert(z)
            assert log_det.isfinite().all() and kappa.isfinite().all()
            if size <= 1:
                torch.testing.assert_close(back, value, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("dim", "columns"), [(1, 1), (2, 2), (5, 3), (5, 5)])
def test_columns_are_orthonormal(float64: Any, dim: int, columns: int) -> None:
    eye = torch.eye(columns)
    vectors = torch.randn(7, min(columns, dim - 1), dim)
    vectors[0] = vectors[0, :1] if dim > 1 else vectors[0]  # all of them the same
    vectors[1] = vectors[1] * 1e-200
    vectors[2] = 0.0
    for Q in (orthonormal(vectors, columns), reflections(torch.randn(7, 3, dim), columns)):
        assert Q.shape == (7, dim, columns)
        torch.testing.assert_close(Q.mT @ Q, eye.expand(7, -1, -1), rtol=0, atol=1e-10)


@pytest.mark.cuda
def test_flows_on_a_cuda_device_are_those_on_the_cpu(float64: Any) -> None:
    for word in FLOWS:
        family, kappa = made(word, 4, length=3)
        z = torch.randn(5, 4, 4)
        expected = family(kappa).log_prob(z)
        q = family.cuda()(kappa.cuda())
        torch.testing.assert_close(q.log_prob(z.cuda()).cpu(), expected)
        wide = q.expand((3, 4))
        draw = wide.rsample()
        torch.testing.assert_close(wide.log_prob(draw), q.log_prob(draw.clone()))


def test_columns_by_gram_and_schmidt_are_those_of_a_qr(
    float64: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = torch.randn(7, 3, 5)
    by_qr = orthonormal(vectors, 3)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    torch.testing.assert_close(orthonormal(vectors, 3), by_qr)
    vectors[0], vectors[1] = vectors[0, :1], 0.0
    Q = orthonormal(vectors, 3)
    torch.testing.assert_close(Q.mT @ Q, torch.eye(3).expand(7, -1, -1), rtol=0, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_roots_of_increasing_functions(float64: Any, scale: float) -> None:
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.tanh(x - 0.3)
        return x + scale * h, 1 + scale * (1 - h * h)

    x = 3 * torch.randn(100)
    target = f(x)[0]
    root = monotone_root(f, target, target - scale, target + scale)
    torch.testing.assert_close(root, x, rtol=0, atol=1e-9)


def linear() -> tuple[PPCA, Any]:
    model, data = PPCA.example()
    return model.double(), data.to(dtype=torch.float64)


@each_kind
def test_bounds_stay_below_the_evidence(float64: Any, word: str, options: dict[str, Any]) -> None:
    """E log w ≤ log p(x) and E w = p(x), each to six standard errors over 400 particles."""
    model, data = linear()
    guide = Guide(model, data, f"{word}:2", "amortized", family_options=options)
    batch = data.batch(torch.arange(8))
    with torch.no_grad():
        h = log_weights(model, guide, batch, 400).bound(lambda h: h)[0]  # (K, B)
        evidence = log_evidence(model, batch)
    se = h.std(0) / 20
    assert (h.mean(0) - evidence < 6 * se).all()
    best = (h.logsumexp(0) - math.log(400)) - evidence
    ratio = (h - evidence).exp()
    assert (best.exp() - 1 < 6 * ratio.std(0) / 20 + 1e-6).all()


@each_flow
def test_amortized_parameters_vary_with_x(word: str) -> None:
    model, data = PPCA.example()
    guide = Guide(model, data, word, "amortized")
    assert guide.source is not None
    kappa = guide.source(data.batch(), lambda _: torch.zeros(()))
    assert (kappa.std(0) > 0).all()
    elbo(model, guide, data.batch(), num_particles=2).backward()
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("word", ["planar:4", "iaf:2"])
def test_infer_fits_new_rows_and_leaves_shared_weights(word: str) -> None:
    """The mean ELBO of 40 rows rises by far more than its noise; nothing trained moves."""
    model, data = PPCA.example()
    new = data.subset(torch.arange(40))
    guide = Guide(model, data, word, "per_datapoint")
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    start = guide.infer(new, steps=0)
    better = guide.infer(new, steps=60)
    for name, value in guide.state_dict().items():
        assert torch.equal(value, before[name]), name
    if word.startswith("iaf"):
        assert any("family.theta" in name for name in before)
        assert better.family is guide.family
    with torch.no_grad():
        evidence = float(log_evidence(model, new.batch()).mean())
        bounds = [-float(elbo(model, g, new.batch(), num_particles=100)) for g in (start, better)]
    assert bounds[1] > bounds[0] + 0.1
    assert bounds[1] < evidence + 0.1


def test_a_table_over_two_gibibytes_is_refused_with_its_size() -> None:
    _, data = PPCA.example()
    row = torch.zeros(1).expand(2**29 // len(data) + 1)  # floats, of no memory
    with pytest.raises(ValueError, match=r"rows of \d+ numbers takes 2\.0 GiB.*flow shared"):
        PerDatapoint(data, row)


def test_flows_stack() -> None:
    family = build("families", "planar:4+iaf:2", 3, context_dim=5)
    assert isinstance(family, Flow) and family.num_params == 6 + 4 * 7 + 5
    layers = build("families", "radial:3+iaf:2", 3).layers(torch.zeros(3 * 5 + 16))
    assert [type(layer.flow).__name__ for layer in layers] == ["Radial"] * 3 + ["IAF"] * 2
    made = resolve("families", "planar:4+iaf:2")
    assert made is resolve("families", "planar:4+iaf:2")
    taken = list(inspect.signature(made).parameters)
    assert taken[:2] == ["dim", "init_scale"] and {"flow", "context_dim", "hidden"} <= set(taken)
    assert "length" not in taken
    shared = build("families", "planar:4+iaf:2", 3, flow="kappa", hidden=[8])
    assert not list(shared.parameters())


def test_stacked_flows_score_their_draws(float64: Any) -> None:
    family, kappa = made("radial:2+spline:1+householder:3+sylvester:1", 3)
    q = family(kappa)
    z = q.rsample((3,))
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), rtol=0, atol=1e-6)
    model, data = linear()
    guide = Guide(model, data, "planar:2+iaf:1", "amortized")
    elbo(model, guide, data.batch()).backward()


@pytest.mark.parametrize("scale", [3.0, 10.0])
def test_a_sigmoidal_map_far_from_its_start_is_inverted(scale: float) -> None:
    """Steep sigmoids far apart: the root is found wherever the bracket is wide."""
    flow: Any = build("families", "neural_autoregressive", 1, length=1)
    c = scale * torch.randn(2000, 24, dtype=torch.float64)
    u = torch.randn(2000, dtype=torch.float64)
    z, log_slope = flow.transform(u, c)
    again, same = flow.inverse(z, c)
    torch.testing.assert_close(flow.transform(again, c)[0], z, rtol=1e-9, atol=1e-9)
    steep = log_slope > -7  # a flatter one tells less of u than a number has digits
    torch.testing.assert_close(same[steep], log_slope[steep], rtol=0, atol=1e-6)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("planar:0", {}, "length counts layers from 1"),
    ("planar:x", {}, "takes its length after the colon"),
    ("planar:3", {"length": 4}, "says length already"),
    ("planar", {"flow": "both"}, "kappa or shared"),
    ("planar+mean_field", {}, "stacks flows, and 'mean_field' is none"),
    ("planar+", {}, "lacks a flow beside a plus"),
    ("planar+planer", {}, "Did you mean 'planar'"),
    ("iaf", {"context_dim": -1}, "context_dim"),
    ("iaf", {"hidden": [0]}, "widths of layers"),
    ("sylvester", {"orthogonal": "qr"}, "orthogonal, householder or triangular"),
    ("sylvester", {"num_columns": 0}, "count from 1"),
    ("spline", {"num_bins": 1}, "2 to 99 bins"),
    ("spline", {"num_bins": 100}, "2 to 99 bins"),
    ("neural_autoregressive", {"num_sigmoids": 0}, "counts from 1"),
]


@pytest.mark.parametrize(("word", "options", "message"), WRONG)
def test_wrong_words_and_options_are_told(word: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("families", word, 3, **options)


@pytest.mark.parametrize("word", ["planar:2", "planar:2+iaf:1"])
def test_words_go_through_a_run_and_back(tmp_path: Path, word: str) -> None:
    """``zoo fit`` takes them, the run records them, and ``load`` builds the same q again."""
    options = {"fit_options": {"steps": 2}, "infer_steps": 2, "eval_particles": 2}
    outcome = run(Spec("ppca", "iris", word, "per_datapoint", **options), tmp_path / "run")
    assert read_config(tmp_path / "run")["family"] == word
    again = load(tmp_path / "run").guide
    for name, value in outcome.guide.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    batch, z = outcome.split.train.batch(), torch.randn(len(outcome.split.train), 2)
    with torch.no_grad():
        ours, theirs = (g.log_prob(batch, {"z": z}) for g in (outcome.guide, again))
    assert torch.equal(ours, theirs)


def test_the_length_of_a_word_is_its_number_of_layers() -> None:
    make: Callable[..., Any] = build
    assert make("families", "planar:16", 3).num_params == 6 + 16 * 7
    assert len(make("families", "iaf:4", 3)(torch.zeros(22)).layers) == 4
