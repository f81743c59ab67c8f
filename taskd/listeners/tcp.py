"""The task server's port: Text over TCP, unix sockets and TLS."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from taskd.model import Outcome, Progress
from taskd.net.backpressure import MAX_UNSENT, STALL_GRACE, ReplySender
from taskd.net.lines import LinearLineReceiver
from taskd.protocol.framing import MAX_MESSAGE
from taskd.protocol.session import MAX_OUTSTANDING, Session, too_large
from taskd.server.task import Task
from taskd.server.task_server import TaskServer

__all__ = ["TaskFactory", "TaskProtocol", "TcpLimits"]

_log = Logger(namespace="taskd.tcp")


@dataclass(frozen=True, slots=True)
class TcpLimits:
    """What one connection may ask of the server.

    `max_message` is in bytes with the LF, `max_outstanding` in requests,
    `max_unsent` in bytes of replies, `stall_grace` in seconds.
    """

    max_message: int = MAX_MESSAGE
    max_outstanding: int = MAX_OUTSTANDING
    max_unsent: int = MAX_UNSENT
    stall_grace: float = STALL_GRACE


@implementer(IHalfCloseableProtocol)
class TaskProtocol(LinearLineReceiver):
    """One connection: lines in, replies out; the rules are `Session`'s.

    Is the `taskd.server.task.Caller` of its requests. Tasks go on when their
    connection is lost, unless they asked to be cancelled; their outcomes are
    then dropped.
    """

    factory: TaskFactory
    _reading = True
    _closed = False
    is_full = False
    """Whether the client leaves too much unread."""

    def connectionMade(self) -> None:
        """Begin to read."""
        factory = self.factory
        limits = factory.limits
        self.MAX_LENGTH = limits.max_message
        super().connectionMade()
        self._session: Session[Task] = Session(limits.max_outstanding, make_request=Task)
        self._sender = ReplySender(
            factory.clock,
            self.transport,
            self.transport.write,
            self._sender_changed,
            self._stalled,
            limit=limits.max_unsent,
            grace=limits.stall_grace,
        )
        factory.connections.add(self)
        factory.server.connections += 1

    # --- what comes in ---

    def lines_received(self, lines: list[bytes]) -> None:
        """Take in the messages of one read."""
        self._session.receive(lines)
        self.flush()

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answer what came before, then say so, then close."""
        self._session.refuse_rest(too_large(self.MAX_LENGTH))
        self.flush()

    def readConnectionLost(self) -> None:
        """The client has shut down its sending side: it still gets what it is owed."""
        self._session.end(self.unfinished)
        self._reading = False
        self.flush()
        # It may be gone altogether: that cannot be told apart before it is written to.
        self.factory.server.abandoned(list(self._session.in_flight))

    def writeConnectionLost(self) -> None:
        """Our sending side is shut down; that happens only when the connection ends."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The connection is gone; what still runs for it runs on, unless it is to be cancelled."""
        self._closed = True
        self._sender.close()
        self._check_full()
        self.factory.connection_lost(self)
        self.factory.server.connections -= 1
        self.factory.server.abandoned(list(self._session.in_flight))

    # --- `taskd.server.task.Caller` ---

    def find(self, request_id: Raw) -> Task | None:
        """The request in flight that has this id."""
        return self._session.find(request_id)

    def answered(self, request: Task, outcome: Outcome) -> None:
        """A request has ended."""
        self._session.answer(request, outcome)

    def reported(self, request: Task, progress: Progress) -> None:
        """A request is so far."""
        self._session.report(request, progress, congested=self._sender.congested)

    def flush(self) -> None:
        """Start what may be started, send what can be sent, and read or not accordingly."""
        if self._closed:
            return
        session = self._session
        while requests := session.requests():
            self.factory.server.submit(requests, self)
        self._send(session.take())

    # --- inside ---

    def _send(self, messages: list[bytes]) -> None:
        if messages:
            messages.append(b"")
            self._sender.send(b"\n".join(messages))
        self._check_full()
        session = self._session
        if session.finished and self._sender.empty:
            self._sender.end()
            self.transport.loseConnection()
        elif self._reading is not (session.wants_data and not self._sender.full):
            self._regulate()

    def _check_full(self) -> None:
        was_full, self.is_full = self.is_full, self._sender.full
        if was_full and not self.is_full:
            self.factory.server.resume()

    def _regulate(self) -> None:
        """Read from the client, or let it wait."""
        if self._session.closing:
            return  # there is nothing more to be read
        self._reading = not self._reading
        if self._reading:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()

    def _sender_changed(self) -> None:
        if not self._closed:
            self._send(self._session.take(resumed=True))

    def _stalled(self) -> None:
        _log.warn(
            "{peer} has not read its replies for {grace} s: disconnected",
            peer=self.transport.getPeer(),
            grace=self.factory.limits.stall_grace,
        )
        self.transport.abortConnection()

    def finish(self) -> None:
        """The server ends: close, once all that has come is answered and sent."""
        if not self._closed:
            self._session.end()
            self.flush()


class TaskFactory(ServerFactory):
    """Makes a `TaskProtocol` for each connection to `server`."""

    noisy = False

    def __init__(self, clock: IReactorTime, server: TaskServer, limits: TcpLimits = TcpLimits()) -> None:
        self.clock = clock
        self.server = server
        self.limits = limits
        self.connections: set[TaskProtocol] = set()
        self._finished: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> TaskProtocol:  # type: ignore[override]
        """A protocol for one connection."""
        protocol = TaskProtocol()
        protocol.factory = self
        return protocol

    def finish(self) -> Deferred[None]:
        """Close every connection behind what it is owed; fires when all are closed. To be called once."""
        self._finished = Deferred()
        for connection in list(self.connections):
            connection.finish()
        self._check_finished()
        return self._finished

    def connection_lost(self, connection: TaskProtocol) -> None:
        """One connection is gone."""
        self.connections.discard(connection)
        self._check_finished()

    def _check_finished(self) -> None:
        if self._finished is not None and not self.connections and not self._finished.called:
            self._finished.callback(None)

    def abort(self) -> None:
        """Drop every connection that is left."""
        for connection in list(self.connections):
            connection.transport.abortConnection()
