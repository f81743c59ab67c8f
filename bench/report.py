"""Writes docs/benchmarks.md and its plot from the figures of a run.

python -m bench.report build/bench/results.json docs
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.plot import plot
from bench.results import Report, Result, Series, Target

HEAD = """\
# Benchmarks

Figures of taskd beside its peers, all measured in one run on one machine by `make bench`. Every contestant is
started as its users would start it, in an environment of its own, and is given the same tasks. They run in
turn, round after round, and every reply is checked. A figure is the median of the rounds, and the lowest and
the highest stand beside it.

Compare a contestant with its peers in the same table. Absolute figures are those of this machine, whose
processors the load generator, the server and whatever else runs there share. What misses its target
is shown as missed.
"""

TAIL = """\
## Measuring it yourself

`make bench` needs a C compiler, for the load generator alone; Redis, RabbitMQ and PostgreSQL, which it
installs from Debian where it may; and, for Workerman, `php` and the variables `WORKERMAN_DIR` and
`WORKERMAN_COROUTINE_DIR` with checkouts of walkor/workerman and workerman-php/coroutine. What is not there is
left out, and the page reports it.

`make bench ARGS=--quick` takes some five minutes, and `ARGS='--only pipelined'` runs one scenario; both
leave this page alone and write one into `build/bench`. `make profile` records where the dispatcher's time
goes, as a flame graph in `profile.svg`; `SCENARIO=` names another load than `pipelined`.
"""

DECIMALS = {"per second": 0, "bytes": 0, "MiB": 1}
"""Of these units; others get three significant digits."""

SHORT = {"per second": "/s", "s": " s", "ms": " ms", "ms, 99 %": " ms", "µs, median": " µs", "MiB": " MiB"}
"""How a unit is written behind its figure; others are left out where the table's head has them."""


def write(report: Report, directory: Path) -> None:
    """Write benchmarks.md and benchmarks.svg there."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "benchmarks.svg").write_text(plot(report))
    (directory / "benchmarks.md").write_text(page(report))


def page(report: Report) -> str:
    """The whole page."""
    about = [f"| {name} | {value} |" for name, value in report.about.items()]
    parts = [
        HEAD,
        "\n".join(["| | |", "|---|---|", *about, ""]),
        "![Tasks per second of taskd and its peers](benchmarks.svg)\n",
        "## Targets\n",
        targets(report),
        *(scenario(result) for result in report.results),
        TAIL,
    ]
    return "\n".join(parts)


def targets(report: Report) -> str:
    """One table of everything that was promised."""
    rows = [
        f"| {result.title} | {target.text} | {promise(target)} | {measured(target)} | {verdict(target)} |"
        for result in report.results
        for target in result.targets
    ]
    return "\n".join(["| scenario | target | | measured | |", "|---|---|---|---|---|", *rows, ""])


def scenario(result: Result) -> str:
    """A scenario's own table, and what there is to say about it."""
    rows = [
        f"| {series.name} | {series.setting} | {figure(series.median, series.unit)} | {spread(series)} |"
        for series in result.series
    ]
    unit = result.series[0].unit if result.series else ""
    lines = [
        f"## {result.title}\n",
        f"{result.text}\n",
        f"| | options | {unit} | lowest to highest |",
        "|---|---|---|---|",
        *rows,
        "",
        *(f"- {sentence(target)}" for target in result.targets),
        *(f"- {note}" for note in result.notes),
        "",
    ]
    return "\n".join(lines)


def sentence(target: Target) -> str:
    """A target, and whether it is met."""
    return f"{target.text} ({promise(target)}): {measured(target)}, {verdict(target)}."


def promise(target: Target) -> str:
    """What a figure must be."""
    return f"at {'most' if target.at_most else 'least'} {_with_unit(target.required, target.unit)}"


def measured(target: Target) -> str:
    """What it is."""
    return _with_unit(target.actual, target.unit) if target.actual else "nothing"


def verdict(target: Target) -> str:
    """Whether that is good enough."""
    return "met" if target.is_met else "**missed**"


def figure(value: float, unit: str) -> str:
    """A number as a table has it, with the unit where that is short."""
    if unit in DECIMALS:
        text = f"{value:,.{DECIMALS[unit]}f}"
    else:
        text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return text.replace(",", " ") + SHORT.get(unit, "")


def _with_unit(value: float, unit: str) -> str:
    return figure(value, unit) + ("" if unit in SHORT else f" {unit}")


def spread(series: Series) -> str:
    """From the lowest to the highest; and what has failed."""
    text = ""
    if series.values:
        text = f"{figure(min(series.values), series.unit)} to {figure(max(series.values), series.unit)}"
    if series.failures:
        failed = f"{len(series.failures)} of {len(series.failures) + len(series.values)} rounds failed"
        text = f"{text}; {failed}: {series.failures[0]}".removeprefix("; ")
    return text


if __name__ == "__main__":
    write(Report.read(Path(sys.argv[1])), Path(sys.argv[2]))
