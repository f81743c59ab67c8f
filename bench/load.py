"""Load for a running task server, with every reply checked; prints JSON.

    python bench/load.py pipelined --requests 200000 --connections 50 --in-flight 16
    python bench/load.py connections --requests 20000 --at-once 50
    python bench/load.py naps --seconds 10 --connections 100
    python bench/load.py trickle --pid PID_OF_THE_DAEMON

The server runs `bench/tasks.py` and listens on a TCP port of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

RECEIVE_SIZE = 1 << 18
NAP = 0.02


class Mistake(Exception):
    """A reply that is wrong, missing or out of order."""


class Pipe:
    """One connection with `in_flight` requests under way; replies must come in request order."""

    def __init__(self, port: int, requests: Iterator[tuple[bytes, bytes]], in_flight: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests = requests
        self._expected: list[bytes] = []
        self._rest = b""
        self._send(in_flight)
        self.socket.setblocking(False)

    def _send(self, number: int) -> None:
        batch = list(islice(self._requests, number))
        self._expected += [reply for _, reply in batch]
        if batch:
            self.socket.sendall(b"".join(line for line, _ in batch))

    def receive(self) -> int:
        """Take what is there, check it, and send as many requests again; how many replies there were."""
        data = self.socket.recv(RECEIVE_SIZE)
        if not data:
            raise Mistake("the server closed the connection")
        *lines, self._rest = (self._rest + data).split(b"\n")
        if lines != self._expected[: len(lines)]:
            wrong = next(pair for pair in zip(lines, self._expected, strict=False) if pair[0] != pair[1])
            raise Mistake(f"got {wrong[0][:200]!r} where {wrong[1]!r} was due")
        del self._expected[: len(lines)]
        self._send(len(lines))
        return len(lines)

    @property
    def is_done(self) -> bool:
        """Whether every request has been answered."""
        return not self._expected


def echoes(numbers: Iterator[int]) -> Iterator[tuple[bytes, bytes]]:
    """Requests with a number each, and the replies that are due."""
    for number in numbers:
        yield b'{"function":"echo","args":[%d]}\n' % number, b"%d" % number


def naps(until: float) -> Iterator[tuple[bytes, bytes]]:
    """Requests to sleep 20 ms, until a time."""
    while time.monotonic() < until:
        yield b'{"function":"nap","args":[%g]}\n' % NAP, b"%g" % NAP


def drive(pipes: list[Pipe]) -> int:
    """Serve the connections until all are done; the number of replies."""
    selector = selectors.DefaultSelector()
    for pipe in pipes:
        selector.register(pipe.socket, selectors.EVENT_READ, pipe)
    replies = 0
    left = len(pipes)
    while left:
        for key, _ in selector.select(60):
            replies += key.data.receive()
            if key.data.is_done:
                selector.unregister(key.fileobj)
                key.data.socket.close()
                left -= 1
    return replies


def pipelined(options: argparse.Namespace) -> dict[str, Any]:
    """Bare requests over connections that stay open."""
    began = time.monotonic()
    numbers = iter(range(options.requests))
    pipes = [Pipe(options.port, echoes(numbers), options.in_flight) for _ in range(options.connections)]
    replies = drive(pipes)
    seconds = time.monotonic() - began
    if replies != options.requests:
        raise Mistake(f"{replies} replies to {options.requests} requests")
    return {"replies": replies, "seconds": round(seconds, 2), "per_second": round(replies / seconds)}


def connections(options: argparse.Namespace) -> dict[str, Any]:
    """A connection for each request."""
    began = time.monotonic()
    numbers = count()
    selector = selectors.DefaultSelector()

    def open_one() -> None:
        pipe = Pipe(options.port, echoes(islice(numbers, 1)), 1)
        selector.register(pipe.socket, selectors.EVENT_READ, pipe)

    started = min(options.at_once, options.requests)
    for _ in range(started):
        open_one()
    done = 0
    while done < options.requests:
        for key, _ in selector.select(60):
            key.data.receive()
            if key.data.is_done:
                done += 1
                selector.unregister(key.fileobj)
                key.data.socket.close()
                if started < options.requests:
                    open_one()
                    started += 1
    seconds = time.monotonic() - began
    return {"connections": done, "seconds": round(seconds, 2), "per_second": round(done / seconds)}


def sleeping(options: argparse.Namespace) -> dict[str, Any]:
    """How near the pool comes to the ideal, with one sleep of 20 ms at a time on each connection."""
    began = time.monotonic()
    until = began + options.seconds
    replies = drive([Pipe(options.port, naps(until), 1) for _ in range(options.connections)])
    seconds = time.monotonic() - began
    ideal = options.connections / NAP
    return {
        "replies": replies,
        "per_second": round(replies / seconds),
        "ideal": round(ideal),
        "percent_of_ideal": round(100 * replies / seconds / ideal, 1),
    }


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used (proc(5), fields 14 and 15 of stat)."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def trickle(options: argparse.Namespace) -> dict[str, Any]:
    """Messages of growing size in segments of 1 KiB: the server's processor time for each MiB."""
    figures = {}
    for mebibytes in (1, 2, 5, 9.9):
        size = int(mebibytes * 1024 * 1024)
        message = b'{"function":"taskd.ping","args":{},"options":{}%s}\n' % (b" " * size)
        sock = socket.create_connection(("127.0.0.1", options.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        before = cpu_seconds(options.pid)
        for start in range(0, len(message), 1024):
            sock.sendall(message[start : start + 1024])
        if sock.recv(RECEIVE_SIZE) != b'"pong"\n':
            raise Mistake("no pong")
        sock.close()
        used = cpu_seconds(options.pid) - before
        figures[f"{mebibytes} MiB"] = {
            "cpu_seconds": round(used, 2),
            "cpu_ms_per_MiB": round(1000 * used / mebibytes, 1),
        }
    return figures


def main() -> None:
    """Run one kind of load."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=12345)
    kinds = parser.add_subparsers(required=True)
    kind = kinds.add_parser("pipelined")
    kind.set_defaults(run=pipelined)
    kind.add_argument("--requests", type=int, default=200_000)
    kind.add_argument("--connections", type=int, default=50)
    kind.add_argument("--in-flight", type=int, default=16)
    kind = kinds.add_parser("connections")
    kind.set_defaults(run=connections)
    kind.add_argument("--requests", type=int, default=20_000)
    kind.add_argument("--at-once", type=int, default=50)
    kind = kinds.add_parser("naps")
    kind.set_defaults(run=sleeping)
    kind.add_argument("--seconds", type=float, default=10.0)
    kind.add_argument("--connections", type=int, default=100)
    kind = kinds.add_parser("trickle")
    kind.set_defaults(run=trickle)
    kind.add_argument("--pid", type=int, required=True, help="of the daemon")
    options = parser.parse_args()
    try:
        json.dump(options.run(options), sys.stdout, indent=2)
    except Mistake as mistake:
        sys.exit(f"wrong: {mistake}")
    print()


if __name__ == "__main__":
    main()
