"""A connection to a task server over which the events of many stored tasks come, for those who watch them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgspec
from msgspec import Raw, structs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure as TwistedFailure

from taskd.client.answers import lost
from taskd.client.link import Connection
from taskd.client.pending import OnEvent, PendingCalls
from taskd.client.shared_call import SharedCall
from taskd.client.tokens import Credentials
from taskd.client.twisted_tokens import TokenKeeper
from taskd.model import Call, Failure, Grant, Options, Outcome
from taskd.net.buffered_socket import BufferedSocket
from taskd.net.client_transport import Connecting, connector
from taskd.net.party_keys import ends_of
from taskd.net.reactor import Reactor

__all__ = ["EventLink"]

MAX_CALLS = 500
"""Calls in flight at once: half of what the server lets one connection have."""


class _EventConnection(Connection):
    """The connection of an `EventLink`."""

    def __init__(self, link: EventLink, keeper: TokenKeeper | None = None) -> None:
        self._link = link
        self._keeper = keeper
        self._token: str | None = None
        shown = None if keeper is None else keeper.shown
        self.calls = PendingCalls(self._send_line, MAX_CALLS, link.on_event, shown)
        self.connecting: Connecting | None = None
        self._own_end: object = None

    def opened(self) -> None:
        if isinstance(self.transport, BufferedSocket):
            with suppress(OSError):  # a unix socket, which has no names and knows no delay
                self._own_end = ends_of(self.transport.getHandle())
                self.transport.setTcpNoDelay(True)
        if self._own_end:
            self._link.own_ends.add(self._own_end)
        self.calls.opened(self._token)

    def _send_line(self, line: bytes) -> None:
        self.transport.write(line + b"\n")
        if self.heartbeat is not None:
            self.heartbeat.sent()

    def drops(self, head: bytes) -> bool:
        """Fail the call alone whose reply is too long: others share the connection."""
        return self.calls.drop(head, lost(self._link.server, self.too_long, sent=True))

    def lines_received(self, lines: list[bytes]) -> None:
        if self.heartbeat is not None:
            self.heartbeat.received()
        self.read(lines, self.calls.received)
        if self.calls.denial is not None and not len(self.calls):
            self.close()  # the server lets nobody in over it
            self._link.is_lost(self)

    def begin(self) -> None:
        """Have the connection made, once there is a token if one is needed."""
        if self._keeper is None:
            self._connect()
        else:
            self._keeper.first(self._connect, self._denied)

    def _connect(self, token: str | None = None) -> None:
        self._token = token
        self.connecting = self._link.connect(self)

    def show(self, token: str) -> None:
        """Show another token, before the one that was shown expires."""
        self.calls.show(token)

    def _denied(self, failure: Failure) -> None:
        self.calls.deny(failure)
        self._link.is_lost(self)

    def failed(self, reason: TwistedFailure) -> None:
        """Fail the calls: the connection could not be made, or is lost."""
        self._stop_keeper()
        self._link.own_ends.discard(self._own_end)
        why = self.why(reason)
        self.calls.fail(lambda sent: lost(self._link.server, why, sent=sent))
        self._link.is_lost(self)

    def _stop_keeper(self) -> None:
        if self._keeper is not None:
            self._keeper.stop()

    def close(self) -> None:
        """Close the connection."""
        self._stop_keeper()
        if self.transport is not None:
            self.transport.loseConnection()
        elif self.connecting is not None:
            self.connecting.cancel()


class EventLink:
    """A connection that is made when it is first needed, and `on_event` gets its events.

    `on_lost` is called when it could not be made, or is lost; the next call makes another. `server`
    is a client endpoint string; raises `ValueError` if it is not valid. The addresses of its two ends
    are kept in `own_ends`, for a server in the same process. With `beats`, it is pinged when it is silent.
    With `credentials`, it shows a token ahead of all calls.
    """

    def __init__(
        self,
        reactor: Reactor,
        server: str,
        max_reply: int,
        own_ends: set[object],
        on_event: OnEvent,
        on_lost: Callable[[], object],
        *,
        beats: bool = False,
        credentials: Credentials | None = None,
    ) -> None:
        self._beats = beats
        self._credentials = credentials
        self.server = server
        self.own_ends = own_ends
        self.on_event = on_event
        self._reactor = reactor
        self._max_reply = max_reply
        self._on_lost = on_lost
        self._connector = connector(reactor, server)
        self._connection: _EventConnection | None = None

    def read_again(self) -> None:
        """Use for new connections the certificates that are in their files now. Raises `ValueError`."""
        self._connector = connector(self._reactor, self.server)

    def call(self, method: str, params: object, grant: Grant | None = None) -> Deferred[Outcome]:
        """Call one of the server's own methods for whoever watches, with what `grant` permits. As `send`."""
        options = _FOR_OTHERS if grant is None else structs.replace(_FOR_OTHERS, grant=grant)
        return self.send(Call(method, Raw(msgspec.json.encode(params)), options))

    def send(self, call: Call) -> Deferred[Outcome]:
        """Send a call; fails with `Unreachable` if the connection cannot be made, or is lost."""
        connection = self._connection
        if connection is not None and connection.calls.denial is None:
            return SharedCall(connection.calls, call, None).outcome
        if connection is not None:
            self.is_lost(connection)
        connection = self._connection = self._new()
        outcome = SharedCall(connection.calls, call, None).outcome
        connection.begin()
        return outcome

    def _new(self) -> _EventConnection:
        keeper = None
        if self._credentials is not None:
            keeper = TokenKeeper(self._reactor, self._credentials, lambda token: connection.show(token))
        connection = _EventConnection(self, keeper)
        connection.MAX_LENGTH = self._max_reply
        if self._beats:
            connection.beats(self._reactor, lambda: True)
        return connection

    def connect(self, connection: _EventConnection) -> Connecting:
        """Have a connection made."""
        return self._connector.connect(connection)

    def is_lost(self, connection: _EventConnection) -> None:
        """Note that a connection is gone."""
        if self._connection is connection:
            self._connection = None
            self._on_lost()

    def close(self) -> None:
        """Close the connection; nothing comes of it any more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


_FOR_OTHERS = Options(caller="gateway events")
"""What shows the task server that these calls are for whoever watches, and not for this machine's user."""
