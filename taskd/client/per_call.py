"""A connection for each call, as Workerman's example has it."""

from __future__ import annotations

from msgspec import structs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure as TwistedFailure

from taskd.client.answers import lost
from taskd.client.conversation import MAX_REPLY, PING_ID
from taskd.client.link import CLOSED, Connection, Meter, OnProgress, report
from taskd.client.pending import CANCELLED_UNSENT, NO_REPLY
from taskd.client.slots import ConnectionSlots
from taskd.client.tokens import AUTH_ID, Credentials
from taskd.client.twisted_tokens import TokenKeeper
from taskd.errors import Busy, ParseError, TimedOut
from taskd.model import Call, Failure, Outcome, Progress, Result
from taskd.net.buffered_socket import BufferedSocket
from taskd.net.client_transport import Connecting, connector
from taskd.net.party_keys import ends_of
from taskd.net.reactor import Reactor
from taskd.protocol.dialects import BARE, JSON_RPC, Dialect
from taskd.protocol.replies import EventPushed, parse_bare_reply, parse_reply
from taskd.protocol.request_lines import cancel_line, request_line
from taskd.scheduler.arrivals import NO_ROOM

__all__ = ["PerCallLink"]

_SHORTEST = 0.001
"""Seconds: the least that is left of a deadline, which must not be zero."""

_ID = b"1"
"""The id of the one request of a connection, unless it is a bare one, which has none."""


