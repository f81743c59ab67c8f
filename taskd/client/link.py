"""Links: ways to a task server, and the calls that are pending on them.

Every call ends with an `Outcome`, or with `Unreachable` if its connection
could not be made or was lost. Nothing else ever fails the Deferred of an outcome.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure as TwistedFailure
from zope.interface import implementer

from taskd.client.conversation import PING_LINE
from taskd.client.heartbeat import Heartbeat
from taskd.errors import ParseError
from taskd.model import Call, Outcome, Progress
from taskd.net.endpoints import keep_alive
from taskd.net.lines import LinearLineReceiver
from taskd.net.reactor import Reactor
from taskd.net.strangers import NOT_TLS, not_a_task_server
from taskd.net.tls import CertificateRefused
from taskd.protocol.dialects import JSON_RPC, Dialect

__all__ = [
    "CLOSED",
    "ENVELOPE",
    "Connection",
    "Link",
    "Meter",
    "Metered",
    "OnProgress",
    "PendingCall",
    "explain",
    "report",
]

OnProgress = Callable[[Progress], object]

ENVELOPE = 64 * 1024
"""Bytes that a reply's envelope may add to a result of the greatest length."""

CLOSED = "this client closed the connection"
"""Why a call failed whose link was closed."""

_log = Logger(namespace="taskd.client")


class PendingCall(Protocol):
    """A call that a link has taken, and that may not have ended yet.

    `cancel` and `detach` may be called at any time and in any order; what
    cannot have an effect any more has none.
    """

    @property
    def outcome(self) -> Deferred[Outcome]:
        """Fires once, with how the call ended.

        Fails with `Unreachable` only, whose data tells whether the call had been `sent`.
        """

    def cancel(self) -> None:
        """Have the task cancelled, and go on waiting: `outcome` fires with how it ended.

        A call that was not sent yet ends at once, with the failure `Cancelled`
        and ``{"was": "waiting"}``.
        """

    def detach(self) -> None:
        """Wait no more, but have the task run: `outcome` fires with `taskd.client.pending.NO_REPLY`.

        It fires now, or once the call is sent.
        """


class Metered(Protocol):
    """A connection whose long replies are counted."""

    def read_on(self) -> None:
        """Read again, after `Meter.grows` has returned False."""

    def drop_reply(self) -> None:
        """Do without the reply that is being received, if that is possible."""


class Meter(Protocol):
    """A counter of the replies of one connection, which may hold them up while memory is short."""

    def grows(self, connection: Metered, size: int, /) -> bool:
        """Count a reply that has `size` bytes so far; return whether to read on."""

    def ended(self) -> None:
        """Note that the reply that was counted will not be complete."""


class Link(Protocol):
    """One way to one task server."""

    def call(
        self,
        call: Call,
        on_progress: OnProgress | None = None,
        dialect: Dialect = JSON_RPC,
        meter: Meter | None = None,
    ) -> PendingCall:
        """Send a call, under an id that the link chooses. `on_progress` gets the progress of its task.

        If the call has a connection of its own, `dialect` is the one that the task
        server is asked in, and `meter` counts its reply; on shared connections all
        calls are JSON-RPC.
        """

    def close(self) -> None:
        """Drop the connections; calls that are pending on them fail with `Unreachable`.

        Their tasks go on, unless their `on_disconnect` is "cancel".
        """


def report(on_progress: OnProgress | None, progress: Progress) -> None:
    """Pass progress to a caller's callback. What the callback raises is logged, and harms no other call."""
    if on_progress is None:
        return
    try:
        on_progress(progress)
    except Exception:
        _log.failure("an on_progress callback raised")


def explain(reason: TwistedFailure) -> str:
    """Return the reason why a connection could not be made or was lost, in words."""
    error = reason.value
    if isinstance(error, CertificateRefused):
        return error.why
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        parts = [part[-1] for part in error.args[0] if part and part[-1]]
        if not NOT_TLS.isdisjoint(parts):
            return f"that port does not speak TLS ({parts[0]}): write tcp:HOST:PORT, or ws:// for a gateway"
        return f"TLS: {', '.join(parts) or 'the connection was cut off'}"
    if isinstance(error, ConnectError) and error.osError:
        return str(error.args[0] if error.args and isinstance(error.args[0], str) else error)
    if isinstance(error, ConnectionDone):
        return "it closed the connection"
    if isinstance(error, ConnectionLost):
        return "the connection broke"
    return str(error).rstrip(".") or type(error).__name__


