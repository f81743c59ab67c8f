"""Ways to a task server.

A `Link` takes a `Call` and gives a Deferred of its `Outcome`. The Deferred
fails with nothing but `Unreachable` (and `CancelledError` where it was
cancelled); whatever else goes wrong is an outcome too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure as TwistedFailure
from zope.interface import implementer

from taskd.errors import Unreachable
from taskd.model import Call, Outcome, Progress
from taskd.net.endpoints import keep_alive
from taskd.net.lines import LinearLineReceiver
from taskd.net.tls import CertificateRefused

__all__ = ["MAX_REPLY", "Connection", "Link", "OnProgress", "explain", "factory_for", "lost", "report"]

OnProgress = Callable[[Progress], object]

ENVELOPE = 64 * 1024
"""Bytes that a reply's envelope may add to a result of the greatest length."""

MAX_REPLY = 256 * 1024 * 1024
"""Bytes of the longest reply: a client trusts the server that it chose, up to its own memory."""

_log = Logger(namespace="taskd.client")


class Link(Protocol):
    """One way to one task server."""

    def call(self, call: Call, on_progress: OnProgress | None = None) -> Deferred[Outcome]:
        """Send the call; the Deferred fires with how it ended.

        Fails with `Unreachable`, which tells whether the call had been sent.
        Cancelling ends the wait, and the task: one that was sent is asked to
        be cancelled.
        """

    def ask_to_cancel(self, done: Deferred[Outcome]) -> bool:
        """Have the task be cancelled, and go on waiting for how it ends.

        `done` is what `call` gave; False where it is none that waits here.
        Where the call had not been sent, it fails with `CancelledError` at once.
        """

    def let_go(self, done: Deferred[Outcome]) -> bool:
        """Nobody waits for the outcome any more, but the task is to be run.

        Returns as `ask_to_cancel`; `done` fires with some outcome, some time.
        """

    def close(self) -> None:
        """Drop the connections; what waits on them fails. No task is cancelled by that."""


def report(on_progress: OnProgress | None, progress: Progress) -> None:
    """Tell a caller how far its task is. What its callback raises is logged, and harms nobody."""
    if on_progress is None:
        return
    try:
        on_progress(progress)
    except Exception:
        _log.failure("an on_progress callback raised")


def explain(reason: TwistedFailure) -> str:
    """Why a connection could not be made or was lost, in words."""
    error = reason.value
    if isinstance(error, CertificateRefused):
        return error.why
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        parts = [part[-1] for part in error.args[0] if part and part[-1]]
        return f"TLS: {', '.join(parts) or 'the connection was cut off'}"
    if isinstance(error, ConnectError) and error.osError:
        return str(error.args[0] if error.args and isinstance(error.args[0], str) else error)
    if isinstance(error, ConnectionDone):
        return "it closed the connection"
    if isinstance(error, ConnectionLost):
        return "the connection broke"
    return str(error).rstrip(".") or type(error).__name__


def lost(server: str, why: str, *, sent: bool) -> Unreachable:
    """The error of a call whose connection could not be made or was lost."""
    what = "was lost before it answered; the task may have run" if sent else "cannot be reached"
    return Unreachable(f"the task server {server} {what}: {why}", server=server, sent=sent)


@implementer(IHandshakeListener)
class Connection(LinearLineReceiver):
    """A connection to a task server; it `is_open` once a TLS handshake, if any, is done."""

    is_open = False
    too_long = False

    def connectionMade(self) -> None:
        """Begin, unless TLS has still to find out who the peer is."""
        super().connectionMade()
        if isinstance(self.transport, TLSMemoryBIOProtocol):
            return
        self.handshakeCompleted()

    def plainly_made(self, transport: Any) -> None:
        """The short way of `makeConnection`, for a transport without TLS that sees to the rest itself."""
        self.connected = 1
        self.transport = transport
        super().connectionMade()
        self.is_open = True
        self.opened()

    def handshakeCompleted(self) -> None:
        """The peer is who it should be: begin."""
        keep_alive(self.transport.getHandle())
        self.is_open = True
        self.opened()

    def opened(self) -> None:
        """Send what waits to be sent."""
        raise NotImplementedError

    def failed(self, reason: TwistedFailure) -> None:
        """The connection could not be made, or is lost."""
        raise NotImplementedError

    def connectionLost(self, reason: TwistedFailure) -> None:  # type: ignore[override]
        """It is lost."""
        self.failed(reason)

    def lineLengthExceeded(self, line: bytes) -> None:
        """A reply is over the limit: nothing after it can be told apart."""
        self.too_long = True
        self.transport.abortConnection()

    def why(self, reason: TwistedFailure) -> str:
        """Why the connection could not be made or was lost."""
        return f"its reply is over {self.MAX_LENGTH} bytes" if self.too_long else explain(reason)


_Connection = TypeVar("_Connection", bound=Connection)


def factory_for(connection: _Connection) -> Factory[_Connection]:
    """A factory for this one connection, which does not log its coming and going."""
    factory = Factory.forProtocol(lambda: connection)
    factory.noisy = False
    return factory
