"""Shows where the dispatcher's time goes under load: a flame graph, and the functions that take most of it.

    python -m bench.flame [SCENARIO] [--seconds 8] [--output profile.svg]

The graph is py-spy's, by the clock, with C's frames where py-spy can see them here. The tables are by the
processor time that the daemon uses; see bench/sampler.py for why that is not the same.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.field import EACH, MANY, PIPELINED, SINGLE, WEBSOCKET
from bench.loads import Load, nap
from bench.processes import PAUSE
from bench.run import allow_many_files, end_orderly
from bench.scenarios import NAP
from bench.servers import TWISTD, Taskd
from bench.tools import BENCH, BUILD, Missing, environment, say

LOADS = {
    "pipelined": PIPELINED,
    "single": SINGLE,
    "each": EACH,
    "websocket": WEBSOCKET,
    "one": Load("pipelined", connections=1),
    "naps": Load("pipelined", connections=MANY, request=nap(NAP)),
}
RATE = 500
"""Samples a second for the graph: enough for some seconds, few enough not to slow the daemon down."""
TOP = 25
"""Functions in a table."""
WARM_UP = 1.0
"""Seconds of load before anything is recorded."""


@contextmanager
def driven(load: Load, *launcher: str) -> Iterator[Taskd]:
    """A server under a load that goes on until the end."""
    with Taskd("--link", "pooled", workers=MANY, launcher=launcher) as taskd:
        port = taskd.websocket if load.mode == "websocket" else taskd.port
        endless = Load(load.mode, load.connections, load.in_flight, load.request, 600.0, 0.0)
        with subprocess.Popen(endless.command(port), stdout=subprocess.DEVNULL) as driver:
            try:
                time.sleep(WARM_UP)
                yield taskd
                if driver.poll() is not None:
                    sys.exit("the load has failed")
            finally:
                driver.terminate()


def draw(load: Load, seconds: float, to: Path) -> None:
    """Have py-spy draw the flame graph. Raises `Missing` where it cannot."""
    with driven(load, str(TWISTD)) as taskd:
        for more in (["--native"], []):
            command = [
                str(environment("profile") / "py-spy"), "record", "--pid", str(taskd.daemon),
                "--duration", f"{seconds:.0f}", "--rate", str(RATE), "--output", str(to), *more,
            ]  # fmt: skip
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
            )
            if done.returncode == 0:
                return
            say(done.stderr.strip()[-1000:])
    raise Missing("py-spy cannot record the daemon here")


def sample(load: Load, seconds: float, to: Path) -> list[str]:
    """The daemon's stacks by processor time, as bench/sampler.py writes them."""
    to.unlink(missing_ok=True)
    to.parent.mkdir(parents=True, exist_ok=True)
    with driven(load, sys.executable, str(BENCH / "sampler.py"), str(to)) as taskd:
        os.kill(taskd.daemon, signal.SIGUSR2)
        time.sleep(seconds)
        os.kill(taskd.daemon, signal.SIGUSR2)
        while not to.exists() and taskd.process.poll() is None:
            time.sleep(PAUSE)
    return to.read_text().splitlines()


def tables(lines: list[str]) -> str:
    """What share of the samples each function had: itself, and with what it called."""
    user, system = (float(word) for word in lines[0].split())
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    for line in lines[1:]:
        stack, _, number = line.rpartition(" ")
        names = [re.sub(r":\d+\)$", ")", name) for name in stack.split(";")]
        own[names[-1]] += int(number)
        whole.update(dict.fromkeys(names, int(number)))
    total = own.total() or 1
    parts = [f"processor time {user + system:.1f} s, {system / (user + system or 1):.0%} of it in the kernel"]
    for title, counts in (("by itself", own), ("with what it calls", whole)):
        parts.append(f"\n{title}:")
        parts += [f"{number / total:7.1%}  {name}" for name, number in counts.most_common(TOP)]
    return "\n".join(parts)


def main() -> None:
    """Record, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", nargs="?", choices=LOADS, default="pipelined")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each recording")
    parser.add_argument("--output", type=Path, default=Path("profile.svg"))
    choice = parser.parse_args()
    allow_many_files()
    end_orderly()
    load = LOADS[choice.scenario]
    try:
        print(tables(sample(load, choice.seconds, BUILD / "profile.txt")))
        draw(load, choice.seconds, choice.output.resolve())
    except Missing as missing:
        sys.exit(str(missing))
    print(f"\nthe flame graph: {choice.output}")


if __name__ == "__main__":
    main()
