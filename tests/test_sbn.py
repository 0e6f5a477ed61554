"""The sigmoid belief network, and guides of binary latents, against enumeration of all bits."""

import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from experiments import cli
from guides import Guide
from guides.bits import Drawer
from zoo.data import Batch, Dataset
from zoo.diagnostics.jeffreys import jeffreys
from zoo.diagnostics.report import diagnose
from zoo.diagnostics.sbc import sbc
from zoo.diagnostics.simulation import simulate_posteriors
from zoo.diagnostics.vsbc import vsbc
from zoo.fitting import fit
from zoo.latent_space import encode, reconstruct
from zoo.latent_use import active_units, latent_kl
from zoo.model import Model, rows
from zoo.models.sbn import SBN
from zoo.objectives.bounds import elbo, iwae
from zoo.registry import names
from zoo.sites import Latents
from zoo.surgery import mutual_information
from zoo.testing import check_captured, check_guide, check_model
from zoo.weights import log_weights

pytestmark = pytest.mark.usefixtures("float64")

DIMS = {1: (3,), 2: (3, 2), 3: (2, 3, 2)}
INFERENCE = ("bottom_up", "amortized", "per_datapoint")
each_depth = pytest.mark.parametrize("layers", [1, 2, 3])
each_inference = pytest.mark.parametrize("inference", INFERENCE)


def example(layers: int = 2, copies: int = 0, spread: float = 1.0) -> tuple[SBN, Dataset]:
    """A network with weights of some size, and its 20 rows of 6 bits, or ``copies`` of one."""
    x = SBN.example()[1]["x"].double()
    model = SBN(6, latent_dims=DIMS[layers], likelihood="bernoulli").double()
    scatter(model, spread)
    return model, Dataset(x[:1].expand(copies, -1) if copies else x)


@torch.no_grad()
def scatter(part: nn.Module, spread: float) -> None:
    for parameter in part.parameters():
        parameter.normal_(0, spread)


def states(model: SBN, rows: int) -> dict[str, Tensor]:
    """Every joint state of the bits, by site, (C, rows, d)."""
    sizes = {f"z{place + 1}": d for place, d in enumerate(reversed(model.options["latent_dims"]))}
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=sum(sizes.values()))))
    parts = every.split(list(sizes.values()), -1)
    return {n: z.unsqueeze(1).expand(-1, rows, -1) for n, z in zip(sizes, parts, strict=True)}


def log_joint(model: SBN, z: dict[str, Tensor], x: Tensor) -> Tensor:
    """log p(x, z), (C, rows), written out."""
    log_p, above = torch.zeros(()), None
    for name in sorted(z, reverse=True):
        log_p = log_p + model.conditional(name, above).log_prob(z[name])
        above = z[name]
    assert above is not None
    return log_p + dist.Bernoulli(logits=model.decoder(above)).log_prob(x).sum(-1)


def bound(model: SBN, guide: Guide, data: Dataset) -> Tensor:
    """The ELBO of every row by enumeration, (rows,)."""
    z, batch = states(model, len(data)), data.batch()
    log_q = guide.log_prob(batch, z)
    return (log_q.exp() * (log_joint(model, z, batch["x"]) - log_q)).sum(0)


