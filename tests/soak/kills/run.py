"""``make soak ARGS='--kills 1000'``: a durable load on a daemon that is killed again and again.

``python -m tests.soak.kills.run --kills 1000 --seed 7``. The daemon is killed at random instants and at every
failpoint of the store (see `twistd`), its fork server and its workers at random instants. At the end of each
round `oracle` compares what clients were answered, what the functions have done, and what the store has. The
exit status is 1, with the reasons, if they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import IO, Any

from taskd.store.sqlite import SqliteStore
from tests.soak.kills.oracle import Asked, Oracle
from tests.soak.kills.twistd import FAILPOINT, POINTS
from tests.soak.server import children_of

ROUND = 50
"""Kills of the daemon on one file; then everything is checked, and a new file begun."""

PER_LIFE = 250
"""New tasks for each life of the daemon: it lives for about a second."""

OUTSTANDING = 100
"""Submits that a client has in flight."""

LIFE_SECONDS = 0.01, 0.9
"""Seconds from the first end of a task to the kill, at least and at most."""

REACHED = {"statement": 1000, "rescue": 1, "after rescue": 1, "promote": 5, "after promote": 5}
"""How often a failpoint is reached in a life, about; `REACHED_OTHERS` if it is not here."""

REACHED_OTHERS = 15

POINT_SECONDS = 2.0
"""Seconds that a daemon has to reach its failpoint; it is killed then."""

DRAIN_SECONDS = 120.0
"""Seconds within which everything must have ended after the last start."""

FUNCTIONS = ["mark"] * 11 + ["mark_once"] * 3 + ["flaky"] * 3 + ["brief"] * 2


class Round:
    """Some lives of a daemon on one file. Everything random follows from `rng`, but for the instants."""

    def __init__(self, directory: Path, rng: Random, happened: Counter[str]) -> None:
        self.directory = directory
        self.asked: dict[int, Asked] = {}
        self.daemons: list[float] = []
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()
        self._rng = rng
        self._happened = happened
        self._waited: dict[str, Asked] = {}
        self._process: subprocess.Popen[str] | None = None
        self.log: list[str] = []

    def run(self, kills: int) -> None:
        """Kill the daemon so many times, and check what is left."""
        for _ in range(kills):
            self._live(self._rng.choice(POINTS) if self._rng.random() < 0.6 else None)
        self._live(None, is_last=True)
        store = SqliteStore(str(self.directory / "tasks.db"))
        oracle = Oracle(self.asked, self.directory / "effects", self.daemons)
        oracle.check(store)
        store.close()
        self.counts = oracle.counts
        self.violations += oracle.violations
        bugs = [line for line in self.log if "a bug in taskd" in line or "Unhandled" in line]
        self.violations += [f"the log says: {line}" for line in bugs[:5]]
        self._happened["stale ends dropped"] += sum("not its own any more" in line for line in self.log)

    # --- the daemon ---

    def _start(self, point: str | None) -> int:
        """Start a daemon, and return its port; 0 if it has ended by then."""
        env = {
            **os.environ,
            "SOAK_EFFECTS": str(self.directory / "effects"),
            "SOAK_DAEMON": str(len(self.daemons) + 1),
        }
        if point is not None:
            env[FAILPOINT] = f"{point}:{self._rng.randint(1, REACHED.get(point, REACHED_OTHERS))}"
        self.daemons.append(time.time())
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.soak.kills.twistd", "--nodaemon", "--pidfile=", "taskd"),
                *("--app", str(Path(__file__).with_name("app.py")), "--workers", "3"),
                *("--store", f"sqlite:{self.directory}/tasks.db", "--websocket", "none"),
                *("--listen", "tcp:0:interface=127.0.0.1"),
            ],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
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

    def _live(self, point: str | None, *, is_last: bool = False) -> None:
        """Load a daemon until it is killed or, the last time, has nothing left to do."""
        port = self._start(point)
        process = self._process
        assert process is not None
        family = Family(process.pid)
        if port:
            with suppress(ConnectionError):
                client = Client(port, self, self._rng, has_point=point is not None, is_last=is_last)
                client.run(family, self._happened)
        family.look()
        if is_last:
            process.terminate()
            if process.wait(60) != -signal.SIGTERM:
                self.violations.append(f"the daemon ended with status {process.returncode}")
        else:
            reached = process.poll() is not None or not port
            self._happened[f"kill at {point}" if reached and point else "kill of the daemon"] += 1
            process.kill()
            process.wait(60)
            if process.returncode != -signal.SIGKILL:
                self.violations.append(f"the daemon ended with {process.returncode}: {self.log[-20:]}")

    def next_tasks(self, count: int) -> list[Asked]:
        """Return tasks to submit: first those for which no answer came, then new ones."""
        made = []
        for _ in range(count):
            number = len(self.asked) + 1
            function = self._rng.choice(FUNCTIONS)
            seconds = self._rng.choice([0.0, 0.0, 0.0, 0.0, 0.001, 0.001, 0.005, 0.005, 0.05])
            delay = self._rng.choice([0.0] * 9 + [0.2])
            self.asked[number] = made_now = Asked(number, function, seconds, delay)
            made.append(made_now)
        return made


class Family:
    """The processes of a daemon."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.fork_servers: list[int] = []
        self.workers: list[int] = []

    def look(self) -> None:
        """Note the present ones."""
        self.fork_servers = children_of(self.pid)
        self.workers = [worker for fork_server in self.fork_servers for worker in children_of(fork_server)]

    def kill_one(self, rng: Random, happened: Counter[str]) -> None:
        """Kill a worker or the fork server."""
        self.look()
        victims = self.fork_servers if rng.random() < 0.3 else self.workers
        if victims:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(victims), signal.SIGKILL)
                happened["kill of a fork server" if victims is self.fork_servers else "kill of a worker"] += 1


