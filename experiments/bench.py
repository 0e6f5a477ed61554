"""How long a training step takes, beside what one would pick instead."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from experiments.show.tables import terminal
from zoo import store


def bench(
    *,
    cases: str | None = None,
    contenders: str | None = None,
    rounds: int = 11,
    steps: int | None = None,
    memory: bool = True,
    device: Literal["cpu", "cuda"] = "cpu",
    json: str | None = None,
) -> Sequence[dict[str, Any]]:
    """Milliseconds a training step of the zoo, stock Pyro, hand-written PyTorch and NumPyro.

    All take the same steps on one thread, in turns within one run; ratios are to NumPyro's
    lax.scan, within a round. Everything takes some ten minutes, compilation included.

    Args:
        cases: some of small_vae,ppca,gmm,planar,table,vae_200_50,vae_400_20,iwae.
        contenders: some of ours_eager,ours_compiled,ours_graph,pyro,pyro_unchecked,torch,
            torch_compile,numpyro_update,numpyro_scan.
        rounds: turns of each contender.
        steps: of each turn; by default 100, and 25 where a step is long.
        memory: whether the peak memory of each is measured, in a process of its own.
        device: cpu or cuda.
        json: a file for the figures.

    Returns:
        a row for each case and contender, as in the file.

    Raises:
        ValueError: words that are not there; a file that cannot be written; no folder benchmarks/,
            which is in the source tree alone, or no NumPyro.
    """
    place = None if json is None else Path(json)
    if place is not None and (place.is_dir() or not place.parent.is_dir()):
        raise ValueError(f"the figures cannot be written to {place}; give a file in a folder")
    named = [
        (word or "").replace("-", "_").split(",") if word else [] for word in (cases, contenders)
    ]
    rows = _measure(named[1])(
        *named,
        rounds=rounds,
        steps=steps,
        memory=memory,
        device=device,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    import_module("benchmarks.step_table").show(rows, terminal())
    if place is not None:
        store.write_json(place, rows)
    return rows


def _measure(contenders: Sequence[str]) -> Any:
    """The function that measures, which is not a part of the installed package."""
    try:
        found = import_module("benchmarks.step_time")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("benchmarks"):
            raise
        raise ValueError(
            "the rivals are in the folder benchmarks/ of the source tree, which an installed "
            "package lacks; in a checkout: pip install -e '.[bench]', then zoo bench"
        ) from None
    rivals = [word for word in contenders or ["numpyro_scan"] if word.startswith("numpyro")]
    if rivals and find_spec("numpyro") is None:
        raise ValueError(
            "NumPyro is not installed: pip install 'latent-zoo[bench]', in a checkout "
            "pip install -e '.[bench]'; or leave it out, and the ratios with it: "
            "--contenders ours_eager,pyro,torch"
        )
    return found.measure