@implementer(IHandshakeListener)
class Connection(LinearLineReceiver):
    """A connection to a task server; it `is_open` once a TLS handshake, if any, is done."""

    is_open = False
    fault = ""
    """What the server did wrong, if that is why the connection was aborted."""
    is_foreign = False
    """Whether the other end has turned out to be no task server, which has run nothing."""
    meter: Meter | None = None
    """Counts the replies; None if nobody counts them."""
    heartbeat: Heartbeat | None = None
    """Keeps the connection from being silent; None if that does not matter."""

    def beats(self, reactor: Reactor, is_awaiting: Callable[[], object]) -> None:
        """Have the connection pinged when it is silent although something is awaited."""
        self.heartbeat = Heartbeat(reactor, is_awaiting, self._ping, self.abort_for)

    def _ping(self) -> None:
        self.transport.write(PING_LINE + b"\n")

    def connectionMade(self) -> None:
        """Begin, unless TLS has yet to verify the peer."""
        super().connectionMade()
        if isinstance(self.transport, TLSMemoryBIOProtocol):
            return
        self.handshakeCompleted()

    def plainly_made(self, transport: Any) -> None:
        """Begin on a transport without TLS that sets its own socket options: `makeConnection` for short."""
        self.connected = 1
        self.transport = transport
        super().connectionMade()
        self.is_open = True
        self.opened()

    def handshakeCompleted(self) -> None:
        """Begin: the peer is who it should be."""
        keep_alive(self.transport.getHandle())
        self.is_open = True
        self.opened()

    def opened(self) -> None:
        """Send what waits to be sent."""
        raise NotImplementedError

    def failed(self, reason: TwistedFailure) -> None:
        """Fail the calls of this connection: it could not be made, or is lost."""
        raise NotImplementedError

    def line_grows(self, unfinished: int, is_new: bool) -> None:  # noqa: FBT001
        """Count a reply that is not complete, and read no more of it while memory is short."""
        if self.heartbeat is not None:
            self.heartbeat.received()
        if self.meter is not None and not self.meter.grows(self, unfinished):
            self.transport.pauseProducing()

    def read_on(self) -> None:
        """Read again. As `Metered.read_on`."""
        self.transport.resumeProducing()

    def drop_reply(self) -> None:
        """Read on: others need what follows. As `Metered.drop_reply`."""
        self.transport.resumeProducing()

    def connectionLost(self, reason: TwistedFailure) -> None:  # type: ignore[override]
        """Fail the calls of this connection."""
        if self.heartbeat is not None:
            self.heartbeat.stop()
        if self.meter is not None:
            self.meter.ended()
            self.meter = None
        self.failed(reason)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Abort: after a reply over the limit, nothing can be read."""
        self.abort_for(self.too_long)

    @property
    def too_long(self) -> str:
        """The reason why a reply over the limit cannot be had."""
        return f"its reply is over {self.MAX_LENGTH} bytes"

    def abort_for(self, fault: str) -> None:
        """Abort the connection because of what the server did."""
        self.fault = fault
        self.transport.abortConnection()

    def read(self, lines: list[bytes], received: Callable[[bytes], object]) -> None:
        """Pass on each line, up to one for which `received` raises `ParseError`: that one is refused."""
        for line in lines:
            try:
                received(line)
            except ParseError as error:
                self.refuse(line, error)
                return

    def refuse(self, line: bytes, error: ParseError) -> None:
        """Abort, since the server sent what is no reply."""
        foreign = not_a_task_server(line)
        self.is_foreign = bool(foreign)
        self.abort_for(foreign or f"it is no task server: {error}")

    def why(self, reason: TwistedFailure) -> str:
        """Return the reason why the connection could not be made or was lost."""
        if not self.fault:
            self.fault = not_a_task_server(self.cut_off())
            self.is_foreign = bool(self.fault)
        return self.fault or explain(reason)
