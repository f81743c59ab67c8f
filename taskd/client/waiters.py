"""Calls that share a connection, told apart by ids of our own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from msgspec import Raw, structs
from twisted.internet.defer import Deferred

from taskd.client.links import OnProgress, report
from taskd.errors import Unreachable
from taskd.messages import Call, Dialect, Outcome, Progress
from taskd.wire.dialects import call_line, parse_reply

__all__ = ["Waiters"]


class Waiters:
    """Who waits for a reply on one connection.

    Every call is sent as JSON-RPC under a number. A notification is sent as a
    request too, so that a full queue shows.
    """

    def __init__(self) -> None:
        self._numbers = count(1)
        self._waiting: dict[int, tuple[bytes, OnProgress | None, Deferred[Outcome]]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, call: Call, on_progress: OnProgress | None) -> tuple[bytes, Deferred[Outcome]]:
        """A new one: the line to send, without its LF, and what fires with the outcome."""
        number = next(self._numbers)
        line = call_line(structs.replace(call, dialect=Dialect.JSON_RPC, id=Raw(b"%d" % number)))
        done: Deferred[Outcome] = Deferred(lambda _: self._forget(number))
        self._waiting[number] = line, on_progress, done
        return line, done

    def _forget(self, number: int) -> None:
        self._waiting.pop(number, None)

    def lines(self) -> Iterator[bytes]:
        """The lines of all that wait: to be sent when the connection is there."""
        return (line for line, _, _ in self._waiting.values())

    def received(self, line: bytes) -> None:
        """A reply, or progress. Raises `ParseError` for what is neither."""
        reply = parse_reply(line)
        number = int(bytes(reply.id)) if reply.id is not None and bytes(reply.id).isdigit() else 0
        entry = self._waiting.get(number)
        if entry is None:
            return  # nobody waits for it any more
        _, on_progress, done = entry
        if isinstance(reply.body, Progress):
            report(on_progress, reply.body)
        else:
            del self._waiting[number]
            done.callback(reply.body)

    def fail(self, error: Unreachable) -> None:
        """The connection is lost, and with it every call."""
        waiting, self._waiting = self._waiting, {}
        for _, _, done in waiting.values():
            done.errback(error)