class _Exchange(Connection):
    """A connection for one call. Is a `taskd.client.link.PendingCall`."""

    def __init__(
        self,
        link: PerCallLink,
        call: Call,
        on_progress: OnProgress | None,
        dialect: Dialect,
    ) -> None:
        self.outcome: Deferred[Outcome] = Deferred()
        self._link = link
        self._call = call
        self._on_progress = on_progress
        self._dialect = dialect
        self._is_waiting = False
        self._deadline: IDelayedCall | None = None
        self._own_end: object = None
        self._has_ended = False
        self._is_cancelled = False
        self._is_detached = False
        self.connecting: Connecting | None = None
        self._keeper: TokenKeeper | None = None
        self._token: str | None = None

    # --- for a connection that may have to wait for a slot ---

    def start(self) -> None:
        """Connect, once there is a slot for the connection."""
        slots = self._link.slots
        try:
            if slots is None or slots.take(self, self._call.options.caller):
                self._connect()
                return
        except Busy as error:
            self._end()
            self.outcome.callback(Failure.of(error))
            return
        self._is_waiting = True
        if self._call.options.deadline is not None:
            self._deadline = self._link.reactor.callLater(self._call.options.deadline, self._deadline_over)

    def begin(self) -> None:
        """Connect, since there is a slot now. As `taskd.client.slots.Waiting.begin`."""
        self._is_waiting = False
        if self._deadline is not None:
            left = max(self._deadline.getTime() - self._link.reactor.seconds(), _SHORTEST)
            self._deadline.cancel()
            options = structs.replace(self._call.options, deadline=left)
            self._call = Call(self._call.function, self._call.args, options)
        self._connect()

    def _connect(self) -> None:
        credentials = self._link.credentials
        if credentials is None:
            self.connecting = self._link.connect(self)
        else:
            self._keeper = TokenKeeper(self._link.reactor, credentials, self._show)
            self._keeper.first(self._connect_with, self._denied)

    def _connect_with(self, token: str) -> None:
        self._token = token
        self.connecting = self._link.connect(self)

    def _denied(self, failure: Failure) -> None:
        self._end()
        self._give_slot_back()
        self.outcome.callback(failure)

    def _show(self, token: str) -> None:
        assert self._keeper is not None
        self._send(self._keeper.shown.line(token))

    def _wait_no_more(self) -> None:
        assert self._link.slots is not None
        self._is_waiting = False
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._link.slots.forget(self, self._call.options.caller)

    def _deadline_over(self) -> None:
        seconds = self._call.options.deadline
        self._wait_no_more()
        self._end()
        self.outcome.callback(
            Failure.of(
                TimedOut(
                    f"{self._call.function} was not started within its deadline of {seconds:g} s",
                    limit="deadline",
                    seconds=seconds,
                )
            )
        )

    def opened(self) -> None:
        self._own_end = self._link.is_open(self)
        if not self._has_ended:
            line = request_line(self._call, _ID, self._dialect)
            if self._keeper is not None and self._token is not None:
                line = b"%b\n%b" % (self._keeper.shown.first(self._token), line)
            self._send(line)
            if self._is_detached:
                self._finish(NO_REPLY)

    def _send(self, line: bytes) -> None:
        self.transport.write(line + b"\n")
        if self.heartbeat is not None:
            self.heartbeat.sent()

    # --- `taskd.client.link.PendingCall` ---

    def cancel(self) -> None:
        """Have the task cancelled. As `PendingCall.cancel`.

        A bare call that was sent has no id to be named by. If it is to end with its connection, the
        sending side of that is shut down; else nothing happens.
        """
        if self._has_ended or self._is_cancelled:
            return
        self._is_cancelled = True
        if not self.is_open:
            self._drop()
            self.outcome.callback(CANCELLED_UNSENT)
        elif self._dialect is JSON_RPC:
            self._send(cancel_line(_ID))
        elif self._call.options.on_disconnect == "cancel":
            self.transport.loseWriteConnection()

    def detach(self) -> None:
        """Close the connection once the call is sent. As `PendingCall.detach`.

        That cancels the task if its `on_disconnect` is "cancel".
        """
        self._is_detached = True
        if self.is_open and not self._has_ended:
            self._finish(NO_REPLY)

    # --- the end ---

    def close(self) -> None:
        """Close at once; the call fails."""
        self._drop()
        self.outcome.errback(lost(self._link.server, CLOSED, sent=self.is_open))

    def _drop(self) -> None:
        self._end()
        if self._is_waiting:
            self._wait_no_more()
        elif self.transport is not None:
            self.transport.abortConnection()
        elif self.connecting is not None:
            self.connecting.cancel()
        else:  # it waits for a token
            self._give_slot_back()

    def _give_slot_back(self) -> None:
        self._link.is_closed(self._own_end, self._call.options.caller)

    def drop_reply(self) -> None:
        """End the call without its reply, for which there is no room. As `Metered.drop_reply`."""
        self._drop()
        self.outcome.callback(NO_ROOM)

    def _end(self) -> None:
        self._has_ended = True
        if self.heartbeat is not None:
            self.heartbeat.stop()
        if self.meter is not None:
            self.meter.ended()
            self.meter = None
        if self._keeper is not None:
            self._keeper.stop()
        self._link.forget(self)

    def _finish(self, outcome: Outcome) -> None:
        self._end()
        self.transport.loseConnection()
        self.outcome.callback(outcome)

    def failed(self, reason: TwistedFailure) -> None:
        """Fail the call: the connection could not be made, or is lost."""
        self._give_slot_back()
        if not self._has_ended:
            self._end()
            why = self.why(reason)
            was_sent = self.is_open and not self.is_foreign
            self.outcome.errback(lost(self._link.server, why, sent=was_sent))

    # --- what comes back ---

    def lines_received(self, lines: list[bytes]) -> None:
        if self.heartbeat is not None:
            self.heartbeat.received()
        for line in lines:
            if self._has_ended:
                return
            try:
                is_bare = self._dialect is BARE and not self._is_own_answer(line)
                body = parse_bare_reply(line) if is_bare else self._body(line)
            except ParseError as error:
                self.refuse(line, error)
                return
            if isinstance(body, Progress):
                report(self._on_progress, body)
            elif body is None or isinstance(body, EventPushed):
                continue  # the answer to a ping; or pushed before the connection of an attach is closed
            else:
                self._finish(body)

    def _is_own_answer(self, line: bytes) -> bool:
        """Return whether a line answers a ping or a token, which have ids even if the call is a bare one.

        The result of a bare call may look the same, so only what is awaited counts.
        """
        awaited = []
        if self._keeper is not None and self._keeper.shown.awaits_answer:
            awaited.append(AUTH_ID)
        if self.heartbeat is not None:
            awaited.append(PING_ID)
        if not awaited or not line.startswith(b'{"jsonrpc"'):
            return False
        try:
            reply = parse_reply(line)
        except ParseError:
            return False
        return reply.id is not None and bytes(reply.id) in awaited

    def _body(self, line: bytes) -> Outcome | Progress | EventPushed | None:
        """Read a reply, or what comes before it; return None for the answer to a ping. Raises `ParseError`.

        The answer to a token that is refused is one to the call, which is not run then.
        """
        reply = parse_reply(line)
        body, answered = reply.body, b"" if reply.id is None else bytes(reply.id)
        if answered == PING_ID:
            return None
        if answered == AUTH_ID and self._keeper is not None and isinstance(body, Result | Failure):
            return self._keeper.shown.answered(body)
        return body


