"""The clients of Python programs, beside what they cannot do without: an exchange on a bare socket."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from statistics import median

from bench.field import MANY, Field
from bench.results import Result, Series, Target, alternate
from taskd.client import Client

UNIT = "µs, median"

MOST = 1.3
"""How many times an exchange on a bare socket a call may take."""


def blocking(field: Field) -> list[Result]:
    """One call at a time by `Client`, and the same request on a bare socket, on the same server."""
    port = field.taskd().port
    rounds = field.settings.latency_rounds
    client = Client(f"127.0.0.1:{port}")
    sock = socket.create_connection(("127.0.0.1", port), 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def exchange(number: int) -> None:
        sock.sendall(b'{"jsonrpc":"2.0","id":%d,"method":"echo","params":[%d]}\n' % (number, number))
        if json.loads(sock.recv(65536))["result"] != number:
            raise ValueError("the answer is another's")

    def call(number: int) -> None:
        if client.call("echo", number) != number:
            raise ValueError("the answer is another's")

    bare = Series("a bare socket", UNIT, "sendall, recv, json.loads")
    ours = Series("Client.call", UNIT, "a connection from its pool")
    alternate(
        field.settings.rounds,
        {"bare": (bare, _timed(exchange, rounds)), "ours": (ours, _timed(call, rounds))},
    )
    sock.close()
    client.close()
    actual = ours.median / bare.median if bare.median else 0.0
    return [
        Result(
            "blocking",
            "A blocking call of a Python program",
            f"One request in flight, on a server with {MANY} workers.",
            [ours, bare],
            [Target(f"{MOST} times a bare socket", MOST, round(actual, 3), "times", at_most=True)],
        )
    ]


def _timed(once: Callable[[int], None], rounds: int) -> Callable[[], float]:
    """Return a measurement of the median of so many calls, in µs."""

    def measure() -> float:
        taken = []
        for number in range(rounds):
            began = time.perf_counter()
            once(number)
            taken.append(time.perf_counter() - began)
        return median(taken) * 1e6

    return measure
