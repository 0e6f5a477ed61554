"""How far many chains have moved, on average and in width, from where they started."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import chi2, norm
from scipy.stats import t as student
from torch import Tensor

Z = 1.959963984540054  # of a 95 % interval


@dataclass(frozen=True)
class Drift:
    """From draws z_0 of q to the ends z_T of chains, by unit, over N rows (1 for global latents).

    Figures are in standard deviations of the ends, which stand for those of p. Errors are over
    independent chains.

    Attributes:
        names: of the U units.
        shift: (U,), mean_n (E z_T − E z_0)/sd(z_T).
        shift_error: (U,).
        rms_shift: (U,), √max(0, U-statistic of mean_n shift_n²): of all pairs of different chains,
            so that noise adds nothing.
        rms_shift_lower, rms_shift_upper: (U,), the ends of a 95 % interval of it, not below 0.
        log_sd_ratio: (U,), mean_n log sd(z_0)/sd(z_T): below 0 where q is too narrow.
        log_sd_ratio_error: (U,).
        rms_log_sd_ratio: (U,), as ``rms_shift``.
        rms_log_sd_ratio_lower, rms_log_sd_ratio_upper: (U,).
        p_values: (U,), of both being 0 in every row, by Bonferroni over the two.
        jump: (U,), mean_n E (z_T − z_0)²/(2 Var z_0): 1 for ends that are independent draws of q, 0
            for chains that have not moved.
        num_rows: N.
    """

    names: tuple[str, ...]
    shift: Tensor
    shift_error: Tensor
    rms_shift: Tensor
    rms_shift_lower: Tensor
    rms_shift_upper: Tensor
    log_sd_ratio: Tensor
    log_sd_ratio_error: Tensor
    rms_log_sd_ratio: Tensor
    rms_log_sd_ratio_lower: Tensor
    rms_log_sd_ratio_upper: Tensor
    p_values: Tensor
    jump: Tensor
    num_rows: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        figures = {name: value.tolist() for name, value in vars(self).items() if name in FIGURES}
        return {"names": list(self.names), "num_rows": self.num_rows, **figures}


FIGURES = (
    *("shift", "shift_error", "rms_shift", "rms_shift_lower", "rms_shift_upper", "log_sd_ratio"),
    *("log_sd_ratio_error", "rms_log_sd_ratio", "rms_log_sd_ratio_lower"),
    *("rms_log_sd_ratio_upper", "p_values", "jump"),
)


class Drifts:
    """Sums over rows that come piece by piece.

    The change of log sd is taken apart into one pseudo-value for each chain, its mean plus
    (z_0 − E z_0)²/(2 Var z_0) − (z_T − E z_T)²/(2 Var z_T), and treated as the shift is. What is
    tested of the width is (z_0 − c)² − (z_T − c)², c the mean of both: if q = p, start and end of
    a reversible chain can be exchanged, so that its law is symmetric and a t-test of it exact to a
    higher order than one of the logarithm.

    Args:
        num_chains: K.
        independent: whether the chains of one row know nothing of those of others.
    """

    def __init__(self, num_chains: int, independent: bool = False):
        self.num_chains, self.independent = num_chains, independent
        self.rows = 0
        self.kinds = (_Squares(num_chains), _Squares(num_chains))
        self.jumps: Tensor | float = 0.0

    def add(self, start: Tensor, end: Tensor) -> None:
        """Both (K, B, U), in float64."""
        before, after = start.var(0), end.var(0)
        still = (before == 0) | (after == 0)
        before, after = torch.where(still, 1.0, before), torch.where(still, 1.0, after)
        moved = end - start
        narrowed = (start - start.mean(0)).square() / before
        narrowed = (narrowed - (end - end.mean(0)).square() / after) / 2
        ratio = (before / after).log() / 2 + narrowed - narrowed.mean(0)
        middle, scale = (start.mean(0) + end.mean(0)) / 2, before + after
        flipped = ((start - middle).square() - (end - middle).square()) / scale
        self.kinds[0].add(shift := moved / after.sqrt(), shift)
        self.kinds[1].add(ratio, flipped)
        self.jumps = self.jumps + (moved.square().mean(0) / (2 * before)).sum(0)
        self.rows += start.shape[1]

    def result(self, names: tuple[str, ...]) -> Drift:
        """Over all rows."""
        shift, ratio = self.kinds
        p = torch.minimum(shift.p_values(self.independent), ratio.p_values(self.independent))
        a, b = shift.result(self.rows), ratio.result(self.rows)
        jump = torch.as_tensor(self.jumps) / self.rows
        p = (2 * p).clamp_max(1.0).to(jump.device)
        return Drift(names, *a, *b, p_values=p, jump=jump, num_rows=self.rows)


class _Squares:
    """Of d_kn, K chains and N rows: the mean over both, and mean_n (E d_n)² by the U-statistic

    U = mean_n [(Σ_k d_k)² − Σ_k d_k²] / (K (K − 1)), with the error of the jackknife over chains,
    which needs no rows to be independent.
    """

    def __init__(self, num_chains: int):
        self.count = num_chains
        self.sums: list[Tensor] = []  # (K, U) each
        self.left_out: list[Tensor] = []  # (K, U)
        self.whole: list[Tensor] = []  # (U,)
        self.t: list[Tensor] = []  # (B, U)

    def add(self, d: Tensor, tested: Tensor) -> None:
        """(K, B, U) each; the second is what must have the mean 0, if q = p."""
        count, total, square = self.count, d.sum(0), d.square()
        squares = square.sum(0)
        others = ((total - d).square() - (squares - square)) / ((count - 1) * (count - 2))
        self.sums.append(d.sum(1))
        self.left_out.append(others.sum(1))
        self.whole.append(((total.square() - squares) / (count * (count - 1))).sum(0))
        error = tested.std(0) / math.sqrt(count)
        self.t.append(tested.mean(0) / error.clamp_min(1e-300))

    def result(self, rows: int) -> tuple[Tensor, ...]:
        """Mean, its error, root mean square, and both ends of its interval."""
        root = math.sqrt(self.count)
        by_chain = torch.stack(self.sums).sum(0) / rows
        mean, error = by_chain.mean(0), by_chain.std(0) / root
        whole = torch.stack(self.whole).sum(0) / rows
        left_out = torch.stack(self.left_out).sum(0) / rows
        spread = left_out.std(0) * (self.count - 1) / root
        lower = (whole - Z * spread).clamp_min(0).sqrt()
        upper = (whole.clamp_min(0) + Z * spread).sqrt()
        if rows == 1:
            lower, upper = (mean.abs() - Z * error).clamp_min(0), mean.abs() + Z * error
        return mean, error, whole.clamp_min(0).sqrt(), lower, upper

    def p_values(self, independent: bool) -> Tensor:
        """(U,): of E d_n = 0 in all rows; by Σ z² where they are independent, else Bonferroni."""
        t = torch.cat(self.t).cpu().numpy()
        p = 2 * student.sf(abs(t), self.count - 1)  # (N, U)
        if independent:
            return torch.from_numpy(chi2.sf((norm.isf(p / 2) ** 2).sum(0), len(p)))
        return torch.from_numpy((len(p) * p.min(0)).clip(max=1.0))