class PerCallLink:
    """Opens a connection for each call, and closes it when the result is there.

    `server` is a client endpoint string; raises `ValueError` if it is not
    valid. `max_reply` is in bytes. With `slots`, calls wait for one of these, and take turns by
    the callers that their options name. The addresses of the connections' two ends are kept in
    `own_ends`, for a server in the same process. With `beats`, silent connections are pinged.
    With `credentials`, each shows a token ahead of its call.
    Is a `taskd.client.link.Link`.
    """

    def __init__(
        self,
        reactor: Reactor,
        server: str,
        max_reply: int = MAX_REPLY,
        slots: ConnectionSlots | None = None,
        own_ends: set[object] | None = None,
        *,
        beats: bool = False,
        credentials: Credentials | None = None,
    ) -> None:
        self._beats = beats
        self.credentials = credentials
        self.reactor = reactor
        self.server = server
        self.slots = slots
        self._own_ends = own_ends
        self._connector = connector(reactor, server)
        self._max_reply = max_reply
        self._exchanges: set[_Exchange] = set()

    def read_again(self) -> None:
        """Use for new connections the certificates that are in their files now. Raises `ValueError`."""
        self._connector = connector(self.reactor, self.server)

    def call(
        self,
        call: Call,
        on_progress: OnProgress | None = None,
        dialect: Dialect = JSON_RPC,
        meter: Meter | None = None,
    ) -> _Exchange:
        """Connect, send, and wait. As `Link.call`."""
        exchange = _Exchange(self, call, on_progress, dialect)
        exchange.meter = meter
        if self._beats:
            exchange.beats(self.reactor, lambda: True)
        exchange.MAX_LENGTH = self._max_reply
        self._exchanges.add(exchange)
        exchange.start()
        return exchange

    def connect(self, exchange: _Exchange) -> Connecting:
        """Make the connection of an exchange."""
        return self._connector.connect(exchange)

    def is_open(self, exchange: _Exchange) -> object:
        """Note that a connection is made; returns its two ends, if these are of interest."""
        transport = exchange.transport
        if self._own_ends is None or not isinstance(transport, BufferedSocket):
            return None
        ends = ends_of(transport.getHandle())
        if ends is not None:  # a unix socket has no names, but tells its server whose it is
            self._own_ends.add(ends)
        return ends

    def is_closed(self, own_end: object, caller: str | None) -> None:
        """Note that a connection for a call of `caller` is closed, or could not be made."""
        if self._own_ends is not None:
            self._own_ends.discard(own_end)
        if self.slots is not None:
            self.slots.give_back(caller)

    def forget(self, exchange: _Exchange) -> None:
        """Forget a call that has ended."""
        self._exchanges.discard(exchange)

    def close(self) -> None:
        """Drop every connection. As `Link.close`."""
        for exchange in list(self._exchanges):
            exchange.close()
