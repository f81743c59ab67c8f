"""A link between taskd and PostgreSQL that a test can cut, heal and make slow.

The server's kernel is never asked for anything: a cut needs no rights, and hits no other test.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Literal, Self

from tests.kept import release_port, reserve_port

How = Literal["drop", "rst"]
Way = Literal["up", "down"]
"""To the server, and back from it."""

CHUNK = 65536

MOST_HELD = 1 << 20
"""Bytes of one direction that are on the way; more are not read meanwhile."""

PATIENCE = 10.0
"""Seconds in which the link's thread must have done what it was asked to."""

HANDSHAKE = 0.02
"""Seconds after which the kernel has ignored a connection to this machine: else it takes microseconds."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: a close discards everything, and sends RST."""


class _Direction:
    """The bytes of one connection that go one way."""

    def __init__(self, way: Way, source: socket.socket, target: socket.socket) -> None:
        self.way, self.source, self.target = way, source, target
        self.is_held = False
        self.has_ended = False
        self.is_over = False
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._size = 0

    @property
    def reads(self) -> bool:
        return not self.is_held and not self.has_ended and self._size < MOST_HELD

    @property
    def due(self) -> float | None:
        """The instant when it can send on, None if it has nothing to send."""
        if self.is_held or self.is_over:
            return None
        if self._chunks:
            return self._chunks[0][0]
        return 0.0 if self.has_ended else None

    def read(self, due: float) -> bytes:
        """Read what has come, to be sent on when it is due."""
        data = self.source.recv(CHUNK)
        if data:
            self._chunks.append((due, data))
            self._size += len(data)
        else:
            self.has_ended = True
        return data

    def write(self, now: float) -> None:
        """Send on what is due, and the end after everything."""
        while self._chunks and self._chunks[0][0] <= now:
            due, data = self._chunks[0]
            sent = self.target.send(data)
            self._size -= sent
            self._chunks.popleft()
            if sent < len(data):
                self._chunks.appendleft((due, data[sent:]))
        if self.has_ended and not self._chunks:
            self.is_over = True
            self.target.shutdown(socket.SHUT_WR)


