"""Is q on average too high or too low? Signed ranks of where the truth lies among draws of q."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import wilcoxon
from torch import Tensor

from zoo.diagnostics.pit import unit_pits
from zoo.diagnostics.simulations import Simulations


@dataclass(frozen=True)
class Vsbc:
    """Whether P_q(z < z*) − ½ is symmetric about 0, by unit.

    Attributes:
        names: of the U units.
        shift: (U,), the mean of P_q(z < z*) − ½ over simulations, between −½ and ½; positive where
            the draws of q are too low.
        error: (U,), its standard error.
        p_values: (U,), of the signed-rank test.
        count: n.
        draws: S.
    """

    names: tuple[str, ...]
    shift: Tensor
    error: Tensor
    p_values: Tensor
    count: int
    draws: int

    @property
    def p(self) -> float:
        """Of all units together: min(1, U min p)."""
        return min(1.0, len(self.names) * self.p_values.min().item())

    @property
    def worst(self) -> str:
        """The unit with the smallest p value; of equal ones that with the largest shift."""
        pairs = zip(self.p_values.tolist(), (-self.shift.abs()).tolist(), self.names, strict=True)
        return min(pairs)[2]

    def direction(self, name: str) -> str:
        """In words, where the test of all units together rejects at 5 %; else empty.

        Raises:
            ValueError: no unit of that name.
        """
        if name not in self.names:
            raise ValueError(f"no unit is called {name!r}; there are {list(self.names)}")
        place = self.names.index(name)
        if len(self.names) * self.p_values[place].item() >= 0.05:
            return ""
        return f"q biased {'downward' if self.shift[place] > 0 else 'upward'}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        columns = (self.shift.tolist(), self.error.tolist(), self.p_values.tolist())
        return {
            "worst": self.worst,
            "direction": self.direction(self.worst),
            "p": self.p,
            "units": {
                name: {"shift": shift, "error": error, "p": p}
                for name, shift, error, p in zip(self.names, *columns, strict=True)
            },
            "simulations": self.count,
            "draws": self.draws,
        }


def vsbc(simulations: Simulations) -> Vsbc:
    """p_n = P_q(z < z*_n) is symmetric about ½ where q is, on average over data, unbiased.

    Formula: p_n by the randomised rank of the truth among draws; Wilcoxon's signed-rank test on
    p_n − ½. A mean-field q is too narrow even at its best: ``sbc`` then rejects, and this asks only
    whether its location can be trusted.

    What it cannot see: spread and shape, dependences, and biases that cancel over data, up for one
    x and down for another: any q that is right on average over x, and any that treats z and −z
    alike.

    Args:
        simulations: from ``simulate_posteriors``.

    Reference: Yao, Vehtari, Simpson and Gelman, "Yes, but did it work? Evaluating variational
    inference", 2018.

    Example:
        >>> from guides.guide import Guide
        >>> from zoo.diagnostics.simulation import simulate_posteriors
        >>> from zoo.models.ppca import PPCA
        >>> model, data = PPCA.example()
        >>> vsbc(simulate_posteriors(model, Guide(model, data, "exact"), data)).p > 1e-4
        True
    """
    s = simulations
    away = unit_pits(s) - 0.5  # (n, U)
    _, p = wilcoxon(away.cpu().numpy(), axis=0)
    p = torch.as_tensor(p, dtype=torch.float64, device=away.device)
    return Vsbc(s.names, away.mean(0), away.std(0) / s.count**0.5, p, s.count, s.num_draws)
