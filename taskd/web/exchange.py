"""The exchange between one HTTP request and the backend: what it asks, and the response that it gets.

An `Exchange` is the wire (`taskd.web.http_wire`) of a peer that lives as long as
the HTTP request. So a request counts as a websocket does: in the byte budget, in the
turns between parties, at a stop, and if its client goes away. The response is sent by the
peer's sender: a long one is cut, and a client that does not take it is disconnected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.web.server import Request as HttpRequest

from taskd.auth.caller import Caller
from taskd.auth.policy import check_function
from taskd.errors import NotAllowed
from taskd.listeners.websocket import WebSocketFactory
from taskd.model import NO_OPTIONS, Failure, Options, Outcome
from taskd.net.backpressure import STALL_GRACE
from taskd.protocol.dialects import BARE
from taskd.protocol.replies import result_or_error
from taskd.protocol.requests import Request
from taskd.web.http_wire import HttpWire
from taskd.web.one_answer import OneAnswer
from taskd.web.responses import LAST_PART, NO_BODY, head_of, part_of
from taskd.web.tracing import traceparent_of

__all__ = ["Exchange"]

SILENT_PARTS = 3
"""Parts like comments that find that the client has taken nothing since the last one, then it is dropped."""

LITTLE = 16384
"""Bytes of a body that are sent together with the head: to copy them costs less than to send twice."""

Awaited = TypeVar("Awaited")


class _Kept:
    """The outcome of what was asked, as it comes out of the session, which does not encode it."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None

    def __call__(self, outcome: Outcome) -> bytes:
        """Keep an outcome until it is taken, and return an empty message in its place."""
        self.outcome = outcome
        return b""

    def take(self) -> Outcome | None:
        """Return the outcome, and forget it."""
        outcome, self.outcome = self.outcome, None
        return outcome


