"""The command line, ``zoo``: each command imports what it needs, ``zoo list`` no torch."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence

import zoo
from zoo import launch, registry

OVERVIEW = """usage: zoo COMMAND [options]

Latent-variable models, guides and objectives, each chosen by one word.

commands:
  zoo list [KIND] [--json]
                        the words there are, with a line on each: models, families, inference,
                        estimators, objectives, likelihoods, priors, recipes, data
  zoo fit MODEL         fit a model and a guide to data, judge them, keep the run
  zoo compare MODEL     several guides or objectives for one model, on the same data and draws
  zoo select MODEL      the latent dimension or number of components, by held-out likelihood
  zoo evaluate RUN      test likelihood by importance sampling, and what the latents are used for
  zoo diagnose RUN      the report card: how far the posterior can be trusted, and why not
  zoo gradients RUN     bias, variance and signal of gradients, by estimator and particles
  zoo sample RUN        draws from a fitted model beside its data: a file and a picture
  zoo reconstruct RUN   rows beside what the model makes of their latents, with the error
  zoo interpolate RUN   the way from one row to another through the latent space
  zoo manifold RUN      what the model makes of a grid of points in the latent space
  zoo analogies RUN     rows made again in every class, in their own style
  zoo styles RUN        every class on a grid of styles
  zoo impute RUN        hidden entries filled in, against what they were
  zoo encode RUN        features of rows, E[z | x], to a file
  zoo classify RUN      a classifier on the features and few labels: its error, beside that on x
  zoo reproduce NAME    figures of the lectures or of papers, made again beside the published
                        values; --list, --all
  zoo bench             milliseconds a training step, beside Pyro, PyTorch and NumPyro

options:
  --help, -h            this; `zoo COMMAND --help` says more, and `zoo fit ppca --help` shows
                        the options of ppca itself
  --version             the version

examples:
  zoo list families
  zoo fit ppca --data wine --family full_rank --out runs/wine
  zoo compare ppca --data digits --family exact,mean_field --inference per_datapoint,amortized \\
      --out runs/compared
  zoo select gmm --data iris --sweep model.num_components=1,2,3,4
  zoo evaluate runs/wine
  zoo diagnose runs/wine --simulate
  zoo sample runs/wine

Data files are looked for in the working directory and in the folder that ZOO_DATA names.
ZOO_DEBUG=1 shows where an error comes from."""

LIST_HELP = """usage: zoo list [KIND] [--json]

The words that the other commands take, with a line on each; of one kind, or of all: models,
families, inference, estimators, objectives, likelihoods, priors, recipes, data.

options:
  --json                kind -> word -> line, as JSON

