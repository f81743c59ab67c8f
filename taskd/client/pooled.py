"""Connections that are kept, each with many calls in flight."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from twisted.python.failure import Failure as TwistedFailure

from taskd.client.answers import lost
from taskd.client.conversation import MAX_REPLY
from taskd.client.link import CLOSED, Connection, Meter, OnProgress, PendingCall
from taskd.client.pending import OnEvent, PendingCalls
from taskd.client.per_call import PerCallLink
from taskd.client.shared_call import SharedCall
from taskd.client.slots import ConnectionSlots
from taskd.client.tokens import Credentials
from taskd.client.twisted_tokens import TokenKeeper
from taskd.model import Call, Failure
from taskd.net.buffered_socket import BufferedSocket, StreamTransport
from taskd.net.client_transport import Connecting, connector
from taskd.net.party_keys import ends_of
from taskd.net.reactor import Reactor
from taskd.net.timers import TurnEnd
from taskd.protocol.dialects import JSON_RPC, Dialect
from taskd.protocol.framing import MAX_MESSAGE

__all__ = ["PooledLink"]

MAX_CALLS_PER_CONNECTION = 500
"""Calls on one connection: half of what the server lets one have in flight,
so that it never stops reading from us."""

ALONE = MAX_MESSAGE // 10
"""Bytes of a call that gets a connection of its own: on a shared one, others would wait behind it."""


class _Kept(Connection):
    """A connection with many calls in flight."""

    def __init__(self, link: PooledLink, keeper: TokenKeeper | None = None) -> None:
        self._link = link
        self._keeper = keeper
        self._token: str | None = None
        shown = None if keeper is None else keeper.shown
        self.calls = PendingCalls(self._send_line, MAX_CALLS_PER_CONNECTION, link.on_event, shown)
        self.connecting: Connecting | None = None
        self._unsent: list[bytes] = []
        self._ends: object = None

    def opened(self) -> None:
        self._ends = self._link.note_ends(self.transport)
        with suppress(OSError):  # a unix socket, which knows no delay
            self.transport.setTcpNoDelay(True)
        self.calls.opened(self._token)

    def begin(self) -> None:
        """Have the connection made, once there is a token if one is needed."""
        if self._keeper is None:
            self._connect()
        else:
            self._keeper.first(self._connect, self._denied)

    def _connect(self, token: str | None = None) -> None:
        self._token = token
        self.connecting = self._link.connect(self)

    def _denied(self, failure: Failure) -> None:
        self._link.forget(self)
        self.calls.deny(failure)

    def show(self, token: str) -> None:
        """Show another token, before the one that was shown expires."""
        self.calls.show(token)

    def _send_line(self, line: bytes) -> None:
        # What many callers ask in one turn of the reactor is sent in one piece.
        if not self._unsent:
            self._link.turn_end.call(self._send)
        self._unsent.append(line)

    def _send(self) -> None:
        if self._unsent:
            lines, self._unsent = self._unsent, []
            lines.append(b"")
            self.transport.write(b"\n".join(lines))
            if self.heartbeat is not None:
                self.heartbeat.sent()

    def close(self) -> None:
        """Fail the calls and close, behind what has been sent: that a call should be cancelled, say."""
        self._link.forget(self)
        self._stop_keeper()
        self._send()
        self._fail(CLOSED)  # before the transport reports an end of which the server would seem the cause
        if self.transport is not None:
            self.transport.loseConnection()
        elif self.connecting is not None:
            self.connecting.cancel()

    def lines_received(self, lines: list[bytes]) -> None:
        if self.heartbeat is not None:
            self.heartbeat.received()
        self.read(lines, self.calls.received)
        if self.calls.denial is not None and not len(self.calls):
            self.close()  # the server lets nobody in over it

    def drops(self, head: bytes) -> bool:
        """Fail the call alone whose reply is too long: others share the connection."""
        return self.calls.drop(head, lost(self._link.server, self.too_long, sent=True))

    def _stop_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.stop()

    def failed(self, reason: TwistedFailure) -> None:
        """Fail the calls: the connection could not be made, or is lost."""
        self._stop_keeper()
        self._link.forget(self, self._ends)
        self._fail(self.why(reason))

    def _fail(self, why: str) -> None:
        self.calls.fail(lambda sent: lost(self._link.server, why, sent=sent and not self.is_foreign))


class PooledLink:
    """Keeps connections, each with up to `MAX_CALLS_PER_CONNECTION` calls in flight.

    Calls are always sent as JSON-RPC; one of more than `alone` bytes gets a
    connection of its own, and is sent in its dialect. `server` is a client
    endpoint string; raises `ValueError` if it is not valid. `max_reply` is in
    bytes. `slots` is for those connections, `own_ends` for all, as for `PerCallLink`;
    `meters` makes a counter of replies for each shared connection; `on_event`
    gets the events that are pushed on those; with `beats`, silent connections are pinged.
    With `credentials`, each connection shows a token ahead of all calls.
    Is a `taskd.client.link.Link`.
    """

    def __init__(
        self,
        reactor: Reactor,
        server: str,
        max_reply: int = MAX_REPLY,
        slots: ConnectionSlots | None = None,
        own_ends: set[object] | None = None,
        alone: int = ALONE,
        meters: Callable[[], Meter] | None = None,
        on_event: OnEvent | None = None,
        *,
        beats: bool = False,
        credentials: Credentials | None = None,
    ) -> None:
        self._credentials = credentials
        self.server = server
        self.on_event = on_event
        self.turn_end = TurnEnd(reactor)
        self._reactor = reactor
        self._connector = connector(reactor, server)
        self._own_ends = own_ends
        self._per_call = PerCallLink(
            *(reactor, server, max_reply, slots, own_ends), beats=beats, credentials=credentials
        )
        self._beats = beats
        self._alone = alone
        self._meters = meters
        self._max_reply = max_reply
        self._connections: list[_Kept] = []

    def read_again(self) -> None:
        """Use for new connections the certificates that are in their files now. Raises `ValueError`."""
        self._per_call.read_again()
        self._connector = connector(self._reactor, self.server)

    def call(
        self,
        call: Call,
        on_progress: OnProgress | None = None,
        dialect: Dialect = JSON_RPC,
        meter: Meter | None = None,
    ) -> PendingCall:
        """Send over a kept connection, or a new one if all are full. As `Link.call`."""
        if call.size > self._alone:
            return self._per_call.call(call, on_progress, dialect, meter)
        calls = self._with_room()
        if calls is not None:
            return SharedCall(calls, call, on_progress)
        kept = self._new()
        pending = SharedCall(kept.calls, call, on_progress)
        kept.begin()
        return pending

    def _with_room(self) -> PendingCalls | None:
        """Return the calls of the first connection that is not full: the fewer, the less work."""
        for kept in self._connections:
            if len(kept.calls) < MAX_CALLS_PER_CONNECTION and kept.calls.takes_more:
                return kept.calls
        return None

    def _new(self) -> _Kept:
        keeper = None
        if self._credentials is not None:
            keeper = TokenKeeper(self._reactor, self._credentials, lambda token: kept.show(token))
        kept = _Kept(self, keeper)
        kept.MAX_LENGTH = self._max_reply
        kept.meter = self._meters() if self._meters is not None else None
        if self._beats:
            kept.beats(self._reactor, lambda: len(kept.calls))
        self._connections.append(kept)
        return kept

    def connect(self, connection: _Kept) -> Connecting:
        """Have a connection made."""
        return self._connector.connect(connection)

    def note_ends(self, transport: StreamTransport) -> object:
        """Keep the two ends of a new connection among `own_ends`, and return them."""
        ends = None
        if self._own_ends is not None and isinstance(transport, BufferedSocket):
            with suppress(OSError):  # it is gone already
                ends = ends_of(transport.getHandle())
            if ends is not None:
                self._own_ends.add(ends)
        return ends

    def forget(self, connection: _Kept, ends: object = None) -> None:
        """Use a connection no more: it is gone, once it has no `ends` any more."""
        if ends is not None and self._own_ends is not None:
            self._own_ends.discard(ends)
        if connection in self._connections:
            self._connections.remove(connection)

    def close(self) -> None:
        """Drop every connection. As `Link.close`."""
        self._per_call.close()
        for connection in list(self._connections):
            connection.close()
