"""Who takes part in `step_time`, by words; each imports what it needs when it is built."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.step_cases import Case

REFERENCE = "numpyro_scan"
CONTENDERS = {
    "ours_eager": "the zoo, step by step",
    "ours_compiled": "the zoo, many steps in one compiled call",
    "ours_graph": "the zoo, CUDA graphs",
    "pyro": "stock Pyro SVI with its checks, as they are by default",
    "pyro_unchecked": "stock Pyro SVI without checks",
    "torch": "PyTorch, written by hand",
    "torch_compile": "the same under torch.compile",
    "numpyro_update": "NumPyro, a jitted svi.update a step",
    REFERENCE: "NumPyro, lax.scan over the steps of a call",
}


def build(case: Case, contender: str) -> Callable[[], None]:
    """A call that takes the steps of ``case.order`` and comes back when the device has done them.

    Raises:
        ValueError: a contender that is not there.
        ImportError: one whose library is not installed.
    """
    if contender not in CONTENDERS:
        raise ValueError(f"there is no {contender!r}; there are {', '.join(CONTENDERS)}")
    library, _, how = contender.partition("_")
    if library == "numpyro":
        from benchmarks.step_numpyro import rival

        return rival(case, how == "scan")
    if library == "torch":
        from benchmarks.step_torch import by_hand

        return by_hand(case, how == "compile")
    if library == "pyro":
        from benchmarks.step_pyro import stock

        return stock(case, how != "unchecked")
    from benchmarks.step_ours import ours

    return ours(case, how, len(case.order))
