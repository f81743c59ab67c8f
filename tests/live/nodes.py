"""Servers that share one database, a load for them, and a wrong clock for one of them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar, Self

from tests.live.runs import Runs
from tests.live.support import APPS, Connection, Daemon, wait_for_exit
from tests.postgres_server import Database

WRONG_CLOCK = Path(__file__).parent / "wrong_clock"


def with_clock(seconds: float) -> dict[str, str]:
    """Return the environment of a server, or of any Python, whose time of day is off by so many seconds.

    The monotonic clock, the times of files, and what asks the C library are the machine's.
    """
    return {
        "CLOCK_OFF": f"{seconds:+f}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(WRONG_CLOCK), os.environ.get("PYTHONPATH")])),
    }


class Node(Daemon):
    """A server that is one of many; it can be killed or halted with all its processes, like a machine."""

    running: ClassVar[set[Node]] = set()
    """The nodes that are not stopped, for their logs when a test fails."""

    label = ""
    """What the tests call it, as in the table of runs."""

    def halt(self) -> None:
        """Stop all its processes by SIGSTOP: none does anything until `go_on`."""
        halted: set[int] = set()
        while new := set(self.family()) - halted:
            for pid in new:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            halted |= new

    def go_on(self) -> None:
        """Let halted processes go on."""
        for pid in self.family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill all its processes by SIGKILL at once, and return when they are gone."""
        self.halt()
        family = self.family()
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for pid in family:
            wait_for_exit(pid)


class Nodes:
    """Starts nodes on one database, with the functions of `apps/recorded.py`; a context manager.

    Each is stopped at the end, must leave no process behind, and must not have logged an internal error.
    """

    def __init__(self, database: Database, directory: Path) -> None:
        self.database = database
        self.runs = Runs(database)
        self._directory = directory
        self._started: list[Node] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with ExitStack() as stack:  # each is stopped, although an earlier one has failed
            for node in self._started:
                stack.callback(self._end, node)

    def _end(self, node: Node) -> None:
        node.go_on()
        try:
            node.stop()
        finally:
            Node.running.discard(node)
        node.wait_until_gone()
        assert "a bug in taskd" not in node.log, node.log
        assert "Unhandled" not in node.log, node.log

    def start(
        self,
        *options: str,
        store: str | None = None,
        record: str | None = None,
        app: Path = APPS / "recorded.py",
        env: dict[str, str] | None = None,
    ) -> Node:
        """Start one more node, with a directory of its own; it may not be ready yet.

        `store` is another way to the same database (a pgbouncer's, a link's), `record` that of the functions'
        own notes, and `env` more for its environment (`with_clock`).
        """
        name = f"n{len(self._started) + 1}"
        directory = self._directory / name
        directory.mkdir()
        if "--workers" not in options:
            options = ("--workers", "2", *options)
        node = Node(
            "--app", str(app), "--store", store or self.database.dsn, *options,
            directory=directory, env={"NODE": name, "RECORD": record or self.database.dsn, **(env or {})},
        )  # fmt: skip
        node.label = name
        self._started.append(node)
        Node.running.add(node)
        return node

    def start_many(self, count: int, *options: str, **more: Any) -> list[Node]:
        """Start so many nodes at once, and return them when all are ready."""
        nodes = [self.start(*options, **more) for _ in range(count)]
        for node in nodes:
            node.wait_until_ready()
        return nodes


def submit(client: Connection, function: str, *args: Any, **options: Any) -> str:
    """Submit one task with these options; return its id. Fails with the reply if it is refused."""
    call = {"function": function, "args": list(args), "options": options}
    reply = client.ask({"jsonrpc": "2.0", "id": 1, "method": "taskd.submit", "params": call})
    assert "result" in reply, reply
    return reply["result"]["task"]


class Load:
    """Submits tasks to a node in a thread, each when the last was accepted, until it is stopped or cut off.

    `accepted` are the ids that were acknowledged: none of them may be lost.
    """

    def __init__(
        self, node: Node, function: str = "record", args: Callable[[int], list[Any]] = lambda number: [number]
    ) -> None:
        self.accepted: list[str] = []
        self.refusals: list[Any] = []
        """The error of each request that was refused."""
        self._args = args
        self._function = function
        self._client = node.connect()
        self._is_stopping = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        with suppress(OSError, ValueError):  # ValueError: half a line, the server was killed
            while not self._is_stopping:
                call = {"function": self._function, "args": self._args(number)}
                reply = self._client.ask(
                    {"jsonrpc": "2.0", "id": number, "method": "taskd.submit", "params": call}
                )
                if reply is None:
                    break
                number += 1
                with self._changed:
                    if "error" in reply:
                        self.refusals.append(reply["error"])
                    else:
                        self.accepted.append(reply["result"]["task"])
                    self._changed.notify_all()
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def wait_for(self, count: int) -> None:
        """Return when so many more were accepted; fail if it is cut off before."""
        with self._changed:
            wanted = len(self.accepted) + count
            self._changed.wait_for(lambda: len(self.accepted) >= wanted or self._is_stopping, 60.0)
            assert len(self.accepted) >= wanted, f"{len(self.accepted)} of {wanted} were accepted"

    def stop(self) -> list[str]:
        """Submit no more; return the ids of all that were accepted."""
        self._is_stopping = True
        self._thread.join(60.0)
        assert not self._thread.is_alive(), "the server does not answer"
        self._client.close()
        return self.accepted
