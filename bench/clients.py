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

TURN = 50
"""Calls in one turn."""

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
    both = _Interleaved(exchange, call, rounds)
    alternate(field.settings.rounds, {"bare": (bare, both.measure), "ours": (ours, lambda: both.second)})
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


class _Interleaved:
    """Measures two things in turns of a few calls, so that both have the same share of what else goes on."""

    def __init__(self, first: Callable[[int], None], second: Callable[[int], None], rounds: int) -> None:
        self._both = (first, second)
        self._rounds = rounds
        self.second = 0.0

    def measure(self) -> float:
        """Return the median of the first, in µs, and keep that of the second."""
        taken: tuple[list[float], list[float]] = ([], [])
        for began in range(0, self._rounds, TURN):
            for once, times in zip(self._both, taken, strict=True):
                for number in range(began, began + TURN):
                    start = time.perf_counter()
                    once(number)
                    times.append(time.perf_counter() - start)
        first, self.second = (median(times) * 1e6 for times in taken)
        return first
