"""One attacker: where it attacks, what it has done, and what it has found that should not be."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import struct
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

__all__ = ["ANSWER_SECONDS", "Attacker", "Connection", "Target", "bare", "frame", "rpc"]

ANSWER_SECONDS = 10.0
"""Seconds within which even an attacker gets an answer, or a close."""

CONNECT_SECONDS = 5.0
"""Seconds after which an attacker gives a connection up: it has enough others."""

SMALL_BUFFER = 4096
"""Bytes of the receive buffer of a client that does not read: the kernel keeps little for it."""

_NO_LINGER = struct.pack("ii", 1, 0)
_FINAL = _MASKED = 0x80
_NO_MASK = b"\0\0\0\0"
CONTINUATION, TEXT, BINARY, CLOSE, PING = 0, 1, 2, 8, 9


@dataclass(frozen=True)
class Target:
    """A server: the ports of its task server and its gateway, and the address that attacks it."""

    task_port: int
    web_port: int
    source: str = "127.0.0.2"
    """Another loopback address than that of the well-behaved client, and so another party."""
    host: str = "127.0.0.1"
    max_message: int = 10 * 1024 * 1024
    """Bytes of the longest message: the server's default."""


class Connection:
    """One of an attacker's connections. Sending gives up when the server no longer reads."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.received = 0
        """The bytes that have been read, as far as whoever reads counts them."""

    async def send(self, data: bytes, patience: float = 1.0) -> bool:
        """Send bytes; return whether the server has taken most of them within `patience` seconds.

        The rest stays in the buffer. Raises `OSError` if the connection is closed.
        """
        if self.writer.is_closing():
            raise ConnectionResetError("closed")
        self.writer.write(data)
        try:
            async with asyncio.timeout(patience):  # `wait_for` may swallow a cancel
                await self.writer.drain()
        except TimeoutError:
            return False
        return True

    @property
    def unsent(self) -> int:
        """The bytes that the server has not taken yet."""
        return self.writer.transport.get_write_buffer_size()

    async def line(self) -> dict[str, Any] | None:
        """Return the next line, parsed as JSON, or None at the end or a reset.

        Raises `TimeoutError` after `ANSWER_SECONDS`.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                line = await self.reader.readline()
        except (OSError, ValueError):
            return None
        return json.loads(line) if line.endswith(b"\n") else None

    async def rest(self, at_most: int = 1024 * 1024) -> tuple[bytes, str]:
        """Read to the end; return what came, and how it ended: "close", "reset" or "never"."""
        got = b""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while len(got) < at_most:
                    data = await self.reader.read(65536)
                    if not data:
                        return got, "close"
                    got += data
        except TimeoutError:
            return got, "never"
        except OSError:
            return got, "reset"
        return got, "never"

    def end_sending(self) -> None:
        """Shut down the sending side."""
        with suppress(OSError):
            self.writer.write_eof()

    def close(self) -> None:
        """Close at once, with whatever is unsent."""
        self.writer.transport.abort()

    def reset(self) -> None:
        """Close with a RST, like a machine that was switched off and on."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.writer.transport.abort()


class Attacker:
    """The means of an attack: connections to `target`, which all end with `close`.

    `deeds` counts what it did; `wrong` has what it found that the server must not do. `patience`
    multiplies the seconds within which the server must have done something.
    """

    def __init__(self, target: Target, patience: float = 1.0) -> None:
        self.target = target
        self.patience = patience
        self.deeds: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._open: list[Connection] = []

    # --- connections ---

    async def connect(self, port: int | None = None, *, reads: bool = True) -> Connection:
        """Connect to the task server, or to another port. Raises `OSError`.

        If it does not read, the connection takes nothing but what the smallest buffer of the kernel holds.
        """
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if not reads:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            sock.bind((self.target.source, 0))
            address = (self.target.host, port or self.target.task_port)
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.sock_connect(sock, address)
            reader, writer = await asyncio.open_connection(sock=sock, limit=16 * 1024 * 1024)
        except BaseException:
            sock.close()
            raise
        if not reads:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection = Connection(reader, writer)
        self._open = [each for each in self._open if not each.writer.is_closing()]
        self._open.append(connection)
        return connection

    async def websocket(self, *, reads: bool = True, headers: str = "") -> Connection:
        """Open a websocket. Raises `OSError` if the gateway does not."""
        connection = await self.connect(self.target.web_port)
        await connection.send(self.handshake(headers))
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                head = await connection.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            raise ConnectionRefusedError("no websocket") from error
        if b" 101 " not in head:
            raise ConnectionRefusedError(head.split(b"\r\n", 1)[0].decode())
        if not reads:
            connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        return connection

    def handshake(self, headers: str = "", *, host: str = "", version: int = 13) -> bytes:
        """Return the request that opens a websocket."""
        key = base64.b64encode(os.urandom(16)).decode()
        host = host or f"{self.target.host}:{self.target.web_port}"
        return (
            f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: {version}\r\n{headers}\r\n"
        ).encode()

    def drop(self, connection: Connection) -> None:
        """Close one connection and forget it."""
        connection.close()
        if connection in self._open:
            self._open.remove(connection)

    def close(self) -> None:
        """Close all connections."""
        for connection in self._open:
            connection.close()
        self._open = []

    # --- what the server says ---

    async def status(self) -> dict[str, Any]:
        """Return the server's status, asked for on a connection of its own."""
        connection = await self.connect()
        try:
            await connection.send(rpc(1, "taskd.status"))
            answer = await connection.line()
        finally:
            self.drop(connection)
        if answer is None or "result" not in answer:
            raise ConnectionResetError(f"no status: {answer}")
        status: dict[str, Any] = answer["result"]
        return status

    async def runs_of(self, function: str) -> int:
        """Return how many tasks of a function the server has begun or has waiting."""
        status = await self.status()
        for each in status["functions"]:
            if each["name"] == function:
                return sum(value for key, value in each.items() if key in _TASKS)
        return 0

    async def wait_until(self, holds: Any, seconds: float) -> bool:
        """Ask for the status until `holds(status)` or the time is over; return whether it holds."""
        ending = time.monotonic() + seconds * self.patience
        while True:
            try:
                if holds(await self.status()):
                    return True
            except (OSError, TimeoutError):
                self.deeds["status not answered"] += 1
            if time.monotonic() > ending:
                return False
            await asyncio.sleep(0.1)


_TASKS = ("done", "failed", "running", "waiting", "timed_out", "cancelled")


def rpc(request_id: int | None, method: str, params: str = "[]", options: str = "") -> bytes:
    """Return a line with a JSON-RPC request, or a notification; `params` and `options` are JSON."""
    identity = "" if request_id is None else f'"id":{request_id},'
    extra = f',"options":{options}' if options else ""
    return f'{{"jsonrpc":"2.0",{identity}"method":"{method}","params":{params}{extra}}}\n'.encode()


def bare(function: str, args: str = "[]", options: str = "") -> bytes:
    """Return a line with a bare request."""
    extra = f',"options":{options}' if options else ""
    return f'{{"function":"{function}","args":{args}{extra}}}\n'.encode()


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """Return a frame, whose mask leaves the data as it is."""
    opcode |= _FINAL if final else 0
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", opcode, _MASKED | length)
    elif length < 0x10000:
        head = struct.pack("!BBH", opcode, _MASKED | 126, length)
    else:
        head = struct.pack("!BBQ", opcode, _MASKED | 127, length)
    return head + _NO_MASK + payload
