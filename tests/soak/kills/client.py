"""The client of the kill soak: submits, waits for ends and cancels, and has the daemon's children killed."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections import Counter
from contextlib import suppress
from random import Random
from typing import Any, Protocol

from taskd.drill.processes import children_of
from tests.soak.kills.oracle import Asked, AskedBatch
from tests.soak.kills.plan import Target

__all__ = ["Client", "Family", "Work"]

OUTSTANDING = 100
"""Submits that a client has in flight."""

LIFE_SECONDS = 0.01, 0.6
"""Seconds from the first end of a task to the kill, at least and at most."""

POINT_SECONDS = 1.0
"""Seconds that a daemon has to reach its failpoint; it is killed then."""

DRAIN_SECONDS = 120.0
"""Seconds within which everything must have ended after the last start."""

LOOK_SECONDS = 0.05
"""Seconds between two looks for tasks that have not ended."""

BATCH_SHARE = 0.25
"""The share of lives in which a batch is submitted, besides those that end at a failpoint of batches."""


class Work(Protocol):
    """What a client is to do, and where it notes what it is answered."""

    asked: dict[int, Asked]
    batches: list[AskedBatch]
    violations: list[str]

    def next_tasks(self) -> list[Asked]:
        """Return tasks to submit."""

    def next_batch(self) -> AskedBatch:
        """Return a batch to submit."""

    def unfinished(self) -> int:
        """Return how many tasks and batches have not ended."""


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

    def __init__(self, port: int, work: Work, rng: Random, target: Target | None, *, is_last: bool) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._work = work
        self._rng = rng
        self._has_point = target is not None
        self._call = "" if target is None else target.call
        self._is_last = is_last
        self._has_ends = False
        self._replies: dict[int, tuple[str, Any]] = {}
        self._last_id = 0
        self._rest = b""
        self._left = [each for each in work.asked.values() if each.task is None and not each.is_in_batch]
        self._batches = [each for each in work.batches if each.batch is None]
        if not is_last:
            self._left += work.next_tasks()
            if self._call.startswith("batch") or rng.random() < BATCH_SHARE:
                self._batches.append(work.next_batch())
        self._submitting = 0
        self._lines: list[bytes] = []

    def run(self, family: Family, happened: Counter[str]) -> bool:
        """Go on until the daemon has to be killed, or is gone; the last time, until all has ended.

        Return whether the daemon is still there.
        """
        began = time.monotonic()
        ending = began + (DRAIN_SECONDS if self._is_last else 30.0)
        kills: list[float] = []
        is_working = False
        self._begin()
        while time.monotonic() < ending:
            while self._left and self._submitting < OUTSTANDING:
                self._submit(self._left.pop(0))
            is_answered = self._is_last and not self._left and not self._replies
            if is_answered and not self._work.unfinished():
                return True
            self._flush()
            due = min([ending, time.monotonic() + LOOK_SECONDS, *kills])
            ready, _, _ = select.select([self._socket], [], [], max(due - time.monotonic(), 0.0))
            if ready and not self._receive():
                return False
            if not is_working and self._has_ends and not self._is_last:
                is_working, now = True, time.monotonic()
                ending = now + (POINT_SECONDS if self._has_point else self._rng.uniform(*LIFE_SECONDS))
                kills = [self._rng.uniform(now, ending) for _ in range(self._rng.choice([0, 0, 1, 2]))]
            for when in [when for when in kills if when <= time.monotonic()]:
                kills.remove(when)
                family.kill_one(self._rng, happened)
        if self._is_last:
            left = self._work.unfinished()
            self._work.violations.append(
                f"{left} have not ended, and these are not answered: {self._replies}"
            )
        return True

    def _begin(self) -> None:
        self._ask("resume", None, "taskd.resume", function="brief")  # it may have been killed while paused
        if self._call == "pause":
            self._ask("pause", None, "taskd.pause", function="brief")
        for batch in self._batches:
            self._submit_batch(batch)

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

    def _submit_batch(self, batch: AskedBatch) -> None:
        rows = [[each.number, each.seconds] for each in batch.rows]
        options = {"delay": batch.delay}
        params = {
            "function": "mark",
            "args": rows,
            "then": "closed",
            "token": batch.token,
            "options": options,
        }
        self._ask("batch", batch, "taskd.submit_batch", **params)

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
        elif kind == "batch" and result is not None:
            self._has_batch(about, result)
        elif kind == "pause":
            self._ask("resume", None, "taskd.resume", function="brief")
        if result is None and kind in ("batch", "pause", "resume"):
            self._work.violations.append(f"{kind} was refused: {reply}")

    def _has_batch(self, batch: AskedBatch, result: dict[str, Any]) -> None:
        batch.batch = result["batch"]
        for asked, task in zip(batch.rows, result["tasks"], strict=True):
            asked.task = task
        if self._call.startswith("batch cancel") or self._rng.random() < 0.2:
            self._ask("batch cancel", batch, "taskd.cancel", task=batch.batch)

    def _submitted(self, asked: Asked, reply: dict[str, Any]) -> None:
        if "result" not in reply:
            self._work.violations.append(f"{asked} was refused: {reply}")
            return
        asked.task = reply["result"]["task"]
        if asked.function == "brief":
            return
        if asked.delay and self._rng.random() < 0.5:
            self._ask("cancel", asked, "taskd.cancel", task=asked.task)
        elif self._rng.random() < 0.3:
            self._ask("wait", asked, "taskd.wait", task=asked.task)
