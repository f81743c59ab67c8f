"""Shows where the dispatcher's time goes under load: a flame graph, and the functions that take most of it.

    python -m bench.flame [SCENARIO] [--seconds 8] [--output profile.svg]

py-spy records the daemon twice, for the graph and for the table; C's frames are in it where py-spy can see
them here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path

from bench.field import EACH, MANY, PIPELINED, SINGLE, WEBSOCKET
from bench.loads import Load, nap
from bench.run import allow_many_files, end_orderly
from bench.scenarios import NAP
from bench.servers import Taskd
from bench.tools import BUILD, Missing, environment, say

LOADS = {
    "pipelined": PIPELINED,
    "single": SINGLE,
    "each": EACH,
    "websocket": WEBSOCKET,
    "one": Load("pipelined", connections=1),
    "naps": Load("pipelined", connections=MANY, request=nap(NAP)),
}
RATE = 500
"""Samples a second: enough for a graph of some seconds, few enough not to slow the daemon down."""
TOP = 25
"""Functions in the table."""


def record(pid: int, seconds: float, form: str, to: Path, *more: str) -> bool:
    """Record a process; whether that went well."""
    command = [
        str(environment("profile") / "py-spy"), "record", "--pid", str(pid), "--duration", f"{seconds:.0f}",
        "--rate", str(RATE), "--format", form, "--output", str(to), *more,
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode or not to.exists() or not to.stat().st_size:
        say(done.stderr.strip()[-1000:])
        return False
    return True


def by_self_time(stacks: str) -> list[tuple[str, float]]:
    """The functions that were running, and what share of the samples each had; most first."""
    samples: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, number = line.rpartition(" ")
        samples[stack.rpartition(";")[2]] += int(number)
    total = samples.total() or 1
    return [(name, number / total) for name, number in samples.most_common(TOP)]


def profile(load: Load, seconds: float, output: Path, *options: str) -> list[tuple[str, float]]:
    """Drive a server and record its daemon, first for the graph, then for the table."""
    stacks = BUILD / "profile.txt"
    with Taskd("--link", "pooled", *options, workers=MANY) as taskd:
        port = taskd.websocket if load.mode == "websocket" else taskd.port
        # It goes on until both are recorded, whatever py-spy needs to begin and to write.
        busy = Load(load.mode, load.connections, load.in_flight, load.request, 600.0, 0.0)
        with subprocess.Popen(busy.command(port), stdout=subprocess.DEVNULL) as driver:
            try:
                for more in (["--native"], []):
                    if record(taskd.daemon, seconds, "flamegraph", output, *more):
                        record(taskd.daemon, seconds, "raw", stacks, *more)
                        break
                else:
                    raise Missing("py-spy cannot record the daemon here")
                if driver.poll() is not None:
                    sys.exit("the load has failed")
            finally:
                driver.terminate()
    return by_self_time(stacks.read_text())


def main() -> None:
    """Record, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="?", choices=LOADS, default="pipelined")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each recording")
    parser.add_argument("--output", type=Path, default=Path("profile.svg"))
    choice = parser.parse_args()
    allow_many_files()
    end_orderly()
    try:
        functions = profile(LOADS[choice.scenario], choice.seconds, choice.output)
    except Missing as missing:
        sys.exit(str(missing))
    print(f"{choice.output}: {choice.scenario}, {choice.seconds:g} s. By self time:")
    for name, share in functions:
        print(f"{share:7.1%}  {name}")


if __name__ == "__main__":
    main()