class Client:
    """A client that submits, waits for ends, and cancels, on one connection."""

    def __init__(self, port: int, of: Round, rng: Random, *, has_point: bool, is_last: bool) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._round = of
        self._rng = rng
        self._has_point = has_point
        self._is_last = is_last
        self._has_ends = False
        self._replies: dict[int, tuple[str, Any]] = {}
        self._last_id = 0
        self._rest = b""
        self._left = [each for each in of.asked.values() if each.task is None]
        self._left += of.next_tasks(0 if is_last else PER_LIFE)
        self._submitting = 0
        self._unfinished: set[str] = {"waiting"}
        self._lines: list[bytes] = []

    def run(self, family: Family, happened: Counter[str]) -> None:
        """Go on until the daemon has to be killed, or is gone; the last time, until all has ended."""
        began = time.monotonic()
        ending = began + (DRAIN_SECONDS if self._is_last else 30.0)
        kills: list[float] = []
        is_working = False
        while time.monotonic() < ending:
            while self._left and self._submitting < OUTSTANDING:
                self._submit(self._left.pop(0))
            if self._is_last and not self._left and not self._replies:
                if not self._unfinished:
                    return
                self._unfinished = set()
                for state in ("waiting", "running", "scheduled"):
                    self._ask("list", state, "taskd.list", state=state, limit=1)
            self._flush()
            due = min([ending, *kills])
            ready, _, _ = select.select([self._socket], [], [], max(due - time.monotonic(), 0.0))
            if ready and not self._receive():
                return
            if not is_working and self._has_ends and not self._is_last:
                is_working, now = True, time.monotonic()
                ending = now + (POINT_SECONDS if self._has_point else self._rng.uniform(*LIFE_SECONDS))
                kills = [self._rng.uniform(now, ending) for _ in range(self._rng.choice([0, 0, 1, 2]))]
            for when in [when for when in kills if when <= time.monotonic()]:
                kills.remove(when)
                family.kill_one(self._rng, happened)
        if self._is_last:
            self._round.violations.append(f"not everything has ended: {self._unfinished or self._replies}")

    def _ask(self, kind: str, about: Any, method: str, **params: Any) -> None:
        self._last_id += 1
        self._replies[self._last_id] = kind, about
        message = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        self._lines.append(json.dumps(message).encode() + b"\n")

    def _submit(self, asked: Asked) -> None:
        self._submitting += 1
        self._ask(
            "submit",
            asked,
            "taskd.submit",
            function=asked.function,
            args=[asked.number, asked.seconds],
            options={"delay": asked.delay},
            token=str(asked.number),
        )

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._socket.sendall(b"".join(lines))

    def _receive(self) -> bool:
        chunk = self._socket.recv(1 << 16)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._reply(json.loads(line))
        return bool(chunk)

    def _reply(self, reply: dict[str, Any]) -> None:
        kind, about = self._replies.pop(reply["id"])
        result = reply.get("result")
        if kind == "submit":
            self._submitting -= 1
            self._submitted(about, reply)
        elif kind == "wait" and result is not None:
            self._has_ends = True
            about.answered.append(json.dumps([result["state"], result.get("result", result.get("error"))]))
        elif kind == "cancel" and result is not None:
            about.was_cancelled_unbegun = result["was"] in ("scheduled", "waiting")
        elif kind == "list" and (result is None or result):
            self._unfinished.add(about)

    def _submitted(self, asked: Asked, reply: dict[str, Any]) -> None:
        if "result" not in reply:
            self._round.violations.append(f"{asked} was refused: {reply}")
            return
        asked.task = reply["result"]["task"]
        if asked.function == "brief":
            return
        if asked.delay and self._rng.random() < 0.5:
            self._ask("cancel", asked, "taskd.cancel", task=asked.task)
        elif self._rng.random() < 0.3:
            self._ask("wait", asked, "taskd.wait", task=asked.task)


def soak(kills: int, seed: int, log: IO[str] | None = None) -> int:
    """Run the soak, print its figures, and return the exit status."""
    rng = Random(seed)
    happened: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    violations: list[str] = []
    began = time.monotonic()
    done = 0
    while done < kills:
        now = min(ROUND, kills - done)
        with tempfile.TemporaryDirectory(prefix="kills-") as directory:
            one = Round(Path(directory), rng, happened)
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
