"""How soon a node sees what happens at another one, with notifications and by polling alone.

    python -m bench.wake

Makes a PostgreSQL cluster of its own, and starts two nodes, by themselves or behind a pgbouncer, which
passes on no notifications. The client talks to one of them, and the other one runs the tasks.
"""

from __future__ import annotations

import argparse
import random
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.wake_tasks import LABEL
from tests.live.nodes import Node, submit
from tests.live.support import Connection
from tests.pgbouncer import PgBouncer
from tests.postgres_server import PostgresServer

APP = Path(__file__).parent / "wake_tasks.py"


@contextmanager
def nodes(store: str, directory: Path) -> Iterator[Connection]:
    """Start two nodes; give a connection to the one that runs nothing."""
    with ExitStack() as stack:
        started = []
        for name, options in (("near", []), ("far", ["--label", LABEL])):
            (directory / name).mkdir(parents=True)
            node = Node(
                "--app", str(APP), "--store", store, "--workers", "2", *options, directory=directory / name
            )
            stack.callback(node.stop)
            started.append(node)
        for node in started:
            node.wait_until_ready()
        yield started[0].connect()


def rpc(client: Connection, method: str, **params: Any) -> Any:
    """Return the result of a call."""
    reply = client.ask({"jsonrpc": "2.0", "id": 1, "method": f"taskd.{method}", "params": params})
    return reply["result"]


class Heard:
    """Gets the times that functions send."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "heard")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)

    def time_of(self, what: str) -> float:
        """Return when a function has done something."""
        heard, at = self._socket.recv(100).decode().split()
        assert heard == what, heard
        return float(at)


def pause() -> None:
    """Let the nodes be idle, out of step with their polls."""
    time.sleep(random.uniform(0.3, 0.8))


def cancels(client: Connection, heard: Heard, rounds: int) -> dict[str, list[float]]:
    """Measure submits that start at the other node, and cancels that reach the worker there."""
    found: dict[str, list[float]] = {
        "submit to start": [], "cancel to its worker": [], "cancel to its receipt": []
    }  # fmt: skip
    for _ in range(rounds):
        pause()
        began = time.time()
        task = submit(client, "held", heard.path)
        found["submit to start"].append(heard.time_of("started") - began)
        pause()
        began = time.time()
        rpc(client, "cancel", task=task)
        found["cancel to its receipt"].append(time.time() - began)
        found["cancel to its worker"].append(heard.time_of("cancelled") - began)
    return found


def waits(client: Connection, rounds: int) -> dict[str, list[float]]:
    """Measure waits for ends at the other node."""
    found = []
    for _ in range(rounds):
        task = submit(client, "timed", random.uniform(0.7, 1.2))
        outcome = rpc(client, "wait", task=task)
        found.append(time.time() - outcome["result"])
    return {"end to who waits": found}


def events(client: Connection, rounds: int) -> dict[str, list[float]]:
    """Measure events of a task at the other node."""
    task = submit(client, "ticking", rounds, 0.23)
    rpc(client, "attach", task=task)
    found = []
    while (event := client.receive()["params"])["event"] != "succeeded":
        if event["event"] == "partial":
            found.append(time.time() - event["value"])
    return {"event to who watches": found}


def row(name: str, seconds: list[float]) -> str:
    """Return a row of the table, in milliseconds."""
    ordered = sorted(each * 1000 for each in seconds)
    picked = [ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.95, 1.0)]
    return f"  {name:22}" + "".join(f"{each:8.1f}" for each in picked)


def measure(title: str, store: str, directory: Path, rounds: int) -> None:
    """Print what was measured with one kind of connection."""
    with nodes(store, directory) as client:
        heard = Heard(directory)
        time.sleep(3)  # until each knows of the other
        found = cancels(client, heard, rounds) | waits(client, rounds) | events(client, rounds)
        print(f"{title}; milliseconds: half of them, 95 %, all of them within")
        for name, seconds in found.items():
            print(row(name, seconds))


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", choices=("notified", "polling"))
    given = parser.parse_args()
    with PostgresServer(fsync=True) as server, tempfile.TemporaryDirectory(prefix="taskd-wake-") as name:
        kinds: dict[str, Callable[[], None]] = {}

        def notified() -> None:
            store = server.dsn(server.create_database())
            measure("with notifications", store, Path(name, "notified"), given.rounds)

        def polling() -> None:
            with PgBouncer(server) as bouncer:
                store = bouncer.dsn(server.create_database())
                measure("by polling alone, behind a pgbouncer", store, Path(name, "polling"), given.rounds)

        kinds = {"notified": notified, "polling": polling}
        for kind in [given.only] if given.only else kinds:
            kinds[kind]()


if __name__ == "__main__":
    main()