examples:
  zoo list
  zoo list models
  zoo list data --json"""

COMMANDS = ("list", "fit", "compare", "select", "evaluate", "sample", "reconstruct")
COMMANDS += ("interpolate", "manifold", "analogies", "styles", "impute", "encode", "classify")
COMMANDS += ("reproduce", "diagnose", "gradients", "bench")

EXAMPLES = {
    "compare": """examples:
  zoo compare ppca --data digits --family exact,mean_field,full_rank \\
      --inference per_datapoint,amortized --out runs/compared
  zoo compare ppca --data wine --on joint --family mean_field,full_rank --objective elbo,iwae \\
      --seeds 3 --jobs auto --out runs/joint""",
    "select": """examples:
  zoo select ppca --data wine --sweep model.latent_dim=1,2,5,10 --out runs/dimension
  zoo select gmm --data iris --sweep model.num_components=1,2,3,4,5 --objective em""",
    "evaluate": """examples:
  zoo evaluate runs/wine
  zoo evaluate runs/digits --num-particles 1000 --num-rows 100 --out tables""",
    "diagnose": """examples:
  zoo diagnose runs/wine
  zoo diagnose runs/wine --simulate --thorough
  zoo diagnose runs/vae --num-rows 1000 --out cards/vae
  zoo diagnose runs/schools --reference draws.json.zip""",
    "gradients": """examples:
  zoo gradients runs/digits --out runs/gradients
  zoo gradients vae --data digits --estimators pathwise,dreg --num-particles 1,10,100,1000
  zoo gradients m2 --data digits --objective elbo --estimators enumerate,score,gumbel""",
    "sample": """examples:
  zoo sample runs/wine
  zoo sample runs/digits --num-samples 100 --out pictures""",
    "reconstruct": """examples:
  zoo reconstruct runs/digits
  zoo reconstruct runs/digits --num-rows 100 --num-draws 50 --out pictures""",
    "interpolate": """examples:
  zoo interpolate runs/digits
  zoo interpolate runs/digits --num-pairs 3 --steps 8 --spherical --out pictures""",
    "manifold": """examples:
  zoo manifold runs/digits
  zoo manifold runs/digits --dims 0,3 --size 15 --quantiles 0.01,0.99""",
    "analogies": """examples:
  zoo analogies runs/m2
  zoo analogies runs/m2 --num-rows 20 --seed 1 --out pictures""",
    "styles": """examples:
  zoo styles runs/m2
  zoo styles runs/m2 --classes 2,4 --dims 0,1 --size 20 --quantiles 0.01,0.99""",
    "impute": """examples:
  zoo impute runs/digits --region bottom
  zoo impute runs/wine --fraction 0.3 --method importance --num-particles 5000""",
    "encode": """examples:
  zoo encode runs/digits
  zoo encode runs/digits --rows train --out features""",
    "classify": """examples:
  zoo classify runs/digits
  zoo classify runs/digits --classifier tsvm --labels 100 --seeds 5
  zoo classify runs/digits --classifier knn --labels all --out classified""",
    "reproduce": """examples:
  zoo reproduce --list
  zoo reproduce gradient-estimators
  zoo reproduce energies --out runs/energies
  zoo reproduce kl-directions iwae-ladder --scale cpu --keep
  zoo reproduce --all --scale smoke""",
    "bench": """examples:
  zoo bench --json steps.json
  zoo bench --cases ppca,planar --contenders ours_compiled,numpyro_scan --memory false""",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    0; 1 where some of several runs failed; 2 for an error of use; 130 for Ctrl-C.

    Example:
        >>> main(["list", "inference"])
        inference
          amortized       ...
        0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if launch.rank() == 0:
        return _run(arguments)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return _run(arguments)  # the first process of torchrun speaks for all


def _run(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        print("zoo: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `zoo list | head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if not os.environ.get("ZOO_DEBUG") and _out_of_memory(error):
            print(
                "zoo: there is not enough memory for this; try a smaller model, --batch-size or "
                "--eval-particles",
                file=sys.stderr,
            )
            return 2
        if os.environ.get("ZOO_DEBUG") or not _is_of_use(error):
            raise
        if launch.rank() == 0:
            print(f"zoo: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(OVERVIEW)
        return 0
    name, *rest = arguments
    if name == "--version":
        print(zoo.__version__)
        return 0
    if name not in COMMANDS:
        raise registry.unknown("command", name, COMMANDS)
    if name != "fit" and launch.world_size() > 1:
        raise ValueError(f"torchrun is for zoo fit alone; run zoo {name} in one process")
    if name == "list":
        return list_words(rest)
    from experiments.shell import commands as _commands

    if name == "fit":
        return _commands.fit(rest)
    return _commands.command(name, f"experiments.{name}", EXAMPLES[name], rest)


def list_words(arguments: Sequence[str]) -> int:
    """``zoo list``."""
    if "-h" in arguments or "--help" in arguments:
        print(LIST_HELP)
        return 0
    kinds = [word for word in arguments if word != "--json"]
    if options := [word for word in kinds if word.startswith("-")]:
        raise ValueError(f"there is no option {options[0]}; zoo list takes --json")
    found = {kind: registry.names(kind) for kind in kinds or registry.KINDS}
    if "--json" in arguments:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    width = max(len(word) for words in found.values() for word in words) + 2
    columns = max(60, shutil.get_terminal_size().columns)
    for kind, words in found.items():
        print(kind)
        for word, line in words.items():
            text = f"  {word:<{width}}{line}"
            print(textwrap.fill(text, columns, subsequent_indent=" " * (width + 2)))
    return 0


def _is_of_use(error: Exception) -> bool:
    """Whether an error tells the user something, so that its place in the code does not matter."""
    if isinstance(error, ValueError | OSError):
        return True
    loop = sys.modules.get("zoo.loop")
    return loop is not None and isinstance(error, loop.NonFiniteLossError)


def _out_of_memory(error: Exception) -> bool:
    """Whether torch or Python could not get the memory that it asked for."""
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in text or "out of memory" in text)
    )


if __name__ == "__main__":
    sys.exit(main())
