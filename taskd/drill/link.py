"""The link from a node to the store's server: a proxy that forwards, and can cut connections or hold them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf
from pathlib import Path
from time import monotonic

__all__ = ["Ends", "StoreLink"]

CHUNK = 65536
"""Bytes that are forwarded at once."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: the close of such a socket resets the connection."""

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Ends]]


class StoreLink:
    """Forwards connections to what `connect` opens. `port` is where it listens on this machine.

    Cut, it resets every connection, and each new one at once. Held, it forwards nothing: what was sent
    meanwhile arrives afterwards, as behind a firewall that drops for a while.
    """

    def __init__(self, connect: Connect) -> None:
        self.port = 0
        self._connect = connect
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._is_cut = False
        self._restored = -inf
        self._forwarding: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen on a port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def start_at(self, path: Path) -> None:
        """Listen on a unix socket instead."""
        self._server = await asyncio.start_unix_server(self._accept, path)

    def cut(self) -> None:
        """Reset every connection, and each that comes, until `restore`."""
        self._is_cut = True
        self._reset_all()

    def hold(self) -> None:
        """Forward nothing until `restore`."""
        self._flows.clear()

    def restore(self) -> None:
        """Forward as before."""
        self._is_cut = False
        self._flows.set()
        self._restored = monotonic()

    def was_disturbed_since(self, when: float) -> bool:
        """Return whether it is cut or held, or was at any time after `when` (of `time.monotonic`)."""
        return self._is_cut or not self._flows.is_set() or self._restored >= when

    async def close(self) -> None:
        """Reset every connection, and accept no other."""
        if self._server is not None:
            self._server.close()
        self._reset_all()
        for task in self._forwarding:
            task.cancel()
        await asyncio.gather(*self._forwarding, return_exceptions=True)

    def _reset_all(self) -> None:
        for writer in self._open:
            _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._forwarding.add(task)
        self._open.add(writer)
        try:
            await self._flows.wait()
            if self._is_cut:
                _reset(writer)
                return
            with suppress(OSError):
                their_reader, their_writer = await self._connect()
                self._open.add(their_writer)
                try:
                    async with asyncio.TaskGroup() as both:
                        both.create_task(self._forward(reader, their_writer))
                        both.create_task(self._forward(their_reader, writer))
                finally:
                    self._open.discard(their_writer)
                    their_writer.close()
        finally:
            self._open.discard(writer)
            self._forwarding.discard(task)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            if writer.can_write_eof():
                writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    if (end := writer.get_extra_info("socket")) is not None:
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