class TestModel:
    @each_depth
    def test_the_contract(self, layers: int) -> None:
        _, data = example(layers)
        check_model(SBN(6, latent_dims=DIMS[layers], likelihood="bernoulli"), data)

    @each_depth
    def test_evidence_by_enumeration_is_that_of_importance_sampling(self, layers: int) -> None:
        model, data = example(layers)
        evidence = log_joint(model, states(model, len(data)), data["x"]).logsumexp(0)
        guide, count = Guide(model, data), 20_000  # every bit near even
        with torch.no_grad():
            ratio = (log_weights(model, guide, data.batch(), count).log_weight - evidence).exp()
        se = ratio.std(0) / count**0.5  # (N,)
        assert (se < 0.05).all()
        assert ((ratio.mean(0) - 1).abs() < 5 * se).all()

    @each_depth
    def test_log_weights_of_every_state(self, layers: int) -> None:
        model, data = example(layers)
        z = states(model, len(data))

        def uniform(batch: Any) -> None:
            with pyro.plate("data", len(batch), dim=-1):
                for name, value in z.items():
                    half = dist.Bernoulli(probs=0.5 * torch.ones(value.shape)).to_event(1)
                    pyro.sample(name, dist.Delta(value, half.log_prob(value), event_dim=1))

        weights = log_weights(model, uniform, data.batch(), len(next(iter(z.values()))))
        bits = sum(model.options["latent_dims"])
        half = bits * torch.tensor(0.5).log()
        torch.testing.assert_close(weights.local[0], log_joint(model, z, data["x"]) - half)

    def test_bits_between_zero_and_one_score_linearly(self) -> None:
        model, _ = example()
        above, z = torch.rand(4, 3), torch.rand(4, 2)
        logits = model.down[0](above)
        expected = (z * logits - nn.functional.softplus(logits)).sum(-1)
        with pyro.validation_enabled(False):
            torch.testing.assert_close(model.conditional("z1", above).log_prob(z), expected)

    def test_the_start_is_at_the_mean_of_the_data(self) -> None:
        _, data = example()
        model = SBN.for_data(data, latent_dims=(4,)).double()
        z = torch.zeros(1, 4)
        torch.testing.assert_close(
            model.decode(z).mean[0], data["x"].mean(0).clamp(0.01, 0.99), atol=0.03, rtol=0
        )

    @pytest.mark.parametrize("dims", [(), (0,), (3, 0)])
    def test_layers_without_bits_are_refused(self, dims: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="bits of every layer"):
            SBN(6, latent_dims=dims, likelihood="bernoulli")

    def test_other_likelihoods_and_deterministic_layers(self) -> None:
        model = SBN(4, latent_dims=(3, 2), hidden=(5,), likelihood="gaussian")
        check_model(model, torch.randn(10, 4))


