"""`twistd` that kills itself at a failpoint: the environment names it, and which time it is reached.

It is started ahead, imports what it needs, and waits for a line: a JSON object of its arguments and
environment. So the next daemon of the soak starts at once.

``SOAK_FAILPOINT=COMMIT:17`` kills before the 17th commit, ``after COMMIT:17`` after it, when nobody has
been answered yet; ``statement:100`` before the 100th statement of any transaction; ``write:3`` and
``after write:3`` before and after that call of the store, and likewise its other calls. Ended tasks are
forgotten every `PRUNE_SECONDS`, so that this is soaked, too.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

from twisted.scripts.twistd import run

from taskd.durable import upkeep
from taskd.store.sqlite import SqliteStore
from taskd.store.sqlite_batches import SqliteBatches

__all__ = ["CALLS", "FAILPOINT", "POINTS"]

FAILPOINT = "SOAK_FAILPOINT"

CALLS = {
    "write": (SqliteStore, "write"),
    "rescue": (SqliteStore, "rescue"),
    "promote": (SqliteStore, "promote"),
    "prune": (SqliteStore, "prune"),
    "pause": (SqliteStore, "pause"),
    "batch add": (SqliteBatches, "add"),
    "batch unpack": (SqliteBatches, "unpack"),
    "batch cancel": (SqliteBatches, "cancel"),
    "batch cancel_rows": (SqliteBatches, "cancel_rows"),
}
"""The calls of a store that change it."""

POINTS = (
    *("BEGIN", "after BEGIN", "statement", "COMMIT", "after COMMIT"),
    *CALLS,
    *(f"after {call}" for call in CALLS),
)


class Failpoint:
    """Kills the process when `name` is reached for the `left`-th time."""

    def __init__(self, name: str, left: int) -> None:
        self.name = name
        self._left = left

    def reached(self, name: str) -> None:
        if name == self.name:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


def install(point: Failpoint) -> None:
    """Have the store's calls, and the statements of its file, report to `point`."""

    class Connection(sqlite3.Connection):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            if point.name == "statement":
                self.set_trace_callback(lambda _: point.reached("statement"))

        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:  # type: ignore[override]
            word = sql.split()[0]
            point.reached(word)
            cursor = super().execute(sql, *args)
            point.reached(f"after {word}")
            return cursor

    connect = sqlite3.connect
    sqlite3.connect = lambda *args, **named: connect(*args, **{"factory": Connection, **named})

    def reporting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def report(*args: Any, **named: Any) -> Any:
            point.reached(name)
            answer = call(*args, **named)
            point.reached(f"after {name}")
            return answer

        return report

    for name, (kind, method) in CALLS.items():
        setattr(kind, method, reporting(name, getattr(kind, method)))


PRUNE_SECONDS = 0.2

if __name__ == "__main__":
    upkeep.PRUNE_SECONDS = PRUNE_SECONDS
    import_module("taskd.daemon.service")
    started = json.loads(sys.stdin.readline())
    sys.argv[1:] = started["arguments"]
    os.environ.update(started["environment"])
    if given := os.environ.pop(FAILPOINT, ""):
        name, _, count = given.rpartition(":")
        install(Failpoint(name, int(count)))
    run()
