"""Server-Sent Events: the events of one task or batch as a stream that goes on until the last one.

Each has the number of the event as its ``id``, so that a browser which connects
again names the last one that it has got. Comments are sent between events, so
that proxies and the client see that the connection lives.
"""

from __future__ import annotations

import random
from typing import Any, Protocol

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from taskd.store.records import ENDED

__all__ = ["ENDED_STATES", "HEARTBEAT_SECONDS", "STREAM_HEADERS", "EventStream", "StreamExchange"]

HEARTBEAT_SECONDS = 15.0
"""Seconds between two comments: nginx and HAProxy, and whoever else forwards a stream, close one that is
silent for a minute or less."""

RETRY_MILLISECONDS = (1000, 3000)
"""The bounds of the time after which a browser connects again. Each gets a random one, so that a thousand
pages do not come back together to a server that has been restarted."""

ENDED_STATES = frozenset(state.name.lower() for state in ENDED)
"""The states of tasks and batches that do nothing more by themselves."""

_ENDS = ENDED_STATES | {"ended", "detached"}
"""The events with which a task or a batch ends, after which only somebody's retry brings others."""

STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "X-Accel-Buffering": "no",  # nginx sends each event on at once
}


class StreamExchange(Protocol):
    """The exchange of an HTTP request (`taskd.web.exchange.Exchange`), as far as a stream needs it."""

    def send_comment(self, data: bytes) -> None:
        """Send a part of the stream that means nothing, if it is needed."""

    def end(self) -> None:
        """End the response."""


class _Line(msgspec.Struct):
    params: Raw


class _Numbered(msgspec.Struct):
    seq: int
    event: str


_line = msgspec.json.Decoder(_Line)
_numbered = msgspec.json.Decoder(_Numbered)


class EventStream:
    """The events of one task or batch on their way to one client.

    `encode` is called with each notification ``taskd.event``. `seq` is the number
    of the last event that there was when the stream began: what had ended
    before that has gone on since.
    """

    def __init__(self, clock: IReactorTime, exchange: StreamExchange, seq: int) -> None:
        self._clock = clock
        self._exchange = exchange
        self._seq = seq
        self._timer: IDelayedCall | None = None

    def begin(self, finished: Deferred[Any]) -> None:
        """Send the first comment, and then one now and then until `finished` fires, in whatever way."""
        finished.addBoth(self._stop)
        self._exchange.send_comment(b"retry: %d\n\n" % random.randint(*RETRY_MILLISECONDS))  # noqa: S311
        self._timer = self._clock.callLater(HEARTBEAT_SECONDS, self._beat)

    def _beat(self) -> None:
        self._timer = self._clock.callLater(HEARTBEAT_SECONDS, self._beat)
        self._exchange.send_comment(b":\n\n")

    def _stop(self, _: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def encode(self, line: bytes) -> bytes:
        """Return a notification as a server-sent event; the stream ends behind the last one."""
        params = _line.decode(line).params
        event = _numbered.decode(params)
        if event.event in _ENDS and event.seq >= self._seq:
            self._clock.callLater(0, self._exchange.end)
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.event.encode(), params)
