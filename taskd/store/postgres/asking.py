"""A connection that waits for the server's answers only so long, and passes on notifications meanwhile."""

from __future__ import annotations

import select
from collections.abc import Sequence
from time import monotonic
from typing import Any, Protocol

import psycopg
from psycopg import Connection
from psycopg.pq import ExecStatus

__all__ = ["Asking", "can_read"]

_GOOD = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)


class Received(Protocol):
    """Gets a notification: `is_own` is whether this connection has sent it."""

    def __call__(self, channel: str, payload: str, *, is_own: bool) -> None: ...


def can_read(descriptors: Sequence[int], seconds: float, *, or_written: bool = False) -> list[int]:
    """Return which descriptors can be read, `or_written`, once one can, or after so many seconds."""
    poll = select.poll()  # which takes descriptors above 1023, unlike `select`
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN | (select.POLLOUT if or_written else 0))
    return [descriptor for descriptor, _ in poll.poll(max(seconds, 0.0) * 1000)]


class Asking:
    """Uses a connection for one thread, by libpq's functions that do not block. Raises `psycopg.Error`."""

    def __init__(self, connection: Connection[Any], seconds: float, received: Received) -> None:
        self._libpq = connection.pgconn
        self._seconds = seconds
        self._received = received

    def ask(self, statement: str, *values: str) -> list[tuple[str, ...]]:
        """Return the rows of a statement, as texts; none of them has a null."""
        libpq = self._libpq
        libpq.send_query_params(statement.encode(), [value.encode() for value in values])
        ending = monotonic() + self._seconds
        while libpq.flush():
            self._wait_for(ending, writable=True)
        rows: list[tuple[str, ...]] = []
        while True:
            while libpq.is_busy():
                self._wait_for(ending)
                self._read()
            result = libpq.get_result()
            if result is None:
                self._take_notifications()
                return rows
            if result.status not in _GOOD:
                raise psycopg.OperationalError(result.get_error_message())
            for row in range(result.ntuples):
                values_of = (result.get_value(row, column) for column in range(result.nfields))
                rows.append(tuple((value or b"").decode() for value in values_of))

    def wait(self, other: int, seconds: float) -> bool:
        """Wait for notifications, or for another descriptor; return whether that can be read."""
        readable = can_read([self._libpq.socket, other], seconds)
        if self._libpq.socket in readable:
            self._read()
        return other in readable

    def _wait_for(self, ending: float, *, writable: bool = False) -> None:
        if not can_read([self._libpq.socket], ending - monotonic(), or_written=writable):
            raise psycopg.OperationalError(f"the server has not answered for {self._seconds:g} s")
        if writable:
            self._libpq.consume_input()

    def _read(self) -> None:
        self._libpq.consume_input()
        self._take_notifications()

    def _take_notifications(self) -> None:
        while (each := self._libpq.notifies()) is not None:
            is_own = each.be_pid == self._libpq.backend_pid
            self._received(each.relname.decode(), each.extra.decode(), is_own=is_own)
