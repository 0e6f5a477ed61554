"""What is measured of speed, for the section "Measured" of the README."""

from __future__ import annotations

from benchmarks.report import RESULTS
from benchmarks.table_cards import read


def there(name: str) -> bool:
    """Whether this was measured."""
    return (RESULTS / f"{name}.json").exists()


def speed() -> list[str]:
    """Steps of a table and start-up."""
    tables, words = read("tables"), read("startup")
    small, large = tables["milliseconds_a_step"].values()
    low, high = tables["memory_mb_of_data_table_and_moments"].values()
    return [
        f"A step of a full-rank table, batch {tables['batch']} (`tables`): {small:.1f} ms at "
        f"N = 10⁴ and {large:.1f} ms at N = 10⁶; data, table and moments take {low:.0f} and "
        f"{high:.0f} MB. `zoo list` answers in {words['zoo list']['median']:.2f} s, "
        f"`zoo --help` in {words['zoo --help']['median']:.2f} s (`startup`). "
        f"All on {tables['device']}, {tables['machine']}.",
    ]


def end_to_end() -> list[str]:
    """Seconds to a held-out bound."""
    if not there("end_to_end"):
        return []
    found = read("end_to_end")
    thresholds = list(next(iter(found["runs"].values()))["reached"])
    heads = ["to " + threshold.replace("-", "−") for threshold in thresholds]
    lines = [
        "Seconds from the command to a held-out ELBO (`end_to_end`): the VAE of Pyro's example "
        f"(784 – 400 – 50, softplus, Adam, lr {found['lr']}, batch {found['batch']}) on "
        f"{found['rows']} rows of static MNIST. At the end of every pass one function, the same "
        f"for all, takes the ELBO of {found['held_out']['rows']} test rows, its time left out; "
        "start, compilation and reading of the data are counted, and shown apart: until training "
        "begins, and what the first pass takes more than one of the others. "
        f"Threads: {found['threads']}.",
        "",
        f"| | {' | '.join(heads)} | start | first pass, more | a pass |",
        "|---" * (len(thresholds) + 4) + "|",
    ]
    for name, run in found["runs"].items():
        times = [run["reached"][t] for t in thresholds]
        cells = ["–" if t is None else f"{t['seconds']:.1f}" for t in times]
        parts = (run[key] for key in ("start", "first_pass_more", "a_pass"))
        cells += [f"{part:.1f}" for part in parts]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines


def evaluation_time() -> list[str]:
    """IWAE 5000 beside a loop over images."""
    if not there("evaluation_time"):
        return []
    found = read("evaluation_time")
    lines = [
        f"IWAE {found['draws']} of {found['rows']} MNIST test rows, VAE 784 – 400 – 50, beside a "
        "loop over images in plain PyTorch (`evaluation_time`): a row in ms without imports, "
        "compilation in the first call alone; memory that the evaluation adds to the process; "
        f"the bound less that of the loop, in nats. Threads: {found['threads']}.",
        "",
        "| | ms a row | in the first call | loop / this | MB | bound | less the loop's |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, run in found["runs"].items():
        less = run["minus_the_loop"]
        apart = "" if less is None else f"{less['mean']:+.3f} ± {less['se']:.3f}"
        first, ratio = run["milliseconds_a_row_at_first"], run["loop_over_this"]
        memory, bound = run["peak_mb"] - run["mb_before"], run["bound"]
        lines.append(
            f"| `{name}` | {run['milliseconds_a_row']:.0f} | {first:.0f} | {ratio:.2f} "
            f"| {memory} | {bound['mean']:.2f} ± {bound['se']:.2f} | {apart} |"
        )
    return lines


def scaling() -> list[str]:
    """Cost against size."""
    if not there("scaling"):
        return []
    found = read("scaling")
    lines = [
        "A training step of a VAE as one size grows (`scaling`): ms at the smallest and at the "
        "largest, and the slope of log ms on log size over the upper half of the range (0: the "
        f"cost does not grow; 1: in proportion). Threads: {found['threads']}.",
        "",
        "| what grows | from, to | eager: ms | slope | compiled: ms | slope |",
        "|---|---|---|---|---|---|",
    ]
    for sweep in found["sweeps"].values():
        cells = []
        for way in ("eager", "compiled"):
            times = sweep[way]["milliseconds"]
            slope = round(sweep[way]["slope"], 2) + 0.0
            cells += [f"{times[0]:.2f}, {times[-1]:.2f}", f"{slope:.2f}"]
        points = sweep["eager"]["points"]
        title = f"| {sweep['title']} | {points[0]}, {points[-1]} "
        lines.append(title + f"| {' | '.join(cells)} |")
    return [*lines, "", "![Cost of a step against size](docs/scaling.png)"]
