"""A well-behaved client beside the attackers, which measures how long the server takes to answer it.

``python -m tests.soak.probe TASK_PORT [WEB_PORT]`` asks until its standard input ends, and prints a line
of JSON. It is a process of its own, so that the attackers' work does not delay it. Requests are sent when
they are due, whether or not the one before has been answered: a server that stands still for a second
costs twenty measurements, not one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.soak.attacks.attacker import TEXT, Attacker, Connection, Target, frame, rpc

__all__ = ["PING_SECONDS", "Probe", "Series"]

PING_SECONDS = 0.05
CALL_SECONDS = 0.2
"""Seconds between two pings, and between two small calls."""

PATIENCE_SECONDS = 5.0
"""Seconds for which the last requests may still be answered."""

OWN_ADDRESS = "127.0.0.1"


@dataclass
class Series:
    """The requests of one kind: how many, how many errors and how many without an answer; times in ms."""

    sent: int = 0
    unanswered: int = 0
    lost_connections: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    median: float = 0.0
    p99: float = 0.0
    worst: float = 0.0

    def __str__(self) -> str:
        wrong = [f"{count} x error {code}" for code, count in self.errors.items()]
        wrong += [f"{self.unanswered} unanswered"] if self.unanswered else []
        wrong += [f"{self.lost_connections} x disconnected"] if self.lost_connections else []
        times = f"{self.median:.1f} / {self.p99:.1f} / {self.worst:.0f} ms of {self.sent}"
        return ", ".join([times, *wrong])


class _Asking:
    """Sends one request at a time that is due, on one connection, and measures each."""

    def __init__(self, target: Target, method: str, interval: float, token: str, *, websocket: bool) -> None:
        self._token = token
        self._attacker = Attacker(target)
        self._method = method
        self._interval = interval
        self._websocket = websocket
        self._due: dict[int, float] = {}
        self._times: list[float] = []
        self._series = Series()
        self._stopping = False

    async def run(self) -> None:
        """Ask until `stop`."""
        number = 0
        while not self._stopping:
            try:
                connection = await (
                    self._attacker.websocket() if self._websocket else self._attacker.connect()
                )
            except (OSError, TimeoutError):
                self._series.lost_connections += 1
                await asyncio.sleep(self._interval)
                continue
            reading = asyncio.create_task(self._read(connection))
            due = time.monotonic()
            if self._token:
                self._write(connection, rpc(0, "taskd.auth", json.dumps([self._token])))
            try:
                while not reading.done() and not self._stopping:
                    number += 1
                    message = rpc(number, self._method)
                    self._due[number] = time.monotonic()
                    self._series.sent += 1
                    self._write(connection, message)
                    due += self._interval
                    await asyncio.sleep(due - time.monotonic())
                ending = time.monotonic() + PATIENCE_SECONDS
                while self._due and not reading.done() and time.monotonic() < ending:
                    await asyncio.sleep(0.01)
            finally:
                if reading.done() and not self._stopping:
                    self._series.lost_connections += 1
                reading.cancel()
                self._give_up()
                self._attacker.drop(connection)

    def _write(self, connection: Connection, message: bytes) -> None:
        connection.writer.write(frame(TEXT, message.rstrip()) if self._websocket else message)

    def stop(self) -> None:
        """Ask no more; `run` returns once the last requests are answered or given up."""
        self._stopping = True

    def result(self) -> Series:
        """Return what was measured."""
        times = sorted(self._times)
        if times:
            self._series.median = times[len(times) // 2] * 1000
            self._series.p99 = times[int(0.99 * (len(times) - 1))] * 1000
            self._series.worst = times[-1] * 1000
        return self._series

    def _give_up(self) -> None:
        now = time.monotonic()
        self._series.unanswered += len(self._due)
        self._times += [now - sent for sent in self._due.values()]
        self._due.clear()

    async def _read(self, connection: Connection) -> None:
        data = b""
        while True:
            try:
                new = await connection.reader.read(65536)
            except OSError:
                return
            if not new:
                return
            data += new
            now = time.monotonic()
            while True:
                message, data = self._cut(data)
                if message is None:
                    break
                if message:
                    self._answered(json.loads(message), now)

    def _cut(self, data: bytes) -> tuple[bytes | None, bytes]:
        """Return the first whole message, b"" for one that is no answer, or None; and the rest."""
        if not self._websocket:
            line, found, rest = data.partition(b"\n")
            return (line, rest) if found else (None, data)
        if len(data) < 2:
            return None, data
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4]), 4
        elif length == 127:
            length, start = int.from_bytes(data[2:10]), 10
        if len(data) < start + length:
            return None, data
        payload = data[start : start + length] if data[0] & 0x0F == TEXT else b""
        return payload, data[start + length :]

    def _answered(self, reply: dict[str, Any], now: float) -> None:
        sent = self._due.pop(reply["id"], None)
        if sent is None:
            return
        self._times.append(now - sent)
        if "error" in reply:
            code = str(reply["error"]["code"])
            self._series.errors[code] = self._series.errors.get(code, 0) + 1


class Probe:
    """The probe in its own process, seen from the one that attacks."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @staticmethod
    async def start(task_port: int, web_port: int, token: str = "") -> Probe:
        """Start the process, which asks from now on; it shows a token, if there is one."""
        return Probe(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.soak.probe", str(task_port), str(web_port), token),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        )

    async def stop(self) -> dict[str, Series]:
        """Stop it, and return its series by name: "ping", "call", "websocket"."""
        answer, _ = await self._process.communicate(b"")
        return {name: Series(**each) for name, each in json.loads(answer).items()}


async def _probe(task_port: int, web_port: int, token: str) -> dict[str, Series]:
    target = Target(task_port, web_port, OWN_ADDRESS)
    asking = {
        "ping": _Asking(target, "taskd.ping", PING_SECONDS, token, websocket=False),
        "call": _Asking(target, "echo", CALL_SECONDS, token, websocket=False),
    }
    if web_port:
        asking["websocket"] = _Asking(target, "echo", CALL_SECONDS, token, websocket=True)
    running = [asyncio.create_task(each.run()) for each in asking.values()]
    await asyncio.to_thread(sys.stdin.read)
    for each in asking.values():
        each.stop()
    for task in running:
        await task
    return {name: each.result() for name, each in asking.items()}


if __name__ == "__main__":
    given = [*sys.argv[1:], "", ""]
    found = asyncio.run(_probe(int(given[0]), int(given[1] or 0), given[2]))
    print(json.dumps({name: asdict(series) for name, series in found.items()}))
