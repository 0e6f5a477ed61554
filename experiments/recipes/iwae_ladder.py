"""The ladder L_1 ≤ L_2 ≤ … → log p(x) of importance-weighted bounds, and the law of its gap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.recipe import Published, Quantity, Recipe, Scale
from guides import Guide
from zoo import load_data
from zoo.context import factory, seeded
from zoo.data import Batch, Dataset
from zoo.fitting import fit
from zoo.models.ppca import PPCA
from zoo.weights import log_weights

LEVELS = (1, 2, 5, 10, 50, 500, 5000)
LAW = (50, 500, 5000)  # where terms of 1/K² and less are below the error
WORK = {"smoke": (400_000, 300), "cpu": (10_000_000, 3000), "gpu": (400_000_000, 10_000)}
SECOND = -1.8973181847  # L_2 of one latent, by quadrature
CHUNK = 200_000  # draws in memory at a time
ANGLE = 0.35  # by which PPCA's loadings are turned, so that a diagonal q falls short


@dataclass(frozen=True)
class Case:
    """A model, q(z_n | x_n) = N(m_n, diag v_n), and rows.

    Attributes:
        mean, variance: (B, d), the m_n and v_n.
        quadrature: K -> L_K, where that is known by quadrature.
    """

    name: str
    model: PPCA
    guide: Callable[[Batch], Any]
    batch: Batch
    mean: Tensor
    variance: Tensor
    quadrature: dict[int, float]

    @torch.no_grad()
    def moment(self, order: int) -> Tensor:
        """(B,): E_q (w/p)^a, w/p = p(z | x)/q(z), in closed form; infinite where it is.

        With P the precision of p(z | x), A that of q, δ the difference of the means and
        M = aP + (1 − a)A: |P|^(a/2) |A|^((1−a)/2) |M|^(−½) exp(½(a−1)² δᵀA M⁻¹ A δ + ½(a−1) δᵀAδ).
        """
        a, p = order, self.model.posterior(self.batch["x"])
        inverse, off = 1 / self.variance, self.mean - p.mean
        precision = torch.linalg.inv(p.covariance_matrix)
        m = a * precision + (1 - a) * torch.diag_embed(inverse)
        push = inverse * off
        solved = torch.linalg.solve(m, push)
        log = a * precision.logdet() + (1 - a) * inverse.log().sum(-1) - torch.linalg.slogdet(m)[1]
        log = log + (a - 1) ** 2 * (push * solved).sum(-1) + (a - 1) * (push * off).sum(-1)
        finite = torch.linalg.eigvalsh(m)[:, 0] > 0
        return torch.where(finite, (0.5 * log).exp(), math.inf)

    @torch.no_grad()
    def kl(self) -> Tensor:
        """(B,): KL(q ‖ p(z | x)), the gap of L_1."""
        q = dist.MultivariateNormal(self.mean, torch.diag_embed(self.variance))
        return torch.distributions.kl_divergence(q, self.model.posterior(self.batch["x"]))

    def law(self, k: int) -> float:
        """``expansion`` of w/p, a mean over rows."""
        second, third = self.moment(2), self.moment(3)
        return float(expansion(second - 1, third - 3 * second + 2, k).mean())


def expansion(variance: Tensor, skew: Tensor, k: int) -> Tensor:
    """−K·E log of the mean of K weights of mean 1, to terms in 1/K: v/2 + (3v²/4 − μ₃/3)/K.

    v and μ₃ are the second and third central moments of a weight.
    """
    return variance / 2 + (0.75 * variance.square() - skew / 3) / k


def iwae_ladder(scale: Scale = "cpu", seed: int = 0) -> Recipe:
    """L_1 ≤ L_2 ≤ … → log p(x) on one latent and on PPCA of wine, with the gap's law Var(w)/(2Kp²).

    L_K = E log (1/K) Σ_k w_k. The gap is the mean of r − 1 − log r, r = ŵ_K/p(x), whose mean is
    log p − L_K since E r = 1, and whose error is of the gap's own size.
    """
    budget, steps = WORK[scale]
    rows: list[dict[str, Any]] = []
    quantities: list[Quantity] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    with factory(torch.device("cpu"), torch.float64), seeded(seed), torch.no_grad():
        cases = [one_latent(), wine(steps, seed)]
        for case in cases:
            evidence = case.model.log_evidence(case.batch["x"])
            level = float(evidence.mean())
            known = {1: level - float(case.kl().mean()), **case.quadrature}
            lines[case.name] = []
            for k in LEVELS:
                bound, gap = _ladder(case, evidence, k, budget)
                lines[case.name].append(gap)
                scaled = (k * gap[0], k * gap[1])
                law = case.law(k)
                rows.append(
                    {"model": case.name, "K": k, "L_K": bound, "log p(x)": level}
                    | {"10³ gap": (1e3 * gap[0], 1e3 * gap[1]), "K · gap": scaled}
                    | {"law of the gap": law if k in LAW else None}
                )
                if k in known:
                    how = "log p(x) − KL(q ‖ p(z | x))" if k == 1 else "quadrature"
                    exact = Published(known[k], "exact", how, rounding=5e-11)
                    quantities.append(Quantity(f"{case.name}: L_{k}", bound, exact))
                if k in LAW:
                    form = "Var(w)/2p² + (¾ Var(w)²/p⁴ − μ₃(w)/3p³)/K, closed form"
                    name = f"{case.name}: K·(log p − L_K), K = {k}"
                    quantities.append(Quantity(name, scaled, Published(law, "exact", form)))
    return Recipe(
        "The ladder of importance-weighted bounds, nats per datapoint",
        rows,
        _figure(cases, lines),
        {"draws_for_each_K": budget, "steps": steps, "angle": ANGLE, "levels": list(LEVELS)},
        [
            "One latent: z ~ N(0, 1), x | z ~ N(z, 1), x = 1.5, q = N(1.1, 0.9²). Wine: PPCA of "
            "maximum likelihood, loadings turned, and a diagonal q fitted to each row.",
            "± is the Monte-Carlo error, of the draws alone.",
        ],
        quantities,
    )


def one_latent(rows: int = 100) -> Case:
    """z ~ N(0, 1), x | z ~ N(z, 1): PPCA of one dimension; the row x = 1.5 many times."""
    model = PPCA(1, 1)
    model.weight.fill_(1.0)

    def guide(batch: Batch) -> None:
        with pyro.plate("data", len(batch), dim=-1):
            pyro.sample("z", dist.Normal(torch.full((1,), 1.1), 0.9).to_event(1))

    batch = Dataset({"x": torch.full((rows, 1), 1.5)}, name="x = 1.5").batch()
    mean = torch.full((rows, 1), 1.1)
    return Case("one latent", model, guide, batch, mean, torch.full_like(mean, 0.81), {2: SECOND})


def wine(steps: int, seed: int) -> Case:
    """PPCA of wine, frozen at the maximum, and q fitted to the rows by the ELBO."""
    data = load_data("wine").train
    model = PPCA.for_data(data, latent_dim=2, init="ml")
    c, s = math.cos(ANGLE), math.sin(ANGLE)
    model.weight.copy_(model.weight @ torch.tensor([[c, -s], [s, c]]))
    guide = Guide(model, data, "mean_field", "per_datapoint")
    with torch.enable_grad():
        options = {"num_particles": 10}
        fit(
            model,
            guide,
            data,
            freeze="model",
            steps=steps,
            lr=0.03,
            schedule="exponential",
            objective_options=options,
            seed=seed,
            progress=False,
        )
    batch = data.batch()
    q = guide.distribution(batch)
    return Case("PPCA, wine", model, guide, batch, q.mean, q.variance, {})


def _ladder(
    case: Case, evidence: Tensor, k: int, budget: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(L_K, error) and (log p − L_K, error), of so many draws in all."""
    passes = max(2, budget // (k * len(case.batch)))
    many = max(1, min(passes, CHUNK // (k * len(case.batch))))
    found: list[Tensor] = []
    for start in range(0, passes, many):
        count = min(many, passes - start)
        log_w = log_weights(case.model, case.guide, case.batch, k * count).log_weight
        found.append(log_w.reshape(count, k, -1).logsumexp(1) - math.log(k))
    bounds = torch.cat(found)  # (passes, B)
    ratio = bounds - evidence
    return _mean(bounds), _mean(ratio.expm1() - ratio)


def _mean(sample: Tensor) -> tuple[float, float]:
    """Of a sample (R, B) of independent rows: the mean, and its error over the R draws of each."""
    return float(sample.mean()), float(sample.var(0).mean().div(sample.numel()).sqrt())


def _figure(cases: list[Case], lines: dict[str, list[tuple[float, float]]]) -> Figure:
    """The gap against K, and the line v/(2K) that it comes to."""
    figure = Figure(figsize=(6.4, 4.4), dpi=120)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    for case, colour in zip(cases, ("#0072B2", "#D55E00"), strict=True):
        gaps, errors = zip(*lines[case.name], strict=True)
        axes.errorbar(LEVELS, gaps, errors, fmt="o", color=colour, markersize=4, label=case.name)
        half = float((case.moment(2) - 1).mean()) / 2
        axes.plot(LEVELS, [half / k for k in LEVELS], color=colour, linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="draws K", ylabel="log p(x) − L_K, nats")
    axes.set_title("lines: Var(w)/(2 K p²)", fontsize=9)
    axes.legend(fontsize=8)
    return figure
