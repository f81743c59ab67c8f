"""``make soak ARGS='--kills 1000'``: a durable load on a daemon that is killed again and again.

``python -m tests.soak.kills.run --kills 1000 --seed 7``. The daemon is killed at random instants and at every
failpoint of the store in turn (see `plan` and `twistd`), its fork server and its workers at random instants.
At the end of each round `oracle` compares what clients were answered, what the functions have done, and what
the store has. The exit status is 1, with the reasons, if they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from random import Random
from typing import IO

from taskd.store.sqlite import SqliteStore
from tests.soak.kills.client import Client, Family
from tests.soak.kills.oracle import Asked, AskedBatch, Oracle
from tests.soak.kills.plan import Plan, Target
from tests.soak.kills.twistd import FAILPOINT

ROUND = 50
"""Kills of the daemon on one file; then everything is checked, and a new file begun."""

PER_LIFE = 250
"""New tasks for each life of the daemon: it lives for about a second."""

PER_BATCH = 20
"""Tasks of a batch."""

FUNCTIONS = ["mark"] * 11 + ["mark_once"] * 3 + ["flaky"] * 3 + ["brief"] * 2


class Round:
    """Some lives of a daemon on one file. Everything random follows from `rng`, but for the instants."""

    def __init__(
        self, directory: Path, rng: Random, happened: Counter[str], plan: Plan, starter: Starter
    ) -> None:
        self.directory = directory
        self.batches: list[AskedBatch] = []
        self.asked: dict[int, Asked] = {}
        self.daemons: list[float] = []
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self._rng = rng
        self._happened = happened
        self._plan = plan
        self._starter = starter
        self._process: subprocess.Popen[str] | None = None
        self.log: list[str] = []

    def run(self, kills: int) -> None:
        """Kill the daemon so many times, and check what is left."""
        for _ in range(kills):
            self._live(self._plan.next())
        self._live(None, is_last=True)
        store = SqliteStore(str(self.directory / "tasks.db"))
        oracle = Oracle(self.asked, self.directory / "effects", self.daemons)
        oracle.check(store)
        oracle.check_batches(store, self.batches)
        store.close()
        self.counts = oracle.counts
        self.violations += oracle.violations
        bugs = [line for line in self.log if "a bug in taskd" in line or "Unhandled" in line]
        self.violations += [f"the log says: {line}" for line in bugs[:5]]
        self._happened["stale ends dropped"] += sum("not its own any more" in line for line in self.log)

    # --- the daemon ---

    def _start(self, target: Target | None) -> int:
        """Start a daemon, and return its port; 0 if it has ended by then."""
        environment = {
            "SOAK_EFFECTS": str(self.directory / "effects"),
            "SOAK_DAEMON": str(len(self.daemons) + 1),
            FAILPOINT: "" if target is None else str(target),
        }
        arguments = [
            *("--nodaemon", "--pidfile=", "taskd", "--workers", "3", "--websocket", "none"),
            *("--app", str(Path(__file__).with_name("app.py")), "--listen", "tcp:0:interface=127.0.0.1"),
            *("--store", f"sqlite:{self.directory}/tasks.db"),
        ]
        self.daemons.append(time.time())
        self._process = self._starter.start(arguments, environment)
        output = self._process.stdout
        assert output is not None
        port = 0
        for line in output:
            self.log.append(line.rstrip())
            if match := re.search(r"listening on .*port=(\d+)", line):
                port = int(match[1])
                break
        threading.Thread(target=lambda: self.log.extend(map(str.rstrip, output)), daemon=True).start()
        return port

    def _live(self, target: Target | None, *, is_last: bool = False) -> None:
        """Load a daemon until it is killed or, the last time, has nothing left to do."""
        port = self._start(target)
        process = self._process
        assert process is not None
        family = Family(process.pid)
        is_gone = not port
        if port:
            try:
                client = Client(port, self, self._rng, target, is_last=is_last)
                self._starter.prepare()
                is_gone = not client.run(family, self._happened)
            except ConnectionError:
                is_gone = True
        if is_last:
            process.terminate()
            if process.wait(60) != -signal.SIGTERM:
                self.violations.append(f"the daemon ended with status {process.returncode}")
            return
        if target is not None:
            self._plan.ended(target, was_reached=is_gone)
        elif is_gone:
            self.violations.append(f"the daemon ended by itself: {self.log[-20:]}")
        self._happened["kill at a failpoint" if is_gone else "kill at a random instant"] += 1
        if not is_gone:
            process.kill()
        if process.wait(60) != -signal.SIGKILL:
            self.violations.append(f"the daemon ended with {process.returncode}: {self.log[-20:]}")

    # --- the work ---

    def next_tasks(self) -> list[Asked]:
        """Return new tasks to submit."""
        return [
            self._new(
                self._rng.choice(FUNCTIONS),
                self._rng.choice([0.0, 0.0, 0.0, 0.0, 0.001, 0.001, 0.005, 0.005, 0.05]),
                self._rng.choice([0.0] * 9 + [0.2]),
            )
            for _ in range(PER_LIFE)
        ]

    def _new(self, function: str, seconds: float, delay: float, *, is_in_batch: bool = False) -> Asked:
        number = len(self.asked) + 1
        self.asked[number] = asked = Asked(number, function, seconds, delay, is_in_batch=is_in_batch)
        return asked

    def next_batch(self) -> AskedBatch:
        """Return a new batch to submit."""
        delay = self._rng.choice([0.0, 0.0, 0.01, 0.1])
        rows = [self._new("mark", 0.005, delay, is_in_batch=True) for _ in range(PER_BATCH)]
        batch = AskedBatch(f"batch {len(self.batches) + 1}", rows, delay)
        self.batches.append(batch)
        return batch

    def unfinished(self) -> int:
        """Return how many tasks and batches have not ended.

        With one query: a task that is tried again could slip through a list for each state.
        """
        with closing(sqlite3.connect(f"file:{self.directory}/tasks.db?mode=ro", uri=True)) as database:
            query = (
                "SELECT (SELECT count(*) FROM task WHERE state <= 2) + "
                "(SELECT count(*) FROM batch WHERE ended IS NULL)"
            )
            (count,) = database.execute(query).fetchone()
        return int(count)


class Starter:
    """Starts daemons; the next one may be prepared ahead, so that it needs to import nothing."""

    def __init__(self) -> None:
        self._prepared: subprocess.Popen[str] | None = None

    def prepare(self) -> None:
        """Begin the next daemon, which waits for `start`."""
        if self._prepared is None:
            self._prepared = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.kills.twistd"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def start(self, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        """Start a daemon with these arguments and additions to the environment."""
        self.prepare()
        process, self._prepared = self._prepared, None
        assert process is not None
        assert process.stdin is not None
        with process.stdin as stdin:
            stdin.write(json.dumps({"arguments": arguments, "environment": environment}) + "\n")
        return process

    def close(self) -> None:
        """Let go of the daemon that was prepared."""
        if self._prepared is not None:
            self._prepared.kill()
            self._prepared.wait()
            self._prepared = None


def soak(kills: int, seed: int, log: IO[str] | None = None) -> int:
    """Run the soak, print its figures, and return the exit status."""
    rng = Random(seed)
    happened: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    violations: list[str] = []
    plan, starter = Plan(rng), Starter()
    began = time.monotonic()
    done = 0
    while done < kills:
        now = min(ROUND, kills - done)
        with tempfile.TemporaryDirectory(prefix="kills-") as directory:
            one = Round(Path(directory), rng, happened, plan, starter)
            one.run(now)
        done += now
        counts += one.counts
        violations += one.violations
        if kills > ROUND or violations:
            print(f"{done} kills, {time.monotonic() - began:.0f} s: {_listed(one.counts)}", flush=True)
            for text in one.violations:
                print(f"- {text}", flush=True)
            if one.violations and log is not None:
                log.write("\n".join(one.log))
    print(f"{done} kills of the daemon in {time.monotonic() - began:.0f} s")
    starter.close()
    print(plan.report())
    print(f"accidents: {_listed(happened)}")
    print(f"tasks: {_listed(counts)}")
    print(f"{len(violations)} violations" if violations else "all is well")
    return 1 if violations else 0


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{what} {count:,}" for what, count in sorted(counts.items()) if count)


def main() -> int:
    """Parse the arguments, and soak."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.soak.kills.run")
    parser.add_argument("--kills", type=int, default=1000, help="how many times the daemon is killed")
    parser.add_argument("--seed", type=int, help="what everything that is random follows from")
    parser.add_argument(
        "--log", type=argparse.FileType("w"), help="write the log of a round that failed there"
    )
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else int.from_bytes(os.urandom(2))
    print(f"seed {seed}", flush=True)
    return soak(options.kills, seed, options.log)


if __name__ == "__main__":
    sys.exit(main())