class TestGuide:
    @each_inference
    @each_depth
    def test_the_contract(self, layers: int, inference: str) -> None:
        check_guide(partial(Guide, inference=inference), *example(layers))

    @pytest.mark.parametrize("estimator", ["score", "vimco", "gumbel", "straight_through", "rebar"])
    @pytest.mark.parametrize("inference", ["amortized", "bottom_up", "per_datapoint"])
    def test_the_contract_by_estimator(self, estimator: str, inference: str) -> None:
        layers = 1 if estimator == "rebar" else 2  # rebar is of one site a row
        check_guide(partial(Guide, estimator=estimator, inference=inference), *example(layers))

    @each_inference
    @each_depth
    def test_q_of_all_states_sums_to_one(self, layers: int, inference: str) -> None:
        model, data = example(layers)
        guide = Guide(model, data, inference=inference)
        scatter(guide, 0.5)
        log_q = guide.log_prob(data.batch(), states(model, len(data)))
        torch.testing.assert_close(log_q.logsumexp(0), torch.zeros(len(data)), atol=1e-10, rtol=0)

    @each_inference
    def test_the_draws_are_those_of_q(self, inference: str) -> None:
        model, data = example()
        guide = Guide(model, data, inference=inference)
        scatter(guide, 0.5)
        z, batch, count = states(model, len(data)), data.batch(), 20_000
        share = guide.log_prob(batch, z).exp().unsqueeze(-1)
        draws = guide.posterior(batch, count)
        for name, value in z.items():
            mean = (share * value).sum(0).clamp(0, 1)  # (N, d), up to rounding
            # Bernstein's inequality, for bits of any probability: 2 e^-20 for each of 100 numbers.
            band = (2 * 20 * mean * (1 - mean) / count).sqrt() + 2 * 20 / (3 * count)
            assert ((draws.mean[name] - mean).abs() < band).all()
        assert draws.probabilities == {}
        log_q = guide.log_prob(batch, draws.samples)
        torch.testing.assert_close(log_q, draws.log_q)

    def test_with_one_layer_bottom_up_is_amortized(self) -> None:
        model, data = example(1)
        shape = {"hidden": (5,), "activation": "tanh"}
        one = Guide(model, data, inference="amortized", inference_options=shape)
        options = {"widths": (5,), "depth": 1, "activation": "tanh"}
        other = Guide(model, data, inference="bottom_up", inference_options=options)
        assert one.source is not None and other.family is not None
        first: Any = other.family.first
        first.load_state_dict(one.source.state_dict())
        z = states(model, len(data))
        for guide in (one, other):
            guide.requires_grad_(False)
        torch.testing.assert_close(one.log_prob(data.batch(), z), other.log_prob(data.batch(), z))

    def test_many_particles_in_one_run(self) -> None:
        model, data = example(3)
        weights = log_weights(model, Guide(model, data), data.batch(), 7)
        assert weights.log_weight.shape == (7, len(data))
        assert weights.log_q_score is not None and weights.log_q_score.shape == (1, 7, len(data))
        z = {name: weights.values[name][:, 0] for name in ("z1", "z2", "z3")}
        assert set(torch.cat(list(z.values()), -1).unique().tolist()) == {0.0, 1.0}

    @each_inference
    def test_save_and_load(self, inference: str, tmp_path: Path) -> None:
        model, data = example()
        guide = Guide(model, data, inference=inference)
        fit(model, guide, data, steps=3, progress=False)
        file = tmp_path / "guide.pt"
        torch.save(guide.state_dict(), file)
        other = Guide(model, data, inference=inference)
        other.load_state_dict(torch.load(file, weights_only=True))
        z = states(model, len(data))
        assert torch.equal(guide.log_prob(data.batch(), z), other.log_prob(data.batch(), z))

    @each_inference
    @pytest.mark.parametrize("baseline", ["mean", "leave_one_out", "network"])
    def test_the_captured_step_is_the_eager_one(self, inference: str, baseline: str) -> None:
        model, data = example()
        options = {"baseline": baseline}
        guide = Guide(
            model, data, inference=inference, estimator="score", estimator_options=options
        )
        check_captured(model, guide, data, "elbo", objective_options={"num_particles": 3})

    @pytest.mark.parametrize(
        ("objective", "estimator"),
        [("iwae", "vimco"), ("iwae", "score"), ("elbo", "gumbel"), ("rws", "score")],
    )
    def test_other_captured_steps(self, objective: str, estimator: str) -> None:
        model, data = example()
        guide = Guide(model, data, estimator=estimator)
        check_captured(model, guide, data, objective, objective_options={"num_particles": 3})

    def test_relaxed_bits_are_no_bound(self) -> None:
        model, data = example()
        for word, told in (("score", ""), ("gumbel", "relaxed bits (gumbel)")):
            guide = Guide(model, data, estimator=word)
            assert guide.no_bound(data) == told
            assert fit(model, guide, data, steps=1, progress=False).no_bound == told

    def test_a_table_of_new_rows_nears_the_best_q(self) -> None:
        """Against a search for κ by the exact ELBO."""
        model, data = example(1)
        guide = Guide(model, data.subset(range(15)), inference="per_datapoint")
        new = data.subset(range(15, 20))
        found = guide.infer(new, steps=1000, num_particles=8)
        best = Guide(model, new, inference="per_datapoint")
        optimizer = torch.optim.Adam(best.source.parameters(), 0.05)  # type: ignore[union-attr]
        best.source.table.sparse = False  # type: ignore[union-attr]
        for _ in range(1500):
            optimizer.zero_grad()
            (-bound(model, best, new).sum()).backward()
            optimizer.step()
        with torch.no_grad():
            gap = bound(model, best, new) - bound(model, found, new)
            start = bound(model, best, new) - bound(
                model, Guide(model, new, inference="per_datapoint"), new
            )
        assert (gap < 0.1 * start + 0.01).all(), (gap, start)

    def test_use_of_bits(self) -> None:
        """KL, active units and mutual information against enumeration."""
        model, data = example()
        guide = Guide(model, data, inference="amortized")
        scatter(guide, 0.3)
        z, batch = states(model, len(data)), data.batch()
        with torch.no_grad():
            log_q, x = guide.log_prob(batch, z), data["x"]
            log_lik = dist.Bernoulli(logits=model.decoder(z["z1"])).log_prob(x).sum(-1)
            log_prior = log_joint(model, z, x) - log_lik
            kl = (log_q.exp() * (log_q - log_prior)).sum(0)
            mixed = log_q.logsumexp(1, keepdim=True) - torch.tensor(len(data)).log()
            information = (log_q.exp() * (log_q - mixed)).sum(0).mean()
            means = (log_q.exp().unsqueeze(-1) * z["z1"]).sum(0)
        found = latent_kl(model, guide, data, num_samples=2000)
        assert abs(found.total.mean - kl.mean()) < 5 * found.total.se + 1e-9
        units = active_units(model, guide, data)
        assert units.names == ("z2[0]", "z2[1]", "z2[2]", "z1[0]", "z1[1]")
        torch.testing.assert_close(units.variance[3:], means.var(0), atol=1e-9, rtol=1e-6)
        told = mutual_information(model, guide, data)
        assert abs(told.information.mean - information) < 5 * told.information.se
        torch.testing.assert_close(encode(model, guide, data)[:, 3:], means)
        at_mean = model.decode(means).mean
        torch.testing.assert_close(reconstruct(model, guide, data), at_mean)