class _Connection:
    """A client's connection and the one to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.setblocking(False)
        self.directions = (_Direction("up", client, server), _Direction("down", server, client))

    def reset(self) -> None:
        """Close both ends by RST."""
        for end in (self.client, self.server):
            _reset(end)

    def leave_server(self) -> None:
        """Close the client's end by RST, and the server's in order: it gets everything sent before."""
        _reset(self.client)
        self.server.close()


def _reset(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    end.close()


class Link:
    """Forwards from a port of its own to a server's port on this machine, in a thread.

    `latency` is the seconds that bytes take in each direction. Use as a context manager, or `close` it.
    """

    def __init__(self, server_port: int, latency: float = 0.0) -> None:
        self.latency = latency
        self.port = reserve_port()
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.setblocking(False)
        self._fillers: list[socket.socket] = []
        self._resets = False
        self._held: set[Way] = set()
        self._forgotten: list[_Connection] = []
        self._connections: list[_Connection] = []
        self._pattern: bytes | None = None
        self._caught = threading.Event()
        self._calls: deque[Callable[[], None]] = deque()
        self._wake_end, self._wake = os.pipe()
        self._is_open = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- what a test asks for --------------------------------------------------

    def cut(self, how: How, way: Way | None = None) -> None:
        """Cut the link; it is cut when this returns.

        By "drop" bytes stay on the way (with `way`, only those of this direction), nothing is closed, and
        new connections hang, without `way` before they are accepted. TCP's keepalives are answered all the
        same, since each half of the link is whole: only a time-out of the program's own notices. By "rst"
        every connection is reset, and so is each new one.
        """
        self._call(lambda: self._do_cut(how, way))

    def heal(self, *, forget: bool = False) -> None:
        """Let bytes pass again.

        What a drop has held back comes late, as TCP sends it again; with `forget` the connections
        from before are left as they are, open and dumb, as by a firewall that has forgotten them.
        """
        self._call(lambda: self._do_heal(forget=forget))

    def cut_reply_to(self, pattern: bytes) -> None:
        """Let a message with these bytes pass to the server once, and reset its client before any reply.

        The server gets all that was sent, then the connection's end; other connections go on.
        `wait_until_caught` returns when it has happened.
        """

        def set_pattern() -> None:
            self._pattern = pattern
            self._caught.clear()

        self._call(set_pattern)

    def wait_until_caught(self) -> None:
        """Return when a connection was reset by `cut_reply_to`; fail after some seconds."""
        assert self._caught.wait(PATIENCE), "nothing like that was sent"

    @property
    def connections(self) -> int:
        """The number of open connections, including those of a cut link."""
        return len(self._connections) + len(self._forgotten)

    def close(self) -> None:
        """Close the listener and reset every connection."""
        if not self._is_open:
            return

        def stop() -> None:
            self._is_open = False

        self._call(stop)
        self._thread.join(PATIENCE)
        for connection in (*self._connections, *self._forgotten):
            connection.reset()
        for each in (self._listener, *self._fillers):
            each.close()
        os.close(self._wake)
        os.close(self._wake_end)
        release_port(self.port)

    # --- in the thread ---------------------------------------------------------

    def _call(self, function: Callable[[], None]) -> None:
        """Have the thread call a function, and wait until it has."""
        done = threading.Event()

        def call() -> None:
            try:
                function()
            finally:
                done.set()

        self._calls.append(call)
        os.write(self._wake, b".")
        assert done.wait(PATIENCE), "the link's thread does not answer"

    def _do_cut(self, how: How, way: Way | None) -> None:
        if how == "rst":
            self._resets = True
            for connection in self._connections:
                connection.reset()
            self._connections.clear()
            return
        self._held |= {way} if way else {"up", "down"}
        self._hold()
        if way is None:
            self._fill()

    def _hold(self) -> None:
        for direction in self._directions():
            direction.is_held = direction.way in self._held

    def _fill(self) -> None:
        """Have the kernel ignore whoever connects: the queue to be accepted gets no place, and is full."""
        self._listener.listen(0)
        while True:
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)
            _, connected, _ = select.select([], [filler], [], HANDSHAKE)
            if not connected:
                return

    def _do_heal(self, *, forget: bool) -> None:
        self._resets = False
        self._held.clear()
        if forget:
            self._forgotten += self._connections
            self._connections.clear()
        self._hold()
        fillers = {filler.getsockname() for filler in self._fillers}
        with suppress(BlockingIOError):
            while fillers:
                accepted, address = self._listener.accept()
                if address in fillers:
                    accepted.close()
                else:
                    self._open(accepted)
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        self._listener.listen()

    def _directions(self) -> Iterator[_Direction]:
        for connection in self._connections:
            yield from connection.directions

    def _run(self) -> None:
        while self._is_open:
            for descriptor, _ in self._poll():
                if descriptor == self._wake_end:
                    os.read(self._wake_end, 1)
                    self._calls.popleft()()
                elif descriptor == self._listener.fileno():
                    with suppress(OSError):  # gone again
                        self._accept(self._listener.accept()[0])
            for connection in list(self._connections):
                self._forward(connection)

    def _poll(self) -> list[tuple[int, int]]:
        """Wait until something can be done."""
        poll = select.poll()
        masks: dict[int, int] = {self._wake_end: select.POLLIN}
        if not self._fillers:
            masks[self._listener.fileno()] = select.POLLIN
        now, first = time.monotonic(), None
        for direction in self._directions():
            if direction.reads:
                source = direction.source.fileno()
                masks[source] = masks.get(source, 0) | select.POLLIN
            due = direction.due
            if due is not None and due <= now:
                target = direction.target.fileno()
                masks[target] = masks.get(target, 0) | select.POLLOUT
            elif due is not None:
                first = due if first is None else min(first, due)
        for descriptor, mask in masks.items():
            poll.register(descriptor, mask)
        return poll.poll(None if first is None else max(0.0, first - now) * 1000 + 1)

    def _accept(self, client: socket.socket) -> None:
        if self._resets:
            _reset(client)
        else:
            self._open(client)

    def _open(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._server_port), PATIENCE)
        except OSError:
            _reset(client)
            return
        self._connections.append(_Connection(client, server))
        self._hold()

    def _forward(self, connection: _Connection) -> None:
        """Move the bytes of one connection as far as they go now."""
        try:
            for direction in connection.directions:
                if direction.reads:
                    with suppress(BlockingIOError):
                        data = direction.read(time.monotonic() + self.latency)
                        if direction.way == "up" and self._pattern is not None and self._pattern in data:
                            self._catch(connection, direction)
                            return
                due = direction.due
                if due is not None and due <= time.monotonic():
                    with suppress(BlockingIOError):
                        direction.write(time.monotonic())
        except OSError:
            connection.reset()
            self._connections.remove(connection)
            return
        if all(direction.is_over for direction in connection.directions):
            connection.client.close()
            connection.server.close()
            self._connections.remove(connection)

    def _catch(self, connection: _Connection, direction: _Direction) -> None:
        """Send on what was read, and nothing back."""
        self._pattern = None
        connection.server.setblocking(True)
        direction.write(float("inf"))
        connection.leave_server()
        self._connections.remove(connection)
        self._caught.set()