class Exchange(HttpWire):
    """One HTTP request, the calls made for it, and its response.

    `gateway` is the factory of the gateway's websockets, which has all that the
    connections of a gateway share; `caller` is whoever has shown a token. Call `ask`, one at a
    time, or `message`, once; then `respond`, once, or `stream` and `end`. If the client goes
    away, a Deferred that waits is cancelled.
    """

    def __init__(
        self,
        gateway: WebSocketFactory,
        request: HttpRequest,
        caller: Caller | None = None,
        *,
        is_message: bool = False,
    ) -> None:
        kept = _Kept()
        self._kept = kept
        self._is_message = is_message
        self._encode: Callable[[bytes], bytes] | None = None
        self._pushed: list[bytes] = []
        self._has_responded = self._is_refused = False
        self._unsent = self._silent = 0
        backend = gateway.backend
        if is_message:
            one = OneAnswer(backend, traceparent_of(request))
            super().__init__(gateway, request, one, result_or_error, caller)
        else:
            super().__init__(gateway, request, backend, kept, caller)

    @property
    def lacks_token(self) -> bool:
        """Whether tokens are asked for, and none was shown."""
        return self._gate is not None and self._peer.caller is None

    def check_function(self, function: str) -> None:
        """Raise `NotAllowed`, and log that, unless the client may have a function run."""
        try:
            check_function(self._peer.grant, function)
        except NotAllowed as error:
            if self._gate is not None:
                self._gate.note_refusal(self._peer, error)
            raise

    # --- what is asked ---

    def ask(
        self, method: str, params: Mapping[str, Any] | Raw | None = None, options: Options = NO_OPTIONS
    ) -> Deferred[Outcome]:
        """Call a method or a function, and return its outcome; `params` may be JSON text."""
        waiting: Deferred[Outcome] = self.awaiting(Deferred())
        if self._is_lost:
            return waiting
        args = params if isinstance(params, Raw) or params is None else Raw(msgspec.json.encode(params))
        self._peer.ask(Request(method, args, options, BARE))
        return waiting

    def message(self, body: bytes) -> Deferred[bytes | None]:
        """Handle a message of the protocol, and return the reply to it; None if there is none."""
        waiting: Deferred[bytes | None] = self.awaiting(Deferred())
        self._peer.session.receive([body])
        self._peer.session.end_of_input()
        self._peer.flush()
        return waiting

    def awaiting(self, waiting: Deferred[Awaited]) -> Deferred[Awaited]:
        """Return a Deferred that is cancelled if the client goes away before it fires; one at a time."""
        assert self._waiting is None
        if self._is_lost:
            waiting.cancel()
        elif not waiting.called:
            self._waiting = waiting
            waiting.addBoth(self._awaited)
        return waiting

    def _awaited(self, result: Awaited) -> Awaited:
        self._waiting = None
        return result

    def give_up(self, failure: Failure) -> None:
        """Have what is asked fail, while the work goes on."""
        self._peer.give_up(failure)

    def next_turn(self) -> Deferred[None]:
        """Return a Deferred that fires in the next turn of the reactor, between two long steps."""
        waiting: Deferred[None] = Deferred()
        self._gateway.clock.callLater(0, waiting.callback, None)
        return self.awaiting(waiting)

    def _fire(self, result: Outcome | bytes | None) -> None:
        if self._waiting is not None:
            self._waiting.callback(result)

    # --- the response ---

    def respond(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send the response. It is complete when the client has taken it, but for a little."""
        length = {} if status in NO_BODY else {"Content-Length": str(len(body))}
        head = self._head(status, {**(headers or {}), **length})
        shown = b"" if self._request.method == b"HEAD" or status in NO_BODY else body
        sender = self._peer.sender
        if len(shown) <= LITTLE:
            sender.send(head + shown)
        else:
            sender.send(head)
            sender.send(shown)
        self.end()

    def stream(self, headers: Mapping[str, str], encode: Callable[[bytes], bytes] = bytes) -> None:
        """Begin a response that goes on: from now on, what is pushed is sent as `encode` writes it."""
        if self._has_parts:
            headers = {**headers, "Transfer-Encoding": "chunked"}
        else:
            self._channel.persistent = 0
        self._encode = encode
        self._peer.sender.send(self._head(200, headers))
        pushed, self._pushed = self._pushed, []
        for data in self.framed(pushed):
            self._peer.sender.send(data)
        if self._is_refused:
            self.end()

    def send_comment(self, data: bytes) -> None:
        """Send a part of the stream that means nothing; but if others wait to be sent, nothing is needed.

        Call this now and then: a client that takes nothing between several calls is disconnected.
        """
        if self._encode is None or self._has_responded:
            return
        sender = self._peer.sender
        unsent = sender.unsent if sender.congested else 0
        self._silent = self._silent + 1 if unsent and unsent == self._unsent else 0
        self._unsent = unsent
        if self._silent >= SILENT_PARTS:
            self._stalled()
        elif not sender.congested:
            sender.send(self._part(data))

    def end(self) -> None:
        """End the response, once everything is sent."""
        if self._has_responded:
            return
        self._has_responded = True
        if self._encode is not None:
            self._peer.sender.send(LAST_PART if self._has_parts else b"")
        self._peer.session.end_of_input()
        self._peer.flush()

    def _part(self, data: bytes) -> bytes:
        return part_of(data) if self._has_parts else data

    @property
    def _has_parts(self) -> bool:
        return bool(self._request.clientproto == b"HTTP/1.1")

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        return head_of(self._request, status, headers, is_last=self.is_stopping)

    # --- `taskd.listeners.wire.Wire` ---

    def framed(self, messages: list[bytes]) -> list[bytes]:
        """Pass on replies to whom they are for; return what is pushed, as parts of the stream."""
        pieces = []
        for message in messages:
            if not message:
                self._fire(self._kept.take())
            elif self._is_message:
                self._fire(message)
            elif self._has_responded:
                pass  # the stream has ended
            elif self._encode is None:
                self._pushed.append(message)
            elif encoded := self._encode(message):
                pieces.append(self._part(encoded))
        return pieces

    def finish(self) -> None:
        """End the request once everything is sent but for a little; or report that there is no reply."""
        if self._is_message and self._waiting is not None:
            self._fire(None)
        elif not self._has_responded:
            pass  # the reply to a message has been passed on, and is about to be sent
        elif self._peer.sender.congested:
            if self._stalling is None:
                self._stalling = self._gateway.clock.callLater(STALL_GRACE, self._stalled)
        else:
            self._release()
            if not self._request.finished:
                self._request.finish()

    def refuse(self, error: NotAllowed) -> None:
        """End a stream, since the token is not accepted any more; what was asked is still answered."""
        self._is_refused = True
        if self._encode is not None:
            self.end()

    def close(self) -> None:
        """End a stream, since the gateway shuts down; other responses end by themselves."""
        if self._encode is not None:
            self.end()