SAMPLES, PARTS = 400_000, 200


@pytest.mark.parametrize(
    ("particles", "baseline"), [(1, "none"), (4, "none"), (4, "leave_one_out")]
)
@each_depth
def test_the_score_gradient_is_that_of_the_enumerated_bound(
    layers: int, particles: int, baseline: str
) -> None:
    """Rows of one x are independent replicates: their mean gradient against the exact one.

    4·10⁵ draws in 200 parts. The standard error of the whole gradient is near 1 % of its length,
    2 % at most, and of 800 entries in all tests each is within 6.5 of its own.
    """
    model, data = example(layers, SAMPLES // (PARTS * particles))
    guide = Guide(model, data, estimator="score", estimator_options={"baseline": baseline})
    scatter(guide, 0.5)
    parameters = [*model.parameters(), *guide.parameters()]
    exact = grad(-bound(model, guide, data.subset([0])).mean(), parameters)
    loss = partial(elbo, model, guide, num_particles=particles)
    draws = torch.stack([grad(loss(data.batch()), parameters) for _ in range(PARTS)])
    mean, se = draws.mean(0), draws.std(0) / PARTS**0.5
    assert se.norm() < 0.02 * exact.norm()
    assert ((mean - exact).abs() < 6.5 * se + 1e-12).all()


@pytest.mark.parametrize("estimator", ["score", "vimco"])
def test_the_gradient_of_two_weighted_draws(estimator: str) -> None:
    """iwae with K = 2 against the sum over all pairs of states; size and errors as above."""
    model, data = example(1, SAMPLES // (PARTS * 2))
    guide = Guide(model, data, estimator=estimator)
    assert guide.family is not None
    scatter(guide.family, 0.5)  # the baseline's network is left as it is
    parameters = [*model.parameters(), *guide.family.first.parameters()]  # type: ignore[union-attr]
    one = data.subset([0])
    log_q = guide.log_prob(one.batch(), z := states(model, 1))
    h = log_joint(model, z, one["x"]) - log_q  # (C, 1)
    both = torch.logaddexp(h, h.T) - torch.tensor(2.0).log()
    exact = grad(-((log_q + log_q.T).exp() * both).sum(), parameters)
    loss = partial(iwae, model, guide, num_particles=2)
    draws = torch.stack([grad(loss(data.batch()), parameters) for _ in range(PARTS)])
    mean, se = draws.mean(0), draws.std(0) / PARTS**0.5
    assert se.norm() < 0.02 * exact.norm()
    assert ((mean - exact).abs() < 6.5 * se + 1e-12).all()


def grad(loss: Tensor, parameters: list[nn.Parameter]) -> Tensor:
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(p) if g is None else g).flatten()
            for g, p in zip(found, parameters, strict=True)
        ]
    )


class OneBit(nn.Module):
    """The exact p(z | x) of a network with a single bit, its log-odds ``off`` by so much."""

    model: SBN

    def __init__(self, model: SBN, off: float) -> None:
        super().__init__()
        self.__dict__["model"], self.off = model, off

    def bit(self, batch: Batch) -> Any:
        states = (self.model.decode(torch.full((1, 1), value)) for value in (1.0, 0.0))
        one, zero = (state.log_prob(batch["x"]).unsqueeze(-1) for state in states)
        logits = self.model.prior().base_dist.logits + one - zero + self.off
        return dist.Bernoulli(logits=logits).to_event(1)

    def forward(self, batch: Batch) -> None:
        with rows(batch, "data"):
            pyro.sample("z1", self.bit(batch))

    def log_prob(self, batch: Batch, latents: Any) -> Tensor:
        return self.bit(batch).log_prob(latents["z1"])


@torch.no_grad()
def test_the_exact_posterior_of_a_bit_is_calibrated_and_another_is_not() -> None:
    """1000 simulations: ties are broken at random, so that ranks of bits are uniform, too."""
    model = SBN(6, latent_dims=(1,), likelihood="bernoulli").double()
    for parameter, size in zip(model.parameters(), (0.0, 1.0, 0.0), strict=True):
        parameter.copy_(size * torch.ones_like(parameter))
    data = example()[1]
    p = {}
    for off in (0.0, 2.0):
        sims = simulate_posteriors(model, OneBit(model, off), data, num_simulations=1000)
        p[off] = sbc(sims).p, vsbc(sims).p
        divergence = jeffreys(sims)
        assert divergence is not None
        assert (abs(divergence.mean) < 1e-9) == (off == 0), divergence.mean
    assert min(p[0.0]) > 1e-7 and max(p[2.0]) < 1e-7, p


