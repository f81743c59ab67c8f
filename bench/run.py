"""Measures taskd beside its peers in one run, and writes docs/benchmarks.md and its plot.

    python -m bench.run [--quick] [--only SCENARIO]… [--rounds N] [--beside CHECKOUT] [--output DIRECTORY]

Exit status 1 where taskd itself has failed in a round. A target that is missed is no failure: it is shown.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bench.about import about
from bench.clients import blocking
from bench.costs import held, short_beside_long, start
from bench.field import Field
from bench.in_flight import many_in_flight
from bench.queues import queues
from bench.report import figure, sentence, spread, write
from bench.results import Report, Result
from bench.scenarios import latency, naps, tcp, websockets
from bench.settings import FULL, QUICK
from bench.stored import stored
from bench.tools import BUILD, ROOT, Missing, program, say
from bench.waiting import many_waiting, watched

SCENARIOS: dict[str, Callable[[Field], list[Result]]] = {
    "naps": naps,
    "websockets": websockets,
    "each": lambda field: tcp(field, "each"),
    "pipelined": lambda field: tcp(field, "pipelined"),
    "single": lambda field: tcp(field, "single"),
    "in-flight": many_in_flight,
    "latency": latency,
    "blocking": blocking,
    "tail": short_beside_long,
    "queues": queues,
    "stored": stored,
    "many": many_waiting,
    "watched": watched,
    "start": start,
    "held": lambda field: held(field.settings),
}


def allow_many_files() -> None:
    """Connections are open files, here and in the servers that are started from here."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def end_orderly() -> None:
    """A SIGTERM ends the servers as well, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))


def options() -> argparse.Namespace:
    """The command's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="some five minutes, and less to be relied on")
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="may be given several times")
    parser.add_argument("--rounds", type=int, help="of each contestant in each scenario")
    parser.add_argument(
        "--beside",
        type=Path,
        help="another checkout with an environment in .venv, to be measured beside this one",
    )
    parser.add_argument("--output", type=Path, help="default: docs; build/bench with --quick or --only")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    choice = options()
    settings = QUICK if choice.quick else FULL
    if choice.rounds:
        settings = replace(settings, rounds=choice.rounds, peer_rounds=choice.rounds)
    if choice.beside:
        settings = replace(settings, beside=str(choice.beside.resolve() / ".venv" / "bin" / "twistd"))
    is_whole = not choice.only and not choice.quick and not choice.beside
    output = choice.output or (ROOT / "docs" if is_whole else BUILD)
    allow_many_files()
    end_orderly()
    try:
        program("load")
    except Missing as missing:
        sys.exit(str(missing))
    report = Report(about(f"{settings.rounds} rounds of {settings.seconds:g} s"))
    began = time.monotonic()
    with Field(settings) as field:
        if field.without_workerman:
            say(f"without Workerman: {field.without_workerman}")
        for name in choice.only or SCENARIOS:
            say(f"{name} … ({time.monotonic() - began:.0f} s)")
            for result in SCENARIOS[name](field):
                report.results.append(result)
                print_result(result)
    say(f"{time.monotonic() - began:.0f} s")
    report.write(BUILD / "results.json")
    write(report, output)
    say(f"written: {output / 'benchmarks.md'}")
    ours = [one for result in report.results for one in result.series if one.name.startswith("taskd")]
    if any(series.failures for series in ours):
        sys.exit("taskd has failed in a round")


def print_result(result: Result) -> None:
    """What came out, as soon as it is there."""
    print(f"\n{result.title}")
    for series in result.series:
        middle = figure(series.median, series.unit)
        print(f"  {series.name:34} {middle:>12}  ({spread(series)}) {series.setting}")
    for line in (*(sentence(target) for target in result.targets), *result.notes):
        print(f"  {line}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