def test_what_needs_continuous_latents_is_not_checked() -> None:
    model, data = example()
    small = {"num_draws": 200, "num_simulations": 20, "num_rows": 10, "infer_steps": 5}
    card = diagnose(model, Guide(model, data), data, thorough=True, simulate=True, **small)
    why = {check.name: check.why for check in card.not_checked}
    for name in ("gaps", "short chains", "sandwich", "annealing"):
        assert why[name] == "the latents are binary (z2 and z1); it is of continuous ones"
    assert why["shift"] == why["collapse"] == "the rows have no continuous latents"
    assert {"weights", "simulation", "latents"} <= set(card.rows)
    assert not {"SBC", "Jeffreys", "use", "certified gap"} & set(why)


def test_from_the_command_line(tmp_path: Path) -> None:
    run, device = str(tmp_path / "run"), ["--device", "cpu"]
    words = ["--data", "digits", "--binarization", "dynamic", "--model.latent-dims", "4,3"]
    few = ["--steps", "3", "--eval-rows", "20", "--eval-particles", "20"]
    assert cli.main(["fit", "sbn", *words, *few, "--out", run, *device]) == 0
    few_rows = ["--num-rows", "20"]
    assert cli.main(["evaluate", run, *few_rows, "--num-particles", "20", *device]) == 0
    assert cli.main(["sample", run, "--num-samples", "5", *few_rows, *device]) == 0
    assert cli.main(["reconstruct", run, *few_rows, *device]) == 0
    assert cli.main(["diagnose", run, *few_rows, "--num-draws", "200", *device]) == 0
    told = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert told["kl"]["total"]["mean"] > 0 and len(told["active_units"]["names"]) == 7


class Mixed(Model):
    """Bits beside a continuous latent."""

    def __init__(self, real: bool = True, matrix: bool = False) -> None:
        super().__init__()
        self.real, self.matrix = real, matrix

    def forward(self, n: int) -> Tensor:
        with pyro.plate("data", n, dim=-1):
            shape = (2, 2) if self.matrix else (3,)
            half = dist.Bernoulli(probs=0.5 * torch.ones(shape)).to_event(len(shape))
            b = pyro.sample("b", half).flatten(-len(shape)).sum(-1)
            if self.real:
                b = b + pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = b.unsqueeze(-1) * torch.ones(2)
            return pyro.sample("x", dist.Normal(loc, 1.0).to_event(1))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m, d: Guide(m, d, "full_rank"), "family full_rank is of real ones; use mean_field"),
        (lambda m, d: Guide(m, d, "planar:4"), "family planar:4 is of real ones"),
        (lambda m, d: Guide(m, d, estimator="collapse"), "collapse needs; use the estimator score"),
        (lambda m, d: Guide(m, d, estimator="enumerate"), "enumerate needs; use .* vimco, gumbel"),
        (
            lambda m, d: Guide(m, d, inference="semi_amortized"),
            "semi_amortized is made of; use",
        ),
        (lambda m, d: Guide(m, d, inference="top_down"), "top_down is made of; use bottom_up"),
        (lambda m, d: Guide(m, d, inference="recurrent"), "recurrent is made of"),
        (lambda m, d: Guide(m, d, inference="stacked"), "stacked is made of"),
        (lambda m, d: Guide(m, d).optimal(d), "are bits, without the path-wise gradient"),
        (
            lambda m, d: Guide(m, d, inference="per_datapoint").infer(d, objective="iwae"),
            "fitted by elbo alone",
        ),
        (lambda m, d: Guide(Mixed(), d["x"][:, :2]), r"\['b'\] stand beside \['z'\]"),
        (lambda m, d: Guide(Mixed(False, True), d["x"][:, :2]), "without a finite support"),
    ],
)
def test_what_bits_cannot_do_is_said_in_words(make: Callable[..., Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(*example())


def test_bits_of_a_plain_model_are_found() -> None:
    found = Latents.find(Mixed(False), Dataset(torch.zeros(5, 2)).batch())
    assert found.bits.names == ("b",) and found.vectors.dim == 3 and not found.local.dim
    assert found.names == ("b",) and not found.discrete


def test_the_words_that_are_named_are_those_that_draw_bits() -> None:
    model, data = example(1)
    for word in names("estimators"):
        if word in Drawer.words:
            Guide(model, data, estimator=word)
        else:
            with pytest.raises(ValueError, match=f"which {word} needs"):
                Guide(model, data, estimator=word)
